//! The one page walker: 32-bit, PAE and 4-level paging (SDM chapter 4).
//!
//! [`walk`] checks rights and sets accessed and dirty bits, as the CPU does on a TLB miss; [`look`] shows a
//! translation level by level and changes nothing, for people and debuggers.
mod format;
mod keys;
mod stretch;
#[cfg(test)]
mod tests;

use super::address::PAGE_SIZE;
use super::cpuid::MOST_PHYSICAL_BITS;
use super::exception::{Exception, PageFaultCode};
use super::{CpuState, Cr0, Cr4, Efer, Gpa, Gva, Rflags};
use format::{A, D, Format, G, NX, P, RW, US};
pub use keys::{KeyRights, key};
pub use stretch::{ReadyPage, ready_pages};

/// Guest-physical memory as the walker needs it. `None` where there is no RAM: such entries read as not present.
pub trait PageMemory {
    /// Reads a 4-byte entry.
    fn read_u32(&self, at: Gpa) -> Option<u32>;
    /// Reads an 8-byte entry.
    fn read_u64(&self, at: Gpa) -> Option<u64>;
    /// Atomically sets `bits` in the entry's low 32 bits, if these are `expected` still; `false` if another CPU has changed
    /// them.
    fn set_bits(&self, at: Gpa, expected: u32, bits: u32) -> bool;
}

/// What an access wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// Ring 3.
    User,
    /// Rings 0–2, explicit access.
    Supervisor,
    /// The processor's own access to a descriptor table or TSS: supervisor whatever the ring, never excused by AC.
    Implicit,
}

/// The registers that decide how addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingMode {
    /// CR0 (PG, WP).
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4 (PSE, PAE, SMEP, SMAP, PKE, PKS).
    pub cr4: Cr4,
    /// EFER (LMA, NXE).
    pub efer: Efer,
    /// RFLAGS.AC, which lifts SMAP.
    pub ac: bool,
    /// PKRU.
    pub pkru: u32,
    /// IA32_PKRS.
    pub pkrs: u32,
    /// MAXPHYADDR: entries must not have address bits from this one on.
    pub physical_bits: u8,
}

impl PagingMode {
    /// The mode that `state` is in, with the most address bits that [`super::cpuid`] offers: who knows the guest's table
    /// sets [`Self::physical_bits`] to what that says.
    #[inline]
    #[must_use]
    pub fn of(state: &CpuState) -> Self {
        Self {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            ac: state.rflags.contains(Rflags::AC),
            pkru: state.pkru,
            pkrs: state.msrs.pkrs as u32,
            physical_bits: MOST_PHYSICAL_BITS,
        }
    }
}

impl PagingMode {
    /// The PCID that CR3 names; 0 unless CR4.PCIDE is set (SDM 4.10.1).
    #[must_use]
    pub fn pcid(&self) -> u16 {
        if self.cr4.contains(Cr4::PCIDE) { (self.cr3 & 0xfff) as u16 } else { 0 }
    }
}

/// A successful translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the byte is.
    pub gpa: Gpa,
    /// Bytes covered by the leaf entry: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub page_size: u64,
    /// All levels allow writing, and so does the page's key, where it was asked for somebody's access.
    pub writable: bool,
    /// All levels allow ring 3.
    pub user: bool,
    /// No level forbids execution.
    pub executable: bool,
    /// The leaf is global (and CR4.PGE is set).
    pub global: bool,
    /// The leaf's dirty bit is set.
    pub dirty: bool,
}

/// One level of a translation, for display.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// 4 = PML4 … 1 = page table.
    pub level: u8,
    /// Where the entry lies.
    pub entry_at: Gpa,
    /// Its value; 0 where there is no RAM.
    pub entry: u64,
    /// Whether it maps a page rather than a table.
    pub leaf: bool,
}

/// Where a walk ends, with the rights of all its levels together.
struct Leaf {
    level: u8,
    at: Gpa,
    entry: u64,
    writable: bool,
    user: bool,
    executable: bool,
}

impl Leaf {
    fn translation(&self, format: Format, mode: &PagingMode, gva: Gva) -> Translation {
        let page_size = format.page_size(self.level);
        Translation {
            gpa: Gpa(format.leaf_base(self.entry, self.level) | gva.0 & (page_size - 1)),
            page_size,
            writable: self.writable,
            user: self.user,
            executable: self.executable,
            global: self.entry & G != 0 && mode.cr4.contains(Cr4::PGE),
            dirty: self.entry & D != 0,
        }
    }

    /// As [`Self::translation`], for accesses of `privilege`.
    fn translation_for(
        &self,
        format: Format,
        mode: &PagingMode,
        gva: Gva,
        privilege: Privilege,
    ) -> Translation {
        let mut translation = self.translation(format, mode, gva);
        translation.writable &= mode.key_allows(self.entry, self.user, Access::Write, privilege);
        translation
    }
}

/// The one loop over levels: `meet` gets every entry from the root on, the last one included. Reads only.
///
/// `Err` is what the page fault's error code says about the entry that ended it: not present, or a reserved bit.
#[inline(always)]
fn descend(
    memory: &impl PageMemory,
    mode: &PagingMode,
    format: Format,
    gva: Gva,
    meet: impl FnMut(Level),
) -> Result<Leaf, PageFaultCode> {
    // The format as a constant where it matters.
    match format {
        Format::Long => descend_as(memory, mode, Format::Long, gva, meet),
        _ => descend_as(memory, mode, format, gva, meet),
    }
}

/// As [`descend`].
#[inline(always)]
fn descend_as(
    memory: &impl PageMemory,
    mode: &PagingMode,
    format: Format,
    gva: Gva,
    mut meet: impl FnMut(Level),
) -> Result<Leaf, PageFaultCode> {
    let mut table = format.root(mode.cr3);
    let (mut writable, mut user, mut executable) = (true, true, true);
    let mut level = format.top();
    loop {
        let at = format.entry_at(table, gva.0, level);
        let entry = format.read(memory, at);
        let present = entry & P != 0;
        let leaf = present && format.is_leaf(mode, level, entry);
        meet(Level { level, entry_at: at, entry, leaf });
        if !present {
            return Err(PageFaultCode::empty());
        }
        if entry & format.reserved(mode, level, leaf) != 0 {
            return Err(PageFaultCode::PRESENT | PageFaultCode::RESERVED);
        }
        if format.has_rights(level) {
            writable &= entry & RW != 0;
            user &= entry & US != 0;
        }
        executable &= format == Format::Legacy || entry & NX == 0;
        if leaf {
            return Ok(Leaf { level, at, entry, writable, user, executable });
        }
        table = format.next_table(entry);
        level -= 1;
    }
}

/// Translates `gva`, checks rights, and sets accessed (and, for a write, dirty) bits.
///
/// With paging off the address is its own translation. Errors are the #PF to be raised.
///
/// # Errors
/// The page fault that the access causes. A non-canonical address is the caller's to check (it is #GP or #SS).
pub fn walk(
    memory: &impl PageMemory,
    mode: &PagingMode,
    gva: Gva,
    access: Access,
    privilege: Privilege,
) -> Result<Translation, Exception> {
    if !mode.cr0.contains(Cr0::PG) {
        return Ok(Translation {
            gpa: Gpa(gva.0),
            page_size: PAGE_SIZE,
            writable: true,
            user: true,
            executable: true,
            global: false,
            dirty: true,
        });
    }
    // Another CPU may change an entry between the look at it and the setting of its bits: it must not be given an accessed
    // bit if it is not present any more. A guest that does nothing else all the time is left without.
    const MOST_WALKS: usize = 64;
    let mut result = walk_once(memory, mode, gva, access, privilege);
    for _ in 1..MOST_WALKS {
        match result {
            Ok((_, false)) => result = walk_once(memory, mode, gva, access, privilege),
            _ => break,
        }
    }
    result.map(|(translation, _)| translation)
}

/// As [`walk`], with paging on; also whether all bits could be set.
fn walk_once(
    memory: &impl PageMemory,
    mode: &PagingMode,
    gva: Gva,
    access: Access,
    privilege: Privilege,
) -> Result<(Translation, bool), Exception> {
    let format = Format::of(mode);
    let fault = |extra| {
        let mut code: PageFaultCode = extra;
        code.set(PageFaultCode::WRITE, access == Access::Write);
        code.set(PageFaultCode::USER, privilege == Privilege::User);
        let nx_or_smep =
            mode.cr4.contains(Cr4::SMEP) || mode.efer.contains(Efer::NXE) && format != Format::Legacy;
        code.set(PageFaultCode::FETCH, access == Access::Execute && nx_or_smep);
        Exception::page_fault(gva, code)
    };
    let mut path = [(Gpa(0), 0_u64); 4];
    let mut common = u64::MAX;
    let met = |l: Level| {
        path[usize::from(l.level) - 1] = (l.entry_at, l.entry);
        common &= l.entry;
    };
    let leaf = descend(memory, mode, format, gva, met).map_err(fault)?;
    if !mode.key_allows(leaf.entry, leaf.user, access, privilege) {
        return Err(fault(PageFaultCode::PRESENT | PageFaultCode::KEY));
    }
    if !allowed_by_levels(mode, &leaf, access, privilege) {
        return Err(fault(PageFaultCode::PRESENT));
    }

    // Mostly all were used before.
    let mut all_set = true;
    let above = if common & A == 0 { leaf.level + 1 } else { format.top() + 1 };
    for level in above..=format.top() {
        let (at, entry) = path[usize::from(level) - 1];
        // What has no rights has no accessed bit either.
        if entry & A == 0 && format.has_rights(level) {
            all_set &= memory.set_bits(at, entry as u32, A as u32);
        }
    }
    let wanted = if access == Access::Write { A | D } else { A };
    if leaf.entry & wanted != wanted {
        all_set &= memory.set_bits(leaf.at, leaf.entry as u32, wanted as u32);
    }
    let leaf = Leaf { entry: leaf.entry | wanted, ..leaf };
    Ok((leaf.translation_for(format, mode, gva, privilege), all_set))
}

/// What [`walk`] would find, if it finds something and need not set a bit for it. `None` too with paging off.
#[must_use]
pub fn known(
    memory: &impl PageMemory,
    mode: &PagingMode,
    gva: Gva,
    access: Access,
    privilege: Privilege,
) -> Option<Translation> {
    if !mode.cr0.contains(Cr0::PG) {
        return None;
    }
    let format = Format::of(mode);
    let mut accessed = true;
    let met = |l: Level| accessed &= l.entry & A != 0 || !format.has_rights(l.level);
    let leaf = descend(memory, mode, format, gva, met).ok()?;
    let dirty = access != Access::Write || leaf.entry & D != 0;
    (accessed && dirty && allowed(mode, &leaf, access, privilege))
        .then(|| leaf.translation_for(format, mode, gva, privilege))
}

/// Whether an access is allowed (SDM 4.6).
fn allowed(mode: &PagingMode, leaf: &Leaf, access: Access, privilege: Privilege) -> bool {
    mode.key_allows(leaf.entry, leaf.user, access, privilege)
        && allowed_by_levels(mode, leaf, access, privilege)
}

/// Whether the rights of all levels allow the access (SDM 4.6.1).
fn allowed_by_levels(mode: &PagingMode, leaf: &Leaf, access: Access, privilege: Privilege) -> bool {
    let &Leaf { writable, user, executable, .. } = leaf;
    let smap = mode.cr4.contains(Cr4::SMAP) && !(mode.ac && privilege == Privilege::Supervisor);
    match (privilege, access) {
        (Privilege::User, _) if !user => false,
        (Privilege::User, Access::Read) => true,
        (Privilege::User, Access::Write) => writable,
        (_, Access::Execute) if privilege != Privilege::User => {
            executable && !(user && mode.cr4.contains(Cr4::SMEP))
        }
        (_, Access::Execute) => executable,
        (_, Access::Read) => !(user && smap),
        (_, Access::Write) => !(user && smap) && (writable || !mode.cr0.contains(Cr0::WP)),
    }
}

/// Whether the CPU may load CR3, CR0 or CR4 so that this mode results: with PAE paging it then loads the four
/// page-directory-pointer entries, and raises #GP for a present one with a reserved bit (SDM 4.4.1).
#[must_use]
pub fn root_is_valid(memory: &impl PageMemory, mode: &PagingMode) -> bool {
    let format = Format::of(mode);
    if !mode.cr0.contains(Cr0::PG) || format != Format::Pae {
        return true;
    }
    let root = format.root(mode.cr3);
    (0..4).all(|i| {
        let entry = format.read(memory, Gpa(root + 8 * i));
        entry & P == 0 || entry & format.reserved(mode, format.top(), false) == 0
    })
}

/// The entries that a translation of `gva` meets, from the root to the leaf, or to the first entry that is not present
/// or has a reserved bit set.
#[must_use]
pub fn look(memory: &impl PageMemory, mode: &PagingMode, gva: Gva) -> Vec<Level> {
    let mut levels = Vec::new();
    if mode.cr0.contains(Cr0::PG) {
        // How it ends shows in the last level.
        let _ = descend(memory, mode, Format::of(mode), gva, |level| levels.push(level));
    }
    levels
}

/// Translates `gva` without checks or changes, and says whether the accessed bit of the leaf is set. `None` where a walk
/// would find no present leaf, or a reserved bit. For engines that keep host mappings in step with the tables.
#[must_use]
pub fn probe(memory: &impl PageMemory, mode: &PagingMode, gva: Gva) -> Option<(Translation, bool)> {
    if !mode.cr0.contains(Cr0::PG) {
        return None;
    }
    let format = Format::of(mode);
    let leaf = descend(memory, mode, format, gva, |_| {}).ok()?;
    Some((leaf.translation(format, mode, gva), leaf.entry & A != 0))
}

/// Translates `gva` for a person or a debugger: no rights are checked, nothing is changed.
#[must_use]
pub fn peek(memory: &impl PageMemory, mode: &PagingMode, gva: Gva) -> Option<Gpa> {
    if !mode.cr0.contains(Cr0::PG) {
        return Some(Gpa(gva.0));
    }
    probe(memory, mode, gva).map(|(translation, _)| translation.gpa)
}
