//! What a guest was told of its CPU has to hold wherever it goes on: features, sizes and addresses.
use super::{CpuidEntry, CpuidResult, CpuidTable, EXT21};
use crate::abi;

/// A register of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

impl Register {
    fn of(self, result: &mut CpuidResult) -> &mut u32 {
        match self {
            Eax => &mut result.eax,
            Ebx => &mut result.ebx,
            Ecx => &mut result.ecx,
            Edx => &mut result.edx,
        }
    }
}

/// The words that tell of features: leaf, subleaf, register, and bits of it that tell of something else.
const WORDS: [(u32, Option<u32>, Register, u32); 12] = [
    (1, None, Ecx, 0),
    // HTT, of how many CPUs there are.
    (1, None, Edx, 1 << 28),
    (7, Some(0), Ebx, 0),
    (7, Some(0), Ecx, 0),
    (7, Some(0), Edx, 0),
    (0xd, Some(1), Eax, 0),
    // CmpLegacy, likewise.
    (0x8000_0001, None, Ecx, 1 << 1),
    (0x8000_0001, None, Edx, 0),
    (0x8000_0007, None, Edx, 0),
    (0x8000_0008, None, Ebx, 0),
    (EXT21, None, Eax, 0),
    (EXT21, None, Ecx, 0),
];

/// Features that some of our modes have and others do not, and that a guest can do without as long as it does not use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Optional {
    /// The local APIC's registers as MSRs.
    X2Apic,
    /// The local APIC's timer in TSC-deadline mode.
    TscDeadline,
    /// Process-context identifiers in CR3, and INVPCID.
    ProcessContexts,
    /// IA32_SPEC_CTRL and what goes with it.
    SpeculationControls,
    /// Protection keys: CR4.PKE, CR4.PKS, PKRU and IA32_PKRS.
    ProtectionKeys,
}

impl Optional {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X2Apic => "x2APIC",
            Self::TscDeadline => "the TSC deadline timer",
            Self::ProcessContexts => "PCID",
            Self::SpeculationControls => "IA32_SPEC_CTRL",
            Self::ProtectionKeys => "protection keys",
        }
    }

    fn of(leaf: u32, register: Register, bit: u32) -> Option<Self> {
        match (leaf, register, bit) {
            (1, Ecx, 17) | (7, Ebx, 10) => Some(Self::ProcessContexts),
            (1, Ecx, 21) => Some(Self::X2Apic),
            (1, Ecx, 24) => Some(Self::TscDeadline),
            (7, Edx, 26 | 29) | (0x8000_0008, Ebx, 29) | (EXT21, Eax, 29) | (EXT21, Ecx, 1 | 2) => {
                Some(Self::SpeculationControls)
            }
            _ => None,
        }
    }
}

/// Bits and their names.
type Bits = &'static [(u8, &'static str)];

/// Features by leaf, register and bit, as the manual and Linux name them.
const NAMES: [(u32, Register, Bits); 10] = [
    (
        1,
        Ecx,
        &[
            (0, "SSE3"),
            (1, "PCLMULQDQ"),
            (9, "SSSE3"),
            (12, "FMA"),
            (13, "CMPXCHG16B"),
            (19, "SSE4.1"),
            (20, "SSE4.2"),
            (22, "MOVBE"),
            (23, "POPCNT"),
            (25, "AES"),
            (26, "XSAVE"),
            (28, "AVX"),
            (29, "F16C"),
            (30, "RDRAND"),
        ],
    ),
    (1, Edx, &[(13, "PGE"), (16, "PAT"), (19, "CLFLUSH"), (26, "SSE2")]),
    (
        7,
        Ebx,
        &[
            (0, "FSGSBASE"),
            (3, "BMI1"),
            (5, "AVX2"),
            (7, "SMEP"),
            (8, "BMI2"),
            (9, "ERMS"),
            (18, "RDSEED"),
            (19, "ADX"),
            (20, "SMAP"),
            (23, "CLFLUSHOPT"),
            (29, "SHA"),
        ],
    ),
    (7, Ecx, &[(2, "UMIP")]),
    (7, Edx, &[(14, "SERIALIZE")]),
    (0xd, Eax, &[(0, "XSAVEOPT")]),
    (0x8000_0001, Ecx, &[(0, "LAHF"), (5, "LZCNT"), (8, "PREFETCHW")]),
    (
        0x8000_0001,
        Edx,
        &[(11, "SYSCALL"), (20, "NX"), (26, "1 GiB pages"), (27, "RDTSCP"), (29, "long mode")],
    ),
    (0x8000_0008, Ebx, &[(2, "XSAVEERPTR")]),
    (EXT21, Eax, &[(2, "LFENCE that waits"), (6, "null selectors that clear the base")]),
];

fn name(leaf: u32, register: Register, bit: u32) -> String {
    let row = NAMES.iter().find(|(l, r, _)| (*l, *r) == (leaf, register));
    let known = row.and_then(|(.., bits)| bits.iter().find(|(b, _)| u32::from(*b) == bit));
    known.map_or_else(|| format!("feature {leaf:#x}:{register:?}:{bit}"), |(_, name)| (*name).to_owned())
}

/// Why a promise cannot be kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// Features that are not there.
    #[error("the guest was told that its CPU has {}, which {} not here", .0.join(", "), if .0.len() == 1 { "is" } else { "are" })]
    Features(Vec<String>),
    /// Features that this mode does without, and the guest uses.
    #[error("the guest uses {}, which this mode does not have; emu has it, and a guest that was started with --common-cpu does without", .0.name())]
    Used(Optional),
    /// Its physical addresses have more bits than the host's.
    #[error("the guest's physical addresses have {told} bits, and only {own} here")]
    PhysicalBits {
        /// What the guest was told.
        told: u8,
        /// What is here.
        own: u8,
    },
    /// The table has other rows, or a row that only the machine's build can change.
    #[error("the guest was told of a CPU that is built otherwise (CPUID leaf {0:#x})")]
    Built(u32),
}

impl CpuidTable {
    /// The features that it tells of and that only some of our modes have.
    pub fn optional(&self) -> impl Iterator<Item = Optional> {
        use Optional::{ProcessContexts, ProtectionKeys, SpeculationControls, TscDeadline, X2Apic};
        let keys = self.has_protection_keys().then_some(ProtectionKeys);
        let tells = move |feature: &Optional| {
            self.entries.iter().any(|entry| {
                let words = WORDS.into_iter().filter(|w| (w.0, w.1) == (entry.leaf, entry.subleaf));
                words.into_iter().any(|(leaf, _, register, _)| {
                    let word = *register.of(&mut entry.result.clone());
                    (0..32).any(|bit| {
                        word & 1 << bit != 0 && Optional::of(leaf, register, bit) == Some(*feature)
                    })
                })
            })
        };
        let by_bits = [X2Apic, TscDeadline, ProcessContexts, SpeculationControls];
        by_bits.into_iter().filter(tells).chain(keys)
    }

    fn has_row(&self, leaf: u32) -> bool {
        self.entries.iter().any(|e| e.leaf == leaf)
    }

    /// Adds a row of zeros for a leaf behind all others that has none, which is what it answers without.
    fn complete(&mut self, leaf: u32) {
        if !self.has_row(leaf) {
            self.entries.push(CpuidEntry { leaf, subleaf: None, result: CpuidResult::default() });
        }
    }

    /// The table of a machine that would be told this one, and whose guest was told `told` before: what it goes on to be
    /// told. That is what it was told, without what it does not use ([`Optional`]) and is not there.
    ///
    /// # Errors
    /// [`Broken`], if that cannot hold here.
    pub fn keeping(&self, told: &Self, uses: impl Fn(Optional) -> bool) -> Result<Self, Broken> {
        let (mut kept, mut told) = (self.clone(), told.clone());
        // They take rows of their own.
        if !(self.has_protection_keys() && told.has_protection_keys()) {
            if uses(Optional::ProtectionKeys) {
                return Err(Broken::Used(Optional::ProtectionKeys));
            }
            kept.withdraw_protection_keys();
            told.withdraw_protection_keys();
        }
        // Intel's CPUs do not have AMD's row, and earlier versions told nobody of it: there it is of zeros.
        if kept.has_row(EXT21) || told.has_row(EXT21) {
            kept.complete(EXT21);
            told.complete(EXT21);
        }
        let mut missing = vec![];
        for entry in &mut kept.entries {
            let (leaf, subleaf) = (entry.leaf, entry.subleaf);
            let own = entry.result;
            let row = told.entries.iter().find(|e| (e.leaf, e.subleaf) == (leaf, subleaf));
            let row = row.ok_or(Broken::Built(leaf))?.result;
            entry.result = match leaf {
                // Sizes of the XSAVE area; what the interfaces of ours are.
                0xd if subleaf != Some(1) && row != own => return Err(Broken::Built(leaf)),
                abi::CPUID_HYPERVISOR..0x8000_0000 if row != own => return Err(Broken::Built(leaf)),
                _ => row,
            };
            for (_, _, register, other) in WORDS.into_iter().filter(|w| (w.0, w.1) == (leaf, subleaf)) {
                let has = *register.of(&mut own.clone()) | other;
                let word = register.of(&mut entry.result);
                for bit in (0..32).filter(|bit| *word & !has & 1 << bit != 0) {
                    match Optional::of(leaf, register, bit) {
                        Some(feature) if uses(feature) => return Err(Broken::Used(feature)),
                        Some(_) => {}
                        None => missing.push(name(leaf, register, bit)),
                    }
                }
                *word &= has;
            }
        }
        let (bits, own) = (kept.physical_bits(), self.physical_bits());
        match () {
            () if !missing.is_empty() => Err(Broken::Features(missing)),
            () if bits > own || bits < 32 => Err(Broken::PhysicalBits { told: bits, own }),
            () => Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::speculation::tests::host_by;
    use super::*;
    use crate::arch::Cr4;

    /// A host that has every feature, or all but those of a leaf's EBX.
    fn host(but: (u32, u32)) -> CpuidTable {
        CpuidTable::from_host(|leaf, _| {
            let ebx = if leaf == but.0 { !but.1 } else { u32::MAX };
            let eax = if leaf == 0x8000_0008 { 0x30 } else { 0x15 };
            CpuidResult { eax, ebx, ecx: u32::MAX, edx: u32::MAX }
        })
    }

    fn query(table: &CpuidTable, leaf: u32) -> CpuidResult {
        table.query(leaf, 0, Cr4::empty())
    }

    #[test]
    fn the_guest_is_told_what_it_was_told() {
        let (rich, poor) = (host((0, 0)), host((7, 1 << 5)));
        let kept = rich.keeping(&poor, |_| false).unwrap();
        assert_eq!(kept, poor);
        let refused = poor.keeping(&rich, |_| false).unwrap_err();
        assert_eq!(refused, Broken::Features(vec!["AVX2".to_owned()]));
        assert_eq!(refused.to_string(), "the guest was told that its CPU has AVX2, which is not here");
    }

    #[test]
    fn what_a_mode_lacks_is_no_matter_until_it_is_used() {
        let (plain, mut emulated) = (host((0, 0)), host((0, 0)));
        emulated.offer_process_contexts();
        emulated.offer_apic_msrs();
        emulated.offer_speculation_controls();
        assert_eq!(plain.keeping(&emulated, |_| false).unwrap(), plain);
        for used in [
            Optional::X2Apic,
            Optional::TscDeadline,
            Optional::ProcessContexts,
            Optional::SpeculationControls,
        ] {
            assert_eq!(plain.keeping(&emulated, |feature| feature == used), Err(Broken::Used(used)));
            let all_but_keys = |feature| feature != Optional::ProtectionKeys;
            assert_eq!(emulated.keeping(&emulated, all_but_keys).unwrap(), emulated);
            assert!(emulated.optional().any(|feature| feature == used));
        }
        assert_eq!((plain.optional().count(), emulated.optional().count()), (0, 4));
    }

    #[test]
    fn amds_row_is_held_to_where_there_is_none() {
        let (mut amd, intel) = (host_by(b"AuthenticAMD"), host_by(b"GenuineIntel"));
        let refused = intel.keeping(&amd, |_| false).unwrap_err();
        assert!(matches!(&refused, Broken::Features(missing) if missing.len() == 2), "{refused}");
        assert_eq!(query(&amd.keeping(&intel, |_| false).unwrap(), 0x8000_0021), CpuidResult::default());
        // What emu alone says is taken back.
        let plain = amd.clone();
        amd.offer_speculation_controls();
        assert_eq!(plain.keeping(&amd, |_| false).unwrap(), plain);
        let used = |feature| feature == Optional::SpeculationControls;
        assert_eq!(plain.keeping(&amd, used), Err(Broken::Used(Optional::SpeculationControls)));
    }

    #[test]
    fn protection_keys_that_are_not_used_are_taken_back() {
        let (plain, mut with_keys) = (host((0, 0)), host((0, 0)));
        with_keys.offer_protection_keys();
        assert_eq!(with_keys.keeping(&with_keys, |_| true).unwrap(), with_keys);
        assert_eq!(plain.keeping(&with_keys, |_| false).unwrap(), plain);
        assert_eq!(with_keys.keeping(&plain, |_| false).unwrap(), plain);
        // Whatever the table says: the CPU's state is of the file, too.
        for (own, told) in [(&plain, &with_keys), (&with_keys, &plain), (&plain, &plain)] {
            let refused = own.keeping(told, |feature| feature == Optional::ProtectionKeys).unwrap_err();
            assert!(
                refused
                    .to_string()
                    .starts_with("the guest uses protection keys, which this mode does not have")
            );
        }
        let keys: Vec<_> = with_keys.optional().collect();
        assert_eq!(keys, [Optional::ProtectionKeys]);
    }

    #[test]
    fn a_cpu_that_is_built_otherwise_is_refused() {
        let own = host((0, 0));
        let mut wide = own.clone();
        let row = wide.entries.iter_mut().find(|e| e.leaf == 0x8000_0008).unwrap();
        row.result.eax = 0x3034;
        assert_eq!(own.keeping(&wide, |_| false), Err(Broken::PhysicalBits { told: 0x34, own: 46 }));
        let mut saves = own.clone();
        saves.entries.iter_mut().find(|e| e.leaf == 0xd).unwrap().result.ebx = 1 << 20;
        assert_eq!(own.keeping(&saves, |_| false), Err(Broken::Built(0xd)));
        let mut short = own.clone();
        short.entries.retain(|e| e.leaf != 2);
        assert_eq!(own.keeping(&short, |_| false), Err(Broken::Built(2)));
        let mut calls = own.clone();
        calls.offer_hypercalls(CpuidResult::default());
        assert!(matches!(own.keeping(&calls, |_| false), Err(Broken::Built(_))));
        assert_eq!(query(&own, 0x8000_0008).eax & 0xff, 46);
    }
}
