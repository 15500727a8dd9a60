//! 512 pages mapped by one hypercall, and by plain writes to the page table: contiguous ones and scattered ones.
#![no_std]
#![no_main]

use guest::hypercall::{self, Hypercalls};
use guest::layout::{PAGE, TEST_WINDOW, USER_ARENA};
use guest::measure::{self, Sample};
use guest::paging::{self, PRESENT, Table, WRITABLE};
use guest::single::Single;
use guest::{Checksum, Run, abi, cpu};

guest::entry!(main);

const PAGES: u64 = 512;
/// Accessed and dirty, as kernels set them in entries of their own: nobody waits for the first touch.
const READY: u64 = PRESENT | WRITABLE | 1 << 5 | 1 << 6;

/// Lists of an update: the page table's entries, and their values.
#[repr(C, align(4096))]
struct Lists {
    map: [[u64; 2]; PAGES as usize],
    scatter: [[u64; 2]; PAGES as usize],
    unmap: [[u64; 2]; PAGES as usize],
}

static LISTS: Single<Lists> = Single::new(Lists {
    map: [[0; 2]; PAGES as usize],
    scatter: [[0; 2]; PAGES as usize],
    unmap: [[0; 2]; PAGES as usize],
});

/// What page `number` is mapped to.
fn value(number: u64, scattered: bool) -> u64 {
    // An odd factor: each frame once, and no two neighbours together.
    let frame = if scattered { number * 37 % PAGES } else { number };
    (USER_ARENA + frame * PAGE) | READY
}

struct Window {
    table: Table,
    map: u64,
    scatter: u64,
    unmap: u64,
}

impl Window {
    fn prepare() -> Self {
        let table = paging::leaf(paging::root(), TEST_WINDOW) as u64;
        // SAFETY: nobody else uses the lists; virtual is physical.
        let lists = unsafe { LISTS.get() };
        for n in 0..PAGES {
            let entry = table + 8 * n;
            lists.map[n as usize] = [entry, value(n, false)];
            lists.scatter[n as usize] = [entry, value(n, true)];
            lists.unmap[n as usize] = [entry, 0];
        }
        let [map, scatter, unmap] =
            [&lists.map, &lists.scatter, &lists.unmap].map(|list| list.as_ptr() as u64);
        Self { table: Table(table), map, scatter, unmap }
    }

    /// Maps all pages by plain writes.
    fn write(&self, scattered: bool) {
        for n in 0..PAGES {
            self.table.set(n as usize, value(n, scattered));
        }
    }

    /// Unmaps them, and forgets the translations as a kernel that has unmapped many pages does.
    fn clear(&self) {
        for n in 0..PAGES {
            self.table.set(n as usize, 0);
        }
        // SAFETY: the same tables.
        unsafe { cpu::set_cr3(cpu::cr3()) };
    }

    /// Adds 1 to the first word of each page; the sum of what was there.
    fn touch(&self) -> u64 {
        let mut sum = 0;
        for n in 0..PAGES {
            let word = (TEST_WINDOW + n * PAGE) as *mut u64;
            // SAFETY: the page is mapped, and this workload's own.
            unsafe {
                let value = word.read_volatile();
                word.write_volatile(value + 1);
                sum += value;
            }
        }
        sum
    }

    /// One batch; the result is the number of entries written.
    fn batch(&self, calls: Hypercalls, list: u64) -> u64 {
        // SAFETY: the entries are the window's.
        unsafe { calls.call(abi::CALL_MMU_UPDATE, [list, PAGES, TEST_WINDOW]) }
    }
}

/// Times `work` so many times that the budget is used, and `undo` behind each without its time.
fn time(run: &Run, mut work: impl FnMut(), mut undo: impl FnMut()) -> Sample {
    let mut repetitions = 1;
    loop {
        let mut cycles = 0;
        measure::mark(abi::MARK_BEGIN);
        for _ in 0..repetitions {
            let start = cpu::rdtsc();
            work();
            cycles += cpu::rdtsc().wrapping_sub(start);
            undo();
        }
        measure::mark(abi::MARK_END);
        if cycles >= run.budget / 2 {
            measure::mark(abi::MARK_KEPT);
            return Sample { iterations: repetitions, cycles };
        }
        repetitions *= 2;
    }
}

fn main(run: &Run) {
    let window = Window::prepare();
    window.write(false);
    let first = window.touch();
    let checksum = Checksum::new().word(window.touch().wrapping_sub(first));
    window.clear();
    for (metric, scattered) in [("map_plain_touch", false), ("map_plain_scattered", true)] {
        let plain = || {
            window.write(scattered);
            window.touch();
        };
        run.report(metric, 0, time(run, plain, || window.clear()), checksum.value());
    }

    let Some(calls) = Hypercalls::find().filter(|calls| calls.offers(abi::OFFERS_MMU_UPDATE)) else {
        guest::absent(hypercall::NONE)
    };
    window.write(false);
    let before = window.touch() + PAGES;
    window.clear();
    let written = window.batch(calls, window.scatter);
    let seen = window.touch();
    let gone = window.batch(calls, window.unmap);
    assert!(seen == before, "the pages held {seen} instead of {before}");
    let checksum = Checksum::new().word(written).word(gone).value();
    let wrong = core::cell::Cell::new(0_u64);
    let exactly = |list| wrong.set(wrong.get() + u64::from(window.batch(calls, list) != PAGES));
    run.report("map_batch", 0, time(run, || exactly(window.map), || exactly(window.unmap)), checksum);
    for (metric, list) in [("map_batch_touch", window.map), ("map_batch_scattered", window.scatter)] {
        let batch = || {
            exactly(list);
            window.touch();
        };
        run.report(metric, 0, time(run, batch, || exactly(window.unmap)), checksum);
    }
    assert!(wrong.get() == 0, "{} updates were not made whole", wrong.get());
}
