//! One channel: the registers that two devices share, the bus master's, and what is being moved.
//!
//! A block of data waits in a buffer of at most 16 sectors until the guest has read or filled it; DMA is done at once,
//! when the command has been given and the bus master runs, whichever comes last.
use super::cd::{Cd, Reply};
use super::drive::Drive;
use super::regions::Regions;
use super::spec::{self, Control, MasterCommand, MasterStatus, SECTOR, Status};
use crate::bus::IrqLine;
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};

/// Bytes that DMA moves between disk and memory at a time.
pub(super) const CHUNK: usize = 64 << 10;

/// What is attached to a channel.
pub(super) enum Unit {
    Disk(Drive),
    Cd(Cd),
}

/// A channel.
pub(super) struct Channel {
    // Runtime glue.
    irq: IrqLine,
    /// The level last given to `irq`.
    pub(super) driven: bool,
    pub(super) units: [Option<Unit>; 2],
    // Volatile state.
    pub(super) state: State,
    pub(super) work: Work,
    pub(super) master: Master,
}

/// The registers of the command block, each with what was written to it before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) error: u8,
    pub(super) feature: u8,
    pub(super) count: [u8; 2],
    /// Low, middle and high byte of the address.
    pub(super) address: [[u8; 2]; 3],
    pub(super) device: u8,
    pub(super) status: Status,
    pub(super) control: Control,
    /// An interrupt waits to be seen.
    pub(super) interrupt: bool,
    /// Since the reset nothing was written but which device is meant: the registers have its signature.
    pub(super) signed: bool,
}

/// The bus master's registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Master {
    pub(super) command: MasterCommand,
    pub(super) status: MasterStatus,
    pub(super) table: u32,
}

/// What is being moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Work {
    Nothing,
    /// By the data register.
    Pio {
        write: bool,
        /// The sector that follows the buffer, in reading; that the buffer goes to, in writing.
        at: u64,
        /// Sectors behind the buffer.
        left: u32,
        /// Sectors of a block.
        block: u8,
        buffer: Vec<u8>,
        /// Bytes of the buffer that are done.
        done: usize,
    },
    /// By the bus master.
    Dma {
        write: bool,
        at: u64,
        sectors: u32,
    },
    /// A packet is taken.
    Packet {
        /// What of it was written.
        bytes: Vec<u8>,
        /// Its data goes by DMA.
        dma: bool,
    },
    /// A packet's data is read by the data register.
    PacketData {
        buffer: Vec<u8>,
        /// Bytes of the buffer that are done.
        done: usize,
        /// What follows.
        reply: Reply,
        /// Bytes of a piece at most; even, and not 0.
        limit: u16,
    },
    /// A packet's data goes by the bus master.
    PacketDma {
        reply: Reply,
    },
}

impl State {
    /// After a reset: the signature of a disk.
    pub(super) fn new() -> Self {
        Self {
            error: spec::DIAGNOSED,
            feature: 0,
            count: [1, 0],
            address: [[1, 0], [0; 2], [0; 2]],
            device: 0,
            status: Status::DRDY | Status::DSC,
            control: Control::empty(),
            interrupt: false,
            signed: true,
        }
    }
}

impl Channel {
    pub(super) fn new(irq: IrqLine) -> Self {
        Self {
            irq,
            driven: false,
            units: [None, None],
            state: State::new(),
            work: Work::Nothing,
            master: Master { command: MasterCommand::empty(), status: MasterStatus::empty(), table: 0 },
        }
    }

    /// Recomputes the line.
    pub(super) fn sync(&mut self) {
        let level = self.state.interrupt && !self.state.control.contains(Control::NIEN);
        if level != std::mem::replace(&mut self.driven, level) {
            self.irq.set(level);
        }
    }

    /// Gives the line the level that it has.
    pub(super) fn drive_line(&mut self) {
        self.sync();
        self.irq.set(self.driven);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.units.iter().all(Option::is_none)
    }

    fn unit(&mut self) -> Option<&mut Unit> {
        self.units[usize::from(self.state.device & spec::SECOND != 0)].as_mut()
    }

    /// Whether the selected device is there.
    pub(super) fn is_there(&mut self) -> bool {
        self.unit().is_some()
    }

    /// The selected device, if it is a disk.
    pub(super) fn disk(&mut self) -> Option<&mut Drive> {
        match self.unit() {
            Some(Unit::Disk(drive)) => Some(drive),
            _ => None,
        }
    }

    /// The selected device, if it is a CD-ROM drive.
    pub(super) fn cd(&mut self) -> Option<&mut Cd> {
        match self.unit() {
            Some(Unit::Cd(cd)) => Some(cd),
            _ => None,
        }
    }

    /// Puts the signature of the selected device into the registers.
    pub(super) fn sign(&mut self) {
        let [middle, high] = if self.cd().is_some() { spec::PACKET_SIGNATURE } else { spec::DISK_SIGNATURE };
        self.state.count = [1, 0];
        self.state.address = [[1, 0], [middle, 0], [high, 0]];
    }

    /// Whether the bus master goes the way of a command that reads.
    pub(super) fn reads(&self) -> bool {
        self.master.command.contains(MasterCommand::READ)
    }

    pub(super) fn interrupt(&mut self) {
        self.state.interrupt = true;
        if !self.state.control.contains(Control::NIEN) {
            self.master.status |= MasterStatus::INTERRUPT;
        }
    }

    /// The command has ended well, and interrupts.
    pub(super) fn finish(&mut self) {
        self.work = Work::Nothing;
        self.state.status = Status::DRDY | Status::DSC;
        self.interrupt();
    }

    /// The command has ended in an error, and interrupts.
    pub(super) fn fail(&mut self, error: u8) {
        self.work = Work::Nothing;
        self.state.error = error;
        self.state.status = Status::DRDY | Status::DSC | Status::ERR;
        self.interrupt();
    }

    /// A block of data is there to be read.
    pub(super) fn offer(&mut self, buffer: Vec<u8>, at: u64, left: u32, block: u8) {
        self.work = Work::Pio { write: false, at, left, block, buffer, done: 0 };
        self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
        self.interrupt();
    }

    /// Reads the next block, of `left` sectors from `at` on.
    pub(super) fn read_block(&mut self, at: u64, left: u32, block: u8) {
        let sectors = left.min(block.max(1).into());
        let mut buffer = vec![0; sectors as usize * SECTOR];
        match self.disk().map(|drive| drive.read(at, &mut buffer)) {
            Some(Ok(())) => self.offer(buffer, at + u64::from(sectors), left - sectors, block),
            Some(Err(_)) => self.fail(spec::UNCORRECTABLE),
            None => self.fail(spec::ABORTED),
        }
    }

    /// Asks for the next block, of `left` sectors that go to `at`.
    pub(super) fn ask_block(&mut self, at: u64, left: u32, block: u8) {
        let sectors = left.min(block.max(1).into());
        let buffer = vec![0; sectors as usize * SECTOR];
        self.work = Work::Pio { write: true, at, left: left - sectors, block, buffer, done: 0 };
        self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
    }

    /// Reads the data register: `length` bytes. Where there is nothing it floats.
    pub(super) fn read_data(&mut self, length: usize) -> u32 {
        let mut value = [0xff; 4];
        if let Some(value) = self.read_packet_data(length) {
            return value;
        }
        let Work::Pio { write: false, at, left, block, buffer, done } = &mut self.work else {
            return u32::MAX;
        };
        for (place, byte) in value.iter_mut().zip(buffer.iter().skip(*done)).take(length) {
            *place = *byte;
        }
        *done += length;
        if *done >= buffer.len() {
            let (at, left, block) = (*at, *left, *block);
            if left > 0 {
                self.read_block(at, left, block);
            } else {
                self.work = Work::Nothing;
                self.state.status = Status::DRDY | Status::DSC;
            }
        }
        u32::from_le_bytes(value)
    }

    /// Writes the data register: `length` bytes.
    pub(super) fn write_data(&mut self, value: u32, length: usize) {
        if let Work::Packet { .. } = self.work {
            return self.write_packet(value, length);
        }
        let Work::Pio { write: true, at, left, block, buffer, done } = &mut self.work else { return };
        for (place, byte) in buffer.iter_mut().skip(*done).zip(value.to_le_bytes()).take(length) {
            *place = byte;
        }
        *done += length;
        if *done < buffer.len() {
            return;
        }
        let (at, left, block, buffer) = (*at, *left, *block, std::mem::take(buffer));
        let after = at + (buffer.len() / SECTOR) as u64;
        let written = self.disk().map(|drive| {
            drive.write(at, &buffer)?;
            if left == 0 { drive.settle() } else { Ok(()) }
        });
        match written {
            Some(Ok(())) if left > 0 => {
                self.ask_block(after, left, block);
                self.interrupt();
            }
            Some(Ok(())) => self.finish(),
            _ => self.fail(spec::ABORTED),
        }
    }

    /// The bus master's command register is written.
    pub(super) fn command_master(&mut self, value: u8) {
        let command = MasterCommand::from_bits_truncate(value);
        let started =
            command.contains(MasterCommand::START) && !self.master.command.contains(MasterCommand::START);
        self.master.command = command;
        if started {
            self.master.status |= MasterStatus::ACTIVE;
        } else if !command.contains(MasterCommand::START) {
            self.master.status -= MasterStatus::ACTIVE;
        }
    }

    /// Carries DMA out if a command waits for it and the bus master runs. Without `ram` it may not reach memory.
    pub(super) fn transfer(&mut self, ram: Option<&GuestRam>) {
        let Work::Dma { write, at, sectors } = self.work else { return self.transfer_packet(ram) };
        if !self.master.status.contains(MasterStatus::ACTIVE) {
            return;
        }
        // The direction is the command's; a bus master that is set to the other one gets nothing.
        let agrees = self.reads() != write;
        let mut regions = ram.filter(|_| agrees).map(|ram| Regions::new(ram, self.master.table));
        let result = match (&mut regions, self.disk()) {
            (Some(regions), Some(drive)) => copy(drive, regions, write, at, sectors),
            _ => Err(Failure::Memory),
        };
        if result.is_err() || regions.is_some_and(|regions| regions.is_used_up()) {
            self.master.status -= MasterStatus::ACTIVE;
        }
        match result {
            Ok(()) => self.finish(),
            Err(Failure::Memory) => {
                self.master.status |= MasterStatus::ERROR;
                self.fail(spec::ABORTED);
            }
            Err(Failure::Disk) if write => self.fail(spec::ABORTED),
            Err(Failure::Disk) => self.fail(spec::UNCORRECTABLE),
        }
    }

    /// Both devices are reset, by software.
    pub(super) fn reset(&mut self) {
        let control = self.state.control;
        self.work = Work::Nothing;
        self.state = State { control, ..State::new() };
        for unit in self.units.iter_mut().flatten() {
            match unit {
                Unit::Disk(drive) => drive.multiple = 0,
                Unit::Cd(cd) => cd.reset(),
            }
        }
        self.sign();
    }
}

/// Why DMA ended early.
pub(super) enum Failure {
    Memory,
    Disk,
}

fn copy(
    drive: &mut Drive,
    regions: &mut Regions,
    write: bool,
    mut at: u64,
    sectors: u32,
) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK.min(sectors as usize * SECTOR)];
    let mut left = sectors as usize * SECTOR;
    while left > 0 {
        let bytes = &mut chunk[..left.min(CHUNK)];
        if write {
            regions.gather(bytes).map_err(|_| Failure::Memory)?;
            drive.write(at, bytes).map_err(|_| Failure::Disk)?;
        } else {
            drive.read(at, bytes).map_err(|_| Failure::Disk)?;
            regions.scatter(bytes).map_err(|_| Failure::Memory)?;
        }
        at += (bytes.len() / SECTOR) as u64;
        left -= bytes.len();
    }
    if write { drive.settle().map_err(|_| Failure::Disk) } else { Ok(()) }
}
