//! RDMSR, WRMSR, time-stamp counter, CPUID, random numbers (SDM vol. 4; vol. 2).
#![expect(unsafe_code, reason = "RDRAND and RDSEED are intrinsics")]
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{CF, Flags};
use super::lower::operand_size;
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::{RAX, RBX, RCX, RDX};
use crate::arch::{Cr0, Cr4, Efer, Exception, Gva, SegmentRegister, msr};
use crate::clock::ClockSource;
use iced_x86::{Instruction, Mnemonic};

/// The guest's time-stamp counter.
fn tsc(cx: &Cx) -> u64 {
    cx.platform.clock().tsc().wrapping_add(cx.state.msrs.tsc_adjust)
}

/// Memory types that IA32_PAT may hold: UC, WC, WT, WP, WB, UC−.
fn valid_pat(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|t| matches!(t, 0 | 1 | 4..=7))
}

/// Whether CPUID offers the guest controls of speculation.
fn speculation(cx: &Cx) -> bool {
    cx.platform.cpuid_table().query(7, 0, Cr4::empty()).edx >> 26 & 1 != 0
}

/// Whether CPUID offers the guest protection keys.
fn keys(cx: &Cx) -> bool {
    cx.platform.cpuid_table().has_protection_keys()
}

/// Reads an MSR; `None` is #GP.
fn read(cx: &Cx, index: u32) -> Option<u64> {
    let m = &cx.state.msrs;
    Some(match index {
        msr::TSC => tsc(cx),
        msr::TSC_ADJUST => m.tsc_adjust,
        msr::SYSENTER_CS => m.sysenter_cs,
        msr::SYSENTER_ESP => m.sysenter_esp,
        msr::SYSENTER_EIP => m.sysenter_eip,
        msr::MISC_ENABLE => m.misc_enable,
        msr::SPEC_CTRL if speculation(cx) => m.spec_ctrl,
        msr::ARCH_CAPABILITIES | msr::PRED_CMD if !speculation(cx) => return None,
        msr::PKRS if keys(cx) => m.pkrs,
        msr::PAT => m.pat,
        msr::EFER => cx.state.efer.bits(),
        msr::STAR => m.star,
        msr::LSTAR => m.lstar,
        msr::CSTAR => m.cstar,
        msr::SFMASK => m.sfmask,
        msr::FS_BASE => cx.state.segment(SegmentRegister::Fs).base,
        msr::GS_BASE => cx.state.segment(SegmentRegister::Gs).base,
        msr::KERNEL_GS_BASE => m.kernel_gs_base,
        msr::TSC_AUX => m.tsc_aux,
        // The chip knows nothing of what this CPU's counter is ahead.
        msr::TSC_DEADLINE => match cx.platform.msr_read(cx.mmu.vcpu, index)? {
            0 => 0,
            ticks => ticks.wrapping_add(m.tsc_adjust),
        },
        _ => return msr::constant(index).or_else(|| cx.platform.msr_read(cx.mmu.vcpu, index)),
    })
}

/// Writes an MSR; `None` is #GP.
fn write(cx: &mut Cx, index: u32, value: u64) -> Option<()> {
    let canonical = || Gva(value).is_canonical().then_some(value);
    let word = || (value >> 32 == 0).then_some(value);
    match index {
        msr::TSC | msr::TSC_ADJUST => {
            let ahead = if index == msr::TSC { cx.platform.clock().tsc() } else { 0 };
            cx.state.msrs.tsc_adjust = value.wrapping_sub(ahead);
            cx.platform.moved_tsc(cx.mmu.vcpu, cx.state.msrs.tsc_adjust);
        }
        msr::SYSENTER_CS => cx.state.msrs.sysenter_cs = value & 0xffff_ffff,
        msr::SYSENTER_ESP => cx.state.msrs.sysenter_esp = canonical()?,
        msr::SYSENTER_EIP => cx.state.msrs.sysenter_eip = canonical()?,
        msr::MISC_ENABLE => cx.state.msrs.misc_enable = value,
        msr::SPEC_CTRL if speculation(cx) && value & !msr::SPEC_CTRL_BITS == 0 => {
            cx.state.msrs.spec_ctrl = value;
        }
        msr::PRED_CMD if !speculation(cx) || value > 1 => return None,
        msr::PKRS if keys(cx) => {
            cx.state.msrs.pkrs = word()?;
            super::keys::take_over(cx);
        }
        msr::PAT => cx.state.msrs.pat = Some(value).filter(|&v| valid_pat(v))?,
        msr::EFER => {
            // LMA is the CPU's own; LME cannot change while paging is on.
            let wanted = Efer::from_bits(value)?;
            let old = cx.state.efer;
            let new = (wanted - Efer::LMA) | (old & Efer::LMA);
            if (old ^ new).contains(Efer::LME) && cx.state.cr0.contains(Cr0::PG) {
                return None;
            }
            cx.state.efer = new;
            if (old ^ new).contains(Efer::NXE) {
                cx.mmu.tlb.flush_all();
            }
        }
        msr::STAR => cx.state.msrs.star = value,
        msr::LSTAR => cx.state.msrs.lstar = canonical()?,
        msr::CSTAR => cx.state.msrs.cstar = canonical()?,
        msr::SFMASK => cx.state.msrs.sfmask = word()?,
        msr::FS_BASE => cx.state.segment_mut(SegmentRegister::Fs).base = canonical()?,
        msr::GS_BASE => cx.state.segment_mut(SegmentRegister::Gs).base = canonical()?,
        msr::KERNEL_GS_BASE => cx.state.msrs.kernel_gs_base = canonical()?,
        msr::TSC_AUX => cx.state.msrs.tsc_aux = word()?,
        msr::TSC_DEADLINE => {
            let ticks = if value == 0 { 0 } else { value.saturating_sub(cx.state.msrs.tsc_adjust).max(1) };
            return cx.platform.msr_write(cx.mmu.vcpu, index, ticks, cx.state.msrs.tsc_adjust);
        }
        _ if msr::ignores_write(index, value) => {}
        _ => return cx.platform.msr_write(cx.mmu.vcpu, index, value, cx.state.msrs.tsc_adjust),
    }
    Some(())
}

fn set_pair(cx: &mut Cx, value: u64) {
    cx.regs[RAX] = value & 0xffff_ffff;
    cx.regs[RDX] = value >> 32;
}

fn rdmsr(cx: &mut Cx, _: &Op) -> Step {
    cx.need_ring0()?;
    match read(cx, cx.regs[RCX] as u32) {
        Some(value) => set_pair(cx, value),
        None => return Err(cx.raise(Exception::GP0)),
    }
    Ok(Flow::Next)
}

fn wrmsr(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let value = cx.regs[RDX] << 32 | cx.regs[RAX] & 0xffff_ffff;
    if write(cx, cx.regs[RCX] as u32, value).is_none() {
        return Err(cx.raise(Exception::GP0));
    }
    super::control::renew(cx, op)
}

fn rdtsc(cx: &mut Cx, op: &Op) -> Step {
    if cx.state.cr4.contains(Cr4::TSD) && cx.state.cpl() > 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let value = tsc(cx);
    set_pair(cx, value);
    if operand::instruction(op).mnemonic() == Mnemonic::Rdtscp {
        cx.regs[RCX] = cx.state.msrs.tsc_aux & 0xffff_ffff;
    }
    Ok(Flow::Next)
}

/// There are no performance counters: every index is one too many.
fn rdpmc(cx: &mut Cx, _: &Op) -> Step {
    Err(cx.raise(Exception::GP0))
}

fn rdpid(cx: &mut Cx, op: &Op) -> Step {
    let value = cx.state.msrs.tsc_aux;
    operand::write_register(cx, operand::instruction(op).op0_register(), value);
    Ok(Flow::Next)
}

fn cpuid(cx: &mut Cx, _: &Op) -> Step {
    let (leaf, subleaf) = (cx.regs[RAX] as u32, cx.regs[RCX] as u32);
    let r = cx.platform.cpuid(cx.mmu.vcpu, leaf, subleaf, cx.state);
    cx.regs[RAX] = r.eax.into();
    cx.regs[RBX] = r.ebx.into();
    cx.regs[RCX] = r.ecx.into();
    cx.regs[RDX] = r.edx.into();
    Ok(Flow::Next)
}

#[target_feature(enable = "rdrand")]
fn host_rdrand() -> Option<u64> {
    let mut value = 0;
    (core::arch::x86_64::_rdrand64_step(&mut value) == 1).then_some(value)
}

#[target_feature(enable = "rdseed")]
fn host_rdseed() -> Option<u64> {
    let mut value = 0;
    (core::arch::x86_64::_rdseed64_step(&mut value) == 1).then_some(value)
}

/// What RDRAND and RDSEED give where time is counted and runs are to repeat: a function of guest time and the registers. One
/// of these is what was given last, so that the next is another.
fn repeatable(cx: &Cx) -> u64 {
    // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), over all words.
    cx.regs[..16].iter().fold(cx.platform.clock().now().0, |sum, register| {
        let sum = (sum ^ register).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let sum = (sum ^ sum >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let sum = (sum ^ sum >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        sum ^ sum >> 31
    })
}

fn random(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let clock = cx.platform.clock();
    let value = match (clock.source(), instruction.mnemonic()) {
        (ClockSource::Counted { .. }, _) => Some(repeatable(cx)),
        // SAFETY: the instruction is offered to the guest only if the host has it; others are #UD before they come here.
        (_, Mnemonic::Rdrand) => unsafe { host_rdrand() },
        // SAFETY: as above.
        _ => unsafe { host_rdseed() },
    };
    let mask = u64::MAX >> (64 - 8 * operand_size(&instruction, 0).min(8));
    operand::write_register(cx, instruction.op0_register(), value.unwrap_or(0) & mask);
    let flags: Flags = if value.is_some() { CF } else { 0 };
    cx.flags = flags;
    Ok(Flow::Next)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Rdmsr => rdmsr,
        Mnemonic::Wrmsr => wrmsr,
        Mnemonic::Rdtsc | Mnemonic::Rdtscp => rdtsc,
        Mnemonic::Rdpmc => rdpmc,
        Mnemonic::Rdpid => rdpid,
        Mnemonic::Cpuid => cpuid,
        Mnemonic::Rdrand | Mnemonic::Rdseed => random,
        _ => return None,
    })
}
