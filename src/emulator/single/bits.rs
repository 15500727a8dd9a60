//! Single bits, bit scans and counts, double shifts, BMI1, BMI2, ADX and CRC32.
#![expect(unsafe_code, reason = "CRC32 is an intrinsic")]
use super::address;
use super::atomic::update_locked_at;
use super::cx::{Cx, Flow, Handler, Step, ZERO};
use super::flags::Flags;
use super::int::{Bmi, Int, Wide};
use super::lower::{operand_size, wide};
use super::op::Op;
use super::operand;
use crate::arch::state::gpr::RCX;
use crate::emulator::mmu::Fault;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// BT, BTS, BTR, BTC.
trait BitOperation {
    const WRITES: bool;
    fn apply<T: Wide>(a: T, bit: T, flags: Flags) -> (T, Flags);
}

/// An operation of a source, a destination and the flags.
trait Operation {
    fn apply<T: Wide>(source: T, old: T, flags: Flags) -> (T, Flags);
}

/// An operation of BMI or ADX on two values.
trait BmiOperation {
    fn apply<T: Bmi>(a: T, b: T, flags: Flags) -> (T, Flags);
}

macro_rules! operations {
    ($($name:ident: $trait:ident, $bound:ident, |$a:ident, $b:ident, $f:ident| $result:expr;)+) => {$(
        struct $name;
        impl $trait for $name {
            #[inline(always)]
            fn apply<T: $bound>($a: T, $b: T, $f: Flags) -> (T, Flags) {
                $result
            }
        }
    )+};
}
macro_rules! bit_operations {
    ($($name:ident $writes:literal $method:ident;)+) => {$(
        struct $name;
        impl BitOperation for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Wide>(a: T, bit: T, flags: Flags) -> (T, Flags) {
                T::$method(a, bit, flags)
            }
        }
    )+};
}
bit_operations! {
    Bt false bt;
    Bts true bts;
    Btr true btr;
    Btc true btc;
}
operations! {
    Bsf: Operation, Wide, |s, old, f| T::bsf(s, old, f);
    Bsr: Operation, Wide, |s, old, f| T::bsr(s, old, f);
    Lzcnt: Operation, Wide, |s, old, f| T::lzcnt(s, old, f);
    Tzcnt: Operation, Wide, |s, old, f| T::tzcnt(s, old, f);
    Popcnt: Operation, Wide, |s, old, f| T::popcnt(s, old, f);
    Andn: BmiOperation, Bmi, |a, b, f| T::andn(a, b, f);
    Bextr: BmiOperation, Bmi, |a, b, f| T::bextr(a, b, f);
    Bzhi: BmiOperation, Bmi, |a, b, f| T::bzhi(a, b, f);
    Pdep: BmiOperation, Bmi, |a, b, f| T::pdep(a, b, f);
    Pext: BmiOperation, Bmi, |a, b, f| T::pext(a, b, f);
    Adcx: BmiOperation, Bmi, |a, b, f| T::adcx(a, b, f);
    Adox: BmiOperation, Bmi, |a, b, f| T::adox(a, b, f);
    Blsi: BmiOperation, Bmi, |a, _b, f| T::blsi(a, f);
    Blsmsk: BmiOperation, Bmi, |a, _b, f| T::blsmsk(a, f);
    Blsr: BmiOperation, Bmi, |a, _b, f| T::blsr(a, f);
    Shlx: BmiOperation, Bmi, |a, b, f| (T::shl(a, b.zx() as u8, f).0, f);
    Shrx: BmiOperation, Bmi, |a, b, f| (T::shr(a, b.zx() as u8, f).0, f);
    Sarx: BmiOperation, Bmi, |a, b, f| (T::sar(a, b.zx() as u8, f).0, f);
    Rorx: BmiOperation, Bmi, |a, b, f| (T::ror(a, b.zx() as u8, f).0, f);
}

/// The bit number: a register, or the immediate.
#[inline(always)]
fn bit_number<T: Int>(cx: &Cx, op: &Op) -> T {
    if op.src == ZERO { T::of(op.imm) } else { cx.reg(op.src) }
}

fn bit_reg<O: BitOperation, T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let bit = bit_number::<T>(cx, op);
    let (result, flags) = O::apply(cx.reg::<T>(op.dst), bit, cx.flags);
    if O::WRITES {
        cx.set_reg(op.dst, result);
    }
    cx.flags = flags;
    Ok(Flow::Next)
}

/// A bit of memory: with a register, the bit string reaches beyond the operand in both directions.
fn bit_mem<O: BitOperation, T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let bit = bit_number::<T>(cx, op);
    let instruction = operand::instruction(op);
    let mut beyond = 0;
    if op.src != ZERO {
        let words = (bit.sx() as i64) >> T::BITS.trailing_zeros();
        beyond = (words * T::BYTES as i64) as u64;
    }
    let offset = cx.offset(op).wrapping_add(beyond) & address::mask(&instruction);
    let segment = address::segment_of(instruction.memory_segment());
    let at = address::in_segment(cx, segment, offset, T::BYTES, O::WRITES)?;
    let stack = op.has(Op::STACK_SEGMENT);
    let before = cx.flags;
    if !O::WRITES {
        let a = cx.mmu.read::<T>(at, stack)?;
        cx.flags = O::apply(a, bit, before).1;
        return Ok(Flow::Next);
    }
    let mut flags = before;
    let change = |a: T| {
        let (result, f) = O::apply(a, bit, before);
        flags = f;
        result
    };
    if instruction.has_lock_prefix() {
        update_locked_at::<T>(cx, at, stack, change)?;
    } else {
        cx.mmu.update::<T>(at, stack, change)?;
    }
    cx.flags = flags;
    cx.stored()
}

/// The second operand of the scans and counts.
#[inline(always)]
fn source<T: Int>(cx: &mut Cx, op: &Op) -> Result<T, Fault> {
    if op.src == ZERO { cx.load(op) } else { Ok(cx.reg(op.src)) }
}

fn scan<O: Operation, T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let value = source::<T>(cx, op)?;
    let old = cx.reg::<T>(op.dst);
    let (result, flags) = O::apply(value, old, cx.flags);
    cx.set_reg(op.dst, result);
    cx.flags = flags;
    Ok(Flow::Next)
}

/// BSF and BSR: with a zero source the destination keeps its value, all 64 bits of it even in the 32-bit form.
fn bit_scan<O: Operation, T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let value = source::<T>(cx, op)?;
    let old = cx.reg::<T>(op.dst);
    let (result, flags) = O::apply(value, old, cx.flags);
    if value.zx() != 0 {
        cx.set_reg(op.dst, result);
    }
    cx.flags = flags;
    Ok(Flow::Next)
}

/// SHLD and SHRD; LEFT says which.
fn double_shift<const LEFT: bool, T: Wide>(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let count = if instruction.op_kind(2) == OpKind::Register { cx.regs[RCX] as u8 } else { op.imm as u8 };
    let b = cx.reg::<T>(op.src);
    let before = cx.flags;
    let shift = |a: T| if LEFT { T::shld(a, b, count, before) } else { T::shrd(a, b, count, before) };
    if op.dst != ZERO {
        let (result, flags) = shift(cx.reg(op.dst));
        cx.set_reg(op.dst, result);
        cx.flags = flags;
        return Ok(Flow::Next);
    }
    let mut flags = before;
    cx.update::<T>(op, |a| {
        let (result, f) = shift(a);
        flags = f;
        result
    })?;
    cx.flags = flags;
    cx.stored()
}

/// `dst = src op r/m`: ANDN, PDEP, PEXT.
fn bmi_second<O: BmiOperation, T: Bmi>(cx: &mut Cx, op: &Op) -> Step {
    let b = if op.aux == ZERO { cx.load::<T>(op)? } else { cx.reg(op.aux) };
    let (result, flags) = O::apply(cx.reg::<T>(op.src), b, cx.flags);
    cx.set_reg(op.dst, result);
    cx.flags = flags;
    Ok(Flow::Next)
}

/// `dst = r/m op third`: BEXTR, BZHI, the shifts; RORX takes an immediate.
fn bmi_first<O: BmiOperation, T: Bmi>(cx: &mut Cx, op: &Op) -> Step {
    let a = source::<T>(cx, op)?;
    let b = if op.aux == ZERO { T::of(op.imm) } else { cx.reg::<T>(op.aux) };
    let (result, flags) = O::apply(a, b, cx.flags);
    cx.set_reg(op.dst, result);
    cx.flags = flags;
    Ok(Flow::Next)
}

/// `dst = dst op r/m`: ADCX and ADOX.
fn bmi_two<O: BmiOperation, T: Bmi>(cx: &mut Cx, op: &Op) -> Step {
    let b = source::<T>(cx, op)?;
    let (result, flags) = O::apply(cx.reg::<T>(op.dst), b, cx.flags);
    cx.set_reg(op.dst, result);
    cx.flags = flags;
    Ok(Flow::Next)
}

#[target_feature(enable = "sse4.2")]
fn crc32_step(crc: u32, value: u64, bytes: usize) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    match bytes {
        1 => _mm_crc32_u8(crc, value as u8),
        2 => _mm_crc32_u16(crc, value as u16),
        4 => _mm_crc32_u32(crc, value as u32),
        _ => _mm_crc32_u64(crc.into(), value) as u32,
    }
}

fn crc32(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let value = operand::read(cx, op, &instruction, 1)?;
    let crc = cx.reg::<u32>(op.dst);
    // SAFETY: offered to the guest only if the host has SSE4.2.
    let result = unsafe { crc32_step(crc, value, operand_size(&instruction, 1)) };
    cx.set_reg(op.dst, result);
    Ok(Flow::Next)
}

fn bit<O: BitOperation>(instruction: &Instruction) -> Handler {
    let size = operand_size(instruction, 0);
    if instruction.op_kind(0) == OpKind::Register { wide!(size, bit_reg<O>) } else { wide!(size, bit_mem<O>) }
}

macro_rules! bmi {
    ($size:expr, $name:ident, $operation:ident) => {
        if $size == 4 { $name::<$operation, u32> as Handler } else { $name::<$operation, u64> }
    };
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let size = operand_size(instruction, 0);
    // The VEX forms without a destination in the first operand encode it second: iced lists it first all the same.
    Some(match instruction.mnemonic() {
        Mnemonic::Bt => bit::<Bt>(instruction),
        Mnemonic::Bts => bit::<Bts>(instruction),
        Mnemonic::Btr => bit::<Btr>(instruction),
        Mnemonic::Btc => bit::<Btc>(instruction),
        Mnemonic::Bsf => wide!(size, bit_scan<Bsf>),
        Mnemonic::Bsr => wide!(size, bit_scan<Bsr>),
        Mnemonic::Lzcnt => wide!(size, scan<Lzcnt>),
        Mnemonic::Tzcnt => wide!(size, scan<Tzcnt>),
        Mnemonic::Popcnt => wide!(size, scan<Popcnt>),
        Mnemonic::Shld => wide!(size, double_shift<true>),
        Mnemonic::Shrd => wide!(size, double_shift<false>),
        Mnemonic::Andn => bmi!(size, bmi_second, Andn),
        Mnemonic::Pdep => bmi!(size, bmi_second, Pdep),
        Mnemonic::Pext => bmi!(size, bmi_second, Pext),
        Mnemonic::Bextr => bmi!(size, bmi_first, Bextr),
        Mnemonic::Bzhi => bmi!(size, bmi_first, Bzhi),
        Mnemonic::Shlx => bmi!(size, bmi_first, Shlx),
        Mnemonic::Shrx => bmi!(size, bmi_first, Shrx),
        Mnemonic::Sarx => bmi!(size, bmi_first, Sarx),
        Mnemonic::Rorx => bmi!(size, bmi_first, Rorx),
        Mnemonic::Blsi => bmi!(size, bmi_first, Blsi),
        Mnemonic::Blsmsk => bmi!(size, bmi_first, Blsmsk),
        Mnemonic::Blsr => bmi!(size, bmi_first, Blsr),
        Mnemonic::Adcx => bmi!(size, bmi_two, Adcx),
        Mnemonic::Adox => bmi!(size, bmi_two, Adox),
        Mnemonic::Crc32 => crc32,
        _ => return None,
    })
}
