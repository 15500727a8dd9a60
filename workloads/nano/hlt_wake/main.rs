//! HLT and the interrupt that ends it: one already pending, and one of the timer 100 µs later (wait included).
#![no_std]
#![no_main]

use guest::trap::{self, IRQ_BASE, SELF_IPI, TAKEN};
use guest::{Checksum, Run, cpu, lapic, pic, pit};

guest::entry!(main);

/// Input clocks of the 8254 in 100 µs.
const WAIT: u16 = (pit::FREQUENCY / 10_000) as u16;

/// Sleeps until an interrupt was counted. Interrupts are off before and after.
fn sleep() -> u64 {
    let before = TAKEN.read();
    while TAKEN.read() == before {
        cpu::sti_hlt();
        cpu::cli();
    }
    TAKEN.read()
}

fn pending() -> u64 {
    lapic::send_self(SELF_IPI);
    sleep()
}

fn timer() -> u64 {
    pit::one_shot(WAIT);
    sleep()
}

fn measure(run: &Run, metric: &str, wait: fn() -> u64) {
    TAKEN.write(0);
    let mut checksum = Checksum::new();
    for _ in 0..4 {
        checksum = checksum.word(wait());
    }
    let mut expected = TAKEN.read();
    run.nano(metric, checksum, 1, |turns| {
        for _ in 0..turns {
            wait();
        }
        expected += turns;
    });
    assert!(TAKEN.read() == expected, "{metric}: {} interrupts taken instead of {expected}", TAKEN.read());
}

fn main(run: &Run) {
    // SAFETY: written for that purpose.
    unsafe {
        trap::set_raw(SELF_IPI, trap::count_from_lapic, false);
        trap::set_raw(IRQ_BASE + pit::LINE, trap::count_from_pic, false);
    }
    measure(run, "hlt_wake", pending);
    pit::stop();
    pic::unmask(pit::LINE);
    cpu::interrupt_window(); // a tick from before the guest took the timer over
    measure(run, "hlt_timer", timer);
    pic::mask(pit::LINE);
}
