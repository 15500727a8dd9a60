//! Linux kernels in the form of bzImage, and how Linux kernels are entered (`Documentation/arch/x86/boot.rst`, "The
//! Linux/x86 Boot Protocol").
//!
//! The real-mode part of the file is left out: its work, asking a BIOS, is done here, and the kernel is entered in
//! 64-bit mode, or, where it has no such entry, in 32-bit protected mode. Kernel and RAM disk do not overlap, nor does
//! the RAM disk lie where the kernel unpacks itself.
use super::memory_map::{self, Region};
use super::{LoadError, Placed};
use crate::arch::{CpuState, Gpa, layout};
use crate::mem::{GuestRam, amount};

/// Offset of the setup header in the file and in `boot_params`.
const HEADER: usize = 0x1f1;
/// End of the fields that are read here; a file that is shorter is none.
const HEADER_END: usize = 0x264;
/// The sector size that the file is counted in.
const SECTOR: usize = 512;
/// Sectors of the real-mode part if the header says 0.
const OLD_SETUP_SECTORS: usize = 4;
/// The 64-bit entry, from the start of the protected-mode part.
const ENTRY64: u64 = 0x200;
/// The oldest protocol that is spoken here, 2.06 (Linux 2.6.22): a relocatable kernel that says how long a command line it takes.
const OLDEST: u16 = 0x206;

/// What a `vmlinux` is told that the header is of: 2.15, with nothing of it that matters to a kernel that is unpacked.
const VMLINUX_PROTOCOL: u16 = 0x20f;
/// Bytes that its command line may have: Linux's `COMMAND_LINE_SIZE`, without the final zero.
const VMLINUX_COMMAND_LINE: usize = 2047;

const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader`: undefined loader.
const OTHER_LOADER: u8 = 0xff;

/// Fields of `boot_params` outside the setup header.
mod params {
    /// Bytes of the whole structure.
    pub(super) const SIZE: usize = 4096;
    /// Of `screen_info`: from the mode to the height of a character.
    pub(super) const SCREEN: usize = 6;
    /// A VGA in mode 3: 80 columns, 25 rows, characters of 16 lines.
    pub(super) const MODE_3: [u8; 12] = [3, 80, 0, 0, 0, 0, 0, 0, 25, 1, 16, 0];
    pub(super) const ACPI_RSDP: usize = 0x70;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const E820_TABLE: usize = 0x2d0;
    /// Bytes of an entry: start, size, type.
    pub(super) const E820_ENTRY: usize = 20;
}

/// Fields of the setup header, as offsets in the file.
mod field {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP_OFFSET: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
}

/// A checked bzImage.
#[derive(Debug, Clone)]
pub struct LinuxImage {
    /// The setup header, from [`HEADER`] on, as it goes into `boot_params`.
    header: Vec<u8>,
    /// The protected-mode part.
    kernel: Vec<u8>,
    /// See `xloadflags`.
    has_entry64: bool,
    /// Where the kernel unpacks itself at the lowest, and bytes that it needs there; 0 if it does not say.
    unpacks: (u64, u64),
    /// The last byte that a RAM disk may have.
    initrd_max: u64,
    /// Bytes that a command line may have, without its final zero.
    command_line_most: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl LinuxImage {
    /// Whether a file is meant to be a Linux kernel with the boot protocol's header, whole or not.
    #[must_use]
    pub fn is_meant(bytes: &[u8]) -> bool {
        bytes.get(field::MAGIC..field::MAGIC + 4) == Some(b"HdrS")
            && bytes.get(field::BOOT_FLAG..field::BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
    }

    /// Checks a bzImage and takes it apart.
    ///
    /// # Errors
    /// [`LoadError::Damaged`] and [`LoadError::OldKernel`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let damaged = |why: String| Err(LoadError::Damaged(why));
        if bytes.len() < HEADER_END {
            return damaged("the file ends within the kernel's setup header".into());
        }
        let version = u16_at(bytes, field::VERSION);
        if version < OLDEST || bytes[field::LOADFLAGS] & LOADED_HIGH == 0 {
            return Err(LoadError::OldKernel { major: version >> 8, minor: version & 0xff });
        }
        let setup_sectors = match usize::from(bytes[field::SETUP_SECTS]) {
            0 => OLD_SETUP_SECTORS,
            sectors => sectors,
        };
        let start = (1 + setup_sectors) * SECTOR;
        let end = field::MAGIC + usize::from(bytes[field::JUMP_OFFSET]);
        if end > start || end < field::CMDLINE_SIZE + 4 {
            return damaged(format!("its setup header ends at {end:#x}"));
        }
        let has = |at: usize| at < end;
        let size = u32_at(bytes, field::SYSSIZE) as usize * 16;
        // The size is rounded up to 16 bytes, and some files end before that.
        let Some(kernel) = bytes.get(start..).filter(|k| !k.is_empty() && k.len() + 15 >= size) else {
            return damaged(format!(
                "the kernel has {}, but the file ends after {}",
                amount((start + size) as u64),
                amount(bytes.len() as u64)
            ));
        };
        let xloadflags = if has(field::XLOADFLAGS + 1) { u16_at(bytes, field::XLOADFLAGS) } else { 0 };
        let has_entry64 = version >= 0x20c && xloadflags & XLF_KERNEL_64 != 0;
        if has_entry64 && kernel.len() as u64 <= ENTRY64 {
            return damaged("the kernel ends before its entry".into());
        }
        let unpacks = if version >= 0x20a && has(field::INIT_SIZE + 3) {
            let preferred = u64::from(u32_at(bytes, field::PREF_ADDRESS))
                | u64::from(u32_at(bytes, field::PREF_ADDRESS + 4)) << 32;
            (preferred, u32_at(bytes, field::INIT_SIZE).into())
        } else {
            (0, 0)
        };
        let most = (1 << 16) - 1;
        Ok(Self {
            header: bytes[HEADER..end].to_vec(),
            kernel: kernel.to_vec(),
            has_entry64,
            unpacks,
            initrd_max: u32_at(bytes, field::INITRD_ADDR_MAX).into(),
            command_line_most: (u32_at(bytes, field::CMDLINE_SIZE) as usize).min(most),
        })
    }

    /// The protected-mode part, which is loaded at [`layout::IMAGE_START`].
    pub(super) fn kernel(&self) -> &[u8] {
        &self.kernel
    }

    /// End of the memory that the kernel needs until it has unpacked itself.
    pub(super) fn end(&self) -> u64 {
        let loaded = layout::IMAGE_START.0;
        let (preferred, size) = self.unpacks;
        (loaded + self.kernel.len() as u64).max(preferred.max(loaded).saturating_add(size))
    }

    /// The last byte that a RAM disk may have.
    pub(super) fn initrd_max(&self) -> u64 {
        self.initrd_max
    }

    /// Writes `boot_params`, command line and tables for a kernel and RAM disk that have been put in place; returns the
    /// boot CPU's state.
    pub(super) fn start(
        &self,
        ram: &GuestRam,
        command_line: &str,
        initrd: Option<Placed>,
        screen: bool,
    ) -> Result<CpuState, LoadError> {
        let told = Told { header: &self.header, command_line, most: self.command_line_most, initrd, screen };
        told.write(ram)?;
        if self.has_entry64 {
            return enter(ram, layout::IMAGE_START.0 + ENTRY64);
        }
        write(ram, layout::BOOT_GDT, &gdt(0x00cf_9b00_0000_ffff))?;
        let params = layout::LINUX_BOOT_PARAMS.0 as u32;
        let mut state = CpuState::linux32_entry(layout::IMAGE_START.0 as u32, params);
        (state.gdtr.base, state.gdtr.limit) = (layout::BOOT_GDT.0, 31);
        Ok(state)
    }
}

/// Tells a `vmlinux`, which lies in RAM and has no setup header, what it has to know; returns the state in which its
/// entry is reached.
pub(super) fn start_vmlinux(
    ram: &GuestRam,
    entry: u64,
    command_line: &str,
    initrd: Option<Placed>,
    screen: bool,
) -> Result<CpuState, LoadError> {
    let mut header = vec![0; HEADER_END - HEADER];
    let mut put =
        |at: usize, bytes: &[u8]| header[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    put(field::BOOT_FLAG, &[0x55, 0xaa]);
    put(field::MAGIC, b"HdrS");
    put(field::VERSION, &VMLINUX_PROTOCOL.to_le_bytes());
    put(field::LOADFLAGS, &[LOADED_HIGH]);
    put(field::CMDLINE_SIZE, &(VMLINUX_COMMAND_LINE as u32).to_le_bytes());
    Told { header: &header, command_line, most: VMLINUX_COMMAND_LINE, initrd, screen }.write(ram)?;
    enter(ram, entry)
}

/// The state in which the 64-bit entry at `entry` is reached, with its tables in RAM.
fn enter(ram: &GuestRam, entry: u64) -> Result<CpuState, LoadError> {
    write(ram, layout::BOOT_GDT, &gdt(0x00af_9b00_0000_ffff))?;
    write(ram, layout::BOOT_PAGE_TABLES, &page_tables(layout::BOOT_PAGE_TABLES))?;
    let params = layout::LINUX_BOOT_PARAMS.0 as u32;
    let mut state = CpuState::linux64_entry(entry, params, layout::BOOT_PAGE_TABLES.0);
    (state.gdtr.base, state.gdtr.limit) = (layout::BOOT_GDT.0, 31);
    Ok(state)
}

fn write(ram: &GuestRam, at: Gpa, bytes: &[u8]) -> Result<(), LoadError> {
    ram.write(at, bytes).map_err(|_| LoadError::tables_do_not_fit(ram))
}

/// What a kernel is told.
struct Told<'a> {
    /// The setup header, from [`HEADER`] on.
    header: &'a [u8],
    command_line: &'a str,
    /// Bytes that the command line may have.
    most: usize,
    initrd: Option<Placed>,
    /// Somebody sees the screen.
    screen: bool,
}

impl Told<'_> {
    /// Puts `boot_params` and the command line where they are looked for.
    fn write(&self, ram: &GuestRam) -> Result<(), LoadError> {
        if self.command_line.len() > self.most {
            return Err(LoadError::CommandLine(self.command_line.len(), self.most));
        }
        write(ram, layout::LINUX_BOOT_PARAMS, &self.boot_params(ram))?;
        // RAM is zero: the final zero is there.
        write(ram, layout::LINUX_COMMAND_LINE, self.command_line.as_bytes())
    }

    fn boot_params(&self, ram: &GuestRam) -> Vec<u8> {
        let mut block = vec![0; params::SIZE];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(HEADER, self.header);
        put(field::TYPE_OF_LOADER, &[OTHER_LOADER]);
        put(field::CODE32_START, &(layout::IMAGE_START.0 as u32).to_le_bytes());
        put(field::CMD_LINE_PTR, &(layout::LINUX_COMMAND_LINE.0 as u32).to_le_bytes());
        if let Some(initrd) = self.initrd {
            // Both have 32 bits: RAM disks are placed below the devices.
            put(field::RAMDISK_IMAGE, &(initrd.at.0 as u32).to_le_bytes());
            put(field::RAMDISK_SIZE, &(initrd.size as u32).to_le_bytes());
        }
        if self.screen {
            put(params::SCREEN, &params::MODE_3);
        }
        put(params::ACPI_RSDP, &layout::FIRMWARE_TABLES.0.to_le_bytes());
        let map = memory_map::regions(ram);
        put(params::E820_ENTRIES, &[map.len() as u8]);
        for (i, Region { start, size, kind }) in map.into_iter().enumerate() {
            let at = params::E820_TABLE + i * params::E820_ENTRY;
            put(at, &start.to_le_bytes());
            put(at + 8, &size.to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
        }
        block
    }
}

/// Null, null, code at 0x10, data at 0x18.
fn gdt(code: u64) -> Vec<u8> {
    [0, 0, code, 0x00cf_9300_0000_ffff].iter().flat_map(|descriptor: &u64| descriptor.to_le_bytes()).collect()
}

/// One PML4, one page-directory-pointer table and four page directories of 2 MiB pages, at `base`.
fn page_tables(base: Gpa) -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 4096;
    let mut entries = vec![0_u64; 6 * 512];
    entries[0] = (base.0 + PAGE) | PRESENT_WRITABLE;
    for i in 0..4 {
        entries[512 + i] = (base.0 + (2 + i as u64) * PAGE) | PRESENT_WRITABLE;
    }
    for (i, entry) in entries[1024..].iter_mut().enumerate() {
        *entry = (i as u64) << 21 | LARGE | PRESENT_WRITABLE;
    }
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
