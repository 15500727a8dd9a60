//! A storm of page faults: 1 to 1024 pages unmapped at once, touched, and mapped on demand.
#![no_std]
#![no_main]

use core::arch::naked_asm;

use guest::layout::{PAGE, TEST_WINDOW, USER_ARENA};
use guest::paging::{self, PRESENT, Table, WRITABLE};
use guest::single::{Counter, Single};
use guest::{Checksum, Run, Size, cpu, trap};

guest::entry!(main);

const SIZES: [u64; 6] = [1, 4, 16, 64, 256, 1024];
const MOST: usize = 1024;
/// Pages that one page table maps.
const TABLE: u64 = 512;

static TAKEN: Counter = Counter::new(0);
/// What the handler writes into the page tables, by page.
static ENTRIES: Single<[u64; MOST]> = Single::new([0; MOST]);
/// The page tables of the window.
static TABLES: Single<[u64; 2]> = Single::new([0; 2]);

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
        "mov edx, eax",
        "shr edx, 9",
        "mov rdx, [rdx * 8 + {tables}]",
        "and eax, 511",
        "mov [rdx + rax * 8], rcx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 8",
        "iretq",
        taken = sym TAKEN,
        entries = sym ENTRIES,
        tables = sym TABLES,
        mask = const MOST - 1,
    )
}

/// Unmaps so many pages, forgets their translations as a kernel does that has unmapped many, and adds 1 to the first word
/// of each, which faults; the sum of the words.
fn storm(tables: [Table; 2], pages: u64) -> u64 {
    for page in 0..pages {
        tables[(page / TABLE) as usize].set((page % TABLE) as usize, 0);
    }
    // SAFETY: the same tables.
    unsafe { cpu::set_cr3(cpu::cr3()) };
    let mut sum = 0_u64;
    for page in 0..pages {
        let word = (TEST_WINDOW + page * PAGE) as *mut u64;
        // SAFETY: the handler maps the page, which is this workload's own.
        unsafe {
            let value = word.read_volatile() + 1;
            word.write_volatile(value);
            sum += value;
        }
    }
    sum
}

fn main(run: &Run) {
    let tables = [0, TABLE].map(|page| paging::leaf(paging::root(), TEST_WINDOW + page * PAGE) as u64);
    // SAFETY: no handler runs yet.
    unsafe {
        for (entry, page) in ENTRIES.get().iter_mut().zip(0..) {
            // Volatile: ring 0 keeps to plain integer instructions.
            (&raw mut *entry).write_volatile((USER_ARENA + page * PAGE) | PRESENT | WRITABLE);
        }
        TABLES.get()[0] = tables[0];
        TABLES.get()[1] = tables[1];
        // The handler saves what it changes and drops the error code.
        trap::set_raw(trap::PAGE_FAULT, handler, false);
    }
    let tables = tables.map(Table);
    for pages in SIZES {
        let before = TAKEN.read();
        let first = storm(tables, pages);
        let second = storm(tables, pages);
        let checksum = Checksum::new().word(second.wrapping_sub(first)).word(TAKEN.read() - before);
        let mut expected = TAKEN.read();
        run.point("fault_storm", Size { what: "pages", count: pages }, checksum, 1, |turns| {
            for _ in 0..turns {
                storm(tables, pages);
            }
            expected += turns * pages;
        });
        assert!(TAKEN.read() == expected, "{} pages mapped on demand instead of {expected}", TAKEN.read());
    }
}
