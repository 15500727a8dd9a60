//! The two questions that are kept apart: who executes the guest's instructions, and what the guest sees.
//!
//! An [`Engine`] and an [`Interface`] are a [`Pair`]; the three presets that users meet ([`super::Mode`]) are names of
//! pairs. Not every pair can be; [`Pair::objection`] says why.
use super::Mode;
use std::fmt;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Engine {
    /// The translator, or the interpreter.
    Emu,
    /// The host's CPU, directly, in ring 3 of a sandboxed process.
    Direct,
    /// The kernel's /dev/kvm.
    Kvm,
}

impl Engine {
    /// All engines, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Emu, Self::Direct, Self::Kvm];

    /// The word for it on the command line. In CSV, where `emu` has engines of its own, those have other names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emu => "emu",
            Self::Direct => "direct",
            Self::Kvm => "kvm",
        }
    }

    /// The engine of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The mode that is named after it, or that it is known by.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::Emu => Mode::Emu,
            Self::Direct => Mode::Pv,
            Self::Kvm => Mode::Kvm,
        }
    }
}

/// What the guest sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Interface {
    /// Bare hardware, as far as the engine can make it look so.
    None,
    /// The same: its sensitive instructions are replaced behind its back.
    Patched,
    /// Hypercalls that it is told of and may use. On the engine [`Engine::Direct`] it is patched, too.
    Pv,
}

impl Interface {
    /// All interfaces, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::None, Self::Patched, Self::Pv];

    /// The word for it on the command line and in CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Patched => "patched",
            Self::Pv => "pv",
        }
    }

    /// The interface of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interface| interface.name() == name)
    }
}

/// An engine with an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Pair {
    /// Who executes the guest's instructions.
    pub engine: Engine,
    /// What the guest sees.
    pub interface: Interface,
}

impl Pair {
    /// Every engine with every interface, also the pairs that cannot be.
    pub fn all() -> impl Iterator<Item = Self> {
        let with = |engine| Interface::ALL.into_iter().map(move |interface| Self { engine, interface });
        Engine::ALL.into_iter().flat_map(with)
    }

    /// The pair that is written as `engine/interface`.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let (engine, interface) = name.split_once('/')?;
        Some(Self { engine: Engine::find(engine)?, interface: Interface::find(interface)? })
    }

    /// The mode that is a name of this pair.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.pair() == self)
    }

    /// Why there can be no such pair, on whatever host.
    #[must_use]
    pub const fn objection(self) -> Option<&'static str> {
        match (self.engine, self.interface) {
            (Engine::Emu, Interface::Patched) => Some(
                "the emulator makes the right thing of each sensitive instruction as it is, so nothing is left to \
                 patch; and a patch leads to code of the monitor, which the guest's own page tables do not map",
            ),
            (Engine::Kvm, Interface::Patched) => Some(
                "KVM makes the right thing of each sensitive instruction as it is, so nothing is left to patch; and \
                 a patch leads to code of the monitor, which the guest's own page tables do not map",
            ),
            _ => None,
        }
    }
}

impl From<Mode> for Pair {
    fn from(mode: Mode) -> Self {
        mode.pair()
    }
}

/// The name of the mode, or `engine/interface` if it has none.
impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode() {
            Some(mode) => f.pad(mode.name()),
            None => f.pad(&format!("{}/{}", self.engine.name(), self.interface.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_names_of_pairs_that_can_be() {
        for mode in Mode::ALL {
            assert_eq!(mode.pair().mode(), Some(mode));
            assert_eq!(mode.pair().objection(), None);
            assert_eq!(mode.pair().to_string(), mode.name());
            assert_eq!(mode.pair().engine.mode(), mode);
        }
    }

    #[test]
    fn each_pair_has_one_name_by_which_it_is_found() {
        let written = |pair: Pair| format!("{}/{}", pair.engine.name(), pair.interface.name());
        assert_eq!(Pair::all().count(), 9);
        for pair in Pair::all() {
            assert_eq!(Pair::find(&written(pair)), Some(pair));
        }
        for wrong in ["emu", "emu/", "emu/single", "pv/none", "direct/none/none"] {
            assert_eq!(Pair::find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_direct_engine_can_be_patched_for() {
        let impossible: Vec<_> = Pair::all().filter(|pair| pair.objection().is_some()).collect();
        assert_eq!(
            impossible.iter().map(Pair::to_string).collect::<Vec<_>>(),
            ["emu/patched", "kvm/patched"]
        );
    }
}
