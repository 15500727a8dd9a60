//! 64-bit ELF executables: with a PVH note, or Linux's `vmlinux` without one.
use super::LoadError;
use crate::arch::Gpa;
use object::elf::{self, FileHeader64};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader, Sym};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `xen/include/public/elfnote.h`): the 32-bit physical entry point.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// One loadable piece of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes.
    pub gpa: Gpa,
    /// Its bytes; what `size` has beyond them is zero.
    pub bytes: Vec<u8>,
    /// Bytes in memory.
    pub size: u64,
    /// Whether it holds code.
    pub executable: bool,
}

/// A named address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Virtual address.
    pub address: u64,
    /// Size in bytes, 0 if unknown.
    pub size: u64,
    /// Name, not demangled.
    pub name: String,
}

/// Where an image is entered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// At this physical address in 32-bit protected mode, as the PVH note says.
    Pvh(u32),
    /// At this physical address in 64-bit mode, by Linux's boot protocol.
    Linux(u64),
}

/// A checked ELF image.
#[derive(Debug, Clone)]
pub struct ElfImage {
    entry: Entry,
    segments: Vec<Segment>,
    symbols: Vec<Symbol>,
}

type Header = FileHeader64<LittleEndian>;

impl ElfImage {
    /// Checks and takes apart an image.
    ///
    /// # Errors
    /// [`LoadError`] for anything but a whole ELF64 x86-64 executable with a PVH note, or one that is linked as Linux's
    /// kernel is.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        if !bytes.starts_with(&elf::ELFMAG) {
            return Err(LoadError::NotElf);
        }
        check_machine(bytes)?;
        let damaged = |error: object::read::Error| LoadError::Damaged(error.to_string());
        let header = Header::parse(bytes).map_err(damaged)?;
        let endian = header.endian().map_err(damaged)?;
        let kind = check_kind(header.e_type(endian));
        if kind.is_err() {
            // Half of a file is no file of another kind: relinking would not mend it.
            check_whole(header, endian, bytes)?;
        }
        kind?;
        let mut note = None;
        let mut is_linux = false;
        let start = header.e_entry(endian);
        let mut segments = Vec::new();
        for program in header.program_headers(endian, bytes).map_err(damaged)? {
            match program.p_type(endian) {
                elf::PT_LOAD if program.p_memsz(endian) > 0 => {
                    let segment = load_segment(program, endian, bytes)?;
                    // The kernel's addresses are in the upper half, but its entry is told as a physical address.
                    is_linux |= holds(&segment, start) && program.p_vaddr(endian) >> 63 != 0;
                    segments.push(segment);
                }
                elf::PT_NOTE => note = note.or(pvh_entry(program, endian, bytes).map_err(damaged)?),
                _ => {}
            }
        }
        let (entry, at) = match note {
            Some(at) => (Entry::Pvh(at), at.into()),
            None if is_linux => (Entry::Linux(start), start),
            None => return Err(LoadError::NoPvhNote),
        };
        segments.sort_by_key(|s| s.gpa);
        if let Some(pair) = segments.windows(2).find(|p| p[0].gpa.0.saturating_add(p[0].size) > p[1].gpa.0) {
            return Err(LoadError::Damaged(format!(
                "the segments at {} and {} overlap",
                pair[0].gpa, pair[1].gpa
            )));
        }
        check_entry(&segments, at)?;
        Ok(Self { entry, segments, symbols: symbols(header, endian, bytes) })
    }

    /// Where it is entered, and how.
    #[must_use]
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// The loadable pieces, ascending, not overlapping.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Symbols by ascending address.
    #[must_use]
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }
}

fn holds(segment: &Segment, at: u64) -> bool {
    (segment.gpa.0..segment.gpa.0.saturating_add(segment.size)).contains(&at)
}

/// Whether an entry point is in what is loaded.
pub(super) fn check_entry(segments: &[Segment], at: u64) -> Result<(), LoadError> {
    if segments.iter().any(|segment| holds(segment, at)) {
        return Ok(());
    }
    Err(LoadError::Damaged(format!("the entry point {at:#x} is in no segment")))
}

/// What a program header of the kind `PT_LOAD` loads.
pub(super) fn load_segment<P: ProgramHeader<Endian = LittleEndian>>(
    program: &P,
    endian: LittleEndian,
    bytes: &[u8],
) -> Result<Segment, LoadError> {
    let damaged = |why: &str| LoadError::Damaged(why.into());
    let data =
        program.data(endian, bytes).map_err(|()| damaged("a segment lies beyond the end of the file"))?;
    let size = program.p_memsz(endian).into();
    if data.len() as u64 > size {
        return Err(damaged("a segment has more bytes in the file than in memory"));
    }
    Ok(Segment {
        gpa: Gpa(program.p_paddr(endian).into()),
        bytes: data.to_vec(),
        size,
        executable: program.p_flags(endian) & elf::PF_X != 0,
    })
}

/// Class, byte order and machine, before `object` reads the file as what it may not be.
fn check_machine(bytes: &[u8]) -> Result<(), LoadError> {
    let (Some(&class), Some(&order), Some(machine)) = (bytes.get(4), bytes.get(5), bytes.get(18..20)) else {
        return Err(LoadError::Damaged("the file ends within its header".into()));
    };
    let half = |b: &[u8]| {
        if order == elf::ELFDATA2MSB {
            u16::from_be_bytes([b[0], b[1]])
        } else {
            u16::from_le_bytes([b[0], b[1]])
        }
    };
    let machine = half(machine);
    let bits = if class == elf::ELFCLASS64 { "64-bit" } else { "32-bit" };
    let name = match machine {
        elf::EM_X86_64 => "x86-64",
        elf::EM_386 => "x86 (i386)",
        elf::EM_AARCH64 => "AArch64",
        elf::EM_ARM => "Arm",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "PowerPC",
        _ => "another machine",
    };
    if machine != elf::EM_X86_64 || class != elf::ELFCLASS64 || order != elf::ELFDATA2LSB {
        return Err(LoadError::OtherMachine(format!("{bits} {name} (machine {machine})")));
    }
    Ok(())
}

/// Whether what the headers name lies within the file.
fn check_whole(header: &Header, endian: LittleEndian, bytes: &[u8]) -> Result<(), LoadError> {
    let beyond = |what: &str| LoadError::Damaged(format!("{what} beyond the end of the file"));
    let programs = header.program_headers(endian, bytes).map_err(|e| LoadError::Damaged(e.to_string()))?;
    if programs.iter().any(|program| program.data(endian, bytes).is_err()) {
        return Err(beyond("a segment lies"));
    }
    header.sections(endian, bytes).map(|_| ()).map_err(|_| beyond("its sections' headers lie"))
}

/// The type of file.
fn check_kind(kind: u16) -> Result<(), LoadError> {
    match kind {
        elf::ET_EXEC => Ok(()),
        elf::ET_DYN => Err(LoadError::NotExecutable("shared object or PIE".into())),
        elf::ET_REL => Err(LoadError::NotExecutable("object file".into())),
        elf::ET_CORE => Err(LoadError::NotExecutable("core dump".into())),
        other => Err(LoadError::NotExecutable(other.to_string())),
    }
}

fn pvh_entry(
    program: &elf::ProgramHeader64<LittleEndian>,
    endian: LittleEndian,
    bytes: &[u8],
) -> Result<Option<u32>, object::read::Error> {
    let Some(mut notes) = program.notes(endian, bytes)? else {
        return Ok(None);
    };
    while let Some(note) = notes.next()? {
        if note.name() == b"Xen" && note.n_type(endian) == NOTE_PHYS32_ENTRY {
            let desc = note.desc();
            if let Some(low) = desc.first_chunk::<4>() {
                return Ok(Some(u32::from_le_bytes(*low)));
            }
        }
    }
    Ok(None)
}

/// Symbols help people only: a damaged table gives none.
fn symbols(header: &Header, endian: LittleEndian, bytes: &[u8]) -> Vec<Symbol> {
    let Ok(sections) = header.sections(endian, bytes) else {
        return Vec::new();
    };
    let Ok(table) = sections.symbols(endian, bytes, elf::SHT_SYMTAB) else {
        return Vec::new();
    };
    let mut found: Vec<Symbol> = table
        .iter()
        .filter(|s| matches!(s.st_type(), elf::STT_FUNC | elf::STT_OBJECT | elf::STT_NOTYPE))
        // Absolute symbols are an assembler's constants, not addresses.
        .filter(|s| !matches!(s.st_shndx(endian), elf::SHN_UNDEF | elf::SHN_ABS) && s.st_value(endian) != 0)
        .filter_map(|s| {
            let name = s.name(endian, table.strings()).ok()?;
            (!name.is_empty()).then(|| Symbol {
                address: s.st_value(endian),
                size: s.st_size(endian),
                name: String::from_utf8_lossy(name).into_owned(),
            })
        })
        .collect();
    found.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
    found
}
