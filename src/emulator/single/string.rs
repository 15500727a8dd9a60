//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with and without repetition.
//!
//! A repetition commits each element before the next one, so a fault or an interrupt leaves RCX, RSI and RDI exactly at
//! the element to go on with. MOVS and STOS upwards take whole stretches of a page at once where that makes no
//! difference. Every [`ELEMENTS`] elements the kick is looked at, and the instruction continues later.
#![expect(unsafe_code, reason = "stretches of RAM are copied and filled by host address")]
use super::address;
use super::cx::{Cx, Flow, Handler, Step};
use super::flags::ZF;
use super::int::Int;
use super::lower::sized;
use super::op::Op;
use super::{io, operand};
use crate::arch::paging::Access;
use crate::arch::state::gpr::{RAX, RCX, RDI, RDX, RSI};
use crate::arch::{Gva, Rflags, SegmentRegister};
use crate::clock::ClockSource;
use crate::emulator::mmu::{Bank, Fault};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// Elements, or stretches, between two looks at the kick.
const ELEMENTS: u64 = 256;
/// Elements between two such looks where time is counted: there nothing else may divide an instruction.
const COUNTED_ELEMENTS: u64 = 1 << 16;
const PAGE: u64 = 4096;

/// What one element does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

/// The registers of one string instruction.
struct Walk {
    kind: Kind,
    /// Bits of the index and count registers in use.
    mask: u64,
    /// Segment of the source.
    source: SegmentRegister,
    /// Added to the index registers per element.
    step: u64,
}

impl Walk {
    fn of(cx: &Cx, instruction: &Instruction, kind: Kind, bytes: usize) -> Self {
        let wide = |k: OpKind| matches!(k, OpKind::MemorySegRSI | OpKind::MemoryESRDI);
        let middle = |k: OpKind| matches!(k, OpKind::MemorySegESI | OpKind::MemoryESEDI);
        let kinds = [instruction.op0_kind(), instruction.op1_kind()];
        let mask = if kinds.into_iter().any(wide) {
            u64::MAX
        } else if kinds.into_iter().any(middle) {
            0xffff_ffff
        } else {
            0xffff
        };
        let step = bytes as u64;
        let down = cx.state.rflags.contains(Rflags::DF);
        Self {
            kind,
            mask,
            source: address::segment_of(instruction.memory_segment()),
            step: if down { step.wrapping_neg() } else { step },
        }
    }

    fn index(&self, cx: &Cx, register: usize) -> u64 {
        cx.regs[register] & self.mask
    }

    /// Moves an index or count register, with the rules of its size.
    fn advance(&self, cx: &mut Cx, register: usize, by: u64) {
        let value = self.index(cx, register).wrapping_add(by) & self.mask;
        cx.regs[register] = if self.mask == 0xffff { cx.regs[register] & !0xffff | value } else { value };
    }

    fn source(&self, cx: &mut Cx, bytes: usize) -> Result<u64, Fault> {
        let offset = self.index(cx, RSI);
        address::in_segment(cx, self.source, offset, bytes, false)
    }

    fn target(&self, cx: &mut Cx, bytes: usize, write: bool) -> Result<u64, Fault> {
        let offset = self.index(cx, RDI);
        address::in_segment(cx, SegmentRegister::Es, offset, bytes, write)
    }

    /// Does one element; index registers move only if it succeeds.
    fn element<T: Int>(&self, cx: &mut Cx) -> Result<(), Fault> {
        let stack = self.source == SegmentRegister::Ss;
        match self.kind {
            Kind::Movs => {
                let from = self.source(cx, T::BYTES)?;
                let to = self.target(cx, T::BYTES, true)?;
                let value = cx.mmu.read::<T>(from, stack)?;
                cx.mmu.write(to, value, false)?;
            }
            Kind::Stos => {
                let to = self.target(cx, T::BYTES, true)?;
                let value = cx.reg::<T>(RAX as u8);
                cx.mmu.write(to, value, false)?;
            }
            Kind::Lods => {
                let from = self.source(cx, T::BYTES)?;
                let value = cx.mmu.read::<T>(from, stack)?;
                cx.set_reg(RAX as u8, value);
            }
            Kind::Cmps => {
                let from = self.source(cx, T::BYTES)?;
                let to = self.target(cx, T::BYTES, false)?;
                // In the order of Intel's CPUs, seen when both fault.
                let b = cx.mmu.read::<T>(to, false)?;
                let a = cx.mmu.read::<T>(from, stack)?;
                cx.flags = T::sub(a, b, cx.flags).1;
            }
            Kind::Scas => {
                let to = self.target(cx, T::BYTES, false)?;
                let b = cx.mmu.read::<T>(to, false)?;
                cx.flags = T::sub(cx.reg::<T>(RAX as u8), b, cx.flags).1;
            }
            Kind::Ins => {
                let to = self.target(cx, T::BYTES, true)?;
                // The target must be writable before the port is read.
                cx.mmu.check_write(to, T::BYTES, false)?;
                let value = io::port_in(cx, cx.regs[RDX] as u16, T::BYTES);
                cx.mmu.write(to, T::of(value.into()), false)?;
            }
            Kind::Outs => {
                let from = self.source(cx, T::BYTES)?;
                let value = cx.mmu.read::<T>(from, stack)?;
                io::port_out(cx, cx.regs[RDX] as u16, T::BYTES, value.zx() as u32);
            }
        }
        if matches!(self.kind, Kind::Movs | Kind::Lods | Kind::Cmps | Kind::Outs) {
            self.advance(cx, RSI, self.step);
        }
        if !matches!(self.kind, Kind::Lods | Kind::Outs) {
            self.advance(cx, RDI, self.step);
        }
        Ok(())
    }

    /// Whether it is 32-bit code whose operands lie in segments without a base or an end.
    fn is_flat(&self, cx: &Cx) -> bool {
        let whole = |register| {
            let segment = cx.state.segment(register);
            segment.base == 0 && segment.is_endless_data()
        };
        self.mask == 0xffff_ffff && cx.has_descriptors() && whole(SegmentRegister::Es) && whole(self.source)
    }

    /// Does many elements of MOVS or STOS within one page, if that is the same as one after the other. Returns how
    /// many; 0 says to do a single one.
    fn stretch<T: Int>(&self, cx: &mut Cx, count: u64) -> u64 {
        let upwards = self.step == T::BYTES as u64;
        if !upwards {
            return self.stretch_down::<T>(cx, count);
        }
        let wide = self.mask == u64::MAX && cx.state.is_64bit_code();
        if !(wide || self.is_flat(cx)) || count < 2 {
            return 0;
        }
        let to = self.index(cx, RDI);
        let in_page = |at: u64| (PAGE - at % PAGE) / T::BYTES as u64;
        let mut elements = count.min(in_page(to));
        if self.kind == Kind::Stos {
            let bytes = elements as usize * T::BYTES;
            let Some(host) = cx.mmu.tlb.write(cx.mmu.bank, to, bytes.max(1)) else { return 0 };
            let value = cx.reg::<T>(RAX as u8);
            // SAFETY: the TLB hit proves that `bytes` bytes at `host` are mapped RAM of one page.
            unsafe { fill(host, value, elements) };
            self.advance(cx, RDI, bytes as u64);
            return elements;
        }
        let base = match self.source {
            SegmentRegister::Fs | SegmentRegister::Gs => cx.state.segment(self.source).base,
            _ => 0,
        };
        let from = self.index(cx, RSI).wrapping_add(base);
        elements = elements.min(in_page(from));
        let bytes = elements as usize * T::BYTES;
        if bytes == 0 {
            return 0;
        }
        let Some((source, host)) = ready(cx, (from, to), bytes) else { return 0 };
        // Where the target begins inside the source, bytes written are read again: a pattern spreads.
        if host > source && host - source < bytes {
            return 0;
        }
        // SAFETY: TLB hits prove it of both, as above; `copy` allows the remaining overlap (target before source).
        unsafe { std::ptr::copy(source as *const u8, host as *mut u8, bytes) };
        self.advance(cx, RSI, bytes as u64);
        self.advance(cx, RDI, bytes as u64);
        elements
    }
}

impl Walk {
    /// As [`Self::stretch`], for MOVS with the direction flag: the index registers point to the highest element.
    fn stretch_down<T: Int>(&self, cx: &mut Cx, count: u64) -> u64 {
        let flat = !matches!(self.source, SegmentRegister::Fs | SegmentRegister::Gs);
        if self.kind != Kind::Movs || self.mask != u64::MAX || !flat || !cx.state.is_64bit_code() || count < 2
        {
            return 0;
        }
        let (from, to) = (cx.regs[RSI], cx.regs[RDI]);
        // Elements that end in the page of the highest one's first byte; none if that one crosses into the next.
        let in_page = |at: u64| (at % PAGE + T::BYTES as u64).min(PAGE) / T::BYTES as u64;
        let crosses = |at: u64| at % PAGE + T::BYTES as u64 > PAGE;
        let elements = count.min(in_page(from)).min(in_page(to));
        if crosses(from) || crosses(to) || elements == 0 {
            return 0;
        }
        let bytes = elements as usize * T::BYTES;
        let before = bytes as u64 - T::BYTES as u64;
        let lowest = (from.wrapping_sub(before), to.wrapping_sub(before));
        let Some((source, host)) = ready(cx, lowest, bytes) else { return 0 };
        // Where the target ends inside the source, bytes written are read again.
        if source > host && source - host < bytes {
            return 0;
        }
        // SAFETY: both TLB hits prove that `bytes` bytes are mapped RAM of one page; `copy` allows the remaining overlap
        // (target behind source).
        unsafe { std::ptr::copy(source as *const u8, host as *mut u8, bytes) };
        self.advance(cx, RSI, (bytes as u64).wrapping_neg());
        self.advance(cx, RDI, (bytes as u64).wrapping_neg());
        elements
    }
}

/// Host addresses of `bytes` bytes within a page each, to be read and to be written, if the TLB can know them. Pages that
/// share an entry of the TLB are looked up one after the other: what was found stays where it is.
fn ready(cx: &mut Cx, (from, to): (u64, u64), bytes: usize) -> Option<(usize, usize)> {
    let bank = cx.mmu.bank;
    if let (Some(source), Some(target)) =
        (cx.mmu.tlb.read(bank, from, bytes), cx.mmu.tlb.write(bank, to, bytes))
    {
        return Some((source, target));
    }
    // What an element would not be refused, and sets the same bits in the tables.
    let has_code = cx.mmu.tlb.code_write(bank, to).is_some();
    if has_code || bank == Bank::UserAligned || !(Gva(from).is_canonical() && Gva(to).is_canonical()) {
        return None;
    }
    let source = match cx.mmu.tlb.read(bank, from, bytes) {
        Some(source) => source,
        None => {
            cx.mmu.place(bank, from, Access::Read).ok()?;
            cx.mmu.tlb.read(bank, from, bytes)?
        }
    };
    let target = match cx.mmu.tlb.write(bank, to, bytes) {
        Some(target) => target,
        None => {
            cx.mmu.place(bank, to, Access::Write).ok()?;
            cx.mmu.tlb.write(bank, to, bytes)?
        }
    };
    Some((source, target))
}

/// Fills `count` elements at `host` with `value`.
///
/// # Safety
/// `host` is valid for writes of `count` elements.
unsafe fn fill<T: Int>(host: usize, value: T, count: u64) {
    let bytes = value.zx().to_le_bytes();
    if bytes[..T::BYTES].iter().all(|&b| b == bytes[0]) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(host as *mut u8, bytes[0], count as usize * T::BYTES) };
        return;
    }
    for i in 0..count as usize {
        // SAFETY: the caller's promise.
        unsafe { (host as *mut T).add(i).write_unaligned(value) };
    }
}

fn string<T: Int>(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let kind = match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => Kind::Movs,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Kind::Stos,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => Kind::Lods,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => Kind::Cmps,
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => Kind::Scas,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Kind::Ins,
        _ => Kind::Outs,
    };
    let walk = Walk::of(cx, &instruction, kind, T::BYTES);
    if matches!(kind, Kind::Ins | Kind::Outs) {
        io::check_port(cx, cx.regs[RDX] as u16, T::BYTES)?;
    }
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if !repeats {
        walk.element::<T>(cx)?;
        return cx.stored();
    }
    let compares = matches!(kind, Kind::Cmps | Kind::Scas);
    let while_equal = !instruction.has_repne_prefix();
    // Where time is counted, runs repeat: an instruction may be left only where the guest alone says so, so that each element
    // counts, not each stretch, of which other things decide how long it is.
    let counted = cx.platform.clock().source() != ClockSource::Real;
    let mut patience = if counted { COUNTED_ELEMENTS } else { ELEMENTS };
    let flags = cx.flags;
    if walk.mask == 0xffff_ffff && matches!(kind, Kind::Movs | Kind::Stos) {
        // Intel's CPUs write 32-bit pointers back, which cuts them, even if no element is moved.
        walk.advance(cx, RDI, 0);
        if kind == Kind::Movs {
            walk.advance(cx, RSI, 0);
        }
    }
    loop {
        let count = walk.index(cx, RCX);
        if count == 0 {
            return cx.stored();
        }
        if patience == 0 || cx.mmu.stop && !counted {
            // An interrupt, or code that this instruction has changed: go on later.
            return Ok(Flow::Again);
        }
        let most = if counted { count.min(patience) } else { count };
        let many = match kind {
            Kind::Movs | Kind::Stos => walk.stretch::<T>(cx, most),
            _ => 0,
        };
        if many == 0
            && let Err(fault) = walk.element::<T>(cx)
        {
            // The elements done so far count, but not their flags (SDM vol. 2, REP).
            cx.flags = flags;
            return Err(fault);
        }
        walk.advance(cx, RCX, many.max(1).wrapping_neg());
        patience -= if counted { many.max(1) } else { 1 };
        if compares && (cx.flags & ZF != 0) != while_equal {
            return Ok(Flow::Next);
        }
        if patience == 0 && !counted && !cx.platform.kick(cx.mmu.vcpu).is_raised() {
            patience = ELEMENTS;
        }
    }
}

/// XLAT: AL = [RBX + AL].
fn xlat(cx: &mut Cx, op: &Op) -> Step {
    let instruction = operand::instruction(op);
    let mask = match instruction.memory_base() {
        Register::BX => 0xffff,
        Register::EBX => 0xffff_ffff,
        _ => u64::MAX,
    };
    let base = cx.regs[crate::arch::state::gpr::RBX];
    let offset = base.wrapping_add(cx.reg::<u8>(RAX as u8).into()) & mask;
    let segment = address::segment_of(instruction.memory_segment());
    let at = address::in_segment(cx, segment, offset, 1, false)?;
    let value = cx.mmu.read::<u8>(at, segment == SegmentRegister::Ss)?;
    cx.set_reg(RAX as u8, value);
    Ok(Flow::Next)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    // MOVSD and CMPSD are also SSE instructions; only string instructions have implicit operands.
    let implicit = |k: OpKind| {
        matches!(
            k,
            OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    };
    if instruction.code() == Code::Xlat_m8 {
        return Some(xlat);
    }
    let is_string = instruction.is_string_instruction()
        && (implicit(instruction.op0_kind())
            || instruction.op_count() > 1 && implicit(instruction.op1_kind()));
    is_string.then(|| sized!(instruction.memory_size().size(), string))
}
