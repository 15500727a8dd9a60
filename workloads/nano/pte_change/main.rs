//! Changing a page table entry: point it at another frame, INVLPG, read through it.
#![no_std]
#![no_main]

use guest::layout::TEST_WINDOW;
use guest::paging::{self, PRESENT, WRITABLE};
use guest::{Checksum, Run, cpu};

guest::entry!(main);

fn frame(content: u64) -> u64 {
    let frame = paging::allocate();
    // SAFETY: the frame is ours and identity-mapped.
    unsafe { (frame as *mut u64).write_volatile(content) };
    frame | PRESENT | WRITABLE
}

/// Makes the window show what `entry` says, and reads its first word.
#[inline(always)]
fn change(slot: *mut u64, entry: u64) -> u64 {
    // SAFETY: slot, frames and window are this workload's own.
    unsafe {
        slot.write_volatile(entry);
        cpu::invlpg(TEST_WINDOW);
        (TEST_WINDOW as *const u64).read_volatile()
    }
}

fn main(run: &Run) {
    let entries = [frame(3), frame(5)];
    let slot = paging::leaf(paging::root(), TEST_WINDOW);
    let mut checksum = Checksum::new();
    for turn in 0..16 {
        checksum = checksum.word(change(slot, entries[turn % 2]));
    }
    let (mut sum, mut expected) = (0, 0);
    run.nano("pte_change", checksum, 2, |turns| {
        for _ in 0..turns {
            sum += change(slot, entries[0]);
            sum += change(slot, entries[1]);
        }
        expected += 8 * turns;
    });
    assert!(sum == expected, "read {sum} through the changed entries instead of {expected}");
}
