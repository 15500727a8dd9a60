//! Debug registers: moves to and from them, breakpoints on instructions, data and ports, single steps (SDM 17.2, 17.3).
//!
//! While DR7 enables anything the vCPU executes one instruction after the other: before each, instruction breakpoints
//! are compared; the slow path of memory notes hits of data breakpoints, whose pages the TLB does not enter then.
use super::cx::{Cx, Flow, Handler, Step};
use super::op::Op;
use super::operand;
use crate::arch::{CpuState, Cr4, Exception, Rflags, SegmentRegister, Vector};
use crate::emulator::mmu::Fault;
use crate::emulator::mmu::watch::{Use, Watch};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// DR6: the exception is a single step.
const DR6_BS: u64 = 1 << 14;
/// DR6: a debug register was to be used.
const DR6_BD: u64 = 1 << 13;
/// DR7: each use of a debug register is to be trapped.
const DR7_GD: u64 = 1 << 13;
/// DR7: the eight bits that enable breakpoints.
const DR7_ENABLE: u64 = 0xff;

/// Whether a breakpoint is enabled.
#[inline(always)]
pub(crate) fn is_armed(state: &CpuState) -> bool {
    state.dr[7] & DR7_ENABLE != 0
}

/// The breakpoints of `state` that are enabled.
pub(crate) fn watches(state: &CpuState) -> [Option<Watch>; 4] {
    let dr7 = state.dr[7];
    std::array::from_fn(|i| {
        if dr7 >> (2 * i) & 3 == 0 {
            return None;
        }
        let control = dr7 >> (16 + 4 * i);
        let length = match control >> 2 & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let kind = match control & 3 {
            0 => Use::Execute,
            1 => Use::Write,
            2 if state.cr4.contains(Cr4::DE) => Use::Port,
            2 => return None,
            _ => Use::Access,
        };
        // The address has as many low bits as the length lets it have.
        Some(Watch { start: state.dr[i] & !(length - 1), length, kind })
    })
}

/// The #DB of an instruction breakpoint at RIP, unless RF holds it off. DR6 says which.
pub(super) fn before(cx: &mut Cx) -> Option<Exception> {
    if !is_armed(cx.state) || cx.state.rflags.contains(Rflags::RF) {
        return None;
    }
    let at = super::address::linear(cx.state, SegmentRegister::Cs, cx.state.rip);
    let hits = cx.mmu.watches.hits(at, 1, |kind| kind == Use::Execute);
    if hits == 0 {
        return None;
    }
    cx.state.dr[6] = cx.state.dr[6] & !0xf | u64::from(hits);
    Some(Exception::plain(Vector::Debug))
}

/// The #DB after an instruction that hit data breakpoints, or was a single step.
pub(super) fn after(cx: &mut Cx, stepped: bool) -> Option<Exception> {
    let hits = std::mem::take(&mut cx.mmu.watches.hit);
    if hits == 0 && !stepped {
        return None;
    }
    note_hits(cx.state, hits);
    Some(if stepped { single_step(cx.state) } else { Exception::plain(Vector::Debug) })
}

/// Tells DR6 of the breakpoints on data and ports that were hit, a bit each.
pub(super) fn note_hits(state: &mut CpuState, hits: u8) {
    if hits != 0 {
        state.dr[6] = state.dr[6] & !0xf | u64::from(hits);
    }
}

/// The #DB of a single step, which DR6 is told of.
pub(super) fn single_step(state: &mut CpuState) -> Exception {
    state.dr[6] |= DR6_BS;
    Exception::plain(Vector::Debug)
}

/// Registers 4 and 5 are 6 and 7 unless CR4.DE forbids them; DR7.GD traps every access.
fn number(cx: &mut Cx, number: usize) -> Result<usize, Fault> {
    let number = match number {
        4 | 5 if cx.state.cr4.contains(Cr4::DE) => return Err(cx.raise(Exception::UD)),
        4 | 5 => number + 2,
        8.. => return Err(cx.raise(Exception::UD)),
        _ => number,
    };
    cx.need_ring0()?;
    if cx.state.dr[7] & DR7_GD != 0 {
        cx.state.dr[7] &= !DR7_GD;
        cx.state.dr[6] |= DR6_BD;
        return Err(cx.raise(Exception::plain(Vector::Debug)));
    }
    Ok(number)
}

fn mov_to_debug(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let register = number(cx, instruction.op0_register().number())?;
    let value = operand::read_register(cx, instruction.op1_register());
    if register >= 6 && value >> 32 != 0 {
        return Err(cx.raise(Exception::GP0));
    }
    cx.state.dr[register] = match register {
        6 => value & 0xe00f | 0xffff_0ff0,
        7 => value & 0xffff_2bff | 0x400,
        _ => value,
    };
    // Pages with breakpoints must not stay in the TLB.
    cx.mmu.tlb.flush_all();
    super::control::renew(cx, op)
}

fn mov_from_debug(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let register = number(cx, instruction.op1_register().number())?;
    let value = cx.state.dr[register];
    operand::write_register(cx, instruction.op0_register(), value);
    Ok(Flow::Next)
}

/// Whether operand `i` is a debug register.
fn is_debug(instruction: &Instruction, i: u32) -> bool {
    instruction.op_count() > i
        && instruction.op_kind(i) == OpKind::Register
        && instruction.op_register(i).is_dr()
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Mov if is_debug(instruction, 0) => Some(mov_to_debug),
        Mnemonic::Mov if is_debug(instruction, 1) => Some(mov_from_debug),
        _ => None,
    }
}

/// Whether code after the instruction must be looked at anew.
pub(super) fn changes_state(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov && is_debug(instruction, 0)
}
