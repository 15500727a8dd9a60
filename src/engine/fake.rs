//! A machine without devices, for the tests of backends: RAM, an interrupt controller that a test drives by hand, and
//! a port and an MMIO page that remember what was written.
use super::{Hypercalls, KickCell, Platform, PlatformParts};
use crate::arch::cpuid::{CpuidResult, CpuidTable};
use crate::arch::{CpuState, paging};
use crate::arch::{Cr0, Cr4, Efer, Gpa, Port, Segment, Width, msr};
use crate::bus::{Bus, InterruptController, MmioDevice, PortDevice, PowerSwitch, VcpuId};
use crate::clock::{Clock, ClockSource, TimerQueue};
use crate::mem::GuestRam;
use crate::sys::host_cpuid;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Interrupts that a test queues; CR8 and IA32_APIC_BASE are plain cells.
#[derive(Debug, Default)]
pub(crate) struct FakeInterrupts {
    chip: Mutex<FakeChip>,
    /// What [`FakeChip::pending`] says. It is written with the chip locked: a thread that raises and one that
    /// acknowledges would otherwise leave it as the slower of them saw it.
    flag: AtomicBool,
    apic_base: Mutex<u64>,
    kick: Mutex<Option<Arc<KickCell>>>,
}

#[derive(Debug, Default)]
struct FakeChip {
    queue: VecDeque<u8>,
    cr8: u8,
}

impl FakeChip {
    fn pending(&self) -> bool {
        self.queue.front().is_some_and(|v| v >> 4 > self.cr8)
    }
}

impl FakeInterrupts {
    fn with<R>(&self, work: impl FnOnce(&mut FakeChip) -> R) -> R {
        let mut chip = self.chip.lock().unwrap();
        let result = work(&mut chip);
        self.flag.store(chip.pending(), Ordering::SeqCst);
        result
    }

    /// Makes `vector` pending and pokes the vCPU.
    pub(crate) fn raise(&self, vector: u8) {
        self.with(|chip| chip.queue.push_back(vector));
        if let Some(kick) = &*self.kick.lock().unwrap() {
            kick.poke();
        }
    }
}

impl InterruptController for FakeInterrupts {
    fn pending(&self, _: VcpuId) -> bool {
        self.flag.load(Ordering::Acquire)
    }
    fn acknowledge(&self, _: VcpuId) -> Option<u8> {
        self.with(|chip| if chip.pending() { chip.queue.pop_front() } else { None })
    }
    fn pending_flag(&self, _: VcpuId) -> Option<&AtomicBool> {
        Some(&self.flag)
    }
    fn cr8(&self, _: VcpuId) -> u8 {
        self.chip.lock().unwrap().cr8
    }
    fn set_cr8(&self, _: VcpuId, class: u8) {
        self.with(|chip| chip.cr8 = class);
    }
    fn has_apic(&self, _: VcpuId) -> bool {
        *self.apic_base.lock().unwrap() >> 11 & 1 != 0
    }
    fn read_msr(&self, _: VcpuId, index: u32) -> Option<u64> {
        (index == msr::APIC_BASE).then(|| *self.apic_base.lock().unwrap())
    }
    fn write_msr(&self, _: VcpuId, index: u32, value: u64) -> Option<()> {
        (index == msr::APIC_BASE).then(|| *self.apic_base.lock().unwrap() = value)
    }
}

/// Records accesses; reads give [`FakeDevice::answer`].
#[derive(Debug, Default)]
pub(crate) struct FakeDevice {
    /// What reads return.
    pub(crate) answer: u64,
    /// Writes: where (port number or offset), how many bytes, what.
    pub(crate) writes: Vec<(u64, usize, u64)>,
    /// Reads: where, how many bytes.
    pub(crate) reads: Vec<(u64, usize)>,
    /// What a write to a port does, given its value.
    pub(crate) on_port_write: Hook,
}

/// Something to do.
#[derive(Default)]
pub(crate) struct Hook(pub(crate) Option<Box<dyn FnMut(u32) + Send>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Hook" } else { "no hook" })
    }
}

impl PortDevice for FakeDevice {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        self.reads.push((port.0.into(), width.bytes()));
        self.answer as u32
    }
    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        self.writes.push((port.0.into(), width.bytes(), value.into()));
        if let Some(hook) = &mut self.on_port_write.0 {
            hook(value);
        }
    }
}

impl MmioDevice for FakeDevice {
    fn mmio_read(&mut self, _: VcpuId, offset: u64, width: Width) -> u64 {
        self.reads.push((offset, width.bytes()));
        self.answer
    }
    fn mmio_write(&mut self, _: VcpuId, offset: u64, width: Width, value: u64) {
        self.writes.push((offset, width.bytes(), value));
    }
}

/// What a machine offers that not every one does.
#[derive(Clone, Copy, Default)]
struct Offers {
    hypercalls: bool,
    protection_keys: bool,
}

/// The machine and the handles a test needs.
pub(crate) struct FakeMachine {
    /// What a backend is given.
    pub(crate) platform: Platform,
    /// Interrupts.
    pub(crate) interrupts: Arc<FakeInterrupts>,
    /// The device at [`FakeMachine::PORTS`].
    pub(crate) port: Arc<Mutex<FakeDevice>>,
    /// The device at [`FakeMachine::MMIO`].
    pub(crate) mmio: Arc<Mutex<FakeDevice>>,
    /// Deadlines.
    pub(crate) timers: Arc<TimerQueue>,
    /// What hypercalls wrote to the console.
    pub(crate) text: Arc<Mutex<Vec<u8>>>,
}

impl FakeMachine {
    /// Where the MMIO device lies (one page).
    pub(crate) const MMIO: Gpa = Gpa(0xd000_0000);
    /// The ports of the port device.
    pub(crate) const PORTS: std::ops::RangeInclusive<Port> = Port(0x500)..=Port(0x507);
    /// Where [`Self::long_mode`] puts its page tables: three pages that map the first GiB and the fourth to themselves.
    pub(crate) const TABLES: Gpa = Gpa(0x1000);

    /// One vCPU and `size` bytes of RAM, the host's CPUID; no hypercalls.
    pub(crate) fn new(size: u64, source: ClockSource) -> Self {
        Self::with(size, source, Offers::default(), host_cpuid::query)
    }

    /// The same on a host whose CPU is of another vendor: 12 letters.
    pub(crate) fn of_vendor(size: u64, vendor: [u8; 12]) -> Self {
        Self::with(size, ClockSource::Real, Offers::default(), move |leaf, subleaf| {
            let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| vendor[4 * i + j]));
            let own = host_cpuid::query(leaf, subleaf);
            if leaf == 0 { CpuidResult { ebx: word(0), edx: word(1), ecx: word(2), ..own } } else { own }
        })
    }

    /// The same, which offers hypercalls.
    pub(crate) fn offering_hypercalls(size: u64, source: ClockSource) -> Self {
        let offers = Offers { hypercalls: true, ..Offers::default() };
        Self::with(size, source, offers, host_cpuid::query)
    }

    /// The same, which offers protection keys.
    pub(crate) fn offering_protection_keys(size: u64) -> Self {
        let offers = Offers { protection_keys: true, ..Offers::default() };
        Self::with(size, ClockSource::Real, offers, host_cpuid::query)
    }

    fn with(size: u64, source: ClockSource, offers: Offers, host: impl Fn(u32, u32) -> CpuidResult) -> Self {
        let ram = Arc::new(GuestRam::new(size).unwrap());
        let interrupts = Arc::new(FakeInterrupts::default());
        *interrupts.apic_base.lock().unwrap() = 0xfee0_0900;
        let (port, mmio) = <(Arc<Mutex<FakeDevice>>, Arc<Mutex<FakeDevice>>)>::default();
        let mut bus = Bus::default();
        bus.claim_ports("fake", Self::PORTS, port.clone()).unwrap();
        bus.claim_mmio("fake", Self::MMIO, 0x1000, mmio.clone()).unwrap();
        let timers = TimerQueue::new();
        let power = Arc::new(PowerSwitch::default());
        let kick = KickCell::new();
        *interrupts.kick.lock().unwrap() = Some(Arc::clone(&kick));
        let controller: Arc<dyn InterruptController> = interrupts.clone();
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let written = Arc::clone(&text);
        let sink = Box::new(move |bytes: &[u8]| written.lock().unwrap().extend_from_slice(bytes));
        let platform = Platform::new(PlatformParts {
            ram,
            bus,
            interrupts: controller,
            clock: Arc::new(Clock::new(source)),
            timers: vec![Arc::clone(&timers)],
            power,
            cpuid: {
                let mut cpuid = CpuidTable::from_host(host);
                cpuid.offer_process_contexts();
                if offers.protection_keys {
                    cpuid.offer_protection_keys();
                }
                cpuid
            },
            kicks: vec![kick],
            hypercalls: offers.hypercalls.then(|| Hypercalls::new(sink)),
            kvm_clock: None,
            keeps_times: false,
        });
        Self { text, platform, interrupts, port, mmio, timers }
    }

    /// Guest RAM.
    pub(crate) fn ram(&self) -> &Arc<GuestRam> {
        self.platform.ram()
    }

    /// A state in 64-bit mode at `rip`, ring 0, stack at `rsp`, over page tables at [`Self::TABLES`] that map the first
    /// and the fourth GiB to themselves with 2 MiB and 1 GiB pages, writable and for ring 3 too. GDT and IDT are empty.
    pub(crate) fn long_mode(&self, rip: u64, rsp: u64) -> CpuState {
        let ram = self.ram();
        let table = Self::TABLES.0;
        let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
        put(table, (table + 0x1000) | 7);
        put(table + 0x1000, (table + 0x2000) | 7);
        put(table + 0x1018, 0xc000_0000 | 0x87);
        for i in 0..512 {
            put(table + 0x2000 + 8 * i, i << 21 | 0x87);
        }
        let mut state = CpuState::reset();
        state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::MP;
        state.cr3 = table;
        state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
        state.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
        let data = Segment::flat32(0x10, 0x3);
        state.segments = [data; 6];
        state.segments[1] = Segment { attributes: 0xa09b, ..Segment::flat32(0x8, 0xb) };
        state.gdtr.limit = 0;
        state.idtr.limit = 0;
        state.rip = rip;
        state.gpr[crate::arch::state::gpr::RSP] = rsp;
        state
    }
}

#[test]
fn the_long_mode_fixture_maps_memory_to_itself() {
    let machine = FakeMachine::new(1 << 20, ClockSource::Real);
    let state = machine.long_mode(0x8000, 0x9000);
    let mode = paging::PagingMode::of(&state);
    for at in [0x8123, 0x1f_ffff, 0xd000_0010] {
        assert_eq!(paging::peek(&**machine.ram(), &mode, crate::arch::Gva(at)), Some(Gpa(at)));
    }
    assert!(state.is_64bit_code());
}
