//! Many small pages that follow each other, at the cost of one walk for each table.
use super::format::{A, D, Format, NX, P, RW, US};
use super::{Access, Leaf, PageMemory, PagingMode, Privilege, allowed, descend};
use crate::arch::address::PAGE_SIZE;
use crate::arch::{Cr0, Gpa, Gva};

/// A small page that an access finds without setting a bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyPage {
    /// Where it lies.
    pub gpa: Gpa,
    /// Whether a write does so too.
    pub writable: bool,
}

/// What [`super::known`] says of `count` pages from that of `first` on, one call of `meet` a page: for reading, and whether
/// for writing too. Pages that are not small ones of 4-level paging count as not ready.
pub fn ready_pages(
    memory: &impl PageMemory,
    mode: &PagingMode,
    first: Gva,
    count: u64,
    privilege: Privilege,
    mut meet: impl FnMut(Gva, Option<ReadyPage>),
) {
    let format = Format::of(mode);
    let paged = mode.cr0.contains(Cr0::PG) && format == Format::Long;
    let reserved = format.reserved(mode, 1, true);
    let page = |n: u64| Gva(first.page().0.wrapping_add(n.wrapping_mul(PAGE_SIZE)));
    let mut n = 0;
    while n < count {
        let gva = page(n);
        let index = gva.0 / PAGE_SIZE % 512;
        let end = count.min(n + (512 - index));
        // The last level that is met is the table's, if there is one; what is above it has to be accessed, too.
        let (mut table, mut above, mut executable) = (None, RW | US | A, true);
        if paged {
            let _ = descend(memory, mode, format, gva, |level| {
                if level.level == 1 {
                    table = Some(level.entry_at);
                } else {
                    above &= level.entry;
                    executable &= level.entry & NX == 0;
                }
            });
        }
        for (i, n) in (n..end).enumerate() {
            let ready = table.filter(|_| above & A != 0).and_then(|at| {
                let at = at.offset(8 * i as u64);
                let entry = memory.read_u64(at)?;
                if entry & P == 0 || entry & reserved != 0 || entry & A == 0 {
                    return None;
                }
                let rights = entry & above;
                let (writable, user) = (rights & RW != 0, rights & US != 0);
                let executable = executable && entry & NX == 0;
                let leaf = Leaf { level: 1, at, entry, writable, user, executable };
                allowed(mode, &leaf, Access::Read, privilege).then(|| ReadyPage {
                    gpa: Gpa(format.leaf_base(entry, 1)),
                    writable: entry & D != 0 && allowed(mode, &leaf, Access::Write, privilege),
                })
            });
            meet(page(n), ready);
        }
        n = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::paging::known;
    use crate::arch::{CpuState, Cr4, Efer};
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// Eight-byte words from address 0 on.
    struct Words(RefCell<Vec<u64>>);

    impl PageMemory for Words {
        fn read_u32(&self, at: Gpa) -> Option<u32> {
            self.read_u64(Gpa(at.0 & !7)).map(|word| (word >> (8 * (at.0 & 4))) as u32)
        }
        fn read_u64(&self, at: Gpa) -> Option<u64> {
            self.0.borrow().get((at.0 / 8) as usize).copied()
        }
        fn set_bits(&self, _: Gpa, _: u32, _: u32) -> bool {
            unreachable!("nothing is to be set");
        }
    }

    /// An entry that leads to `table`, with rights that are mostly there.
    fn entry(table: u64) -> impl Strategy<Value = u64> {
        let bit = |usual: bool, bit: u32| {
            prop_oneof![7 => Just(usual), 1 => Just(!usual)].prop_map(move |on| u64::from(on) << bit)
        };
        let key = (0_u64..16).prop_map(|key| key << 59);
        let bits = (
            bit(true, 0),
            bit(true, 1),
            bit(true, 2),
            bit(true, 5),
            bit(true, 6),
            bit(false, 7),
            bit(false, 63),
        );
        (bits, key).prop_map(move |((p, w, u, a, d, ps, nx), key)| table | p | w | u | a | d | ps | nx | key)
    }

    proptest! {
        #[test]
        fn a_stretch_is_what_its_pages_are(
            upper in (entry(0x1000), entry(0x2000), entry(0x3000), entry(0x4000)),
            leaves in proptest::collection::vec((0_u64..64).prop_flat_map(|n| entry(n << 12)), 1024),
            reserved in (0_usize..1024, 46_u32..52),
            from in 0_u64..1020,
            count in 0_u64..600,
            bits in any::<[bool; 6]>(),
            keys in any::<(u32, u32)>(),
            user in any::<bool>(),
        ) {
            let [smap, wp, nxe, ac, pke, pks] = bits;
            let mut words = vec![0_u64; 5 * 512];
            (words[0], words[512], words[2 * 512], words[2 * 512 + 1]) = upper;
            words[3 * 512..].copy_from_slice(&leaves);
            words[3 * 512 + reserved.0] |= 1 << reserved.1;
            let memory = Words(RefCell::new(words));
            let mut mode = PagingMode::of(&CpuState::reset());
            (mode.cr3, mode.ac) = (0, ac);
            mode.cr0.insert(Cr0::PG | Cr0::PE);
            mode.cr0.set(Cr0::WP, wp);
            mode.cr4 = Cr4::PAE;
            mode.cr4.set(Cr4::SMAP, smap);
            mode.cr4.set(Cr4::PKE, pke);
            mode.cr4.set(Cr4::PKS, pks);
            (mode.pkru, mode.pkrs) = keys;
            mode.efer = Efer::LMA | Efer::LME;
            mode.efer.set(Efer::NXE, nxe);
            let privilege = if user { Privilege::User } else { Privilege::Supervisor };
            let mut met = Vec::new();
            let first = Gva(from * PAGE_SIZE + 0x123);
            ready_pages(&memory, &mode, first, count, privilege, |gva, page| met.push((gva, page)));
            prop_assert_eq!(met.len() as u64, count);
            for (n, (gva, page)) in (0..).zip(met) {
                prop_assert_eq!(gva, Gva((from + n) * PAGE_SIZE));
                let known = |access| known(&memory, &mode, gva, access, privilege).filter(|t| t.page_size == PAGE_SIZE);
                let wanted = known(Access::Read)
                    .map(|t| ReadyPage { gpa: t.gpa, writable: known(Access::Write).is_some() });
                prop_assert_eq!(page, wanted, "{:?}", gva);
            }
        }
    }
}
