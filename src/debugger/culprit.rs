//! Which instruction made an access, where the mode only tells that it was the one before: the CPU's debug registers stop a
//! guest behind it.
//!
//! There is no going back one instruction by the bytes alone, so each one that may have come before is looked at: whether
//! it ends here, and whether what it accesses is what was accessed.
use super::memory::{GuestMemory, linear_rip, linear_rsp};
use super::symbols::Symbols;
use super::view::disassembly::decode;
use crate::arch::state::gpr;
use crate::arch::{CpuState, Gva, Rflags, SegmentRegister};
use crate::engine::{WatchHit, WatchKind};
use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register, UsedMemory};

/// The longest instruction has 15 bytes.
const LONGEST: u64 = 15;
/// Bytes of a function that are decoded to find where its instructions begin.
const FUNCTION: u64 = 1 << 16;

/// The linear address of the instruction that made the access, if there is but one that can have been it. The guest stands
/// behind it, in `state`.
pub(super) fn find(
    (memory, symbols): (&GuestMemory<'_>, &Symbols),
    state: &CpuState,
    hit: &WatchHit,
) -> Option<Gva> {
    let rip = linear_rip(state);
    let bits = state.code_bits();
    // A repeated instruction may be in the middle of its work.
    let here = decode(memory, bits, rip)
        .filter(|i| i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()))
        .filter(|i| accesses(i, state, hit) == Some(true));
    let before: Vec<_> = (1..=LONGEST)
        .filter_map(|length| rip.checked_sub(length))
        .filter_map(|at| decode(memory, bits, at).filter(|i| i.next_ip() == rip))
        .map(|i| (i.ip(), accesses(&i, state, hit)))
        .collect();
    // A call stores where it comes back to, and goes elsewhere.
    let called = hit.kind != WatchKind::Read && hit.at.0.abs_diff(linear_rsp(state)) < 8;
    let caller = called.then(|| caller(memory, state)).flatten();
    let sure: Vec<_> = before.iter().filter(|(_, is)| *is == Some(true)).map(|(at, _)| *at).collect();
    let begins = |at: &u64| begins_instruction((memory, symbols), bits, *at, rip);
    let one = |of: &[u64]| if let [one] = of { Some(*one) } else { of.iter().copied().find(begins) };
    let perhaps = || {
        let some: Vec<_> = before.iter().filter(|(_, is)| is.is_some()).map(|(at, _)| *at).collect();
        some.into_iter().find(begins)
    };
    one(&sure).or(here.map(|i| i.ip())).or(caller).or_else(perhaps).map(Gva)
}

/// Whether an instruction accesses what was accessed, with the registers as they are behind it; nothing if it makes no
/// such access at all.
fn accesses(instruction: &Instruction, state: &CpuState, hit: &WatchHit) -> Option<bool> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let counts = |access: OpAccess| {
        let writes = matches!(
            access,
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        match hit.kind {
            WatchKind::Write => writes,
            WatchKind::Read | WatchKind::Access => !matches!(access, OpAccess::None | OpAccess::NoMemAccess),
        }
    };
    let made: Vec<_> = info.used_memory().iter().filter(|used| counts(used.access())).collect();
    if made.is_empty() {
        return None;
    }
    Some(made.into_iter().any(|used| {
        address(instruction, used, state).is_some_and(|at| {
            let length = (used.memory_size().size() as u64).max(1);
            at.wrapping_sub(hit.at.0).cast_signed() < 8 && hit.at.0 < at.wrapping_add(length)
        })
    }))
}

/// The linear address of an access, computed from the registers as they are behind the instruction.
fn address(instruction: &Instruction, used: &UsedMemory, state: &CpuState) -> Option<u64> {
    let size = used.memory_size().size() as u64;
    let forwards = !state.rflags.contains(Rflags::DF);
    let number = |register: Register| (register.is_gpr()).then(|| register.full_register().number());
    let value = |register: Register, element: usize, _: usize| {
        if element != 0 {
            return None;
        }
        if let Some(number) = number(register) {
            let mut value = state.gpr[number];
            if number == gpr::RSP {
                value = value.wrapping_sub(i64::from(instruction.stack_pointer_increment()) as u64);
            } else if instruction.is_string_instruction() && matches!(number, gpr::RSI | gpr::RDI) {
                // The last element that was done.
                value = if forwards { value.wrapping_sub(size) } else { value.wrapping_add(size) };
            }
            return Some(value & mask(register));
        }
        let base = |segment| if state.is_64bit_code() { 0 } else { state.segment(segment).base };
        Some(match register {
            Register::ES => base(SegmentRegister::Es),
            Register::CS => base(SegmentRegister::Cs),
            Register::SS => base(SegmentRegister::Ss),
            Register::DS => base(SegmentRegister::Ds),
            Register::FS => state.segment(SegmentRegister::Fs).base,
            Register::GS => state.segment(SegmentRegister::Gs).base,
            _ => return None,
        })
    };
    let at = used.virtual_address(0, value)?;
    Some(if state.is_64bit_code() { at } else { at & 0xffff_ffff })
}

fn mask(register: Register) -> u64 {
    match register.size() {
        8 => u64::MAX,
        bytes => (1 << (8 * bytes)) - 1,
    }
}

/// The call that stored the return address on top of the stack, if it leads to where the guest stands.
fn caller(memory: &GuestMemory<'_>, state: &CpuState) -> Option<u64> {
    let rip = linear_rip(state);
    let back = memory.read_u64(linear_rsp(state)).filter(|_| state.is_64bit_code())?;
    let is_call = |i: &Instruction| {
        i.next_ip() == back
            && match i.flow_control() {
                FlowControl::Call => i.near_branch_target() == rip,
                FlowControl::IndirectCall => true,
                _ => false,
            }
    };
    let mut calls = (1..=LONGEST)
        .filter_map(|length| back.checked_sub(length))
        .filter(|&at| decode(memory, state.code_bits(), at).is_some_and(|instruction| is_call(&instruction)));
    calls.next()
}

/// Whether an instruction of the function around it begins at `at`, as its instructions follow each other up to `end`.
fn begins_instruction((memory, symbols): (&GuestMemory<'_>, &Symbols), bits: u32, at: u64, end: u64) -> bool {
    let Some(mut next) = symbols.at(at).map(|label| label.symbol.address) else { return false };
    if end - next.min(end) > FUNCTION {
        return false;
    }
    while next < at {
        match decode(memory, bits, next) {
            Some(instruction) => next = instruction.next_ip(),
            None => return false,
        }
    }
    next == at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::tests::long_mode;
    use iced_x86::code_asm::*;

    /// What is found for an access at `at` by the last of these instructions, which begin at 0x20_0000; where they end.
    fn found(
        program: impl FnOnce(&mut CodeAssembler),
        (at, kind): (u64, WatchKind),
        registers: impl FnOnce(&mut CpuState),
    ) -> Option<u64> {
        let (ram, mut state) = long_mode();
        let mut asm = CodeAssembler::new(64).unwrap();
        program(&mut asm);
        let code = asm.assemble(0x20_0000).unwrap();
        ram.write(Gpa(0x8000), &code).unwrap();
        state.rip = 0x20_0000 + code.len() as u64;
        registers(&mut state);
        let symbols = Symbols::new([(0x20_0000, 0x100, "f")]);
        let hit = WatchHit { at: Gva(at), kind, by: None };
        find((&GuestMemory::new(&ram, &state), &symbols), &state, &hit).map(|at| at.0)
    }

    #[test]
    fn the_instruction_before_that_stores_there_is_found() {
        let write = WatchKind::Write;
        let store = |a: &mut CodeAssembler| {
            a.nop().unwrap();
            a.mov(qword_ptr(rbx + 8), rax).unwrap();
        };
        let there = |state: &mut CpuState| state.gpr[gpr::RBX] = 0x40_0000;
        assert_eq!(found(store, (0x40_0008, write), there), Some(0x20_0001));
        assert_eq!(found(store, (0x40_000f, write), there), Some(0x20_0001));
        // Its register was changed by itself: the only one that writes at all.
        let exchange = |a: &mut CodeAssembler| {
            a.mov(ecx, 1).unwrap();
            a.xchg(qword_ptr(rbx), rbx).unwrap();
        };
        assert_eq!(found(exchange, (0x40_0000, write), |_| ()), Some(0x20_0005));
        // Nothing there stores.
        let add = |a: &mut CodeAssembler| a.add(rax, rbx).unwrap();
        assert_eq!(found(add, (0x40_0000, write), |_| ()), None);
    }

    #[test]
    fn pushes_strings_and_calls_store_too() {
        let write = WatchKind::Write;
        let stack = |state: &mut CpuState| state.gpr[gpr::RSP] = 0x40_0ff0;
        let push = |a: &mut CodeAssembler| {
            a.nop().unwrap();
            a.push(rax).unwrap();
        };
        assert_eq!(found(push, (0x40_0ff0, write), stack), Some(0x20_0001));
        let string = |a: &mut CodeAssembler| {
            a.nop().unwrap();
            a.stosd().unwrap();
        };
        let behind = |state: &mut CpuState| state.gpr[gpr::RDI] = 0x40_0004;
        assert_eq!(found(string, (0x40_0000, write), behind), Some(0x20_0001));
        let (ram, mut state) = long_mode();
        let mut asm = CodeAssembler::new(64).unwrap();
        asm.call(0x20_0100).unwrap();
        ram.write(Gpa(0x8000), &asm.assemble(0x20_0000).unwrap()).unwrap();
        ram.write(Gpa(0x20_0ff0), &0x20_0005_u64.to_le_bytes()).unwrap();
        stack(&mut state);
        state.rip = 0x20_0100;
        let hit = WatchHit { at: Gva(0x40_0ff0), kind: write, by: None };
        let symbols = Symbols::new([]);
        assert_eq!(find((&GuestMemory::new(&ram, &state), &symbols), &state, &hit), Some(Gva(0x20_0000)));
    }

    #[test]
    fn a_load_is_found_for_a_read() {
        let load = |a: &mut CodeAssembler| {
            a.nop().unwrap();
            a.add(rax, qword_ptr(rbx)).unwrap();
        };
        let there = |state: &mut CpuState| state.gpr[gpr::RBX] = 0x40_0000;
        assert_eq!(found(load, (0x40_0000, WatchKind::Access), there), Some(0x20_0001));
        assert_eq!(found(load, (0x40_0000, WatchKind::Write), there), None);
    }
}
