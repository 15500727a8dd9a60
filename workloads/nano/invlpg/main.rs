//! INVLPG: dropping one page's translation.
#![no_std]
#![no_main]

use guest::layout::TEST_WINDOW;
use guest::paging::{self, WRITABLE};
use guest::{Checksum, Run, UNROLL, cpu};

guest::entry!(main);

fn main(run: &Run) {
    let frames = [paging::allocate_zeroed(), paging::allocate_zeroed()];
    let entry = paging::map(TEST_WINDOW, frames[0], WRITABLE);
    let mut checksum = Checksum::new();
    for turn in 0..16u64 {
        let frame = frames[turn as usize % 2];
        // SAFETY: frames, entry and window are this workload's own.
        unsafe {
            (frame as *mut u64).write_volatile(turn * turn + 7);
            entry.write_volatile(frame | paging::PRESENT | WRITABLE);
            cpu::invlpg(TEST_WINDOW);
            checksum = checksum.word((TEST_WINDOW as *const u64).read_volatile());
        }
    }
    run.nano("invlpg", checksum, UNROLL, |turns| {
        // SAFETY: forgetting a translation is always allowed.
        unsafe { guest::unrolled!(turns, ["invlpg [{page}]"], page = in(reg) TEST_WINDOW) }
    });
}
