use super::format::PS;
use super::*;
use crate::arch::Vector;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

#[derive(Default)]
struct Memory(RefCell<HashMap<u64, u64>>);

impl Memory {
    fn put(&self, at: u64, value: u64) {
        self.0.borrow_mut().insert(at, value);
    }
    fn get(&self, at: u64) -> u64 {
        self.0.borrow().get(&at).copied().unwrap_or(0)
    }
}

impl PageMemory for Memory {
    fn read_u32(&self, at: Gpa) -> Option<u32> {
        Some(self.get(at.0) as u32)
    }
    fn read_u64(&self, at: Gpa) -> Option<u64> {
        Some(self.get(at.0))
    }
    fn set_bits(&self, at: Gpa, expected: u32, bits: u32) -> bool {
        let mut memory = self.0.borrow_mut();
        let entry = memory.entry(at.0).or_default();
        let same = *entry as u32 == expected;
        *entry |= if same { bits.into() } else { 0 };
        same
    }
}

const GVA: Gva = Gva(0x0000_1234_5678_9abc);

/// One 4 KiB page at [`GVA`] behind four levels; `rights` go into the leaf.
fn long(rights: u64) -> (Memory, PagingMode) {
    let memory = Memory::default();
    let upper = P | RW | US;
    memory.put(0x1000 + (GVA.0 >> 39 & 511) * 8, 0x2000 | upper);
    memory.put(0x2000 + (GVA.0 >> 30 & 511) * 8, 0x3000 | upper);
    memory.put(0x3000 + (GVA.0 >> 21 & 511) * 8, 0x4000 | upper);
    memory.put(0x4000 + (GVA.0 >> 12 & 511) * 8, 0x77_7000 | rights);
    let mode = PagingMode {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP,
        cr3: 0x1000,
        cr4: Cr4::PAE,
        efer: Efer::LMA | Efer::NXE,
        ac: false,
        pkru: 0,
        pkrs: 0,
        physical_bits: 46,
    };
    (memory, mode)
}

fn code(result: Result<Translation, Exception>) -> u32 {
    let exception = result.unwrap_err();
    assert_eq!((exception.vector, exception.cr2), (Vector::PageFault, Some(GVA)));
    exception.error_code.unwrap()
}

#[test]
fn four_levels_translate_and_set_accessed_and_dirty() {
    let (memory, mode) = long(P | RW);
    let got = walk(&memory, &mode, GVA, Access::Read, Privilege::Supervisor).unwrap();
    assert_eq!((got.gpa, got.page_size, got.dirty), (Gpa(0x77_7abc), 4096, false));
    assert_eq!(memory.get(0x4000 + (GVA.0 >> 12 & 511) * 8) & (A | D), A);
    assert_eq!(memory.get(0x1000 + (GVA.0 >> 39 & 511) * 8) & A, A);
    let got = walk(&memory, &mode, GVA, Access::Write, Privilege::Supervisor).unwrap();
    assert!(got.dirty);
    assert_eq!(memory.get(0x4000 + (GVA.0 >> 12 & 511) * 8) & (A | D), A | D);
}

#[test]
fn a_faulting_access_sets_no_bits() {
    let (memory, mode) = long(P);
    assert_eq!(code(walk(&memory, &mode, GVA, Access::Write, Privilege::Supervisor)), 0b011);
    assert_eq!(memory.get(0x1000 + (GVA.0 >> 39 & 511) * 8) & A, 0);
}

#[test]
fn rights_give_the_manuals_error_codes() {
    use Access::{Execute, Read, Write};
    use Privilege::{Implicit, Supervisor, User};
    let (memory, mode) = long(P | RW | NX);
    assert_eq!(code(walk(&memory, &mode, GVA, Read, User)), 0b00101);
    assert_eq!(code(walk(&memory, &mode, GVA, Write, User)), 0b00111);
    assert_eq!(code(walk(&memory, &mode, GVA, Execute, Supervisor)), 0b10001);
    let (memory, mode) = long(P | US);
    assert_eq!(code(walk(&memory, &mode, GVA, Write, User)), 0b00111);
    let no_wp = PagingMode { cr0: mode.cr0 - Cr0::WP, ..mode };
    assert!(walk(&memory, &no_wp, GVA, Write, Supervisor).is_ok());
    assert_eq!(code(walk(&memory, &no_wp, GVA, Write, User)), 0b00111);
    let smap = PagingMode { cr4: mode.cr4 | Cr4::SMAP | Cr4::SMEP, ..mode };
    assert_eq!(code(walk(&memory, &smap, GVA, Read, Supervisor)), 0b00001);
    assert_eq!(code(walk(&memory, &smap, GVA, Execute, Supervisor)), 0b10001);
    let ac = PagingMode { ac: true, ..smap };
    assert!(walk(&memory, &ac, GVA, Read, Supervisor).is_ok());
    assert_eq!(code(walk(&memory, &ac, GVA, Read, Implicit)), 0b00001);
    let (memory, mode) = long(0);
    assert_eq!(code(walk(&memory, &mode, GVA, Read, User)), 0b00100);
}

#[test]
fn reserved_bits_fault() {
    let (memory, mode) = long(P | NX);
    let no_nx = PagingMode { efer: Efer::LMA, ..mode };
    assert_eq!(code(walk(&memory, &no_nx, GVA, Access::Read, Privilege::Supervisor)), 0b01001);
}

/// What a read by ring 0 gives with `mode`, and that looking and probing say the same.
fn read(memory: &Memory, mode: &PagingMode, gva: Gva) -> Result<Gpa, u32> {
    let probed = probe(memory, mode, gva).map(|(t, _)| t.gpa);
    assert_eq!(peek(memory, mode, gva), probed);
    let walked = walk(memory, mode, gva, Access::Read, Privilege::Supervisor);
    assert_eq!(walked.ok().map(|t| t.gpa), probed);
    assert!(look(memory, mode, gva).last().is_some_and(|l| l.leaf) || probed.is_none());
    walked.map(|t| t.gpa).map_err(|e| e.error_code.unwrap())
}

#[test]
fn address_bits_that_the_cpu_does_not_have_are_reserved() {
    for table in [
        0x1000 + (GVA.0 >> 39 & 511) * 8,
        0x2000 + (GVA.0 >> 30 & 511) * 8,
        0x3000 + (GVA.0 >> 21 & 511) * 8,
        0x4000 + (GVA.0 >> 12 & 511) * 8,
    ] {
        for (bits, bit, fine) in
            [(46, 46, false), (46, 51, false), (40, 40, false), (52, 51, true), (40, 39, true)]
        {
            let (memory, mode) = long(P | RW);
            let mode = PagingMode { physical_bits: bits, ..mode };
            memory.put(table, memory.get(table) | 1 << bit);
            let walked = walk(&memory, &mode, GVA, Access::Write, Privilege::User);
            if !fine {
                assert_eq!(code(walked), 0b01111, "{table:#x} {bits} {bit}");
                assert_eq!(look(&memory, &mode, GVA).last().unwrap().entry_at, Gpa(table));
                assert_eq!(probe(&memory, &mode, GVA), None);
            } else if table < 0x4000 {
                assert_eq!(code(walked), 0b00110, "its table is elsewhere, where nothing is present");
            } else {
                assert_eq!(read(&memory, &mode, GVA), Ok(Gpa(0x77_7abc | 1 << bit)));
            }
        }
    }
}

#[test]
fn large_pages_of_32_bit_paging_have_40_address_bits_at_most() {
    let at = 0x1000 + (0x8040_0000_u64 >> 22) * 4;
    for (bits, bit, expected) in [
        (46, 20, Ok(Gpa(0x80_00c0_1234))),
        (46, 21, Err(0b01001)),
        (36, 16, Ok(Gpa(0x8_00c0_1234))),
        (36, 17, Err(0b01001)),
        (32, 13, Err(0b01001)),
    ] {
        let memory = Memory::default();
        let mode = PagingMode { cr4: Cr4::PSE, efer: Efer::empty(), physical_bits: bits, ..long(0).1 };
        memory.put(at, 0x00c0_0000 | P | RW | PS | 1 << bit);
        assert_eq!(read(&memory, &mode, Gva(0x8040_1234)), expected, "{bits} {bit}");
    }
}

#[test]
fn the_root_of_pae_paging_is_checked_when_it_is_loaded() {
    let (memory, mode) = (Memory::default(), PagingMode { efer: Efer::NXE, ..long(0).1 });
    memory.put(0x1000, 0x2000 | P);
    assert!(root_is_valid(&memory, &mode));
    for bad in [RW, US, 1 << 5, 1 << 8, 1 << 46, NX] {
        memory.put(0x1018, 0x3000 | bad);
        assert!(root_is_valid(&memory, &mode), "not present: {bad:#x}");
        memory.put(0x1018, 0x3000 | P | bad);
        assert!(!root_is_valid(&memory, &mode), "{bad:#x}");
        let long = PagingMode { efer: Efer::LMA | Efer::NXE, ..mode };
        assert!(root_is_valid(&memory, &long), "only PAE paging loads its root");
    }
}

proptest! {
    /// Whatever the entries hold, all four ways through the tables end at the same place, and only the walk changes
    /// them: accessed bits, where it succeeds.
    #[test]
    fn all_ways_through_the_tables_agree(
        flips in prop::collection::vec((0..4_u64, 0..64_u32), 0..3),
        kind in 0..3,
        bits in 36..=52_u8,
    ) {
        let (memory, mode) = long(P | RW);
        let mode = match kind {
            0 => PagingMode { efer: Efer::LMA, physical_bits: bits, ..mode },
            _ => PagingMode { physical_bits: bits, ..mode },
        };
        for (table, bit) in flips {
            let at = 0x1000 * (table + 1) + (GVA.0 >> (39 - 9 * table) & 511) * 8;
            memory.put(at, memory.get(at) ^ 1 << bit);
        }
        let before = memory.0.borrow().clone();
        let result = read(&memory, &mode, GVA);
        for (at, entry) in memory.0.borrow().iter() {
            let old = before.get(at).copied().unwrap_or(0);
            let new = if result.is_ok() { *entry & !A } else { *entry };
            prop_assert_eq!(new | old & A, old);
        }
    }
}

#[test]
fn large_pages_of_each_format() {
    let (memory, mode) = long(P);
    memory.put(0x3000 + (GVA.0 >> 21 & 511) * 8, 0x4000_0000 | P | RW | PS | G);
    let mode = PagingMode { cr4: mode.cr4 | Cr4::PGE, ..mode };
    let got = walk(&memory, &mode, GVA, Access::Read, Privilege::Supervisor).unwrap();
    assert_eq!((got.gpa, got.page_size, got.global), (Gpa(0x4000_0000 | GVA.0 & 0x1f_ffff), 2 << 20, true));

    let memory = Memory::default();
    let legacy =
        PagingMode { cr0: Cr0::PE | Cr0::PG, cr3: 0x1000, cr4: Cr4::PSE, efer: Efer::empty(), ..long(0).1 };
    memory.put(0x1000 + (0x8040_0000_u64 >> 22) * 4, 0x00c0_0000 | P | RW | PS);
    let got = walk(&memory, &legacy, Gva(0x8040_1234), Access::Write, Privilege::Supervisor).unwrap();
    assert_eq!((got.gpa, got.page_size), (Gpa(0x00c0_1234), 4 << 20));

    let memory = Memory::default();
    let pae = PagingMode { cr4: Cr4::PAE, ..legacy };
    memory.put(0x1010, 0x2000 | P);
    memory.put(0x2000 + 2 * 8, 0x60_0000 | P | RW | US | PS);
    let got = walk(&memory, &pae, Gva(0x8040_1234), Access::Write, Privilege::User).unwrap();
    assert_eq!((got.gpa, got.page_size), (Gpa(0x60_1234), 2 << 20));
}

#[test]
fn known_says_what_the_walk_says_once_the_walk_has_nothing_to_set() {
    let accesses = [Access::Read, Access::Write, Access::Execute];
    let privileges = [Privilege::User, Privilege::Supervisor, Privilege::Implicit];
    for rights in [0, P, P | RW, P | RW | US, P | US | NX, P | RW | US | D, P | RW | G | A] {
        for (access, privilege) in accesses.into_iter().flat_map(|a| privileges.map(|p| (a, p))) {
            for extra in [Cr4::empty(), Cr4::SMAP | Cr4::SMEP, Cr4::PGE] {
                let (memory, mut mode) = long(rights);
                mode.cr4 |= extra;
                assert_eq!(
                    known(&memory, &mode, GVA, access, privilege),
                    None,
                    "the tables were not accessed"
                );
                let walked = walk(&memory, &mode, GVA, access, privilege).ok();
                assert_eq!(known(&memory, &mode, GVA, access, privilege), walked);
            }
        }
    }
    let (memory, mode) = long(P | RW);
    let _ = walk(&memory, &mode, GVA, Access::Read, Privilege::Supervisor);
    assert_eq!(known(&memory, &mode, GVA, Access::Write, Privilege::Supervisor), None, "it is not dirty");
    let upper = 0x2000 + (GVA.0 >> 30 & 511) * 8;
    memory.put(upper, memory.get(upper) & !A);
    assert_eq!(
        known(&memory, &mode, GVA, Access::Read, Privilege::Supervisor),
        None,
        "a table is not accessed"
    );
}

#[test]
fn look_stops_where_the_walk_stops_and_peek_agrees() {
    let (memory, mode) = long(P | RW);
    let levels = look(&memory, &mode, GVA);
    assert_eq!(levels.iter().map(|l| l.level).collect::<Vec<_>>(), [4, 3, 2, 1]);
    assert!(levels[3].leaf);
    assert_eq!(peek(&memory, &mode, GVA), Some(Gpa(0x77_7abc)));
    assert_eq!(peek(&memory, &mode, Gva(0)), None);
    assert_eq!(look(&memory, &mode, Gva(0)).len(), 1);
}
