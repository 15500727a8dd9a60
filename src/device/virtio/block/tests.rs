use super::*;
use crate::device::virtio::tests::{Driver, READ, WRITE};
use std::sync::{Arc, Mutex};

const HEAD: u64 = 0x8000;
const DATA: u64 = 0x9000;
const STATUS: u64 = 0x8800;

/// A disk in memory that can be told to fail. Clones share it.
#[derive(Clone)]
pub(in crate::device) struct Memory(Arc<Mutex<Kept>>);

struct Kept {
    bytes: Vec<u8>,
    read_only: bool,
    failing: bool,
    flushes: u32,
}

impl Memory {
    /// Each sector is filled with its number.
    pub(in crate::device) fn new(size: usize) -> Self {
        Self::filled(size, |at| (at / 512) as u8)
    }

    /// Each byte is what `byte` says of its place.
    pub(in crate::device) fn filled(size: usize, byte: impl FnMut(usize) -> u8) -> Self {
        let bytes = (0..size).map(byte).collect();
        Self(Arc::new(Mutex::new(Kept { bytes, read_only: false, failing: false, flushes: 0 })))
    }

    /// From now on nothing can be done with it, or all can.
    pub(in crate::device) fn fail(&self, failing: bool) {
        self.with(|kept| kept.failing = failing);
    }

    /// How often it was flushed.
    pub(in crate::device) fn flushes(&self) -> u32 {
        self.with(|kept| kept.flushes)
    }

    fn with<R>(&self, act: impl FnOnce(&mut Kept) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }

    fn tried<R>(&self, act: impl FnOnce(&mut Kept) -> R) -> io::Result<R> {
        self.with(|kept| if kept.failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(act(kept)) })
    }
}

impl DiskStore for Memory {
    fn size(&self) -> u64 {
        self.with(|kept| kept.bytes.len() as u64)
    }
    fn is_read_only(&self) -> bool {
        self.with(|kept| kept.read_only)
    }
    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.tried(|kept| into.copy_from_slice(&kept.bytes[at as usize..][..into.len()]))
    }
    fn write(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        self.tried(|kept| kept.bytes[at as usize..][..from.len()].copy_from_slice(from))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.tried(|kept| kept.flushes += 1)
    }
}

fn disk(size: usize) -> (Driver<Block>, Memory) {
    let memory = Memory::new(size);
    (Driver::started(Block::new(Box::new(memory.clone()), "a-disk")), memory)
}

impl Driver<Block> {
    /// Carries out one request with these buffers of data; its outcome and the length told.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[(u64, u32, u16)]) -> (u8, u32) {
        let mut header = [kind.to_le_bytes(), [0; 4]].concat();
        header.extend(sector.to_le_bytes());
        self.write(HEAD, &header);
        self.write(STATUS, &[0xee]);
        let mut all = vec![(HEAD, 16, READ)];
        all.extend(buffers);
        all.push((STATUS, 1, WRITE));
        // Each starts anew, so that the whole used ring is this request's.
        self.start_over();
        self.offer(0, &all);
        self.notify(0);
        assert!(!self.needs_reset());
        assert_eq!(self.used_index(0), 1);
        (self.bytes(STATUS, 1)[0], self.used(0)[0].1)
    }
}

#[test]
fn sectors_are_read_and_written_across_buffers() {
    let (mut driver, memory) = disk(64 << 10);
    let parts = [(DATA, 100, WRITE), (DATA + 100, 412, WRITE), (DATA + 512, 1024, WRITE)];
    assert_eq!(driver.request(0, 5, &parts), (0, 1537));
    let expected: Vec<u8> = [5, 6, 7].into_iter().flat_map(|n| [n; 512]).collect();
    assert_eq!(driver.bytes(DATA, 1536), expected);
    driver.write(DATA, &[0xab; 1024]);
    assert_eq!(driver.request(1, 126, &[(DATA, 1, READ), (DATA, 1023, READ)]), (0, 1));
    memory.with(|kept| {
        assert!(kept.bytes[126 * 512..].iter().all(|&b| b == 0xab));
        assert_eq!(kept.bytes[126 * 512 - 1], 125);
        assert_eq!(kept.flushes, 0);
    });
    assert_eq!(driver.request(0, 128, &[]), (0, 1), "nothing, at the end");
}

#[test]
fn a_large_request_goes_through_the_small_buffer() {
    let (mut driver, memory) = disk(1 << 20);
    let length = 3 * CHUNK as u32 + 512;
    assert_eq!(driver.request(0, 7, &[(0x4_0000, length, WRITE)]), (0, length + 1));
    let wanted = memory.with(|kept| kept.bytes[7 * 512..][..length as usize].to_vec());
    assert_eq!(driver.bytes(0x4_0000, length as usize), wanted);
}

#[test]
fn what_lies_outside_the_disk_is_an_error() {
    let (mut driver, memory) = disk(64 << 10);
    let before = memory.with(|kept| kept.bytes.clone());
    for (sector, length) in
        [(128, 512), (127, 1024), (u64::MAX, 512), (u64::MAX - 1, 1024), (1 << 55, 512), (0, 511), (0, 513)]
    {
        assert_eq!(driver.request(0, sector, &[(DATA, length, WRITE)]), (1, 0), "{sector} {length}");
        assert_eq!(driver.request(1, sector, &[(DATA, length, READ)]), (1, 1), "{sector} {length}");
    }
    assert_eq!(driver.request(0, 0, &[(0x2_0000, u32::MAX, WRITE), (0x2_0000, 1, WRITE)]), (1, 0), "4 GiB");
    assert_eq!(memory.with(|kept| kept.bytes.clone()), before);
}

#[test]
fn a_request_moves_no_more_than_it_may() {
    let (mut driver, _) = disk(17 << 20);
    let many = |length: u32| vec![(0x4_0000, length, WRITE); 8];
    assert_eq!(driver.request(0, 0, &many(512 << 10)).0, 0);
    assert_eq!(driver.request(0, 0, &many(2 << 20)).0, 1, "RAM is smaller than that buffer");
    assert_eq!(driver.request(0, 0, &[&many(512 << 10)[..], &many((2 << 20) + 512)[..4]].concat()).0, 1);
    let configuration = driver.face.transport().device().configuration();
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| configuration[at + i]));
    assert!(u64::from(word(8)) * u64::from(word(12)) <= MOST_DATA);
    assert_eq!((word(0), word(20)), ((17 << 20) / 512, 512));
}

#[test]
fn buffers_outside_ram_are_an_error() {
    let (mut driver, memory) = disk(64 << 10);
    let before = memory.with(|kept| kept.bytes.clone());
    assert_eq!(driver.request(0, 0, &[(1 << 40, 512, WRITE)]), (1, 0));
    assert_eq!(driver.request(1, 0, &[(u64::MAX - 100, 512, READ)]), (1, 1));
    assert_eq!(driver.request(0, 3, &[(DATA, 512, WRITE), (1 << 20, 512, WRITE)]), (1, 512));
    assert_eq!(memory.with(|kept| kept.bytes.clone()), before);
}

#[test]
fn a_failing_host_is_an_error_and_no_more() {
    let (mut driver, memory) = disk(64 << 10);
    memory.with(|kept| kept.failing = true);
    assert_eq!(driver.request(0, 0, &[(DATA, 512, WRITE)]), (1, 0));
    assert_eq!(driver.request(1, 0, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(driver.request(4, 0, &[]), (1, 1));
    memory.with(|kept| kept.failing = false);
    assert_eq!(driver.request(1, 0, &[(DATA, 512, READ)]), (0, 1));
    assert_eq!(driver.request(4, 0, &[]), (0, 1));
    assert_eq!(memory.with(|kept| kept.flushes), 1);
}

#[test]
fn a_read_only_disk_says_so_and_is_not_written() {
    let (_, memory) = disk(64 << 10);
    memory.with(|kept| kept.read_only = true);
    let block = Block::new(Box::new(memory.clone()), "ro");
    assert_eq!(block.features() & 1 << 5, 1 << 5);
    let mut driver = Driver::started(block);
    let before = memory.with(|kept| kept.bytes.clone());
    assert_eq!(driver.request(1, 0, &[(DATA, 512, READ)]), (1, 1));
    assert_eq!(memory.with(|kept| kept.bytes.clone()), before);
}

#[test]
fn a_driver_that_cannot_flush_need_not() {
    let (mut driver, memory) = disk(64 << 10);
    driver.wanted = 1 << 32;
    assert_eq!(driver.request(1, 0, &[(DATA, 512, READ)]), (0, 1));
    assert_eq!(memory.with(|kept| kept.flushes), 1);
}

#[test]
fn the_disk_has_a_name_and_knows_no_other_requests() {
    let (mut driver, _) = disk(64 << 10);
    assert_eq!(driver.request(8, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(driver.bytes(DATA, 20), b"a-disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(driver.request(8, 0, &[(DATA + 64, 4, WRITE)]), (0, 5));
    assert_eq!(driver.bytes(DATA + 64, 5), b"a-di\0");
    for kind in [2, 3, 5, 11, 13, u32::MAX] {
        assert_eq!(driver.request(kind, 0, &[(DATA, 512, READ)]), (2, 1));
    }
}

#[test]
fn requests_without_header_or_place_for_the_outcome() {
    let (mut driver, memory) = disk(64 << 10);
    let before = memory.with(|kept| kept.bytes.clone());
    driver.write(HEAD, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    driver.write(STATUS, &[0xee]);
    driver.offer(0, &[(HEAD, 15, READ), (STATUS, 1, WRITE)]);
    driver.offer(0, &[(HEAD, 16, READ), (DATA, 512, READ)]);
    driver.offer(0, &[(STATUS + 1, 1, WRITE)]);
    driver.notify(0);
    assert_eq!(driver.used(0), [(0, 1), (2, 0), (4, 1)]);
    assert_eq!(driver.bytes(STATUS, 2), [1, 1]);
    assert_eq!(memory.with(|kept| kept.bytes.clone()), before);
}
