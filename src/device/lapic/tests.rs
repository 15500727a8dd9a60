//! The APIC is tested with the complex around it, in `device/interrupts/tests.rs`; here is what only shows inside.
use super::*;
use crate::clock::{ClockSource, TimerQueue};

fn lapic() -> Lapic {
    let clock = Clock::new(ClockSource::Counted { nanos_per_instruction: 1 });
    Lapic::new(3, Arc::new(clock), TimerQueue::new().add())
}

#[test]
fn reset_values() {
    let mut apic = lapic();
    for (at, value) in [
        (0x20, 0x0300_0000),
        (0x30, 0x5_0014),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x370, 0x1_0000),
        (0x390, 0),
    ] {
        assert_eq!(apic.read(at), value, "{at:#x}");
    }
    assert!(!apic.accepts_extint(), "only the boot processor hears the 8259s");
}

#[test]
fn requests_and_service_show_in_their_registers() {
    let mut apic = lapic();
    assert_eq!(apic.write(0xf0, 0x1ff), Effect::None);
    apic.accept(0x41, true);
    apic.accept(0xff, false);
    assert_eq!((apic.read(0x220), apic.read(0x270)), (2, 1 << 31), "IRR");
    assert_eq!((apic.read(0x1a0), apic.read(0x1f0)), (2, 0), "TMR");
    assert_eq!(apic.acknowledge(), Some(0xff));
    assert_eq!((apic.read(0x170), apic.read(0x270)), (1 << 31, 0), "ISR");
    assert_eq!(apic.write(0xb0, 0), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.write(0xb0, 0), Effect::Eoi(0x41));
}

#[test]
fn the_hosts_timer_is_armed_again_after_it_fired_for_nothing() {
    let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
    let queue = TimerQueue::new();
    let mut apic = Lapic::new(0, clock, queue.add());
    for (at, value) in [(0xf0, 0x1ff), (0x320, 0x40), (0x380, 1000)] {
        assert_eq!(apic.write(at, value), Effect::None);
    }
    let deadline = queue.next_deadline();
    assert!(deadline.is_some());
    assert_eq!(apic.write(0x370, 0x50), Effect::None, "another entry");
    assert_eq!(queue.next_deadline(), deadline);
    queue.run_due(Nanos(u64::MAX - 1));
    assert_eq!(queue.next_deadline(), None);
    apic.timer_fired();
    assert_eq!(queue.next_deadline(), deadline);
    assert_eq!(apic.write(0x320, 0x1_0040), Effect::None, "masked");
    assert_eq!(queue.next_deadline(), None);
    assert_eq!(apic.write(0x320, 0x40), Effect::None);
    assert_eq!(queue.next_deadline(), deadline);
}

#[test]
fn impossible_states_are_refused() {
    let mut apic = lapic();
    let good = apic.saved();
    for spoil in [
        |s: &mut super::SavedLapic| s.model = 0x10,
        |s: &mut super::SavedLapic| s.divide = 4,
        |s: &mut super::SavedLapic| s.lvt[0] = 1 << 14,
        |s: &mut super::SavedLapic| s.base = 1 << 10,
        |s: &mut super::SavedLapic| s.icr[1] = 1,
    ] {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(apic.restore(&bad).is_err());
    }
    assert_eq!(apic.saved(), good);
}
