//! A CD-ROM drive beside a disk: its packets, by data register and by DMA.
use super::*;

const BLOCKS: usize = 40;
const BLOCK: usize = 2048;

/// A block's bytes tell where they are.
fn medium(at: usize) -> u8 {
    (at / BLOCK) as u8 ^ (at % BLOCK / 7) as u8
}

/// What a packet led to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Outcome {
    data: Vec<u8>,
    /// Bytes of each piece that was offered.
    pieces: Vec<usize>,
    /// Status and error at the end.
    status: u8,
    error: u8,
}

impl Bench {
    /// With a CD-ROM drive as second device of the first channel.
    fn with_cd(blocks: usize) -> Self {
        let mut bench = Self::new();
        let store = Memory::filled(blocks * BLOCK, medium);
        assert!(bench.ide.attach_cd(1, Box::new(store), "serial").is_ok());
        bench.out(0x1f6, 0xb0);
        bench
    }

    /// The state in which the guest has been told of the reset.
    fn ready(blocks: usize) -> Self {
        let mut bench = Self::with_cd(blocks);
        assert_eq!(bench.packet(&[0; 12], 2048).error >> 4, 6);
        bench
    }

    fn begin(&mut self, packet: &[u8; 12], limit: u16, dma: bool) {
        self.out(0x1f1, dma.into());
        self.out(0x1f4, limit as u8);
        self.out(0x1f5, (limit >> 8) as u8);
        self.out(0x1f7, 0xa0);
        assert_eq!((self.get(0x3f6), self.get(0x1f2), self.level()), (0x58, 1, false), "asks for a packet");
        for word in packet.chunks(2) {
            self.ide.port_write(Port(0x1f0), Width::B2, u16::from_le_bytes([word[0], word[1]]).into());
        }
    }

    /// Gives a packet and reads what is offered.
    fn packet(&mut self, packet: &[u8; 12], limit: u16) -> Outcome {
        self.begin(packet, limit, false);
        let mut outcome = Outcome::default();
        loop {
            assert!(self.level(), "each piece and the end interrupt");
            outcome.status = self.get(0x1f7);
            if outcome.status & 8 == 0 {
                break;
            }
            assert_eq!(self.get(0x1f2), 2, "to the host");
            let piece = usize::from(self.get(0x1f4)) | usize::from(self.get(0x1f5)) << 8;
            let words = self.words(piece.div_ceil(2));
            outcome.data.extend(&words[..piece]);
            outcome.pieces.push(piece);
        }
        assert_eq!(self.get(0x1f2), 3, "the end");
        outcome.error = self.get(0x1f1);
        outcome
    }

    /// Sense key and additional code of the last packet.
    fn sense(&mut self) -> (u8, u8) {
        let sense = self.packet(&[3, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0], 18).data;
        assert_eq!((sense.len(), sense[0]), (18, 0x70));
        (sense[2], sense[12])
    }
}

fn read_10(first: u32, count: u16) -> [u8; 12] {
    let [a, b, c, d] = first.to_be_bytes();
    let [e, f] = count.to_be_bytes();
    [0x28, 0, a, b, c, d, 0, e, f, 0, 0, 0]
}

#[test]
fn a_drive_is_known_by_its_signature() {
    let mut bench = Bench::with_cd(BLOCKS);
    let signature = |bench: &mut Bench, device: u8| {
        bench.out(0x1f6, device);
        [0x1f2, 0x1f3, 0x1f4, 0x1f5].map(|port| bench.get(port))
    };
    bench.out(0x3f6, 4);
    bench.out(0x3f6, 0);
    assert_eq!(signature(&mut bench, 0xa0), [1, 1, 0, 0]);
    assert_eq!(signature(&mut bench, 0xb0), [1, 1, 0x14, 0xeb]);
    assert_eq!(signature(&mut bench, 0xa0), [1, 1, 0, 0]);
    // What is written stays.
    bench.out(0x1f4, 7);
    assert_eq!(signature(&mut bench, 0xb0), [1, 1, 7, 0]);
    // Who takes it for a disk is told.
    bench.out(0x1f7, 0xec);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f1), bench.get(0x1f5)), (0x51, 4, 0xeb));
    bench.out(0x1f7, 0x08);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f4), bench.level()), (0, 0x14, false));
    bench.out(0x1f7, 0xa1);
    assert_eq!(bench.get(0x1f7), 0x58);
    let sector = bench.words(256);
    assert_eq!((sector[0], sector[1], &sector[54..64]), (0xc0, 0x85, &b"rtvisiroC "[..]));
    // The disk is none that takes packets.
    bench.out(0x1f6, 0xa0);
    for code in [0xa0, 0xa1, 0x08] {
        bench.out(0x1f7, code);
        assert_eq!((bench.get(0x1f7), bench.get(0x1f1)), (0x51, 4), "{code:#x}");
    }
}

#[test]
fn a_drive_tells_of_itself_and_of_its_medium() {
    let mut bench = Bench::with_cd(BLOCKS);
    let inquiry = bench.packet(&[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0], 36).data;
    assert_eq!((inquiry[0], inquiry[1], &inquiry[8..16]), (5, 0x80, &b"trivisor"[..]));
    // The reset is told once, by the first packet that can fail.
    assert_eq!(bench.packet(&[0; 12], 0).status, 0x51);
    assert_eq!(bench.sense(), (6, 0x29));
    assert_eq!((bench.packet(&[0; 12], 0).status, bench.sense()), (0x50, (0, 0)));
    let capacity = bench.packet(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).data;
    assert_eq!(capacity, [0, 0, 0, BLOCKS as u8 - 1, 0, 0, 8, 0]);
    let toc = bench.packet(&[0x43, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0], 100).data;
    assert_eq!(toc[..12], [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    assert_eq!(toc[12..], [0, 0x14, 0xaa, 0, 0, 0, 0, BLOCKS as u8]);
    // In minutes, seconds and frames, from the lead-out on.
    let toc = bench.packet(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 100, 0, 0, 0], 100).data;
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 2, 40]);
    let modes = bench.packet(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 100, 0, 0, 0], 100).data;
    assert_eq!((modes.len(), modes[1], modes[8]), (28, 26, 0x2a));
    // The tray.
    let tray = |bench: &mut Bench, how| bench.packet(&[0x1b, 0, 0, 0, how, 0, 0, 0, 0, 0, 0, 0], 0).status;
    bench.packet(&[0x1e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], 0);
    assert_eq!((tray(&mut bench, 2), bench.sense()), (0x51, (5, 0x53)));
    bench.packet(&[0x1e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0);
    assert_eq!(tray(&mut bench, 2), 0x50);
    assert_eq!((bench.packet(&read_10(0, 1), 2048).status, bench.sense()), (0x51, (2, 0x3a)));
    assert_eq!(tray(&mut bench, 3), 0x50);
    assert_eq!((bench.packet(&[0; 12], 0).status, bench.sense()), (0x51, (6, 0x28)));
    assert_eq!(bench.packet(&[0; 12], 0).status, 0x50);
    // What it does not know.
    assert_eq!((bench.packet(&[0x2a; 12], 0).status, bench.sense()), (0x51, (5, 0x20)));
    // A medium without a block is none.
    let mut empty = Bench::ready(0);
    assert_eq!((empty.packet(&read_10(0, 0), 2048).status, empty.sense()), (0x51, (2, 0x3a)));
}

#[test]
fn memory_that_does_not_take_the_data_is_an_error() {
    let mut bench = Bench::ready(BLOCKS);
    bench.region(0, DATA, 2048 | 1 << 31);
    bench.begin(&read_10(3, 2), 0, true);
    assert_eq!(bench.master(true) & 7, 6, "error and interrupt");
    assert_eq!((bench.get(0x1f7), bench.sense()), (0x51, (0xb, 0x4b)));
    // A bus master that goes the other way.
    bench.begin(&read_10(3, 1), 0, true);
    assert_eq!(bench.master(false) & 7, 6);
    assert_eq!((bench.get(0x1f7), bench.sense()), (0x51, (0xb, 0x4b)));
    bench.begin(&read_10(3, 1), 0, true);
    assert_eq!((bench.master(true) & 7, bench.get(0x1f7)), (4, 0x50));
}

#[test]
fn a_bus_master_may_run_before_the_packet_comes() {
    let mut bench = Bench::ready(BLOCKS);
    bench.region(0, DATA, 2048 | 1 << 31);
    bench.ide.bar_write(4, 4, Width::B4, PRD.into());
    bench.ide.bar_write(4, 0, Width::B1, 9);
    bench.begin(&read_10(3, 1), 0, true);
    assert_eq!((bench.get(0x1f7), bench.get(0x1f2)), (0x50, 3));
    assert_eq!(bench.ram_at(DATA, 2048), (3 * BLOCK..4 * BLOCK).map(medium).collect::<Vec<_>>());
    bench.ide.bar_write(4, 0, Width::B1, 0);
    // One that runs for nothing takes nothing away from the data register, be it a drive's or a disk's.
    bench.ide.bar_write(4, 0, Width::B1, 9);
    assert_eq!(bench.packet(&read_10(4, 1), 512).pieces, [512; 4]);
    bench.command(0x20, 5, 2);
    assert_eq!(bench.words(256), vec![5; 512]);
    bench.out(0x1f1, 0);
    assert_eq!((bench.words(256), bench.get(0x1f7)), (vec![6; 512], 0x50));
}

#[test]
fn what_was_begun_ends_when_the_guest_turns_away() {
    let mut bench = Bench::ready(BLOCKS);
    bench.begin(&read_10(3, 2), 2048, false);
    bench.out(0x1f6, 0xa0);
    assert_eq!(bench.words(1024).len(), 2048);
    assert_eq!(bench.get(0x1f7), 0x51, "the disk has no second block");
    bench.out(0x1f6, 0xb0);
    assert_eq!(
        bench.packet(&read_10(3, 1), 2048).data,
        (3 * BLOCK..4 * BLOCK).map(medium).collect::<Vec<_>>()
    );
}

/// Registers and packets of all kinds, more often than not those that are there.
fn cd_act() -> impl Strategy<Value = (u8, [u8; 12], u32)> {
    let code = prop::sample::select(vec![
        0_u8, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x43, 0x5a, 0xa8, 0xff,
    ]);
    let small = prop::array::uniform12(prop_oneof![3 => Just(0_u8), 2 => 0..64_u8, 1 => any::<u8>()]);
    (0..12_u8, (code, small), any::<u32>()).prop_map(|(kind, (code, mut packet), value)| {
        packet[0] = code;
        (kind, packet, value)
    })
}

impl Bench {
    fn apply_cd(&mut self, &(kind, packet, value): &(u8, [u8; 12], u32)) {
        match kind {
            // Any register of either device, and the control block.
            0 => self.out(0x1f0 + value as u16 % 8, (value >> 8) as u8),
            1 => self.out(0x3f6, (value >> 8) as u8 & 0x86),
            2 => self.out(0x1f6, if value & 1 == 0 { 0xb0 } else { 0xa0 }),
            3 => {
                let codes = [0xa0, 0xa1, 0x08, 0xec, 0x20, 0x90, 0xc8, 0xca];
                self.out(0x1f7, codes[value as usize % codes.len()]);
            }
            4 => {
                self.ide.bar_write(4, 4, Width::B4, PRD.into());
                self.ide.bar_write(4, 0, Width::B1, u64::from(value) & 9);
            }
            5 => (0..value % 3000).for_each(|_| drop(self.words(1))),
            6 => drop(self.ide.port_read(Port(0x1f0), Width::B4)),
            // A packet, whole or not, with some way for its data.
            _ => {
                self.out(0x1f6, 0xb0);
                self.out(0x1f1, value as u8 & 3);
                self.out(0x1f4, (value >> 8) as u8);
                self.out(0x1f5, (value >> 16) as u8);
                self.out(0x1f7, 0xa0);
                let words = if value >> 28 == 0 { 4 } else { 6 };
                for word in packet.chunks(2).take(words) {
                    self.ide.port_write(
                        Port(0x1f0),
                        Width::B2,
                        u16::from_le_bytes([word[0], word[1]]).into(),
                    );
                }
            }
        }
    }
}

proptest! {
    /// Reading gives the medium's bytes, in pieces of any size or by DMA, or an error if it has no such blocks.
    #[test]
    fn blocks_are_the_mediums(
        first in prop_oneof![4 => 0..BLOCKS as u32, 1 => any::<u32>()],
        count in prop_oneof![4 => 0..8_u32, 1 => any::<u32>()],
        long in any::<bool>(),
        limit in any::<u16>(),
    ) {
        let (first_at, all) = (first as usize * BLOCK, count as usize * BLOCK);
        let (packet, count) = if long {
            let ([a, b, c, d], [e, f, g, h]) = (first.to_be_bytes(), count.to_be_bytes());
            ([0xa8, 0, a, b, c, d, e, f, g, h, 0, 0], count)
        } else {
            (read_10(first, count as u16), count & 0xffff)
        };
        let has = (first as usize) < BLOCKS && first as usize + count as usize <= BLOCKS;
        let mut bench = Bench::ready(BLOCKS);
        let outcome = bench.packet(&packet, limit);
        if has {
            let wanted: Vec<u8> = (first_at..first_at + all).map(medium).collect();
            prop_assert_eq!((outcome.status, outcome.data == wanted), (0x50, true));
            let most = if limit < 2 { 0xfffe } else { usize::from(limit & !1) };
            prop_assert!(outcome.pieces.iter().rev().skip(1).all(|piece| *piece == most));
            prop_assert!(outcome.pieces.iter().all(|piece| (1..=most).contains(piece)));
            if count > 0 {
                bench.region(0, DATA, BLOCK as u32);
                bench.region(1, DATA + BLOCK as u32, 1 << 31 | 0x8000);
                bench.begin(&packet, limit, true);
                prop_assert_eq!(bench.master(true) & 6, 4);
                prop_assert_eq!((bench.get(0x1f7), bench.ram_at(DATA, all) == wanted), (0x50, true));
            }
        } else {
            prop_assert_eq!((outcome.status, outcome.data.len()), (0x51, 0));
            let (key, code) = bench.sense();
            prop_assert!(key == 5 && matches!(code, 0x21 | 0x24), "{key} {code}");
        }
    }

    #[test]
    fn any_guest_leaves_a_drive_that_goes_on(acts in prop::collection::vec(cd_act(), 0..100)) {
        let (mut bench, mut other) = (Bench::with_cd(BLOCKS), Bench::with_cd(BLOCKS));
        (0..512).for_each(|i| bench.region(i, DATA, 512));
        for act in &acts {
            bench.apply_cd(act);
            let bytes = postcard::to_allocvec(&bench.ide.saved()).unwrap();
            other.ide.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
            prop_assert_eq!(other.ide.saved(), bench.ide.saved());
            prop_assert_eq!(other.level(), bench.level());
        }
        bench.ide.bar_write(4, 0, Width::B1, 0);
        bench.out(0x3f6, 4);
        bench.out(0x3f6, 0);
        bench.out(0x1f6, 0xb0);
        prop_assert_eq!([0x1f4, 0x1f5].map(|port| bench.get(port)), [0x14, 0xeb]);
        // A guest that has opened the tray closes it; the reset is told.
        let _attention = bench.packet(&[0; 12], 0);
        bench.packet(&[0x1b, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], 0);
        let _changed = bench.packet(&[0; 12], 0);
        let outcome = bench.packet(&read_10(7, 1), 2048);
        prop_assert_eq!((outcome.status, outcome.pieces), (0x50, vec![2048]));
        prop_assert_eq!(outcome.data, (7 * BLOCK..8 * BLOCK).map(medium).collect::<Vec<_>>());
    }
}
