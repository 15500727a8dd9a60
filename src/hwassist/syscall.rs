//! SYSCALL from ring 3, where the host's KVM goes to the entry point with it but stays at ring 3 (`kvm_pvm`).
//!
//! Nothing comes out of such a SYSCALL by itself. So the guest's IA32_LSTAR and IA32_FMASK are kept here, as MSRs that
//! exit to us, and KVM is told stand-ins: no flag is cleared, and the entry is [`STAND_IN`], where no guest has code. With
//! RFLAGS.IF still set and an interrupt window asked for at every entry, KVM_RUN comes back before anything is fetched
//! there. Then RCX and R11 are right, and the rest of SYSCALL is done here: CS and SS from IA32_STAR, RFLAGS, RIP.
//!
//! Whether a host needs this is measured ([`super::Calibration::syscall_enters`]); others run undisturbed. What is done
//! here counts as a rescue. Ring 3 that jumps to the stand-in itself gets its page fault: KVM opens no window while an
//! exception is pending.
use super::vcpu::KvmVcpu;
use super::{host, msr, regs};
use crate::arch::msr::{LSTAR, SFMASK, STAR};
use crate::arch::{CpuState, Efer, Exception, Gva, Rflags, SegmentRegister};
use crate::emulator::single::{Outcome, far};
use crate::engine::{EngineError, Exit, Platform};
use iced_x86::Mnemonic;
use kvm_bindings::kvm_sync_regs;

/// The entry point that KVM is told: the first address of the upper half, which Linux leaves to hypervisors
/// (`Documentation/arch/x86/x86_64/mm.rst`).
const STAND_IN: u64 = 0xffff_8000_0000_0000;
/// Bytes of SYSCALL.
const LENGTH: u64 = 2;

/// What the guest wrote to the MSRs that KVM does not get to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SyscallEntry {
    lstar: u64,
    sfmask: u64,
}

impl SyscallEntry {
    /// RDMSR of one of the two.
    pub(super) fn read(&self, index: u32) -> Option<u64> {
        match index {
            LSTAR => Some(self.lstar),
            SFMASK => Some(self.sfmask),
            _ => None,
        }
    }

    /// WRMSR of one of the two: whether the value is taken, or is #GP. `None` for other MSRs.
    pub(super) fn write(&mut self, index: u32, value: u64) -> Option<bool> {
        let (place, valid) = match index {
            LSTAR => (&mut self.lstar, Gva(value).is_canonical()),
            SFMASK => (&mut self.sfmask, value >> 32 == 0),
            _ => return None,
        };
        if valid {
            *place = value;
        }
        Some(valid)
    }

    /// Puts the guest's values into a state that KVM gave.
    pub(super) fn restore(&self, state: &mut CpuState) {
        (state.msrs.lstar, state.msrs.sfmask) = (self.lstar, self.sfmask);
    }

    /// Takes the guest's values out of a state, which is then fit for KVM.
    pub(super) fn take(&mut self, state: &mut CpuState) {
        (self.lstar, self.sfmask) = (state.msrs.lstar, state.msrs.sfmask);
        (state.msrs.lstar, state.msrs.sfmask) = (STAND_IN, 0);
    }
}

impl KvmVcpu {
    /// Whether ring 3 has executed SYSCALL and stands at the stand-in. The window has opened.
    pub(super) fn stands_in_syscall(&self) -> Result<bool, EngineError> {
        if self.entry.is_none() {
            return Ok(false);
        }
        let core = self.core_after_run()?;
        Ok(core.regs.rip == STAND_IN && core.sregs.cs.dpl == 3 && core.sregs.cs.l == 1)
    }

    /// Does what is left of a SYSCALL.
    pub(super) fn finish_syscall(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        let entry = self.entry.unwrap_or_default();
        let kvm_sync_regs { regs: mut registers, mut sregs, .. } = self.core_after_run()?;
        self.note_rescue(platform, registers.rcx.wrapping_sub(LENGTH), Mnemonic::Syscall);
        if !Efer::from_bits_retain(sregs.efer).contains(Efer::SCE) {
            return self.refuse_syscall(platform);
        }
        let mut star = msr::one(STAR, 0)?;
        self.fd.get_msrs(&mut star).map_err(host("cannot read MSRs"))?;
        let mut state = CpuState::reset();
        state.msrs.star = star.as_slice().first().map_or(0, |e| e.data);
        far::enter_by_syscall(&mut state);
        sregs.cs = regs::segment_to_kvm(state.segment(SegmentRegister::Cs));
        sregs.ss = regs::segment_to_kvm(state.segment(SegmentRegister::Ss));
        let flags = Rflags::from_bits_retain(registers.r11);
        registers.r11 = (flags - Rflags::RF).bits();
        let kept = Rflags::from_bits_retain(registers.r11 & !entry.sfmask);
        registers.rflags = (kept | Rflags::FIXED).bits();
        registers.rip = entry.lstar;
        self.fd.set_sregs(&sregs).map_err(host("cannot write the registers of a vCPU"))?;
        self.fd.set_regs(&registers).map_err(host("cannot write the registers of a vCPU"))?;
        self.window_open = kept.contains(Rflags::IF);
        Ok(None)
    }

    /// The guest has not switched SYSCALL on: #UD at the instruction. RCX and R11 are lost.
    fn refuse_syscall(&mut self, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        let mut state = self.save_state()?;
        state.rip = state.gpr[crate::arch::state::gpr::RCX].wrapping_sub(LENGTH);
        self.forget_single();
        let outcome = self.single().deliver_exception(&mut state, platform, Exception::UD)?;
        self.load_state(&state)?;
        Ok((outcome == Outcome::TripleFault).then_some(Exit::TripleFault))
    }
}
