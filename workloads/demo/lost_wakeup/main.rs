//! Waits for an event by checking a flag and halting: with interrupts on in between, a wake-up is lost now and then.
//!
//! Each round a one-shot timer raises the event's interrupt, whose handler sets the flag. Round by round it comes a little
//! later, so that it sweeps over the code that waits: before the check, between check and HLT, and into HLT. Between the two
//! nobody notices: the check is past, and HLT waits for an interrupt that has come already. A watchdog ends that sleep after
//! 20 ms and counts it. The right way keeps interrupts off from the check to HLT: STI lets none in before the instruction
//! behind it.
#![no_std]
#![no_main]

use core::arch::naked_asm;

use guest::console::Line;
use guest::layout::LAPIC;
use guest::single::Counter;
use guest::trap::{self, IRQ_BASE, LAPIC_TIMER};
use guest::{Run, cpu, lapic, pic, pit};

guest::entry!(main);

/// Rounds of each way to wait.
const ROUNDS: u64 = 64;
/// Input clocks of the 8254 in 20 ms.
const WATCHDOG: u16 = (pit::FREQUENCY / 50) as u16;

/// Nonzero: the event has come.
#[unsafe(no_mangle)]
static FLAG: Counter = Counter::new(0);
/// What the event's interrupt interrupted.
static EVENT_AT: Counter = Counter::new(0);
/// The address behind the HLT of whoever waits.
static BEHIND_HLT: Counter = Counter::new(0);
/// Sleeps that went on although the event had come.
static LOST: Counter = Counter::new(0);

/// The event: sets the flag.
///
/// # Safety
/// Only the CPU calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn event() {
    naked_asm!(
        "push rax",
        "mov qword ptr [{flag}], 1",
        "mov rax, [rsp + 8]",
        "mov [{event_at}], rax",
        "mov eax, {end_of_interrupt}",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        flag = sym FLAG,
        event_at = sym EVENT_AT,
        end_of_interrupt = const LAPIC + lapic::END_OF_INTERRUPT,
    )
}

/// The watchdog: if it ends a HLT that began after the event had come, a wake-up was lost.
///
/// # Safety
/// Only the CPU calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn watchdog() {
    naked_asm!(
        "push rax",
        "cmp qword ptr [{flag}], 0",
        "je 2f",
        "mov rax, [{behind_hlt}]",
        "cmp [rsp + 8], rax",
        "jne 2f",
        "cmp [{event_at}], rax",
        "je 2f",
        "wake_up_lost:",
        "inc qword ptr [{lost}]",
        "2:",
        "mov al, {end_of_interrupt}",
        "out {command}, al",
        "pop rax",
        "iretq",
        flag = sym FLAG,
        behind_hlt = sym BEHIND_HLT,
        event_at = sym EVENT_AT,
        lost = sym LOST,
        end_of_interrupt = const pic::END_OF_INTERRUPT,
        command = const pic::COMMAND,
    )
}

/// Checks, then halts, with interrupts on all the time. They are off before and after.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn wait_with_race() {
    naked_asm!(
        "lea rax, [rip + 3f]",
        "mov [{behind_hlt}], rax",
        "sti",
        "nop",
        "race_check:",
        "cmp qword ptr [{flag}], 0",
        "jne 4f",
        "race_hlt:",
        "hlt",
        "3:",
        "jmp race_check",
        "4:",
        "cli",
        "ret",
        behind_hlt = sym BEHIND_HLT,
        flag = sym FLAG,
    )
}

/// Checks with interrupts off, and lets them in by the instruction before HLT.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn wait_without_race() {
    naked_asm!(
        "lea rax, [rip + 3f]",
        "mov [{behind_hlt}], rax",
        "safe_check:",
        "cmp qword ptr [{flag}], 0",
        "jne 4f",
        "sti",
        "hlt",
        "3:",
        "cli",
        "jmp safe_check",
        "4:",
        "ret",
        behind_hlt = sym BEHIND_HLT,
        flag = sym FLAG,
    )
}

/// One round, in which the event comes after so many ticks of the local APIC's timer.
fn round(wait: extern "C" fn(), ticks: u32) {
    FLAG.write(0);
    pit::one_shot(WATCHDOG);
    lapic::write(lapic::INITIAL_COUNT, ticks);
    wait();
    pit::stop();
    // A watchdog that came with the last instruction is not the next round's.
    cpu::interrupt_window();
}

/// Ticks between the timer's start and the HLT, roughly.
fn way_to_hlt() -> u32 {
    FLAG.write(1);
    let ticks = u32::MAX;
    lapic::write(lapic::INITIAL_COUNT, ticks);
    wait_with_race();
    let left = lapic::read(lapic::CURRENT_COUNT);
    lapic::write(lapic::INITIAL_COUNT, 0);
    ticks - left
}

/// All rounds of a way to wait; gives the wake-ups that it lost.
fn rounds(what: &str, wait: extern "C" fn()) -> u64 {
    LOST.write(0);
    // Twice as far as the HLT, one tick at a time if the ticks are as long as instructions.
    let step = (2 * u64::from(way_to_hlt())).div_ceil(ROUNDS).max(1);
    for number in 1..=ROUNDS {
        round(wait, (number * step) as u32);
    }
    let mut line = Line::new();
    line.text(what).text(": ").decimal(ROUNDS).text(" waits, wake-ups lost: ").decimal(LOST.read());
    line.print();
    LOST.read()
}

fn main(_: &Run) {
    // SAFETY: written for that purpose.
    unsafe {
        trap::set_raw(LAPIC_TIMER, event, false);
        trap::set_raw(IRQ_BASE + pit::LINE, watchdog, false);
    }
    pit::stop();
    pic::unmask(pit::LINE);
    lapic::write(lapic::LVT_TIMER, LAPIC_TIMER.into());
    cpu::interrupt_window(); // a tick from before the guest took the timer over
    rounds("check; hlt", wait_with_race);
    let lost = rounds("cli; check; sti; hlt", wait_without_race);
    assert!(lost == 0, "the right way to wait has lost {lost} wake-ups");
    lapic::write(lapic::LVT_TIMER, lapic::MASKED);
    pic::mask(pit::LINE);
}
