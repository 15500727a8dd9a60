//! An interrupt that the CPU sends to itself through the local APIC, taken and acknowledged.
#![no_std]
#![no_main]

use guest::trap::{self, SELF_IPI, TAKEN};
use guest::{Checksum, Run, cpu, lapic};

guest::entry!(main);

/// Sends, and waits until the handler has run; `patience` is in ticks.
fn send(patience: u64) -> u64 {
    let before = TAKEN.read();
    lapic::send_self(SELF_IPI);
    if TAKEN.read() == before {
        let start = cpu::rdtsc();
        while TAKEN.read() == before {
            assert!(cpu::rdtsc() - start < patience, "an interrupt sent to this CPU did not come");
        }
    }
    TAKEN.read()
}

fn main(run: &Run) {
    // SAFETY: written for that purpose.
    unsafe { trap::set_raw(SELF_IPI, trap::count_from_lapic, false) };
    let patience = run.tsc_khz * 5000;
    cpu::sti();
    let mut checksum = Checksum::new();
    for _ in 0..16 {
        checksum = checksum.word(send(patience));
    }
    let mut expected = TAKEN.read();
    run.nano("self_ipi", checksum, 1, |turns| {
        for _ in 0..turns {
            send(patience);
        }
        expected += turns;
    });
    cpu::cli();
    assert!(TAKEN.read() == expected, "{} interrupts taken instead of {expected}", TAKEN.read());
}
