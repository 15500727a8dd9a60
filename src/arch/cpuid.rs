//! What CPUID tells a guest, the same in every mode but for what [`CpuidTable::offer_speculation_controls`] says (SDM vol.
//! 2A, CPUID).
//!
//! The table starts from the host's answers and keeps only what every engine implements or passes through to the
//! host's CPU: up to AVX2, BMI, FMA. Names of features are offered, never invented: a bit that the host lacks is off.
mod promise;
mod speculation;

pub use promise::{Broken, Optional};

use super::{Cr4, Xcr0, XsaveArea};
use crate::abi;
use serde::{Deserialize, Serialize};

/// EAX, EBX, ECX, EDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// Leaf (EAX in).
    pub leaf: u32,
    /// Subleaf (ECX in), for the leaves that have them.
    pub subleaf: Option<u32>,
    /// The answer.
    pub result: CpuidResult,
}

/// The answers to all leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CpuidTable {
    entries: Vec<CpuidEntry>,
}

/// The most physical address bits (MAXPHYADDR) that a guest is offered: what KVM's usual hosts have. Never more than the
/// host's own.
pub const MOST_PHYSICAL_BITS: u8 = 46;

/// The highest basic leaf that has an answer.
const HIGHEST: u32 = 0x15;

const LEAF1_ECX: u32 = 1 << 0 // SSE3
    | 1 << 1 // PCLMULQDQ
    | 1 << 9 // SSSE3
    | 1 << 12 // FMA
    | 1 << 13 // CMPXCHG16B
    | 1 << 19 // SSE4.1
    | 1 << 20 // SSE4.2
    | 1 << 22 // MOVBE
    | 1 << 23 // POPCNT
    | 1 << 25 // AES
    | 1 << 26 // XSAVE
    | 1 << 28 // AVX
    | 1 << 29 // F16C
    | 1 << 30; // RDRAND
/// In ECX of leaf 1: x2APIC mode.
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_APIC_MSRS: u32 = LEAF1_ECX_X2APIC | 1 << 24; // TSC deadline
const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// In EDX of leaf 1: there is a local APIC, and IA32_APIC_BASE enables it.
pub const LEAF1_EDX_APIC: u32 = 1 << 9;
const LEAF1_EDX: u32 = 1 << 0 // FPU
    | 1 << 2 // DE
    | 1 << 3 // PSE
    | 1 << 4 // TSC
    | 1 << 5 // MSR
    | 1 << 6 // PAE
    | 1 << 7 // MCE
    | 1 << 8 // CMPXCHG8B
    | LEAF1_EDX_APIC
    | 1 << 11 // SEP
    | 1 << 13 // PGE
    | 1 << 14 // MCA, without banks
    | 1 << 15 // CMOV
    | 1 << 16 // PAT
    | 1 << 17 // PSE-36
    | 1 << 19 // CLFLUSH
    | 1 << 23 // MMX
    | 1 << 24 // FXSR
    | 1 << 25 // SSE
    | 1 << 26; // SSE2
const LEAF7_EBX: u32 = 1 << 0 // FSGSBASE
    | 1 << 3 // BMI1
    | 1 << 5 // AVX2
    | 1 << 7 // SMEP
    | 1 << 8 // BMI2
    | 1 << 9 // ERMS
    | 1 << 18 // RDSEED
    | 1 << 19 // ADX
    | 1 << 20 // SMAP
    | 1 << 23 // CLFLUSHOPT
    | 1 << 24 // CLWB
    | 1 << 29; // SHA
const LEAF7_ECX: u32 = 1 << 2; // UMIP
/// In ECX of leaf 7: protection keys for user pages.
const LEAF7_ECX_PKU: u32 = 1 << 3;
/// In ECX of leaf 7: CR4.PKE is set.
const LEAF7_ECX_OSPKE: u32 = 1 << 4;
/// In ECX of leaf 7: protection keys for supervisor pages.
const LEAF7_ECX_PKS: u32 = 1 << 31;
const LEAF7_EDX: u32 = 1 << 14; // SERIALIZE
const EXT1_ECX: u32 = 1 << 0 // LAHF in 64-bit mode
    | 1 << 5 // LZCNT
    | 1 << 8; // PREFETCHW
const EXT1_EDX: u32 = 1 << 11 // SYSCALL
    | 1 << 20 // NX
    | 1 << 26 // 1 GiB pages
    | 1 << 27 // RDTSCP
    | 1 << 29; // long mode
const EXT8_EBX: u32 = 1 << 2; // FXSAVE and XSAVE always keep the x87's error pointers
/// AMD's second leaf of features.
const EXT21: u32 = 0x8000_0021;
const EXT21_EAX: u32 = 1 << 2 // LFENCE waits for what is before it
    | 1 << 6; // a null selector clears the base
/// Bytes of XSAVE's image: x87, SSE and AVX.
const SAVE_AREA: u32 = XsaveArea::SIZE as u32;
/// The same with PKRU.
const SAVE_AREA_WITH_PKRU: u32 = XsaveArea::SIZE_WITH_PKRU as u32;
/// The number of PKRU as a component of XSAVE's image.
const PKRU_COMPONENT: u32 = Xcr0::PKRU.bits().trailing_zeros();
/// Features that the engines provide themselves, whatever the host's own CPUID says.
const LEAF1_EDX_OURS: u32 = LEAF1_EDX_APIC;
const LEAF7_EBX_OURS: u32 = 1 << 7 | 1 << 20;

impl CpuidTable {
    /// The guest's table, from the host's CPUID (`host(leaf, subleaf)`).
    #[must_use]
    pub fn from_host(host: impl Fn(u32, u32) -> CpuidResult) -> Self {
        let mut entries = Vec::new();
        let mut put = |leaf, subleaf, result| entries.push(CpuidEntry { leaf, subleaf, result });
        let zero = host(0, 0);
        put(0, None, CpuidResult { eax: HIGHEST.min(zero.eax), ..zero });
        let one = host(1, 0);
        put(
            1,
            None,
            CpuidResult {
                eax: one.eax,
                // CLFLUSH line size stays; which CPU it is, and of how many, is said by `of_cpu`.
                ebx: one.ebx & 0x0000_ff00 | 1 << 16,
                ecx: one.ecx & LEAF1_ECX | LEAF1_ECX_HYPERVISOR,
                edx: (one.edx | LEAF1_EDX_OURS) & LEAF1_EDX,
            },
        );
        put(2, None, host(2, 0));
        for subleaf in 0..4 {
            let cache = host(4, subleaf);
            // Bits 31:14 describe the host's topology; ours is for `of_cpu` to say.
            put(4, Some(subleaf), CpuidResult { eax: cache.eax & 0x3fff, ..cache });
        }
        let seven = host(7, 0);
        put(
            7,
            Some(0),
            CpuidResult {
                eax: 0,
                ebx: (seven.ebx | LEAF7_EBX_OURS) & LEAF7_EBX,
                ecx: (seven.ecx | LEAF7_ECX) & LEAF7_ECX,
                edx: seven.edx & LEAF7_EDX,
            },
        );
        // XSAVE: x87, SSE and AVX in the standard format; no compaction, no supervisor states.
        put(0xd, Some(0), CpuidResult { eax: 7, ebx: SAVE_AREA, ecx: SAVE_AREA, edx: 0 });
        put(0xd, Some(1), CpuidResult { eax: host(0xd, 1).eax & 1, ..CpuidResult::default() });
        put(0xd, Some(2), CpuidResult { eax: 256, ebx: 576, ecx: 0, edx: 0 });
        let signature = |i: usize| {
            let s = &abi::CPUID_SIGNATURE;
            u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]])
        };
        put(
            abi::CPUID_HYPERVISOR,
            None,
            CpuidResult {
                eax: abi::CPUID_HYPERVISOR,
                ebx: signature(0),
                ecx: signature(4),
                edx: signature(8),
            },
        );
        let amd = is_amd(&zero);
        put(0x8000_0000, None, CpuidResult { eax: if amd { EXT21 } else { 0x8000_0008 }, ..zero });
        let extended = host(0x8000_0001, 0);
        put(
            0x8000_0001,
            None,
            CpuidResult {
                eax: extended.eax,
                ebx: 0,
                ecx: extended.ecx & EXT1_ECX,
                edx: extended.edx & EXT1_EDX,
            },
        );
        for leaf in 0x8000_0002..=0x8000_0004 {
            put(leaf, None, host(leaf, 0));
        }
        put(0x8000_0006, None, host(0x8000_0006, 0));
        // Invariant TSC passes through.
        put(
            0x8000_0007,
            None,
            CpuidResult { edx: host(0x8000_0007, 0).edx & 1 << 8, ..CpuidResult::default() },
        );
        let sizes = host(0x8000_0008, 0);
        put(
            0x8000_0008,
            None,
            CpuidResult {
                eax: (sizes.eax & 0xff).min(MOST_PHYSICAL_BITS.into()) | 48 << 8,
                ebx: sizes.ebx & EXT8_EBX,
                ..CpuidResult::default()
            },
        );
        if amd {
            put(EXT21, None, CpuidResult { eax: host(EXT21, 0).eax & EXT21_EAX, ..CpuidResult::default() });
        }
        Self { entries }
    }

    /// The table of the CPU with this APIC ID in a machine of `cpus` CPUs: one package of cores with a thread each, their
    /// APIC IDs from 0 on (SDM vol. 3A, 9.9; AMD APM vol. 3, appendix E).
    #[must_use]
    pub fn of_cpu(&self, id: u8, cpus: u8) -> Self {
        let mut table = self.clone();
        let cpus = cpus.max(1);
        let (more, count) = (u32::from(cpus) - 1, u32::from(cpus));
        // Bits of an APIC ID within the package.
        let bits = u32::from(cpus).next_power_of_two().ilog2();
        let amd = self.is_amd();
        for entry in &mut table.entries {
            let result = &mut entry.result;
            match entry.leaf {
                1 => {
                    result.ebx = result.ebx & 0xff00 | 1 << bits << 16 | u32::from(id) << 24;
                    // HTT: the package has more than one.
                    result.edx |= u32::from(cpus > 1) << 28;
                }
                // The cores of the package; what shares a cache is one of them, but for the last level's.
                4 if result.eax & 0x1f != 0 => {
                    let shared = if result.eax >> 5 & 7 >= 3 { (1 << bits) - 1 } else { 0 };
                    result.eax |= ((1 << bits) - 1) << 26 | shared << 14;
                }
                // CmpLegacy: HTT speaks of cores.
                0x8000_0001 if amd => result.ecx |= u32::from(cpus > 1) << 1,
                0x8000_0008 if cpus > 1 => result.ecx = more | bits << 12,
                _ => {}
            }
        }
        table.entries.retain(|e| e.leaf != 0xb);
        let at = table.entries.partition_point(|e| e.leaf < 0xb);
        // Levels: threads of a core, cores of a package.
        let level = |subleaf, kind: u32, bits, count| CpuidEntry {
            leaf: 0xb,
            subleaf: Some(subleaf),
            result: CpuidResult { eax: bits, ebx: count, ecx: kind << 8 | subleaf, edx: id.into() },
        };
        table.entries.splice(at..at, [level(0, 1, 0, 1), level(1, 2, bits, count)]);
        table
    }

    /// Tells the frequencies of the TSC and of the crystal that drives the local APIC's timer (leaf 15H), in Hz: a guest
    /// that believes them measures neither. Their ratio is told as the nearest fraction that guests can multiply the
    /// crystal's kHz with in 32 bits, as Linux does: at worst 250 millionths beside it, near a simple ratio.
    pub fn tell_frequencies(&mut self, tsc_hz: u64, crystal_hz: u32) {
        let most = u64::from(u32::MAX) / u64::from(crystal_hz / 1000).max(1);
        let (numerator, denominator) = nearest_fraction(tsc_hz, crystal_hz.into(), most);
        // A TSC that is too fast, or none.
        let (Ok(ebx @ 1..), Ok(eax)) = (u32::try_from(numerator), u32::try_from(denominator)) else { return };
        let result = CpuidResult { eax, ebx, ecx: crystal_hz, edx: 0 };
        let at = self.entries.partition_point(|e| e.leaf < 0x15);
        self.entries.insert(at, CpuidEntry { leaf: 0x15, subleaf: None, result });
    }

    /// Offers PCIDs and INVPCID, for engines that have them of their own.
    pub fn offer_process_contexts(&mut self) {
        for entry in &mut self.entries {
            match entry.leaf {
                1 => entry.result.ecx |= 1 << 17,
                7 => entry.result.ebx |= 1 << 10,
                _ => {}
            }
        }
    }

    /// Offers protection keys, for user and for supervisor pages, for engines that have them of their own. PKRU follows the
    /// other components of XSAVE's image, as on AMD's CPUs without AVX-512.
    pub fn offer_protection_keys(&mut self) {
        self.withdraw_protection_keys();
        for entry in &mut self.entries {
            match (entry.leaf, entry.subleaf) {
                (7, Some(0)) => entry.result.ecx |= LEAF7_ECX_PKU | LEAF7_ECX_PKS,
                (0xd, Some(0)) => {
                    entry.result.eax |= Xcr0::PKRU.bits() as u32;
                    (entry.result.ebx, entry.result.ecx) = (SAVE_AREA_WITH_PKRU, SAVE_AREA_WITH_PKRU);
                }
                _ => {}
            }
        }
        let at = self.entries.partition_point(|e| (e.leaf, e.subleaf) < (0xd, Some(PKRU_COMPONENT)));
        let (eax, ebx) = (SAVE_AREA_WITH_PKRU - XsaveArea::PKRU as u32, XsaveArea::PKRU as u32);
        let result = CpuidResult { eax, ebx, ..CpuidResult::default() };
        self.entries.insert(at, CpuidEntry { leaf: 0xd, subleaf: Some(PKRU_COMPONENT), result });
    }

    /// Takes back [`Self::offer_protection_keys`].
    pub fn withdraw_protection_keys(&mut self) {
        if !self.has_protection_keys() {
            return;
        }
        self.entries.retain(|e| (e.leaf, e.subleaf) != (0xd, Some(PKRU_COMPONENT)));
        for entry in &mut self.entries {
            match (entry.leaf, entry.subleaf) {
                (7, Some(0)) => entry.result.ecx &= !(LEAF7_ECX_PKU | LEAF7_ECX_PKS),
                (0xd, Some(0)) => {
                    entry.result.eax &= !(Xcr0::PKRU.bits() as u32);
                    (entry.result.ebx, entry.result.ecx) = (SAVE_AREA, SAVE_AREA);
                }
                _ => {}
            }
        }
    }

    /// Whether protection keys are offered.
    #[must_use]
    pub fn has_protection_keys(&self) -> bool {
        self.query(7, 0, Cr4::empty()).ecx & LEAF7_ECX_PKU != 0
    }

    /// The bits of CR4 that a guest may set.
    #[must_use]
    pub fn cr4(&self) -> Cr4 {
        let mut cr4 = Cr4::SUPPORTED;
        cr4.set(Cr4::PCIDE, self.query(1, 0, Cr4::empty()).ecx >> 17 & 1 != 0);
        cr4.set(Cr4::PKE | Cr4::PKS, self.has_protection_keys());
        cr4
    }

    /// The bits of XCR0 that a guest may set.
    #[must_use]
    pub fn xcr0(&self) -> Xcr0 {
        Xcr0::from_bits_truncate(self.query(0xd, 0, Cr4::empty()).eax.into())
    }

    /// Bytes of XSAVE's image for the components that `enabled` names: EBX of leaf 0DH.
    #[must_use]
    pub fn save_area(&self, enabled: Xcr0) -> u32 {
        let end = |e: &CpuidEntry| match (e.leaf, e.subleaf) {
            (0xd, Some(component @ 2..64)) if enabled.bits() >> component & 1 != 0 => {
                e.result.eax + e.result.ebx
            }
            _ => 0,
        };
        self.entries.iter().map(end).fold(XsaveArea::YMM_HIGH as u32, u32::max)
    }

    /// Offers x2APIC mode and the local APIC's deadline timer. For engines that bring their MSRs to the platform, whatever
    /// the host.
    pub fn offer_apic_msrs(&mut self) {
        if let Some(one) = self.entries.iter_mut().find(|e| e.leaf == 1) {
            one.result.ecx |= LEAF1_ECX_APIC_MSRS;
        }
    }

    /// Offers hypercalls: the leaf [`abi::CPUID_CALLS`] answers `result`, and is the highest of its kind.
    pub fn offer_hypercalls(&mut self, result: CpuidResult) {
        let Some(at) = self.entries.iter().position(|e| e.leaf == abi::CPUID_HYPERVISOR) else { return };
        self.entries[at].result.eax = abi::CPUID_CALLS;
        self.entries.retain(|e| e.leaf != abi::CPUID_CALLS);
        self.entries.insert(at + 1, CpuidEntry { leaf: abi::CPUID_CALLS, subleaf: None, result });
    }

    /// Offers KVM's clock, under the signature that KVM has, behind our own leaves: its structures by their newer MSRs,
    /// stable from CPU to CPU, and that port accesses need no pauses between them.
    pub fn offer_kvm_clock(&mut self) {
        const BASE: u32 = abi::CPUID_HYPERVISOR + 0x100;
        const NO_IO_DELAY: u32 = 1 << 1;
        const CLOCK: u32 = 1 << 3;
        const CLOCK_IS_STABLE: u32 = 1 << 24;
        let word = |at: usize| {
            let s = b"KVMKVMKVM\0\0\0";
            u32::from_le_bytes([s[at], s[at + 1], s[at + 2], s[at + 3]])
        };
        let signature = CpuidResult { eax: BASE + 1, ebx: word(0), ecx: word(4), edx: word(8) };
        let features = CpuidResult { eax: NO_IO_DELAY | CLOCK | CLOCK_IS_STABLE, ..CpuidResult::default() };
        self.entries.retain(|e| e.leaf & !0xff != BASE);
        let at = self.entries.partition_point(|e| e.leaf < BASE);
        let row = |leaf, result| CpuidEntry { leaf, subleaf: None, result };
        self.entries.splice(at..at, [row(BASE, signature), row(BASE + 1, features)]);
    }

    /// All rows, in ascending order.
    #[must_use]
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// Whether the local APIC has x2APIC mode.
    #[must_use]
    pub fn has_x2apic(&self) -> bool {
        self.query(1, 0, Cr4::empty()).ecx & LEAF1_ECX_X2APIC != 0
    }

    /// MAXPHYADDR: how many bits a guest-physical address has. A table without the leaf says 36 (SDM 4.1.4).
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        match self.query(0x8000_0008, 0, Cr4::empty()).eax as u8 {
            0 => 36,
            bits => bits,
        }
    }

    /// Whether the CPU is one of AMD's or Hygon's, by its vendor's name: there SYSCALL exists outside 64-bit mode, too (APM
    /// vol. 3, SYSCALL). Systems choose by that name what their 32-bit programs call them with.
    #[must_use]
    pub fn is_amd(&self) -> bool {
        is_amd(&self.query(0, 0, Cr4::empty()))
    }

    /// What CPUID returns with `leaf` in EAX and `subleaf` in ECX while CR4 is `cr4`. Unknown leaves read as zeros.
    #[must_use]
    pub fn query(&self, leaf: u32, subleaf: u32, cr4: Cr4) -> CpuidResult {
        let found = self.entries.iter().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf));
        let mut result = found.map_or_else(CpuidResult::default, |e| e.result);
        if leaf == 1 && cr4.contains(Cr4::OSXSAVE) {
            result.ecx |= LEAF1_ECX_OSXSAVE;
        }
        if leaf == 7 && subleaf == 0 && cr4.contains(Cr4::PKE) {
            result.ecx |= LEAF7_ECX_OSPKE;
        }
        result
    }
}

/// Whether leaf 0 names AMD or Hygon.
fn is_amd(zero: &CpuidResult) -> bool {
    let name = [zero.ebx, zero.edx, zero.ecx].map(u32::to_le_bytes);
    matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine")
}

/// The fraction nearest to `a / b` whose numerator is at most `most`: a convergent of its continued fraction, or between
/// two of them.
fn nearest_fraction(mut a: u64, mut b: u64, most: u64) -> (u64, u64) {
    let (mut before, mut last) = ((0, 1), (1, 0));
    while b != 0 {
        let whole = a / b;
        let next = |before: u64, last: u64| whole.checked_mul(last).and_then(|n| n.checked_add(before));
        match (next(before.0, last.0), next(before.1, last.1)) {
            (Some(numerator), Some(denominator)) if numerator <= most => {
                (before, last) = (last, (numerator, denominator));
            }
            _ => {
                // As much of the step as there is room for is better than none from half of it on.
                let part = most.saturating_sub(before.0) / last.0.max(1);
                if part > whole / 2 {
                    return (part * last.0 + before.0, part * last.1 + before.1);
                }
                break;
            }
        }
        (a, b) = (b, a % b);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_offers_everything_is_cut_to_what_we_implement() {
        let table = CpuidTable::from_host(|_, _| CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 });
        let seven = table.query(7, 0, Cr4::empty());
        assert_eq!(seven.ebx & 1 << 16, 0, "AVX-512 is not offered");
        assert_eq!(table.query(7, 1, Cr4::empty()), CpuidResult::default());
        assert_eq!(table.query(1, 0, Cr4::empty()).ecx & LEAF1_ECX_OSXSAVE, 0);
        assert_ne!(table.query(1, 0, Cr4::OSXSAVE).ecx & LEAF1_ECX_OSXSAVE, 0);
    }

    #[test]
    fn a_host_that_offers_nothing_gets_only_what_the_engines_provide() {
        let table = CpuidTable::from_host(|_, _| CpuidResult::default());
        assert_eq!(table.query(1, 0, Cr4::empty()).edx, LEAF1_EDX_OURS);
        assert_eq!(table.query(7, 0, Cr4::empty()).ebx, LEAF7_EBX_OURS);
        let vendor = table.query(abi::CPUID_HYPERVISOR, 0, Cr4::empty());
        assert_eq!(vendor.ebx.to_le_bytes(), *b"TriV");
    }

    #[test]
    fn protection_keys_are_offered_and_taken_back() {
        let plain = CpuidTable::from_host(|_, _| CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 });
        let mut table = plain.clone();
        assert!(!table.has_protection_keys());
        assert_eq!(table.cr4(), Cr4::SUPPORTED);
        table.offer_protection_keys();
        table.offer_protection_keys();
        assert!(table.has_protection_keys() && table.entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
        assert_eq!(table.query(7, 0, Cr4::empty()).ecx, 1 << 31 | 1 << 3 | 1 << 2);
        assert_eq!(table.query(7, 0, Cr4::PKE).ecx, 1 << 31 | 1 << 4 | 1 << 3 | 1 << 2);
        assert_eq!(table.query(0xd, 9, Cr4::empty()), CpuidResult { eax: 8, ebx: 832, ecx: 0, edx: 0 });
        assert_eq!(table.cr4(), Cr4::SUPPORTED | Cr4::PKE | Cr4::PKS);
        assert_eq!(table.xcr0().bits(), 0x207);
        table.withdraw_protection_keys();
        assert_eq!(table, plain);
    }

    #[test]
    fn the_save_area_is_as_large_as_what_is_enabled() {
        let mut table = CpuidTable::from_host(|_, _| CpuidResult::default());
        let sizes =
            |table: &CpuidTable| [1, 3, 7, 0x201, 0x207].map(|x| table.save_area(Xcr0::from_bits_retain(x)));
        assert_eq!(sizes(&table), [576, 576, 832, 576, 832]);
        table.offer_protection_keys();
        assert_eq!(sizes(&table), [576, 576, 832, 840, 840]);
        assert_eq!(table.query(0xd, 0, Cr4::empty()).ecx, 840);
    }

    #[test]
    fn each_cpu_is_told_its_own_place_in_one_package() {
        let table = CpuidTable::from_host(|leaf, _| CpuidResult {
            eax: if leaf == 0 { 0x20 } else { !0 },
            ..CpuidResult::default()
        });
        let query = |id, cpus, leaf, subleaf| table.of_cpu(id, cpus).query(leaf, subleaf, Cr4::empty());
        let one = query(2, 3, 1, 0);
        assert_eq!((one.ebx >> 16, one.edx >> 28 & 1), (2 << 8 | 4, 1));
        let threads = query(2, 3, 0xb, 0);
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, 2));
        let cores = query(2, 3, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 3, 0x201, 2));
        assert_eq!(query(2, 3, 0xb, 2), CpuidResult::default());
        assert_eq!(query(1, 8, 0x8000_0008, 0).ecx, 7 | 3 << 12);
        let alone = query(0, 1, 1, 0);
        assert_eq!((alone.ebx >> 16, alone.edx >> 28 & 1), (1, 0));
        let again = table.of_cpu(0, 4).of_cpu(2, 4);
        assert_eq!(again, table.of_cpu(2, 4));
        assert!(table.of_cpu(7, 8).entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
    }

    #[test]
    fn frequencies_are_told_as_a_ratio() {
        let mut table = CpuidTable::from_host(|_, _| CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 });
        for tsc in [2_300_000_000, 2_300_039_117, 2_893_202_000, 1_000_000_000, 999_999_999, 5_700_123_456] {
            let mut table = table.clone();
            table.tell_frequencies(tsc, 1_000_000_000);
            let CpuidResult { eax, ebx, ecx, .. } = table.query(0x15, 0, Cr4::empty());
            let khz = (ecx / 1000).checked_mul(ebx).expect("32 bits") / eax;
            let off = (i64::from(khz) - tsc as i64 / 1000).unsigned_abs();
            assert!(off * 4000 <= tsc / 1000, "{tsc} Hz became {khz} kHz");
        }
        table.tell_frequencies(2_300_000_000, 1_000_000_000);
        assert_eq!(table.query(0, 0, Cr4::empty()).eax, 0x15);
        assert!(table.entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
    }

    #[test]
    fn kvms_clock_is_found_as_linux_looks_for_it() {
        let mut table = CpuidTable::from_host(|_, _| CpuidResult::default());
        let find = |table: &CpuidTable| {
            (0x4000_0000..0x4001_0000).step_by(0x100).find_map(|base| {
                let CpuidResult { eax, ebx, ecx, edx } = table.query(base, 0, Cr4::empty());
                let signature = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
                (signature == b"KVMKVMKVM\0\0\0").then(|| (eax, table.query(base | 1, 0, Cr4::empty()).eax))
            })
        };
        assert_eq!(find(&table), None);
        table.offer_kvm_clock();
        table.offer_kvm_clock();
        assert_eq!(find(&table), Some((0x4000_0101, 1 << 1 | 1 << 3 | 1 << 24)));
        // Ours comes first, and is found as before.
        assert_eq!(table.query(abi::CPUID_HYPERVISOR, 0, Cr4::empty()).ebx.to_le_bytes(), *b"TriV");
        assert!(table.entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
    }

    #[test]
    fn hypercalls_are_told_of_only_where_they_are_offered() {
        let mut table = CpuidTable::from_host(|_, _| CpuidResult::default());
        let query = |table: &CpuidTable, leaf| table.query(leaf, 0, Cr4::empty());
        assert_eq!(query(&table, abi::CPUID_HYPERVISOR).eax, abi::CPUID_HYPERVISOR);
        assert_eq!(query(&table, abi::CPUID_CALLS), CpuidResult::default());
        let offer = CpuidResult { eax: 1, ebx: 2, ecx: 3, edx: 4 };
        table.offer_hypercalls(offer);
        assert_eq!(query(&table, abi::CPUID_HYPERVISOR).eax, abi::CPUID_CALLS);
        assert_eq!(query(&table, abi::CPUID_CALLS), offer);
        assert!(table.entries().is_sorted_by_key(|e| (e.leaf, e.subleaf)));
    }
}
