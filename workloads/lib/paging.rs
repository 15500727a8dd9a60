//! Four-level page tables: frames, mapping, and access to single entries.

use crate::layout::{FRAMES_END, FRAMES_START, PAGE};
use crate::single::Single;

/// Entry: present.
pub const PRESENT: u64 = 1;
/// Entry: writable.
pub const WRITABLE: u64 = 1 << 1;
/// Entry: ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Entry: the page is shared and must be copied before it is written (a bit left to software).
pub const COPY_ON_WRITE: u64 = 1 << 9;
/// Entry: not executable.
pub const NO_EXECUTE: u64 = 1 << 63;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

struct Frames {
    next: u64,
    free: u64,
}

static FRAMES: Single<Frames> = Single::new(Frames { next: FRAMES_START, free: 0 });

/// Physical address of an entry's page or table.
pub fn address_of(entry: u64) -> u64 {
    entry & ADDRESS
}

/// A frame with whatever it holds.
pub fn allocate() -> u64 {
    // SAFETY: frames are identity-mapped, and a free frame's first word is the allocator's.
    unsafe {
        let frames = FRAMES.get();
        if frames.free != 0 {
            let frame = frames.free;
            frames.free = *(frame as *const u64);
            return frame;
        }
        assert!(frames.next < FRAMES_END, "out of page frames");
        frames.next += PAGE;
        frames.next - PAGE
    }
}

/// A frame full of zeros.
pub fn allocate_zeroed() -> u64 {
    let frame = allocate();
    // SAFETY: the frame is ours and identity-mapped.
    unsafe { (frame as *mut u8).write_bytes(0, PAGE as usize) };
    frame
}

/// Gives a frame back.
pub fn release(frame: u64) {
    // SAFETY: nobody uses the frame any more, says the caller; it is identity-mapped.
    unsafe {
        let frames = FRAMES.get();
        *(frame as *mut u64) = frames.free;
        frames.free = frame;
    }
}

/// A table of 512 entries, by physical address.
#[derive(Clone, Copy)]
pub struct Table(pub u64);

impl Table {
    /// Where entry `index` lies.
    pub fn entry(self, index: usize) -> *mut u64 {
        (self.0 + 8 * (index as u64 & 511)) as *mut u64
    }

    /// Reads entry `index`.
    pub fn get(self, index: usize) -> u64 {
        // SAFETY: tables are identity-mapped.
        unsafe { self.entry(index).read_volatile() }
    }

    /// Writes entry `index`.
    pub fn set(self, index: usize, value: u64) {
        // SAFETY: tables are identity-mapped; the caller knows what the entry maps.
        unsafe { self.entry(index).write_volatile(value) }
    }

    /// The table below entry `index`, made if there is none.
    fn below(self, index: usize) -> Table {
        let entry = self.get(index);
        if entry & PRESENT != 0 {
            return Table(address_of(entry));
        }
        let table = allocate_zeroed();
        self.set(index, table | PRESENT | WRITABLE | USER);
        Table(table)
    }
}

/// The entry that maps the small page at `address`, with all tables above it made.
pub fn leaf(root: Table, address: u64) -> *mut u64 {
    root.below((address >> 39) as usize)
        .below((address >> 30) as usize & 511)
        .below((address >> 21) as usize & 511)
        .entry((address >> 12) as usize & 511)
}

/// The top-level table in use.
pub fn root() -> Table {
    Table(address_of(crate::cpu::cr3()))
}

/// Maps the small page at `address` to `frame` in the tables in use, and returns its entry.
pub fn map(address: u64, frame: u64, flags: u64) -> *mut u64 {
    let entry = leaf(root(), address);
    // SAFETY: `leaf` gives an entry of a table that is identity-mapped.
    unsafe { entry.write_volatile(frame | flags | PRESENT) };
    crate::cpu::invlpg(address);
    entry
}
