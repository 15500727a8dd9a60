//! Names for addresses: the image's symbols, demangled, found by name or by address.
use std::fmt;

/// How far a symbol without a size reaches, in bytes.
const REACH: u64 = 4096;

/// A named piece of the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Symbol {
    /// Virtual address.
    pub address: u64,
    /// Bytes, 0 if unknown.
    pub size: u64,
    /// The name for people, demangled and without hashes.
    pub name: String,
    /// The name in the image, if it differs.
    pub mangled: Option<String>,
}

/// Why a name is not the name of one address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SymbolError {
    /// Nothing has this name.
    #[error(
        "there is no symbol named '{0}'; 'symbols PATTERN' searches them, and hexadecimal numbers begin with 0x"
    )]
    Unknown(String),
    /// Several have it.
    #[error("'{name}' could be {candidates}; write more of the name")]
    Ambiguous {
        /// The name.
        name: String,
        /// Whole names, a few of them.
        candidates: String,
    },
}

/// All symbols of an image.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// By address; at one address those with a size first.
    sorted: Vec<Symbol>,
}

/// An address as name and offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label<'a> {
    /// What it lies in.
    pub symbol: &'a Symbol,
    /// How far from its start.
    pub offset: u64,
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => f.write_str(&self.symbol.name),
            offset => write!(f, "{}+{offset:#x}", self.symbol.name),
        }
    }
}

impl Symbols {
    /// Takes symbols as address, size and (mangled) name.
    #[must_use]
    pub fn new<'a>(symbols: impl IntoIterator<Item = (u64, u64, &'a str)>) -> Self {
        let mut sorted: Vec<Symbol> = symbols
            .into_iter()
            .map(|(address, size, raw)| {
                let name = format!("{:#}", rustc_demangle::demangle(raw));
                let mangled = (name != raw).then(|| raw.to_owned());
                Symbol { address, size, name, mangled }
            })
            .collect();
        sorted.sort_by(|a, b| (a.address, a.size == 0, &a.name).cmp(&(b.address, b.size == 0, &b.name)));
        Self { sorted }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether the image has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The address of the symbol called `name`: whole, mangled, or as the last parts of a path (`Line::print`).
    ///
    /// # Errors
    /// [`SymbolError`] when not exactly one address fits.
    pub fn find(&self, name: &str) -> Result<u64, SymbolError> {
        let whole = |s: &&Symbol| s.name == name || s.mangled.as_deref() == Some(name);
        let tail = |s: &&Symbol| {
            s.name.strip_suffix(name).is_some_and(|head| head.is_empty() || head.ends_with("::"))
        };
        let mut found: Vec<&Symbol> = self.sorted.iter().filter(whole).collect();
        if found.is_empty() {
            found = self.sorted.iter().filter(tail).collect();
        }
        let first = found.first().ok_or_else(|| SymbolError::Unknown(name.to_owned()))?;
        if found.iter().all(|s| s.address == first.address) {
            return Ok(first.address);
        }
        let mut names: Vec<String> =
            found.iter().take(4).map(|s| format!("'{}' at {:#x}", s.name, s.address)).collect();
        if found.len() > names.len() {
            names.push(format!("{} more", found.len() - names.len()));
        }
        Err(SymbolError::Ambiguous { name: name.to_owned(), candidates: names.join(" or ") })
    }

    /// What `address` lies in. A symbol without a size reaches to the next one, but not far.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Label<'_>> {
        let end = self.sorted.partition_point(|s| s.address <= address);
        let last = self.sorted[..end].last()?;
        let start = self.sorted[..end].partition_point(|s| s.address < last.address);
        self.sorted[start..end].iter().find_map(|symbol| {
            let offset = address - symbol.address;
            let reach = if symbol.size == 0 { REACH } else { symbol.size };
            (offset < reach).then_some(Label { symbol, offset })
        })
    }

    /// The name of exactly this address.
    #[must_use]
    pub fn exactly(&self, address: u64) -> Option<&Symbol> {
        self.at(address).filter(|label| label.offset == 0).map(|label| label.symbol)
    }

    /// `name+0x10`, if `address` lies in a symbol.
    #[must_use]
    pub fn label(&self, address: u64) -> Option<String> {
        self.at(address).map(|label| label.to_string())
    }

    /// Symbols whose name holds `pattern`, whatever the case; all for an empty one.
    pub fn matching<'a>(&'a self, pattern: &str) -> impl Iterator<Item = &'a Symbol> {
        let pattern = pattern.to_lowercase();
        self.sorted.iter().filter(move |s| {
            s.name.to_lowercase().contains(&pattern)
                || s.mangled.as_ref().is_some_and(|m| m.to_lowercase().contains(&pattern))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A few symbols as a linker leaves them.
    pub(in crate::debugger) fn sample() -> Symbols {
        Symbols::new([
            (0x20_0000, 0, "pvh_start"),
            (0x20_0061, 0, "boot_long"),
            (0x20_0090, 0xa0, "workload_main"),
            (0x20_15c0, 0x40, "_ZN5guest3pic4init17hb0810b60ecdeffbcE"),
            (0x20_1f70, 0x100, "_ZN5guest4trap4init17h02f0f27543db7ee6E"),
            (0x20_22f0, 0x80, "_ZN5guest7console4Line5print17h64e7a1f115895711E"),
            (0x20_26d0, 0xd0, "guest_start"),
        ])
    }

    #[test]
    fn rust_names_lose_their_mangling_and_hash() {
        let symbols = sample();
        assert_eq!(symbols.label(0x20_22f0).as_deref(), Some("guest::console::Line::print"));
        assert_eq!(symbols.find("guest::console::Line::print"), Ok(0x20_22f0));
        assert_eq!(symbols.find("Line::print"), Ok(0x20_22f0));
        assert_eq!(symbols.find("_ZN5guest3pic4init17hb0810b60ecdeffbcE"), Ok(0x20_15c0));
    }

    #[test]
    fn a_name_must_fit_one_address() {
        let symbols = sample();
        assert_eq!(symbols.find("pic::init"), Ok(0x20_15c0));
        let ambiguous = symbols.find("init").unwrap_err().to_string();
        assert!(ambiguous.contains("'guest::pic::init' at 0x2015c0 or 'guest::trap::init'"), "{ambiguous}");
        // `nit` is no part of a path.
        assert_eq!(symbols.find("nit"), Err(SymbolError::Unknown("nit".into())));
    }

    #[test]
    fn addresses_lie_in_symbols_as_far_as_these_reach() {
        let symbols = sample();
        assert_eq!(symbols.label(0x1f_ffff), None);
        assert_eq!(symbols.label(0x20_0010).as_deref(), Some("pvh_start+0x10"));
        assert_eq!(symbols.label(0x20_0061).as_deref(), Some("boot_long"));
        assert_eq!(symbols.label(0x20_012f).as_deref(), Some("workload_main+0x9f"));
        assert_eq!(symbols.label(0x20_0130), None);
        assert_eq!(symbols.label(u64::MAX), None);
        assert_eq!(Symbols::default().label(5), None);
    }

    #[test]
    fn patterns_ignore_case() {
        let symbols = sample();
        let names: Vec<_> = symbols.matching("LINE").map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["guest::console::Line::print"]);
        assert_eq!(symbols.matching("").count(), symbols.len());
    }
}
