//! Writes thunks: what a patched run of instructions does instead.
//!
//! A thunk executes copies of ordinary instructions, and sequences in place of sensitive ones. It ends with a jump
//! behind the run. No sequence changes a flag that the original would not, uses the guest's stack below the pointer,
//! or touches a register at a point where it may fault: so each point that can fault or where a kick finds the guest
//! is *clean*, that is, the state is the guest's at a known instruction, or it is *inside* a sequence, which then has
//! to run to the next clean point.
use super::sensitive::{Remedy, can_move, remedy};
use crate::abi;
use crate::arch::Rflags;
use crate::pv::layout::{ZONE_CONTROL, at};
use iced_x86::code_asm::{
    AsmMemoryOperand, CodeAssembler, ah, al, eax, ecx, esp, ptr, qword_ptr, rax, rcx, rsp,
};
use iced_x86::{Encoder, IcedError, Instruction};
use std::collections::HashMap;

/// A thunk, encoded for one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Thunk {
    /// Its code.
    pub(super) code: Vec<u8>,
    /// Offsets in it that are clean, and the guest instruction each stands for; ascending.
    pub(super) clean: Vec<(u64, u64)>,
    /// Guest addresses behind an STI.
    pub(super) after_sti: Vec<u64>,
}

/// Flags that a POPF in a thunk may load without POPFQ.
const LOADED: u32 = (Rflags::STATUS.bits() | Rflags::FIXED.bits() | Rflags::IF.bits()) as u32;
/// Flags that it may load by POPFQ.
const POPPED: u32 = LOADED | (Rflags::DF.bits() | Rflags::ID.bits()) as u32;

fn control(offset: u64) -> AsmMemoryOperand {
    qword_ptr(ZONE_CONTROL + offset)
}

/// RAX becomes a guest address.
fn name(a: &mut CodeAssembler, guest: u64) -> Result<(), IcedError> {
    match u32::try_from(guest) {
        Ok(low) => a.mov(eax, low),
        Err(_) => a.mov(rax, guest),
    }
}

/// The jump into the stub on behalf of the instruction at `guest`, by the way that the word at `way` names.
fn call(a: &mut CodeAssembler, guest: u64, way: u64) -> Result<(), IcedError> {
    a.mov(control(at::SAVED_RAX), rax)?;
    name(a, guest)?;
    a.jmp(control(way))
}

/// SYSCALL: says where the guest goes on, in its own addresses and in the thunk, so that it can do so without a trap.
fn syscall(a: &mut CodeAssembler, i: &Instruction) -> Result<(), IcedError> {
    let mut next = a.create_label();
    a.mov(control(at::SAVED_RAX), rax)?;
    name(a, i.next_ip())?;
    a.mov(control(at::NEXT_GUEST), rax)?;
    a.lea(rax, ptr(next))?;
    a.mov(control(at::NEXT_NATIVE), rax)?;
    name(a, i.ip())?;
    a.jmp(control(at::SYSCALL_WAY))?;
    a.set_label(&mut next)?;
    a.zero_bytes()
}

/// IRETQ: touches both ends of its frame, which the stub reads.
fn iret(a: &mut CodeAssembler, guest: u64) -> Result<(), IcedError> {
    a.mov(control(at::SAVED_RAX), rax)?;
    a.mov(rax, qword_ptr(rsp))?;
    a.mov(rax, control(at::SAVED_RAX))?;
    a.mov(rax, qword_ptr(rsp + 32))?;
    name(a, guest)?;
    a.jmp(control(at::IRET_WAY))
}

/// Counts one if there is a counter. Takes RCX, and leaves the flags alone.
fn count(a: &mut CodeAssembler, counter: Option<u64>) -> Result<(), IcedError> {
    let Some(at) = counter else { return Ok(()) };
    a.mov(rcx, qword_ptr(at))?;
    a.lea(rcx, qword_ptr(rcx + 1))?;
    a.mov(qword_ptr(at), rcx)
}

/// CLI or STI: goes to the engine if the word at `slow` says so.
fn interrupt_flag(
    a: &mut CodeAssembler,
    guest: u64,
    slow: u64,
    delta: i32,
    counter: Option<u64>,
) -> Result<(), IcedError> {
    let mut fast = a.create_label();
    a.mov(control(at::SAVED_RCX), rcx)?;
    a.mov(rcx, control(slow))?;
    a.jrcxz(fast)?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    call(a, guest, at::HYPERCALL_ENTRY)?;
    a.set_label(&mut fast)?;
    count(a, counter)?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    a.mov(control(at::FLAGS_DELTA), delta)
}

/// PUSHF: the host's flags, and what the guest's differ by, which is nothing as long as interrupts are on.
fn pushf(a: &mut CodeAssembler, counter: Option<u64>) -> Result<(), IcedError> {
    let mut done = a.create_label();
    a.pushfq()?;
    a.mov(control(at::SAVED_RCX), rcx)?;
    a.mov(rcx, control(at::FLAGS_DELTA))?;
    a.jrcxz(done)?;
    a.mov(control(at::SAVED_RAX), rax)?;
    a.mov(rax, qword_ptr(rsp))?;
    a.lea(rax, qword_ptr(rax + rcx))?;
    a.mov(qword_ptr(rsp), rax)?;
    a.mov(rax, control(at::SAVED_RAX))?;
    a.set_label(&mut done)?;
    count(a, counter)?;
    a.mov(rcx, control(at::SAVED_RCX))
}

/// POPF. POPFQ itself takes some thirty cycles, so where only status flags and IF are concerned, before and after, ADD
/// and SAHF load them instead; that needs the host's flags to be looked at, by way of a word of ours in place of the
/// guest's stack. DF and ID are loaded by POPFQ, and whatever else is set goes to the engine, with all flags as they were.
///
/// IF is stored as a constant behind a branch, not computed: the next PUSHF does not wait for this load then.
fn popf(a: &mut CodeAssembler, guest: u64, counter: Option<u64>) -> Result<(), IcedError> {
    let host_flags = ZONE_CONTROL + at::HOST_FLAGS;
    let (mut rare, mut slow) = (a.create_label(), a.create_label());
    let (mut off, mut load, mut end) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(control(at::SAVED_RAX), rax)?;
    a.mov(rax, qword_ptr(rsp))?;
    a.mov(control(at::SAVED_RCX), rcx)?;
    a.mov(rcx, rsp)?;
    a.mov(esp, (host_flags + 8) as u32)?;
    a.pushfq()?;
    a.lea(rsp, qword_ptr(rcx + 8))?;
    a.mov(rcx, qword_ptr(host_flags))?;
    a.or(rcx, rax)?;
    a.or(rcx, control(at::POPF_SLOW))?;
    a.test(ecx, !LOADED)?;
    a.jnz(rare)?;
    a.test(eax, Rflags::IF.bits() as u32)?;
    a.jz(off)?;
    a.mov(control(at::FLAGS_DELTA), 0)?;
    a.set_label(&mut load)?;
    count(a, counter)?;
    // OF is bit 11. With bit 10 clear, the sum overflows if bit 11 comes to lie at the top.
    a.mov(ecx, eax)?;
    a.shl(ecx, 20)?;
    a.mov(ah, al)?;
    a.add(ecx, ecx)?;
    a.sahf()?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    a.mov(rax, control(at::SAVED_RAX))?;
    a.jmp(end)?;
    a.set_label(&mut off)?;
    a.mov(control(at::FLAGS_DELTA), -(Rflags::IF.bits() as i32))?;
    a.jmp(load)?;
    a.set_label(&mut rare)?;
    a.lea(rsp, qword_ptr(rsp - 8))?;
    a.mov(rcx, control(at::POPF_SLOW))?;
    a.or(rcx, rax)?;
    a.test(ecx, !POPPED)?;
    a.jnz(slow)?;
    a.and(eax, Rflags::IF.bits() as u32)?;
    a.sub(rax, Rflags::IF.bits() as i32)?;
    a.mov(control(at::FLAGS_DELTA), rax)?;
    count(a, counter)?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    a.mov(rax, control(at::SAVED_RAX))?;
    a.popfq()?;
    a.jmp(end)?;
    a.set_label(&mut slow)?;
    a.mov(rcx, rsp)?;
    a.mov(esp, host_flags as u32)?;
    a.popfq()?;
    a.mov(rsp, rcx)?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    a.mov(rax, control(at::SAVED_RAX))?;
    call(a, guest, at::HYPERCALL_ENTRY)?;
    a.set_label(&mut end)?;
    a.zero_bytes()
}

/// VMCALL: where hypercalls are taken, the empty one is none to the engine, and its result is its number.
fn vmcall(a: &mut CodeAssembler, guest: u64, counter: Option<u64>) -> Result<(), IcedError> {
    const { assert!(abi::CALL_NULL == 0, "the result is in RAX already") };
    let (mut on, mut slow, mut null) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(control(at::SAVED_RCX), rcx)?;
    a.mov(rcx, control(at::VMCALL_SLOW))?;
    a.jrcxz(on)?;
    a.set_label(&mut slow)?;
    a.mov(rcx, control(at::SAVED_RCX))?;
    call(a, guest, at::HYPERCALL_ENTRY)?;
    a.set_label(&mut on)?;
    a.mov(rcx, rax)?;
    a.jrcxz(null)?;
    a.jmp(slow)?;
    a.set_label(&mut null)?;
    count(a, counter)?;
    a.mov(rcx, control(at::SAVED_RCX))
}

/// Whether a thunk can stand for this instruction.
pub(super) fn can_carry(i: &Instruction) -> bool {
    remedy(i).is_some() || can_move(i)
}

/// The thunk for `run` at `place`. Where `counters` has an address for a guest address, what the thunk does in place of
/// the instruction there, without the engine, is counted in it.
pub(super) fn write(
    run: &[Instruction],
    place: u64,
    counters: &HashMap<u64, u64>,
) -> Result<Thunk, IcedError> {
    let mut thunk = Thunk { code: Vec::new(), clean: Vec::new(), after_sti: Vec::new() };
    for i in run {
        let here = place + thunk.code.len() as u64;
        thunk.clean.push((thunk.code.len() as u64, i.ip()));
        let Some((remedy, _)) = remedy(i) else {
            let mut copy = *i;
            copy.as_near_branch();
            let mut encoder = Encoder::new(64);
            encoder.encode(&copy, here)?;
            thunk.code.extend_from_slice(&encoder.take_buffer());
            continue;
        };
        let mut a = CodeAssembler::new(64)?;
        let counter = counters.get(&i.ip()).copied();
        match remedy {
            Remedy::Cli => interrupt_flag(&mut a, i.ip(), at::CLI_SLOW, -0x200, counter)?,
            Remedy::Sti => {
                thunk.after_sti.push(i.next_ip());
                interrupt_flag(&mut a, i.ip(), at::STI_SLOW, 0, counter)?;
            }
            Remedy::Pushf => pushf(&mut a, counter)?,
            Remedy::Popf => popf(&mut a, i.ip(), counter)?,
            Remedy::Vmcall => vmcall(&mut a, i.ip(), counter)?,
            Remedy::Syscall => syscall(&mut a, i)?,
            Remedy::Sysret => call(&mut a, i.ip(), at::SYSRET_WAY)?,
            Remedy::Iret => iret(&mut a, i.ip())?,
            Remedy::Call => call(&mut a, i.ip(), at::HYPERCALL_ENTRY)?,
        }
        let code = a.assemble(here)?;
        // Loads from the stack may fault; before each of them the registers are the guest's.
        let loads: &[usize] = match remedy {
            Remedy::Popf => &[1],
            Remedy::Iret => &[1, 3],
            _ => &[],
        };
        let starts = iced_x86::Decoder::with_ip(64, &code, 0, iced_x86::DecoderOptions::NONE);
        let starts: Vec<u64> = starts.into_iter().map(|i| i.ip()).collect();
        for &load in loads {
            thunk.clean.push((thunk.code.len() as u64 + starts[load], i.ip()));
        }
        thunk.code.extend_from_slice(&code);
    }
    if let Some(last) = run.last().filter(|i| !super::sensitive::ends_block(i)) {
        let here = place + thunk.code.len() as u64;
        thunk.clean.push((thunk.code.len() as u64, last.next_ip()));
        let mut a = CodeAssembler::new(64)?;
        a.jmp(last.next_ip())?;
        thunk.code.extend_from_slice(&a.assemble(here)?);
    }
    Ok(thunk)
}
