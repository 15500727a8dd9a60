//! Process contexts: CR4.PCIDE, the low and the highest bit of CR3, INVPCID. What the manual says is forgotten must be;
//! what it says may be kept is not asked for (SDM 4.10).
use super::spaces::{TABLES2, put_functions, second_space};
use super::*;
use crate::arch::state::gpr::{RAX, RBX};
use crate::arch::{Cr4, Vector};
use iced_x86::code_asm::*;

const KEEP: u64 = 1 << 63;
/// Of INVPCID.
const DESCRIPTOR: u64 = DATA + 0x8000;
const PAGE: u64 = 7;

/// Two spaces with PCIDs 1 and 2, other functions at [`WINDOW`] in each; R8 and R9 load them and keep what is known.
fn two_spaces(b: &mut Bench) {
    put_functions(b);
    b.map(0, DATA | PAGE);
    second_space(b, TABLES2, DATA + 0x1000);
    b.state.cr4 |= Cr4::PCIDE;
    b.state.gpr[RBX] = WINDOW;
    b.state.gpr[8] = b.state.cr3 | 1 | KEEP;
    b.state.gpr[9] = TABLES2 | 2 | KEEP;
    b.state.cr3 |= 1;
}

/// Runs `forget` in the first space after both are hot and the second space's page was changed to the third function's;
/// then calls in the second. Gives what one call there adds.
fn second_after(forget: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 60)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.mov(cr3, r9)?;
        a.call(rbx)?;
        a.call(WINDOW)?;
        a.add(eax, dword_ptr(rbx + 0xff0))?;
        a.mov(cr3, r8)?;
        a.call(rbx)?;
        a.add(eax, dword_ptr(rbx + 0xff0))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(rdx, (DATA + 0x2000) | PAGE)?;
        a.mov(qword_ptr(TABLES2 + 0x3000), rdx)?;
        forget(a)?;
        a.xor(eax, eax)?;
        a.call(rbx)?;
        a.call(WINDOW)?;
        a.add(eax, dword_ptr(rbx + 0xff0))?;
        a.hlt()
    };
    let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
        two_spaces(b);
        for (page, value) in [(0, 1000), (1, 2000), (2, 3000)] {
            b.poke(DATA + 0x1000 * page + 0xff0, value);
        }
        b.poke(DESCRIPTOR, 2);
        b.poke(DESCRIPTOR + 8, WINDOW);
    });
    pair.run().state.gpr[RAX]
}

#[test]
fn what_must_be_forgotten_is() {
    let new = 300 + 300 + 3000;
    let invalidate = |kind: u64| {
        move |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.mov(rdx, kind)?;
            a.mov(rsi, DESCRIPTOR)?;
            a.invpcid(rdx, xmmword_ptr(rsi))?;
            a.mov(cr3, r9)
        }
    };
    for kind in 0..4_u64 {
        assert_eq!(second_after(invalidate(kind)), new, "INVPCID of type {kind} from the other space");
    }
    for kind in 0..4_u64 {
        let here = second_after(|a| {
            a.mov(cr3, r9)?;
            a.mov(rdx, kind)?;
            a.mov(rsi, DESCRIPTOR)?;
            a.invpcid(rdx, xmmword_ptr(rsi))
        });
        assert_eq!(here, new, "INVPCID of type {kind} in the space itself");
    }
    let loads = second_after(|a| {
        a.btr(r9, 63)?;
        a.mov(cr3, r9)
    });
    assert_eq!(loads, new, "CR3 without bit 63");
    let page = second_after(|a| {
        a.mov(cr3, r9)?;
        a.invlpg(byte_ptr(rbx))
    });
    assert_eq!(page, new, "INVLPG");
    let toggles = second_after(|a| {
        a.mov(rdx, cr4)?;
        a.btc(rdx, 7)?;
        a.mov(cr4, rdx)?;
        a.mov(cr3, r9)
    });
    assert_eq!(toggles, new, "CR4.PGE");
    let off_and_on = second_after(|a| {
        a.mov(rdx, r8)?;
        a.shr(rdx, 12)?;
        a.shl(rdx, 12)?;
        a.btr(rdx, 63)?;
        a.mov(cr3, rdx)?;
        a.mov(rdx, cr4)?;
        a.btr(rdx, 17)?;
        a.mov(cr4, rdx)?;
        a.bts(rdx, 17)?;
        a.mov(cr4, rdx)?;
        a.mov(cr3, r9)
    });
    assert_eq!(off_and_on, new, "CR4.PCIDE");
}

#[test]
fn a_global_page_is_forgotten_by_invlpg_whichever_space_is_current() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 60)?;
        a.set_label(&mut again)?;
        a.mov(cr3, r9)?;
        a.call(rbx)?;
        a.mov(cr3, r8)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(rdx, (DATA + 0x2000) | PAGE | 1 << 8)?;
        a.mov(qword_ptr(TABLES2 + 0x3000), rdx)?;
        a.invlpg(byte_ptr(rbx))?;
        a.mov(cr3, r9)?;
        a.xor(eax, eax)?;
        a.call(rbx)?;
        a.hlt()
    };
    let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
        two_spaces(b);
        b.state.cr4 |= Cr4::PGE;
        b.poke(TABLES2 + 0x3000, (DATA + 0x1000) | PAGE | 1 << 8);
    });
    assert_eq!(pair.run().state.gpr[RAX], 300);
}

/// Runs one instruction or two and expects #GP.
fn refused(program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>, set_up: impl Fn(&mut Bench)) {
    let b = Pair::new(|a| program(a).and_then(|()| a.hlt()).unwrap()).set_up(set_up).run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let invpcid = |kind: u64, pcid: u64, linear: u64, on: bool| {
        refused(
            |a| {
                a.mov(rdx, kind)?;
                a.mov(rsi, DESCRIPTOR)?;
                a.invpcid(rdx, xmmword_ptr(rsi))
            },
            |b| {
                b.state.cr4.set(Cr4::PCIDE, on);
                b.poke(DESCRIPTOR, pcid);
                b.poke(DESCRIPTOR + 8, linear);
            },
        );
    };
    invpcid(4, 0, 0, true);
    invpcid(u64::MAX, 0, 0, true);
    invpcid(2, 0x1000, 0, true);
    invpcid(0, 1, 1 << 47, true);
    invpcid(0, 1, 0, false);
    invpcid(1, 1, 0, false);
    let write = |bit: u32| {
        move |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.mov(rdx, cr4)?;
            a.bts(rdx, bit)?;
            a.mov(cr4, rdx)
        }
    };
    refused(write(17), |b| b.state.cr3 |= 8);
    refused(
        |a| {
            a.mov(rdx, cr3)?;
            a.bts(rdx, 63)?;
            a.mov(cr3, rdx)
        },
        |_| (),
    );
    // Ring 3 may not, and a descriptor that is not there faults as a read.
    let b = Pair::new(|a| a.invpcid(rdx, xmmword_ptr(rsi)).unwrap()).set_up(Bench::enter_ring3).run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1);
    let b = Pair::new(|a| a.invpcid(rdx, xmmword_ptr(rsi)).unwrap())
        .set_up(|b| (b.state.gpr[2], b.state.gpr[6]) = (2, WINDOW + 0x1000))
        .run();
    assert_eq!((b.state.rip, b.state.cr2), (HANDLERS + 16 * 14 + 1, WINDOW + 0x1000));
}

#[test]
fn the_highest_bit_is_not_read_back_and_types_beyond_one_need_no_contexts() {
    let b = Pair::new(|a| {
        a.mov(cr3, r8).unwrap();
        a.mov(rax, cr3).unwrap();
        a.hlt().unwrap();
    })
    .set_up(two_spaces)
    .run();
    assert_eq!(b.state.gpr[RAX], b.state.gpr[8] & !KEEP);
    let b = Pair::new(|a| {
        a.mov(edx, 3).unwrap();
        a.mov(rsi, DESCRIPTOR).unwrap();
        a.invpcid(rdx, xmmword_ptr(rsi)).unwrap();
        a.mov(eax, 5).unwrap();
        a.hlt().unwrap();
    })
    .set_up(|b| b.poke(DESCRIPTOR, 0x123))
    .run();
    assert_eq!(b.state.gpr[RAX], 5);
}
