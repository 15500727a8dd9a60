//! A machine that stands goes on by another engine: RAM, devices, clock and host stay, the CPUs' states are handed over.
//!
//! The engine that is left is kept beside the machine where it may be of use again; of what it made of the guest's code emu
//! keeps what is still the same code then.
use super::{BOOT_CPU, Machine, MachineError, MachineSpec, backends};
use crate::arch::cpuid::Optional;
use crate::arch::{CpuState, Xcr0};
use crate::clock::ClockSource;
use crate::engine::{Backend, Caps, Engine, EngineError, Interface, Pair, Platform, Vcpu};
use crate::mem::{CodeSeal, GuestRam};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a machine cannot go on by another engine. The sentence goes on from "it cannot go on in …: ".
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The guest was told of a CPU that only some modes have.
    #[error("the guest was told that its CPU has {}; with --common-cpu it is told only of what every mode has", .0.join(", "))]
    Told(Vec<&'static str>),
    /// Time is counted in instructions.
    #[error(
        "the guest's time is counted in instructions (--deterministic), which only emu can; the debugger's --host-clock lets it be the host's"
    )]
    Counted,
    /// The guest makes hypercalls, or is about to learn that it cannot any more.
    #[error("the page by which a guest makes hypercalls leads into the engine that it began in")]
    Hypercalls,
    /// It enabled registers that a state does not hold.
    #[error(
        "the guest has enabled vector registers that only KVM keeps (XCR0 is {0:#x}); Linux leaves them alone with 'noxsave'"
    )]
    Vectors(u64),
    /// The machine has more CPUs than the engine runs.
    #[error(transparent)]
    Machine(Box<MachineError>),
    /// The engine cannot be had, or does not take the state.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What executes a machine's instructions.
pub(super) struct Executor {
    // Dropped in this order: the vCPUs before what they run on.
    pub(super) vcpu: Box<dyn Vcpu>,
    /// All but the boot CPU, from vCPU 1 on.
    pub(super) others: Vec<Box<dyn Vcpu>>,
    pub(super) backend: Box<dyn Backend>,
    pub(super) pair: Pair,
    /// What the guest's code was when the engine was left, if it keeps what it makes of code.
    code: Option<CodeSeal>,
}

impl Executor {
    /// Makes the engine that `spec` wants, its vCPUs in these states: the boot CPU's and the others'.
    pub(super) fn create(
        spec: &MachineSpec,
        platform: &Platform,
        (boot, others): (&CpuState, &[CpuState]),
    ) -> Result<Self, EngineError> {
        let backend = backends::create(spec, platform)?;
        for slot in platform.ram().slots() {
            backend.map_ram(slot)?;
        }
        for state in std::iter::once(boot).chain(others) {
            backend.accepts(state)?;
        }
        let vcpu = backend.create_vcpu(BOOT_CPU, boot)?;
        let others = platform.vcpus().skip(1).zip(others).map(|(id, state)| backend.create_vcpu(id, state));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { vcpu, others, backend, pair: spec.pair, code: None })
    }

    pub(super) fn vcpus(&mut self) -> impl Iterator<Item = &mut Box<dyn Vcpu>> {
        std::iter::once(&mut self.vcpu).chain(&mut self.others)
    }

    /// The states of its vCPUs: the boot CPU's and the others'.
    fn states(&mut self) -> Result<(CpuState, Vec<CpuState>), EngineError> {
        let others = self.others.iter_mut().map(|vcpu| vcpu.save()).collect::<Result<_, _>>()?;
        Ok((self.vcpu.save()?, others))
    }

    /// An engine that was left takes these states on; RAM was written without it.
    pub(super) fn take_on(
        &mut self,
        ram: &GuestRam,
        (boot, others): (&CpuState, &[CpuState]),
    ) -> Result<(), EngineError> {
        for state in std::iter::once(boot).chain(others) {
            self.backend.accepts(state)?;
        }
        self.backend.ram_changed()?;
        if let Some(seal) = self.code.take() {
            ram.break_seal(&seal);
        }
        self.vcpu.load(boot)?;
        self.others.iter_mut().zip(others).try_for_each(|(vcpu, state)| vcpu.load(state))
    }

    pub(super) fn caps(&self) -> &Caps {
        self.backend.caps()
    }
}

/// The moves of a machine, by where from and where to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moves(BTreeMap<(Pair, Pair), Vec<Duration>>);

/// Moves in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direction {
    /// Where from.
    pub from: Pair,
    /// Where to.
    pub to: Pair,
    /// How many.
    pub count: usize,
    /// What one took: half of them took no longer.
    pub median: Duration,
    /// What the longest took.
    pub worst: Duration,
}

impl Moves {
    /// Takes notice of one.
    pub fn note(&mut self, from: Pair, to: Pair, took: Duration) {
        self.0.entry((from, to)).or_default().push(took);
    }

    /// Adds those of another machine.
    pub fn append(&mut self, others: &Self) {
        for (direction, took) in &others.0 {
            self.0.entry(*direction).or_default().extend(took);
        }
    }

    /// How many in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// A summary of each direction in which there were any.
    pub fn directions(&self) -> impl Iterator<Item = Direction> {
        self.0.iter().filter_map(|(&(from, to), took)| {
            let mut took = took.clone();
            took.sort_unstable();
            let (count, worst) = (took.len(), *took.last()?);
            Some(Direction { from, to, count, median: took[(count - 1) / 2], worst })
        })
    }
}

impl Machine {
    /// The moves so far.
    #[must_use]
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Lets the machine, which stands, go on by the engine of `to`. How long it stood for that: from there on the engine
    /// has to make anew what it had made of the guest's code and page tables, which this does not tell. Nothing is done
    /// and no time told if it is there already.
    ///
    /// Breakpoints are to be set again.
    ///
    /// # Errors
    /// [`MoveError`] with the reason; the machine is as it was then.
    pub fn move_to(&mut self, to: impl Into<Pair>) -> Result<Option<Duration>, MoveError> {
        let (from, to) = (self.pair(), to.into());
        if from == to {
            return Ok(None);
        }
        let start = Instant::now();
        let spec = MachineSpec { pair: to, ..self.spec.clone() };
        self.can_move(&spec)?;
        let (boot, others) = self.executor.states()?;
        let states = (&boot, &others[..]);
        let holds = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
        if let Some(state) = std::iter::once(&boot).chain(&others).find(|s| !(s.xcr0 - holds).is_empty()) {
            return Err(MoveError::Vectors(state.xcr0.bits()));
        }
        let next = match self.left.iter().position(|left| left.pair == to) {
            Some(place) => {
                let ram = Arc::clone(self.platform().ram());
                // What it has made of code cannot be told from what it has not if it refuses: it is told that all is other code.
                self.left[place].take_on(&ram, states).inspect_err(|_| ram.forget_code())?;
                self.left.swap_remove(place)
            }
            None => Executor::create(&spec, self.platform(), states)?,
        };
        let mut before = std::mem::replace(&mut self.executor, next);
        // One in which something of the guest may still run is not kept.
        if before.vcpus().all(|vcpu| vcpu.leave().is_ok()) {
            before.code = (before.pair.engine == Engine::Emu).then(|| self.platform().ram().seal_code());
            self.left.push(before);
        }
        let took = start.elapsed();
        self.moves.note(from, to, took);
        Ok(Some(took))
    }

    /// Whether the guest may find itself on the machine of `spec`, which differs in its pair.
    fn can_move(&self, spec: &MachineSpec) -> Result<(), MoveError> {
        let (from, to) = (self.pair(), spec.pair);
        if self.platform().clock().source() != ClockSource::Real && to.engine != Engine::Emu {
            return Err(MoveError::Counted);
        }
        if from.interface == Interface::Pv || to.interface == Interface::Pv {
            return Err(MoveError::Hypercalls);
        }
        spec.check_cpus().map_err(|error| MoveError::Machine(Box::new(error)))?;
        // All else is the host's, in each mode.
        let told: Vec<_> = self.platform().cpuid_of_all().optional().map(Optional::name).collect();
        if to.engine != Engine::Emu && !told.is_empty() { Err(MoveError::Told(told)) } else { Ok(()) }
    }
}
