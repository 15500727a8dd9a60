//! A switch to the next of 1 to 32 address spaces in turn, and a touch of four pages of its own there.
#![no_std]
#![no_main]

use guest::layout::{PAGE, TEST_WINDOW, USER_ARENA};
use guest::paging::{self, PRESENT, Table, WRITABLE};
use guest::single::Single;
use guest::{Checksum, Run, Size, cpu};

guest::entry!(main);

const SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];
const MOST: usize = 32;
/// Pages of its own that each space has.
const PAGES: u64 = 4;

static ROOTS: Single<[u64; MOST]> = Single::new([0; MOST]);

/// A top-level table with the kernel's mappings and pages of its own.
fn space(number: u64) -> Table {
    let root = Table(paging::allocate_zeroed());
    root.set(0, paging::root().get(0));
    for page in 0..PAGES {
        let frame = USER_ARENA + (number * PAGES + page) * PAGE;
        // SAFETY: the frame is this workload's and identity-mapped; the entry is of a table that is not in use yet.
        unsafe {
            (frame as *mut u64).write_volatile(number * PAGES + page);
            paging::leaf(root, TEST_WINDOW + page * PAGE).write(frame | PRESENT | WRITABLE);
        }
    }
    root
}

/// Goes to a space and adds 1 to the first word of each of its pages; the sum of the words.
#[inline(always)]
fn visit(root: u64) -> u64 {
    let mut sum = 0_u64;
    // SAFETY: all spaces map the kernel and the window's pages.
    unsafe {
        cpu::set_cr3(root);
        for page in 0..PAGES {
            let word = (TEST_WINDOW + page * PAGE) as *mut u64;
            let value = word.read_volatile() + 1;
            word.write_volatile(value);
            sum += value;
        }
    }
    sum
}

fn main(run: &Run) {
    let original = cpu::cr3();
    // SAFETY: nothing else uses them.
    let roots = unsafe { ROOTS.get() };
    for (root, number) in roots.iter_mut().zip(0..) {
        *root = space(number).0;
    }
    let mut visits = [0_u64; 2];
    for spaces in SIZES {
        let roots = &roots[..spaces];
        for sum in &mut visits {
            *sum = 0;
            for &root in roots {
                *sum += visit(root);
            }
        }
        // Each visit finds what the last one left there.
        let checksum = Checksum::new().word(visits[1].wrapping_sub(visits[0]));
        run.point(
            "space_switch",
            Size { what: "spaces", count: spaces as u64 },
            checksum,
            spaces as u64,
            |turns| {
                for _ in 0..turns {
                    for &root in roots {
                        visit(root);
                    }
                }
            },
        );
    }
    // SAFETY: the table that booted.
    unsafe { cpu::set_cr3(original) };
}
