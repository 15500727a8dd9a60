//! Who executes a guest and what it sees, as the command line names it: by a mode, or by engine and interface.
use super::choices;
use super::error::CliError;
use crate::engine::{self, Engine, Interface, Pair};
use crate::machine::EmuEngine;
use clap::{Args, ValueEnum};

/// A mode, as clap knows it.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Mode {
    /// full emulation
    Emu,
    /// the guest patched and run natively at ring 3
    Pv,
    /// hardware-assisted, through /dev/kvm
    Kvm,
}

impl From<Mode> for engine::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Emu => Self::Emu,
            Mode::Pv => Self::Pv,
            Mode::Kvm => Self::Kvm,
        }
    }
}

/// An engine, as the command line names it: those of the emulator have names of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NamedEngine {
    engine: Engine,
    /// Which one, if it is the emulator.
    emulator: Option<EmuEngine>,
}

impl NamedEngine {
    /// The engine of this name; `emu` is the emulator's default one.
    pub(super) fn find(name: &str) -> Option<Self> {
        let emulator = EmuEngine::find(name);
        let engine = if emulator.is_some() { Engine::Emu } else { Engine::find(name)? };
        Some(Self { engine, emulator })
    }
}

#[derive(Args)]
pub(super) struct PairArguments {
    /// A name for who executes the guest and what it sees [default: emu]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Who executes the guest, where no mode says it (or, with --mode emu, which emulator) [default: emu]
    #[arg(long, value_name = "ENGINE", value_parser = choices::OneEngine)]
    engine: Option<NamedEngine>,
    /// What the guest sees, where no mode says it [default: that of the engine's mode]
    #[arg(long, value_name = "INTERFACE", value_parser = choices::interface())]
    interface: Option<Interface>,
}

impl PairArguments {
    /// The pair, and the emulator, if the person chose one.
    pub(super) fn choice(&self) -> Result<(Pair, Option<EmuEngine>), CliError> {
        let named = self.mode.map(engine::Mode::from);
        let engine = match (self.engine, named) {
            (Some(chosen), _) => chosen.engine,
            (None, mode) => mode.unwrap_or(engine::Mode::Emu).pair().engine,
        };
        let interface = self.interface.unwrap_or(engine.mode().pair().interface);
        let pair = Pair { engine, interface };
        if let Some(mode) = named.filter(|mode| mode.pair() != pair) {
            return Err(CliError::Usage(match self.engine {
                Some(_) if mode.pair().engine != engine => format!(
                    "--engine {} goes with --mode {}, and not with --mode {mode}; leave one of them out",
                    engine.name(),
                    engine.mode()
                ),
                _ => format!(
                    "--mode {mode} is --engine {} with --interface {}; for another interface leave --mode out and use \
                     --engine",
                    mode.pair().engine.name(),
                    mode.pair().interface.name()
                ),
            }));
        }
        check(pair)?;
        Ok((pair, self.engine.and_then(|chosen| chosen.emulator)))
    }
}

/// Refuses a pair that cannot be.
pub(super) fn check(pair: Pair) -> Result<(), CliError> {
    pair.objection().map_or(Ok(()), |reason| {
        let (engine, interface) = (pair.engine.name(), pair.interface.name());
        Err(CliError::Usage(format!(
            "engine {engine} with interface {interface} cannot be: {reason}; 'trivisor doctor' lists the pairs that can"
        )))
    })
}
