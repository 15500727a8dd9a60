//! IN and OUT with the I/O permission checks (SDM vol. 1, 19.5).
use super::cx::{Cx, Flow, Handler, Step};
use super::int::Int;
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::{RAX, RDX};
use crate::arch::{Exception, Port, Segment, Width};
use crate::emulator::mmu::{Bank, Fault};
use iced_x86::{Instruction, Mnemonic, OpKind};

fn width(bytes: usize) -> Width {
    Width::from_bytes(bytes).unwrap_or(Width::B4)
}

/// Reads a port.
pub(super) fn port_in(cx: &mut Cx, port: u16, bytes: usize) -> u32 {
    cx.platform.pio_read(cx.mmu.vcpu, Port(port), width(bytes))
}

/// Writes a port. The block ends, so that what the device does is seen at once.
pub(super) fn port_out(cx: &mut Cx, port: u16, bytes: usize, value: u32) {
    cx.mmu.stop = true;
    cx.platform.pio_write(cx.mmu.vcpu, Port(port), width(bytes), value);
}

/// #GP(0) if the current privilege may not use the `bytes` ports from `port` on.
pub(super) fn check_port(cx: &mut Cx, port: u16, bytes: usize) -> Result<(), Fault> {
    if !cx.is_protected() || cx.state.cpl() <= cx.state.rflags.iopl() {
        return Ok(());
    }
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

/// The port of IN and OUT: DX or the immediate.
fn port(cx: &Cx, instruction: &Instruction, operand: u32) -> u16 {
    match instruction.op_kind(operand) {
        OpKind::Register => cx.regs[RDX] as u16,
        _ => instruction.immediate8().into(),
    }
}

fn input(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let bytes = instruction.op0_register().size();
    let port = port(cx, &instruction, 1);
    check_port(cx, port, bytes)?;
    let value = port_in(cx, port, bytes);
    operand::write_register(cx, instruction.op0_register(), value.into());
    // Reading may lower interrupt lines and set timers too.
    Ok(Flow::Stop)
}

fn output(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let bytes = instruction.op1_register().size();
    let port = port(cx, &instruction, 0);
    check_port(cx, port, bytes)?;
    let value = match bytes {
        1 => cx.reg::<u8>(RAX as u8).zx(),
        2 => cx.reg::<u16>(RAX as u8).zx(),
        _ => cx.reg::<u32>(RAX as u8).zx(),
    };
    port_out(cx, port, bytes, value as u32);
    Ok(Flow::Stop)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::In => input,
        Mnemonic::Out => output,
        _ => return None,
    })
}
