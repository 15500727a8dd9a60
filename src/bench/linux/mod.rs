//! The guest that nobody here wrote: a stock Linux kernel with busybox, booted to user space, where it runs a shell loop,
//! programs, a checksum, a compression and a copy.
//!
//! Kernel and busybox come from a folder as Debian's packages have it, unpacked; the file system that the kernel starts with is
//! made here. The commands are the same in every column, on the host too, and their output is folded to checksums.

mod archive;
mod ticks;

use super::error::BenchError;
use super::workload::{Kind, Workload};
use archive::Archive;
use std::path::{Path, PathBuf};

/// Name of the workload.
pub const NAME: &str = "linux";

/// Bytes of RAM in every column.
pub const MEMORY: u64 = 512 << 20;

/// The kernel's command line in every column: a panic ends the run, as a reset.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// The first line of user space. Its first letter does not come again in it.
pub const USER_SPACE: &str = "trivisor: user space";

/// What stands for the time of the boot in the guest's record of it: only the host knows when it began.
pub const BOOT_CYCLES: &str = "cycles=BOOT";

/// How one comes by kernel and busybox.
pub const RECIPE: &str = "in an empty folder, 'apt-get download busybox-static' and the package that 'apt-cache depends \
                          linux-image-cloud-amd64' names, then 'dpkg -x PACKAGE root' for each, and --linux root";

const INIT: &str = include_str!("init.sh");
const COMMANDS: &str = include_str!("commands.sh");

/// Most bytes of a kernel or a busybox.
const MOST: u64 = 256 << 20;

/// Kernel and busybox of a folder, ready to be booted.
#[derive(Debug, Clone)]
pub struct LinuxGuest {
    /// A bzImage, or an ELF with a PVH note.
    pub kernel: Vec<u8>,
    /// The first file system.
    pub initrd: Vec<u8>,
    /// Where busybox is on the host.
    pub busybox: PathBuf,
    /// The program that prints the time stamp counter.
    pub ticks: Vec<u8>,
}

impl LinuxGuest {
    /// Finds `boot/vmlinuz*` (the last by name) and `bin/busybox` or `usr/bin/busybox` in a folder.
    ///
    /// # Errors
    /// [`BenchError::Linux`] if one is missing, or is not what it should be; [`BenchError::Io`] if it cannot be read.
    pub fn load(folder: &Path) -> Result<LinuxGuest, BenchError> {
        let refuse = |what: &str| BenchError::Linux { folder: folder.to_owned(), what: what.to_owned() };
        let kernel = [folder.join("boot"), folder.to_owned()].iter().find_map(|boot| newest_kernel(boot));
        let kernel = kernel.ok_or_else(|| refuse("it has no kernel, boot/vmlinuz*"))?;
        let busybox = ["bin/busybox", "usr/bin/busybox", "busybox"].map(|name| folder.join(name));
        let busybox = busybox.into_iter().find(|path| path.is_file());
        let busybox = busybox.ok_or_else(|| refuse("it has no busybox, bin/busybox"))?;
        let (kernel, program) = (read(&kernel)?, read(&busybox)?);
        if !is_static(&program) {
            return Err(refuse(
                "its busybox is no program that needs no libraries, as that of busybox-static",
            ));
        }
        let ticks = ticks::program().map_err(|error| refuse(&error.to_string()))?;
        let mut files = Archive::default();
        files.folder("bin");
        files.folder("dev");
        files.program("bin/busybox", &program);
        files.program("bin/ticks", &ticks);
        files.file("commands.sh", COMMANDS.as_bytes());
        files.program("init", INIT.as_bytes());
        let busybox = std::path::absolute(&busybox).map_err(|error| BenchError::io(&busybox, error))?;
        Ok(LinuxGuest { kernel, initrd: files.finish(), busybox, ticks })
    }

    /// The commands that are measured, for busybox's shell.
    pub fn commands() -> &'static str {
        COMMANDS
    }

    /// The workload, whose image is all that the guest is made of. It lives as long as the process.
    pub fn workload(&self) -> &'static Workload {
        let parts = [&self.kernel[..], &self.initrd, COMMAND_LINE.as_bytes(), &MEMORY.to_le_bytes()];
        Box::leak(Box::new(Workload {
            name: NAME,
            kind: Kind::Task,
            about: "boots a stock Linux kernel, which runs busybox's shell and programs",
            disk: None,
            image: Vec::leak(parts.concat()),
        }))
    }
}

/// The last kernel by name in a folder.
fn newest_kernel(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"vmlinuz") && path.is_file()
    };
    entries.filter(is_kernel).max()
}

fn read(path: &Path) -> Result<Vec<u8>, BenchError> {
    let io = |error| BenchError::io(path, error);
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MOST {
        return Err(io(std::io::Error::other("it is larger than any kernel or busybox")));
    }
    std::fs::read(path).map_err(io)
}

/// Whether this is a 64-bit ELF program without an interpreter.
fn is_static(program: &[u8]) -> bool {
    use object::elf::{EM_X86_64, FileHeader64, PT_INTERP};
    use object::endian::LittleEndian;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};
    let Ok(header) = FileHeader64::<LittleEndian>::parse(program) else { return false };
    let segments = header.program_headers(LittleEndian, program);
    header.e_machine(LittleEndian) == EM_X86_64
        && segments.is_ok_and(|all| all.iter().all(|one| one.p_type(LittleEndian) != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_lacks_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = || LinuxGuest::load(dir.path()).unwrap_err().to_string();
        assert!(told().contains("no kernel") && told().contains("apt-get download"), "{}", told());
        std::fs::create_dir_all(dir.path().join("boot")).unwrap();
        std::fs::write(dir.path().join("boot/vmlinuz-6.1"), "old").unwrap();
        std::fs::write(dir.path().join("boot/vmlinuz-6.2"), "new").unwrap();
        assert!(told().contains("no busybox"), "{}", told());
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        for wrong in [&b"#!/bin/sh"[..], &std::fs::read("/proc/self/exe").unwrap()] {
            std::fs::write(dir.path().join("bin/busybox"), wrong).unwrap();
            assert!(told().contains("no program that needs no libraries"), "{}", told());
        }
        std::fs::write(dir.path().join("bin/busybox"), ticks::program().unwrap()).unwrap();
        let guest = LinuxGuest::load(dir.path()).unwrap();
        assert_eq!((guest.kernel.as_slice(), guest.busybox.is_absolute()), (&b"new"[..], true));
    }

    #[test]
    fn one_folder_always_gives_one_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinuz"), "kernel").unwrap();
        std::fs::write(dir.path().join("busybox"), ticks::program().unwrap()).unwrap();
        let image = || LinuxGuest::load(dir.path()).unwrap().workload().image;
        let first = image();
        assert_eq!(first, image());
        std::fs::write(dir.path().join("vmlinuz"), "another").unwrap();
        assert_ne!(first, image());
    }

    #[test]
    fn scripts_print_what_the_host_looks_for() {
        assert!(INIT.contains(USER_SPACE) && INIT.contains(BOOT_CYCLES));
        let first = char::from(USER_SPACE.as_bytes()[0]);
        assert_eq!(USER_SPACE.matches(first).count(), 1, "looking for it need not go back");
    }
}
