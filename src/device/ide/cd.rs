//! A CD-ROM drive: what packets ask of it (INCITS MMC-3, SPC-2; SFF-8020i for drives on ATA).
//!
//! A packet ends in a [`Reply`], bytes made here or of the medium, or in a [`Sense`], which the guest asks for. The medium
//! is one data track from the first block on, as an ISO 9660 image is. It is never written.
use super::spec::{BLOCK, packet};
use crate::device::disk::DiskStore;
use serde::{Deserialize, Serialize};
use std::io;

/// The most blocks that one packet reads: what READ(10) can ask for.
const MOST_BLOCKS: u32 = 0xffff;
/// Frames of a second, and those before the first block, for addresses in minutes, seconds and frames.
const FRAMES: u32 = 75;
const LEAD_IN: u32 = 150;
/// The number that stands for the lead-out among tracks.
const LEAD_OUT: u8 = 0xaa;

/// Why a packet failed: sense key, additional code and its qualifier (SPC-2, 7.20).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sense {
    pub(super) key: u8,
    code: u8,
    qualifier: u8,
}

impl Sense {
    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    const NO_MEDIUM: Self = Self::new(2, 0x3a, 0);
    const UNREADABLE: Self = Self::new(3, 0x11, 0);
    const NO_SUCH_COMMAND: Self = Self::new(5, 0x20, 0);
    const OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    const BAD_FIELD: Self = Self::new(5, 0x24, 0);
    const LOCKED: Self = Self::new(5, 0x53, 2);
    const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0);
    const RESET: Self = Self::new(6, 0x29, 0);
    /// The guest gave no place for the data.
    pub(super) const NOT_TAKEN: Self = Self::new(0xb, 0x4b, 0);
}

/// What a packet gives: bytes that are there, and then bytes of the medium.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    /// The first byte of the medium.
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Reply {
    const NOTHING: Self = Self { bytes: vec![], at: 0, left: 0 };

    fn made(mut bytes: Vec<u8>, room: usize) -> Self {
        bytes.truncate(room);
        Self { bytes, at: 0, left: 0 }
    }

    /// Whether a packet can have such a reply.
    pub(super) fn is_possible(&self) -> bool {
        self.bytes.len() <= usize::from(u16::MAX) && self.left <= u64::from(MOST_BLOCKS) * BLOCK
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.left == 0
    }
}

/// What the guest has set of a drive, and what waits to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Why the last packet failed.
    sense: Sense,
    /// What happened since, and is to be told first.
    attention: Option<Sense>,
    /// The medium is in.
    loaded: bool,
    /// The guest has locked it in.
    locked: bool,
    /// The mode of transfer that was set last.
    pub(super) mode: u8,
}

/// A drive, with its medium.
pub(super) struct Cd {
    // Configuration.
    pub(super) serial: String,
    // Runtime glue.
    store: Box<dyn DiskStore>,
    // Volatile state.
    pub(super) state: State,
}

fn be16(packet: &[u8; packet::SIZE], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn be32(packet: &[u8; packet::SIZE], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

impl Cd {
    pub(super) fn new(store: Box<dyn DiskStore>, serial: &str) -> Self {
        let state = State {
            sense: Sense::default(),
            attention: Some(Sense::RESET),
            loaded: true,
            locked: false,
            // Ultra DMA mode 2.
            mode: 0x42,
        };
        Self { serial: serial.to_owned(), store, state }
    }

    /// After a reset of the device.
    pub(super) fn reset(&mut self) {
        self.state.sense = Sense::default();
        self.state.attention = Some(Sense::RESET);
        self.state.locked = false;
    }

    /// Keeps why a packet failed, for a guest that asks.
    pub(super) fn note(&mut self, sense: Sense) {
        self.state.sense = sense;
    }

    /// Blocks of the medium, of which an address has 32 bits.
    fn blocks(&self) -> u32 {
        u32::try_from(self.store.size() / BLOCK).unwrap_or(u32::MAX)
    }

    /// Reads from the medium, as a [`Reply`] names its bytes.
    pub(super) fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Sense> {
        let end = u64::from(self.blocks()) * BLOCK;
        if !self.state.loaded {
            return Err(Sense::NO_MEDIUM);
        }
        if at.checked_add(into.len() as u64).is_none_or(|to| to > end) {
            return Err(Sense::OUT_OF_RANGE);
        }
        self.store.read(at, into).map_err(|_: io::Error| Sense::UNREADABLE)
    }

    /// Whether there is a medium.
    fn medium(&self) -> Result<(), Sense> {
        if self.state.loaded && self.blocks() > 0 { Ok(()) } else { Err(Sense::NO_MEDIUM) }
    }

    /// Carries a packet out.
    pub(super) fn execute(&mut self, packet: &[u8; packet::SIZE]) -> Result<Reply, Sense> {
        let code = packet[0];
        if code != packet::REQUEST_SENSE {
            self.state.sense = Sense::default();
        }
        // Those two never fail for what happened before.
        if !matches!(code, packet::INQUIRY | packet::REQUEST_SENSE)
            && let Some(attention) = self.state.attention.take()
        {
            return Err(attention);
        }
        match code {
            packet::TEST_UNIT_READY => self.medium().map(|()| Reply::NOTHING),
            packet::REQUEST_SENSE => {
                let sense = self.state.attention.take().unwrap_or(self.state.sense);
                self.state.sense = Sense::default();
                let mut bytes = vec![0; 18];
                // A current error, in the fixed format.
                (bytes[0], bytes[2], bytes[7]) = (0x70, sense.key, 10);
                (bytes[12], bytes[13]) = (sense.code, sense.qualifier);
                Ok(Reply::made(bytes, packet[4].into()))
            }
            packet::INQUIRY if packet[1] & 3 != 0 => Err(Sense::BAD_FIELD),
            packet::INQUIRY => Ok(Reply::made(inquiry(), packet[4].into())),
            packet::START_STOP => self.start_stop(packet[4]),
            packet::LOCK => {
                self.state.locked = packet[4] & 1 != 0;
                Ok(Reply::NOTHING)
            }
            packet::READ_CAPACITY => {
                self.medium()?;
                let last = self.blocks() - 1;
                Ok(Reply::made([last, BLOCK as u32].map(u32::to_be_bytes).concat(), 8))
            }
            packet::READ_10 => self.blocks_of(be32(packet, 2), be16(packet, 7).into()),
            packet::READ_12 => self.blocks_of(be32(packet, 2), be32(packet, 6)),
            packet::SEEK => self.blocks_of(be32(packet, 2), 0),
            packet::READ_TOC => self.contents(packet),
            packet::MODE_SENSE_6 => {
                let mut pages = mode_pages(packet)?;
                let mut bytes = vec![0, 0, 0, 0];
                bytes.append(&mut pages);
                bytes[0] = bytes.len() as u8 - 1;
                Ok(Reply::made(bytes, packet[4].into()))
            }
            packet::MODE_SENSE_10 => {
                let mut pages = mode_pages(packet)?;
                let mut bytes = vec![0; 8];
                bytes.append(&mut pages);
                bytes[1] = bytes.len() as u8 - 2;
                Ok(Reply::made(bytes, be16(packet, 7).into()))
            }
            _ => Err(Sense::NO_SUCH_COMMAND),
        }
    }

    /// These blocks, if the medium has them.
    fn blocks_of(&self, first: u32, count: u32) -> Result<Reply, Sense> {
        self.medium()?;
        if count > MOST_BLOCKS {
            return Err(Sense::BAD_FIELD);
        }
        let blocks = u64::from(self.blocks());
        if u64::from(first) >= blocks || u64::from(first) + u64::from(count) > blocks {
            return Err(Sense::OUT_OF_RANGE);
        }
        Ok(Reply { bytes: vec![], at: u64::from(first) * BLOCK, left: u64::from(count) * BLOCK })
    }

    fn start_stop(&mut self, how: u8) -> Result<Reply, Sense> {
        let (starts, tray) = (how & 1 != 0, how & 2 != 0);
        match (tray, starts) {
            (true, false) if self.state.locked => return Err(Sense::LOCKED),
            (true, false) => self.state.loaded = false,
            (true, true) if !self.state.loaded => {
                self.state.loaded = true;
                self.state.attention = Some(Sense::MEDIUM_CHANGED);
            }
            _ => {}
        }
        Ok(Reply::NOTHING)
    }

    /// The table of contents: one track of data and the lead-out.
    fn contents(&self, packet: &[u8; packet::SIZE]) -> Result<Reply, Sense> {
        self.medium()?;
        let (in_frames, from, room) = (packet[1] & 2 != 0, packet[6], be16(packet, 7).into());
        // Older hosts give the format in the last byte.
        let format = match packet[2] & 0xf {
            0 => packet[9] >> 6,
            format => format,
        };
        let address = |block: u32| {
            if !in_frames {
                return block.to_be_bytes();
            }
            let all = block.saturating_add(LEAD_IN);
            let (minutes, seconds) = (all / FRAMES / 60, all / FRAMES % 60);
            [0, minutes.min(255) as u8, seconds as u8, (all % FRAMES) as u8]
        };
        let mut bytes = vec![0, 0, 1, 1];
        let mut track = |number: u8, block: u32| {
            bytes.extend([0, 0x14, number, 0]);
            bytes.extend(address(block));
        };
        match format {
            // From this track on.
            0 => {
                if from > 1 && from != LEAD_OUT {
                    return Err(Sense::BAD_FIELD);
                }
                if from <= 1 {
                    track(1, 0);
                }
                track(LEAD_OUT, self.blocks());
            }
            // The first track of the last session.
            1 => track(1, 0),
            _ => return Err(Sense::BAD_FIELD),
        }
        let length = bytes.len() as u16 - 2;
        bytes[..2].copy_from_slice(&length.to_be_bytes());
        Ok(Reply::made(bytes, room))
    }
}

fn inquiry() -> Vec<u8> {
    // A CD-ROM drive with a removable medium, on ATA.
    let mut bytes = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
    bytes.extend(b"trivisor");
    bytes.extend(b"CD-ROM          ");
    bytes.extend(format!("{:<4.4}", env!("CARGO_PKG_VERSION")).bytes());
    bytes
}

/// The pages that MODE SENSE asks for, with their present values or their default ones, which are the same.
fn mode_pages(packet: &[u8; packet::SIZE]) -> Result<Vec<u8>, Sense> {
    const ERRORS: [u8; 8] = [1, 6, 0, 5, 0, 0, 0, 0];
    // Reads CDs; a tray that can be locked and opened; speeds in kB/s.
    const CAPABILITIES: [u8; 20] = [0x2a, 18, 0, 0, 0, 0, 0x29, 0, 2, 0xc2, 0, 0, 2, 0, 2, 0xc2, 0, 0, 0, 0];
    let (which, page) = (packet[2] >> 6, packet[2] & 0x3f);
    let mut pages = match page {
        1 => ERRORS.to_vec(),
        0x2a => CAPABILITIES.to_vec(),
        0x3f => [&ERRORS[..], &CAPABILITIES].concat(),
        _ => return Err(Sense::BAD_FIELD),
    };
    match which {
        0 | 2 => Ok(pages),
        // None can be changed.
        1 => {
            let mut at = 0;
            while at + 1 < pages.len() {
                let length = usize::from(pages[at + 1]);
                pages[at + 2..at + 2 + length].fill(0);
                at += 2 + length;
            }
            Ok(pages)
        }
        // Nor saved.
        _ => Err(Sense::new(5, 0x39, 0)),
    }
}
