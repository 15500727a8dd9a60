//! VMCALL in both engines: where it is a hypercall, what is forgotten then, and where it is not.
use super::engines::{both, handled};
use super::*;
use crate::abi;
use crate::arch::Rflags;
use crate::arch::state::gpr::{R11, RAX, RBX, RCX, RDI, RDX, RSI};
use iced_x86::code_asm::*;

const PAGE: u64 = 0x3_0000;
const LIST: u64 = 0x3_1000;
/// Two frames, with their addresses in their first words.
const FRAMES: [u64; 2] = [0x4_0000, 0x4_1000];
const PRESENT: u64 = 3;

fn name_the_page(a: &mut CodeAssembler) {
    a.mov(ecx, abi::MSR_HYPERCALL_PAGE).unwrap();
    a.mov(eax, (PAGE | abi::PAGE_ON) as u32).unwrap();
    a.xor(edx, edx).unwrap();
    a.wrmsr().unwrap();
}

fn call(a: &mut CodeAssembler, [number, rdi_, rsi_, rdx_]: [u64; 4]) {
    a.mov(rax, number).unwrap();
    a.mov(rdi, rdi_).unwrap();
    a.mov(rsi, rsi_).unwrap();
    a.mov(rdx, rdx_).unwrap();
    a.call(PAGE).unwrap();
}

#[test]
fn a_call_keeps_all_but_rax_and_the_flags_too() {
    both(
        || {
            Bench::offering_hypercalls(|a| {
                name_the_page(a);
                a.mov(ebx, 7).unwrap();
                a.mov(r11d, 11).unwrap();
                a.mov(ecx, 9).unwrap();
                a.stc().unwrap();
                call(a, [0, 1, 2, 3]);
                a.mov(r8, rax).unwrap();
                call(a, [77, 1, 2, 3]);
                a.hlt().unwrap();
            })
        },
        |_, s| {
            let values = [RAX, RBX, RCX, RDX, RSI, RDI, R11, 8].map(|register| s.gpr[register]);
            assert_eq!(values, [abi::ERROR_NUMBER, 7, 9, 3, 2, 1, 11, 0]);
            assert!(s.rflags.contains(Rflags::CF));
        },
    );
}

#[test]
fn an_update_is_seen_at_once_with_and_without_an_address() {
    let entry = PAGE_TABLE + 8 * 5;
    let window = WINDOW + 0x5000;
    for hint in [window, abi::ANYWHERE] {
        both(
            || {
                let b = Bench::offering_hypercalls(|a| {
                    name_the_page(a);
                    a.mov(r8, window).unwrap();
                    a.mov(r9, qword_ptr(r8)).unwrap();
                    call(a, [abi::CALL_MMU_UPDATE, LIST, 1, hint]);
                    a.mov(r10, qword_ptr(r8)).unwrap();
                    a.mov(qword_ptr(r8 + 8), r9).unwrap();
                    a.hlt().unwrap();
                });
                for frame in FRAMES {
                    b.poke(frame, frame);
                }
                b.map(5, FRAMES[0] | PRESENT);
                b.poke(LIST, entry);
                b.poke(LIST + 8, FRAMES[1] | PRESENT);
                b
            },
            |b, state| {
                assert_eq!([state.gpr[RAX], state.gpr[9], state.gpr[10]], [1, FRAMES[0], FRAMES[1]]);
                assert_eq!(b.peek(FRAMES[1] + 8), FRAMES[0], "written through the new mapping");
            },
        );
    }
}

#[test]
fn a_multicall_changes_tables_and_root_in_order() {
    // A second root that is a copy of the first, with another page directory pointer table for nothing.
    const ROOT: u64 = 0x5_0000;
    both(
        || {
            let b = Bench::offering_hypercalls(|a| {
                name_the_page(a);
                a.mov(r8, WINDOW).unwrap();
                a.mov(r9, qword_ptr(r8)).unwrap();
                call(a, [abi::CALL_MULTICALL, LIST, 3, 0]);
                a.mov(r10, qword_ptr(r8)).unwrap();
                a.mov(r11, cr3).unwrap();
                a.hlt().unwrap();
            });
            for frame in FRAMES {
                b.poke(frame, frame);
            }
            b.map(0, FRAMES[0] | PRESENT);
            b.poke(ROOT, b.peek(FakeMachine::TABLES.0));
            let words = [
                [abi::CALL_MMU_UPDATE, LIST + 0x200, 1, abi::ANYWHERE, 99],
                [abi::CALL_SET_CR3, ROOT, 0, 0, 99],
                [abi::CALL_MULTICALL, LIST, 1, 0, 99],
            ];
            for (i, word) in (0..).zip(words.as_flattened()) {
                b.poke(LIST + 8 * i, *word);
            }
            b.poke(LIST + 0x200, PAGE_TABLE);
            b.poke(LIST + 0x208, FRAMES[1] | PRESENT);
            b
        },
        |b, s| {
            assert_eq!([s.gpr[RAX], s.gpr[9], s.gpr[10], s.gpr[11]], [3, FRAMES[0], FRAMES[1], ROOT]);
            let results = [0, 1, 2].map(|n| b.peek(LIST + 40 * n + 32));
            assert_eq!(results, [1, 0, abi::ERROR_NESTED]);
        },
    );
}

#[test]
fn without_hypercalls_it_is_undefined() {
    let here = |a: &mut CodeAssembler| {
        a.vmcall().unwrap();
        a.hlt().unwrap();
    };
    let undefined = |b: &Bench, s: &CpuState| assert_eq!(handled(b, s, 6), CODE);
    both(|| Bench::new(here), undefined);
    // Offered, but the page is not named.
    both(|| Bench::offering_hypercalls(here), undefined);
    let from_ring3 = || {
        let mut b = Bench::offering_hypercalls(here);
        b.machine.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, PAGE | abi::PAGE_ON, 0).unwrap();
        b.enter_ring3();
        b
    };
    both(from_ring3, undefined);
}
