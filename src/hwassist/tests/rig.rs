//! A machine for small guests: RAM, a port and a device register that remember what came, one interrupt source.
use super::super::{KvmBackend, flat};
use crate::arch::cpuid::CpuidTable;
use crate::arch::{CpuState, Gpa, Port, Rflags, Width};
use crate::bus::{Bus, InterruptController, MmioDevice, PortDevice, PowerSwitch};
use crate::clock::{Clock, ClockSource, TimerQueue};
use crate::engine::{Backend, EngineError, Exit, KickCell, KvmClock, Platform, PlatformParts, Vcpu, VcpuId};
use crate::mem::GuestRam;
use crate::sys::host_cpuid;
use iced_x86::code_asm::{CodeAssembler, r15};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(in super::super) const CPU: VcpuId = VcpuId(0);
/// The port that records.
pub(in super::super) const PORT: u16 = 0x500;
/// The port whose write powers the machine off.
pub(in super::super) const OFF: u16 = 0x504;
/// The device registers that record.
pub(in super::super) const MMIO: u64 = 0x1000_0000;

/// Records writes; reads count up from 0x1122_3344_5566_7788.
#[derive(Default)]
pub(in super::super) struct Recorder {
    pub(in super::super) writes: Vec<(u64, usize, u64)>,
    pub(in super::super) reads: u64,
    /// What a write to the port raises.
    pub(in super::super) raises: Option<(Arc<OneInterrupt>, u8)>,
}

impl Recorder {
    fn next(&mut self) -> u64 {
        self.reads += 1;
        0x1122_3344_5566_7787 + self.reads
    }
}

impl PortDevice for Recorder {
    fn port_read(&mut self, _: Port, _: Width) -> u32 {
        self.next() as u32
    }
    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        self.writes.push((port.0.into(), width.bytes(), value.into()));
        if let Some((interrupts, vector)) = &self.raises {
            interrupts.raise(*vector);
        }
    }
}

impl MmioDevice for Recorder {
    fn mmio_read(&mut self, _: VcpuId, _: u64, _: Width) -> u64 {
        self.next()
    }
    fn mmio_write(&mut self, _: VcpuId, offset: u64, width: Width, value: u64) {
        self.writes.push((offset, width.bytes(), value));
    }
}

struct OffSwitch(Arc<PowerSwitch>);

impl PortDevice for OffSwitch {
    fn port_read(&mut self, _: Port, _: Width) -> u32 {
        0
    }
    fn port_write(&mut self, _: Port, _: Width, value: u32) {
        self.0.power_off(value);
    }
}

/// One vector that waits, masked by CR8 as a local APIC does.
#[derive(Default)]
pub(in super::super) struct OneInterrupt {
    vector: AtomicU8,
    cr8: AtomicU8,
    base: AtomicU64,
}

impl OneInterrupt {
    pub(in super::super) fn raise(&self, vector: u8) {
        self.vector.store(vector, Ordering::SeqCst);
    }

    /// Raises `vector` unless one still waits.
    pub(in super::super) fn raise_if_idle(&self, vector: u8) -> bool {
        self.vector.compare_exchange(0, vector, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl InterruptController for OneInterrupt {
    fn pending(&self, _: VcpuId) -> bool {
        self.vector.load(Ordering::SeqCst) >> 4 > self.cr8.load(Ordering::SeqCst)
    }
    fn acknowledge(&self, vcpu: VcpuId) -> Option<u8> {
        self.pending(vcpu).then(|| self.vector.swap(0, Ordering::SeqCst))
    }
    fn cr8(&self, _: VcpuId) -> u8 {
        self.cr8.load(Ordering::SeqCst)
    }
    fn set_cr8(&self, _: VcpuId, class: u8) {
        self.cr8.store(class, Ordering::SeqCst);
    }
    fn has_apic(&self, _: VcpuId) -> bool {
        self.base.load(Ordering::SeqCst) >> 11 & 1 != 0
    }
    fn read_msr(&self, _: VcpuId, index: u32) -> Option<u64> {
        (index == crate::arch::msr::APIC_BASE).then(|| self.base.load(Ordering::SeqCst))
    }
    fn write_msr(&self, _: VcpuId, index: u32, value: u64) -> Option<()> {
        (index == crate::arch::msr::APIC_BASE).then(|| self.base.store(value, Ordering::SeqCst))
    }
}

pub(in super::super) struct Rig {
    pub(in super::super) platform: Platform,
    pub(in super::super) interrupts: Arc<OneInterrupt>,
    pub(in super::super) ports: Arc<Mutex<Recorder>>,
    pub(in super::super) mmio: Arc<Mutex<Recorder>>,
    pub(in super::super) cpu: Box<dyn Vcpu>,
}

impl Rig {
    /// A machine in state `state`, or nothing if this host has no KVM; then the reason is printed.
    pub(in super::super) fn new(state: &CpuState) -> Option<Self> {
        let ram = Arc::new(GuestRam::new(4 << 20).unwrap());
        flat::lay_out(&ram).unwrap();
        let (ports, mmio) = (Arc::<Mutex<Recorder>>::default(), Arc::<Mutex<Recorder>>::default());
        let power = Arc::new(PowerSwitch::default());
        let mut bus = Bus::default();
        bus.claim_ports("recorder", Port(PORT)..=Port(PORT + 3), ports.clone()).unwrap();
        let off = Arc::new(Mutex::new(OffSwitch(Arc::clone(&power))));
        bus.claim_ports("off", Port(OFF)..=Port(OFF + 3), off).unwrap();
        bus.claim_mmio("recorder", Gpa(MMIO), 0x1000, mmio.clone()).unwrap();
        let interrupts = Arc::new(OneInterrupt::default());
        interrupts.base.store(0xfee0_0900, Ordering::SeqCst);
        let clock = Arc::new(Clock::new(ClockSource::Real));
        let platform = Platform::new(PlatformParts {
            ram,
            bus,
            interrupts: interrupts.clone(),
            timers: vec![TimerQueue::new()],
            clock,
            power,
            cpuid: CpuidTable::from_host(host_cpuid::query),
            kicks: vec![KickCell::new()],
            hypercalls: None,
            kvm_clock: Some(KvmClock::new(Duration::from_secs(1_700_000_000), 1)),
            keeps_times: false,
        });
        let backend = match KvmBackend::new(&platform) {
            Ok(backend) => backend,
            Err(EngineError::Unavailable { reason, .. }) => {
                eprintln!("skipped: {reason}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        for slot in platform.ram().slots() {
            backend.map_ram(slot).unwrap();
        }
        let cpu = backend.create_vcpu(CPU, state).unwrap();
        Some(Self { platform, interrupts, ports, mmio, cpu })
    }

    /// A flat 64-bit machine that is about to execute what `program` assembles.
    pub(in super::super) fn flat(user: bool, program: impl FnOnce(&mut CodeAssembler)) -> Option<Self> {
        let rig = Self::new(&flat::state(flat::CODE, user))?;
        rig.place(flat::CODE, 64, program);
        Some(rig)
    }

    /// Assembles code to `at`.
    pub(in super::super) fn place(&self, at: u64, bits: u32, program: impl FnOnce(&mut CodeAssembler)) {
        let mut asm = CodeAssembler::new(bits).unwrap();
        program(&mut asm);
        let code = asm.assemble(at).unwrap();
        self.platform.ram().write(Gpa(at), &code).unwrap();
    }

    /// Points a vector to code at `at`.
    pub(in super::super) fn handler(&self, vector: u8, at: u64, program: impl FnOnce(&mut CodeAssembler)) {
        flat::set_gate(self.platform.ram(), vector, at).unwrap();
        self.place(at, 64, program);
    }

    /// Points a vector to a handler that counts in R15.
    pub(in super::super) fn counting_handler(&self, vector: u8) {
        self.handler(vector, 0x1_1000, |a| {
            a.inc(r15).unwrap();
            a.iretq().unwrap();
        });
    }

    /// Sets RFLAGS.IF.
    pub(in super::super) fn allow_interrupts(&mut self) {
        let mut state = self.state();
        state.rflags |= Rflags::IF;
        self.cpu.load(&state).unwrap();
    }

    /// Runs until something ends it.
    pub(in super::super) fn run(&mut self) -> Exit {
        let _bound = self.platform.kick(CPU).bind().unwrap();
        self.cpu.run(&self.platform).unwrap()
    }

    pub(in super::super) fn state(&mut self) -> CpuState {
        self.cpu.save().unwrap()
    }
}
