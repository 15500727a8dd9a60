//! Processes created by fork, run in ring 3, and reaped: page tables copied, pages shared until written.
//!
//! A process has 16 pages of its own, eight of them its stack. Fork gives the child tables of its own that share the
//! pages read-only; a write faults, and the kernel copies the page, or, when nobody else has it any more, lets the
//! writer have it. The child writes three data pages, sums up all eight and exits; the parent waits for the sum.
#![no_std]
#![no_main]

use guest::layout::{FRAMES_END, FRAMES_START, PAGE, TEST_WINDOW, USER_ARENA};
use guest::paging::{self, COPY_ON_WRITE, NO_EXECUTE, PRESENT, Table, USER, WRITABLE};
use guest::single::Single;
use guest::trap::{self, Frame};
use guest::user::{self, FIRST_CUSTOM, Registers};
use guest::{Checksum, Run, Sample, cpu, measure};

guest::entry!(main);

const FORK: u64 = FIRST_CUSTOM;
const LEAVE: u64 = FIRST_CUSTOM + 1;
const WAIT: u64 = FIRST_CUSTOM + 2;

const PAGES: usize = 16;
const DATA_PAGES: u64 = 8;
const STACK_TOP: u64 = TEST_WINDOW + PAGES as u64 * PAGE;

/// Processes that the checksum covers.
const CHECKED: u64 = 8;

const FRAMES: usize = ((FRAMES_END - FRAMES_START) / PAGE) as usize;

/// How many processes map each frame.
static SHARES: Single<[u8; FRAMES]> = Single::new([0; FRAMES]);

/// The parent while its child runs, and the child that ran.
static FAMILY: Single<Family> = Single::new(Family { parent: None, space: Table(0), child: None });

struct Family {
    parent: Option<Registers>,
    /// The parent's address space.
    space: Table,
    /// Address space and result of a child that has left and is not reaped.
    child: Option<(Table, u64)>,
}

fn shares(frame: u64) -> &'static mut u8 {
    // SAFETY: the kernel is not interrupted, and holds one of these at a time.
    unsafe { &mut SHARES.get()[((frame - FRAMES_START) / PAGE) as usize] }
}

fn family() -> &'static mut Family {
    // SAFETY: the kernel is not interrupted, and holds one of these at a time.
    unsafe { FAMILY.get() }
}

/// Page table entries of a process's own pages.
fn pages(space: Table) -> Table {
    Table(paging::leaf(space, TEST_WINDOW) as u64)
}

/// An address space with the kernel and nothing else.
fn new_space() -> Table {
    let space = Table(paging::allocate_zeroed());
    space.set(0, paging::root().get(0));
    space
}

/// A copy of the running process, which shares its pages.
fn copy_space() -> Table {
    let space = new_space();
    let (from, to) = (pages(paging::root()), pages(space));
    for page in 0..PAGES {
        let mut entry = from.get(page);
        if entry & WRITABLE != 0 {
            entry = entry & !WRITABLE | COPY_ON_WRITE;
            from.set(page, entry);
        }
        *shares(paging::address_of(entry)) += 1;
        to.set(page, entry);
    }
    space
}

/// Gives up the pages and tables of a space that is not in use.
fn release_space(space: Table) {
    let table = pages(space);
    for page in 0..PAGES {
        let frame = paging::address_of(table.get(page));
        *shares(frame) -= 1;
        if *shares(frame) == 0 {
            paging::release(frame);
        }
    }
    // From the top: one table a level.
    let mut level = space;
    for shift in [39, 30, 21] {
        let below = Table(paging::address_of(level.get((TEST_WINDOW >> shift) as usize & 511)));
        paging::release(level.0);
        level = below;
    }
    paging::release(level.0);
}

/// A write to a shared page: copies it, unless the writer is the last who has it.
fn page_fault(frame: &mut Frame) {
    const WRITE_TO_PRESENT: u64 = 3;
    let address = cpu::cr2();
    let page = address.wrapping_sub(TEST_WINDOW) / PAGE;
    let table = pages(paging::root());
    let entry = if page < PAGES as u64 { table.get(page as usize) } else { 0 };
    assert!(
        entry & COPY_ON_WRITE != 0 && frame.error & WRITE_TO_PRESENT == WRITE_TO_PRESENT,
        "page fault at {address:#x}, error {:#x}, rip {:#x}",
        frame.error,
        frame.rip
    );
    let shared = paging::address_of(entry);
    let mut own = shared;
    if *shares(shared) > 1 {
        own = paging::allocate();
        // SAFETY: both frames are identity-mapped, the new one is ours.
        unsafe { core::ptr::copy_nonoverlapping(shared as *const u8, own as *mut u8, PAGE as usize) };
        *shares(shared) -= 1;
        *shares(own) = 1;
    }
    table.set(page as usize, own | PRESENT | WRITABLE | USER | NO_EXECUTE);
    cpu::invlpg(address);
}

fn system_call(registers: &mut Registers) {
    let family = family();
    match registers.rax {
        FORK => {
            assert!(family.parent.is_none() && family.child.is_none(), "one child at a time");
            family.space = paging::root();
            let space = copy_space();
            registers.rax = 1;
            family.parent = Some(*registers);
            registers.rax = 0;
            // SAFETY: maps the kernel and all that the child needs.
            unsafe { cpu::set_cr3(space.0) };
        }
        LEAVE => {
            let parent = family.parent.take();
            family.child = Some((paging::root(), registers.rdi));
            match parent {
                Some(parent) => *registers = parent,
                None => panic!("a process without a parent left"),
            }
            // SAFETY: the parent's space, as it was.
            unsafe { cpu::set_cr3(family.space.0) };
        }
        WAIT => match family.child.take() {
            Some((space, result)) => {
                release_space(space);
                registers.rax = result;
            }
            None => panic!("no child to wait for"),
        },
        number => panic!("system call {number} is not known"),
    }
}

fn data(page: u64) -> *mut u64 {
    (TEST_WINDOW + page * PAGE) as *mut u64
}

/// Sum of what the data pages hold. Ring 3.
fn sum() -> u64 {
    // SAFETY: the process's own pages.
    (0..DATA_PAGES).map(|page| unsafe { data(page).read_volatile() }).fold(0, u64::wrapping_add)
}

/// One process's life, seen from the parent: its sum. Ring 3.
fn fork_and_wait(number: u64) -> u64 {
    if user::call(FORK, 0, 0) == 0 {
        for page in 0..3 {
            // SAFETY: the process's own pages.
            unsafe { data(page).write_volatile(1000 * number + page) };
        }
        user::call(LEAVE, sum(), 0);
    }
    user::call(WAIT, 0, 0)
}

/// What the parent works with, in the arena that no process copies.
struct Task {
    budget: u64,
    sample: Sample,
    checksum: u64,
}

extern "C" fn parent(task: u64) -> u64 {
    // SAFETY: `main` passes its task and leaves it alone meanwhile.
    let task = unsafe { &mut *(task as *mut Task) };
    let mut checksum = Checksum::new();
    for page in 0..DATA_PAGES {
        // SAFETY: the process's own pages.
        unsafe { data(page).write_volatile(page * page + 1) };
    }
    let own = sum();
    for number in 0..CHECKED {
        checksum = checksum.word(fork_and_wait(number)).word(sum());
    }
    let expected = fork_and_wait(7);
    let mut differs = false;
    task.sample = measure::calibrate(task.budget, 1, |processes| {
        for _ in 0..processes {
            differs |= fork_and_wait(7) != expected;
        }
    });
    assert!(!differs && sum() == own, "a child's pages were not its own");
    task.checksum = checksum.value();
    0
}

fn main(run: &Run) {
    let original = cpu::cr3();
    let space = new_space();
    for page in 0..PAGES {
        let frame = paging::allocate_zeroed();
        *shares(frame) = 1;
        pages(space).set(page, frame | PRESENT | WRITABLE | USER | NO_EXECUTE);
    }
    trap::set(trap::PAGE_FAULT, Some(page_fault));
    user::set_handler(system_call);
    let task = USER_ARENA as *mut Task;
    // SAFETY: the arena's first page is used for this alone; the space maps the kernel, and a stack below its end.
    unsafe {
        task.write(Task { budget: run.budget, sample: Sample::default(), checksum: 0 });
        cpu::set_cr3(space.0);
        user::run_on(parent, task as u64, STACK_TOP);
        cpu::set_cr3(original);
    }
    // SAFETY: ring 3 has ended.
    let Task { sample, checksum, .. } = unsafe { task.read() };
    run.report("forkwait", 3, sample, checksum);
}
