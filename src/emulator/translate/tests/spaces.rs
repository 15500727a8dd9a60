//! Address spaces, page ends and execute rights: what was linked or remembered in one must not be run in another.
use super::*;
use crate::arch::state::gpr::{RAX, RBX, RSP};
use crate::arch::{Cr4, Vector};
use iced_x86::code_asm::*;

const NX: u64 = 1 << 63;
const GLOBAL: u64 = 1 << 8;
/// Pages with a function each: they add 1, 20 and 300.
const FUNCTIONS: [(u64, i32); 3] = [(DATA, 1), (DATA + 0x1000, 20), (DATA + 0x2000, 300)];

/// In each page: a function at the start, that goes on by a link and a branch in the page and calls another page, and
/// one at 0x800 that is only jumped to.
pub(super) fn put_functions(b: &mut Bench) {
    for (at, value) in FUNCTIONS {
        b.assemble(at, |a| {
            let (mut one, mut two) = (a.create_label(), a.create_label());
            a.test(rsp, rsp).unwrap();
            a.jnz(one).unwrap();
            a.ud2().unwrap();
            a.set_label(&mut one).unwrap();
            a.add(eax, value).unwrap();
            a.jmp(two).unwrap();
            a.ud2().unwrap();
            a.set_label(&mut two).unwrap();
            a.ret().unwrap();
        });
        b.assemble(at + 0x800, |a| {
            a.add(eax, value).unwrap();
            a.ret().unwrap();
        });
    }
}

#[test]
fn a_page_that_invlpg_lets_go_of_is_left_by_calls_jumps_and_links() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut back) = (a.create_label(), a.create_label());
        a.mov(ecx, 90)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.call(rbx)?;
        a.call(WINDOW)?;
        a.lea(rdx, qword_ptr(back))?;
        a.push(rdx)?;
        a.jmp(WINDOW + 0x800)?;
        a.set_label(&mut back)?;
        // The three entries take turns.
        a.mov(rdx, r8)?;
        a.mov(r8, r9)?;
        a.mov(r9, r10)?;
        a.mov(r10, rdx)?;
        a.mov(qword_ptr(PAGE_TABLE), rdx)?;
        a.invlpg(byte_ptr(rbx))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
        put_functions(b);
        b.map(0, DATA | 7);
        b.state.gpr[RBX] = WINDOW;
        for (register, (at, _)) in (8..11).zip(FUNCTIONS) {
            b.state.gpr[register] = at | 7;
        }
    });
    // First page once; then r8, r9, r10 in turn, the last one unused.
    let turns = 1 + (0..89).map(|i| FUNCTIONS[i % 3].1).sum::<i32>();
    assert_eq!(pair.run().state.gpr[RAX], 3 * turns as u64);
}

/// Further page tables with [`WINDOW`]'s first page at `page`.
pub(super) fn second_space(b: &Bench, tables: u64, page: u64) {
    let first = crate::engine::fake::FakeMachine::TABLES.0;
    b.poke(tables, (tables + 0x1000) | 7);
    for i in 0..4 {
        b.poke(tables + 0x1000 + 8 * i, b.peek(first + 0x1000 + 8 * i));
    }
    b.poke(tables + 0x1008, (tables + 0x2000) | 7);
    b.poke(tables + 0x2000, (tables + 0x3000) | 7);
    b.poke(tables + 0x3000, page | 7);
}

pub(super) const TABLES2: u64 = 0x3_0000;

#[test]
fn a_new_cr3_brings_the_other_spaces_code_and_back() {
    for global in [false, true] {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 100)?;
            a.xor(eax, eax)?;
            a.set_label(&mut again)?;
            a.call(rbx)?;
            a.call(WINDOW)?;
            a.call(WINDOW + 0x800)?;
            // Code of this space that both have.
            a.call(DATA + 0x2000)?;
            a.xchg(r8, r9)?;
            a.mov(cr3, r8)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
            put_functions(b);
            b.map(0, DATA | 7);
            second_space(b, TABLES2, DATA + 0x1000);
            if global {
                b.state.cr4 |= Cr4::PGE;
                // The page directory of the first GiB, which both spaces share.
                let directory = crate::engine::fake::FakeMachine::TABLES.0 + 0x2000;
                for i in 0..512 {
                    b.poke(directory + 8 * i, b.peek(directory + 8 * i) | GLOBAL);
                }
            }
            b.state.gpr[RBX] = WINDOW;
            b.state.gpr[8] = b.state.cr3;
            b.state.gpr[9] = TABLES2;
        });
        assert_eq!(pair.run().state.gpr[RAX], 50 * 3 + 50 * 3 * 20 + 100 * 300);
    }
}

#[test]
fn user_and_kernel_run_their_own_code_at_the_same_address() {
    const KERNEL: u64 = CODE + 0x4000;
    // Ring 3: calls its own function at the window, and asks the kernel to call its own there.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 60)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.call(WINDOW)?;
        a.int(0x80)?;
        a.call(rbx)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.int(0x81)
    };
    let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
        put_functions(b);
        b.map(0, DATA | 7);
        second_space(b, TABLES2, DATA + 0x1000);
        // The kernel's page is the supervisor's alone.
        b.poke(TABLES2 + 0x3000, (DATA + 0x1000) | 3);
        b.gate(0x80, 3, 0);
        b.gate(0x81, 3, 0);
        let user_tables = b.state.cr3;
        b.assemble(HANDLERS + 16 * 0x80, |a| a.jmp(KERNEL).unwrap());
        b.assemble(KERNEL, |a| {
            let mut body = || -> Result<(), IcedError> {
                a.push(rdx)?;
                a.mov(rdx, TABLES2)?;
                a.mov(cr3, rdx)?;
                a.call(WINDOW)?;
                a.call(rbx)?;
                a.mov(rdx, user_tables)?;
                a.mov(cr3, rdx)?;
                a.pop(rdx)?;
                a.iretq()
            };
            body().unwrap();
        });
        b.state.gpr[RBX] = WINDOW;
        b.enter_ring3();
    });
    assert_eq!(pair.run().state.gpr[RAX], 60 * (1 + 1 + 20 + 20));
}

#[test]
fn the_same_page_for_user_and_supervisor_is_entered_only_by_who_may() {
    // Hot in ring 0; ring 3 may not execute it: a page fault with error code 0x15 at the target.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 40)?;
        a.set_label(&mut again)?;
        a.call(rbx)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        // To ring 3.
        for value in [u32::from(USER_DATA), STACK as u32, 2, u32::from(USER_CODE), CODE as u32 + 0x300] {
            a.push(value as i32)?;
        }
        a.iretq()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            put_functions(b);
            b.map(0, DATA | 3);
            b.state.gpr[RBX] = WINDOW;
            b.assemble(CODE + 0x300, |a| a.call(rbx).unwrap());
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
    assert_eq!((b.state.cr2, b.peek(b.state.gpr[RSP]), b.peek(b.state.gpr[RSP] + 8)), (WINDOW, 0x15, WINDOW));
}

#[test]
fn code_that_becomes_nx_faults_at_its_first_instruction() {
    for way in ["register", "direct", "jump"] {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let (mut again, mut go, mut back) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(ecx, 60)?;
            a.set_label(&mut again)?;
            a.cmp(ecx, 10)?;
            a.jne(go)?;
            a.bts(qword_ptr(PAGE_TABLE), 63)?;
            a.invlpg(byte_ptr(rbx))?;
            a.set_label(&mut go)?;
            match way {
                "register" => a.call(rbx)?,
                "direct" => a.call(WINDOW)?,
                _ => {
                    a.lea(rdx, qword_ptr(back))?;
                    a.push(rdx)?;
                    a.jmp(WINDOW)?;
                }
            }
            a.set_label(&mut back)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        let b = Pair::new(|a| emit(a).unwrap())
            .set_up(|b| {
                put_functions(b);
                b.map(0, DATA | 7);
                b.state.gpr[RBX] = WINDOW;
            })
            .run();
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
        assert_eq!(b.peek(b.state.gpr[RSP]), 0x11);
        assert_eq!((b.state.cr2, b.peek(b.state.gpr[RSP] + 8)), (WINDOW, WINDOW));
        assert_eq!((b.state.gpr[RAX], b.state.gpr[1]), (50, 10));
        assert_ne!(b.peek(PAGE_TABLE) & NX, 0);
    }
}

#[test]
fn code_across_a_page_end_follows_both_pages() {
    // A function whose instruction lies across two pages of the window, of which the second takes turns.
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 80)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut again)?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.call(WINDOW + 0xffd)?;
        a.add(rbx, rax)?;
        a.xchg(r8, r9)?;
        a.mov(qword_ptr(PAGE_TABLE + 8), r8)?;
        a.invlpg(byte_ptr(rdi))?;
        // And its immediate's last byte is rewritten through another mapping.
        a.mov(byte_ptr(r10), cl)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let second = [DATA + 0x1000, DATA + 0x2000];
    let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
        b.map(0, DATA | 7);
        b.map(1, second[0] | 7);
        b.map(2, second[0] | 7);
        // mov eax, imm32 with its last two bytes in the second page; ret
        b.machine.ram().write(Gpa(DATA + 0xffd), &[0xb8, 0x44, 0x33]).unwrap();
        b.machine.ram().write(Gpa(second[0]), &[0x22, 0x11, 0xc3]).unwrap();
        b.machine.ram().write(Gpa(second[1]), &[0x77, 0x55, 0xc3]).unwrap();
        let registers = [(6, WINDOW + 0xffd), (7, WINDOW + 0x1000), (8, second[0] | 7), (9, second[1] | 7)];
        for (register, value) in registers {
            b.state.gpr[register] = value;
        }
        b.state.gpr[10] = WINDOW + 0x2001;
    });
    let (mut bytes, mut at, mut sum) = ([0x1122_u64, 0x5577], 0, 0);
    for i in (1..=80_u64).rev() {
        sum += 2 * (bytes[at] << 16 | 0x3344);
        at ^= 1;
        bytes[0] = i << 8 | 0x22;
    }
    assert_eq!(pair.run().state.gpr[RBX], sum);
}

#[test]
fn blocks_that_end_with_the_page_go_on_in_the_next_or_fault_there() {
    for (what, second) in [("mapped", DATA | 7), ("absent", 0), ("not executable", DATA | 7 | NX)] {
        for (last, bytes) in [
            ("add", &[0x83, 0xc0, 0x01][..]),
            ("jcc", &[0x85, 0xc0, 0x78, 0x00]),
            ("call", &[0xe8, 0, 0, 0, 0]),
            ("vector", &[0x0f, 0x28, 0xc8]),
            ("single's", &[0x9f]),
        ] {
            println!("{what}, {last}");
            let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                let mut again = a.create_label();
                a.mov(r12d, 30)?;
                a.set_label(&mut again)?;
                a.mov(r13, rsp)?;
                a.lea(rdx, qword_ptr(again))?;
                a.mov(rsi, WINDOW + 0x1000 - bytes.len() as u64)?;
                a.jmp(rsi)
            };
            let b = Pair::new(|a| emit(a).unwrap())
                .set_up(|b| {
                    b.map(0, (DATA + 0x1000) | 7);
                    b.map(1, second);
                    b.machine.ram().write(Gpa(DATA + 0x2000 - bytes.len() as u64), bytes).unwrap();
                    b.assemble(DATA, |a| {
                        let mut end = a.create_label();
                        a.mov(rsp, r13).unwrap();
                        a.dec(r12).unwrap();
                        a.jz(end).unwrap();
                        a.jmp(rdx).unwrap();
                        a.set_label(&mut end).unwrap();
                        a.hlt().unwrap();
                    });
                })
                .run();
            if what != "mapped" {
                assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
                assert_eq!((b.state.cr2, b.peek(b.state.gpr[RSP] + 8)), (WINDOW + 0x1000, WINDOW + 0x1000));
            } else {
                assert_eq!(b.state.gpr[12], 0);
            }
        }
    }
}

#[test]
fn the_same_bytes_as_64_and_as_32_bit_code_are_two_things() {
    const FUNCTION: u64 = CODE + 0x800;
    const NARROW: u64 = CODE + 0x900;
    const BACK: u64 = CODE + 0xa00;
    const USER_CODE32: i32 = 0x1b;
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.call(FUNCTION)?;
        a.push(USER_CODE32)?;
        a.push(NARROW as i32)?;
        // retfq
        a.db(&[0x48, 0xcb])
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.gate(0x81, 3, 0);
            b.enter_ring3();
            b.state.gpr[1] = 40;
            let ram = b.machine.ram();
            // inc rax; ret, or dec eax; inc eax; ret
            ram.write(Gpa(FUNCTION), &[0x48, 0xff, 0xc0, 0xc3]).unwrap();
            // call FUNCTION; jmp USER_CODE:BACK
            let call = (FUNCTION.wrapping_sub(NARROW + 5) as u32).to_le_bytes();
            let bytes = [&[0xe8][..], &call, &[0xea], &(BACK as u32).to_le_bytes(), &USER_CODE.to_le_bytes()];
            ram.write(Gpa(NARROW), &bytes.concat()).unwrap();
            b.assemble(BACK, |a| {
                a.dec(ecx).unwrap();
                a.jnz(CODE).unwrap();
                a.int(0x81).unwrap();
            });
        })
        .run();
    assert_eq!((b.state.gpr[RAX], b.state.gpr[1]), (40, 0));
    assert_eq!(b.state.rip, HANDLERS + 16 * 0x81 + 1);
}
