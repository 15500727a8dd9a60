//! The `emu` mode: vCPUs that the translator or the interpreter runs.
use super::single::{Ended, Outcome, Single};
use super::technique::Without;
use super::translate::session::Translator;
use crate::arch::{CpuState, Gva};
use crate::clock::ClockSource;
use crate::engine::{
    Backend, Boundary, Caps, DebugEvent, DebugVcpu, EngineError, Exit, Platform, Translations, Vcpu, VcpuId,
    Watch,
};
use crate::mem::{GuestRam, RamSlot};
use std::sync::Arc;

/// Who executes instructions in mode emu.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub enum EmuEngine {
    /// The binary translator.
    #[default]
    Translator,
    /// The interpreter.
    Single,
}

impl EmuEngine {
    /// All engines, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Translator, Self::Single];

    /// The word for it on the command line and in CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translator => "translator",
            Self::Single => "single",
        }
    }

    /// One line that says what it is.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Translator => "binary translator",
            Self::Single => "interpreter",
        }
    }

    /// The engine of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

/// Makes vCPUs that emulate.
#[derive(Debug)]
pub struct Emulator {
    ram: Arc<GuestRam>,
    engine: EmuEngine,
    without: Without,
    counts: bool,
    caps: Caps,
}

impl Emulator {
    /// An emulator over `ram`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>, engine: EmuEngine) -> Self {
        Self { ram, engine, without: Without::NOTHING, counts: false, caps: Self::capabilities(engine) }
    }

    /// The same, counting instructions if `counts`, which makes the translator slower; the interpreter always counts.
    #[must_use]
    pub fn counting(self, counts: bool) -> Self {
        Self { counts, ..self }
    }

    /// The same, its translator without some techniques; its label says so.
    #[must_use]
    pub fn without(self, without: Without) -> Self {
        let mut caps = Self::capabilities(self.engine);
        if !without.is_nothing() && self.engine == EmuEngine::Translator {
            caps.label = format!("{} without {without}", caps.label);
        }
        Self { without, caps, ..self }
    }

    /// What emulation by `engine` is, the same on every host.
    #[must_use]
    pub fn capabilities(engine: EmuEngine) -> Caps {
        Caps { engine: engine.name(), label: engine.label().to_owned() }
    }
}

impl Backend for Emulator {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn map_ram(&self, _: &RamSlot) -> Result<(), EngineError> {
        // RAM is reached through `GuestRam`'s own mapping.
        Ok(())
    }

    fn create_vcpu(&self, id: VcpuId, reset: &CpuState) -> Result<Box<dyn Vcpu>, EngineError> {
        let ram = Arc::clone(&self.ram);
        let core = match self.engine {
            EmuEngine::Translator => {
                let mut translator = Translator::new(id, ram);
                translator.leave_out(self.without);
                translator.count_instructions(self.counts);
                Core::Translator(Box::new(translator))
            }
            EmuEngine::Single => Core::Single(Box::new(Single::new(id, ram))),
        };
        Ok(Box::new(EmuVcpu {
            id,
            state: reset.clone(),
            core,
            breakpoints: Vec::new(),
            watches: false,
            goes_on: false,
        }))
    }
}

/// What executes a vCPU's instructions.
enum Core {
    Translator(Box<Translator>),
    Single(Box<Single>),
}

impl Core {
    /// The interpreter, which both have: it takes single steps and delivers interrupts.
    fn single(&mut self) -> &mut Single {
        match self {
            Self::Translator(translator) => translator.single(),
            Self::Single(single) => single,
        }
    }
}

struct EmuVcpu {
    id: VcpuId,
    state: CpuState,
    core: Core,
    /// Ascending.
    breakpoints: Vec<u64>,
    /// A debugger watches memory.
    watches: bool,
    /// The next run goes on with one that was cut off.
    goes_on: bool,
}

impl Vcpu for EmuVcpu {
    fn run(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut fresh = !std::mem::take(&mut self.goes_on);
        platform.begins(self.id);
        loop {
            if let Some(hit) = self.core.single().take_watched() {
                return Ok(Exit::Debug(DebugEvent::Watched(hit)));
            }
            if platform.progress().is_at_target() {
                return Ok(Exit::Debug(DebugEvent::Position));
            }
            self.core.single().end_epoch(platform);
            let delivered = match platform.at_boundary(self.id, &self.state) {
                Boundary::Leave(exit) => {
                    // One that halts runs on after its wait.
                    self.goes_on = exit == Exit::Halted;
                    return Ok(exit);
                }
                Boundary::Interrupt(vector) => {
                    Some(self.core.single().deliver_interrupt(&mut self.state, platform, vector)?)
                }
                Boundary::Nmi => Some(self.core.single().deliver_nmi(&mut self.state, platform)?),
                Boundary::Execute => None,
            };
            match delivered {
                Some(Outcome::TripleFault) => return Ok(Exit::TripleFault),
                // That was a turn.
                Some(_) => continue,
                None => {}
            }
            // Instructions are counted and breakpoints looked at only by the interpreter, which also comes out right behind the
            // instruction that made an event.
            let plain = self.breakpoints.is_empty()
                && !self.watches
                && !platform.trace().catches()
                && platform.clock().source() == ClockSource::Real;
            let ended = match &mut self.core {
                Core::Translator(translator) if plain => translator.run(&mut self.state, platform)?,
                core => {
                    // An interpreter does not leave guest code for what it does for single instructions.
                    let ledger = platform.counters(self.id).ledger();
                    ledger.enters_guest();
                    let ended = core.single().run(&mut self.state, platform, &self.breakpoints, &mut fresh);
                    ledger.leaves_guest();
                    ended?
                }
            };
            match ended {
                // All else is looked at where the loop turns.
                Ended::Attention | Ended::Halted | Ended::Position | Ended::Watched => {}
                Ended::TripleFault => return Ok(Exit::TripleFault),
                Ended::Breakpoint => {
                    return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(self.state.linear_rip()))));
                }
            }
        }
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        // Whoever changes code tells its map.
        self.core.single().forget_translations();
        Ok(())
    }

    fn translations(&self) -> Option<Translations> {
        Some(match &self.core {
            Core::Translator(translator) => translator.held(),
            Core::Single(single) => single.held(),
        })
    }

    fn as_debug(&mut self) -> Option<&mut dyn DebugVcpu> {
        Some(self)
    }
}

impl DebugVcpu for EmuVcpu {
    fn step(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        self.core.single().step_vcpu(&mut self.state, platform)
    }

    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError> {
        self.breakpoints = at.iter().map(|gva| gva.0).collect();
        self.breakpoints.sort_unstable();
        Ok(())
    }

    fn set_watches(&mut self, watches: &[Watch]) -> Result<(), EngineError> {
        self.core.single().watch(watches);
        self.watches = !watches.is_empty();
        Ok(())
    }

    fn go_on(&mut self) {
        self.goes_on = true;
    }
}
