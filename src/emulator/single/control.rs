//! Control registers, XCR0, TLB and cache maintenance, HLT and the interrupt flag (SDM 2.5, 2.8, 17.2).
use super::cx::{Cx, Flow, Handler, Step};
use super::op::Op;
use super::operand;
use crate::arch::paging::{self, PagingMode};
use crate::arch::state::gpr::{RAX, RCX, RDX};
use crate::arch::{Cr0, Cr4, Efer, Exception, Rflags, Segment, SegmentRegister, Xcr0};
use crate::emulator::mmu::Fault;
use crate::engine::EventKind;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Ends a handler after which code must be looked at anew.
pub(super) fn renew(cx: &mut Cx, op: &Op) -> Step {
    cx.state.rip = op.instruction.as_deref().map_or(0, Instruction::next_ip);
    cx.refresh();
    Ok(Flow::Renew)
}

/// Raises #GP for paging registers that cannot be: `set` has put them into a copy of the current mode.
fn check_paging(cx: &mut Cx, set: impl FnOnce(&mut PagingMode)) -> Result<(), Fault> {
    let mut mode = cx.mmu.mode;
    set(&mut mode);
    let beyond = u64::MAX.checked_shl(mode.physical_bits.into()).unwrap_or(0);
    if mode.cr3 & beyond != 0 || !paging::root_is_valid(cx.mmu.ram, &mode) {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(())
}

/// Sets CR0 with its checks and effects.
fn set_cr0(cx: &mut Cx, value: u64) -> Result<(), Fault> {
    let old = cx.state.cr0;
    if value >> 32 != 0 {
        return Err(cx.raise(Exception::GP0));
    }
    let new = Cr0::from_bits_truncate(value) | Cr0::ET;
    let paging_unprotected = new.contains(Cr0::PG) && !new.contains(Cr0::PE);
    let bad_cache = new.contains(Cr0::NW) && !new.contains(Cr0::CD);
    if paging_unprotected || bad_cache {
        return Err(cx.raise(Exception::GP0));
    }
    let enables = new.contains(Cr0::PG) && !old.contains(Cr0::PG);
    let disables = !new.contains(Cr0::PG) && old.contains(Cr0::PG);
    let cs_long = cx.state.segment(SegmentRegister::Cs).is_long();
    if enables && cx.state.efer.contains(Efer::LME) {
        let busy_16bit_task = cx.state.tr.kind() & 8 == 0 && cx.state.tr.selector != 0;
        if !cx.state.cr4.contains(Cr4::PAE) || cs_long || busy_16bit_task {
            return Err(cx.raise(Exception::GP0));
        }
    }
    if disables && (cx.state.is_64bit_code() || cx.state.cr4.contains(Cr4::PCIDE)) {
        return Err(cx.raise(Exception::GP0));
    }
    let mut efer = cx.state.efer;
    if disables {
        efer -= Efer::LMA;
    }
    if enables {
        efer.set(Efer::LMA, efer.contains(Efer::LME));
        check_paging(cx, |mode| (mode.cr0, mode.efer) = (new, efer))?;
    }
    (cx.state.cr0, cx.state.efer) = (new, efer);
    let watched = Cr0::PG | Cr0::WP | Cr0::PE;
    if (old ^ new).intersects(watched) {
        cx.mmu.tlb.flush_all();
    }
    if (old ^ new).contains(Cr0::PE) && !new.contains(Cr0::PE) {
        cx.state.rflags.remove(Rflags::VM);
    }
    Ok(())
}

/// Bit 63 of what is written to CR3 with PCIDs: translations of the space are kept.
const KEEP: u64 = 1 << 63;

fn set_cr3(cx: &mut Cx, value: u64) -> Result<(), Fault> {
    // Outside 64-bit code the value has 32 bits; the low bits that mean nothing are ignored (SDM 4.3 to 4.5).
    let keep = cx.state.cr4.contains(Cr4::PCIDE) && value & KEEP != 0;
    let value = if keep { value & !KEEP } else { value };
    check_paging(cx, |mode| mode.cr3 = value)?;
    cx.state.cr3 = value;
    let pcid = PagingMode { cr3: value, ..cx.mmu.mode }.pcid();
    cx.mmu.tlb.load_space(pcid, keep);
    Ok(())
}

fn set_cr4(cx: &mut Cx, value: u64) -> Result<(), Fault> {
    let old = cx.state.cr4;
    let new = Cr4::from_bits_retain(value);
    let drops_pae = old.contains(Cr4::PAE) && !new.contains(Cr4::PAE) && cx.state.is_long_mode();
    let supported = cx.platform.cpuid_table().cr4();
    let sets_pcide = new.contains(Cr4::PCIDE) && !old.contains(Cr4::PCIDE);
    let bad_pcide = sets_pcide && (!cx.state.is_long_mode() || cx.state.cr3 & 0xfff != 0);
    if !supported.contains(new) || drops_pae || bad_pcide {
        return Err(cx.raise(Exception::GP0));
    }
    let reloads = Cr4::PAE | Cr4::PSE | Cr4::PGE | Cr4::SMEP;
    if (old ^ new).intersects(reloads) {
        check_paging(cx, |mode| mode.cr4 = new)?;
    }
    cx.state.cr4 = new;
    let watched = reloads | Cr4::SMAP | Cr4::PCIDE | Cr4::PKE | Cr4::PKS;
    if (old ^ new).intersects(watched) {
        cx.mmu.tlb.flush_all();
        let mode = PagingMode { cr4: new, ..cx.mmu.mode };
        if mode.pcid() != cx.mmu.tlb.pcid() {
            cx.mmu.tlb.load_space(mode.pcid(), false);
        }
    }
    Ok(())
}

/// The number of the control register of one operand.
fn number(instruction: &Instruction, operand: u32) -> usize {
    instruction.op_register(operand).number()
}

/// The general register of a move from or to a control register has the size of the mode.
fn mode_mask(cx: &Cx) -> u64 {
    if cx.state.is_64bit_code() { u64::MAX } else { 0xffff_ffff }
}

/// Tells whoever traces that a control register was written.
fn tell(cx: &Cx, register: u64, value: u64) {
    cx.platform.trace().record(EventKind::ControlWrite, register, value, 8);
}

fn mov_to_control<const N: usize>(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let value = cx.reg::<u64>(op.src) & mode_mask(cx);
    match N {
        0 => set_cr0(cx, value)?,
        2 => cx.state.cr2 = value,
        3 => set_cr3(cx, value)?,
        4 => set_cr4(cx, value)?,
        8 if value < 16 => {
            cx.platform.set_cr8(cx.mmu.vcpu, value as u8);
            tell(cx, 8, value);
            // It may let an interrupt in.
            return Ok(Flow::Stop);
        }
        8 => return Err(cx.raise(Exception::GP0)),
        _ => return Err(cx.raise(Exception::UD)),
    }
    tell(cx, N as u64, value);
    renew(cx, op)
}

fn mov_from_control<const N: usize>(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let value = match N {
        0 => cx.state.cr0.bits(),
        2 => cx.state.cr2,
        3 => cx.state.cr3,
        4 => cx.state.cr4.bits(),
        8 => cx.platform.cr8(cx.mmu.vcpu).into(),
        _ => return Err(cx.raise(Exception::UD)),
    };
    let value = value & mode_mask(cx);
    cx.set_reg::<u64>(op.dst, value);
    Ok(Flow::Next)
}

/// Picks the instance of a handler for a control register.
macro_rules! by_control_register {
    ($number:expr, $name:ident) => {
        match $number {
            0 => $name::<0> as Handler,
            2 => $name::<2>,
            3 => $name::<3>,
            4 => $name::<4>,
            8 => $name::<8>,
            _ => $name::<1>,
        }
    };
}

fn clts(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    cx.state.cr0 -= Cr0::TS;
    tell(cx, 0, cx.state.cr0.bits());
    renew(cx, op)
}

fn lmsw(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let instruction = operand::instruction(op);
    let word = match instruction.op0_kind() {
        OpKind::Memory => cx.load::<u16>(op)?.into(),
        _ => operand::read_register(cx, instruction.op0_register()),
    };
    // PE can be set but not cleared.
    let old = cx.state.cr0.bits();
    let value = old & !0xe | word & 0xf;
    set_cr0(cx, value)?;
    tell(cx, 0, value);
    renew(cx, op)
}

fn invlpg(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let instruction = operand::instruction(op);
    let offset = cx.offset(op) & super::address::mask(&instruction);
    let segment = super::address::segment_of(instruction.memory_segment());
    let at = super::address::linear(cx.state, segment, offset);
    cx.mmu.tlb.flush_page(at);
    renew(cx, op)
}

/// INVD, WBINVD: memory is coherent here.
fn flush_caches(cx: &mut Cx, _: &Op) -> Step {
    cx.need_ring0()?;
    Ok(Flow::Next)
}

fn hlt(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    cx.state.rip = operand::instruction(op).next_ip();
    Ok(Flow::Halt)
}

/// CLI and STI need CPL ≤ IOPL.
fn need_iopl(cx: &mut Cx) -> Result<(), Fault> {
    if cx.is_protected() && cx.state.cpl() > cx.state.rflags.iopl() {
        return Err(cx.raise(Exception::GP0));
    }
    Ok(())
}

fn cli(cx: &mut Cx, _: &Op) -> Step {
    need_iopl(cx)?;
    cx.state.rflags.remove(Rflags::IF);
    Ok(Flow::Next)
}

fn sti(cx: &mut Cx, op: &Op) -> Step {
    need_iopl(cx)?;
    if !cx.state.rflags.contains(Rflags::IF) {
        cx.state.rflags.insert(Rflags::IF);
        cx.state.interrupt_shadow = true;
    }
    cx.state.rip = operand::instruction(op).next_ip();
    Ok(Flow::Renew)
}

/// CLAC and STAC.
fn set_ac<const ON: bool>(cx: &mut Cx, op: &Op) -> Step {
    if cx.state.cpl() > 0 || !cx.is_protected() {
        return Err(cx.raise(Exception::UD));
    }
    cx.state.rflags.set(Rflags::AC, ON);
    renew(cx, op)
}

fn xgetbv(cx: &mut Cx, _: &Op) -> Step {
    if !cx.state.cr4.contains(Cr4::OSXSAVE) {
        return Err(cx.raise(Exception::UD));
    }
    if cx.reg::<u32>(RCX as u8) != 0 {
        return Err(cx.raise(Exception::GP0));
    }
    cx.regs[RAX] = cx.state.xcr0.bits();
    cx.regs[RDX] = 0;
    Ok(Flow::Next)
}

fn xsetbv(cx: &mut Cx, op: &Op) -> Step {
    if !cx.state.cr4.contains(Cr4::OSXSAVE) {
        return Err(cx.raise(Exception::UD));
    }
    cx.need_ring0()?;
    let value = u64::from(cx.reg::<u32>(RDX as u8)) << 32 | u64::from(cx.reg::<u32>(RAX as u8));
    let offered = cx.platform.cpuid_table().xcr0();
    let wanted = Xcr0::from_bits(value).filter(|xcr0| xcr0.is_valid() && offered.contains(*xcr0));
    match wanted {
        Some(xcr0) if cx.reg::<u32>(RCX as u8) == 0 => cx.state.xcr0 = xcr0,
        _ => return Err(cx.raise(Exception::GP0)),
    }
    renew(cx, op)
}

fn swapgs(cx: &mut Cx, _: &Op) -> Step {
    cx.need_ring0()?;
    let kernel = cx.state.msrs.kernel_gs_base;
    let gs = cx.state.segment_mut(SegmentRegister::Gs);
    let old = std::mem::replace(&mut gs.base, kernel);
    cx.state.msrs.kernel_gs_base = old;
    cx.regs[usize::from(super::cx::GS_BASE)] = kernel;
    Ok(Flow::Next)
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
fn segment_base(cx: &mut Cx, op: &Op) -> Step {
    if !cx.state.cr4.contains(Cr4::FSGSBASE) {
        return Err(cx.raise(Exception::UD));
    }
    let instruction = operand::instruction(op);
    let register = match instruction.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    };
    if matches!(instruction.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
        let base = cx.state.segment(register).base;
        operand::write_register(cx, instruction.op0_register(), base);
        return Ok(Flow::Next);
    }
    let base = operand::read_register(cx, instruction.op0_register());
    if !crate::arch::Gva(base).is_canonical() {
        return Err(cx.raise(Exception::GP0));
    }
    let segment: &mut Segment = cx.state.segment_mut(register);
    segment.base = base;
    cx.refresh();
    Ok(Flow::Next)
}

/// INVPCID (SDM vol. 2A).
fn invpcid(cx: &mut Cx, op: &Op) -> Step {
    cx.need_ring0()?;
    let kind = cx.reg::<u64>(op.dst) & mode_mask(cx);
    let at = cx.address(op, 16, false)?;
    let mut descriptor = [0; 16];
    cx.mmu.read_into(at, &mut descriptor, op.has(Op::STACK_SEGMENT))?;
    let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| descriptor[from + i]));
    let (pcid, linear) = (half(0), half(8));
    let names_other = kind < 2 && pcid != 0 && !cx.state.cr4.contains(Cr4::PCIDE);
    let not_canonical = kind == 0 && !crate::arch::Gva(linear).is_canonical();
    if kind > 3 || pcid >> 12 != 0 || names_other || not_canonical {
        return Err(cx.raise(Exception::GP0));
    }
    match kind {
        0 => cx.mmu.tlb.flush_page_of(pcid as u16, linear),
        1 => cx.mmu.tlb.flush_space(pcid as u16),
        2 => cx.mmu.tlb.flush_all(),
        _ => cx.mmu.tlb.flush_spaces(),
    }
    renew(cx, op)
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    let register = |i: u32, is: fn(iced_x86::Register) -> bool| {
        instruction.op_count() > i
            && instruction.op_kind(i) == OpKind::Register
            && is(instruction.op_register(i))
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Mov if register(0, iced_x86::Register::is_cr) => {
            by_control_register!(number(instruction, 0), mov_to_control)
        }
        Mnemonic::Mov if register(1, iced_x86::Register::is_cr) => {
            by_control_register!(number(instruction, 1), mov_from_control)
        }
        Mnemonic::Clts => clts,
        Mnemonic::Lmsw => lmsw,
        Mnemonic::Invlpg => invlpg,
        Mnemonic::Invpcid => invpcid,
        Mnemonic::Invd | Mnemonic::Wbinvd => flush_caches,
        Mnemonic::Hlt => hlt,
        Mnemonic::Cli => cli,
        Mnemonic::Sti => sti,
        Mnemonic::Clac => set_ac::<false>,
        Mnemonic::Stac => set_ac::<true>,
        Mnemonic::Xgetbv => xgetbv,
        Mnemonic::Xsetbv => xsetbv,
        Mnemonic::Swapgs => swapgs,
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => segment_base,
        _ => return None,
    })
}

/// Whether code after the instruction must be looked at anew.
pub(super) fn changes_state(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Clts
            | Mnemonic::Lmsw
            | Mnemonic::Invlpg
            | Mnemonic::Hlt
            | Mnemonic::Serialize
            | Mnemonic::Sti
            | Mnemonic::Clac
            | Mnemonic::Stac
            | Mnemonic::Xsetbv
            | Mnemonic::Wrpkru
    ) || instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && (instruction.op0_register().is_cr() || instruction.op0_register().is_segment_register())
}
