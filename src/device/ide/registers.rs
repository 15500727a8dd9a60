//! The IDE controller as a person sees it: interrupts stay pending, data stays where it is.
use super::Ide;
use super::channel::{Channel, Unit, Work};
use super::spec;
use crate::device::registers::{Block, Described, names};
use std::borrow::Cow;

fn error_words(error: u8) -> Vec<Cow<'static, str>> {
    let known = [(spec::ABORTED, "ABRT"), (spec::ID_NOT_FOUND, "IDNF"), (spec::UNCORRECTABLE, "UNC")];
    known.into_iter().filter(|(bit, _)| error & bit != 0).map(|(_, name)| name.into()).collect()
}

fn work_words(work: &Work) -> String {
    let way = |write: bool| if write { "to the disk" } else { "from the disk" };
    match work {
        Work::Nothing => "nothing is moved".to_owned(),
        Work::Pio { write, at, left, buffer, done, .. } => format!(
            "{} by the data register: {done} of {} bytes, sector {at:#x} next, {left} sectors behind",
            way(*write),
            buffer.len()
        ),
        Work::Dma { write, at, sectors } => {
            format!("{} by the bus master: {sectors} sectors from {at:#x} on", way(*write))
        }
        Work::Packet { bytes, .. } => {
            format!("{} of {} bytes of a packet taken", bytes.len(), spec::packet::SIZE)
        }
        Work::PacketData { buffer, done, .. } => {
            format!("a packet's data by the data register: {done} of {} bytes", buffer.len())
        }
        Work::PacketDma { .. } => "a packet's data by the bus master".to_owned(),
    }
}

fn unit_words(unit: Option<&Unit>) -> String {
    match unit {
        None => "nothing is attached".to_owned(),
        Some(Unit::Disk(drive)) => {
            let (heads, track) = drive.translation();
            let cache = if drive.caches { "on" } else { "off" };
            format!(
                "disk, {} sectors; {heads} heads, {track} sectors a track, multiple {}, mode {:#04x}, write cache {cache}",
                drive.sectors(),
                drive.multiple,
                drive.mode
            )
        }
        Some(Unit::Cd(cd)) => format!("CD-ROM drive, mode {:#04x}", cd.state.mode),
    }
}

fn channel(name: String, channel: &Channel) -> Block {
    let s = &channel.state;
    let selected = if s.device & spec::SECOND == 0 { "first device" } else { "second device" };
    let form = if s.device & spec::LBA == 0 { "cylinders and heads" } else { "LBA" };
    let line = match (s.interrupt, channel.driven) {
        (_, true) => "the interrupt line is high",
        (true, false) => "an interrupt waits, and nIEN keeps it",
        (false, false) => "the interrupt line is low",
    };
    let register = |pair: [u8; 2]| u16::from_be_bytes([pair[1], pair[0]]);
    let mut block = Block::new(name)
        .put("ERROR", 8, s.error, error_words(s.error))
        .plain("FEATURE", 8, s.feature)
        .said("COUNT", 16, register(s.count), "low byte: written last; high byte: before");
    for (name, pair) in ["LBA_LOW", "LBA_MID", "LBA_HIGH"].into_iter().zip(s.address) {
        block = block.plain(name, 16, register(pair));
    }
    let mut status = names(&s.status);
    status.push(line.into());
    block
        .put("DEVICE", 8, s.device, vec![selected.into(), form.into()])
        .put("STATUS", 8, s.status.bits(), status)
        .flags("CONTROL", s.control)
        .words("work", vec![work_words(&channel.work).into()])
        .flags("BM_COMMAND", channel.master.command)
        .flags("BM_STATUS", channel.master.status)
        .plain("BM_TABLE", 32, channel.master.table)
        .words("first device", vec![unit_words(channel.units[0].as_ref()).into()])
        .words("second device", vec![unit_words(channel.units[1].as_ref()).into()])
}

impl Described for Ide {
    fn describe(&self, called: &str) -> Vec<Block> {
        let names = ["primary", "secondary"].into_iter();
        names.zip(&self.channels).map(|(name, c)| channel(format!("{called} {name}"), c)).collect()
    }
}
