//! Guest RAM to a file and back: pages that are not all zero, in runs.
use super::format::{MOST_PAGES, Run};
use crate::arch::address::PAGE_SIZE;
use crate::mem::GuestRam;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PAGE: usize = PAGE_SIZE as usize;

/// Writes the pages of `ram` that hold something to `file` from `at` on; the guest stands. The runs, in order.
pub(super) fn write(ram: &GuestRam, file: &File, at: u64) -> io::Result<Vec<Run>> {
    let mut runs = vec![];
    let mut place = at;
    let mut buffer = vec![0; MOST_PAGES as usize * PAGE];
    for touched in ram.touched()? {
        let mut offset = touched.start;
        while offset < touched.end {
            let length = (touched.end - offset).min(buffer.len() as u64) as usize;
            let bytes = &mut buffer[..length];
            ram.file().read_exact_at(bytes, offset)?;
            for (first, bytes) in filled(bytes) {
                file.write_all_at(bytes, place)?;
                place += bytes.len() as u64;
                runs.push(Run {
                    first: offset / PAGE_SIZE + first,
                    pages: (bytes.len() / PAGE) as u32,
                    checksum: crc32fast::hash(bytes),
                });
            }
            offset += length as u64;
        }
    }
    Ok(runs)
}

/// The stretches of pages that are not all zero: number of the first, and the bytes.
fn filled(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let is_zero = |page: &[u8]| {
        let (words, _) = page.as_chunks::<16>();
        words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
    };
    let mut pages = bytes.chunks(PAGE).enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, _) = pages.find(|(_, page)| !is_zero(page))?;
        let mut end = first + 1;
        while pages.next_if(|(_, page)| !is_zero(page)).is_some() {
            end += 1;
        }
        Some((first as u64, &bytes[first * PAGE..(end * PAGE).min(bytes.len())]))
    })
}

/// Why pages could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RamError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the checksum of its RAM is wrong")]
    Checksum,
}

/// Reads the pages of all runs, which lie in `file` from `at` on, and has `take` do something with each run. The work is
/// shared among threads.
fn read(
    file: &File,
    at: u64,
    runs: &[Run],
    take: impl Fn(&Run, &[u8]) -> io::Result<()> + Sync,
) -> Result<(), RamError> {
    /// Runs that a thread takes at a time.
    const SHARE: usize = 16;
    let mut places = Vec::with_capacity(runs.len());
    let mut place = at;
    for run in runs {
        places.push(place);
        place += run.bytes() as u64;
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<(), RamError> {
        let mut buffer = vec![0; MOST_PAGES as usize * PAGE];
        while !failed.load(Ordering::Relaxed) {
            let begin = next.fetch_add(SHARE, Ordering::Relaxed);
            let end = (begin + SHARE).min(runs.len());
            if begin >= end {
                break;
            }
            for (run, place) in runs[begin..end].iter().zip(&places[begin..end]) {
                let bytes = &mut buffer[..run.bytes()];
                file.read_exact_at(bytes, *place)?;
                if crc32fast::hash(bytes) != run.checksum {
                    return Err(RamError::Checksum);
                }
                take(run, bytes)?;
            }
        }
        Ok(())
    };
    let work = || work().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(runs.len().div_ceil(SHARE)).min(8);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |all, thread| {
            let other = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed").into()));
            all.and(other)
        })
    })
}

/// Looks whether all pages are there and whole.
pub(super) fn verify(file: &File, at: u64, runs: &[Run]) -> Result<(), RamError> {
    read(file, at, runs, |_, _| Ok(()))
}

/// Fills `ram` with the pages; all others are zero afterwards.
pub(super) fn fill(ram: &GuestRam, file: &File, at: u64, runs: &[Run]) -> Result<(), RamError> {
    ram.clear()?;
    read(file, at, runs, |run, bytes| ram.file().write_all_at(bytes, run.first * PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_come_back_as_they_were_and_zero_ones_take_no_room(
            full in prop::collection::btree_map(0..300_u64, 1..=u8::MAX, 0..40),
            zeroed in prop::collection::vec(0..300_u64, 0..5),
        ) {
            let ram = GuestRam::new(300 * PAGE_SIZE).unwrap();
            let page = |number: u64, value: u8| ram.file().write_all_at(&[value; PAGE], number * PAGE_SIZE).unwrap();
            zeroed.iter().for_each(|number| page(*number, 0));
            full.iter().for_each(|(number, value)| page(*number, *value));
            let file = tempfile::tempfile().unwrap();
            let runs = write(&ram, &file, PAGE_SIZE).unwrap();
            let pages: u64 = runs.iter().map(|run| u64::from(run.pages)).sum();
            prop_assert_eq!(pages, full.len() as u64);
            verify(&file, PAGE_SIZE, &runs).unwrap();
            let other = GuestRam::new(300 * PAGE_SIZE).unwrap();
            other.file().write_all_at(&[9; 4 * PAGE], 7 * PAGE_SIZE).unwrap();
            fill(&other, &file, PAGE_SIZE, &runs).unwrap();
            let bytes = |ram: &GuestRam| {
                let mut bytes = vec![0; 300 * PAGE];
                ram.file().read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            prop_assert!(bytes(&ram) == bytes(&other));
        }
    }
}
