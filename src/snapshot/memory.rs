//! Snapshots in memory, for going back: each shares with the one before it the pages that did not change.
//!
//! What changed is found by comparison with the snapshot before, which holds for every way in which an engine writes RAM:
//! through host pointers, another process's mappings, or KVM. It costs a read of the pages that were ever touched. For an
//! engine that writes through the machine's own mapping [`Series`] asks the host instead.
use super::{SnapshotError, take_on};
use crate::arch::address::PAGE_SIZE;
use crate::machine::{ConsoleSink, Machine, MachineError, MachineSpec, SavedMachine, SavedShape};
use crate::mem::{GuestRam, Written};
use std::collections::HashSet;
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
const NO_PAGES: [Option<Page>; CHUNK] = [const { None }; CHUNK];

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

    /// Builds a machine of `spec`, like the one of shape `shape` that it was taken of, where that stood. `rom` is its firmware,
    /// if it has one.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing stays behind.
    pub fn build(
        &self,
        shape: &SavedShape,
        spec: &MachineSpec,
        rom: Option<&[u8]>,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Machine, SnapshotError> {
        let mut fill = |ram: &GuestRam| self.fill(ram).map_err(|error| error.to_string());
        Ok(Machine::restore(spec, rom, (shape, &self.state), &mut fill, console)?)
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

    /// Bytes of the guest's memory at an offset of the memory object, at most a page and not beyond its end.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let (number, into) = ((offset / PAGE_SIZE) as usize, (offset % PAGE_SIZE) as usize);
        let page = self.page(number).map_or(&ZERO, |page| page);
        page[into..(into + length).min(PAGE)].to_vec()
    }

    fn page(&self, number: usize) -> Option<&Page> {
        self.chunks.get(number / CHUNK)?.as_ref()?[number % CHUNK].as_ref()
    }

    fn fill(&self, ram: &GuestRam) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let touched = ram.touched()?;
        // What was never touched is zero now, and is to hold something only where the snapshot does.
        let now: HashSet<usize> = chunks_in(&touched).collect();
        for (number, chunk) in self.chunks.iter().enumerate() {
            if chunk.is_none() && !now.contains(&number) {
                continue;
            }
            let bytes = read(ram, number, &mut buffer)?;
            for (i, bytes) in bytes.chunks(PAGE).enumerate() {
                let page = self.page(number * CHUNK + i);
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

/// Bytes that these snapshots keep of RAM together.
#[must_use]
pub fn kept<'a>(snapshots: impl Iterator<Item = &'a Memory>) -> u64 {
    let (mut chunks, mut pages) = (HashSet::new(), HashSet::new());
    for chunk in snapshots.flat_map(|memory| memory.chunks.iter().flatten()) {
        if chunks.insert(Arc::as_ptr(chunk)) {
            pages.extend(chunk.iter().flatten().map(Arc::as_ptr));
        }
    }
    pages.len() as u64 * PAGE_SIZE
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
        let mut chunk = NO_PAGES;
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

/// Snapshots of one machine that cost what has changed since the last of them was taken or put back: the host tells which
/// pages were written. Where it cannot, all pages that were ever touched are compared.
///
/// Nobody else puts the machine elsewhere meanwhile. It is for engines that write RAM through the machine's own mapping.
#[derive(Debug)]
pub struct Series {
    // Dropped before the mapping that it watches.
    written: Option<Written>,
    ram: Arc<GuestRam>,
    /// What RAM was when the watch was last asked.
    base: Option<Memory>,
    released: u64,
}

impl Series {
    /// A series of snapshots of this machine.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        let ram = Arc::clone(machine.platform().ram());
        // Without it all is compared.
        Self { written: ram.watch_writes().ok(), released: ram.released(), ram, base: None }
    }

    /// Whether the host tells what was written.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.written.is_some()
    }

    /// Lets go of the host's watch over what is written: there is one at a time for a machine.
    pub fn stop_watching(&mut self) {
        self.written = None;
    }

    /// The pages that may differ from those of the base; `None` if all may.
    fn changed(&mut self) -> Option<Vec<Range<u64>>> {
        let written = self.written.as_ref().map(Written::take).transpose();
        if written.is_err() {
            self.written = None;
        }
        let released = std::mem::replace(&mut self.released, self.ram.released());
        written.unwrap_or_default().filter(|_| released == self.released && self.base.is_some())
    }

    /// The machine, which stands, as it is now.
    ///
    /// # Errors
    /// As [`Memory::take`].
    pub fn take(&mut self, machine: &mut Machine) -> Result<Memory, SnapshotError> {
        let state = machine.save()?;
        let changed = self.changed();
        // If it fails, what was written since is known no more.
        let base = self.base.take();
        let (chunks, copied) = match (&base, changed) {
            (Some(base), Some(changed)) => copy_changed(&self.ram, base, &changed),
            (base, _) => copy(&self.ram, base.as_ref()),
        }
        .map_err(failed)?;
        let taken = Memory { state, chunks, copied };
        self.base = Some(taken.clone());
        Ok(taken)
    }

    /// Puts the machine back to where this snapshot of the series was taken.
    ///
    /// # Errors
    /// As [`Memory::put_back`].
    pub fn put_back(&mut self, machine: &mut Machine, to: &Memory) -> Result<(), SnapshotError> {
        take_on(machine, &to.state, |ram| {
            let changed = self.changed();
            let filled = match (self.base.take(), changed) {
                (Some(base), Some(changed)) => to.fill_changed(ram, &base, &changed),
                _ => to.fill(ram),
            };
            filled.map_err(|error| error.to_string())
        })?;
        self.base = Some(to.clone());
        Ok(())
    }
}

impl Memory {
    /// Fills RAM, which is that of `base` but for what has `changed` since.
    fn fill_changed(&self, ram: &GuestRam, base: &Self, changed: &[Range<u64>]) -> io::Result<()> {
        let put = |number: usize| {
            let page = self.page(number).map_or(&ZERO, |page| page);
            ram.file().write_all_at(page, (number * PAGE) as u64)
        };
        let written = changed.iter().flat_map(|range| pages_of(range, ram.size()));
        written.into_iter().try_for_each(put)?;
        let same_page = |a: Option<&Page>, b: Option<&Page>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        for (number, (own, other)) in self.chunks.iter().zip(&base.chunks).enumerate() {
            match (own, other) {
                (None, None) => continue,
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => continue,
                _ => {}
            }
            let all = number * CHUNK..(number + 1) * CHUNK;
            all.filter(|page| !same_page(self.page(*page), base.page(*page))).try_for_each(put)?;
        }
        Ok(())
    }
}

/// The numbers of the pages in a range of offsets, up to the end of RAM.
fn pages_of(range: &Range<u64>, size: u64) -> Range<usize> {
    (range.start / PAGE_SIZE) as usize..range.end.min(size).div_ceil(PAGE_SIZE) as usize
}

/// RAM as chunks, which is that of `base` but for what has `changed` since, and how many bytes of it are copies.
fn copy_changed(
    ram: &GuestRam,
    base: &Memory,
    changed: &[Range<u64>],
) -> io::Result<(Vec<Option<Chunk>>, u64)> {
    let mut chunks = base.chunks.clone();
    let (mut copied, mut bytes) = (0, ZERO);
    for number in changed.iter().flat_map(|range| pages_of(range, ram.size())) {
        ram.file().read_exact_at(&mut bytes, (number * PAGE) as u64)?;
        if same(base.page(number), &bytes) {
            continue;
        }
        let chunk = chunks[number / CHUNK].get_or_insert_with(|| Arc::new(NO_PAGES));
        let place = &mut Arc::make_mut(chunk)[number % CHUNK];
        *place = if bytes == ZERO { None } else { Some(Arc::new(bytes)) };
        copied += PAGE_SIZE;
    }
    Ok((chunks, copied))
}
