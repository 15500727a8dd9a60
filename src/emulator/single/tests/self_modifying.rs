//! Code that changes: by the program, through an alias, by a device, across pages.
use super::*;
use crate::arch::state::gpr::{RAX, RBX};
use iced_x86::code_asm::*;

#[test]
fn a_store_into_the_same_block_is_seen_by_the_next_instruction() {
    let mut b = Bench::new(|a| {
        // MOV r/m8, imm8 with a RIP-relative address: 7 bytes; the target is the immediate of the following MOV.
        a.db(&[0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x2a]).unwrap();
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    b.run();
    assert_eq!(b.state.gpr[RAX], 0x2a);
}

#[test]
fn a_loop_that_rewrites_itself_through_an_alias_counts_right() {
    let mut b = Bench::new(|a| {
        let mut again = a.create_label();
        a.xor(eax, eax).unwrap();
        a.mov(ecx, 100).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(byte_ptr(rbx)).unwrap();
        // ADD EAX, imm8.
        a.db(&[0x83, 0xc0, 0]).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    // The immediate lies after XOR (2 bytes), MOV (5), INC (2) and the first two bytes of ADD.
    b.map(0, CODE | 7);
    b.state.gpr[RBX] = WINDOW + 2 + 5 + 2 + 2;
    b.run();
    assert_eq!(b.state.gpr[RAX], (1..=100).sum::<u64>());
}

#[test]
fn code_written_by_a_device_is_decoded_anew() {
    let mut b = Bench::new(|a| {
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    b.run();
    assert_eq!(b.state.gpr[RAX], 1);
    b.state.rip = CODE;
    b.machine.ram().write(Gpa(CODE + 1), &[9]).unwrap();
    b.run();
    assert_eq!(b.state.gpr[RAX], 9);
}

#[test]
fn data_beside_code_in_a_page_does_not_hinder() {
    let mut b = Bench::new(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 1000).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(qword_ptr(CODE + 0x800)).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    let counters = std::sync::Arc::clone(b.machine.platform.counters(VcpuId(0)));
    b.run();
    assert_eq!(b.peek(CODE + 0x800), 1000);
    assert!(counters.get(crate::engine::Cause::Translate) < 20, "decoded again and again");
}

#[test]
fn an_instruction_across_pages_follows_both_of_them() {
    let mut b = Bench::new(|a| a.nop().unwrap());
    let start = CODE + 0xffd;
    let end = b.assemble(start, |a| {
        a.mov(eax, 0x1122_3344).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(end, start + 6);
    for value in [0x11_u8, 0x55, 0x66] {
        // The last byte of the immediate lies in the second page.
        b.machine.ram().write(Gpa(start + 4), &[value]).unwrap();
        b.state.rip = start;
        b.run();
        assert_eq!(b.state.gpr[RAX], u64::from(value) << 24 | 0x22_3344);
    }
    // The same virtual addresses over another second page.
    b.map(0, CODE | 7);
    b.map(1, DATA | 7);
    b.machine.ram().write(Gpa(DATA), &[0x77, 0x88, 0xf4]).unwrap();
    b.state.rip = WINDOW + 0xffd;
    b.run();
    assert_eq!(b.state.gpr[RAX], 0x8877_3344);
    // Without it the fetch faults at the second page, and RIP is at the instruction.
    b.map(1, 0);
    b.single.flush();
    b.state.rip = WINDOW + 0xffd;
    b.faults(Vector::PageFault);
    assert_eq!(b.state.cr2, WINDOW + 0x1000);
    assert_eq!(b.peek(b.state.gpr[4] + 8), WINDOW + 0xffd);
}

#[test]
fn new_page_tables_bring_new_code() {
    let mut b = Bench::new(|a| {
        a.call(rbx).unwrap();
        a.mov(dword_ptr(PAGE_TABLE), edx).unwrap();
        a.invlpg(byte_ptr(rbx)).unwrap();
        a.call(rbx).unwrap();
        a.hlt().unwrap();
    });
    for (at, value) in [(DATA, 1_u32), (DATA + 0x1000, 20)] {
        b.assemble(at, |a| {
            a.add(eax, value as i32).unwrap();
            a.ret().unwrap();
        });
    }
    b.map(0, DATA | 7);
    b.state.gpr[RBX] = WINDOW;
    b.state.gpr[2] = (DATA + 0x1000) | 7;
    b.run();
    assert_eq!(b.state.gpr[RAX], 21);
}
