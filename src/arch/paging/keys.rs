//! Protection keys (SDM 4.6.2): a page of 4-level paging has a key, and a register says what its data may be used for.
//!
//! PKRU answers for user pages, IA32_PKRS for supervisor pages; each is consulted while a bit of CR4 is set, whoever makes
//! the access. Fetches of instructions are exempt.
use super::{Access, PagingMode, Privilege};
use crate::arch::{Cr0, Cr4, Efer};

/// What a register says of a key: bit 0, no access; bit 1, no writing.
const NO_ACCESS: u32 = 1;
const NO_WRITING: u32 = 2;

/// The key that a leaf of 4-level paging has.
#[must_use]
pub const fn key(leaf: u64) -> u8 {
    (leaf >> 59 & 0xf) as u8
}

/// The rights of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRights {
    /// Data may be accessed.
    pub access: bool,
    /// Data may be written: by ring 3 only then, by the supervisor also while CR0.WP is clear.
    pub write: bool,
}

impl KeyRights {
    /// What `register` says of a key.
    #[must_use]
    pub const fn of(register: u32, key: u8) -> Self {
        let rights = register >> (2 * (key & 0xf));
        let access = rights & NO_ACCESS == 0;
        Self { access, write: access && rights & NO_WRITING == 0 }
    }
}

impl PagingMode {
    /// Whether any page's key counts.
    #[inline]
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.efer.contains(Efer::LMA) && self.cr4.intersects(Cr4::PKE.union(Cr4::PKS))
    }

    /// The rights of the key of a leaf, for a page that is the user's or the supervisor's; `None` if keys of such pages do not
    /// count.
    #[must_use]
    pub fn key_rights(&self, leaf: u64, user: bool) -> Option<KeyRights> {
        let (enables, rights) = if user { (Cr4::PKE, self.pkru) } else { (Cr4::PKS, self.pkrs) };
        let counts = self.efer.contains(Efer::LMA) && self.cr4.contains(enables);
        counts.then(|| KeyRights::of(rights, key(leaf)))
    }

    /// Whether the key of a leaf allows the access.
    #[inline]
    pub(super) fn key_allows(&self, leaf: u64, user: bool, access: Access, privilege: Privilege) -> bool {
        if !self.has_keys() || access == Access::Execute {
            return true;
        }
        self.key_rights(leaf, user).is_none_or(|rights| {
            let writes_all_the_same = privilege != Privilege::User && !self.cr0.contains(Cr0::WP);
            rights.access && (access == Access::Read || rights.write || writes_all_the_same)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::exception::PageFaultCode;
    use crate::arch::paging::{PageMemory, Translation, known, probe, walk};
    use crate::arch::{CpuState, Gpa, Gva};
    use proptest::prelude::*;

    const P: u64 = 1;
    const RW: u64 = 1 << 1;
    const US: u64 = 1 << 2;
    const AD: u64 = 0x60;
    const PS: u64 = 1 << 7;
    const NX: u64 = 1 << 63;

    /// One path of tables, at 1000H to 4000H, whose every entry is the same in its table.
    struct Path([u64; 4]);

    impl PageMemory for Path {
        fn read_u32(&self, at: Gpa) -> Option<u32> {
            self.read_u64(Gpa(at.0 & !7)).map(|entry| (entry >> (8 * (at.0 & 4))) as u32)
        }
        fn read_u64(&self, at: Gpa) -> Option<u64> {
            self.0.get((at.0 >> 12) as usize - 1).copied()
        }
        fn set_bits(&self, _: Gpa, _: u32, _: u32) -> bool {
            unreachable!("all of them are set");
        }
    }

    /// What is drawn at random.
    #[derive(Clone, Debug)]
    struct Case {
        leaf: u64,
        upper: [u64; 3],
        large: bool,
        pkru: u32,
        pkrs: u32,
        wp: bool,
        smap: bool,
        smep: bool,
        ac: bool,
        pke: bool,
        pks: bool,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let rights = || (any::<bool>(), any::<bool>(), any::<bool>());
        // Keys above the leaf are ignored: they are drawn, too.
        let entry = || {
            (rights(), 0_u64..16).prop_map(|((w, u, x), key)| {
                P | AD | u64::from(w) << 1 | u64::from(u) << 2 | u64::from(x) << 63 | key << 59
            })
        };
        // Mostly nothing above the leaf forbids something.
        let upper = || prop_oneof![3 => Just(P | AD | RW | US), 1 => entry()];
        let bits = (any::<[bool; 6]>(), any::<bool>());
        (entry(), [upper(), upper(), upper()], any::<u32>(), any::<u32>(), bits).prop_map(
            |(leaf, upper, pkru, pkrs, ([wp, smap, smep, ac, pke, pks], large))| Case {
                leaf,
                upper,
                large,
                pkru,
                pkrs,
                wp,
                smap,
                smep,
                ac,
                pke,
                pks,
            },
        )
    }

    impl Case {
        fn mode(&self) -> PagingMode {
            let mut mode = PagingMode::of(&CpuState::reset());
            mode.cr0 = Cr0::PE | Cr0::PG;
            mode.cr0.set(Cr0::WP, self.wp);
            mode.cr3 = 0x1000;
            mode.cr4 = Cr4::PAE;
            mode.cr4.set(Cr4::SMAP, self.smap);
            mode.cr4.set(Cr4::SMEP, self.smep);
            mode.cr4.set(Cr4::PKE, self.pke);
            mode.cr4.set(Cr4::PKS, self.pks);
            mode.efer = Efer::LMA | Efer::NXE;
            (mode.pkru, mode.pkrs, mode.ac) = (self.pkru, self.pkrs, self.ac);
            mode
        }

        fn memory(&self) -> Path {
            let table = |i: usize| self.upper[i] | (0x2000 + 0x1000 * i as u64);
            if self.large {
                Path([table(0), table(1), self.leaf | 0x20_0000 | PS, 0])
            } else {
                Path([table(0), table(1), table(2), self.leaf | 0x5000])
            }
        }

        /// The manual's words (4.6.1, 4.6.2, 4.7), one sentence after the other.
        fn expected(&self, access: Access, privilege: Privilege) -> Result<(), PageFaultCode> {
            let levels = if self.large { &self.upper[..2] } else { &self.upper[..] };
            let every = |bit: u64| self.leaf & bit != 0 && levels.iter().all(|entry| entry & bit != 0);
            let user_page = every(US);
            let writable = every(RW);
            let never_executed = self.leaf & NX != 0 || levels.iter().any(|entry| entry & NX != 0);
            let by_user = privilege == Privilege::User;
            // 4.6.1
            let allowed = match (by_user, access) {
                (true, Access::Read) => user_page,
                (true, Access::Write) => user_page && writable,
                (true, Access::Execute) => user_page && !never_executed,
                (false, Access::Execute) => !(never_executed || user_page && self.smep),
                (false, data) => {
                    let explicit_with_ac = privilege == Privilege::Supervisor && self.ac;
                    let prevented = user_page && self.smap && !explicit_with_ac;
                    !prevented && (data == Access::Read || writable || !self.wp)
                }
            };
            // 4.6.2: AD is bit 2i, WD bit 2i+1 of PKRU for user-mode addresses, of IA32_PKRS for others.
            let i = (self.leaf >> 59) & 15;
            let (on, register) = if user_page { (self.pke, self.pkru) } else { (self.pks, self.pkrs) };
            let ad = register & (1 << (2 * i)) != 0;
            let wd = register & (1 << (2 * i + 1)) != 0;
            let key_denies = on
                && match access {
                    Access::Execute => false,
                    Access::Read => ad,
                    Access::Write => ad || wd && (by_user || self.wp),
                };
            if allowed && !key_denies {
                return Ok(());
            }
            let mut code = PageFaultCode::PRESENT;
            code.set(PageFaultCode::WRITE, access == Access::Write);
            code.set(PageFaultCode::USER, by_user);
            code.set(PageFaultCode::FETCH, access == Access::Execute);
            code.set(PageFaultCode::KEY, key_denies);
            Err(code)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn rights_are_those_of_the_manual(case in cases()) {
            let (mode, memory) = (case.mode(), case.memory());
            let gva = Gva(0x1234);
            for privilege in [Privilege::User, Privilege::Supervisor, Privilege::Implicit] {
                for access in [Access::Read, Access::Write, Access::Execute] {
                    let walked = walk(&memory, &mode, gva, access, privilege);
                    let got = walked.map(|_| ()).map_err(|e| {
                        PageFaultCode::from_bits_retain(e.error_code.unwrap_or_default())
                    });
                    prop_assert_eq!(got, case.expected(access, privilege), "{:?} {:?}", access, privilege);
                    prop_assert_eq!(known(&memory, &mode, gva, access, privilege), walked.ok());
                    // Who keeps a translation for writing that was made for reading relies on this.
                    if let (Access::Read, Ok(Translation { writable: true, .. })) = (access, walked) {
                        prop_assert_eq!(case.expected(Access::Write, privilege), Ok(()));
                    }
                }
            }
            prop_assert!(probe(&memory, &mode, gva).is_some());
        }
    }

    #[test]
    fn keys_count_in_long_mode_only() {
        let mut mode = PagingMode::of(&CpuState::reset());
        (mode.cr4, mode.efer, mode.pkru) = (Cr4::PKE, Efer::LMA, 0b11 << 6);
        assert_eq!(mode.key_rights(3 << 59, true), Some(KeyRights { access: false, write: false }));
        assert_eq!(mode.key_rights(4 << 59, true), Some(KeyRights { access: true, write: true }));
        assert_eq!(mode.key_rights(3 << 59, false), None);
        mode.efer = Efer::empty();
        assert_eq!(mode.key_rights(3 << 59, true), None);
        assert!(!mode.has_keys());
    }
}
