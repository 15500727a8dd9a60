//! A page mapped on demand: unmap it, touch it, and the fault's handler maps it again.
#![no_std]
#![no_main]

use core::arch::naked_asm;

use guest::layout::{PAGE, TEST_WINDOW};
use guest::paging::{self, PRESENT, WRITABLE};
use guest::single::{Counter, Single};
use guest::{Checksum, Run, cpu, trap};

guest::entry!(main);

const PAGES: usize = 16;

static TAKEN: Counter = Counter::new(0);
/// What the handler writes into the page table, by page.
static ENTRIES: Single<[u64; PAGES]> = Single::new([0; PAGES]);
/// The page table of the window.
static TABLE: Counter = Counter::new(0);

/// Maps the page that CR2 names.
#[unsafe(naked)]
unsafe extern "C" fn handler() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "inc qword ptr [{taken}]",
        "mov rax, cr2",
        "shr rax, 12",
        "and eax, {mask}",
        "mov rcx, [rax * 8 + {entries}]",
        "mov rdx, [{table}]",
        "mov [rdx + rax * 8], rcx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 8",
        "iretq",
        taken = sym TAKEN,
        entries = sym ENTRIES,
        table = sym TABLE,
        mask = const PAGES - 1,
    )
}

/// Unmaps page `number`, then adds 1 to its first word, which faults.
fn touch(number: usize) -> u64 {
    let address = TEST_WINDOW + number as u64 * PAGE;
    paging::Table(TABLE.read()).set(number, 0);
    cpu::invlpg(address);
    // SAFETY: the handler maps the page, which is this workload's own.
    unsafe {
        let word = (address as *const u64).read_volatile() + 1;
        (address as *mut u64).write_volatile(word);
        word
    }
}

fn main(run: &Run) {
    TABLE.write(paging::leaf(paging::root(), TEST_WINDOW) as u64);
    // SAFETY: no handler runs yet.
    for entry in unsafe { ENTRIES.get() } {
        *entry = paging::allocate_zeroed() | PRESENT | WRITABLE;
    }
    // SAFETY: the handler saves what it changes and drops the error code.
    unsafe { trap::set_raw(trap::PAGE_FAULT, handler, false) };
    let mut checksum = Checksum::new();
    for turn in 0..2 * PAGES {
        checksum = checksum.word(touch(turn % PAGES)).word(TAKEN.read());
    }
    let mut expected = TAKEN.read();
    run.nano("demand_map", checksum, 1, |turns| {
        for turn in 0..turns {
            touch(turn as usize % PAGES);
        }
        expected += turns;
    });
    assert!(TAKEN.read() == expected, "{} pages mapped on demand instead of {expected}", TAKEN.read());
}
