//! How a packet and its data come through the registers of a channel (ATA/ATAPI-6, 9.8 and 9.10).
//!
//! The packet is written to the data register. Its data is read there in pieces no larger than the guest said, each with
//! an interrupt of its own, or goes to memory by DMA; either way a piece of the medium at a time is in the buffer.
use super::cd::{Reply, Sense};
use super::channel::{CHUNK, Channel, Failure, Work};
use super::identify;
use super::regions::Regions;
use super::spec::{self, MasterStatus, Status, command, feature, packet, reason};
use crate::mem::GuestRam;

impl Channel {
    /// A command for the selected CD-ROM drive.
    pub(super) fn command_cd(&mut self, code: u8) {
        match code {
            command::PACKET => {
                let dma = self.state.feature & packet::DMA != 0;
                // Overlapped packets are not offered.
                if self.state.feature & packet::OVERLAP != 0 {
                    return self.fail(spec::ABORTED);
                }
                self.work = Work::Packet { bytes: vec![], dma };
                self.state.count[0] = reason::COMMAND;
                self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
            }
            command::IDENTIFY_PACKET => {
                if let Some(cd) = self.cd() {
                    let sector = identify::packet_sector(cd);
                    self.offer(sector.to_vec(), 0, 0, 1);
                }
            }
            // A host that takes it for a disk sees by the signature what it is.
            command::IDENTIFY | command::READ => {
                self.sign();
                self.fail(spec::ABORTED);
            }
            command::DEVICE_RESET => {
                if let Some(cd) = self.cd() {
                    cd.reset();
                }
                self.sign();
                self.state.error = spec::DIAGNOSED;
                self.state.status = Status::empty();
            }
            command::SET_FEATURES => {
                let (which, mode) = (self.state.feature, self.state.count[0]);
                let taken = which == feature::TRANSFER_MODE
                    && matches!(mode, 0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x42);
                if let Some(cd) = self.cd().filter(|_| taken && mode >= 0x20) {
                    cd.state.mode = mode;
                }
                if taken { self.finish() } else { self.fail(spec::ABORTED) }
            }
            command::CHECK_POWER => {
                self.state.count[0] = 0xff;
                self.finish();
            }
            command::STANDBY_IMMEDIATE..=command::IDLE | command::SLEEP | command::FLUSH => self.finish(),
            _ => self.fail(spec::ABORTED),
        }
    }

    /// The data register is written while a packet is taken.
    pub(super) fn write_packet(&mut self, value: u32, length: usize) {
        let Work::Packet { bytes, dma } = &mut self.work else { return };
        bytes.extend(&value.to_le_bytes()[..length]);
        let Some(&packet) = bytes.first_chunk::<{ packet::SIZE }>() else { return };
        let dma = *dma;
        let [_, low, high] = self.state.address.map(|register| register[0]);
        let limit = piece_limit(u16::from_le_bytes([low, high]));
        let result = self.cd().map(|cd| cd.execute(&packet));
        match result {
            Some(Ok(reply)) if reply.is_empty() => self.finish_packet(),
            Some(Ok(reply)) if dma => {
                self.work = Work::PacketDma { reply };
                self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
            }
            Some(Ok(reply)) => self.offer_piece(reply, limit),
            Some(Err(sense)) => self.fail_packet(sense),
            None => self.fail(spec::ABORTED),
        }
    }

    /// Puts the next piece of a reply into the buffer.
    fn offer_piece(&mut self, mut reply: Reply, limit: u16) {
        let length = (reply.bytes.len() as u64 + reply.left).min(limit.into()) as usize;
        let rest = reply.bytes.split_off(length.min(reply.bytes.len()));
        let mut buffer = std::mem::replace(&mut reply.bytes, rest);
        let made = buffer.len();
        buffer.resize(length, 0);
        let read = match self.cd() {
            _ if made == length => Ok(()),
            Some(cd) => cd.read(reply.at, &mut buffer[made..]),
            // The guest has turned to the other device meanwhile.
            None => Err(Sense::NOT_TAKEN),
        };
        if let Err(sense) = read {
            return self.fail_packet(sense);
        }
        reply.at += (length - made) as u64;
        reply.left -= (length - made) as u64;
        let [low, high] = (length as u16).to_le_bytes();
        (self.state.address[1][0], self.state.address[2][0]) = (low, high);
        self.state.count[0] = reason::TO_HOST;
        self.work = Work::PacketData { buffer, done: 0, reply, limit };
        self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
        self.interrupt();
    }

    /// Reads the data register while a reply is there; `None` if none is.
    pub(super) fn read_packet_data(&mut self, length: usize) -> Option<u32> {
        let Work::PacketData { buffer, done, reply, limit } = &mut self.work else { return None };
        let mut value = [0xff; 4];
        for (place, byte) in value.iter_mut().zip(buffer.iter().skip(*done)).take(length) {
            *place = *byte;
        }
        *done += length;
        if *done >= buffer.len() {
            let (reply, limit) = (std::mem::take(reply), *limit);
            if reply.is_empty() { self.finish_packet() } else { self.offer_piece(reply, limit) }
        }
        Some(u32::from_le_bytes(value))
    }

    /// Moves a reply to memory, if the bus master runs. Without `ram` it may not reach memory.
    pub(super) fn transfer_packet(&mut self, ram: Option<&GuestRam>) {
        let Work::PacketDma { reply } = &mut self.work else { return };
        if !self.master.status.contains(MasterStatus::ACTIVE) {
            return;
        }
        let reply = std::mem::take(reply);
        let mut regions = ram.filter(|_| self.reads()).map(|ram| Regions::new(ram, self.master.table));
        let result = match &mut regions {
            Some(regions) => self.scatter(reply, regions),
            None => Err(Failure::Memory),
        };
        if result.is_err() || regions.is_some_and(|regions| regions.is_used_up()) {
            self.master.status -= MasterStatus::ACTIVE;
        }
        match result {
            Ok(None) => self.finish_packet(),
            Ok(Some(sense)) => {
                self.master.status -= MasterStatus::ACTIVE;
                self.fail_packet(sense);
            }
            Err(_) => {
                self.master.status |= MasterStatus::ERROR;
                self.fail_packet(Sense::NOT_TAKEN);
            }
        }
    }

    /// Moves a reply to memory; what the drive says if it cannot be read.
    fn scatter(&mut self, reply: Reply, regions: &mut Regions) -> Result<Option<Sense>, Failure> {
        regions.scatter(&reply.bytes).map_err(|_| Failure::Memory)?;
        let Reply { bytes: _, mut at, mut left } = reply;
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        while left > 0 {
            let length = (CHUNK as u64).min(left) as usize;
            let bytes = &mut chunk[..length];
            match self.cd().map(|cd| cd.read(at, bytes)) {
                Some(Ok(())) => regions.scatter(bytes).map_err(|_| Failure::Memory)?,
                Some(Err(sense)) => return Ok(Some(sense)),
                None => return Err(Failure::Disk),
            }
            (at, left) = (at + length as u64, left - length as u64);
        }
        Ok(None)
    }

    fn finish_packet(&mut self) {
        self.state.count[0] = reason::END;
        self.finish();
    }

    fn fail_packet(&mut self, sense: Sense) {
        if let Some(cd) = self.cd() {
            cd.note(sense);
        }
        self.state.count[0] = reason::END;
        self.fail(sense.key << 4 | spec::ABORTED);
    }
}

/// The bytes of a piece, at most, for what the guest put into the byte count: even, and not nothing.
fn piece_limit(wanted: u16) -> u16 {
    match wanted & !1 {
        0 => 0xfffe,
        limit => limit,
    }
}
