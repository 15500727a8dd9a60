//! Segment registers and descriptor tables: loads with their checks, LDTR and TR, LAR, LSL, VERR, VERW, table
//! registers (SDM 3.4, 5.2–5.8; vol. 2 MOV, LAR, LSL).
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::{self, ZF};
use super::int::Int;
use super::lower::operand_size;
use super::op::Op;
use super::operand;
use super::stack;
use crate::arch::{Cr4, DescriptorTable, Exception, Gva, Segment, SegmentRegister, Vector};
use crate::emulator::mmu::{Bank, Fault};
use crate::emulator::single::address::segment_of;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The linear address of a descriptor, if the table has it.
pub(crate) fn descriptor_at(cx: &Cx, selector: u16, bytes: u64) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cx.state.gdtr.base, u64::from(cx.state.gdtr.limit))
    } else if cx.state.ldtr.is_present() {
        (cx.state.ldtr.base, u64::from(cx.state.ldtr.limit))
    } else {
        return None;
    };
    let offset = u64::from(selector & !7);
    let mask = if cx.state.is_long_mode() { u64::MAX } else { 0xffff_ffff };
    (offset + bytes - 1 <= limit).then(|| base.wrapping_add(offset) & mask)
}

/// Reads the descriptor that `selector` names; `None` if it is beyond the table.
pub(crate) fn descriptor(cx: &mut Cx, selector: u16) -> Result<Option<u64>, Fault> {
    match descriptor_at(cx, selector, 8) {
        Some(at) => cx.mmu.read_as::<u64>(Bank::Supervisor, at).map(Some),
        None => Ok(None),
    }
}

/// Sets the accessed bit of a code or data descriptor that was just loaded.
pub(crate) fn mark_accessed(cx: &mut Cx, selector: u16, descriptor: u64) -> Result<(), Fault> {
    const ACCESSED: u64 = 1 << 40;
    if descriptor & ACCESSED == 0
        && let Some(at) = descriptor_at(cx, selector, 8)
    {
        let rights = (descriptor >> 40 | 1) as u8;
        cx.mmu.write_as(Bank::Supervisor, at.wrapping_add(5), rights, false)?;
    }
    Ok(())
}

pub(super) fn fault(cx: &mut Cx, vector: Vector, selector: u16) -> Fault {
    cx.raise(Exception::with_code(vector, u32::from(selector & !3)))
}

/// What a stack switch to `cpl` through the TSS loads into SS. `ext` is the EXT bit of error codes.
pub(crate) fn stack_segment(cx: &mut Cx, selector: u16, cpl: u8, ext: u32) -> Result<Segment, Fault> {
    let fault = |cx: &mut Cx, vector: Vector, selector: u16| {
        cx.raise(Exception::with_code(vector, u32::from(selector & !3) | ext))
    };
    let Some(raw) = descriptor(cx, selector)?.filter(|_| selector & !3 != 0) else {
        return Err(fault(cx, Vector::InvalidTss, selector));
    };
    let segment = Segment::from_descriptor(selector, raw);
    let data = segment.attributes & (Segment::CODE_OR_DATA | 0xa) == Segment::CODE_OR_DATA | 2;
    if !data || segment.dpl() != cpl || (selector & 3) as u8 != cpl {
        return Err(fault(cx, Vector::InvalidTss, selector));
    }
    if !segment.is_present() {
        return Err(fault(cx, Vector::StackFault, selector));
    }
    mark_accessed(cx, selector, raw)?;
    Ok(Segment { attributes: segment.attributes | 1, ..segment })
}

/// Checks `selector` for SS and gives what SS becomes. `cpl` is the level that will run on it.
pub(super) fn checked_stack(cx: &mut Cx, selector: u16, cpl: u8, to_64bit: bool) -> Result<Segment, Fault> {
    if selector & !3 == 0 {
        // A null SS exists in 64-bit code of rings 0–2 only, with RPL = CPL.
        if to_64bit && cpl < 3 && (selector & 3) as u8 == cpl {
            return Ok(crate::emulator::interrupt::null_stack(cpl));
        }
        return Err(cx.raise(Exception::GP0));
    }
    let Some(raw) = descriptor(cx, selector)? else {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    };
    let segment = Segment::from_descriptor(selector, raw);
    let writable_data = segment.attributes & (Segment::CODE_OR_DATA | 0xa) == Segment::CODE_OR_DATA | 2;
    if !writable_data || segment.dpl() != cpl || (selector & 3) as u8 != cpl {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    }
    if !segment.is_present() {
        return Err(fault(cx, Vector::StackFault, selector));
    }
    mark_accessed(cx, selector, raw)?;
    Ok(Segment { attributes: segment.attributes | 1, ..segment })
}

fn checked_data(cx: &mut Cx, selector: u16) -> Result<Segment, Fault> {
    if selector & !3 == 0 {
        return Ok(Segment { selector, ..Segment::default() });
    }
    let Some(raw) = descriptor(cx, selector)? else {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    };
    let segment = Segment::from_descriptor(selector, raw);
    let is_segment = segment.attributes & Segment::CODE_OR_DATA != 0;
    let readable = !segment.is_code() || segment.kind() & 2 != 0;
    let conforming = segment.is_code() && segment.kind() & 4 != 0;
    let privileged = segment.dpl() >= cx.state.cpl() && segment.dpl() >= (selector & 3) as u8;
    if !is_segment || !readable || !conforming && !privileged {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    }
    if !segment.is_present() {
        return Err(fault(cx, Vector::SegmentNotPresent, selector));
    }
    mark_accessed(cx, selector, raw)?;
    Ok(Segment { attributes: segment.attributes | 1, ..segment })
}

/// What a load in real mode makes of a segment register: limit and rights stay, unless it was unusable.
fn real(before: Segment, selector: u16) -> Segment {
    let base = u64::from(selector) << 4;
    if before.is_present() {
        Segment { selector, base, ..before }
    } else {
        Segment { selector, base, limit: 0xffff, attributes: 0x93 }
    }
}

/// Loads a data or stack segment register.
pub(super) fn load(cx: &mut Cx, register: SegmentRegister, selector: u16) -> Result<(), Fault> {
    let segment = if !cx.is_protected() {
        real(*cx.state.segment(register), selector)
    } else if cx.is_virtual_8086() {
        Segment::virtual_8086(selector)
    } else if register == SegmentRegister::Ss {
        let (cpl, wide) = (cx.state.cpl(), cx.state.is_64bit_code());
        checked_stack(cx, selector, cpl, wide)?
    } else {
        checked_data(cx, selector)?
    };
    *cx.state.segment_mut(register) = segment;
    cx.refresh();
    Ok(())
}

fn mov_to_segment(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let register = segment_of(instruction.op0_register());
    // The memory form reads 16 bits whatever the operand size.
    let selector = match instruction.op1_kind() {
        OpKind::Memory => cx.load::<u16>(op)?,
        _ => operand::read_register(cx, instruction.op1_register()) as u16,
    };
    if register == SegmentRegister::Cs {
        return Err(cx.raise(Exception::UD));
    }
    load(cx, register, selector)?;
    loaded(cx, &instruction, register)
}

/// After SS was loaded interrupts wait for one instruction.
fn loaded(cx: &mut Cx, instruction: &Instruction, register: SegmentRegister) -> Step {
    cx.state.rip = instruction.next_ip();
    if register == SegmentRegister::Ss {
        cx.state.interrupt_shadow = true;
        cx.no_trap = true;
    }
    Ok(Flow::Renew)
}

fn mov_from_segment(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let selector = cx.state.segment(segment_of(instruction.op1_register())).selector;
    if instruction.op0_kind() == OpKind::Memory {
        cx.store(op, selector)?;
        return cx.stored();
    }
    operand::write_register(cx, instruction.op0_register(), selector.into());
    Ok(Flow::Next)
}

fn pop_segment(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let register = segment_of(instruction.op0_register());
    let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
    let selector = stack::peek(cx, 0, size)? as u16;
    let mask = stack::pointer_mask(cx);
    let after = cx.regs[crate::arch::state::gpr::RSP].wrapping_add(size as u64) & mask;
    load(cx, register, selector)?;
    stack::set_pointer(cx, after);
    loaded(cx, &instruction, register)
}

/// LDS, LES, LFS, LGS, LSS.
fn load_pointer(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let register = match instruction.mnemonic() {
        Mnemonic::Les => SegmentRegister::Es,
        Mnemonic::Lds => SegmentRegister::Ds,
        Mnemonic::Lss => SegmentRegister::Ss,
        Mnemonic::Lfs => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    };
    let size = operand_size(&instruction, 0);
    let (offset, selector) = far_pointer(cx, op, size)?;
    load(cx, register, selector)?;
    operand::write_register(cx, instruction.op0_register(), offset);
    loaded(cx, &instruction, register)
}

/// Reads a far pointer: an offset of `size` bytes, then a selector.
pub(super) fn far_pointer(cx: &mut Cx, op: &Op, size: usize) -> Result<(u64, u16), Fault> {
    let at = cx.address(op, size + 2, false)?;
    let stack = op.has(Op::STACK_SEGMENT);
    let mut bytes = [0; 10];
    cx.mmu.read_into(at, &mut bytes[..size + 2], stack)?;
    let selector = u16::from_le_bytes([bytes[size], bytes[size + 1]]);
    bytes[size..].fill(0);
    let mut offset = [0; 8];
    offset.copy_from_slice(&bytes[..8]);
    if size < 8 {
        offset[size..].fill(0);
    }
    Ok((u64::from_le_bytes(offset), selector))
}

/// Bytes of the base in the operand of LGDT and its kin.
fn table_operand(cx: &Cx) -> usize {
    if cx.state.is_64bit_code() { 8 } else { 4 }
}

fn load_table(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let instruction = operand::instruction(op);
    let size = table_operand(cx);
    let at = cx.address(op, 2 + size, false)?;
    let mut bytes = [0; 10];
    cx.mmu.read_into(at, &mut bytes[..2 + size], op.has(Op::STACK_SEGMENT))?;
    let mut base = [0; 8];
    base.copy_from_slice(&bytes[2..]);
    let mut base = u64::from_le_bytes(base);
    // With a 16-bit operand only 24 bits of the base are used.
    if matches!(instruction.code(), iced_x86::Code::Lgdt_m1632_16 | iced_x86::Code::Lidt_m1632_16) {
        base &= 0xff_ffff;
    }
    if size == 8 && !Gva(base).is_canonical() {
        return Err(cx.raise(Exception::GP0));
    }
    let table = DescriptorTable { limit: u16::from_le_bytes([bytes[0], bytes[1]]), base };
    if instruction.mnemonic() == Mnemonic::Lgdt {
        cx.state.gdtr = table;
    } else {
        cx.state.idtr = table;
    }
    Ok(Flow::Next)
}

/// #GP(0) at ring 3 if user-mode instruction prevention is on.
fn check_umip(cx: &mut Cx) -> Result<(), Fault> {
    if cx.state.cr4.contains(Cr4::UMIP) && cx.state.cpl() > 0 {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(())
}

fn store_table(cx: &mut Cx, op: &Op) -> Step {
    check_umip(cx)?;
    let instruction = operand::instruction(op);
    let table = match instruction.mnemonic() {
        Mnemonic::Sgdt => cx.state.gdtr,
        _ => cx.state.idtr,
    };
    let size = table_operand(cx);
    let at = cx.address(op, 2 + size, true)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    cx.mmu.write_from(at, &bytes[..2 + size], op.has(Op::STACK_SEGMENT))?;
    cx.stored()
}

fn store_selector(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    if instruction.mnemonic() != Mnemonic::Smsw && !cx.has_descriptors() {
        return Err(cx.raise(Exception::UD));
    }
    check_umip(cx)?;
    let value = match instruction.mnemonic() {
        Mnemonic::Sldt => u64::from(cx.state.ldtr.selector),
        Mnemonic::Str => u64::from(cx.state.tr.selector),
        _ => cx.state.cr0.bits(),
    };
    if instruction.op0_kind() == OpKind::Memory {
        cx.store(op, value as u16)?;
        return cx.stored();
    }
    operand::write_register(cx, instruction.op0_register(), value);
    Ok(Flow::Next)
}

/// Reads a system descriptor, 16 bytes in long mode, for LLDT and LTR.
fn system_segment(cx: &mut Cx, selector: u16) -> Result<(Segment, u64), Fault> {
    let long = cx.state.is_long_mode();
    let bytes = if long { 16 } else { 8 };
    let at = (selector & 4 == 0).then(|| descriptor_at(cx, selector, bytes)).flatten();
    let Some(at) = at else {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    };
    let raw = cx.mmu.read_as::<u64>(Bank::Supervisor, at)?;
    let mut segment = Segment::from_descriptor(selector, raw);
    if long {
        let high = cx.mmu.read_as::<u64>(Bank::Supervisor, at.wrapping_add(8))?;
        segment.base |= high << 32;
        if high >> 32 & 0x1f00 != 0 || !Gva(segment.base).is_canonical() {
            return Err(fault(cx, Vector::GeneralProtection, selector));
        }
    }
    Ok((segment, at))
}

fn load_system(cx: &mut Cx, op: &Op) -> Step {
    if !cx.has_descriptors() {
        return Err(cx.raise(Exception::UD));
    }
    cx.need_ring0()?;
    let instruction = operand::instruction(op);
    let selector = operand::read(cx, op, &instruction, 0)? as u16;
    let task = instruction.mnemonic() == Mnemonic::Ltr;
    if selector & !3 == 0 {
        if task {
            return Err(cx.raise(Exception::GP0));
        }
        cx.state.ldtr = Segment { selector, ..Segment::default() };
        return Ok(Flow::Next);
    }
    let (mut segment, at) = system_segment(cx, selector)?;
    let system = segment.attributes & Segment::CODE_OR_DATA == 0;
    let kind = segment.kind();
    let available_task = kind == 9 || kind == 1 && !cx.state.is_long_mode();
    let right_kind = if task { available_task } else { kind == 2 };
    if !system || !right_kind {
        return Err(fault(cx, Vector::GeneralProtection, selector));
    }
    if !segment.is_present() {
        return Err(fault(cx, Vector::SegmentNotPresent, selector));
    }
    if task {
        // The descriptor becomes busy.
        segment.attributes |= 2;
        cx.mmu.write_as(Bank::Supervisor, at.wrapping_add(5), segment.attributes as u8, false)?;
        cx.state.tr = segment;
    } else {
        cx.state.ldtr = segment;
    }
    cx.stored()
}

/// The segment that LAR, LSL, VERR and VERW ask about, if it may be seen.
fn visible(cx: &mut Cx, selector: u16) -> Result<Option<Segment>, Fault> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let Some(raw) = descriptor(cx, selector)? else {
        return Ok(None);
    };
    let segment = Segment::from_descriptor(selector, raw);
    let conforming = segment.is_code() && segment.kind() & 4 != 0;
    let privileged = segment.dpl() >= cx.state.cpl() && segment.dpl() >= (selector & 3) as u8;
    Ok((conforming || privileged).then_some(segment))
}

fn inspect(cx: &mut Cx, op: &Op) -> Step {
    if !cx.has_descriptors() {
        return Err(cx.raise(Exception::UD));
    }
    let instruction = operand::instruction(op);
    let name = instruction.mnemonic();
    let from = if matches!(name, Mnemonic::Lar | Mnemonic::Lsl) { 1 } else { 0 };
    let selector = match instruction.op_kind(from) {
        OpKind::Memory => cx.load::<u16>(op)?.zx(),
        _ => operand::read_register(cx, instruction.op_register(from)),
    } as u16;
    let found = visible(cx, selector)?;
    let long = cx.state.is_long_mode();
    let system = |s: &Segment| s.attributes & Segment::CODE_OR_DATA == 0;
    let result = found.and_then(|s| {
        let writable = !system(&s) && !s.is_code() && s.kind() & 2 != 0;
        let readable = !system(&s) && (!s.is_code() || s.kind() & 2 != 0);
        match name {
            Mnemonic::Verr => readable.then_some(0),
            Mnemonic::Verw => writable.then_some(0),
            Mnemonic::Lar => {
                let known = !system(&s)
                    || if long {
                        matches!(s.kind(), 2 | 9 | 11 | 12)
                    } else {
                        matches!(s.kind(), 1..=5 | 9 | 11 | 12)
                    };
                let high = u64::from(s.attributes & 0xf000) << 8 | u64::from(s.attributes & 0xff) << 8;
                known.then_some(
                    high | u64::from(
                        s.limit >> if s.attributes & Segment::GRANULARITY != 0 { 12 } else { 0 } & 0xf_0000,
                    ),
                )
            }
            _ => {
                let known = !system(&s)
                    || if long { matches!(s.kind(), 2 | 9 | 11) } else { matches!(s.kind(), 1..=3 | 9 | 11) };
                known.then_some(u64::from(s.limit))
            }
        }
    });
    cx.flags = flags::with(cx.flags, ZF, result.is_some());
    if let (Some(value), 1) = (result, from) {
        operand::write_register(cx, instruction.op0_register(), value);
    }
    Ok(Flow::Next)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let segment = |i: u32| {
        instruction.op_count() > i
            && instruction.op_kind(i) == OpKind::Register
            && instruction.op_register(i).is_segment_register()
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Mov if segment(0) => mov_to_segment,
        Mnemonic::Mov if segment(1) => mov_from_segment,
        Mnemonic::Pop if segment(0) => pop_segment,
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => load_pointer,
        Mnemonic::Lgdt | Mnemonic::Lidt => load_table,
        Mnemonic::Sgdt | Mnemonic::Sidt => store_table,
        Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => store_selector,
        Mnemonic::Lldt | Mnemonic::Ltr => load_system,
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw => inspect,
        _ => return None,
    })
}
