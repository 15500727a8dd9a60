//! The translator's techniques, each of which can be left out, so that a measurement shows what it buys.
//!
//! They are left out when code is made, or where links and jumps are remembered; nothing asks for them while translated
//! code runs. A guest's results are the same without any of them.
use std::fmt;
use std::str::FromStr;

/// One technique of the translator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Technique {
    /// Blocks jump straight to one another, and loops to their start.
    Chaining,
    /// Translated code looks up computed targets by itself.
    JumpCache,
    /// Guest returns are host returns.
    ReturnStack,
    /// Blocks go on past conditional branches that are not taken.
    Superblocks,
    /// Loops of one block make several rounds between looks at windows and for attention.
    Unrolling,
    /// Loops keep what their accesses are reached by in registers that they do not use.
    Lending,
    /// Memory is reached through windows.
    Windows,
    /// One check of a window answers for several accesses.
    Groups,
    /// Memory is reached by translated code at all.
    InlineTlb,
    /// Guest registers stay in host registers from one instruction to the next.
    Pinning,
    /// Flags stay in the host's flags, and those that nobody reads are not kept.
    LazyFlags,
    /// SSE and AVX instructions run as themselves.
    NativeVectors,
    /// System instructions that need no call.
    InlineSystem,
}

impl Technique {
    /// All techniques, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Chaining,
        Self::JumpCache,
        Self::ReturnStack,
        Self::Superblocks,
        Self::Unrolling,
        Self::Lending,
        Self::Windows,
        Self::Groups,
        Self::InlineTlb,
        Self::Pinning,
        Self::LazyFlags,
        Self::NativeVectors,
        Self::InlineSystem,
    ];

    /// The word for it on the command line and in CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chaining => "chaining",
            Self::JumpCache => "jump-cache",
            Self::ReturnStack => "return-stack",
            Self::Superblocks => "superblocks",
            Self::Unrolling => "unrolling",
            Self::Lending => "lending",
            Self::Windows => "windows",
            Self::Groups => "groups",
            Self::InlineTlb => "inline-tlb",
            Self::Pinning => "pinning",
            Self::LazyFlags => "lazy-flags",
            Self::NativeVectors => "native-vectors",
            Self::InlineSystem => "inline-system",
        }
    }

    /// One line that says what it is.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Chaining => "blocks jump straight to one another, and loops to their start",
            Self::JumpCache => "translated code looks up computed targets by itself",
            Self::ReturnStack => "guest returns are host returns",
            Self::Superblocks => "blocks go on past conditional branches that are not taken",
            Self::Unrolling => "loops of one block make several rounds between looks for attention",
            Self::Lending => "loops keep what reaches memory in registers that they do not use",
            Self::Windows => "memory is reached through windows",
            Self::Groups => "one check of a window answers for several accesses",
            Self::InlineTlb => "translated code reaches memory by itself, not the interpreter",
            Self::Pinning => "guest registers stay in host registers between instructions",
            Self::LazyFlags => "flags stay in the host's flags, and unread ones are not kept",
            Self::NativeVectors => "SSE and AVX instructions run as themselves",
            Self::InlineSystem => "system instructions are done where they stand, if they need no call",
        }
    }
}

/// Techniques that the translator goes without; as text, their names with commas between, which are read with `+`
/// between too, and [`Without::ALL`] for all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Without(u16);

impl Without {
    /// The word for all techniques.
    pub const ALL: &str = "all";
    /// The full translator.
    pub const NOTHING: Self = Self(0);
    /// No technique at all.
    pub const EVERYTHING: Self = Self((1 << Technique::ALL.len()) - 1);

    /// Without this one alone.
    #[must_use]
    pub const fn only(technique: Technique) -> Self {
        Self(1 << technique as u8)
    }

    /// Whether this one is left out.
    #[inline]
    #[must_use]
    pub const fn has(self, technique: Technique) -> bool {
        self.0 & Self::only(technique).0 != 0
    }

    /// How many are left out.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether nothing is left out.
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Technique::ALL.into_iter().filter(|&one| self.has(one)).map(Technique::name).collect();
        f.pad(&names.join(","))
    }
}

/// A word that names no technique.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no technique '{word}'; choose from {}, or all", Without::EVERYTHING.to_string().replace(',', ", "))]
pub struct UnknownTechnique {
    /// The word.
    pub word: String,
}

impl FromStr for Without {
    type Err = UnknownTechnique;

    fn from_str(text: &str) -> Result<Self, UnknownTechnique> {
        let mut set = Self::NOTHING;
        for word in text.split([',', '+']).map(str::trim) {
            if word == Self::ALL {
                set = Self::EVERYTHING;
                continue;
            }
            let found = Technique::ALL.into_iter().find(|technique| technique.name() == word);
            set.0 |= Self::only(found.ok_or_else(|| UnknownTechnique { word: word.to_owned() })?).0;
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_shown_by_name() {
        let set: Without = "windows,chaining".parse().unwrap();
        assert!(set.has(Technique::Windows) && set.has(Technique::Chaining) && !set.has(Technique::Groups));
        assert_eq!(set.to_string(), "chaining,windows");
        let all: Without = Without::EVERYTHING.to_string().parse().unwrap();
        assert_eq!(all, Without::EVERYTHING);
        assert_eq!("all".parse(), Ok(Without::EVERYTHING));
        for same in ["windows+chaining", " chaining , windows", "windows + chaining+windows"] {
            assert_eq!(same.parse(), Ok(set), "{same}");
        }
        assert!(Technique::ALL.into_iter().all(|one| all.has(one)));
        assert!(Without::NOTHING.is_nothing() && Without::default().is_nothing());
        for wrong in ["", "chain", "chaining,", "chaining windows", "Chaining", "each"] {
            let message = wrong.parse::<Without>().unwrap_err().to_string();
            assert!(message.contains("lazy-flags") && message.contains("chaining, jump-cache"), "{message}");
        }
    }
}
