//! IN and OUT with the I/O permission checks (SDM vol. 1, 19.5).
use super::cx::{Cx, Flow, Handler, Step};
use super::int::Int;
use super::op::Op;
use crate::arch::state::gpr::{RAX, RDX};
use crate::arch::{Exception, Port, Segment, Width, layout};
use crate::emulator::mmu::{Bank, Fault};
use iced_x86::{Code, Instruction, Mnemonic};

fn width(bytes: usize) -> Width {
    Width::from_bytes(bytes).unwrap_or(Width::B4)
}

/// Reads a port.
#[inline]
pub(super) fn port_in(cx: &mut Cx, port: u16, bytes: usize) -> u32 {
    cx.mmu.watches.note_port(port, bytes);
    cx.platform.pio_read(cx.mmu.vcpu, Port(port), width(bytes))
}

/// Writes a port. The block ends, so that what the device does is seen at once.
#[inline]
pub(super) fn port_out(cx: &mut Cx, port: u16, bytes: usize, value: u32) {
    if port == layout::HYPERCALL.0 && bytes == 4 && super::hypercall::by_port(cx) {
        return;
    }
    cx.mmu.stop = true;
    cx.mmu.watches.note_port(port, bytes);
    cx.platform.pio_write(cx.mmu.vcpu, Port(port), width(bytes), value);
}

/// #GP(0) if the current privilege may not use the `bytes` ports from `port` on.
#[inline]
pub(super) fn check_port(cx: &mut Cx, port: u16, bytes: usize) -> Result<(), Fault> {
    // In virtual-8086 mode the bitmap alone decides.
    let by_level = cx.state.cpl() <= cx.state.rflags.iopl() && !cx.is_virtual_8086();
    if !cx.is_protected() || by_level {
        return Ok(());
    }
    check_map(cx, port, bytes)
}

/// As [`check_port`], where the bitmap in the TSS decides.
#[cold]
fn check_map(cx: &mut Cx, port: u16, bytes: usize) -> Result<(), Fault> {
    let tr: Segment = cx.state.tr;
    let limit = u64::from(tr.limit);
    // A 32- or 64-bit TSS has the offset of the bitmap at 0x66.
    let has_map = tr.is_present() && tr.kind() & 8 != 0 && limit >= 0x67;
    if has_map {
        let map = cx.mmu.read_as::<u16>(Bank::Supervisor, tr.base.wrapping_add(0x66))?;
        let first = u64::from(map) + u64::from(port / 8);
        // The CPU reads two bytes, so both must lie within the limit.
        if first < limit {
            let bits = cx.mmu.read_as::<u16>(Bank::Supervisor, tr.base.wrapping_add(first))?;
            let mask = ((1_u16 << bytes) - 1) << (port % 8);
            if bits & mask == 0 {
                return Ok(());
            }
        }
    }
    Err(cx.raise(Exception::GP0))
}

/// The port of IN and OUT: the immediate or DX.
#[inline]
fn port<const IMMEDIATE: bool>(cx: &Cx, op: &Op) -> u16 {
    if IMMEDIATE { op.imm as u8 as u16 } else { cx.regs[RDX] as u16 }
}

/// IN to the accumulator, or OUT of it, where that is allowed.
#[inline]
pub(crate) fn transfer<T: Int>(cx: &mut Cx, port: u16, out: bool) {
    if out {
        let value = cx.reg::<T>(RAX as u8).zx();
        port_out(cx, port, T::BYTES, value as u32);
    } else {
        let value = port_in(cx, port, T::BYTES);
        cx.set_reg::<T>(RAX as u8, T::of(value.into()));
    }
}

fn input<T: Int, const IMMEDIATE: bool>(cx: &mut Cx, op: &Op) -> Step {
    let port = port::<IMMEDIATE>(cx, op);
    check_port(cx, port, T::BYTES)?;
    transfer::<T>(cx, port, false);
    // Reading may lower interrupt lines and set timers too.
    Ok(Flow::Stop)
}

fn output<T: Int, const IMMEDIATE: bool>(cx: &mut Cx, op: &Op) -> Step {
    let port = port::<IMMEDIATE>(cx, op);
    check_port(cx, port, T::BYTES)?;
    transfer::<T>(cx, port, true);
    Ok(Flow::Stop)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::In | Mnemonic::Out => match instruction.code() {
            Code::In_AL_imm8 => input::<u8, true>,
            Code::In_AX_imm8 => input::<u16, true>,
            Code::In_EAX_imm8 => input::<u32, true>,
            Code::In_AL_DX => input::<u8, false>,
            Code::In_AX_DX => input::<u16, false>,
            Code::In_EAX_DX => input::<u32, false>,
            Code::Out_imm8_AL => output::<u8, true>,
            Code::Out_imm8_AX => output::<u16, true>,
            Code::Out_imm8_EAX => output::<u32, true>,
            Code::Out_DX_AL => output::<u8, false>,
            Code::Out_DX_AX => output::<u16, false>,
            Code::Out_DX_EAX => output::<u32, false>,
            _ => return None,
        },
        _ => return None,
    })
}
