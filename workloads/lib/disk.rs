//! What a disk is, and how it is measured: the same for each kind of disk.
//!
//! Guests write to scratch disks only, which say so at their beginning (`abi::SCRATCH_DISK`). What a disk held is summed up
//! in ring 3, which runs natively where ring 0 is emulated.

use crate::abi;
use crate::checksum::Checksum;
use crate::layout::USER_ARENA;
use crate::measure::{Run, Size};
use crate::{measure, user};

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Bytes of one unit of work: read, and written, in requests of [`REQUEST`].
const UNIT: usize = 64 << 10;
/// Bytes of one of its requests.
const REQUEST: usize = 32 << 10;
/// Where the part of the disk begins that is written, in sectors.
const WRITTEN: u64 = (512 << 10) / SECTOR as u64;
/// Sectors that are needed.
const LEAST: u64 = WRITTEN + (UNIT / SECTOR) as u64;
/// Bytes of the sweep's requests.
const SIZES: [usize; 5] = [512, 4 << 10, 16 << 10, 64 << 10, MOST];
/// Bytes of the largest request.
const MOST: usize = 128 << 10;

/// A disk whose requests end before they return. What goes wrong ends the run.
pub trait Disk {
    /// Sectors that it has.
    fn sectors(&self) -> u64;

    /// Reads whole sectors from `at` on, at most 128 KiB; virtual addresses are physical ones.
    fn read(&mut self, at: u64, into: &mut [u8]);

    /// Writes whole sectors from `at` on, as [`Self::read`].
    fn write(&mut self, at: u64, from: &[u8]);
}

/// Why there is nothing to measure.
pub const NO_SCRATCH: &str = "the disk is not one that guests may overwrite";

/// Names of what is measured of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// One unit is read.
    pub read: &'static str,
    /// One unit is written.
    pub write: &'static str,
}

/// Where the data of one unit goes: the arena's beginning.
fn buffer() -> &'static mut [u8] {
    // SAFETY: one at a time, and ring 3 runs only while none is used.
    unsafe { user::arena(0, UNIT) }
}

/// Ring 3: the checksum of so many bytes of the buffer.
extern "C" fn sum_up(length: u64) -> u64 {
    // SAFETY: the arena is mapped, and the kernel waits.
    let bytes = unsafe { core::slice::from_raw_parts(USER_ARENA as *const u8, length as usize) };
    Checksum::new().bytes(bytes).value()
}

/// Ring 3: changes so many bytes of the buffer, each.
extern "C" fn turn_over(length: u64) -> u64 {
    for at in 0..length {
        let byte = (USER_ARENA + at) as *mut u8;
        // SAFETY: as in `sum_up`.
        unsafe { byte.write(!byte.read()) };
    }
    0
}

/// Whether guests may overwrite it, and it is large enough.
fn is_scratch(disk: &mut impl Disk) -> bool {
    if disk.sectors() < LEAST {
        return false;
    }
    let sector = &mut buffer()[..SECTOR];
    disk.read(0, sector);
    // Byte by byte: compilers compare slices with SSE, which some monitors do not run in ring 0.
    let byte = |at: usize| {
        // SAFETY: a sector is longer than the mark.
        unsafe { sector.as_ptr().add(at).read_volatile() }
    };
    (0..abi::SCRATCH_DISK.len()).all(|at| byte(at) == abi::SCRATCH_DISK[at])
}

/// Reads one unit from a sector on.
fn read_unit(disk: &mut impl Disk, from: u64) {
    for (number, part) in (0..).zip(buffer().chunks_exact_mut(REQUEST)) {
        disk.read(from + number * (REQUEST / SECTOR) as u64, part);
    }
}

/// Writes one unit from a sector on.
fn write_unit(disk: &mut impl Disk, from: u64) {
    for (number, part) in (0..).zip(buffer().chunks_exact(REQUEST)) {
        disk.write(from + number * (REQUEST / SECTOR) as u64, part);
    }
}

/// Measures reading and writing; `false` if the disk is not one that may be overwritten.
pub fn task(run: &Run, disk: &mut impl Disk, metrics: Metrics) -> bool {
    if !is_scratch(disk) {
        return false;
    }
    let sum = || user::run(sum_up, UNIT as u64);
    let turn_over = || user::run(turn_over, UNIT as u64);
    read_unit(disk, 0);
    let checksum = sum();
    let sample = measure::calibrate(run.budget, 1, |units| {
        for _ in 0..units {
            read_unit(disk, 0);
        }
    });
    assert!(sum() == checksum, "the disk read otherwise later on");
    run.report(metrics.read, 0, sample, checksum);

    // What is there is turned over, so that a write that does nothing shows.
    read_unit(disk, WRITTEN);
    turn_over();
    let written = sum();
    let sample = measure::calibrate(run.budget, 1, |units| {
        for _ in 0..units {
            write_unit(disk, WRITTEN);
        }
    });
    // So that what is summed up is what the disk has.
    turn_over();
    read_unit(disk, WRITTEN);
    let checksum = sum();
    assert!(checksum == written, "the disk does not hold what was written");
    run.report(metrics.write, 0, sample, checksum);
    true
}

/// Measures single requests of growing size; `false` if the disk is not one that may be overwritten.
pub fn sweep(run: &Run, disk: &mut impl Disk, metric: &str) -> bool {
    if !is_scratch(disk) {
        return false;
    }
    for bytes in SIZES {
        // SAFETY: as in `buffer`.
        let part = || unsafe { user::arena(0, bytes) };
        disk.read(0, part());
        let checksum = user::run(sum_up, bytes as u64);
        let part = part();
        let sample = measure::calibrate(run.point_budget(), 1, |requests| {
            for _ in 0..requests {
                disk.read(0, part);
            }
        });
        run.report_at(metric, Size { what: "bytes", count: bytes as u64 }, 0, sample, checksum);
    }
    true
}
