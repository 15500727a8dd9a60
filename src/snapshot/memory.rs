//! Snapshots in memory, for going back: each shares with the one before it the pages that did not change.
//!
//! What changed is found by comparison with the snapshot before, which holds for every way in which an engine writes RAM:
//! through host pointers, another process's mappings, or KVM. It costs a read of the pages that were ever touched.
use super::{SnapshotError, take_on};
use crate::arch::address::PAGE_SIZE;
use crate::machine::{Machine, MachineError, SavedMachine};
use crate::mem::GuestRam;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages that are shared or not as a whole in the list of pages.
const CHUNK: usize = 64;
const CHUNK_BYTES: usize = CHUNK * PAGE;
const ZERO: [u8; PAGE] = [0; PAGE];

/// A page that is not all zero.
type Page = Arc<[u8; PAGE]>;
/// Pages that follow each other; those that are missing are zero.
type Chunk = Arc<[Option<Page>; CHUNK]>;

/// A machine at a moment.
#[derive(Clone, Debug)]
pub struct Memory {
    state: SavedMachine,
    /// All of RAM; a chunk that is missing is zero.
    chunks: Vec<Option<Chunk>>,
    copied: u64,
}

fn same(page: Option<&Page>, bytes: &[u8]) -> bool {
    page.map_or(&ZERO, |page| page) == bytes
}

/// The bytes of a chunk; of the last one only what is there. `buffer` takes them.
fn read<'b>(ram: &GuestRam, number: usize, buffer: &'b mut [u8]) -> io::Result<&'b mut [u8]> {
    let begin = (number * CHUNK_BYTES) as u64;
    let bytes = &mut buffer[..(ram.size() - begin).min(CHUNK_BYTES as u64) as usize];
    ram.file().read_exact_at(bytes, begin)?;
    Ok(bytes)
}

/// The chunks that have bytes in one of these ranges, each once.
fn chunks_in(ranges: &[Range<u64>]) -> impl Iterator<Item = usize> {
    let mut next = 0;
    ranges.iter().flat_map(move |range| {
        let first = (range.start as usize / CHUNK_BYTES).max(next);
        next = next.max((range.end as usize).div_ceil(CHUNK_BYTES));
        first..next
    })
}

impl Memory {
    /// The machine, which stands, as it is now. `before` is a snapshot to share pages with: best the last one.
    ///
    /// # Errors
    /// When the host does not hand out a CPU's state, or has no memory.
    pub fn take(machine: &mut Machine, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let state = machine.save()?;
        let ram = machine.platform().ram();
        let (chunks, copied) = copy(ram, before).map_err(failed)?;
        Ok(Self { state, chunks, copied })
    }

    /// Bytes that were copied for it: the rest it has in common with the one before.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Puts the machine that it was taken of back to where it stood then. Pages that have not changed since are left alone.
    ///
    /// # Errors
    /// [`SnapshotError`], if it is another machine; it is as it was then.
    pub fn put_back(&self, machine: &mut Machine) -> Result<(), SnapshotError> {
        if self.chunks.len() != (machine.platform().ram().size() as usize).div_ceil(CHUNK_BYTES) {
            return Err(MachineError::refused_shape("it has another size of RAM".to_owned()).into());
        }
        take_on(machine, &self.state, |ram| self.fill(ram).map_err(|error| error.to_string()))
    }

    fn fill(&self, ram: &GuestRam) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let touched = ram.touched()?;
        // What was never touched is zero now, and is to hold something only where the snapshot does.
        let now: std::collections::HashSet<usize> = chunks_in(&touched).collect();
        for (number, chunk) in self.chunks.iter().enumerate() {
            if chunk.is_none() && !now.contains(&number) {
                continue;
            }
            let bytes = read(ram, number, &mut buffer)?;
            for (i, bytes) in bytes.chunks(PAGE).enumerate() {
                let page = chunk.as_ref().and_then(|chunk| chunk[i].as_ref());
                if !same(page, bytes) {
                    let at = (number * CHUNK_BYTES + i * PAGE) as u64;
                    ram.file().write_all_at(page.map_or(&ZERO[..], |page| &page[..]), at)?;
                }
            }
        }
        Ok(())
    }
}

fn failed(source: io::Error) -> SnapshotError {
    SnapshotError::Machine(MachineError::Host { what: "cannot copy the guest's memory", source })
}

/// RAM as chunks, and how many bytes of it are copies.
fn copy(ram: &GuestRam, before: Option<&Memory>) -> io::Result<(Vec<Option<Chunk>>, u64)> {
    let count = (ram.size() as usize).div_ceil(CHUNK_BYTES);
    let mut chunks = vec![None; count];
    let mut copied = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    for number in chunks_in(&ram.touched()?) {
        let old = before.and_then(|before| before.chunks.get(number)?.as_ref());
        let bytes = read(ram, number, &mut buffer)?;
        let page_of = |i: usize| old.and_then(|chunk| chunk[i].as_ref());
        if bytes.chunks(PAGE).enumerate().all(|(i, bytes)| same(page_of(i), bytes)) {
            chunks[number] = old.cloned();
            continue;
        }
        let mut chunk = [const { None }; CHUNK];
        for (i, (place, bytes)) in chunk.iter_mut().zip(bytes.as_chunks::<PAGE>().0).enumerate() {
            *place = match page_of(i) {
                old if same(old, bytes) => old.cloned(),
                _ if *bytes == ZERO => None,
                _ => {
                    copied += PAGE_SIZE;
                    Some(Arc::new(*bytes))
                }
            };
        }
        chunks[number] = Some(Arc::new(chunk));
    }
    Ok((chunks, copied))
}
