//! What tells a guest that it needs no measures of its own against speculative execution.
//!
//! An engine that makes other code of the guest's does not have the guest's measures in what the CPU runs: the returns that
//! the guest untrains, the fences and the thunks are at other addresses or not there. So they cost and protect nothing.
use super::{CpuidTable, EXT21};

const LEAF7_EDX: u32 = 1 << 26 // IBRS and IBPB
    | 1 << 29; // IA32_ARCH_CAPABILITIES
const EXT8_EBX: u32 = 1 << 29; // BTC_NO: returns are not mistaken for other branches
const EXT21_EAX: u32 = 1 << 29; // SRSO_NO: returns are not predicted by what another level has trained
const EXT21_ECX: u32 = 1 << 1 // TSA_SQ_NO
    | 1 << 2; // TSA_L1_NO

impl CpuidTable {
    /// Offers the bits by which a guest learns that it needs no measures of its own. For engines that make other code of the
    /// guest's. (SDM vol. 4, IA32_ARCH_CAPABILITIES; APM vol. 3, Fn8000_0008 and Fn8000_0021; AMD's papers on SRSO and TSA.)
    pub fn offer_speculation_controls(&mut self) {
        let amd = self.is_amd();
        for entry in &mut self.entries {
            match entry.leaf {
                7 => entry.result.edx |= LEAF7_EDX,
                0x8000_0008 if amd => entry.result.ebx |= EXT8_EBX,
                EXT21 => {
                    entry.result.eax |= EXT21_EAX;
                    entry.result.ecx |= EXT21_ECX;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{CpuidResult, CpuidTable};
    use crate::arch::Cr4;

    /// The table of a host with this vendor's name that has every feature.
    pub(in crate::arch::cpuid) fn host_by(name: &[u8; 12]) -> CpuidTable {
        let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
        CpuidTable::from_host(|leaf, _| match leaf {
            0 => CpuidResult { eax: 0x20, ebx: word(0), edx: word(4), ecx: word(8) },
            _ => CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        })
    }

    #[test]
    fn amds_leaf_is_told_of_on_amds_cpus_and_cut_to_what_we_know() {
        let query = |table: &CpuidTable, leaf| table.query(leaf, 0, Cr4::empty());
        let (mut amd, mut intel) = (host_by(b"AuthenticAMD"), host_by(b"GenuineIntel"));
        assert_eq!(
            (query(&amd, 0x8000_0000).eax, query(&intel, 0x8000_0000).eax),
            (0x8000_0021, 0x8000_0008)
        );
        assert_eq!(query(&amd, 0x8000_0021), CpuidResult { eax: 0x44, ..CpuidResult::default() });
        assert_eq!(query(&amd, 0x8000_0008).ebx, 4);
        amd.offer_speculation_controls();
        intel.offer_speculation_controls();
        assert_eq!(
            query(&amd, 0x8000_0021),
            CpuidResult { eax: 0x2000_0044, ecx: 6, ..CpuidResult::default() }
        );
        assert_eq!(query(&amd, 0x8000_0008).ebx, 0x2000_0004);
        assert_eq!((query(&intel, 0x8000_0021), query(&intel, 0x8000_0008).ebx), (CpuidResult::default(), 4));
        assert_eq!(query(&intel, 7).edx & 0x2400_0000, 0x2400_0000);
        assert!(amd.entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
    }
}
