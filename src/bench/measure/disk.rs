//! The disk that workloads read and write: made anew for each run, with known content, in the host's memory.
//!
//! It is a memory object and no file of a file system: the host's disk has no part in the figures, and whatever ends this
//! process, nothing stays. Machines and peers open it by its name under `/proc`.

use crate::abi;
use crate::bench::random::SplitMix64;
use crate::bench::workload::{DiskBus, Workload};
use crate::machine::{DiskSpec, MachineSpec};
use crate::sys::memfd;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A disk that guests may overwrite; it is gone when dropped.
#[derive(Debug)]
pub struct ScratchDisk {
    file: File,
    bus: DiskBus,
}

impl ScratchDisk {
    /// Its bytes.
    pub const SIZE: usize = 1 << 20;

    /// The disk that a workload wants; `None` if it wants none.
    ///
    /// # Errors
    /// What the host says, out of memory for instance.
    pub fn of(workload: &Workload) -> io::Result<Option<ScratchDisk>> {
        workload.disk.map(ScratchDisk::new).transpose()
    }

    /// A disk full of the same pseudo-random bytes each time, with the mark of a scratch disk at its beginning.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn new(bus: DiskBus) -> io::Result<ScratchDisk> {
        let file = memfd::create(c"trivisor-scratch-disk", ScratchDisk::SIZE as u64)?;
        let mut random = SplitMix64::new(0x6469_736b);
        let mut bytes: Vec<u8> =
            (0..ScratchDisk::SIZE / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        bytes[..abi::SCRATCH_DISK.len()].copy_from_slice(&abi::SCRATCH_DISK);
        file.write_all_at(&bytes, 0)?;
        Ok(ScratchDisk { file, bus })
    }

    /// Where other processes of this user find it, too.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Has a machine built with it.
    pub fn plug(&self, spec: &mut MachineSpec) {
        let disk = DiskSpec { image: self.path(), read_only: false, overlay: None };
        match self.bus {
            DiskBus::Ide => spec.ide_disks.insert(0, disk),
            DiskBus::Virtio => spec.disks.insert(0, disk),
        }
    }

    /// QEMU's arguments for it.
    pub fn qemu_arguments(&self) -> Vec<String> {
        let drive = |interface: &str| {
            format!("file={},format=raw,cache=writeback,{interface}", self.path().display())
        };
        match self.bus {
            DiskBus::Ide => vec!["-drive".to_owned(), drive("if=ide,index=0,media=disk")],
            DiskBus::Virtio => vec![
                "-drive".to_owned(),
                drive("if=none,id=scratch"),
                "-device".to_owned(),
                "virtio-blk-pci,drive=scratch,disable-legacy=on".to_owned(),
            ],
        }
    }

    /// What a disk on this bus is called in the fingerprint.
    pub fn words(bus: DiskBus) -> String {
        format!("{} disk of {} KiB in the host's memory", bus.name(), ScratchDisk::SIZE >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_the_same_and_what_is_written_to_one_is_not_in_the_next() {
        let first = ScratchDisk::new(DiskBus::Ide).unwrap();
        let before = std::fs::read(first.path()).unwrap();
        assert!(before.len() == ScratchDisk::SIZE && before.starts_with(&abi::SCRATCH_DISK));
        let mut spec = MachineSpec::new(crate::engine::Mode::Emu);
        first.plug(&mut spec);
        // As whoever opens it by its name.
        let opened = File::options().write(true).open(&spec.ide_disks[0].image).unwrap();
        opened.write_all_at(&[7; 512], 512).unwrap();
        assert_ne!(std::fs::read(first.path()).unwrap(), before);
        let second = ScratchDisk::new(DiskBus::Virtio).unwrap();
        assert_eq!(std::fs::read(second.path()).unwrap(), before);
    }
}
