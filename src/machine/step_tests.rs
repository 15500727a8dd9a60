//! What a step is, in every mode: one delivery or one instruction. Each backend goes through the same small guest.
use super::MachineSpec;
use super::backends;
use crate::arch::{CpuState, Exception, Gpa, Rflags, Segment, Vector};
use crate::clock::{ClockSource, Nanos, Timer, TimerClient};
use crate::emulator::EmuEngine;
use crate::engine::fake::{FakeInterrupts, FakeMachine};
use crate::engine::{Cause, DebugEvent, EngineError, Exit, Mode, Vcpu, VcpuId, Watch, WatchKind};
use std::sync::{Arc, Mutex};

const CPU: VcpuId = VcpuId(0);
const STEP: Exit = Exit::Debug(DebugEvent::Step);
const IDT: u64 = 0x6000;
const GDT: u64 = 0x7000;
const STACK: u64 = 0x9000;
/// NOPs, as the handlers are.
const CODE: u64 = 0x1_0000;
/// The handler of vector `n` is at `HANDLERS + 16 n`.
const HANDLERS: u64 = 0x2_0000;
const VECTOR: u8 = 0x41;
const NOP: u8 = 0x90;
const HLT: u8 = 0xf4;
const STI: u8 = 0xfb;

fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

/// A device whose timer raises [`VECTOR`].
struct Alarm(Arc<FakeInterrupts>);

impl TimerClient for Alarm {
    fn timer_fired(&mut self, _: Nanos) {
        self.0.raise(VECTOR);
    }
}

/// A machine with one vCPU in 64-bit mode at [`CODE`], interrupts on.
struct Rig {
    name: String,
    machine: FakeMachine,
    timer: Timer,
    /// The queue holds it weakly.
    _alarm: Arc<Mutex<dyn TimerClient>>,
    vcpu: Box<dyn Vcpu>,
}

impl Rig {
    /// `None` if this host has not the mode; then the reason is printed.
    fn new(mode: Mode, engine: EmuEngine, code: &[u8]) -> Option<Self> {
        let machine = FakeMachine::new(4 << 20, ClockSource::Real);
        let ram = machine.ram();
        let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
        put(GDT + 8, 0x00af_9b00_0000_ffff);
        put(GDT + 16, 0x00cf_9300_0000_ffff);
        for vector in 0..=255 {
            let to = handler(vector);
            put(IDT + 16 * u64::from(vector), to & 0xffff | 8 << 16 | 0x8e << 40 | (to >> 16) << 48);
        }
        ram.write(Gpa(HANDLERS), &[NOP; 4096]).unwrap();
        ram.write(Gpa(CODE), &[NOP; 64]).unwrap();
        ram.write(Gpa(CODE), code).unwrap();
        let mut state = machine.long_mode(CODE, STACK);
        (state.gdtr.base, state.gdtr.limit) = (GDT, 0x17);
        (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
        state.tr = Segment { selector: 0x18, base: GDT + 0x100, limit: 0x67, attributes: 0x8b };
        state.rflags |= Rflags::IF;
        let spec = MachineSpec { emulator: engine, ..MachineSpec::new(mode) };
        let backend = match backends::create(&spec, &machine.platform) {
            Ok(backend) => backend,
            Err(EngineError::Unavailable { reason, .. }) => {
                println!("{mode} is skipped: {reason}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        for slot in machine.ram().slots() {
            backend.map_ram(slot).unwrap();
        }
        let vcpu = backend.create_vcpu(CPU, &state).unwrap();
        let alarm: Arc<Mutex<dyn TimerClient>> = Arc::new(Mutex::new(Alarm(Arc::clone(&machine.interrupts))));
        let timer = machine.timers.add();
        timer.connect(&alarm);
        let name = format!("{mode} {}", backend.caps().engine);
        Some(Self { name, machine, timer, _alarm: alarm, vcpu })
    }

    /// One of every engine that this host has.
    fn each(code: &[u8], test: impl Fn(&mut Self)) {
        let modes = [
            (Mode::Emu, EmuEngine::Single),
            (Mode::Emu, EmuEngine::Translator),
            (Mode::Pv, EmuEngine::default()),
            (Mode::Kvm, EmuEngine::default()),
        ];
        for (mode, engine) in modes {
            if let Some(mut rig) = Self::new(mode, engine, code) {
                let kick = Arc::clone(rig.machine.platform.kick(CPU));
                let _bound = kick.bind().unwrap();
                test(&mut rig);
            }
        }
    }

    /// Lets the device's timer be due, as it is when its host timer has fired.
    fn let_the_timer_be_due(&self) {
        self.timer.arm(Nanos(0));
        self.machine.platform.kick(CPU).poke();
    }

    /// Steps, expects `exit`, and returns the state.
    fn step(&mut self, exit: Exit) -> CpuState {
        let ended = self.vcpu.as_debug().unwrap().step(&self.machine.platform).unwrap();
        let state = self.vcpu.save().unwrap();
        assert_eq!(ended, exit, "{} at {:#x}", self.name, state.rip);
        state
    }

    fn interrupts(&self) -> u64 {
        self.machine.platform.counters(CPU).get(Cause::Interrupt)
    }
}

#[test]
fn a_step_that_enters_the_handler_of_a_timer_executes_nothing() {
    Rig::each(&[], |rig| {
        assert_eq!(rig.step(STEP).rip, CODE + 1, "{}", rig.name);
        // Nothing waits before the step: the interrupt comes when the step looks at the timers.
        rig.let_the_timer_be_due();
        assert_eq!(rig.step(STEP).rip, handler(VECTOR), "{}", rig.name);
        assert_eq!(rig.interrupts(), 1, "{}", rig.name);
        assert_eq!(rig.step(STEP).rip, handler(VECTOR) + 1, "{}", rig.name);
    });
}

#[test]
fn an_exception_that_waits_is_a_step_before_an_interrupt_that_does() {
    Rig::each(&[], |rig| {
        let mut state = rig.vcpu.save().unwrap();
        state.pending_exception = Some(Exception::plain(Vector::InvalidOpcode));
        rig.vcpu.load(&state).unwrap();
        rig.let_the_timer_be_due();
        let state = rig.step(STEP);
        assert_eq!((state.rip, state.pending_exception), (handler(6), None), "{}", rig.name);
        assert_eq!(rig.step(STEP).rip, handler(6) + 1, "{}: its gate closes the door", rig.name);
        assert_eq!(rig.interrupts(), 0, "{}", rig.name);
    });
}

#[test]
fn a_halted_cpu_is_woken_by_a_step_that_only_enters_the_handler() {
    Rig::each(&[HLT], |rig| {
        for _ in 0..2 {
            assert_eq!(rig.step(Exit::Halted).rip, CODE + 1, "{}", rig.name);
        }
        rig.let_the_timer_be_due();
        assert_eq!(rig.step(STEP).rip, handler(VECTOR), "{}", rig.name);
    });
}

#[test]
fn the_instruction_behind_sti_is_a_step_of_its_own() {
    Rig::each(&[STI], |rig| {
        let mut state = rig.vcpu.save().unwrap();
        state.rflags.remove(Rflags::IF);
        rig.vcpu.load(&state).unwrap();
        rig.machine.interrupts.raise(VECTOR);
        let rips = [(); 4].map(|()| rig.step(STEP).rip);
        assert_eq!(rips, [CODE + 1, CODE + 2, handler(VECTOR), handler(VECTOR) + 1], "{}", rig.name);
    });
}

#[test]
fn breakpoints_in_16_bit_code_are_linear_addresses() {
    Rig::each(&[], |rig| {
        // Real mode, with a base of CS.
        let mut state = CpuState::reset();
        let code = &mut state.segments[1];
        (code.selector, code.base) = ((CODE >> 4) as u16, CODE);
        state.rip = 4;
        rig.vcpu.load(&state).unwrap();
        rig.vcpu.as_debug().unwrap().set_breakpoints(&[crate::arch::Gva(CODE + 7)]).unwrap();
        let exit = rig.vcpu.run(&rig.machine.platform).unwrap();
        let met = Exit::Debug(DebugEvent::Breakpoint(crate::arch::Gva(CODE + 7)));
        assert_eq!((exit, rig.vcpu.save().unwrap().rip), (met, 7), "{}", rig.name);
    });
}

#[test]
fn writes_to_what_is_watched_stop_every_engine_behind_them() {
    // mov [rax], rax; nop; mov [rax + 8], al; hlt
    let code = [0x48, 0x89, 0x00, NOP, 0x88, 0x40, 0x08, HLT];
    Rig::each(&code, |rig| {
        let place = 0x5_0000;
        let mut state = rig.vcpu.save().unwrap();
        state.gpr[0] = place;
        rig.vcpu.load(&state).unwrap();
        // The second range is left alone.
        for (watched, stops) in [(place + 4, CODE + 3), (place + 9, 0), (place + 8, CODE + 7)] {
            rig.vcpu.load(&state).unwrap();
            let watch = Watch { at: crate::arch::Gva(watched), length: 1, kind: WatchKind::Write };
            rig.vcpu.as_debug().unwrap().set_watches(&[watch]).unwrap();
            let exit = rig.vcpu.run(&rig.machine.platform).unwrap();
            if stops == 0 {
                assert_eq!(exit, Exit::Halted, "{}", rig.name);
                continue;
            }
            let Exit::Debug(DebugEvent::Watched(hit)) = exit else { panic!("{}: {exit:?}", rig.name) };
            assert_eq!((hit.at.0, rig.vcpu.save().unwrap().rip), (watched, stops), "{}", rig.name);
        }
    });
}
