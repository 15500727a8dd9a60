//! Writing CR3: a switch of the address space, which flushes the TLB.
#![no_std]
#![no_main]

use guest::layout::TEST_WINDOW;
use guest::paging::{self, Table};
use guest::{Checksum, Run, cpu};

guest::entry!(main);

/// A top-level table with the kernel's mappings and one page of its own that holds `content`.
fn space(content: u64) -> Table {
    let root = Table(paging::allocate_zeroed());
    root.set(0, paging::root().get(0));
    let frame = paging::allocate();
    // SAFETY: the frame is ours and identity-mapped; the entry is that of a table that is not in use yet.
    unsafe {
        (frame as *mut u64).write(content);
        paging::leaf(root, TEST_WINDOW).write(frame | paging::PRESENT | paging::WRITABLE);
    }
    root
}

fn main(run: &Run) {
    let original = cpu::cr3();
    let spaces = [space(0x1111), space(0x2222)];
    let mut checksum = Checksum::new();
    for turn in 0..16 {
        // SAFETY: both map the kernel, and the window.
        checksum = unsafe {
            cpu::set_cr3(spaces[turn % 2].0);
            checksum.word((TEST_WINDOW as *const u64).read_volatile())
        };
    }
    let [first, second] = spaces;
    run.nano("cr3_write", checksum, 2, |turns| {
        for _ in 0..turns {
            // SAFETY: both map the kernel.
            unsafe {
                cpu::set_cr3(first.0);
                cpu::set_cr3(second.0);
            }
        }
    });
    // SAFETY: the table that booted.
    unsafe { cpu::set_cr3(original) };
}
