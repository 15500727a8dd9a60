//! x2APIC mode, and the timer's deadline.
use super::*;

const BASE: u64 = 0xfee0_0000;
const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;

fn in_x2apic() -> Bench {
    let bench = Bench::new();
    for vcpu in [CPU0, CPU1] {
        bench.complex.write_msr(vcpu, msr::APIC_BASE, BASE | ENABLED | EXTENDED).unwrap();
        bench.complex.write_msr(vcpu, 0x80f, 0x1ff).unwrap();
    }
    bench
}

#[test]
fn modes_change_only_in_the_ways_of_the_manual() {
    let bench = Bench::new();
    let set = |bits| bench.complex.write_msr(CPU0, msr::APIC_BASE, BASE | bits);
    assert_eq!(bench.complex.read_msr(CPU0, 0x802), None, "no MSRs before");
    for (bits, allowed) in [
        (EXTENDED, false),
        (ENABLED | EXTENDED, true),
        (ENABLED | EXTENDED, true),
        (ENABLED, false),
        (EXTENDED, false),
        (0, true),
        (ENABLED | EXTENDED, false),
        (ENABLED, true),
        (ENABLED | EXTENDED, true),
    ] {
        assert_eq!(set(bits).is_some(), allowed, "{bits:#x}");
    }
    assert_eq!(bench.read(CPU0, 0x20), u32::MAX, "the page is gone");
}

#[test]
fn registers_are_msrs_and_fault_where_there_is_none() {
    let bench = in_x2apic();
    let read = |index| bench.complex.read_msr(CPU1, index);
    let write = |index, value| bench.complex.write_msr(CPU1, index, value).is_some();
    assert_eq!((read(0x802), read(0x803), read(0x80d)), (Some(1), Some(0x5_0014), Some(2)));
    assert!(write(0x808, 0x50) && read(0x808) == Some(0x50) && bench.complex.cr8(CPU1) == 5);
    assert!(!write(0x808, 0x150) && !write(0x808, 1 << 32));
    assert!(write(0x80b, 0) && !write(0x80b, 1), "EOI");
    assert!(write(0x828, 0) && !write(0x828, 1), "ESR");
    for index in [0x80b, 0x80e, 0x809, 0x831, 0x83f, 0x800, 0x8ff, 0x840] {
        assert_eq!(read(index), None, "{index:#x} cannot be read");
    }
    for index in [0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x827, 0x831, 0x839] {
        assert!(!write(index, 0), "{index:#x} cannot be written");
    }
    assert!(write(0x832, 0x2_0040) && !write(0x832, 0x8_0040));
    assert_eq!(read(0x832), Some(0x2_0040));
}

#[test]
fn one_write_sends_to_32_bit_destinations() {
    let bench = in_x2apic();
    let send = |value: u64| {
        bench.complex.write_msr(CPU0, 0x830, value).unwrap();
        let taken = [CPU0, CPU1].map(|vcpu| bench.take(vcpu).is_some());
        for vcpu in [CPU0, CPU1] {
            bench.complex.write_msr(vcpu, 0x80b, 0).unwrap();
        }
        taken
    };
    assert_eq!(send(1 << 32 | 0x51), [false, true]);
    assert_eq!(bench.complex.read_msr(CPU0, 0x830), Some(1 << 32 | 0x51));
    assert_eq!(send(0xff << 32 | 0x51), [false, false], "0xff is an ID like any other");
    assert_eq!(send(0xffff_ffff << 32 | 0x51), [true, true]);
    assert_eq!(send(3 << 32 | 0x851), [true, true], "logical: both in cluster 0");
    assert_eq!(send(0x1_0002 << 32 | 0x851), [false, false], "another cluster");
    assert_eq!(send(0xc_0051), [false, true]);
    bench.complex.write_msr(CPU0, 0x83f, 0x61).unwrap();
    assert_eq!([bench.take(CPU0), bench.take(CPU1)], [Some(0x61), None], "to itself");
    // The I/O APIC's destinations have 8 bits.
    bench.set_entry(5, 0xff00_0000_0000_0071);
    pulse(&bench.complex, 5);
    assert_eq!([CPU0, CPU1].map(|vcpu| bench.take(vcpu)), [Some(0x71); 2]);
}

#[test]
fn the_deadline_is_in_ticks_of_the_tsc() {
    let bench = Bench::new();
    bench.enable();
    let set = |value| bench.complex.write_msr(CPU0, msr::TSC_DEADLINE, value).unwrap();
    let get = || bench.complex.read_msr(CPU0, msr::TSC_DEADLINE);
    bench.pass(1000);
    set(5000);
    assert_eq!((get(), bench.timers.next_deadline()), (Some(0), None), "not in this mode");
    bench.write(CPU0, 0x320, 0x4_0040);
    bench.write(CPU0, 0x380, 100);
    assert_eq!((bench.read(CPU0, 0x390), bench.timers.next_deadline()), (0, None), "the count is void");
    // The counted clock's TSC ticks in nanoseconds.
    set(5000);
    assert_eq!((get(), bench.timers.next_deadline()), (Some(5000), Some(Nanos(5000))));
    bench.pass(3999);
    assert_eq!(bench.take(CPU0), None);
    bench.pass(1);
    assert_eq!((bench.take(CPU0), get()), (Some(0x40), Some(0)));
    bench.write(CPU0, 0xb0, 0);
    set(10);
    assert_eq!(bench.take(CPU0), Some(0x40), "what has passed fires at once");
    bench.write(CPU0, 0xb0, 0);
    set(u64::MAX);
    set(0);
    assert_eq!(bench.timers.next_deadline(), None);
    set(90_000);
    bench.write(CPU0, 0x320, 0x40);
    assert_eq!(bench.timers.next_deadline(), None, "another mode");
}
