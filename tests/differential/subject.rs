//! Who is compared with the oracle: a vCPU of any backend, in ring 3 of a small guest. It is stepped through the case, or
//! runs it as a whole until the handler of an exception (or of the INT3 behind the case) halts.
//!
//! The guest has an IDT of its own, in the upper half: an exception is observed as what the CPU pushed, so its
//! delivery is tested too.
use crate::case::{CODE, Case, DATA, DATA_BYTES, End, INT3, Observation, PAGE, READ_ONLY, Registers};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trivisor::arch::cpuid::CpuidTable;
use trivisor::arch::{
    CpuState, Cr0, Cr4, DescriptorTable, Efer, Gpa, Rflags, Segment, SegmentRegister, Xcr0, XsaveArea,
};
use trivisor::bus::{Bus, NoInterrupts, PowerSwitch, VcpuId};
use trivisor::clock::{Clock, ClockSource, TimerQueue};
use trivisor::engine::{Backend, EngineError, Exit, KickCell, Platform, PlatformParts, Vcpu};
use trivisor::mem::GuestRam;
use trivisor::sys::host_cpuid;

/// An implementation of the architecture.
pub trait Subject {
    /// Runs a case from start to end.
    fn run(&mut self, case: &Case) -> Observation;
}

const CPU: VcpuId = VcpuId(0);
/// Where the first 64 KiB of RAM appear to the supervisor.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const PML4: u64 = 0x1000;
const GDT: u64 = 0x8000;
const TSS: u64 = 0x8100;
const IDT: u64 = 0x9000;
const HANDLERS: u64 = 0xa000;
const STACK_END: u64 = 0xc000;
const CODE_RAM: u64 = 0x10_000;
const DATA_RAM: u64 = 0x11_000;
const RAM: u64 = 0x20_000;
/// More than any case needs: a loop or a repeated string instruction runs into the end of the data.
const MOST_STEPS: usize = 400_000;

/// Kicks of the watchdog after which a case is taken to be endless.
const MOST_KICKS: usize = 20;

/// How a case is executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Instruction by instruction.
    Step,
    /// At once.
    Run,
}

/// Ends runs that do not end: kicks the vCPU when a run has lasted for a while.
struct Watchdog {
    /// Odd while a run is on.
    runs: Arc<AtomicU64>,
}

impl Watchdog {
    fn start(kick: Arc<KickCell>) -> Self {
        let runs = Arc::new(AtomicU64::new(0));
        let watched = Arc::downgrade(&runs);
        std::thread::spawn(move || {
            let (mut before, mut ticks) = (0, 0);
            while let Some(runs) = watched.upgrade() {
                let now = runs.load(Ordering::SeqCst);
                // A busy host may hold up a run for some time: only one that lasts and lasts is endless.
                ticks = if now % 2 == 1 && now == before { ticks + 1 } else { 0 };
                if ticks > 40 {
                    kick.kick();
                }
                before = now;
                drop(runs);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { runs }
    }

    fn watch<R>(&self, run: impl FnOnce() -> R) -> R {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let result = run();
        self.runs.fetch_add(1, Ordering::SeqCst);
        result
    }
}

/// A vCPU and the guest around it.
pub struct VcpuSubject {
    platform: Platform,
    way: Way,
    watchdog: Watchdog,
    vcpu: Box<dyn Vcpu>,
    ready: CpuState,
}

impl VcpuSubject {
    /// A vCPU of the backend that `make` returns.
    pub fn new<B: Backend>(
        way: Way,
        make: impl FnOnce(&Platform) -> Result<B, EngineError>,
    ) -> Result<Self, EngineError> {
        let ram = Arc::new(GuestRam::new(RAM).unwrap());
        lay_out(&ram);
        let platform = Platform::new(PlatformParts {
            ram: Arc::clone(&ram),
            bus: Bus::default(),
            interrupts: Arc::new(NoInterrupts),
            clock: Arc::new(Clock::new(ClockSource::Real)),
            timers: vec![TimerQueue::new()],
            power: Arc::new(PowerSwitch::default()),
            cpuid: CpuidTable::from_host(host_cpuid::query),
            kicks: vec![KickCell::new()],
            hypercalls: None,
            kvm_clock: None,
            keeps_times: false,
        });
        let backend = make(&platform)?;
        for slot in ram.slots() {
            backend.map_ram(slot)?;
        }
        let ready = user_mode();
        let vcpu = backend.create_vcpu(CPU, &ready)?;
        let watchdog = Watchdog::start(Arc::clone(platform.kick(CPU)));
        Ok(Self { platform, way, watchdog, vcpu, ready })
    }

    fn execute(&mut self, case: &Case, code: &[u8; PAGE]) -> Result<(End, CpuState), EngineError> {
        self.vcpu.load(&self.before(case))?;
        if self.way == Way::Run {
            return self.execute_at_once(code);
        }
        for _ in 0..MOST_STEPS {
            let state = self.vcpu.save()?;
            if state.cpl() == 0 {
                return Ok(self.delivered(state));
            }
            let into = state.rip.wrapping_sub(CODE);
            if into < PAGE as u64 && code[into as usize] == INT3 {
                return Ok((End::Reached, state));
            }
            let debug = self.vcpu.as_debug().expect("the backend can step");
            match debug.step(&self.platform)? {
                Exit::Debug(_) => {}
                other => panic!("{other:?} in ring 3 with handlers for all exceptions"),
            }
        }
        Ok((End::Endless, self.vcpu.save()?))
    }

    fn execute_at_once(&mut self, code: &[u8; PAGE]) -> Result<(End, CpuState), EngineError> {
        let (vcpu, platform) = (&mut self.vcpu, &self.platform);
        // A kick may be late, or this thread may have slept through the watchdog's patience.
        let mut kicks = 0;
        loop {
            match self.watchdog.watch(|| vcpu.run(platform))? {
                Exit::Halted => break,
                Exit::Kicked if kicks < MOST_KICKS => kicks += 1,
                Exit::Kicked => return Ok((End::Endless, self.vcpu.save()?)),
                other => panic!("{other:?} in ring 3 with handlers for all exceptions"),
            }
        }
        let mut state = self.vcpu.save()?;
        // The handler's HLT is behind RIP.
        state.rip -= 1;
        let (end, mut state) = self.delivered(state);
        let into = state.rip.wrapping_sub(CODE).wrapping_sub(1);
        if matches!(end, End::Exception { vector: 3, .. })
            && into < PAGE as u64
            && code[into as usize] == INT3
        {
            state.rip -= 1;
            return Ok((End::Reached, state));
        }
        Ok((end, state))
    }

    fn before(&self, case: &Case) -> CpuState {
        let registers = &case.registers;
        let mut state = self.ready.clone();
        if case.bits == 32 {
            *state.segment_mut(SegmentRegister::Cs) = Segment::from_descriptor(0x23, 0x00cf_fb00_0000_ffff);
            let data = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
            *state.segment_mut(SegmentRegister::Ds) = data;
            *state.segment_mut(SegmentRegister::Es) = data;
        }
        state.gpr = registers.gpr;
        state.rip = registers.rip;
        state.rflags = Rflags::from_bits_retain(registers.rflags);
        state.segment_mut(SegmentRegister::Fs).base = registers.fs_base;
        state.segment_mut(SegmentRegister::Gs).base = registers.gs_base;
        state.xsave = XsaveArea(registers.xsave);
        state
    }

    /// Undoes the delivery: what the CPU pushed is how ring 3 was left.
    fn delivered(&self, mut state: CpuState) -> (End, CpuState) {
        let vector = ((state.rip - KERNEL - HANDLERS) / 16) as u8;
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let mut frame = [0; 6];
        for (i, value) in frame.iter_mut().enumerate().skip(usize::from(!has_code)) {
            let at = state.gpr[4] - KERNEL + 8 * (i as u64 - u64::from(!has_code));
            let mut bytes = [0; 8];
            self.platform.ram().read(Gpa(at), &mut bytes).expect("the kernel's stack is RAM");
            *value = u64::from_le_bytes(bytes);
        }
        let [code, rip, cs, rflags, rsp, ss] = frame;
        assert!(matches!(cs, 0x23 | 0x33) && ss == 0x2b, "{cs:#x} {ss:#x}");
        state.rip = rip;
        state.rflags = Rflags::from_bits_retain(rflags);
        state.gpr[4] = rsp;
        let cr2 = if vector == 14 { state.cr2 } else { 0 };
        (End::Exception { vector, code, cr2 }, state)
    }
}

impl Subject for VcpuSubject {
    fn run(&mut self, case: &Case) -> Observation {
        let ram = Arc::clone(self.platform.ram());
        let code = case.code();
        ram.write(Gpa(CODE_RAM), &code).unwrap();
        ram.write(Gpa(DATA_RAM), &case.data()[..]).unwrap();
        let (end, state) = match self.execute(case, &code) {
            Ok(result) => result,
            Err(EngineError::Unsupported { .. }) => (End::Unsupported, self.vcpu.save().unwrap()),
            Err(error) => panic!("{error}"),
        };
        let mut data = Box::new([0; DATA_BYTES]);
        ram.read(Gpa(DATA_RAM), &mut data[..]).unwrap();
        let registers = Registers {
            xsave: state.xsave.0,
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags.bits(),
            fs_base: state.segment(SegmentRegister::Fs).base,
            gs_base: state.segment(SegmentRegister::Gs).base,
        };
        Observation { end, registers, data }
    }
}

/// Page tables, descriptor tables and handlers.
fn lay_out(ram: &GuestRam) {
    let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    const USER: u64 = 4;
    const NO_EXECUTE: u64 = 1 << 63;
    let tables = PRESENT | WRITABLE;
    // Ring 3: entry 0 of the PML4, CODE's and DATA's 2 MiB.
    put(PML4, 0x2000 | tables | USER);
    put(0x2000, 0x3000 | tables | USER);
    put(0x3000 + 8 * (CODE >> 21), 0x4000 | tables | USER);
    let page = |at: u64| 0x4000 + 8 * (at >> 12 & 511);
    put(page(CODE), CODE_RAM | PRESENT | USER);
    put(page(DATA), DATA_RAM | PRESENT | WRITABLE | USER | NO_EXECUTE);
    put(page(DATA) + 8, (DATA_RAM + 0x1000) | PRESENT | WRITABLE | USER | NO_EXECUTE);
    put(page(READ_ONLY), (DATA_RAM + 0x2000) | PRESENT | USER | NO_EXECUTE);
    // Ring 0: entry 256, the first 64 KiB.
    put(PML4 + 8 * 256, 0x5000 | tables);
    put(0x5000, 0x6000 | tables);
    put(0x6000, 0x7000 | tables);
    for i in 0..16 {
        put(0x7000 + 8 * i, i << 12 | tables);
    }
    for (selector, descriptor) in [
        (0x08, 0x00af_9b00_0000_ffff_u64),
        (0x10, 0x00cf_9300_0000_ffff),
        (0x20, 0x00cf_fb00_0000_ffff),
        (0x28, 0x00cf_f300_0000_ffff),
        (0x33 & !7, 0x00af_fb00_0000_ffff),
    ] {
        put(GDT + selector, descriptor);
    }
    let tss = KERNEL + TSS;
    put(GDT + 0x40, 0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56);
    put(GDT + 0x48, tss >> 32);
    ram.write(Gpa(TSS + 4), &(KERNEL + STACK_END).to_le_bytes()).unwrap();
    ram.write(Gpa(TSS + 102), &104_u16.to_le_bytes()).unwrap();
    for vector in 0..32 {
        let handler = KERNEL + HANDLERS + 16 * vector;
        // INT3 may be executed at ring 3.
        let rights = if vector == 3 { 0xee00 } else { 0x8e00 };
        put(IDT + 16 * vector, handler & 0xffff | 0x08 << 16 | rights << 32 | (handler >> 16 & 0xffff) << 48);
        put(IDT + 16 * vector + 8, handler >> 32);
        // HLT
        ram.write(Gpa(HANDLERS + 16 * vector), &[0xf4]).unwrap();
    }
}

/// Ring 3 as Linux has it: the same selectors, interrupts on, every unit enabled.
fn user_mode() -> CpuState {
    let mut state = CpuState::reset();
    let null = Segment::default();
    let code = Segment::from_descriptor(0x33, 0x00af_fb00_0000_ffff);
    let stack = Segment::from_descriptor(0x2b, 0x00cf_f300_0000_ffff);
    state.segments = [null, code, stack, null, null, null];
    state.tr = Segment { selector: 0x40, base: KERNEL + TSS, limit: 0x67, attributes: 0x8b };
    state.gdtr = DescriptorTable { base: KERNEL + GDT, limit: 0x4f };
    state.idtr = DescriptorTable { base: KERNEL + IDT, limit: 32 * 16 - 1 };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.cr3 = PML4;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE | Cr4::FSGSBASE | Cr4::UMIP;
    state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    state
}
