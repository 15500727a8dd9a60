mod x2apic;

use super::*;
use crate::arch::{Gpa, Port, Width, msr};
use crate::bus::{MmioTarget, OwnPage, PortTarget};
use crate::clock::ClockSource;
use proptest::prelude::*;
use std::sync::atomic::AtomicU32;

const CPU0: VcpuId = VcpuId(0);
const CPU1: VcpuId = VcpuId(1);

struct Bench {
    clock: Arc<Clock>,
    timers: Arc<TimerQueue>,
    complex: Arc<InterruptComplex>,
    pokes: Arc<[AtomicU32; 2]>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        let timers = TimerQueue::new();
        let pokes = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let seen = Arc::clone(&pokes);
        let poke: Poke = Box::new(move |v| {
            seen[usize::from(v.0)].fetch_add(1, Ordering::SeqCst);
        });
        // Both local APICs' timers are in one queue, which is run at once.
        let complex = InterruptComplex::new(&clock, &[Arc::clone(&timers), Arc::clone(&timers)], poke);
        Self { clock, timers, complex, pokes }
    }

    /// With the 8259s at vectors 0x20 and 0x28 and nothing masked.
    fn with_pics() -> Self {
        let bench = Self::new();
        let ports = PicPorts(Arc::clone(&bench.complex));
        for (port, words) in [(0x20, [0x11, 0x20, 4, 1, 0]), (0xa0, [0x11, 0x28, 2, 1, 0])] {
            for (i, word) in words.into_iter().enumerate() {
                ports.port_write(Port(port + u16::from(i > 0)), Width::B1, word);
            }
        }
        bench
    }

    fn write(&self, vcpu: VcpuId, offset: u64, value: u32) {
        LapicPage(Arc::clone(&self.complex)).mmio_write(vcpu, offset, Width::B4, value.into());
    }

    fn read(&self, vcpu: VcpuId, offset: u64) -> u32 {
        LapicPage(Arc::clone(&self.complex)).mmio_read(vcpu, offset, Width::B4) as u32
    }

    /// Sets both APICs' software enable.
    fn enable(&self) {
        self.write(CPU0, 0xf0, 0x1ff);
        self.write(CPU1, 0xf0, 0x1ff);
    }

    fn set_entry(&self, pin: u64, entry: u64) {
        let page = IoApicPage(Arc::clone(&self.complex));
        for (half, value) in [(0x11, entry >> 32), (0x10, entry & 0xffff_ffff)] {
            page.mmio_write(CPU0, 0, Width::B4, half + 2 * pin);
            page.mmio_write(CPU0, 0x10, Width::B4, value);
        }
    }

    /// Lets `nanos` pass and runs what is due.
    fn pass(&self, nanos: u64) {
        self.clock.retire(nanos);
        self.timers.run_due(self.clock.now());
    }

    fn take(&self, vcpu: VcpuId) -> Option<u8> {
        let pending = self.complex.pending(vcpu);
        let vector = self.complex.acknowledge(vcpu);
        assert_eq!(pending, vector.is_some());
        vector
    }

    fn pokes(&self) -> [u32; 2] {
        [0, 1].map(|i| self.pokes[i].load(Ordering::SeqCst))
    }
}

fn pulse(complex: &InterruptComplex, line: u8) {
    complex.set_line(line, true);
    complex.set_line(line, false);
}

#[test]
fn the_8259s_reach_the_boot_cpu_that_never_touches_its_apic() {
    let bench = Bench::with_pics();
    pulse(&bench.complex, 4);
    assert_eq!(bench.pokes(), [1, 0]);
    pulse(&bench.complex, 3);
    assert_eq!(bench.pokes(), [1, 0], "a vCPU is poked once, when it becomes pending");
    assert_eq!(bench.take(CPU1), None);
    assert_eq!(bench.take(CPU0), Some(0x23));
    assert_eq!(bench.take(CPU0), None, "IR3 is in service");
}

#[test]
fn lint0_and_the_global_enable_gate_the_8259s() {
    let bench = Bench::with_pics();
    bench.enable();
    pulse(&bench.complex, 4);
    assert!(bench.complex.pending(CPU0), "enabling alone does not take LINT0 away");
    bench.write(CPU0, 0x350, 0x1_0700);
    assert!(!bench.complex.pending(CPU0));
    bench.write(CPU0, 0x350, 0x700);
    assert!(bench.complex.pending(CPU0));
    bench.write(CPU0, 0x350, 0x1_0700);
    let base = bench.complex.read_msr(CPU0, msr::APIC_BASE).unwrap();
    assert_eq!(base, 0xfee0_0900);
    bench.complex.write_msr(CPU0, msr::APIC_BASE, base & !0x800).unwrap();
    assert!(bench.complex.pending(CPU0), "a disabled APIC is a wire");
    assert_eq!(bench.read(CPU0, 0x30), u32::MAX);
    assert_eq!(bench.take(CPU0), Some(0x24));
}

#[test]
fn software_disable_masks_the_table_but_for_lint0() {
    let bench = Bench::with_pics();
    bench.enable();
    bench.write(CPU0, 0x320, 0x40);
    bench.write(CPU0, 0xf0, 0xff);
    assert_eq!(bench.read(CPU0, 0x320), 0x1_0040);
    bench.write(CPU0, 0x320, 0x41);
    assert_eq!(bench.read(CPU0, 0x320), 0x1_0041, "the mask cannot be cleared");
    pulse(&bench.complex, 1);
    assert_eq!(bench.take(CPU0), Some(0x21));
}

#[test]
fn lint0_in_fixed_mode_delivers_its_own_vector() {
    let bench = Bench::with_pics();
    bench.enable();
    bench.write(CPU0, 0x350, 0x61);
    bench.complex.set_line(1, true);
    assert_eq!(bench.take(CPU0), Some(0x61));
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), None, "an edge counts once");
    bench.write(CPU0, 0x350, 0x8062);
    assert_eq!(bench.take(CPU0), Some(0x62));
    assert_ne!(bench.read(CPU0, 0x350) & 1 << 14, 0);
    assert_eq!(bench.take(CPU0), None);
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), Some(0x62), "INTR is still high");
}

#[test]
fn priorities_follow_tpr_and_service() {
    let bench = Bench::new();
    bench.enable();
    for vector in [0x31, 0x45] {
        bench.write(CPU0, 0x300, 0x4_0000 | vector);
    }
    bench.complex.set_cr8(CPU0, 4);
    assert_eq!(bench.read(CPU0, 0x80), 0x40);
    assert_eq!(bench.take(CPU0), None);
    bench.write(CPU0, 0x80, 0x3f);
    assert_eq!(bench.take(CPU0), Some(0x45));
    assert_eq!(bench.read(CPU0, 0xa0), 0x40, "PPR");
    bench.complex.set_cr8(CPU0, 0);
    assert_eq!(bench.take(CPU0), None);
    bench.write(CPU0, 0x300, 0x4_0046);
    assert_eq!(bench.take(CPU0), None, "same class");
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), Some(0x46));
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), Some(0x31));
    assert_eq!(bench.complex.cr8(CPU0), 0);
}

#[test]
fn ipis_go_where_they_are_sent() {
    let bench = Bench::new();
    bench.enable();
    let all = |bench: &Bench| [bench.take(CPU0), bench.take(CPU1)].map(|v| v.unwrap_or(0));
    let end = |bench: &Bench| [CPU0, CPU1].map(|v| bench.write(v, 0xb0, 0));
    for (high, low, expected) in [
        (1, 0x50, [0, 0x50]),
        (0, 0x50, [0x50, 0]),
        (0xff, 0x51, [0x51, 0x51]),
        (9, 0x51, [0, 0]),
        (0, 0x4_0052, [0x52, 0]),
        (0, 0x8_0053, [0x53, 0x53]),
        (0, 0xc_0054, [0, 0x54]),
        (0x02, 0x855, [0, 0x55]),
        (0x03, 0x955, [0x55, 0]),
    ] {
        bench.write(CPU0, 0xd0, 0x0100_0000);
        bench.write(CPU1, 0xd0, 0x0200_0000);
        bench.write(CPU0, 0x310, high << 24);
        bench.write(CPU0, 0x300, low);
        assert_eq!(all(&bench), expected, "ICR {high:#x} {low:#x}");
        end(&bench);
    }
    assert_eq!(bench.pokes()[1], 5);
    bench.write(CPU0, 0x300, 0x4_000f);
    bench.write(CPU0, 0x280, 0);
    assert_eq!(bench.read(CPU0, 0x280), 0x20, "illegal vector sent");
}

#[test]
fn messages_of_devices_reach_physical_and_logical_destinations() {
    let bench = Bench::new();
    bench.enable();
    // Flat logical addresses 1 and 2.
    for (vcpu, address) in [(CPU0, 1 << 24), (CPU1, 2 << 24)] {
        bench.write(vcpu, 0xe0, u32::MAX);
        bench.write(vcpu, 0xd0, address);
    }
    for (address, to) in [
        (0xfee0_0000, [true, false]),
        (0xfee0_1000, [false, true]),
        (0xfee0_1004, [true, false]),
        (0xfee0_200c, [false, true]),
        (0xfee0_3004, [true, true]),
        (0xfed0_0000, [false, false]),
        (0x1_fee0_0000, [false, false]),
    ] {
        bench.complex.send(address, 0x61);
        let taken = [CPU0, CPU1].map(|vcpu| bench.take(vcpu) == Some(0x61));
        assert_eq!(taken, to, "{address:#x}");
        for vcpu in [CPU0, CPU1] {
            bench.write(vcpu, 0xb0, 0);
        }
    }
}

/// The messages that came for a vCPU, in the order in which it takes them.
fn signals(bench: &Bench, vcpu: VcpuId) -> (Vec<CpuSignal>, bool) {
    let signals = std::iter::from_fn(|| bench.complex.take_signal(vcpu)).collect();
    (signals, bench.complex.take_nmi(vcpu))
}

#[test]
fn init_start_up_and_nmi_reach_the_cpus_they_are_sent_to() {
    let bench = Bench::new();
    bench.enable();
    let send = |high: u32, low: u32| {
        bench.write(CPU0, 0x310, high << 24);
        bench.write(CPU0, 0x300, low);
    };
    let both = || [CPU0, CPU1].map(|vcpu| signals(&bench, vcpu));
    send(1, 0x4608);
    assert_eq!(both(), [(vec![], false), (vec![CpuSignal::StartUp(8)], false)], "it waits since reset");
    send(1, 0x4609);
    assert_eq!(both()[1], (vec![], false), "it waits no more");
    let pokes = bench.pokes()[1];
    send(0, 0xc_c500);
    assert_eq!(bench.pokes()[1], pokes + 1);
    send(1, 0x8500);
    send(1, 0x460a);
    send(1, 0x460b);
    assert_eq!(both(), [(vec![], false), (vec![CpuSignal::Init, CpuSignal::StartUp(0xa)], false)]);
    assert_eq!(bench.read(CPU1, 0xf0), 0xff, "INIT resets the APIC");
    send(0xff, 0x4400);
    assert_eq!(both(), [(vec![], true), (vec![], true)], "to all");
    send(0, 0xc_4400);
    assert_eq!(both(), [(vec![], false), (vec![], true)], "to all others");
    send(0, 0x8_4400);
    assert_eq!(both(), [(vec![], false), (vec![], false)], "not to all with oneself");
    send(0, 0x4500);
    send(0, 0x4608);
    assert_eq!(both()[0], (vec![CpuSignal::Init], false), "the boot processor waits for no start-up");
    // By message of a device.
    bench.complex.send(0xfee0_1000, 0x400);
    assert_eq!(both(), [(vec![], false), (vec![], true)]);
}

#[test]
fn the_lowest_priority_is_chosen_of_those_that_take_interrupts() {
    let bench = Bench::new();
    for (vcpu, address) in [(CPU0, 1 << 24), (CPU1, 2 << 24)] {
        bench.write(vcpu, 0xd0, address);
    }
    bench.write(CPU1, 0xf0, 0x1ff);
    let send = || {
        bench.complex.send(0xfee0_3004, 0x171);
        let taken = [CPU0, CPU1].map(|vcpu| bench.take(vcpu).is_some());
        bench.write(CPU0, 0xb0, 0);
        bench.write(CPU1, 0xb0, 0);
        taken
    };
    assert_eq!(send(), [false, true], "the first one is not enabled");
    bench.write(CPU0, 0xf0, 0x1ff);
    assert_eq!(send(), [true, false]);
    bench.write(CPU0, 0x80, 0x50);
    assert_eq!(send(), [false, true]);
}

#[test]
fn cluster_addresses() {
    let bench = Bench::new();
    bench.enable();
    for (vcpu, ldr) in [(CPU0, 0x11), (CPU1, 0x24)] {
        bench.write(vcpu, 0xe0, 0);
        bench.write(vcpu, 0xd0, ldr << 24);
    }
    for (destination, expected) in
        [(0x11, [true, false]), (0x2f, [false, true]), (0xff, [true, true]), (0x12, [false; 2])]
    {
        bench.write(CPU0, 0x310, destination << 24);
        bench.write(CPU0, 0x300, 0x860);
        assert_eq!([CPU0, CPU1].map(|v| bench.take(v).is_some()), expected, "{destination:#x}");
        for vcpu in [CPU0, CPU1] {
            bench.write(vcpu, 0xb0, 0);
        }
    }
}

#[test]
fn the_io_apic_delivers_lines_and_hears_of_their_end() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x350, 0x1_0700);
    bench.set_entry(2, 0x0100_0000_0000_0070);
    pulse(&bench.complex, 0);
    assert_eq!(bench.take(CPU1), Some(0x70), "the PIT's line is pin 2");
    bench.set_entry(11, 0x8071);
    bench.complex.set_line(11, true);
    assert_eq!(bench.take(CPU0), Some(0x71));
    assert_eq!(bench.take(CPU0), None);
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), Some(0x71), "still high after its end");
    bench.complex.set_line(11, false);
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), None);
}

#[test]
fn a_one_shot_timer_fires_once_and_a_periodic_one_again() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x320, 0x40);
    bench.write(CPU0, 0x3e0, 0xb);
    bench.write(CPU0, 0x380, 1000);
    bench.pass(400);
    assert_eq!(bench.read(CPU0, 0x390), 600);
    bench.pass(599);
    assert_eq!(bench.take(CPU0), None);
    bench.pass(1);
    assert_eq!((bench.take(CPU0), bench.read(CPU0, 0x390)), (Some(0x40), 0));
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.timers.next_deadline(), None);

    bench.write(CPU0, 0x320, 0x2_0041);
    bench.write(CPU0, 0x3e0, 0x0);
    bench.write(CPU0, 0x380, 50_000);
    for _ in 0..3 {
        bench.pass(100_000);
        assert_eq!(bench.take(CPU0), Some(0x41));
        bench.write(CPU0, 0xb0, 0);
    }
    bench.pass(350_000);
    assert_eq!(bench.take(CPU0), Some(0x41), "missed periods are merged");
    bench.write(CPU0, 0xb0, 0);
    assert_eq!(bench.take(CPU0), None);
    assert_eq!(bench.read(CPU0, 0x390), 25_000, "the phase is kept");
    bench.write(CPU0, 0x380, 0);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn a_masked_timer_counts_in_silence() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x3e0, 0xb);
    bench.write(CPU0, 0x320, 0x3_0040);
    bench.write(CPU0, 0x380, 20_000);
    assert_eq!(bench.timers.next_deadline(), None);
    bench.pass(30_000);
    assert_eq!(bench.read(CPU0, 0x390), 10_000);
    bench.write(CPU0, 0x320, 0x2_0040);
    assert_eq!(bench.take(CPU0), None);
    bench.pass(10_000);
    assert_eq!(bench.take(CPU0), Some(0x40));
}

#[test]
fn a_tiny_period_does_not_bury_the_host() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x320, 0x2_0040);
    bench.write(CPU0, 0x3e0, 0xb);
    bench.write(CPU0, 0x380, 1);
    let mut fired = 0;
    for _ in 0..1000 {
        bench.pass(100);
        if bench.take(CPU0).is_some() {
            fired += 1;
            bench.write(CPU0, 0xb0, 0);
        }
    }
    assert_eq!(fired, 10);
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x3e0, 0xb);
    bench.write(CPU0, 0x380, 1000);
    bench.pass(200);
    bench.write(CPU0, 0x3e0, 0);
    assert_eq!(bench.read(CPU0, 0x390), 800);
    bench.pass(200);
    assert_eq!(bench.read(CPU0, 0x390), 700);
    for (code, by) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128), (0xb, 1)] {
        bench.write(CPU0, 0x3e0, code);
        bench.write(CPU0, 0x380, 1000);
        bench.pass(by * 10);
        assert_eq!(bench.read(CPU0, 0x390), 990, "divide configuration {code:#x}");
    }
}

#[test]
fn illegal_vectors_and_addresses_are_errors() {
    let bench = Bench::new();
    bench.enable();
    bench.write(CPU0, 0x370, 0x90);
    assert_eq!(bench.read(CPU0, 0x40), 0);
    assert_eq!(bench.take(CPU0), Some(0x90));
    assert_eq!(bench.read(CPU0, 0x280), 0);
    bench.write(CPU0, 0x280, 0);
    assert_eq!(bench.read(CPU0, 0x280), 0x80);
    bench.write(CPU0, 0x280, 0);
    assert_eq!(bench.read(CPU0, 0x280), 0);
    // An error entry with an illegal vector of its own reports nothing, and ends.
    bench.write(CPU0, 0x370, 0x5);
    bench.read(CPU0, 0x40);
}

#[test]
fn apic_base_faults_on_reserved_bits() {
    let bench = Bench::new();
    let write = |value| bench.complex.write_msr(CPU0, msr::APIC_BASE, value);
    assert_eq!(write(0xfee0_0901), None);
    assert_eq!(bench.complex.read_msr(CPU0, 0x802), None);
    assert_eq!(bench.complex.write_msr(CPU0, 0x80b, 0), None);
    bench.enable();
    bench.write(CPU0, 0x80, 0x77);
    write(0xfee0_0100).unwrap();
    write(0xfee0_0900).unwrap();
    assert_eq!(bench.read(CPU0, 0x80), 0, "enabling again resets");
    assert_eq!(bench.read(CPU0, 0xf0), 0xff);
    assert_eq!(bench.complex.read_msr(CPU1, msr::APIC_BASE), Some(0xfee0_0800));
}

#[test]
fn the_page_is_where_the_base_says() {
    let bench = Bench::new();
    let page = LapicPage(Arc::clone(&bench.complex));
    let places = || [CPU0, CPU1].map(|cpu| (page.place(cpu), bench.complex.has_apic(cpu)));
    let usual = (Some(Gpa(0xfee0_0000)), true);
    assert_eq!(places(), [usual; 2]);
    for (base, place) in [
        (0xfed4_0900, (Some(Gpa(0xfed4_0000)), true)),
        (0xfed4_0100, (None, false)),
        (0xfee0_0900, usual),
        (0xfee0_0d00, (None, true)),
    ] {
        bench.complex.write_msr(CPU0, msr::APIC_BASE, base).unwrap();
        assert_eq!(places(), [place, usual], "{base:#x}");
    }
    let saved = bench.complex.saved();
    let other = Bench::new();
    other.complex.restore(&saved).unwrap();
    assert_eq!(LapicPage(Arc::clone(&other.complex)).place(CPU0), None);
    // What INIT leaves alone.
    bench.complex.write_msr(CPU1, msr::APIC_BASE, 0xfed4_0800).unwrap();
    bench.complex.with(|chips| chips.lapics[1].init());
    assert_eq!(page.place(CPU1), Some(Gpa(0xfed4_0000)));
    assert_eq!(page.place(VcpuId(9)), None, "no such vCPU");
}

#[test]
fn registers_answer_only_to_their_width() {
    let bench = Bench::new();
    let page = LapicPage(Arc::clone(&bench.complex));
    assert_eq!(page.mmio_read(CPU1, 0x20, Width::B8), 0x0100_0000);
    assert_eq!(page.mmio_read(CPU1, 0x23, Width::B1), 1);
    assert_eq!(page.mmio_read(CPU1, 0x24, Width::B4), 0);
    page.mmio_write(CPU1, 0x80, Width::B1, 0x20);
    page.mmio_write(CPU1, 0x84, Width::B4, 0x20);
    assert_eq!(bench.complex.cr8(CPU1), 0);
    assert_eq!(page.mmio_read(VcpuId(9), 0x20, Width::B4), 0xffff_ffff, "no such vCPU");
    page.mmio_write(VcpuId(9), 0x20, Width::B4, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, bool),
    Port(u16, u32, Option<Width>),
    Lapic(u8, u64, Option<u32>),
    IoApic(u64, u32),
    Pass(u32),
    Acknowledge(u8),
    Base(u8, u64),
    Cr8(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop::sample::select(vec![Width::B1, Width::B2, Width::B4]);
    let port = prop::sample::select(vec![0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]);
    let common =
        prop::sample::select(vec![0xf0, 0x300, 0x310, 0x320, 0x350, 0x370, 0x380, 0x3e0, 0xb0, 0x280]);
    let value = prop_oneof![any::<u32>(), (0..0x400_u32), Just(0x1ff)];
    prop_oneof![
        (0..30_u8, any::<bool>()).prop_map(|(l, v)| Step::Line(l, v)),
        (port, any::<u32>(), prop::option::of(width)).prop_map(|(p, v, w)| Step::Port(p, v, w)),
        (0..3_u8, prop_oneof![0..0x1000_u64, common], prop::option::of(value))
            .prop_map(|(c, o, v)| Step::Lapic(c, o, v)),
        (prop::sample::select(vec![0_u64, 0x10, 0x11, 0x40]), any::<u32>())
            .prop_map(|(o, v)| Step::IoApic(o, v)),
        (0..200_000_u32).prop_map(Step::Pass),
        (0..3_u8).prop_map(Step::Acknowledge),
        (0..3_u8, prop::sample::select(vec![0xfee0_0900_u64, 0xfee0_0100, 0xfee0_0d00]))
            .prop_map(|(c, v)| Step::Base(c, v)),
        (0..3_u8, 0..16_u8).prop_map(|(c, v)| Step::Cr8(c, v)),
    ]
}

impl Bench {
    fn apply(&self, step: &Step) -> Option<u8> {
        match *step {
            Step::Line(line, level) => self.complex.set_line(line, level),
            Step::Port(port, value, width) => {
                let ports = PicPorts(Arc::clone(&self.complex));
                match width {
                    Some(width) => ports.port_write(Port(port), width, value),
                    None => return Some(ports.port_read(Port(port), Width::B1) as u8),
                }
            }
            Step::Lapic(vcpu, offset, Some(value)) => self.write(VcpuId(vcpu), offset & !3, value),
            Step::Lapic(vcpu, offset, None) => return Some(self.read(VcpuId(vcpu), offset) as u8),
            Step::IoApic(offset, value) => {
                IoApicPage(Arc::clone(&self.complex)).mmio_write(CPU0, offset, Width::B4, value.into());
            }
            Step::Pass(nanos) => self.pass(nanos.into()),
            Step::Acknowledge(vcpu) => return self.take(VcpuId(vcpu)),
            Step::Base(vcpu, value) => {
                return self.complex.write_msr(VcpuId(vcpu), msr::APIC_BASE, value).map(|()| 1);
            }
            Step::Cr8(vcpu, class) => self.complex.set_cr8(VcpuId(vcpu), class),
        }
        None
    }
}

#[test]
fn a_refused_state_changes_nothing() {
    let (bench, other) = (Bench::with_pics(), Bench::new());
    bench.enable();
    bench.write(CPU0, 0x80, 0x30);
    bench.set_entry(5, 0x31);
    let good = bench.complex.saved();
    let before = other.complex.saved();
    assert_ne!(good.lapics[0], before.lapics[0]);
    let breaks: [fn(&mut SavedInterrupts); 5] = [
        |s| s.lapics[1].model = 0x10,
        |s| s.lapics[0].divide = 4,
        |s| s.ioapic.id = 16,
        |s| s.lapics.truncate(1),
        |s| s.lapics.push(s.lapics[0].clone()),
    ];
    for damage in breaks {
        let mut bad = good.clone();
        damage(&mut bad);
        assert!(other.complex.restore(&bad).is_err());
        assert_eq!(other.complex.saved(), before);
    }
    other.complex.restore(&good).unwrap();
    assert_eq!(other.complex.saved(), good);
}

proptest! {
    #[test]
    fn a_restored_complex_behaves_like_the_saved_one(
        before in prop::collection::vec(step(), 0..80),
        after in prop::collection::vec(step(), 0..40),
    ) {
        let (bench, other) = (Bench::new(), Bench::new());
        for s in &before {
            bench.apply(s);
        }
        let bytes = postcard::to_allocvec(&bench.complex.saved()).unwrap();
        other.clock.retire(bench.clock.now().0);
        other.complex.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        prop_assert_eq!(other.complex.saved(), bench.complex.saved());
        for s in &after {
            prop_assert_eq!(bench.apply(s), other.apply(s));
            prop_assert_eq!(bench.complex.saved(), other.complex.saved());
        }
    }
}
