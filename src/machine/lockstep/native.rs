//! A mode that runs the guest natively, pv or kvm, and the interpreter beside it.
//!
//! Nobody steps native code here: KVM's trap runs into handlers and shows in pushed flags, and what a process executes between two
//! signals nobody sees. So the mode runs as it always does, until it comes out: behind each access to a port or to device memory,
//! at HLT, or after a millisecond, wherever that is. Then the interpreter makes instructions until it has made as many accesses
//! and its CPU is in the same state. That both meet there is what is compared; RAM, devices and console are, now and then.
//!
//! Time is counted, stands while either runs, and moves on both alike in between. RDTSC of a process traps, so that it
//! reads that time, too. KVM's is the host's, and random numbers are in both modes: where a guest reads such a thing, comparing ends,
//! and that is said. RAM and devices were compared last at the point before that was a whole stride away.
//!
//! To find the instruction, both go back to before the last run, of which the interpreter makes a part on *both* machines, and the mode
//! the rest. If they still differ, it is not to blame for that part: by halves the one instruction is found that makes the
//! difference if the mode executes it, and none if the interpreter does.
use super::report::{Culprit, Difference, Verdict, differing};
use super::side::{Checkpoint, Executed, Side};
use crate::arch::state::{XsaveArea, gpr};
use crate::arch::{Activity, CpuState, Rflags, Segment, msr};
use crate::clock::ClockSource;
use crate::emulator::single::Single;
use crate::engine::{Attention, Catch, Cause, DebugEvent, Engine, EventKind, Exit, Mode, Pair};
use crate::loader::Image;
use crate::machine::moving::Executor;
use crate::machine::{BOOT_CPU, MachineError, MachineSpec};
use crate::mem::GuestRam;
use crate::sys::deadline::DeadlineTimer;
use crate::sys::signal::Bound;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::sync::Arc;
use std::time::Duration;

/// How long the mode runs at most before it is stopped and compared.
const LONGEST: Duration = Duration::from_millis(1);
/// Instructions that the interpreter makes at most to get where the mode is.
const MOST_STEPS: u64 = 50_000_000;
/// Runs in sequence in which a mode does nothing, because attention is asked for, that are put up with.
const MOST_IDLE: u32 = 16;
/// Agreed points between two at which all of both machines is compared.
const STRIDE: u64 = 2_000;

/// How the guest ended by itself, or a run.
type End = Option<Exit>;

/// How a turn went.
enum Turn {
    Same,
    /// The guest does not go on.
    Ended,
    /// The interpreter is at an instruction whose result cannot be given to both.
    Unequal,
    Differs(Box<Mismatch>),
}

/// States that ought to be equal.
struct Mismatch {
    from: u64,
    single: CpuState,
    other: CpuState,
    /// What only one of them said.
    error: Option<String>,
}

/// The interpreter's machine and the mode's.
pub struct Beside {
    // Dropped before the machine that it runs on.
    executor: Executor,
    mode: Mode,
    one: Side,
    single: Single,
    other: Side,
    /// Of the mode's machine, where it is the interpreter's turn there.
    its_single: Single,
    timer: DeadlineTimer,
    _bound: Bound,
    points: u64,
    instructions: u64,
    /// Instructions between the agreed points since the last stand.
    passed: Vec<u64>,
    /// Where the guest reads the host's time.
    unequal: Option<Executed>,
    /// A byte of code that the mode alone finds to be another one, to be found.
    #[cfg(test)]
    pub(super) sabotage: Option<(crate::arch::Gpa, u8)>,
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Where both stood.
struct Stand {
    one: Checkpoint,
    other: Checkpoint,
    points: u64,
    instructions: u64,
}

/// Accesses that a machine's CPU has made, ports' and device memory's.
fn accesses(side: &Side) -> u64 {
    let counters = side.platform().counters(BOOT_CPU);
    counters.get(Cause::PortIo).wrapping_add(counters.get(Cause::Mmio))
}

/// What modes have alike of a state: descriptors' hidden parts, and registers that only the CPU's mechanism keeps, may differ.
fn alike(state: &CpuState) -> CpuState {
    let mut bare = CpuState::reset();
    (bare.gpr, bare.rip) = (state.gpr, state.rip);
    bare.rflags = state.rflags.difference(Rflags::RF);
    (bare.cr0, bare.cr2, bare.cr3, bare.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    bare.efer = state.efer;
    (bare.gdtr, bare.idtr) = (state.gdtr, state.idtr);
    bare.activity = state.activity;
    let long = state.is_64bit_code();
    for (number, (bare, segment)) in bare.segments.iter_mut().zip(&state.segments).enumerate() {
        // FS and GS alone have a base in 64-bit code.
        let base = if long && number < 4 { 0 } else { segment.base };
        *bare = Segment { selector: segment.selector, base, limit: 0, attributes: 0 };
    }
    bare.xsave.0.fill(0);
    for number in 0..16 {
        let ymm = state.xsave.ymm(number);
        let (low, high) = (XsaveArea::XMM + 16 * number, XsaveArea::YMM_HIGH + 16 * number);
        bare.xsave.0[low..low + 16].copy_from_slice(&ymm[..16]);
        bare.xsave.0[high..high + 16].copy_from_slice(&ymm[16..]);
    }
    bare
}

impl Beside {
    /// Two machines before the first instruction of `image`, one of which `mode` runs. Of `spec` what does not concern the
    /// engine counts; there is one CPU, and nothing from the host but its image.
    ///
    /// # Errors
    /// [`MachineError`], if such a machine cannot be built.
    pub fn new(spec: &MachineSpec, image: &Image, mode: Mode) -> Result<Self, MachineError> {
        let mut spec = spec.clone();
        spec.pair = Pair::from(Mode::Emu);
        spec.firmware.log = None;
        spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
        let (one, other) = (Side::new(&spec, image)?, Side::new(&spec, image)?);
        spec.pair = Pair::from(mode);
        let executor = Executor::create(&spec, other.platform(), (&other.state, &[]))?;
        for side in [&one, &other] {
            side.platform().clock().hold(true);
        }
        let host = |what| move |source| MachineError::Host { what, source };
        let kick = other.platform().kick(BOOT_CPU);
        let bound = kick.bind().map_err(host("cannot set up kicks"))?;
        use EventKind as K;
        let kinds = [K::PortRead, K::PortWrite, K::MmioRead, K::MmioWrite];
        let catches = kinds.map(|kind| Catch::Kind(kind, None)).to_vec();
        other.platform().trace().catch(catches, vec![Arc::clone(kick)]);
        let timer = DeadlineTimer::for_current_thread().map_err(host("cannot make a timer"))?;
        Ok(Self {
            executor,
            mode,
            single: Single::new(BOOT_CPU, Arc::clone(one.ram())),
            its_single: Single::new(BOOT_CPU, Arc::clone(other.ram())),
            one,
            other,
            timer,
            _bound: bound,
            points: 0,
            instructions: 0,
            passed: Vec::new(),
            unequal: None,
            #[cfg(test)]
            sabotage: None,
        })
    }

    /// Runs both until they differ, the guest ends, it reads what cannot be given to both, so many points are agreed on, or
    /// `stop` says so.
    ///
    /// # Errors
    /// [`MachineError`], if one of the machines cannot go on.
    pub fn run(&mut self, most: u64, stop: &mut dyn FnMut() -> bool) -> Result<Verdict, MachineError> {
        let mut stand = self.stand()?;
        let mut ended = false;
        while self.points < most && !stop() {
            match self.turn()? {
                Turn::Same => {}
                Turn::Ended => {
                    ended = true;
                    break;
                }
                Turn::Unequal => break,
                Turn::Differs(mismatch) => return self.find(&stand, &mismatch, stop),
            }
            if self.points - stand.points >= STRIDE {
                if self.memory_differs()?.is_some() {
                    return self.find_memory(&stand, stop);
                }
                stand = self.stand()?;
                self.passed.clear();
            }
        }
        // Where comparing ends, the mode has gone on alone.
        if self.unequal.is_none() && self.memory_differs()?.is_some() {
            return self.find_memory(&stand, stop);
        }
        Ok(self.verdict(ended, None))
    }

    /// The interpreter's CPU.
    #[must_use]
    pub fn state(&self) -> &CpuState {
        &self.one.state
    }

    /// The mode's RAM.
    #[must_use]
    pub fn other_ram(&self) -> &Arc<GuestRam> {
        self.other.ram()
    }

    /// What the guest printed, on the interpreter's machine.
    #[must_use]
    pub fn console(&self) -> String {
        self.one.console.text()
    }

    fn verdict(&self, ended: bool, difference: Option<Difference>) -> Verdict {
        let (blocks, instructions) = (self.points, self.instructions);
        Verdict { blocks, instructions, ended, difference, unequal: self.unequal.clone() }
    }

    fn stand(&self) -> Result<Stand, MachineError> {
        Ok(Stand {
            one: self.one.checkpoint()?,
            other: self.other.checkpoint()?,
            points: self.points,
            instructions: self.instructions,
        })
    }

    fn back_to(&mut self, stand: &Stand) -> Result<(), MachineError> {
        self.one.back_to(&stand.one)?;
        self.other.back_to(&stand.other)?;
        self.single.flush();
        self.its_single.flush();
        (self.points, self.instructions) = (stand.points, stand.instructions);
        Ok(())
    }

    /// What differs of RAM, devices and what was printed.
    fn memory_differs(&self) -> Result<Option<Difference>, MachineError> {
        let memory = self.one.first_other_byte(&self.other)?;
        let registers = self.one.other_parts(&self.other)?;
        let differs = memory.is_some() || !registers.is_empty();
        Ok(differs.then_some(Difference { block: None, culprit: None, registers, memory, error: None }))
    }

    /// Time goes on by so many instructions, on both machines alike.
    fn pass(&self, instructions: u64) {
        for side in [&self.one, &self.other] {
            let clock = side.platform().clock();
            clock.hold(false);
            clock.retire(instructions.max(1));
            clock.hold(true);
        }
    }

    /// Fires the timers that are due on both; a halted CPU's time goes to the next deadline. `false`: nothing will wake it.
    fn look_around(&mut self) -> bool {
        let mut goes_on = true;
        for side in [&self.one, &self.other] {
            let platform = side.platform();
            goes_on &= platform.attend(BOOT_CPU) == Attention::Resume;
            let wakes = side.state.can_take_interrupt() && platform.interrupt_pending(BOOT_CPU);
            if side.state.activity == Activity::Halted && !wakes {
                match platform.timers().next_deadline() {
                    Some(deadline) => {
                        platform.clock().hold(false);
                        platform.clock().skip_to(deadline);
                        platform.clock().hold(true);
                    }
                    None => goes_on = false,
                }
                goes_on &= platform.attend(BOOT_CPU) == Attention::Resume;
            }
        }
        goes_on
    }

    /// What lies between two agreed points, and the way to the next one.
    fn turn(&mut self) -> Result<Turn, MachineError> {
        if !self.look_around() {
            return Ok(Turn::Ended);
        }
        let before = self.instructions;
        let turn = self.point()?;
        if matches!(turn, Turn::Same) {
            let passed = self.instructions - before;
            self.passed.push(passed);
            self.points += 1;
            self.pass(passed);
        }
        Ok(turn)
    }

    /// The mode runs until it comes out, and the interpreter follows.
    fn point(&mut self) -> Result<Turn, MachineError> {
        let (from, had) = (self.other.state.rip, (accesses(&self.one), accesses(&self.other)));
        let ran = self.run_other();
        let (end, error) = match ran {
            Ok(end) => (end, None),
            Err(error) => (None, Some(error)),
        };
        let goal = alike(&self.other.state);
        let made = accesses(&self.other).wrapping_sub(had.1);
        let mut met = None;
        for _ in 0..MOST_STEPS {
            let done = accesses(&self.one).wrapping_sub(had.0);
            if done == made && self.one.state.rip == goal.rip && end.is_none() {
                let here = alike(&self.one.state);
                if here == goal && error.is_none() {
                    return Ok(Turn::Same);
                }
                met.get_or_insert_with(|| self.one.state.clone());
            }
            if done > made {
                break;
            }
            if self.reads_the_host() {
                self.unequal = Some(self.one.next_instruction());
                return Ok(Turn::Unequal);
            }
            let halted = self.one.state.activity == Activity::Halted;
            match self.one.step_vcpu(&mut self.single) {
                Ok(Exit::Debug(DebugEvent::Step) | Exit::Kicked) => self.instructions += 1,
                Ok(Exit::Halted) if !halted => self.instructions += 1,
                Ok(Exit::Halted) => break,
                Ok(exit) if end == Some(exit) => return Ok(Turn::Ended),
                Ok(_) => break,
                // An error of both is no difference.
                Err(its) if error.is_some() => return Err(error.unwrap_or(its).into()),
                Err(its) => return Ok(self.mismatch(from, met, Some(format!("interpreter: {its}")))),
            }
        }
        let error = error.map(|error| format!("{}: {error}", self.mode));
        let error = error.or_else(|| end.map(|exit| format!("{} ends with {exit:?}", self.mode)));
        Ok(self.mismatch(from, met, error))
    }

    fn mismatch(&self, from: u64, met: Option<CpuState>, error: Option<String>) -> Turn {
        let single = alike(&met.unwrap_or_else(|| self.one.state.clone()));
        Turn::Differs(Box::new(Mismatch { from, single, other: alike(&self.other.state), error }))
    }

    /// Runs the mode until it comes out; how the guest ended, if it did.
    fn run_other(&mut self) -> Result<End, crate::engine::EngineError> {
        #[cfg(test)]
        self.exchange();
        let platform = self.other.platform();
        let kick = platform.kick(BOOT_CPU);
        platform.trace().forget_caught();
        // What is left of the interpreter's accesses is not to end the run before it begins.
        let _void = (kick.take_attention(), kick.take_leave());
        kick.leave_when_asked();
        self.timer.arm(Some(LONGEST));
        let exit = self.executor.vcpu.run(platform);
        self.timer.arm(None);
        let _taken = (kick.take_leave(), platform.trace().take_caught(kick));
        let saved = self.executor.vcpu.save();
        #[cfg(test)]
        self.exchange();
        let exit = exit?;
        self.other.state = saved?;
        Ok(match exit {
            Exit::PowerOff(_) | Exit::Reset | Exit::TripleFault => Some(exit),
            _ => None,
        })
    }

    /// Exchanges the byte of code with the one that it is to be.
    #[cfg(test)]
    fn exchange(&mut self) {
        let ram = Arc::clone(self.other.ram());
        if let Some((at, byte)) = &mut self.sabotage {
            let mut was = [0];
            let _known = ram.read(*at, &mut was);
            let _written = ram.write(*at, &[*byte]);
            *byte = was[0];
        }
    }

    /// Whether the next instruction reads what the mode has from the host: its counter, in KVM, or random numbers.
    fn reads_the_host(&self) -> bool {
        if self.one.state.activity != Activity::Running {
            return false;
        }
        let next = self.one.next_instruction();
        // Most do not begin like it.
        if !next.bytes.contains(&0x0f) {
            return false;
        }
        let is_kvm = self.executor.pair.engine == Engine::Kvm;
        match Decoder::with_ip(next.bits, &next.bytes, next.rip, DecoderOptions::NONE).decode().mnemonic() {
            Mnemonic::Rdrand | Mnemonic::Rdseed => true,
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => is_kvm,
            Mnemonic::Rdmsr => is_kvm && self.one.state.gpr[gpr::RCX] as u32 == msr::TSC,
            _ => false,
        }
    }

    /// So many instructions of the interpreter, on both machines.
    fn interpret(&mut self, count: u64) -> Result<(), MachineError> {
        for _ in 0..count {
            self.one.step_vcpu(&mut self.single)?;
            // What stops the mode behind an access stops this, too, before it does anything.
            while self.other.step_vcpu(&mut self.its_single)? == Exit::Kicked {}
        }
        self.instructions += count;
        Ok(())
    }

    /// Goes back to `stand`, on by the interpreter to the agreed point of that number behind it, and `part` further. The mode
    /// takes over there.
    fn again(&mut self, stand: &Stand, points: usize, part: u64) -> Result<(), MachineError> {
        self.back_to(stand)?;
        for number in 0..points {
            let passed = self.passed[number];
            self.look_around();
            self.interpret(passed)?;
            self.points += 1;
            self.pass(passed);
        }
        self.look_around();
        self.interpret(part)?;
        self.executor.take_on(self.other.ram(), (&self.other.state, &[]))?;
        Ok(())
    }

    /// The run behind those that agree differs: which instruction of it?
    fn find(
        &mut self,
        stand: &Stand,
        mismatch: &Mismatch,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Verdict, MachineError> {
        let (points, instructions) = (self.points, stand.instructions + self.passed.iter().sum::<u64>());
        let length = self.instructions.saturating_sub(instructions).max(1);
        let mut difference = Difference {
            block: Some(mismatch.from),
            culprit: None,
            registers: differing(&mismatch.single, &mismatch.other),
            memory: None,
            error: mismatch.error.clone(),
        };
        // With the first `differs` interpreted they still differ, with `same` they do not.
        let (mut differs, mut same) = (0, length);
        let number = self.passed.len();
        let mut sure = self.differ_behind(stand, (number, 0), length)?;
        while sure && same - differs > 1 && !stop() {
            let middle = differs + (same - differs) / 2;
            match self.differ_behind(stand, (number, middle), length)? {
                true => differs = middle,
                false => same = middle,
            }
        }
        sure &= same - differs == 1;
        if sure {
            difference.culprit = Some(self.culprit(stand, number, differs)?);
        }
        (self.points, self.instructions) = (points, instructions);
        Ok(self.verdict(false, Some(difference)))
    }

    /// RAM, or a device, differs since `stand`, though the CPUs agreed: after which instruction?
    fn find_memory(
        &mut self,
        stand: &Stand,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Verdict, MachineError> {
        let end = self.instructions;
        let mut difference = self.memory_differs()?.unwrap_or_default();
        // With so many points interpreted they still differ at the end, with `same` they do not.
        let (mut differs, mut same) = (0, self.passed.len());
        while same - differs > 1 && !stop() {
            let middle = differs + (same - differs) / 2;
            match self.memory_differs_behind(stand, (middle, 0), end)? {
                true => differs = middle,
                false => same = middle,
            }
        }
        let (points, number) = (stand.points + differs as u64, differs);
        let instructions = stand.instructions + self.passed[..number].iter().sum::<u64>();
        if let Some(&length) = self.passed.get(number)
            && same - differs == 1
        {
            let end = instructions + length;
            let (mut differs, mut same) = (0, length);
            let mut sure = self.memory_differs_behind(stand, (number, 0), end)?;
            if let Some(now) = self.memory_differs()?.filter(|_| sure) {
                difference = Difference { block: difference.block, ..now };
            }
            while sure && same - differs > 1 && !stop() {
                let middle = differs + (same - differs) / 2;
                match self.memory_differs_behind(stand, (number, middle), end)? {
                    true => differs = middle,
                    false => same = middle,
                }
            }
            sure &= same - differs == 1;
            if sure {
                self.again(stand, number, 0)?;
                difference.block = Some(self.one.state.rip);
                difference.culprit = Some(self.culprit(stand, number, differs)?);
            }
        }
        (self.points, self.instructions) = (points, instructions);
        Ok(self.verdict(false, Some(difference)))
    }

    /// The instruction behind `part` of them, from the point of that number on.
    fn culprit(&mut self, stand: &Stand, number: usize, part: u64) -> Result<Culprit, MachineError> {
        self.again(stand, number, part)?;
        let at = self.one.next_instruction();
        Ok(Culprit { rip: at.rip, number: part as usize + 1, at })
    }

    /// Whether memory differs when so many instructions were made, of which the mode made those from a point on, and a part
    /// of the next ones.
    fn memory_differs_behind(
        &mut self,
        stand: &Stand,
        (points, part): (usize, u64),
        end: u64,
    ) -> Result<bool, MachineError> {
        self.again(stand, points, part)?;
        let begun = self.instructions - part;
        let mut idle = 0;
        while self.instructions < end {
            let before = self.instructions;
            let turn = if before == begun + part { self.point()? } else { self.turn()? };
            match turn {
                Turn::Differs(_) => return Ok(true),
                Turn::Same if before == begun + part => self.pass(self.instructions - begun),
                Turn::Same => {}
                Turn::Ended | Turn::Unequal => break,
            }
            idle = if self.instructions == before { idle + 1 } else { 0 };
            if idle > MOST_IDLE {
                break;
            }
        }
        Ok(self.memory_differs()?.is_some())
    }

    /// Whether both differ within `length` instructions, of which the interpreter makes the first `part` on both.
    fn differ_behind(
        &mut self,
        stand: &Stand,
        (points, part): (usize, u64),
        length: u64,
    ) -> Result<bool, MachineError> {
        self.again(stand, points, part)?;
        let end = self.instructions + (length - part);
        let mut idle = 0;
        while self.instructions < end {
            let before = self.instructions;
            match self.point()? {
                Turn::Differs(_) => return Ok(true),
                Turn::Same if self.instructions > before => idle = 0,
                Turn::Same if idle < MOST_IDLE => idle += 1,
                _ => break,
            }
        }
        Ok(false)
    }
}
