//! The buffers of one descriptor chain: what the device reads, then what it writes.
//!
//! Descriptors are copied out of guest memory once, when the chain is walked; what the guest changes afterwards has no
//! effect. Buffers themselves may lie anywhere: each access to them is checked, and one that meets no RAM is an error
//! of the request, for the device to report, not of the queue.
use crate::arch::Gpa;
use crate::mem::{GuestRam, NotRam};
use smallvec::SmallVec;

/// A piece of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) at: Gpa,
    pub(super) length: u32,
}

/// What ends an access to a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BufferError {
    /// The guest's buffer is not all RAM.
    #[error(transparent)]
    NotRam(#[from] NotRam),
    /// There is less left in the buffer.
    #[error("the buffer is too short")]
    Short,
}

/// Pieces of guest memory that are read or written one after the other, and how far that is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Buffer {
    segments: SmallVec<[Segment; 8]>,
    /// The segment in which the next byte lies.
    current: usize,
    /// Bytes of it that are done.
    done: u32,
    /// Bytes left in all.
    left: u64,
}

impl Buffer {
    /// Appends a piece; an empty one is nothing.
    pub(super) fn push(&mut self, segment: Segment) {
        if segment.length > 0 {
            self.left += u64::from(segment.length);
            self.segments.push(segment);
        }
    }

    /// Bytes that were neither read nor written so far.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece of at most `most` bytes.
    fn piece(&self, most: usize) -> Option<Segment> {
        let segment = self.segments.get(self.current)?;
        let length = u64::from(segment.length - self.done).min(most as u64) as u32;
        Some(Segment { at: segment.at.offset(u64::from(self.done)), length })
    }

    fn advance(&mut self, length: u32) {
        self.done += length;
        self.left -= u64::from(length);
        if self.segments.get(self.current).is_some_and(|segment| segment.length == self.done) {
            self.current += 1;
            self.done = 0;
        }
    }

    /// Calls `access` for each piece of the next `length` bytes, with its place and its bounds within them.
    fn walk(
        &mut self,
        length: usize,
        mut access: impl FnMut(Gpa, std::ops::Range<usize>) -> Result<(), NotRam>,
    ) -> Result<(), BufferError> {
        if self.left < length as u64 {
            return Err(BufferError::Short);
        }
        let mut done = 0;
        while done < length {
            let Segment { at, length: piece } = self.piece(length - done).ok_or(BufferError::Short)?;
            access(at, done..done + piece as usize)?;
            self.advance(piece);
            done += piece as usize;
        }
        Ok(())
    }

    /// Copies the next bytes out of guest memory.
    ///
    /// # Errors
    /// [`BufferError`]; how much was copied before is not said, and nothing behind the first fault was.
    pub fn read(&mut self, ram: &GuestRam, into: &mut [u8]) -> Result<(), BufferError> {
        self.walk(into.len(), |at, range| ram.read(at, &mut into[range]))
    }

    /// Copies bytes into the guest's buffer.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&mut self, ram: &GuestRam, from: &[u8]) -> Result<(), BufferError> {
        self.walk(from.len(), |at, range| ram.write(at, &from[range]))
    }

    /// Takes the last byte of the whole buffer off, and returns where it lies. `None` for an empty one.
    pub fn take_last(&mut self) -> Option<Gpa> {
        let last = self.segments.last_mut()?;
        last.length -= 1;
        let at = last.at.offset(u64::from(last.length));
        self.left = self.left.checked_sub(1)?;
        if last.length == 0 {
            self.segments.pop();
        }
        Some(at)
    }
}

/// One descriptor chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its first descriptor, by which the driver knows it.
    pub(super) head: u16,
    /// What the device reads.
    pub readable: Buffer,
    /// What the device writes.
    pub writable: Buffer,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(segments: &[(u64, u32)]) -> Buffer {
        let mut buffer = Buffer::default();
        segments.iter().for_each(|&(at, length)| buffer.push(Segment { at: Gpa(at), length }));
        buffer
    }

    #[test]
    fn pieces_are_crossed_and_empty_ones_are_nothing() {
        let ram = GuestRam::new(8192).unwrap();
        let mut out = buffer(&[(0, 3), (500, 0), (100, 2), (200, 4)]);
        assert_eq!(out.left(), 9);
        out.write(&ram, b"abcd").unwrap();
        out.write(&ram, b"efg").unwrap();
        assert_eq!((out.left(), out.write(&ram, b"hij")), (2, Err(BufferError::Short)));
        let mut back = buffer(&[(0, 3), (100, 2), (200, 2)]);
        let mut bytes = [0; 7];
        back.read(&ram, &mut bytes).unwrap();
        assert_eq!((&bytes, back.left()), (b"abcdefg", 0));
        back.read(&ram, &mut []).unwrap();
    }

    #[test]
    fn what_is_no_ram_is_an_error_of_the_access() {
        let ram = GuestRam::new(8192).unwrap();
        let mut far = buffer(&[(8190, 2), (u64::MAX, u32::MAX)]);
        assert_eq!(far.left(), 2 + u64::from(u32::MAX));
        far.write(&ram, b"ab").unwrap();
        assert!(matches!(far.write(&ram, b"c"), Err(BufferError::NotRam(_))));
    }

    #[test]
    fn the_last_byte_is_behind_empty_pieces() {
        let mut two = buffer(&[(10, 2), (20, 1), (30, 0)]);
        assert_eq!(two.take_last(), Some(Gpa(20)));
        assert_eq!(two.take_last(), Some(Gpa(11)));
        assert_eq!((two.take_last(), two.left()), (Some(Gpa(10)), 0));
        assert_eq!(two.take_last(), None);
    }
}
