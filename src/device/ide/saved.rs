//! Saved state of the IDE function, beside its configuration space and what is on its disks.
use super::Ide;
use super::cd::{self, Cd};
use super::channel::{Channel, Master, State, Unit, Work};
use super::drive::Drive;
use super::spec::{Control, MOST_MULTIPLE, MasterCommand, MasterStatus, SECTOR, Status, packet};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// What a command of 48 bits can name (ATA-6, 6.2).
const MOST_SECTORS: u64 = 1 << 48;

/// State of both channels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedIde {
    /// The first and the second channel.
    pub channels: [SavedChannel; 2],
}

/// State of a channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the registers are")]
pub struct SavedChannel {
    pub error: u8,
    pub feature: u8,
    pub count: [u8; 2],
    pub address: [[u8; 2]; 3],
    pub device: u8,
    pub status: u8,
    pub control: u8,
    /// An interrupt waits to be seen.
    pub interrupt: bool,
    /// The registers have the signature of the device that is selected.
    pub signed: bool,
    pub master_command: u8,
    pub master_status: u8,
    pub master_table: u32,
    work: Work,
    pub units: [Option<SavedUnit>; 2],
}

/// State of what is attached to a channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SavedUnit {
    /// A disk.
    Disk(SavedDrive),
    /// A CD-ROM drive.
    Cd(SavedCd),
}

/// State of a CD-ROM drive, all of whose values are possible.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedCd(cd::State);

/// What the guest has set of a disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as IDENTIFY names them")]
pub struct SavedDrive {
    pub multiple: u8,
    pub heads: u8,
    pub track: u8,
    pub mode: u8,
    pub caches: bool,
}

impl Ide {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedIde {
        let Self { ram: _, config: _, channels: [first, second] } = self;
        SavedIde { channels: [first.saved(), second.saved()] }
    }

    /// Takes on a saved state and drives the lines. The disks are the same as then.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedIde) -> Result<(), BadState> {
        for (channel, saved) in self.channels.iter().zip(&saved.channels) {
            channel.check(saved).map_err(|what| BadState { device: "ide", what })?;
        }
        for (channel, saved) in self.channels.iter_mut().zip(&saved.channels) {
            channel.restore(saved);
        }
        Ok(())
    }
}

impl Channel {
    fn saved(&self) -> SavedChannel {
        let State { error, feature, count, address, device, status, control, interrupt, signed } =
            self.state.clone();
        let Master { command, status: master_status, table } = self.master.clone();
        SavedChannel {
            error,
            feature,
            count,
            address,
            device,
            status: status.bits(),
            control: control.bits(),
            interrupt,
            signed,
            master_command: command.bits(),
            master_status: master_status.bits(),
            master_table: table,
            work: self.work.clone(),
            units: self.units.each_ref().map(|unit| unit.as_ref().map(Unit::saved)),
        }
    }

    fn check(&self, saved: &SavedChannel) -> Result<(), &'static str> {
        for (unit, saved) in self.units.iter().zip(&saved.units) {
            match (unit, saved) {
                (None, None) | (Some(Unit::Cd(_)), Some(SavedUnit::Cd(_))) => {}
                (Some(Unit::Disk(_)), Some(SavedUnit::Disk(saved))) if saved.is_possible() => {}
                (Some(Unit::Disk(_)), Some(SavedUnit::Disk(_))) => {
                    return Err("a disk that no guest can have set up so");
                }
                _ => return Err("other disks"),
            }
        }
        if let Work::Pio { at, .. } | Work::Dma { at, .. } = &saved.work
            && *at > MOST_SECTORS
        {
            return Err("a sector beyond what a command can name");
        }
        match &saved.work {
            Work::Pio { left, buffer, done, .. } => {
                let sectors = buffer.len() / SECTOR;
                let whole =
                    buffer.len().is_multiple_of(SECTOR) && (1..=MOST_MULTIPLE.into()).contains(&sectors);
                if !whole || *done >= buffer.len() || *left > 0x1_0000 {
                    return Err("a block of data that cannot be");
                }
            }
            Work::Dma { sectors, .. } if !(1..=0x1_0000).contains(sectors) => {
                return Err("DMA of more sectors than a command has");
            }
            Work::Packet { bytes, .. } if bytes.len() >= packet::SIZE => {
                return Err("a packet that is longer than packets are");
            }
            Work::PacketData { buffer, done, limit, .. } if *done >= buffer.len() || limit & !1 == 0 => {
                return Err("a packet's data that cannot be");
            }
            Work::PacketDma { reply } | Work::PacketData { reply, .. } if !reply.is_possible() => {
                return Err("more data than a packet has");
            }
            Work::PacketDma { .. } | Work::PacketData { .. } | Work::Packet { .. } => {}
            Work::Dma { .. } | Work::Nothing => {}
        }
        Ok(())
    }

    fn restore(&mut self, saved: &SavedChannel) {
        let SavedChannel {
            error,
            feature,
            count,
            address,
            device,
            status,
            control,
            interrupt,
            signed,
            master_command,
            master_status,
            master_table,
            work,
            units,
        } = saved.clone();
        self.state = State {
            error,
            feature,
            count,
            address,
            device,
            status: Status::from_bits_retain(status),
            control: Control::from_bits_retain(control),
            interrupt,
            signed,
        };
        self.master = Master {
            command: MasterCommand::from_bits_truncate(master_command),
            status: MasterStatus::from_bits_truncate(master_status),
            table: master_table & !3,
        };
        self.work = work;
        for (unit, saved) in self.units.iter_mut().zip(units) {
            match (unit, saved) {
                (Some(Unit::Disk(drive)), Some(SavedUnit::Disk(saved))) => drive.restore(&saved),
                (Some(Unit::Cd(cd)), Some(SavedUnit::Cd(SavedCd(state)))) => cd.state = state,
                _ => {}
            }
        }
        self.drive_line();
    }
}

impl Unit {
    fn saved(&self) -> SavedUnit {
        match self {
            Self::Disk(drive) => SavedUnit::Disk(drive.saved()),
            Self::Cd(Cd { state, .. }) => SavedUnit::Cd(SavedCd(*state)),
        }
    }
}

impl SavedDrive {
    fn is_possible(&self) -> bool {
        let Self { multiple, heads, track, mode: _, caches: _ } = self;
        *multiple <= MOST_MULTIPLE && (1..=16).contains(heads) && *track > 0
    }
}

impl Drive {
    fn saved(&self) -> SavedDrive {
        let (heads, track) = self.translation();
        SavedDrive { multiple: self.multiple, heads, track, mode: self.mode, caches: self.caches }
    }

    fn restore(&mut self, saved: &SavedDrive) {
        let SavedDrive { multiple, heads, track, mode, caches } = *saved;
        // The saved one was checked.
        let _possible = self.set_translation(heads, track);
        (self.multiple, self.mode, self.caches) = (multiple, mode, caches);
    }
}
