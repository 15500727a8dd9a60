//! What a write to the command register does.
use super::channel::{Channel, Work};
use super::drive::Drive;
use super::identify;
use super::spec::{self, Status, command, feature};

/// How a command moves data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Sectors,
    Multiple,
    Dma,
    /// Nothing is moved: the sectors are looked at only.
    Verify,
}

impl Channel {
    /// The guest gives a command to the selected device.
    pub(super) fn command(&mut self, code: u8) {
        self.state.interrupt = false;
        self.work = Work::Nothing;
        if code == command::DIAGNOSE && !self.is_empty() {
            self.reset();
            self.finish();
            return;
        }
        if !self.is_there() {
            return;
        }
        self.state.signed = false;
        self.state.error = 0;
        self.state.status = Status::DRDY | Status::DSC;
        if self.cd().is_some() {
            return self.command_cd(code);
        }
        match code {
            command::READ | command::READ_NO_RETRY => self.begin(Way::Sectors, false, false),
            command::READ_EXT => self.begin(Way::Sectors, false, true),
            command::WRITE | command::WRITE_NO_RETRY => self.begin(Way::Sectors, true, false),
            command::WRITE_EXT => self.begin(Way::Sectors, true, true),
            command::READ_MULTIPLE => self.begin(Way::Multiple, false, false),
            command::READ_MULTIPLE_EXT => self.begin(Way::Multiple, false, true),
            command::WRITE_MULTIPLE => self.begin(Way::Multiple, true, false),
            command::WRITE_MULTIPLE_EXT => self.begin(Way::Multiple, true, true),
            command::READ_DMA | command::READ_DMA_NO_RETRY => self.begin(Way::Dma, false, false),
            command::READ_DMA_EXT => self.begin(Way::Dma, false, true),
            command::WRITE_DMA | command::WRITE_DMA_NO_RETRY => self.begin(Way::Dma, true, false),
            command::WRITE_DMA_EXT => self.begin(Way::Dma, true, true),
            command::VERIFY | command::VERIFY_NO_RETRY => self.begin(Way::Verify, false, false),
            command::VERIFY_EXT => self.begin(Way::Verify, false, true),
            command::IDENTIFY => {
                let sector = self.disk().map(|drive| identify::sector(drive));
                if let Some(sector) = sector {
                    self.offer(sector.to_vec(), 0, 0, 1);
                }
            }
            command::FLUSH | command::FLUSH_EXT => {
                let flushed = self.disk().map(Drive::flush);
                self.end(matches!(flushed, Some(Ok(()))));
            }
            command::SET_FEATURES => {
                let done = self.set_features();
                self.end(done);
            }
            command::SET_MULTIPLE => {
                let count = self.state.count[0];
                let possible = count <= spec::MOST_MULTIPLE && (count == 0 || count.is_power_of_two());
                if let Some(drive) = self.disk().filter(|_| possible) {
                    drive.multiple = count;
                }
                self.end(possible);
            }
            command::INITIALIZE_PARAMETERS => {
                let (heads, track) = ((self.state.device & 0xf) + 1, self.state.count[0]);
                let done = self.disk().is_some_and(|drive| drive.set_translation(heads, track));
                self.end(done);
            }
            command::READ_NATIVE_MAX => self.tell_last(false),
            command::READ_NATIVE_MAX_EXT => self.tell_last(true),
            command::CHECK_POWER => {
                // Active or idle.
                self.state.count[0] = 0xff;
                self.finish();
            }
            // Moving heads and saving power take no time here.
            0x10..=0x1f | 0x70..=0x7f | command::STANDBY_IMMEDIATE..=command::IDLE | command::SLEEP => {
                self.finish()
            }
            _ => self.fail(spec::ABORTED),
        }
    }

    fn end(&mut self, well: bool) {
        if well {
            self.finish();
        } else {
            self.fail(spec::ABORTED);
        }
    }

    /// Begins to move the sectors that the registers name.
    fn begin(&mut self, way: Way, write: bool, extended: bool) {
        let Some((at, sectors)) = self.sectors(extended) else { return self.fail(spec::ID_NOT_FOUND) };
        let multiple = self.disk().map_or(0, |drive| drive.multiple);
        match way {
            Way::Verify => self.finish(),
            Way::Dma => {
                self.work = Work::Dma { write, at, sectors };
                self.state.status = Status::DRDY | Status::DSC | Status::DRQ;
            }
            // The block's size has to be set first.
            Way::Multiple if multiple == 0 => self.fail(spec::ABORTED),
            Way::Sectors | Way::Multiple => {
                let block = if way == Way::Multiple { multiple } else { 1 };
                if write { self.ask_block(at, sectors, block) } else { self.read_block(at, sectors, block) }
            }
        }
    }

    /// First sector and number of those that the registers name, if the disk has all of them.
    fn sectors(&mut self, extended: bool) -> Option<(u64, u32)> {
        let s = &self.state;
        let [low, middle, high] = s.address.map(|register| u64::from(register[0]));
        let (count, is_lba, head) = (s.count, s.device & spec::LBA != 0, u64::from(s.device & 0xf));
        let before = s.address.map(|register| u64::from(register[1]));
        let drive = self.disk()?;
        let at = if extended {
            low | middle << 8 | high << 16 | before[0] << 24 | before[1] << 32 | before[2] << 40
        } else if is_lba {
            low | middle << 8 | high << 16 | head << 24
        } else {
            let (heads, track) = drive.translation();
            let (heads, track) = (u64::from(heads), u64::from(track));
            if low == 0 || low > track || head >= heads {
                return None;
            }
            ((middle | high << 8) * heads + head) * track + low - 1
        };
        // Zero stands for one more than the register holds.
        let (count, most) =
            if extended { (u16::from_le_bytes(count).into(), 0x1_0000) } else { (count[0].into(), 0x100) };
        let sectors: u32 = if count == 0 { most } else { count };
        (at + u64::from(sectors) <= drive.sectors()).then_some((at, sectors))
    }

    /// Whether the feature is there, or of no consequence.
    fn set_features(&mut self) -> bool {
        let (which, mode) = (self.state.feature, self.state.count[0]);
        let Some(drive) = self.disk() else { return false };
        match which {
            feature::WRITE_CACHE => drive.caches = true,
            feature::NO_WRITE_CACHE => drive.caches = false,
            feature::TRANSFER_MODE => match mode {
                0x00 | 0x01 | 0x08..=0x0c => {}
                0x20..=0x22 | 0x40..=0x45 => drive.mode = mode,
                _ => return false,
            },
            feature::LOOK_AHEAD
            | feature::NO_LOOK_AHEAD
            | feature::KEEP_ON_RESET
            | feature::DEFAULTS_ON_RESET => {}
            _ => return false,
        }
        true
    }

    /// Tells the address of the last sector.
    fn tell_last(&mut self, extended: bool) {
        let last = self.disk().map_or(0, |drive| drive.sectors().saturating_sub(1));
        let last = if extended { last } else { last.min(0x0fff_ffff) };
        let byte = |shift: u32| (last >> shift) as u8;
        self.state.address = [[byte(0), byte(24)], [byte(8), byte(32)], [byte(16), byte(40)]];
        if !extended {
            self.state.device = self.state.device & 0xf0 | byte(24) & 0xf;
        }
        self.finish();
    }
}
