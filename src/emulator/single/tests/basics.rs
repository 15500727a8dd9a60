//! Straight-line arithmetic, loops and calls.
use super::*;
use crate::arch::state::gpr::{RAX, RBX, RSP};
use iced_x86::code_asm::*;

#[test]
fn a_loop_adds_numbers_with_calls_and_memory() {
    let mut b = Bench::new(|a| {
        let mut again = a.create_label();
        let mut function = a.create_label();
        let mut done = a.create_label();
        a.xor(eax, eax).unwrap();
        a.mov(ecx, 1000).unwrap();
        a.mov(rbx, DATA).unwrap();
        a.mov(qword_ptr(rbx), 0).unwrap();
        a.set_label(&mut again).unwrap();
        a.call(function).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.jmp(done).unwrap();
        a.set_label(&mut function).unwrap();
        a.push(rcx).unwrap();
        a.add(qword_ptr(rbx), rcx).unwrap();
        a.adc(rax, 1).unwrap();
        a.pop(rcx).unwrap();
        a.ret().unwrap();
        a.set_label(&mut done).unwrap();
        a.hlt().unwrap();
    });
    for _ in 0..4 + 7 * 1000 + 1000 + 1 {
        assert_ne!(b.step(), Outcome::TripleFault, "rip {:#x}", b.state.rip);
    }
    assert_eq!(b.peek(DATA), 500_500);
    assert_eq!((b.state.gpr[RAX], b.state.gpr[RBX], b.state.gpr[RSP]), (1000, DATA, STACK));
    let after = b.state.clone();
    b.state = b.machine.long_mode(CODE, STACK);
    b.single.flush();
    let _halted = b.run();
    assert_eq!(b.state.gpr, after.gpr);
}
