//! More guests whose code is rewritten: a loop of one block by another thread while it runs, and an instruction that lies
//! across two pages by stores to its second page.
use super::*;
use crate::arch::state::gpr::RBX;
use iced_x86::code_asm::*;
use std::sync::Arc;

/// Cell of the conversation with the host thread, in a page of its own.
const ASKED: u64 = DATA;

#[test]
fn a_loop_of_one_block_that_another_thread_rewrites_goes_on_with_the_new_code() {
    const TIMES: u8 = 100;
    /// Where the loop begins: `mov eax, imm32`.
    const SPIN: u64 = CODE + 0x2000;
    for engine in ENGINES {
        let mut b = Bench::new(|a| {
            a.xor(ecx, ecx).unwrap();
            a.jmp(CODE + 0x100).unwrap();
        });
        b.assemble(CODE + 0x100, |a| {
            a.inc(ecx).unwrap();
            a.mov(dword_ptr(ASKED), ecx).unwrap();
            a.jmp(SPIN).unwrap();
        });
        b.assemble(SPIN, |a| {
            // Until the thread has put the number that was asked for into the code.
            a.mov(eax, 0).unwrap();
            a.inc(rbx).unwrap();
            a.cmp(eax, ecx).unwrap();
            a.jne(SPIN).unwrap();
            a.cmp(ecx, i32::from(TIMES)).unwrap();
            a.jne(CODE + 0x100).unwrap();
            a.hlt().unwrap();
        });
        let ram = Arc::clone(b.machine.ram());
        let writer = std::thread::spawn(move || {
            for i in 1..=TIMES {
                let mut asked = [0; 4];
                while u32::from_le_bytes(asked) != u32::from(i) {
                    std::thread::yield_now();
                    ram.read(Gpa(ASKED), &mut asked).unwrap();
                }
                ram.write(Gpa(SPIN + 1), &[i]).unwrap();
            }
        });
        let mut vcpu = b.vcpu_of(engine);
        assert_eq!(run_until_halt(&b, &mut *vcpu), Exit::Halted);
        writer.join().unwrap();
        let state = vcpu.save().unwrap();
        assert_eq!(state.gpr[0], u64::from(TIMES), "{}", engine.name());
        assert!(state.gpr[RBX] >= u64::from(TIMES), "{}", engine.name());
    }
}

#[test]
fn an_instruction_across_two_pages_is_made_anew_when_its_second_page_is_written() {
    const ROUNDS: u32 = 200;
    /// `mov eax, imm32`, of which three bytes lie in the next page; `ret`.
    const FUNCTION: u64 = CODE + 0x3ffe;
    for alias in [false, true] {
        let second = if alias { WINDOW + 0x4000 } else { CODE + 0x4000 };
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.xor(ebx, ebx)?;
            a.mov(ecx, ROUNDS)?;
            a.mov(rdi, second)?;
            a.set_label(&mut again)?;
            a.mov(byte_ptr(rdi), cl)?;
            a.call(FUNCTION)?;
            a.add(ebx, eax)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        let b = Pair::new(|a| emit(a).unwrap())
            .set_up(|b| {
                b.assemble(FUNCTION, |a| {
                    a.mov(eax, 0x55).unwrap();
                    a.ret().unwrap();
                });
                b.map(4, (CODE + 0x4000) | 7);
            })
            .run();
        let sum: u32 = (1..=ROUNDS).map(|i| 0x55 | (i & 0xff) << 8).sum();
        assert_eq!(b.state.gpr[RBX], u64::from(sum), "alias: {alias}");
    }
}

#[test]
fn links_to_a_page_that_was_written_often_go_straight_again() {
    const ROUNDS: i32 = 10_000;
    for writes in [2, 20] {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let (mut again, mut next, mut back) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(ecx, ROUNDS + writes)?;
            a.lea(r8, qword_ptr(back))?;
            a.set_label(&mut again)?;
            a.mov(byte_ptr(rbx), cl)?;
            a.jmp(next)?;
            a.set_label(&mut next)?;
            a.cmp(ecx, ROUNDS)?;
            a.cmove(rbx, rdx)?;
            a.jmp(DATA)?;
            a.set_label(&mut back)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        let mut b = Bench::new(|a| emit(a).unwrap());
        b.assemble(DATA, |a| a.jmp(r8).unwrap());
        // Beside that code first, and then elsewhere.
        b.state.gpr[RBX] = DATA + 0x40;
        b.state.gpr[2] = 0x20_0000;
        let mut vcpu = b.vcpu_of(EmuEngine::Translator);
        assert_eq!(run_until_halt(&b, &mut *vcpu), Exit::Halted);
        let calls = b.machine.platform.counters(CPU).get(crate::engine::Cause::HelpLink);
        assert!(calls < 1000, "{writes} writes: {calls}");
    }
}
