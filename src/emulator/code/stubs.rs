//! The ways into and out of translated code.
//!
//! All ways out meet in `help`: guest registers go to the context, vector registers too if they were in use, and the
//! host function that the session named is called with the context and a number. It returns the address to go on at,
//! which may be [`Stubs::leave`]. Flags are in the context then.
use super::context::Context;
use super::registers::pinned;
use crate::arch::XsaveArea;
use crate::emulator::emit::{Alu, Assembler, Condition, Mem, RAX, RBX, RCX, RDI, RSI, RSP};

/// Answers a call for help: context and number in, address to go on at out.
pub(crate) type Answer = extern "sysv64" fn(*mut Context, u32) -> usize;

/// Registers that a host function must leave as they were.
const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Addresses of the stubs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stubs {
    /// A host function `fn(*mut Context, target)`: goes to `target`, flags being in the context.
    pub enter: usize,
    /// To return from [`Self::enter`].
    pub leave: usize,
    /// Number in EAX, flags in the context.
    pub help: usize,
    /// Number in EAX, flags in the host's.
    pub help_with_flags: usize,
    /// To be called, number in EAX, flags in the context; the answer may be to go on after the call.
    pub execute: usize,
    /// To be called: puts the guest's vector registers into the host's.
    pub load_vectors: usize,
}

/// A field of the context.
pub(crate) fn field(offset: i32) -> Mem {
    Mem::at(RSP, offset)
}

/// Saves the host's status flags into the context. Changes RAX.
pub(crate) fn save_flags(asm: &mut Assembler) {
    // lahf; seto al
    asm.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    asm.store32(field(Context::FLAGS), RAX);
}

/// Loads the host's status flags from the context. Changes RAX.
pub(crate) fn restore_flags(asm: &mut Assembler) {
    asm.load32(RAX, field(Context::FLAGS));
    // add al, 0x7f: overflows if AL is 1; sahf leaves OF alone.
    asm.raw(&[0x04, 0x7f, 0x9e]);
}

fn push(asm: &mut Assembler, reg: u8) {
    if reg >= 8 {
        asm.byte(0x41);
    }
    asm.byte(0x50 | reg & 7);
}

fn pop(asm: &mut Assembler, reg: u8) {
    if reg >= 8 {
        asm.byte(0x41);
    }
    asm.byte(0x58 | reg & 7);
}

/// A move of XMM `n` between register and `[rcx + offset]`; opcode 0x10 loads, 0x11 stores.
fn move_low(asm: &mut Assembler, avx: bool, opcode: u8, n: u8) {
    let offset = (XsaveArea::XMM + 16 * usize::from(n)) as u32;
    if avx {
        asm.raw(&[0xc5, if n < 8 { 0xf8 } else { 0x78 }, opcode, 0x81 | (n & 7) << 3]);
    } else {
        if n >= 8 {
            asm.byte(0x44);
        }
        asm.raw(&[0x0f, opcode, 0x81 | (n & 7) << 3]);
    }
    asm.raw(&offset.to_le_bytes());
}

/// `vinsertf128 ymm, ymm, [rcx + offset], 1` or `vextractf128 [rcx + offset], ymm, 1`.
fn move_high(asm: &mut Assembler, load: bool, n: u8) {
    let offset = (XsaveArea::YMM_HIGH + 16 * usize::from(n)) as u32;
    let extension = if n < 8 { 0xe3 } else { 0x63 };
    let vvvv = if load { (!n & 15) << 3 } else { 0x78 };
    asm.raw(&[0xc4, extension, vvvv | 5, if load { 0x18 } else { 0x19 }, 0x81 | (n & 7) << 3]);
    asm.raw(&offset.to_le_bytes());
    asm.byte(1);
}

/// `ldmxcsr` (2) or `stmxcsr` (3) with a memory operand.
fn mxcsr(asm: &mut Assembler, which: u8, at: Mem) {
    asm.byte(0x0f);
    asm.op(false, 0xae, which, at);
}

/// `0F AE` is a two-byte opcode: the escape byte would end up before REX, so the operands here have none.
const MXCSR: i32 = XsaveArea::MXCSR as i32;

fn save_vectors(asm: &mut Assembler, avx: bool) {
    asm.load(RCX, field(Context::XSAVE));
    for n in 0..16 {
        move_low(asm, avx, 0x11, n);
        if avx {
            move_high(asm, false, n);
        }
    }
    mxcsr(asm, 3, Mem::at(RCX, MXCSR));
    if avx {
        // vzeroupper
        asm.raw(&[0xc5, 0xf8, 0x77]);
    }
    mxcsr(asm, 2, field(Context::HOST_MXCSR));
}

/// `below` is how far RSP is below the context.
fn load_vectors(asm: &mut Assembler, avx: bool, below: i32) {
    asm.load(RCX, Mem::at(RSP, Context::XSAVE + below));
    for n in 0..16 {
        move_low(asm, avx, 0x10, n);
        if avx {
            move_high(asm, true, n);
        }
    }
    mxcsr(asm, 2, Mem::at(RCX, MXCSR));
}

impl Stubs {
    /// Writes the stubs; `base` is the address of the buffer's start. `avx` says that the guest has YMM registers.
    pub(crate) fn emit(asm: &mut Assembler, base: usize, avx: bool, answer: Answer) -> Self {
        let mut stubs = Self { enter: base + asm.position(), ..Self::default() };
        for reg in CALLEE_SAVED {
            push(asm, reg);
        }
        asm.lea(RSP, Mem::at(RSP, -8));
        asm.store(Mem::at(RDI, Context::HOST_STACK), RSP);
        asm.mov(RAX, RSI);
        asm.mov(RSP, RDI);
        let go = asm.jump();

        stubs.leave = base + asm.position();
        asm.load(RSP, field(Context::HOST_STACK));
        asm.lea(RSP, Mem::at(RSP, 8));
        for reg in CALLEE_SAVED.into_iter().rev() {
            pop(asm, reg);
        }
        asm.byte(0xc3);

        stubs.execute = base + asm.position();
        // pop [rsp + resume]: the address is computed after the increment.
        asm.op(false, 0x8f, 0, field(Context::RESUME));
        let execute = asm.jump();

        stubs.help_with_flags = base + asm.position();
        asm.mov32(RCX, RAX);
        save_flags(asm);
        asm.mov32(RAX, RCX);

        stubs.help = base + asm.position();
        asm.bind(execute);
        for (guest, reg) in pinned() {
            asm.store(field(Context::register(guest)), reg);
        }
        asm.mov32(RSI, RAX);
        asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
        let integer_only = asm.jump_if(Condition::EQUAL);
        save_vectors(asm, avx);
        asm.bind(integer_only);
        asm.mov(RDI, RSP);
        asm.mov(RBX, RSP);
        asm.load(RSP, field(Context::HOST_STACK));
        asm.mov_imm(RAX, answer as usize as u64);
        asm.op(false, 0xff, 2, RAX);
        asm.mov(RSP, RBX);
        asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
        let integer_only = asm.jump_if(Condition::EQUAL);
        load_vectors(asm, avx, 0);
        asm.bind(integer_only);
        asm.bind(go);
        for (guest, reg) in pinned() {
            asm.load(reg, field(Context::register(guest)));
        }
        asm.jump_rm(RAX);

        stubs.load_vectors = base + asm.position();
        load_vectors(asm, avx, 8);
        asm.op(false, 0xc7, 0, Mem::at(RSP, Context::VECTOR + 8));
        asm.raw(&1_u32.to_le_bytes());
        asm.byte(0xc3);
        stubs
    }
}
