//! The CPU's registers as GDB numbers them (GDB's `features/i386/64bit-core.xml` and `64bit-sse.xml`, and those for 32 bits).
//!
//! RIP is the linear address of the next instruction: GDB knows no base of CS, and its breakpoints are linear addresses.
use super::described::{Block, Described};
use crate::arch::state::gpr;
use crate::arch::{CpuState, Gva, Rflags, SegmentRegister, XsaveArea};
use gdbstub_arch::x86::reg::{F80, X86_64CoreRegs, X86CoreRegs, X86SegmentRegs, X87FpuInternalRegs};

/// GDB's order of the general registers.
const GENERAL: [usize; 16] = [
    gpr::RAX,
    gpr::RBX,
    gpr::RCX,
    gpr::RDX,
    gpr::RSI,
    gpr::RDI,
    gpr::RBP,
    gpr::RSP,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
];
/// Bits of MXCSR that are not reserved.
const MXCSR_BITS: u32 = 0xffff;

/// What GDB cannot have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fixed {
    /// A selector, which would load a descriptor.
    Selector,
    /// RIP, to where no code can be.
    Rip,
}

/// The registers of `state`.
pub(super) fn of_state(state: &CpuState) -> X86_64CoreRegs {
    let selector = |register: SegmentRegister| u32::from(state.segment(register).selector);
    let area = &state.xsave;
    X86_64CoreRegs {
        regs: GENERAL.map(|number| state.gpr[number]),
        eflags: state.rflags.bits() as u32,
        rip: state.linear_rip(),
        segments: X86SegmentRegs {
            cs: selector(SegmentRegister::Cs),
            ss: selector(SegmentRegister::Ss),
            ds: selector(SegmentRegister::Ds),
            es: selector(SegmentRegister::Es),
            fs: selector(SegmentRegister::Fs),
            gs: selector(SegmentRegister::Gs),
        },
        st: std::array::from_fn(|i| bytes::<10>(area, XsaveArea::ST + 16 * i)),
        fpu: X87FpuInternalRegs {
            fctrl: half(area, XsaveArea::FCW).into(),
            fstat: half(area, XsaveArea::FSW).into(),
            ftag: full_tags(area),
            fiseg: 0,
            fioff: u32::from_le_bytes(bytes(area, XsaveArea::FIP)),
            foseg: 0,
            fooff: u32::from_le_bytes(bytes(area, XsaveArea::FDP)),
            fop: u32::from(half(area, XsaveArea::FOP) & 0x7ff),
        },
        xmm: std::array::from_fn(|i| u128::from_le_bytes(bytes(area, XsaveArea::XMM + 16 * i))),
        mxcsr: area.mxcsr(),
    }
}

/// The registers that a 32-bit CPU has, and what they hold of the others'.
pub(super) fn short(registers: &X86_64CoreRegs) -> X86CoreRegs {
    let general = registers.regs.map(|value| value as u32);
    // GDB's order is another one here.
    let [eax, ebx, ecx, edx, esi, edi, ebp, esp, ..] = general;
    X86CoreRegs {
        eax,
        ecx,
        edx,
        ebx,
        esp,
        ebp,
        esi,
        edi,
        eip: registers.rip as u32,
        eflags: registers.eflags,
        segments: registers.segments.clone(),
        st: registers.st,
        fpu: registers.fpu.clone(),
        xmm: std::array::from_fn(|i| registers.xmm[i]),
        mxcsr: registers.mxcsr,
    }
}

/// The same, those that a 32-bit CPU does not have being zero.
pub(super) fn long(short: &X86CoreRegs) -> X86_64CoreRegs {
    let mut long = X86_64CoreRegs::default();
    let general = [short.eax, short.ebx, short.ecx, short.edx, short.esi, short.edi, short.ebp, short.esp];
    for (register, value) in long.regs.iter_mut().zip(general) {
        *register = value.into();
    }
    long.rip = short.eip.into();
    long.eflags = short.eflags;
    long.segments = short.segments.clone();
    long.st = short.st;
    long.fpu = short.fpu.clone();
    long.xmm[..8].copy_from_slice(&short.xmm);
    long.mxcsr = short.mxcsr;
    long
}

/// Puts what GDB sent into `state`, which is as it was if something cannot be changed. What a 32-bit CPU does not have stays.
pub(super) fn block_into_state(block: &Block, state: &mut CpuState) -> Result<(), Fixed> {
    if block.described == Described::X86_64 {
        return into_state(&block.registers, state);
    }
    let now = of_state(state);
    let (told, new) = (long(&short(&now)), &block.registers);
    let mut merged = X86_64CoreRegs { regs: now.regs, rip: now.rip, xmm: now.xmm, ..new.clone() };
    for i in 0..8 {
        if new.regs[i] != told.regs[i] {
            merged.regs[i] = new.regs[i];
        }
    }
    if new.rip != told.rip {
        merged.rip = new.rip;
    }
    merged.xmm[..8].copy_from_slice(&new.xmm[..8]);
    into_state(&merged, state)
}

/// Puts `registers` into `state`, which is as it was if something cannot be changed.
fn into_state(registers: &X86_64CoreRegs, state: &mut CpuState) -> Result<(), Fixed> {
    if registers.segments != of_state(state).segments {
        return Err(Fixed::Selector);
    }
    let mut rip = registers.rip;
    if rip != state.linear_rip() {
        let possible = if state.is_64bit_code() {
            Gva(rip).is_canonical()
        } else {
            let code = state.segment(SegmentRegister::Cs);
            let within = rip.wrapping_sub(code.base) & 0xffff_ffff;
            let possible = u32::try_from(rip).is_ok() && within <= u64::from(code.limit);
            rip = within;
            possible
        };
        if !possible {
            return Err(Fixed::Rip);
        }
        state.rip = rip;
    }
    for (number, &value) in GENERAL.iter().zip(&registers.regs) {
        state.gpr[*number] = value;
    }
    let flags = Rflags::from_bits_truncate(registers.eflags.into());
    // Virtual-8086 mode is entered by IRET and tasks alone.
    let changes = Rflags::all() - Rflags::VM - Rflags::FIXED;
    state.rflags = (state.rflags - changes) | (flags & changes);
    let area = &mut state.xsave.0;
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    for (i, value) in registers.st.iter().enumerate() {
        put(XsaveArea::ST + 16 * i, value);
    }
    for (i, value) in registers.xmm.iter().enumerate() {
        put(XsaveArea::XMM + 16 * i, &value.to_le_bytes());
    }
    put(XsaveArea::FCW, &(registers.fpu.fctrl as u16).to_le_bytes());
    put(XsaveArea::FSW, &(registers.fpu.fstat as u16).to_le_bytes());
    put(XsaveArea::FTW, &[short_tags(registers.fpu.ftag)]);
    put(XsaveArea::FOP, &(registers.fpu.fop as u16 & 0x7ff).to_le_bytes());
    put(XsaveArea::FIP, &registers.fpu.fioff.to_le_bytes());
    put(XsaveArea::FDP, &registers.fpu.fooff.to_le_bytes());
    put(XsaveArea::MXCSR, &(registers.mxcsr & MXCSR_BITS).to_le_bytes());
    area[XsaveArea::XSTATE_BV] |= 3;
    Ok(())
}

fn bytes<const N: usize>(area: &XsaveArea, at: usize) -> [u8; N] {
    std::array::from_fn(|i| area.0[at + i])
}

fn half(area: &XsaveArea, at: usize) -> u16 {
    u16::from_le_bytes(bytes(area, at))
}

/// The tag word with two bits a register, of which the area keeps one: 3 is empty, 0 a number, 1 zero, 2 all else (SDM
/// vol. 1, 8.1.7).
fn full_tags(area: &XsaveArea) -> u32 {
    let top = usize::from(half(area, XsaveArea::FSW) >> 11 & 7);
    (0..8).fold(0, |tags, physical| {
        let tag = if area.0[XsaveArea::FTW] >> physical & 1 == 0 {
            3
        } else {
            let value: F80 = bytes(area, XsaveArea::ST + 16 * ((physical + 8 - top) % 8));
            let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
            let fraction = u64::from_le_bytes(std::array::from_fn(|i| value[i]));
            match (exponent, fraction) {
                (0, 0) => 1,
                (0 | 0x7fff, _) => 2,
                (_, fraction) if fraction >> 63 == 0 => 2,
                _ => 0,
            }
        };
        tags | tag << (2 * physical)
    })
}

fn short_tags(full: u32) -> u8 {
    (0..8).fold(0, |tags, i| tags | u8::from(full >> (2 * i) & 3 != 3) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_can_be_written_back() {
        let mut state = CpuState::reset();
        for (i, value) in state.gpr.iter_mut().enumerate() {
            *value = 0x1111 * (i as u64 + 1);
        }
        state.rflags |= Rflags::CF | Rflags::DF;
        for (i, byte) in state.xsave.0[..416].iter_mut().enumerate().skip(32) {
            *byte = i as u8;
        }
        state.xsave.0[XsaveArea::FTW] = 0x5a;
        let before = state.clone();
        let registers = of_state(&state);
        assert_eq!(registers.regs[1], before.gpr[gpr::RBX], "GDB's second register is RBX");
        assert_eq!(into_state(&registers, &mut state), Ok(()));
        assert!(state == before);
    }

    #[test]
    fn changes_arrive_and_selectors_are_refused() {
        let mut state = CpuState::reset();
        let mut registers = of_state(&state);
        registers.regs[7] = 0x1234;
        registers.xmm[15] = u128::MAX;
        registers.mxcsr = u32::MAX;
        registers.eflags |= 1 << 17 | 1 << 10;
        assert_eq!(into_state(&registers, &mut state), Ok(()));
        assert_eq!((state.gpr[gpr::RSP], state.xsave.ymm(15)[15]), (0x1234, 0xff));
        assert_eq!(state.xsave.mxcsr(), MXCSR_BITS, "a reserved bit would fault in the host");
        assert!(state.rflags.contains(Rflags::DF) && !state.rflags.contains(Rflags::VM));
        let before = state.clone();
        registers.segments.cs ^= 8;
        registers.rip = 7;
        assert_eq!(into_state(&registers, &mut state), Err(Fixed::Selector));
        registers.segments.cs ^= 8;
        registers.rip = 1 << 32;
        assert_eq!(into_state(&registers, &mut state), Err(Fixed::Rip), "beyond 32-bit code");
        assert!(state == before);
    }

    #[test]
    fn in_16_bit_code_rip_is_linear_and_upper_halves_stay() {
        let mut state = CpuState::reset();
        state.gpr[gpr::RBX] = 0x1111_2222_3333_4444;
        state.gpr[8] = 8;
        let mut block = Block { described: Described::I386, registers: long(&short(&of_state(&state))) };
        assert_eq!((block.registers.rip, block.registers.regs[1]), (0xffff_fff0, 0x3333_4444));
        block.registers.regs[0] = 5;
        block.registers.rip = 0xffff_0100;
        assert_eq!(block_into_state(&block, &mut state), Ok(()));
        assert_eq!((state.rip, state.gpr[gpr::RAX], state.gpr[8]), (0x100, 5, 8));
        assert_eq!(state.gpr[gpr::RBX], 0x1111_2222_3333_4444);
        block.registers.rip = 0x7c00;
        assert_eq!(block_into_state(&block, &mut state), Err(Fixed::Rip), "beyond the limit of CS");
    }

    #[test]
    fn tags_tell_empty_from_zero_and_number() {
        let mut state = CpuState::reset();
        let area = &mut state.xsave.0;
        // TOP is 6: ST0 is the seventh physical register, 1.0; ST1 the eighth, zero; ST2 the first, an infinity.
        area[XsaveArea::FSW + 1] = 6 << 3;
        area[XsaveArea::FTW] = 0b1100_0001;
        area[XsaveArea::ST + 7..XsaveArea::ST + 10].copy_from_slice(&[0x80, 0xff, 0x3f]);
        area[XsaveArea::ST + 32 + 7..XsaveArea::ST + 32 + 10].copy_from_slice(&[0x80, 0xff, 0x7f]);
        let tags = of_state(&state).fpu.ftag;
        assert_eq!(tags, 0b01_00_11_11_11_11_11_10);
        assert_eq!(short_tags(tags), 0b1100_0001);
    }
}
