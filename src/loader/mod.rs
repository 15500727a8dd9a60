//! Puts a guest image into RAM and says in which state the boot CPU starts.
//!
//! The kinds: a 64-bit ELF with a PVH note (entered in 32-bit protected mode with the start information of Xen's boot
//! ABI), a multiboot image (entered likewise with multiboot information), and a flat binary (entered at its first byte). Everything in an image is checked before anything
//! is written to RAM.
mod elf;
mod multiboot;
mod pvh;

pub use elf::{ElfImage, Segment, Symbol};
pub use multiboot::MultibootImage;

use crate::arch::{CpuState, Gpa, layout};
use crate::mem::{GuestRam, amount};

/// Why an image cannot be loaded. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// No ELF magic.
    #[error(
        "the image is not an ELF file; give a 64-bit ELF kernel with a PVH note, or load raw code with --flat"
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
    #[error("the image has no PVH note (Xen note 18), so it has no entry point that trivisor can use")]
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
    /// A flat image without a byte.
    #[error("the image is empty")]
    Empty,
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

/// A parsed image.
#[derive(Debug, Clone)]
pub enum Image {
    /// ELF64 with PVH note.
    Elf(ElfImage),
    /// 32-bit ELF, or raw code, with a multiboot header.
    Multiboot(MultibootImage),
    /// Raw code.
    Flat(Vec<u8>),
}

impl Image {
    /// Parses an ELF or multiboot image.
    ///
    /// # Errors
    /// [`LoadError`], for whatever is neither a PVH ELF64 nor a multiboot image.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        if MultibootImage::is_one(bytes) {
            return MultibootImage::parse(bytes).map(Self::Multiboot);
        }
        ElfImage::parse(bytes).map(Self::Elf)
    }

    /// Takes raw code as it is.
    ///
    /// # Errors
    /// [`LoadError::Empty`].
    pub fn flat(bytes: Vec<u8>) -> Result<Self, LoadError> {
        if bytes.is_empty() { Err(LoadError::Empty) } else { Ok(Self::Flat(bytes)) }
    }

    /// The same with a module behind it, if it is of a kind that has any.
    #[must_use]
    pub fn with_module(self, module: Vec<u8>) -> Self {
        match self {
            Self::Multiboot(image) => Self::Multiboot(image.with_module(module)),
            other => other,
        }
    }

    /// The pieces to be loaded, ascending.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        match self {
            Self::Elf(elf) => elf.segments().to_vec(),
            Self::Multiboot(image) => image.segments().to_vec(),
            Self::Flat(bytes) => vec![Segment {
                gpa: layout::FLAT_START,
                bytes: bytes.clone(),
                size: bytes.len() as u64,
                executable: true,
            }],
        }
    }

    /// The physical address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u32 {
        match self {
            Self::Elf(elf) => elf.entry(),
            Self::Multiboot(image) => image.entry(),
            Self::Flat(_) => layout::FLAT_START.0 as u32,
        }
    }

    /// Symbols by ascending address; empty for a stripped or flat image.
    #[must_use]
    pub fn symbols(&self) -> &[Symbol] {
        match self {
            Self::Elf(elf) => elf.symbols(),
            Self::Multiboot(_) | Self::Flat(_) => &[],
        }
    }

    /// Copies the image and its start information into `ram`; returns the boot CPU's state. RAM must be fresh (zero).
    ///
    /// # Errors
    /// [`LoadError::DoesNotFit`] and [`LoadError::CommandLine`]; nothing is written then.
    pub fn load(&self, ram: &GuestRam, command_line: &str) -> Result<CpuState, LoadError> {
        let segments = self.segments();
        let high = ram.slots()[0].size;
        for segment in &segments {
            let end = segment.gpa.0.saturating_add(segment.size);
            if segment.gpa < layout::IMAGE_START || end > high {
                let (start, low) = (segment.gpa.0, layout::IMAGE_START.0);
                return Err(LoadError::DoesNotFit { start, end, low, high });
            }
        }
        let too_small = |_| LoadError::DoesNotFit {
            start: layout::PVH_START_INFO.0,
            end: layout::PVH_START_INFO.0 + pvh::SIZE,
            low: 0,
            high,
        };
        let start_info = pvh::start_info(ram, command_line)?;
        ram.write(layout::PVH_START_INFO, &start_info).map_err(too_small)?;
        for segment in &segments {
            ram.write(segment.gpa, &segment.bytes).map_err(too_small)?;
        }
        if let Self::Multiboot(image) = self {
            return image.finish(ram, command_line);
        }
        Ok(CpuState::pvh_entry(self.entry(), layout::PVH_START_INFO.0 as u32))
    }

    /// Guest-physical ranges of executable code, for those who scan it.
    #[must_use]
    pub fn executable_ranges(&self) -> Vec<(Gpa, u64)> {
        self.segments().iter().filter(|s| s.executable).map(|s| (s.gpa, s.bytes.len() as u64)).collect()
    }
}

#[cfg(test)]
mod tests;
