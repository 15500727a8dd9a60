//! Registers between a waiting child and a [`CpuState`].
//!
//! The host's flags hold only what guest code may change natively; IF, IOPL and AC are virtual. IF lives in the control
//! page, where thunks change it; IOPL and AC live in the engine. Segments, control registers and the like never reach
//! the child, but for the bases of FS and GS.
use super::{Child, Waiting};
use crate::arch::{CpuState, Gva, Rflags, SegmentRegister, XsaveArea};
use crate::engine::EngineError;
use crate::pv::layout::{POPF_SLOWLY, at, command, frame};

/// Flags that guest code changes natively.
pub(super) const NATIVE: Rflags = Rflags::STATUS.union(Rflags::DF).union(Rflags::ID).union(Rflags::NT);
/// Flags that are set in the image that PUSHF pushes only because the engine says so.
const EXTRA: Rflags = Rflags::IOPL.union(Rflags::AC);
/// Bytes 464–511 of the FXSAVE image are the kernel's in a signal frame.
const SOFTWARE: std::ops::Range<usize> = 464..512;
/// Bits of MXCSR that exist.
const MXCSR_MASK: u32 = 0xffff;

impl Child {
    /// Copies general registers, RIP, flags and bases into `state`.
    pub(in crate::pv) fn save_registers(&self, state: &mut CpuState) {
        let shared = self.shared();
        let host_flags = match self.waiting() {
            Waiting::Hypercall => {
                for (i, value) in state.gpr.iter_mut().enumerate() {
                    *value = shared.get(at::GPR + 8 * i as u64);
                }
                state.rip = shared.get(at::RIP);
                shared.get(at::RFLAGS)
            }
            Waiting::Signal { frame: base, .. } => {
                for (value, offset) in state.gpr.iter_mut().zip(frame::GPR) {
                    *value = shared.get(base + offset);
                }
                state.rip = shared.get(base + frame::RIP);
                shared.get(base + frame::RFLAGS)
            }
        };
        let mut flags =
            Rflags::from_bits_truncate(host_flags) & NATIVE | Rflags::FIXED | state.rflags & EXTRA;
        flags.set(Rflags::IF, shared.get(at::FLAGS_DELTA) & Rflags::IF.bits() == 0);
        state.rflags = flags;
        state.segment_mut(SegmentRegister::Fs).base = shared.get(at::FS_BASE);
        state.segment_mut(SegmentRegister::Gs).base = shared.get(at::GS_BASE);
    }

    /// Copies general registers, flags and bases out of `state`; the child will go on at `rip`. The bits that are
    /// returned are commands to be given with the release.
    pub(in crate::pv) fn load_registers(&mut self, state: &CpuState, rip: u64, interrupt_waits: bool) -> u32 {
        self.load_general(state, rip);
        let shared = self.shared();
        let extra = (state.rflags & EXTRA).bits();
        let masked = if state.rflags.contains(Rflags::IF) { 0 } else { Rflags::IF.bits() };
        shared.put(at::FLAGS_DELTA, extra.wrapping_sub(masked));
        let refused = state.cpl() > state.rflags.iopl();
        let slow = refused || extra != 0;
        shared.put(at::CLI_SLOW, slow.into());
        shared.put(at::STI_SLOW, (slow || interrupt_waits).into());
        let popf_slow = slow || interrupt_waits || state.cpl() > 0;
        shared.put(at::POPF_SLOW, if popf_slow { POPF_SLOWLY } else { 0 });
        let fs = state.segment(SegmentRegister::Fs).base;
        let gs = state.segment(SegmentRegister::Gs).base;
        if shared.get(at::FS_BASE) == fs && shared.get(at::GS_BASE) == gs {
            return 0;
        }
        shared.put(at::FS_BASE, fs);
        shared.put(at::GS_BASE, gs);
        // The stub loads them without a check; a value that no CPU holds would fault there.
        if Gva(fs).is_canonical() && Gva(gs).is_canonical() { command::LOAD_BASES } else { 0 }
    }

    /// Copies general registers and flags out of `state`, so that the child goes on at `rip` with nothing else changed.
    pub(in crate::pv) fn load_general(&mut self, state: &CpuState, rip: u64) {
        let shared = self.shared();
        let host_flags = (state.rflags & NATIVE | Rflags::FIXED | Rflags::IF).bits();
        match self.waiting() {
            Waiting::Hypercall => {
                for (i, &value) in state.gpr.iter().enumerate() {
                    shared.put(at::GPR + 8 * i as u64, value);
                }
                // Into the line that the child looks at: with the release.
                self.resume = Some((rip, host_flags));
            }
            Waiting::Signal { frame: base, .. } => {
                for (&value, offset) in state.gpr.iter().zip(frame::GPR) {
                    shared.put(base + offset, value);
                }
                shared.put(base + frame::RIP, rip);
                shared.put(base + frame::RFLAGS, host_flags);
            }
        }
    }

    /// Copies the vector registers into `area`.
    pub(in crate::pv) fn save_vectors(&mut self, area: &mut XsaveArea) -> Result<(), EngineError> {
        let offset = match self.waiting() {
            Waiting::Hypercall => {
                self.trip(command::SAVE_FPU)?;
                at::XSAVE
            }
            Waiting::Signal { fpu, .. } => fpu,
        };
        let initial = XsaveArea::default();
        self.shared().read(offset, &mut area.0);
        let present = area.0[XsaveArea::XSTATE_BV];
        let parts = [
            (1_u8, 0..XsaveArea::MXCSR),
            (1, 32..XsaveArea::XMM),
            (2, XsaveArea::XMM..416),
            (4, XsaveArea::YMM_HIGH..XsaveArea::SIZE),
        ];
        for (bit, range) in parts {
            if present & bit == 0 {
                area.0[range.clone()].copy_from_slice(&initial.0[range]);
            }
        }
        let mxcsr = XsaveArea::MXCSR..XsaveArea::MXCSR + 4;
        if present & 6 == 0 {
            area.0[mxcsr.clone()].copy_from_slice(&initial.0[mxcsr.clone()]);
        }
        area.0[mxcsr.end..mxcsr.end + 4].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        area.0[SOFTWARE].fill(0);
        area.0[SOFTWARE.end..XsaveArea::YMM_HIGH].fill(0);
        area.0[XsaveArea::XSTATE_BV] = 7;
        Ok(())
    }

    /// Copies the vector registers out of `area`. The bits that are returned are commands to be given with the release.
    pub(in crate::pv) fn load_vectors(&mut self, area: &XsaveArea) -> u32 {
        let mut copy = area.clone();
        let mxcsr = XsaveArea::MXCSR..XsaveArea::MXCSR + 4;
        let mut value = [0; 4];
        value.copy_from_slice(&copy.0[mxcsr.clone()]);
        let value = u32::from_le_bytes(value) & MXCSR_MASK;
        copy.0[mxcsr].copy_from_slice(&value.to_le_bytes());
        let (offset, commands) = match self.waiting() {
            Waiting::Hypercall => (at::XSAVE, command::LOAD_FPU),
            Waiting::Signal { fpu, .. } => (fpu, 0),
        };
        let shared = self.shared();
        shared.write(offset, &copy.0[..SOFTWARE.start]);
        let header = offset + XsaveArea::XSTATE_BV as u64;
        if commands == 0 {
            // What the host keeps beside these three parts stays as it is.
            shared.set(header, shared.get(header) | 7);
        } else {
            shared.set(header, 7);
            (1..8).for_each(|i| shared.set(header + 8 * i, 0));
        }
        shared.write(offset + XsaveArea::YMM_HIGH as u64, &copy.0[XsaveArea::YMM_HIGH..]);
        commands
    }
}
