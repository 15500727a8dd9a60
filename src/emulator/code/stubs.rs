//! The ways into and out of translated code.
//!
//! All ways out meet in `help`: guest registers go to the context, vector registers too if they were in use, and the
//! host function that the session named is called with the context and a number. It returns the address to go on at,
//! which may be [`Stubs::leave`]. Flags are in the context then.
use super::context::Context;
use super::registers::{GUEST_RAX, pinned};
use crate::arch::XsaveArea;
use crate::arch::address::PAGE_SIZE;
use crate::emulator::emit::{
    Alu, Assembler, Condition, Forward, Gs, Mem, RAX, RCX, RDI, RDX, RSI, RSP, Reg, Rm,
};
use crate::emulator::mmu::tlb::{ENTRIES, ENTRY_ADDEND, ENTRY_READ, ENTRY_SHIFT, ENTRY_WRITE};
use crate::emulator::mmu::window::{SPANS, WIDE, Window};
use smallvec::SmallVec;
use std::mem::offset_of;

/// Answers a call for help: context and number in, address to go on at out.
pub(crate) type Answer = extern "sysv64" fn(*mut Context, u32) -> usize;

/// Accesses a port, see [`Stubs::port`]: context, number and access in; 0 or a number to ask for help with out.
pub(crate) type AccessPort = extern "sysv64" fn(*mut Context, u32, u32) -> u32;

/// The host functions that translated code calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callees {
    pub answer: Answer,
    pub access_port: AccessPort,
}

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
    /// Number in EAX, flags in the context; the answer may be to go on at the address in RCX.
    pub execute: usize,
    /// Number in EAX, an access to a port in ECX, flags in the context, and there where to go on. The access is made by
    /// a host function that knows only the guest's RAX and RDX, and help is asked for only if it says so. While the
    /// vector registers are in use it is help that is asked for, with the number.
    pub port: usize,
    /// What the last entry of the stack of returns leads to.
    pub no_return: usize,
    /// To be called: puts the guest's vector registers into the host's.
    pub load_vectors: usize,
    /// To be called: drops the windows that are listed in [`Context::opened_ac`]. Changes RAX, RCX and flags.
    pub drop_ac: usize,
    /// To be called, for the supervisor and the user, for reading and for writing, and for each of [`SPANS`]: moves a window
    /// to where the address in RCX lies, if that and the span is in a wide window, or if it is the user's in a page that the
    /// soft TLB knows and no miss is to be told of yet. The window's offset is in EAX, the host's RAX in the first of
    /// [`Context::scratch`]. ZF says that it was moved, and RAX is what it was. Changes RCX and flags.
    pub refill: [[[usize; SPANS.len()]; 2]; 2],
}

/// A field of the context.
pub(crate) fn field(offset: i32) -> Gs {
    Gs(offset)
}

/// Puts the soft TLB's entry for `size` bytes at the guest address in RCX into `entry`; ZF says that it is theirs. RCX becomes
/// the page of the last byte.
pub(crate) fn compare_entry(asm: &mut Assembler, entry: Reg, size: usize, write: bool) {
    asm.mov(entry, RCX);
    asm.shift(true, true, entry, 12 - ENTRY_SHIFT);
    asm.alu_imm(false, Alu::And, entry, ((ENTRIES - 1) << ENTRY_SHIFT) as i32);
    asm.alu(Alu::Add, entry, field(Context::TLB));
    // The last byte's page: an access that leaves its page finds another tag.
    if size > 1 {
        asm.lea(RCX, Mem::at(RCX, size as i32 - 1));
    }
    asm.alu_imm(true, Alu::And, RCX, -(PAGE_SIZE as i32));
    asm.alu(Alu::Cmp, RCX, Mem::at(entry, if write { ENTRY_WRITE } else { ENTRY_READ }));
}

/// Saves the host's status flags into the context. Changes RAX.
pub(crate) fn save_flags(asm: &mut Assembler) {
    asm.forget_scratch();
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
fn mxcsr(asm: &mut Assembler, which: u8, at: impl Into<Rm>) {
    asm.op_0f(0xae, which, at);
}

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

fn load_vectors(asm: &mut Assembler, avx: bool) {
    asm.load(RCX, field(Context::XSAVE));
    for n in 0..16 {
        move_low(asm, avx, 0x10, n);
        if avx {
            move_high(asm, true, n);
        }
    }
    mxcsr(asm, 2, Mem::at(RCX, MXCSR));
}

/// Calls a host function on the host's stack, with the context as its first argument.
fn call_host(asm: &mut Assembler, function: usize) {
    asm.load(RDI, field(Context::ITSELF));
    asm.store(field(Context::RETURNS), RSP);
    asm.load(RSP, field(Context::HOST_STACK));
    asm.mov_imm(RAX, function as u64);
    asm.call_rm(RAX);
    asm.load(RSP, field(Context::RETURNS));
}

/// Ends one of [`Stubs::refill`]: the window at RAX is what it should be. ZF says that it was empty, and has to be listed in
/// [`Context::opened`].
fn end_refill(asm: &mut Assembler) {
    let listed = asm.jump_if(Condition::NOT_EQUAL);
    asm.load(RDX, field(Context::OPENED_COUNT));
    asm.load(RCX, field(Context::ITSELF));
    asm.store(Mem { base: Some(RCX), index: Some((RDX, 3)), disp: Context::OPENED }, RAX);
    asm.alu_imm(true, Alu::Add, field(Context::OPENED_COUNT), 1);
    asm.bind(listed);
    asm.load(RDX, field(Context::SCRATCH + 8));
    asm.load(RAX, field(Context::SCRATCH));
    asm.alu(Alu::Cmp, RCX, RCX);
    asm.ret();
}

/// Writes one of [`Stubs::refill`], for the `kind`-th of [`SPANS`].
fn refill(asm: &mut Assembler, user: bool, write: bool, kind: usize) {
    let part = |offset: usize| Mem::at(RAX, offset as i32);
    let page = PAGE_SIZE as i32;
    let span = SPANS[kind];
    asm.store(field(Context::SCRATCH + 8), RDX);
    asm.alu(Alu::Add, RAX, field(Context::ITSELF));
    let wide: [Forward; WIDE] = std::array::from_fn(|number| {
        let window = Context::wide(user, write, number);
        asm.mov(RDX, RCX);
        asm.alu(Alu::Sub, RDX, field(window + offset_of!(Window, start) as i32));
        asm.alu(Alu::Cmp, RDX, field(window + (offset_of!(Window, limits) + 8 * kind) as i32));
        asm.jump_if(Condition::BELOW)
    });
    let length = part(offset_of!(Window, length));
    let mut missed = SmallVec::<[Forward; 3]>::new();
    if user {
        asm.alu_imm(false, Alu::Sub, field(Context::MISSES), 1);
        let told = asm.jump_if(Condition::SIGN);
        asm.mov32(RDX, RCX);
        asm.alu_imm(false, Alu::And, RDX, page - 1);
        asm.alu_imm(false, Alu::Cmp, RDX, page - span as i32);
        let beyond = asm.jump_if(Condition::ABOVE);
        compare_entry(asm, RDX, 1, write);
        let unknown = asm.jump_if(Condition::NOT_EQUAL);
        // No move changes flags.
        asm.alu_imm(true, Alu::Cmp, length, 0);
        asm.store(part(offset_of!(Window, start)), RCX);
        asm.load(RDX, Mem::at(RDX, ENTRY_ADDEND));
        asm.store(part(offset_of!(Window, addend)), RDX);
        for (number, span) in SPANS.into_iter().enumerate() {
            asm.mov_imm(RDX, PAGE_SIZE - span + 1);
            asm.store(part(offset_of!(Window, limits) + 8 * number), RDX);
        }
        asm.mov_imm(RDX, PAGE_SIZE);
        asm.store(length, RDX);
        end_refill(asm);
        missed.extend([told, beyond, unknown]);
    } else {
        missed.push(asm.jump());
    }
    for (number, from) in wide.into_iter().enumerate() {
        asm.bind(from);
        asm.alu_imm(true, Alu::Cmp, length, 0);
        for offset in (0..size_of::<Window>()).step_by(8) {
            asm.load(RDX, field(Context::wide(user, write, number) + offset as i32));
            asm.store(part(offset), RDX);
        }
        end_refill(asm);
    }
    for from in missed {
        asm.bind(from);
    }
    asm.load(RDX, field(Context::SCRATCH + 8));
    // Not zero: ZF is clear.
    asm.mov_imm(RCX, 1);
    asm.alu_imm(false, Alu::Cmp, RCX, 0);
    asm.ret();
}

/// Writes [`Stubs::drop_ac`].
fn drop_ac(asm: &mut Assembler) {
    let entry = |base, index, list| Mem { base: Some(base), index: Some((index, 3)), disp: list };
    asm.store(field(Context::SCRATCH), RDX);
    let next = asm.position();
    asm.load(RCX, field(Context::OPENED_AC_COUNT));
    asm.alu_imm(true, Alu::Sub, RCX, 1);
    let done = asm.jump_if(Condition::BELOW);
    asm.store(field(Context::OPENED_AC_COUNT), RCX);
    asm.load(RAX, field(Context::ITSELF));
    asm.load(RAX, entry(RAX, RCX, Context::OPENED_AC));
    // What is empty is not listed among those that are open.
    asm.alu_imm(true, Alu::Cmp, Mem::at(RAX, offset_of!(Window, length) as i32), 0);
    let empty = asm.jump_if(Condition::EQUAL);
    for offset in (0..size_of::<Window>()).step_by(8) {
        asm.store_imm(Mem::at(RAX, offset as i32), 0);
    }
    // Those opened last are at the end of the list.
    asm.load(RCX, field(Context::ITSELF));
    asm.load(RDX, field(Context::OPENED_COUNT));
    let search = asm.position();
    asm.alu_imm(true, Alu::Sub, RDX, 1);
    let unlisted = asm.jump_if(Condition::BELOW);
    asm.alu(Alu::Cmp, RAX, entry(RCX, RDX, Context::OPENED));
    let found = asm.jump_if(Condition::EQUAL);
    asm.jump_back(search);
    asm.bind(found);
    asm.alu_imm(true, Alu::Sub, field(Context::OPENED_COUNT), 1);
    asm.load(RAX, field(Context::OPENED_COUNT));
    asm.load(RAX, entry(RCX, RAX, Context::OPENED));
    asm.store(entry(RCX, RDX, Context::OPENED), RAX);
    asm.bind(empty);
    asm.bind(unlisted);
    asm.jump_back(next);
    asm.bind(done);
    asm.load(RDX, field(Context::SCRATCH));
    asm.ret();
}

impl Stubs {
    /// Those that translated code goes to, but for the many that move windows, each with its name: for whoever shows code.
    pub(crate) fn named(&self) -> [(usize, &'static str); 7] {
        [
            (self.help, "help"),
            (self.help_with_flags, "help_with_flags"),
            (self.execute, "execute"),
            (self.load_vectors, "load_vectors"),
            (self.leave, "leave"),
            (self.port, "port"),
            (self.drop_ac, "drop_ac"),
        ]
    }

    /// Writes the stubs; `base` is the address of the buffer's start. `avx` says that the guest has YMM registers.
    pub(crate) fn emit(asm: &mut Assembler, base: usize, avx: bool, callees: Callees) -> Self {
        let mut stubs = Self { enter: base + asm.position(), ..Self::default() };
        for reg in CALLEE_SAVED {
            asm.push(Reg(reg));
        }
        asm.lea(RSP, Mem::at(RSP, -8));
        asm.store(field(Context::HOST_STACK), RSP);
        asm.mov(RAX, RSI);
        asm.load(RSP, field(Context::RETURNS));
        let go = asm.jump();

        stubs.leave = base + asm.position();
        asm.load(RSP, field(Context::HOST_STACK));
        asm.lea(RSP, Mem::at(RSP, 8));
        for reg in CALLEE_SAVED.into_iter().rev() {
            asm.pop(Reg(reg));
        }
        asm.ret();

        stubs.execute = base + asm.position();
        asm.store(field(Context::RESUME), RCX);
        let execute = asm.jump();

        // The end of the stack of returns: RAX has the guest's address, ECX the number to ask with.
        stubs.no_return = base + asm.position();
        // Its entry stays: a guest may return to the address that it is marked with.
        asm.load(RSP, field(Context::RETURNS_BASE));
        asm.store(field(Context::RIP), RAX);
        asm.mov32(RAX, RCX);
        let no_return = asm.jump();

        stubs.port = base + asm.position();
        asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
        let vectors = asm.jump_if(Condition::NOT_EQUAL);
        // What the host function may change, and what it works on.
        let kept = |reg: Reg| CALLEE_SAVED.contains(&reg.0) && reg != GUEST_RAX;
        for (guest, reg) in pinned().filter(|&(_, reg)| !kept(reg)) {
            asm.store(field(Context::register(guest)), reg);
        }
        asm.mov32(RSI, RAX);
        asm.mov32(RDX, RCX);
        call_host(asm, callees.access_port as usize);
        for (guest, reg) in pinned().filter(|&(_, reg)| !kept(reg)) {
            asm.load(reg, field(Context::register(guest)));
        }
        asm.alu_imm(false, Alu::Cmp, RAX, 0);
        let disturbed = asm.jump_if(Condition::NOT_EQUAL);
        asm.jump_rm(field(Context::RESUME));

        stubs.help_with_flags = base + asm.position();
        asm.mov32(RCX, RAX);
        save_flags(asm);
        asm.mov32(RAX, RCX);

        stubs.help = base + asm.position();
        asm.bind(execute);
        asm.bind(no_return);
        asm.bind(vectors);
        asm.bind(disturbed);
        for (guest, reg) in pinned() {
            asm.store(field(Context::register(guest)), reg);
        }
        asm.mov32(RSI, RAX);
        asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
        let integer_only = asm.jump_if(Condition::EQUAL);
        save_vectors(asm, avx);
        asm.bind(integer_only);
        call_host(asm, callees.answer as usize);
        asm.alu_imm(false, Alu::Cmp, field(Context::VECTOR), 0);
        let integer_only = asm.jump_if(Condition::EQUAL);
        load_vectors(asm, avx);
        asm.bind(integer_only);
        asm.bind(go);
        for (guest, reg) in pinned() {
            asm.load(reg, field(Context::register(guest)));
        }
        asm.jump_rm(RAX);

        for (number, addresses) in stubs.refill.as_flattened_mut().iter_mut().enumerate() {
            for (kind, address) in addresses.iter_mut().enumerate() {
                *address = base + asm.position();
                refill(asm, number & 2 != 0, number & 1 != 0, kind);
            }
        }

        stubs.drop_ac = base + asm.position();
        drop_ac(asm);

        stubs.load_vectors = base + asm.position();
        load_vectors(asm, avx);
        asm.op(false, 0xc7, 0, field(Context::VECTOR));
        asm.raw(&1_u32.to_le_bytes());
        asm.ret();
        stubs
    }
}
