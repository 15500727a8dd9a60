//! Puts a guest image into RAM and says in which state the boot CPU starts.
//!
//! The kinds: a 64-bit ELF with a PVH note, as Linux's `vmlinux` has it (entered in 32-bit protected mode with the start
//! information of Xen's boot ABI), a multiboot image (entered likewise with multiboot information), a Linux bzImage or a
//! `vmlinux` without the note (entered by Linux's own boot protocol), a flat binary (entered at its first byte), and firmware (entered at the reset
//! vector, as after power-on). An initial RAM disk, which multiboot calls a module, goes with all but the last two.
//! Everything in an image is checked before it is run.
mod elf;
mod linux;
mod memory_map;
mod multiboot;
mod pvh;

pub use elf::{ElfImage, Entry, Segment, Symbol};
pub use linux::LinuxImage;
pub use multiboot::MultibootImage;

use crate::arch::{CpuState, Gpa, address::PAGE_SIZE, layout};
use crate::mem::{GuestRam, amount};

/// Why an image cannot be loaded. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// No ELF magic.
    #[error(
        "the image is neither an ELF file nor a Linux bzImage nor a multiboot image; give a kernel as one of them, or load raw code with --flat"
    )]
    NotElf,
    /// An ELF of another class or machine.
    #[error("the image is an ELF file for {0}; trivisor runs 64-bit x86 (x86-64) images only")]
    OtherMachine(String),
    /// An ELF that is not an executable.
    #[error(
        "the image is an ELF file but not a statically linked executable (type {0}); link it with -static -no-pie"
    )]
    NotExecutable(String),
    /// Cut off or inconsistent.
    #[error("the image is truncated or damaged: {0}")]
    Damaged(String),
    /// No way in.
    #[error(
        "the image has no PVH note (Xen note 18) and is not linked as Linux's kernel is, so it has no entry point that \
         trivisor can use"
    )]
    NoPvhNote,
    /// Bigger than RAM, or in the way of the start information.
    #[error("{}", misfit(*start, *end, *low, *high))]
    DoesNotFit {
        /// First byte needed.
        start: u64,
        /// End of what is needed.
        end: u64,
        /// First byte that images may use.
        low: u64,
        /// End of low RAM.
        high: u64,
    },
    /// The command line is too long.
    #[error("the guest's command line has {0} bytes; at most {1} are possible")]
    CommandLine(usize, usize),
    /// A Linux kernel from before the boot protocol that is spoken here.
    #[error(
        "the kernel speaks boot protocol {major}.{minor:02} or is a zImage; give a bzImage of Linux 2.6.22 or newer"
    )]
    OldKernel {
        /// Protocol's major version.
        major: u16,
        /// Protocol's minor version.
        minor: u16,
    },
    /// An initial RAM disk for an image that takes none.
    #[error("an initial RAM disk goes with a Linux kernel or a PVH image; raw code takes none")]
    NoInitrd,
    /// An initial RAM disk without a byte.
    #[error("the initial RAM disk is empty")]
    EmptyInitrd,
    /// An initial RAM disk that has no room beside the kernel.
    #[error("{}", initrd_misfit(*size, *kernel_end, *end))]
    InitrdDoesNotFit {
        /// Its bytes.
        size: u64,
        /// Where the kernel ends.
        kernel_end: u64,
        /// Where RAM ends, or what the kernel takes for a RAM disk.
        end: u64,
    },
    /// A flat image without a byte.
    #[error("the image is empty")]
    Empty,
    /// Firmware of a size that no firmware has.
    #[error(
        "the firmware image has {}; a PC's has a multiple of 64 KiB, 8 MiB at most (SeaBIOS: bios.bin, bios-256k.bin)",
        amount(*.0)
    )]
    FirmwareSize(u64),
}

/// Why an image from `start` to `end` has no place between `low` and the end of RAM at `high`, and what helps.
fn misfit(start: u64, end: u64, low: u64, high: u64) -> String {
    let most = layout::LOW_RAM_END.0;
    if start < low {
        format!(
            "the image is to be loaded at {start:#x}, but the first {} are taken; link it higher",
            amount(low)
        )
    } else if end > most {
        format!(
            "the image needs memory from {start:#x} to {end:#x}, but RAM ends at {most:#x} at the latest, where \
             devices begin; link it lower, or make it smaller"
        )
    } else {
        let (needed, has) = (end.div_ceil(1 << 20), amount(high));
        format!(
            "the image needs {needed} MiB, but the guest has {has} of RAM; give it at least --memory {needed}M"
        )
    }
}

/// Why an initial RAM disk has no place, and what helps.
fn initrd_misfit(size: u64, kernel_end: u64, end: u64) -> String {
    let needed = kernel_end.saturating_add(size).div_ceil(1 << 20);
    let told = format!("the initial RAM disk has {}", amount(size));
    if needed << 20 > layout::LOW_RAM_END.0 {
        format!(
            "{told}, which is more than there is room for below the devices, beside the kernel; make it smaller"
        )
    } else {
        format!(
            "{told}, which do not fit between the kernel's end at {kernel_end:#x} and {end:#x}; give the guest at \
             least --memory {}M",
            needed + 1
        )
    }
}

impl LoadError {
    /// The start information has no place in so little RAM.
    fn tables_do_not_fit(ram: &GuestRam) -> Self {
        let (start, high) = (layout::PVH_START_INFO.0, ram.slots()[0].size);
        Self::DoesNotFit { start, end: layout::IMAGE_START.0, low: 0, high }
    }
}

/// Where something was put in guest RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Placed {
    at: Gpa,
    size: u64,
}

/// Where bytes go, the bytes, and how many there are in memory.
type Piece<'a> = (Gpa, &'a [u8], u64);

fn raw(at: Gpa, bytes: &[u8]) -> Piece<'_> {
    (at, bytes, bytes.len() as u64)
}

fn pieces_of(segments: &[Segment]) -> Vec<Piece<'_>> {
    segments.iter().map(|segment| (segment.gpa, segment.bytes.as_slice(), segment.size)).collect()
}

#[derive(Debug, Clone)]
enum Kernel {
    /// ELF64 with PVH note.
    Elf(ElfImage),
    /// 32-bit ELF, or raw code, with a multiboot header.
    Multiboot(MultibootImage),
    /// Linux bzImage.
    Linux(LinuxImage),
    /// Raw code.
    Flat(Vec<u8>),
    /// A PC's firmware.
    Firmware(Vec<u8>),
}

/// Bytes of firmware that appear below 1 MiB, at most.
const SHADOW: usize = (layout::IMAGE_START.0 - layout::FIRMWARE_SHADOW.0) as usize;

/// A parsed image, with its initial RAM disk if it has one.
#[derive(Debug, Clone)]
pub struct Image {
    kernel: Kernel,
    initrd: Option<Vec<u8>>,
}

impl From<Kernel> for Image {
    fn from(kernel: Kernel) -> Self {
        Self { kernel, initrd: None }
    }
}

impl Image {
    /// Parses an ELF or multiboot image or a Linux bzImage.
    ///
    /// # Errors
    /// [`LoadError`], for whatever is none of a PVH ELF64, a multiboot image and a bzImage.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        if LinuxImage::is_meant(bytes) {
            return Ok(Kernel::Linux(LinuxImage::parse(bytes)?).into());
        }
        if MultibootImage::is_one(bytes) {
            return Ok(Kernel::Multiboot(MultibootImage::parse(bytes)?).into());
        }
        Ok(Kernel::Elf(ElfImage::parse(bytes)?).into())
    }

    /// The image with an initial RAM disk, in place of another.
    ///
    /// # Errors
    /// [`LoadError::NoInitrd`] and [`LoadError::EmptyInitrd`].
    pub fn with_initrd(mut self, bytes: Vec<u8>) -> Result<Self, LoadError> {
        if matches!(self.kernel, Kernel::Flat(_) | Kernel::Firmware(_)) {
            return Err(LoadError::NoInitrd);
        }
        if bytes.is_empty() {
            return Err(LoadError::EmptyInitrd);
        }
        self.initrd = Some(bytes);
        Ok(self)
    }

    /// Whether it is a multiboot image, which takes a machine for granted that a BIOS has set up.
    #[must_use]
    pub fn is_multiboot(&self) -> bool {
        matches!(self.kernel, Kernel::Multiboot(_))
    }

    /// Whether it is 64-bit code in the end, wherever it begins: a 64-bit ELF, or Linux.
    #[must_use]
    pub fn is_64bit(&self) -> bool {
        matches!(self.kernel, Kernel::Elf(_) | Kernel::Linux(_))
    }

    /// Whether it is a Linux kernel that is booted by Linux's own protocol, so that its command line is Linux's.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        match &self.kernel {
            Kernel::Linux(_) => true,
            Kernel::Elf(elf) => matches!(elf.entry(), Entry::Linux(_)),
            Kernel::Multiboot(_) | Kernel::Flat(_) | Kernel::Firmware(_) => false,
        }
    }

    /// Takes raw code as it is.
    ///
    /// # Errors
    /// [`LoadError::Empty`].
    pub fn flat(bytes: Vec<u8>) -> Result<Self, LoadError> {
        if bytes.is_empty() { Err(LoadError::Empty) } else { Ok(Kernel::Flat(bytes).into()) }
    }

    /// Takes a firmware image as it is.
    ///
    /// # Errors
    /// [`LoadError::FirmwareSize`].
    pub fn firmware(bytes: Vec<u8>) -> Result<Self, LoadError> {
        let size = bytes.len() as u64;
        let possible = size > 0 && size.is_multiple_of(64 << 10) && size <= layout::FIRMWARE_MOST;
        if possible { Ok(Kernel::Firmware(bytes).into()) } else { Err(LoadError::FirmwareSize(size)) }
    }

    /// The bytes that lie at the end of the first 4 GiB, where the reset vector is: firmware's.
    #[must_use]
    pub fn rom(&self) -> Option<&[u8]> {
        match &self.kernel {
            Kernel::Firmware(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The pieces to be loaded, ascending.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let executable =
            |(gpa, bytes, size): Piece| Segment { gpa, bytes: bytes.to_vec(), size, executable: true };
        match &self.kernel {
            Kernel::Elf(elf) => elf.segments().to_vec(),
            Kernel::Multiboot(image) => image.segments().to_vec(),
            Kernel::Linux(_) | Kernel::Flat(_) | Kernel::Firmware(_) => {
                self.pieces().into_iter().map(executable).collect()
            }
        }
    }

    /// As [`Self::segments`], without copies.
    fn pieces(&self) -> Vec<Piece<'_>> {
        match &self.kernel {
            Kernel::Elf(elf) => pieces_of(elf.segments()),
            Kernel::Multiboot(image) => pieces_of(image.segments()),
            Kernel::Linux(linux) => vec![raw(layout::IMAGE_START, linux.kernel())],
            Kernel::Flat(bytes) => vec![raw(layout::FLAT_START, bytes)],
            Kernel::Firmware(bytes) => {
                let shadow = &bytes[bytes.len().saturating_sub(SHADOW)..];
                vec![raw(Gpa(layout::IMAGE_START.0 - shadow.len() as u64), shadow)]
            }
        }
    }

    /// Symbols by ascending address; empty for a stripped, packed or flat image.
    #[must_use]
    pub fn symbols(&self) -> &[Symbol] {
        match &self.kernel {
            Kernel::Elf(elf) => elf.symbols(),
            Kernel::Multiboot(_) | Kernel::Linux(_) | Kernel::Flat(_) | Kernel::Firmware(_) => &[],
        }
    }

    /// Copies the image and its start information into `ram`; returns the boot CPU's state. RAM must be fresh (zero).
    /// `screen`: somebody sees the text screen, which is in mode 3; Linux is told of it.
    ///
    /// # Errors
    /// [`LoadError::DoesNotFit`], [`LoadError::InitrdDoesNotFit`] and [`LoadError::CommandLine`]. What is in RAM then
    /// is not to be run.
    pub fn load(&self, ram: &GuestRam, command_line: &str, screen: bool) -> Result<CpuState, LoadError> {
        let pieces = self.pieces();
        let high = ram.slots()[0].size;
        // Some multiboot images live in conventional memory, as no BIOS uses it.
        let lowest = match self.kernel {
            Kernel::Multiboot(_) => layout::MULTIBOOT_INFO.offset(multiboot::SIZE as u64),
            Kernel::Firmware(_) => layout::FIRMWARE_SHADOW,
            _ => layout::IMAGE_START,
        };
        for &(at, _, size) in &pieces {
            let end = at.0.saturating_add(size);
            if at < lowest || end > high {
                let (start, low) = (at.0, lowest.0);
                return Err(LoadError::DoesNotFit { start, end, low, high });
            }
        }
        let (kernel_end, initrd_max) = match &self.kernel {
            Kernel::Linux(linux) => (linux.end(), linux.initrd_max()),
            _ => (pieces.iter().map(|&(at, _, size)| at.0 + size).max().unwrap_or(0), u64::MAX),
        };
        if kernel_end > high {
            let start = layout::IMAGE_START.0;
            return Err(LoadError::DoesNotFit { start, end: kernel_end, low: start, high });
        }
        let initrd = self.place_initrd(ram, kernel_end, high.min(initrd_max.saturating_add(1)))?;
        for (at, bytes, _) in pieces {
            ram.write(at, bytes).map_err(|_| LoadError::tables_do_not_fit(ram))?;
        }
        let entry = match &self.kernel {
            Kernel::Linux(linux) => return linux.start(ram, command_line, initrd, screen),
            Kernel::Multiboot(image) => return image.start(ram, command_line, initrd),
            Kernel::Elf(elf) => match elf.entry() {
                Entry::Linux(at) => return linux::start_vmlinux(ram, at, command_line, initrd, screen),
                Entry::Pvh(at) => at,
            },
            Kernel::Flat(_) => layout::FLAT_START.0 as u32,
            Kernel::Firmware(_) => return Ok(CpuState::reset()),
        };
        let start_info = pvh::start_info(ram, command_line, initrd)?;
        ram.write(layout::PVH_START_INFO, &start_info).map_err(|_| LoadError::tables_do_not_fit(ram))?;
        Ok(CpuState::pvh_entry(entry, layout::PVH_START_INFO.0 as u32))
    }

    /// Copies the initial RAM disk as high as it goes between `low` and `high`, at the start of a page.
    fn place_initrd(&self, ram: &GuestRam, low: u64, high: u64) -> Result<Option<Placed>, LoadError> {
        let Some(bytes) = &self.initrd else { return Ok(None) };
        let size = bytes.len() as u64;
        let misfit = LoadError::InitrdDoesNotFit { size, kernel_end: low, end: high };
        let at = high.checked_sub(size).map(|at| Gpa(at & !(PAGE_SIZE - 1))).filter(|at| at.0 >= low);
        let at = at.ok_or_else(|| misfit.clone())?;
        ram.write(at, bytes).map_err(|_| misfit)?;
        Ok(Some(Placed { at, size }))
    }
}

#[cfg(test)]
mod tests;
