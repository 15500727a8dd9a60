//! Saved state of a CPU, and which states are possible: the manual's checks of a guest's state on its way into a CPU (SDM
//! 28.3.1), as far as our engines rely on them.
use super::msr::Msrs;
use super::segment::Segment;
use super::state::{Activity, CpuState, XsaveArea};
use super::{Cr0, Cr4, DescriptorTable, Efer, Exception, Gva, Rflags, Vector, Xcr0};
use serde::{Deserialize, Serialize};

/// A segment register: selector, base, limit, attributes.
pub type SavedSegment = (u16, u64, u32, u16);

/// The architectural state of one CPU, as numbers of the manual. CR8 is the local APIC's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the fields of CpuState")]
pub struct SavedCpu {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [SavedSegment; 6],
    pub ldtr: SavedSegment,
    pub tr: SavedSegment,
    /// Base and limit.
    pub gdtr: (u64, u16),
    pub idtr: (u64, u16),
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    pub dr: [u64; 8],
    /// STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT, TSC_AUX, MISC_ENABLE,
    /// SPEC_CTRL, TSC_ADJUST, PKRS.
    pub msrs: [u64; 14],
    /// The XSAVE area without PKRU, 832 bytes.
    pub xsave: Vec<u8>,
    pub pkru: u32,
    /// 0 runs, 1 is halted, 2 waits for a start-up message, 3 is shut down.
    pub activity: u8,
    pub interrupt_shadow: bool,
    pub nmi_blocked: bool,
    /// Vector, error code, CR2.
    pub pending_exception: Option<(u8, Option<u32>, Option<u64>)>,
}

/// No CPU of ours can be in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the saved state of a CPU is not possible: {0}")]
pub struct BadCpu(&'static str);

fn segment(saved: SavedSegment) -> Segment {
    let (selector, base, limit, attributes) = saved;
    Segment { selector, base, limit, attributes }
}

impl CpuState {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedCpu {
        let Self {
            gpr,
            rip,
            rflags,
            segments,
            ldtr,
            tr,
            gdtr,
            idtr,
            cr0,
            cr2,
            cr3,
            cr4,
            efer,
            xcr0,
            dr,
            msrs,
            xsave,
            pkru,
            activity,
            interrupt_shadow,
            nmi_blocked,
            pending_exception,
        } = self;
        let Msrs {
            star,
            lstar,
            cstar,
            sfmask,
            kernel_gs_base,
            sysenter_cs,
            sysenter_esp,
            sysenter_eip,
            pat,
            tsc_aux,
            misc_enable,
            spec_ctrl,
            tsc_adjust,
            pkrs,
        } = *msrs;
        let segment =
            |&Segment { selector, base, limit, attributes }: &Segment| (selector, base, limit, attributes);
        SavedCpu {
            gpr: *gpr,
            rip: *rip,
            rflags: rflags.bits(),
            segments: segments.each_ref().map(segment),
            ldtr: segment(ldtr),
            tr: segment(tr),
            gdtr: (gdtr.base, gdtr.limit),
            idtr: (idtr.base, idtr.limit),
            cr0: cr0.bits(),
            cr2: *cr2,
            cr3: *cr3,
            cr4: cr4.bits(),
            efer: efer.bits(),
            xcr0: xcr0.bits(),
            dr: *dr,
            msrs: [
                star,
                lstar,
                cstar,
                sfmask,
                kernel_gs_base,
                sysenter_cs,
                sysenter_esp,
                sysenter_eip,
                pat,
                tsc_aux,
                misc_enable,
                spec_ctrl,
                tsc_adjust,
                pkrs,
            ],
            xsave: xsave.0.to_vec(),
            pkru: *pkru,
            activity: match activity {
                Activity::Running => 0,
                Activity::Halted => 1,
                Activity::WaitsForStartUp => 2,
                Activity::Shutdown => 3,
            },
            interrupt_shadow: *interrupt_shadow,
            nmi_blocked: *nmi_blocked,
            pending_exception: pending_exception
                .map(|e| (e.vector as u8, e.error_code, e.cr2.map(|at| at.0))),
        }
    }
}

impl SavedCpu {
    /// The state that was saved, of a CPU with so many bits of physical address.
    ///
    /// # Errors
    /// [`BadCpu`], if no CPU of ours can be in that state.
    pub fn restored(&self, physical_bits: u8) -> Result<CpuState, BadCpu> {
        let &[
            star,
            lstar,
            cstar,
            sfmask,
            kernel_gs_base,
            sysenter_cs,
            sysenter_esp,
            sysenter_eip,
            pat,
            tsc_aux,
            misc_enable,
            spec_ctrl,
            tsc_adjust,
            pkrs,
        ] = &self.msrs;
        let xsave =
            self.xsave.as_slice().try_into().map_err(|_| BadCpu("the XSAVE area has another size"))?;
        let state = CpuState {
            gpr: self.gpr,
            rip: self.rip,
            rflags: Rflags::from_bits(self.rflags).ok_or(BadCpu("RFLAGS has a reserved bit"))?,
            segments: self.segments.map(segment),
            ldtr: segment(self.ldtr),
            tr: segment(self.tr),
            gdtr: DescriptorTable { base: self.gdtr.0, limit: self.gdtr.1 },
            idtr: DescriptorTable { base: self.idtr.0, limit: self.idtr.1 },
            cr0: Cr0::from_bits(self.cr0).ok_or(BadCpu("CR0 has a reserved bit"))?,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: Cr4::from_bits(self.cr4)
                .filter(|cr4| (Cr4::SUPPORTED | Cr4::OPTIONAL).contains(*cr4))
                .ok_or(BadCpu("CR4 has a bit that no guest can set"))?,
            efer: Efer::from_bits(self.efer).ok_or(BadCpu("EFER has a reserved bit"))?,
            xcr0: Xcr0::from_bits(self.xcr0).ok_or(BadCpu("XCR0 has a reserved bit"))?,
            dr: self.dr,
            msrs: Msrs {
                star,
                lstar,
                cstar,
                sfmask,
                kernel_gs_base,
                sysenter_cs,
                sysenter_esp,
                sysenter_eip,
                pat,
                tsc_aux,
                misc_enable,
                spec_ctrl,
                tsc_adjust,
                pkrs,
            },
            xsave: XsaveArea(xsave),
            pkru: self.pkru,
            activity: match self.activity {
                0 => Activity::Running,
                1 => Activity::Halted,
                2 => Activity::WaitsForStartUp,
                3 => Activity::Shutdown,
                _ => return Err(BadCpu("an activity that does not exist")),
            },
            interrupt_shadow: self.interrupt_shadow,
            nmi_blocked: self.nmi_blocked,
            pending_exception: self.pending_exception.map(exception).transpose()?,
        };
        check_control(&state, physical_bits)?;
        check_segments(&state)?;
        check_rest(&state)?;
        Ok(state)
    }
}

fn exception((number, error_code, cr2): (u8, Option<u32>, Option<u64>)) -> Result<Exception, BadCpu> {
    let vector = Vector::ALL.into_iter().find(|v| *v as u8 == number);
    let vector = vector.ok_or(BadCpu("an exception that does not exist"))?;
    if vector.has_error_code() != error_code.is_some() || cr2.is_some() && vector != Vector::PageFault {
        return Err(BadCpu("an exception with or without an error code, wrongly"));
    }
    Ok(Exception { vector, error_code, cr2: cr2.map(Gva) })
}

fn require(holds: bool, otherwise: &'static str) -> Result<(), BadCpu> {
    if holds { Ok(()) } else { Err(BadCpu(otherwise)) }
}

fn is_canonical(address: u64) -> bool {
    Gva(address).is_canonical()
}

/// Control registers and what hangs on them (SDM 28.3.1.1).
fn check_control(state: &CpuState, physical_bits: u8) -> Result<(), BadCpu> {
    let CpuState { cr0, cr4, efer, xcr0, .. } = *state;
    let paging = cr0.contains(Cr0::PG);
    let long = efer.contains(Efer::LMA);
    require(!paging || cr0.contains(Cr0::PE), "paging without protection")?;
    require(cr0.contains(Cr0::CD) || !cr0.contains(Cr0::NW), "CR0.NW without CR0.CD")?;
    require(
        long == (paging && efer.contains(Efer::LME)),
        "EFER.LMA does not follow from EFER.LME and CR0.PG",
    )?;
    require(!long || cr4.contains(Cr4::PAE), "long mode without CR4.PAE")?;
    require(long || !cr4.contains(Cr4::PCIDE), "CR4.PCIDE outside of long mode")?;
    let beyond = u64::MAX.checked_shl(physical_bits.into()).unwrap_or(0);
    require(state.cr3 & beyond == 0, "CR3 is beyond physical addresses")?;
    require(xcr0.contains(Xcr0::X87), "XCR0 without the x87's bit")?;
    require(xcr0.contains(Xcr0::SSE) || !xcr0.contains(Xcr0::AVX), "XCR0 with AVX and without SSE")
}

/// Segments and tables (SDM 28.3.1.2 and 28.3.1.3).
fn check_segments(state: &CpuState) -> Result<(), BadCpu> {
    let all = state.segments.iter().chain([&state.ldtr, &state.tr]);
    require(all.clone().all(|s| s.attributes & 0x0f00 == 0), "a segment with a reserved attribute")?;
    require(all.clone().all(|s| is_canonical(s.base)), "a segment at an address that is not canonical")?;
    let [es, cs, ss, ds, ..] = &state.segments;
    require([es, cs, ss, ds].iter().all(|s| s.base >> 32 == 0), "a segment above 4 GiB")?;
    let tables = [state.gdtr.base, state.idtr.base];
    require(tables.into_iter().all(is_canonical), "a descriptor table at an address that is not canonical")?;
    let long = state.is_long_mode();
    require(!(long && cs.is_long() && cs.is_big()), "a code segment of 64 and of 32 bits")?;
    require(!(long && state.rflags.contains(Rflags::VM)), "virtual 8086 mode within long mode")?;
    let rip = state.rip;
    require(if state.is_64bit_code() { is_canonical(rip) } else { rip >> 32 == 0 }, "RIP is out of range")
}

/// Flags, MSRs, debug registers, and what an XRSTOR of ours would fault on.
fn check_rest(state: &CpuState) -> Result<(), BadCpu> {
    require(state.rflags.contains(Rflags::FIXED), "RFLAGS without its fixed bit")?;
    let m = &state.msrs;
    let addresses = [m.lstar, m.cstar, m.kernel_gs_base, m.sysenter_esp, m.sysenter_eip];
    require(addresses.into_iter().all(is_canonical), "an MSR with an address that is not canonical")?;
    require((m.sfmask | m.tsc_aux | m.pkrs) >> 32 == 0, "an MSR with a reserved bit")?;
    require(m.spec_ctrl & !super::msr::SPEC_CTRL_BITS == 0, "IA32_SPEC_CTRL with a reserved bit")?;
    require(
        m.pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
        "a memory type that does not exist",
    )?;
    require((state.dr[6] | state.dr[7]) >> 32 == 0, "a debug register with a reserved bit")?;
    let header = &state.xsave.0[XsaveArea::XSTATE_BV..XsaveArea::YMM_HIGH];
    require(
        header[0] & !7 == 0 && header[1..].iter().all(|b| *b == 0),
        "the XSAVE area's header has a reserved bit",
    )?;
    require(state.xsave.mxcsr() >> 16 == 0, "MXCSR has a reserved bit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Change = fn(&mut SavedCpu);

    fn good() -> Vec<CpuState> {
        let mut halted = CpuState::linux64_entry(0x10_0000, 0x9000, 0x8000);
        halted.activity = Activity::Halted;
        halted.pending_exception =
            Some(Exception::page_fault(Gva(7), crate::arch::exception::PageFaultCode::WRITE));
        halted.xsave.0[XsaveArea::XMM] = 9;
        halted.msrs.star = 77;
        halted.gpr[5] = 6;
        (halted.pkru, halted.msrs.pkrs) = (0x5555_5554, 0xc);
        halted.cr4 |= Cr4::PKE | Cr4::PKS;
        halted.xcr0 |= Xcr0::PKRU;
        vec![CpuState::reset(), CpuState::pvh_entry(1, 2), CpuState::linux32_entry(3, 4), halted]
    }

    #[test]
    fn what_is_saved_comes_back() {
        for state in good() {
            let bytes = postcard::to_allocvec(&state.saved()).unwrap();
            let saved: SavedCpu = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(saved.restored(46).unwrap(), state);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let changes: [(&str, Change); 15] = [
            ("paging without protection", |s| s.cr0 &= !1),
            ("EFER.LMA", |s| s.efer &= !(1 << 8)),
            ("CR4.PAE", |s| s.cr4 = 0),
            ("CR3", |s| s.cr3 = 1 << 46),
            ("XCR0", |s| s.xcr0 = 5),
            ("an MSR with a reserved bit", |s| s.msrs[13] = 1 << 32),
            ("RIP", |s| s.rip = 1 << 63),
            ("canonical", |s| s.gdtr.0 = 1 << 47),
            ("above 4 GiB", |s| s.segments[0].1 = 1 << 32),
            ("header", |s| s.xsave[XsaveArea::XSTATE_BV + 8] = 1),
            ("MXCSR", |s| s.xsave[XsaveArea::MXCSR + 2] = 1),
            ("another size", |s| s.xsave.truncate(831)),
            ("activity", |s| s.activity = 4),
            ("does not exist", |s| s.pending_exception = Some((9, None, None))),
            ("error code", |s| s.pending_exception = Some((13, None, None))),
        ];
        let good = good()[3].saved();
        good.restored(46).unwrap();
        for (why, change) in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let refused = bad.restored(46).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    proptest! {
        /// A damaged state is refused or is one whose saving gives it again.
        #[test]
        fn damaged_states_are_refused_or_possible(which in 0_usize..4, at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut bytes = postcard::to_allocvec(&good()[which].saved()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(saved) = postcard::from_bytes::<SavedCpu>(&bytes)
                && let Ok(state) = saved.restored(46)
            {
                prop_assert_eq!(state.saved(), saved);
            }
        }
    }
}
