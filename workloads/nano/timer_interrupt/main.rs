//! What a timer interrupt steals from the code it interrupts: of the 8254 through the PIC, and of the local APIC.
//!
//! The code reads the clock in a tight loop. A turn in which the handler ran takes longer than the shortest turn; that
//! difference is the cost. Turns that were long for other reasons do not count.
#![no_std]
#![no_main]

use guest::cpu::{self, rdtsc};
use guest::trap::{self, Frame, IRQ_BASE, LAPIC_TIMER, TAKEN};
use guest::{Checksum, Run, Sample, abi, lapic, measure, pic, pit};

guest::entry!(main);

/// Interrupts a second.
const RATE: u64 = 2000;

/// Interrupts at least, whatever the budget.
const FEWEST: u64 = 16;

/// Interrupts that the checksum covers.
const CHECKED: u64 = 4;

/// Rust handler for the checked ones.
fn count(frame: &mut Frame) {
    TAKEN.write(TAKEN.read() << 8 | frame.vector);
    if frame.vector == u64::from(LAPIC_TIMER) {
        lapic::end_of_interrupt();
    } else {
        pic::end_of_interrupt(pit::LINE);
    }
}

/// Ticks within which the timer must have ticked, or the machine has none: a second.
fn patience(run: &Run) -> u64 {
    run.tsc_khz * 1000 + 8 * run.budget
}

/// Folds the vectors of the first interrupts.
fn check(run: &Run) -> Checksum {
    let start = rdtsc();
    let mut checksum = Checksum::new();
    TAKEN.write(0);
    for _ in 0..CHECKED {
        while TAKEN.read() == 0 {
            cpu::interrupt_window();
            assert!(rdtsc() - start < patience(run), "no timer interrupt came");
        }
        checksum = checksum.word(TAKEN.read() & 0xff);
        TAKEN.write(0);
    }
    checksum
}

fn steal(run: &Run) -> Sample {
    TAKEN.write(0);
    measure::mark(abi::MARK_BEGIN);
    cpu::sti();
    let start = rdtsc();
    let (mut shortest, mut turns, mut disturbed, mut seen) = (u64::MAX, 0, 0, 0);
    let mut last = start;
    // An interrupt between the clock and the counter is seen one turn before its time shows: count both turns.
    let mut was_disturbed = false;
    loop {
        let now = rdtsc();
        let turn = now - last;
        last = now;
        let taken = TAKEN.read();
        if taken != seen || was_disturbed {
            disturbed += turn;
            turns += 1;
            was_disturbed = taken != seen;
            seen = taken;
            continue;
        }
        shortest = shortest.min(turn);
        if now - start >= run.budget && seen >= FEWEST {
            break;
        }
        assert!(now - start < patience(run), "only {seen} timer interrupts came");
    }
    cpu::cli();
    measure::mark(abi::MARK_END);
    measure::mark(abi::MARK_KEPT);
    Sample { iterations: seen, cycles: disturbed.saturating_sub(turns * shortest).max(1) }
}

/// Timer ticks of the local APIC in one period.
fn lapic_period(run: &Run) -> u32 {
    let wait = run.tsc_khz; // a millisecond
    lapic::write(lapic::LVT_TIMER, lapic::MASKED);
    lapic::write(lapic::INITIAL_COUNT, u32::MAX);
    let start = rdtsc();
    let mut passed = 0;
    while passed < wait {
        passed = rdtsc() - start;
    }
    let ticks = u64::from(u32::MAX - lapic::read(lapic::CURRENT_COUNT));
    let period = u128::from(ticks) * u128::from(run.tsc_khz) * 1000 / u128::from(passed) / u128::from(RATE);
    period.clamp(16, u128::from(u32::MAX)) as u32
}

fn main(run: &Run) {
    let vector = IRQ_BASE + pit::LINE;
    trap::set(vector, Some(count));
    pit::periodic((pit::FREQUENCY / RATE) as u16);
    pic::unmask(pit::LINE);
    let checksum = check(run);
    // SAFETY: written for that purpose.
    unsafe { trap::set_raw(vector, trap::count_from_pic, false) };
    run.report("timer_interrupt", 0, steal(run), checksum.value());
    pit::stop();
    pic::mask(pit::LINE);

    let period = lapic_period(run);
    trap::set(LAPIC_TIMER, Some(count));
    lapic::write(lapic::LVT_TIMER, lapic::PERIODIC | u32::from(LAPIC_TIMER));
    lapic::write(lapic::INITIAL_COUNT, period);
    let checksum = check(run);
    // SAFETY: written for that purpose.
    unsafe { trap::set_raw(LAPIC_TIMER, trap::count_from_lapic, false) };
    run.report("timer_lapic", 0, steal(run), checksum.value());
    lapic::write(lapic::LVT_TIMER, lapic::MASKED);
    lapic::write(lapic::INITIAL_COUNT, 0);
}
