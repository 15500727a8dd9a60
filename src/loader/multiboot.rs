//! Multiboot 1 images: 32-bit ELF executables (or raw images with addresses in their header) that a boot loader enters
//! in 32-bit protected mode, with a structure that says what there is (Multiboot Specification 0.6.96).
//!
//! At [`layout::MULTIBOOT_INFO`] lie the structure, the memory map, the list of modules and their strings, and the
//! command line.
use super::elf::{check_entry, load_segment};
use super::memory_map::{self, Region};
use super::{LoadError, Placed, Segment};
use crate::arch::state::gpr;
use crate::arch::{CpuState, Gpa, layout};
use crate::mem::GuestRam;
use object::elf::{self, FileHeader32};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};

/// Of the header in the image.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// In EAX when the image is entered.
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// The header lies in the first 8 KiB, aligned to 4.
const HEADER_MOST: usize = 8192;
/// Requirements in bits 15:0 must be understood: page-aligned modules, memory information, video mode. The last of them
/// we lack.
const UNDERSTOOD: u32 = 0b011;
/// The header says where the image is to be loaded.
const HAS_ADDRESSES: u32 = 1 << 16;

const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MAP: u32 = 1 << 6;
const MAP_OFFSET: usize = 0x80;
const MAP_ENTRY: usize = 24;
const MODULE_OFFSET: usize = 0x300;
const MODULE_NAME_OFFSET: usize = 0x320;
const COMMAND_LINE_OFFSET: usize = 0x400;
/// Bytes of the information.
pub(super) const SIZE: usize = 0x1000;
/// The first word of the command line, which is the image's name by custom.
const NAME: &str = "kernel";
const COMMAND_LINE_MOST: usize = SIZE - COMMAND_LINE_OFFSET - NAME.len() - 2;

/// A checked multiboot image.
#[derive(Debug, Clone)]
pub struct MultibootImage {
    entry: u32,
    segments: Vec<Segment>,
}

/// The multiboot header: where in the file, and its flags.
struct Header {
    at: usize,
    flags: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn find(bytes: &[u8]) -> Option<Header> {
    (0..HEADER_MOST.min(bytes.len())).step_by(4).find_map(|at| {
        let (magic, flags, sum) = (word(bytes, at)?, word(bytes, at + 4)?, word(bytes, at + 8)?);
        let holds = magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(sum) == 0;
        holds.then_some(Header { at, flags })
    })
}

impl MultibootImage {
    /// Whether `bytes` is to be loaded as a multiboot image: it has the header, and is no 64-bit ELF, which has another
    /// way in.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        let wide = bytes.starts_with(&elf::ELFMAG) && bytes.get(4) == Some(&elf::ELFCLASS64);
        !wide && find(bytes).is_some()
    }

    /// Checks and takes apart an image.
    ///
    /// # Errors
    /// [`LoadError`] for anything but a whole multiboot image without needs that we do not meet.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let header = find(bytes).ok_or(LoadError::NotElf)?;
        if header.flags & 0xffff & !UNDERSTOOD != 0 {
            return Err(LoadError::Damaged(format!(
                "its multiboot header asks for what is not offered (flags {:#x}; a video mode is bit 2)",
                header.flags
            )));
        }
        let (entry, segments) =
            if header.flags & HAS_ADDRESSES != 0 { raw(bytes, &header)? } else { executable(bytes)? };
        check_entry(&segments, entry.into())?;
        Ok(Self { entry, segments })
    }

    /// Physical address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The loadable pieces, ascending.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Puts the information into RAM, where the image and its module lie already; returns the boot CPU's state.
    pub(super) fn start(
        &self,
        ram: &GuestRam,
        command_line: &str,
        module: Option<Placed>,
    ) -> Result<CpuState, LoadError> {
        let at = layout::MULTIBOOT_INFO;
        let info = information(ram, module, command_line)?;
        ram.write(at, &info).map_err(|_| LoadError::tables_do_not_fit(ram))?;
        let mut state = CpuState::pvh_entry(self.entry, at.0 as u32);
        state.gpr[gpr::RAX] = LOADER_MAGIC.into();
        Ok(state)
    }
}

/// An image whose header has the addresses (the specification's "a.out kludge").
fn raw(bytes: &[u8], header: &Header) -> Result<(u32, Vec<Segment>), LoadError> {
    let cut = || LoadError::Damaged("the file ends within its multiboot header".into());
    let field = |i: usize| word(bytes, header.at + 12 + 4 * i).ok_or_else(cut);
    let [at, start, load_end, bss_end, entry] = [field(0)?, field(1)?, field(2)?, field(3)?, field(4)?];
    let damaged = |why: &str| LoadError::Damaged(format!("its multiboot header {why}"));
    let before = at.checked_sub(start).ok_or_else(|| damaged("lies before what is to be loaded"))?;
    let from =
        header.at.checked_sub(before as usize).ok_or_else(|| damaged("loads what is before the file"))?;
    let length = match load_end {
        0 => bytes.len() - from,
        end => end.checked_sub(start).ok_or_else(|| damaged("ends before it starts"))? as usize,
    };
    let data = bytes.get(from..from.saturating_add(length));
    let data = data.ok_or_else(|| damaged("names bytes beyond the end of the file"))?;
    let size = u64::from(bss_end.saturating_sub(start)).max(length as u64);
    Ok((entry, vec![Segment { gpa: Gpa(start.into()), bytes: data.to_vec(), size, executable: true }]))
}

/// A 32-bit ELF executable.
fn executable(bytes: &[u8]) -> Result<(u32, Vec<Segment>), LoadError> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(LoadError::NotElf);
    }
    let damaged = |error: object::read::Error| LoadError::Damaged(error.to_string());
    if bytes.get(4) != Some(&elf::ELFCLASS32) || bytes.get(18..20) != Some(&elf::EM_386.to_le_bytes()) {
        return Err(LoadError::OtherMachine("a machine other than i386, with a multiboot header".into()));
    }
    let header = FileHeader32::<LittleEndian>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let mut segments = Vec::new();
    for program in header.program_headers(endian, bytes).map_err(damaged)? {
        if program.p_type(endian) != elf::PT_LOAD || program.p_memsz(endian) == 0 {
            continue;
        }
        segments.push(load_segment(program, endian, bytes)?);
    }
    segments.sort_by_key(|s| s.gpa);
    Ok((header.e_entry(endian), segments))
}

/// The block of information.
fn information(ram: &GuestRam, module: Option<Placed>, command_line: &str) -> Result<Vec<u8>, LoadError> {
    if command_line.len() > COMMAND_LINE_MOST {
        return Err(LoadError::CommandLine(command_line.len(), COMMAND_LINE_MOST));
    }
    let base = layout::MULTIBOOT_INFO.0 as u32;
    let mut block = vec![0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let mut word = |at: usize, value: u32| put(at, &value.to_le_bytes());
    let mut flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MAP;
    let low = ram.slots()[0].size;
    word(4, (layout::CONVENTIONAL_END.0 >> 10) as u32);
    word(8, (low.saturating_sub(1 << 20) >> 10) as u32);
    word(16, base + COMMAND_LINE_OFFSET as u32);
    if let Some(Placed { at, size }) = module {
        // RAM below the devices.
        let (start, end) = (at.0 as u32, (at.0 + size) as u32);
        flags |= INFO_MODULES;
        word(20, 1);
        word(24, base + MODULE_OFFSET as u32);
        word(MODULE_OFFSET, start);
        word(MODULE_OFFSET + 4, end);
        word(MODULE_OFFSET + 8, base + MODULE_NAME_OFFSET as u32);
    }
    let map = memory_map::regions(ram);
    word(44, (map.len() * MAP_ENTRY) as u32);
    word(48, base + MAP_OFFSET as u32);
    word(0, flags);
    for (i, Region { start, size, kind }) in map.into_iter().enumerate() {
        let at = MAP_OFFSET + i * MAP_ENTRY;
        put(at, &(MAP_ENTRY as u32 - 4).to_le_bytes());
        put(at + 4, &start.to_le_bytes());
        put(at + 12, &size.to_le_bytes());
        put(at + 20, &kind.to_le_bytes());
    }
    put(MODULE_NAME_OFFSET, b"module");
    put(COMMAND_LINE_OFFSET, format!("{NAME} {command_line}").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Image;

    /// A raw image of 0x100 bytes for 1 MiB, its header at offset 8, with this much zeroed memory behind it.
    fn raw_image(flags: u32, bss_end: u32) -> Vec<u8> {
        let mut bytes = vec![0x90; 0x100];
        let words = [
            HEADER_MAGIC,
            flags,
            0_u32.wrapping_sub(HEADER_MAGIC.wrapping_add(flags)),
            0x10_0008,
            0x10_0000,
            0x10_0100,
            bss_end,
            0x10_0040,
        ];
        for (i, word) in words.into_iter().enumerate() {
            bytes[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_image_with_addresses_is_loaded_with_its_module_and_its_words() {
        let image = Image::parse(&raw_image(HAS_ADDRESSES | 3, 0x10_2000)).unwrap();
        let image = image.with_initrd(b"NR=1".to_vec()).unwrap();
        let ram = GuestRam::new(4 << 20).unwrap();
        let state = image.load(&ram, "a b", false).unwrap();
        assert_eq!((state.rip, state.gpr[gpr::RAX]), (0x10_0040, u64::from(LOADER_MAGIC)));
        let read = |at: u64| {
            let mut bytes = [0; 4];
            ram.read(Gpa(at), &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        let info = state.gpr[gpr::RBX];
        assert_eq!(read(info), INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MAP);
        assert_eq!(read(info + 8), 3 << 10, "KiB above 1 MiB");
        let modules = u64::from(read(info + 24));
        assert_eq!((read(modules), read(modules + 4)), (0x3f_f000, 0x3f_f004));
        assert_eq!(read(0x3f_f000).to_le_bytes(), *b"NR=1");
        let mut words = [0; 11];
        ram.read(Gpa(read(info + 16).into()), &mut words).unwrap();
        assert_eq!(&words, b"kernel a b\0");
        assert_eq!(read(0x10_0000).to_le_bytes(), [0x90; 4]);
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let refused = |bytes: &[u8]| matches!(Image::parse(bytes), Err(LoadError::Damaged(_)));
        assert!(refused(&raw_image(HAS_ADDRESSES | 4, 0)), "a video mode");
        assert!(refused(&raw_image(HAS_ADDRESSES, 0)[..0x40]), "cut off");
        assert_eq!(Image::parse(&raw_image(0, 0)).unwrap_err(), LoadError::NotElf);
        let image = Image::parse(&raw_image(HAS_ADDRESSES, 0x50_0000)).unwrap();
        let ram = GuestRam::new(4 << 20).unwrap();
        assert!(matches!(image.load(&ram, "", false), Err(LoadError::DoesNotFit { .. })));
        let image =
            Image::parse(&raw_image(HAS_ADDRESSES, 0)).unwrap().with_initrd(vec![0; 4 << 20]).unwrap();
        assert!(matches!(image.load(&ram, "", false), Err(LoadError::InitrdDoesNotFit { .. })));
    }

    proptest::proptest! {
        #[test]
        fn damaged_headers_never_panic(words in proptest::collection::vec(proptest::prelude::any::<u32>(), 5), cut in 0_usize..0x100) {
            let mut bytes = raw_image(HAS_ADDRESSES, 0);
            for (i, word) in words.into_iter().enumerate() {
                bytes[20 + 4 * i..24 + 4 * i].copy_from_slice(&word.to_le_bytes());
            }
            bytes.truncate(0x100 - cut);
            if let Ok(image) = Image::parse(&bytes) {
                let _either_way = image.load(&GuestRam::new(2 << 20).unwrap(), "", false);
            }
        }
    }
}
