mod cd;

use super::*;
use crate::arch::Gpa;
use crate::bus::IrqSink;
use crate::device::virtio::block::tests::Memory;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

const RAM: u64 = 1 << 20;
const SECTORS: usize = 4096;
const PRD: u32 = 0x1000;
const DATA: u32 = 0x2_0000;

#[derive(Default)]
struct Lines {
    levels: AtomicU16,
    edges: AtomicU32,
}

impl IrqSink for Lines {
    fn set_line(&self, line: u8, level: bool) {
        let bit = 1 << line;
        if level {
            if self.levels.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
                self.edges.fetch_add(1, Ordering::SeqCst);
            }
        } else {
            self.levels.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

struct Bench {
    ide: Ide,
    ram: Arc<GuestRam>,
    lines: Arc<Lines>,
    disk: Memory,
}

impl Bench {
    /// One disk on the first channel, whose sectors are filled with their numbers.
    fn new() -> Self {
        let (ram, lines) = (Arc::new(GuestRam::new(RAM).unwrap()), Arc::new(Lines::default()));
        let line = |number| IrqLine::new(Arc::clone(&lines) as Arc<dyn IrqSink>, number);
        let mut ide = Ide::new(Arc::clone(&ram), [line(14), line(15)]);
        let disk = Memory::new(SECTORS * 512);
        assert!(ide.attach(0, Box::new(disk.clone()), "serial").is_ok());
        ide.config.put(4, &[5]);
        Self { ide, ram, lines, disk }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.ide.port_write(Port(port), Width::B1, value.into());
    }

    fn get(&mut self, port: u16) -> u8 {
        self.ide.port_read(Port(port), Width::B1) as u8
    }

    /// Gives a command with a 28-bit address.
    fn command(&mut self, code: u8, at: u32, count: u8) {
        self.out(0x1f6, 0xe0 | (at >> 24) as u8);
        self.out(0x1f2, count);
        for (port, shift) in [(0x1f3, 0), (0x1f4, 8), (0x1f5, 16)] {
            self.out(port, (at >> shift) as u8);
        }
        self.out(0x1f7, code);
    }

    /// Gives a command with a 48-bit address.
    fn extended(&mut self, code: u8, at: u64, count: u16) {
        self.out(0x1f6, 0x40);
        self.out(0x1f2, (count >> 8) as u8);
        self.out(0x1f2, count as u8);
        for (port, low) in [(0x1f3, 0), (0x1f4, 8), (0x1f5, 16)] {
            self.out(port, (at >> (low + 24)) as u8);
            self.out(port, (at >> low) as u8);
        }
        self.out(0x1f7, code);
    }

    fn words(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| (self.ide.port_read(Port(0x1f0), Width::B2) as u16).to_le_bytes()).collect()
    }

    fn region(&mut self, index: u32, at: u32, length: u32) {
        let mut entry = at.to_le_bytes().to_vec();
        entry.extend(length.to_le_bytes());
        self.ram.write(Gpa((PRD + 8 * index).into()), &entry).unwrap();
    }

    /// Runs the bus master; what its status says then.
    fn master(&mut self, to_memory: bool) -> u8 {
        self.ide.bar_write(4, 4, Width::B4, PRD.into());
        self.ide.bar_write(4, 0, Width::B1, if to_memory { 9 } else { 1 });
        let status = self.ide.bar_read(4, 2, Width::B1) as u8;
        self.ide.bar_write(4, 2, Width::B1, 6);
        self.ide.bar_write(4, 0, Width::B1, 0);
        status
    }

    fn ram_at(&self, at: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(Gpa(at.into()), &mut bytes).unwrap();
        bytes
    }

    fn level(&self) -> bool {
        self.lines.levels.load(Ordering::SeqCst) & 1 << 14 != 0
    }
}

#[test]
fn a_disk_says_what_it_is() {
    let mut bench = Bench::new();
    bench.command(0xec, 0, 0);
    assert!(bench.level());
    assert_eq!((bench.get(0x3f6), bench.level()), (0x58, true), "the other status leaves the interrupt");
    assert_eq!((bench.get(0x1f7), bench.level()), (0x58, false));
    let sector = bench.words(256);
    let word = |i: usize| u16::from_le_bytes([sector[2 * i], sector[2 * i + 1]]);
    assert_eq!((word(60), word(61), word(100), word(49) & 0x300), (SECTORS as u16, 0, SECTORS as u16, 0x300));
    assert_eq!(&sector[20..26], b"esirla", "serial");
    assert_eq!((word(1), word(3), word(6)), (4, 16, 63));
    assert_eq!((bench.get(0x1f7), bench.words(1)), (0x50, vec![0xff, 0xff]), "nothing more");
}

#[test]
fn sectors_are_read_one_after_the_other_with_an_interrupt_each() {
    let mut bench = Bench::new();
    bench.command(0x20, 5, 2);
    assert_eq!((bench.get(0x1f7), bench.words(256)), (0x58, vec![5; 512]));
    assert!(bench.level());
    assert_eq!((bench.get(0x1f7), bench.words(256)), (0x58, vec![6; 512]));
    assert_eq!((bench.get(0x1f7), bench.level(), bench.lines.edges.load(Ordering::SeqCst)), (0x50, false, 2));
    bench.command(0x20, 0, 0);
    assert_eq!(bench.words(256 * 256)[255 * 512], 255, "0 is 256 sectors");
    assert_eq!(bench.get(0x1f7), 0x50);
}

#[test]
fn blocks_and_long_addresses() {
    let mut bench = Bench::new();
    bench.command(0xc4, 0, 8);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 4), "no block was set");
    for (count, status) in [(3, 0x51), (32, 0x51), (4, 0x50)] {
        bench.command(0xc6, 0, count);
        assert_eq!(bench.get(0x1f7), status, "{count}");
    }
    bench.extended(0x29, 10, 6);
    let before = bench.lines.edges.load(Ordering::SeqCst);
    bench.get(0x1f7);
    let bytes = bench.words(6 * 256);
    assert_eq!((bytes[0], bytes[5 * 512]), (10, 15));
    assert_eq!(bench.lines.edges.load(Ordering::SeqCst) - before, 1, "the second block is of two sectors");
    bench.extended(0x27, 0, 0);
    assert_eq!((bench.get(0x1f3), bench.get(0x1f4)), (0xff, 0x0f));
    bench.out(0x3f6, 0x80);
    assert_eq!(bench.get(0x1f3), 0);
    bench.extended(0x24, 1 << 40, 1);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 0x10), "beyond the end");
}

#[test]
fn cylinders_and_heads() {
    let mut bench = Bench::new();
    bench.command(0x91, 0, 32);
    bench.out(0x1f6, 0xa3);
    bench.out(0x1f2, 32);
    bench.out(0x1f7, 0x91);
    for (port, value) in [(0x1f2, 1), (0x1f3, 7), (0x1f4, 1), (0x1f5, 0), (0x1f6, 0xa2)] {
        bench.out(port, value);
    }
    bench.out(0x1f7, 0x20);
    assert_eq!(bench.words(256)[0], ((4 + 2) * 32 + 6) as u8);
    bench.out(0x1f3, 0);
    bench.out(0x1f7, 0x20);
    assert_eq!(bench.get(0x1f7), 0x51, "sectors begin at 1");
}

#[test]
fn what_is_written_is_on_the_disk() {
    let mut bench = Bench::new();
    bench.command(0x30, 7, 2);
    assert_eq!((bench.get(0x1f7), bench.level()), (0x58, false));
    for i in 0..512_u32 {
        bench.ide.port_write(Port(0x1f0), Width::B2, i);
        assert_eq!(bench.level(), i >= 255);
    }
    assert_eq!(bench.get(0x1f7), 0x50);
    let mut sector = [0; 512];
    bench.disk.read(8 * 512, &mut sector).unwrap();
    assert_eq!(sector[..4], [0, 1, 1, 1]);
    bench.command(0xe7, 0, 0);
    assert_eq!((bench.get(0x1f7), bench.disk.flushes()), (0x50, 1));
    bench.out(0x1f1, 0x82);
    bench.command(0xef, 0, 0);
    bench.region(0, DATA, 512 | 1 << 31);
    bench.command(0xca, 9, 1);
    bench.master(false);
    assert_eq!((bench.get(0x1f7), bench.disk.flushes()), (0x50, 2), "without a cache each write lasts");
}

#[test]
fn the_host_refuses_and_the_guest_is_told() {
    let mut bench = Bench::new();
    bench.disk.fail(true);
    bench.command(0x20, 0, 1);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 0x40));
    bench.command(0x30, 0, 1);
    (0..256).for_each(|_| bench.ide.port_write(Port(0x1f0), Width::B2, 1));
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 4));
    bench.region(0, DATA, 512 | 1 << 31);
    for (code, to_memory, error) in [(0xc8, true, 0x40), (0xca, false, 4)] {
        bench.command(code, 0, 1);
        assert_eq!(bench.master(to_memory) & 7, 4);
        assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, error));
    }
    bench.command(0xe7, 0, 0);
    assert_eq!(bench.get(0x1f7), 0x51);
    bench.disk.fail(false);
    bench.command(0x20, 3, 1);
    assert_eq!(bench.words(256)[0], 3);
}

#[test]
fn dma_scatters_and_gathers_by_its_table() {
    let mut bench = Bench::new();
    bench.region(0, DATA, 700);
    bench.region(1, DATA + 0x1000, 324 | 1 << 31);
    bench.command(0xc8, 5, 2);
    assert!(!bench.level());
    assert_eq!((bench.master(true), bench.get(0x1f7)), (4, 0x50));
    assert_eq!(bench.ram_at(DATA, 700), [vec![5; 512], vec![6; 188]].concat());
    assert_eq!(bench.ram_at(DATA + 0x1000, 325), [vec![6; 324], vec![0]].concat());
    bench.command(0xca, 100, 2);
    assert_eq!((bench.master(false), bench.get(0x1f7)), (4, 0x50));
    let mut sector = [0; 512];
    bench.disk.read(101 * 512, &mut sector).unwrap();
    assert_eq!(sector, [6; 512]);
    // A length of 0 is 64 KiB; what the command does not need of it is left, and the master stays active.
    bench.region(0, DATA, 1 << 31);
    bench.extended(0x25, 0, 127);
    assert_eq!(bench.master(true), 5);
    assert_eq!(bench.ram_at(DATA + 126 * 512, 513), [vec![126; 512], vec![0]].concat());
    bench.command(0xc8, 0, 128);
    assert_eq!(bench.master(true), 4);
}

#[test]
fn dma_that_cannot_be_is_an_error() {
    let mut bench = Bench::new();
    let end = RAM as u32;
    for (at, length) in [
        (DATA, 510 | 1 << 31),
        (end - 256, 512 | 1 << 31),
        (0xe000_0000, 512 | 1 << 31),
        (0xffff_fff0, 512 | 1 << 31),
    ] {
        bench.region(0, at, length);
        for (code, to_memory) in [(0xc8, true), (0xca, false)] {
            bench.command(code, 0, 1);
            assert_eq!(bench.master(to_memory), 6, "{at:#x}");
            assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 4));
        }
    }
    bench.region(0, DATA, 512 | 1 << 31);
    bench.command(0xc8, 0, 1);
    assert_eq!(bench.master(false), 6, "the wrong direction");
    bench.ide.config.put(4, &[1]);
    bench.command(0xc8, 0, 1);
    assert_eq!(bench.master(true), 6, "it may not reach memory");
    bench.ide.config.put(4, &[5]);
    // A table without an end, of the smallest regions: the command stops with the table.
    for i in 0..8192 {
        bench.region(i, DATA, 2);
    }
    bench.extended(0x25, 0, 4096);
    assert_eq!(bench.master(true), 6);
    bench.ide.bar_write(4, 0, Width::B1, 9);
    bench.ide.bar_write(4, 4, Width::B4, 0xffff_fffc);
    bench.command(0xc8, 0, 1);
    assert_eq!(bench.get(0x1f7), 0x51, "a table that is not in RAM");
}

#[test]
fn a_command_may_find_the_master_running() {
    let mut bench = Bench::new();
    bench.region(0, DATA, 512 | 1 << 31);
    bench.ide.bar_write(4, 4, Width::B4, PRD.into());
    bench.ide.bar_write(4, 0, Width::B1, 9);
    bench.command(0xc8, 77, 1);
    assert_eq!((bench.get(0x1f7), bench.ram_at(DATA, 1)), (0x50, vec![77]));
}

#[test]
fn places_without_a_disk() {
    let mut bench = Bench::new();
    assert_eq!((bench.get(0x177), bench.get(0x376)), (0xff, 0xff), "nobody on the second channel");
    bench.out(0x1f6, 0xb0);
    bench.out(0x1f7, 0xec);
    assert_eq!((bench.get(0x1f7), bench.level()), (0, false));
    bench.out(0x1f6, 0xa0);
    bench.command(0xa1, 0, 0);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 4), "no CD");
    let disk = Box::new(Memory::new(512));
    assert!(bench.ide.attach(0, disk.clone(), "taken").is_err());
    assert!(bench.ide.attach(4, disk.clone(), "nowhere").is_err());
    assert!(bench.ide.attach(3, disk, "last").is_ok());
    bench.out(0x176, 0xb0);
    bench.out(0x177, 0xec);
    assert_eq!(bench.lines.levels.load(Ordering::SeqCst), 1 << 15);
}

#[test]
fn resets_and_silence() {
    let mut bench = Bench::new();
    bench.out(0x3f6, 2);
    bench.command(0xe7, 0, 0);
    assert!(!bench.level());
    bench.out(0x3f6, 0);
    assert!(bench.level());
    bench.command(0x20, 0, 1);
    bench.out(0x3f6, 4);
    assert_eq!((bench.get(0x3f6), bench.level()), (0x80, false));
    bench.out(0x1f7, 0xec);
    bench.out(0x3f6, 0);
    assert_eq!([0x1f1, 0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f7].map(|port| bench.get(port)), [1, 1, 1, 0, 0, 0x50]);
}

/// What a hostile guest does: registers of all kinds, and tables.
fn act() -> impl Strategy<Value = (u8, u16, u32)> {
    let register = prop_oneof![0x1f0..0x1f8_u16, 0x170..0x178_u16, Just(0x3f6), Just(0x376)];
    let code = prop::sample::select(vec![
        0x20_u32, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x40, 0x90, 0x91, 0xc4, 0xc5, 0xc6, 0xc8, 0xca,
        0xe7, 0xec, 0xef, 0xf8,
    ]);
    prop_oneof![
        4 => (0..4_u8, register, any::<u32>()),
        2 => (Just(4_u8), Just(0x1f7), code),
        2 => (Just(5_u8), 0..16_u16, any::<u32>()),
        1 => (Just(6_u8), 0..16_u16, prop_oneof![0..0x2_0000_u32, any::<u32>()]),
        1 => (Just(7_u8), Just(0), 0..600_u32),
        1 => (Just(8_u8), Just(0), Just(0)),
    ]
}

impl Bench {
    fn apply(&mut self, &(kind, at, value): &(u8, u16, u32)) {
        const WIDTHS: [Width; 3] = [Width::B1, Width::B2, Width::B4];
        let width = WIDTHS[value as usize % 3];
        match kind {
            0 => self.out(at, value as u8),
            // The address stays on the disk more often than not.
            1 => self.out(at, value as u8 & 3),
            2 => self.ide.port_write(Port(at), width, value & width.mask() as u32),
            3 => {
                self.ide.port_read(Port(at), width);
            }
            4 => self.out(at, value as u8),
            // The table stays where it is.
            5 if at & 4 != 0 => {}
            5 => {
                let width = WIDTHS[usize::from(at) % 3];
                let at = u64::from(at) & !(width.bytes() as u64 - 1);
                self.ide.bar_write(4, at, width, u64::from(value) & width.mask());
            }
            6 => self.region(u32::from(at) / 2, value & 0xf_ffff | 0x2_0000, value),
            7 => (0..value).for_each(|_| self.ide.port_write(Port(0x1f0), Width::B2, value & 0xffff)),
            _ => {
                self.ide.bar_write(4, 4, Width::B4, PRD.into());
                self.ide.bar_write(4, 0, Width::B1, 9);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_guest_leaves_a_disk_that_goes_on(acts in prop::collection::vec(act(), 0..150)) {
        let (mut bench, mut other) = (Bench::new(), Bench::new());
        (0..8192).for_each(|i| bench.region(i, DATA, 512));
        [4, 12].iter().for_each(|&at| bench.ide.bar_write(4, at, Width::B4, PRD.into()));
        for act in &acts {
            bench.apply(act);
            let bytes = postcard::to_allocvec(&bench.ide.saved()).unwrap();
            other.ide.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
            prop_assert_eq!(other.ide.saved(), bench.ide.saved());
            prop_assert_eq!(other.level(), bench.level());
        }
        // Below the regions that were given to it nothing has changed but the table.
        prop_assert!(bench.ram_at(0, 0x1000) == vec![0; 0x1000]);
        bench.out(0x3f6, 4);
        bench.out(0x3f6, 0);
        bench.ide.bar_write(4, 0, Width::B1, 0);
        bench.command(0x40, 0, 1);
        prop_assert_eq!(bench.get(0x1f7), 0x50);
        bench.command(0xec, 0, 0);
        prop_assert_eq!(bench.words(256).len(), 512);
        prop_assert_eq!(bench.get(0x1f7), 0x50);
    }
}
