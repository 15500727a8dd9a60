//! STAC and CLAC: with RFLAGS.AC set the supervisor reaches the user's pages, and not an access longer.
use super::*;
use crate::arch::state::gpr::RSP;
use crate::arch::{Cr4, Vector};
use iced_x86::code_asm::*;

const FRAMES: u64 = 0x10_0000;
const PAGES: u64 = 6;
/// The supervisor's own data.
const OWN: u64 = 0x10_8000;
const ROUNDS: u32 = 40;
/// RFLAGS.AC.
const AC: i32 = 1 << 18;

/// Takes the first 2 MiB away from ring 3, but for the page at `except`.
pub(super) fn give_to_the_supervisor(b: &mut Bench, except: Option<u64>) {
    let table = 0x11_0000;
    for page in 0..512 {
        let user = if Some(page << 12) == except { 4 } else { 0 };
        b.poke(table + 8 * page, page << 12 | 0x63 | user);
    }
    let directory = crate::engine::fake::FakeMachine::TABLES.0 + 0x2000;
    b.poke(directory, table | 0x67);
}

type Access = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Runs `between` with RFLAGS.AC set on each of the user's pages, many times, and `last` without.
fn lifted_and_not(between: Access, last: Access) -> Bench {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut next) = (a.create_label(), a.create_label());
        a.mov(r12d, ROUNDS)?;
        a.set_label(&mut again)?;
        a.mov(rsi, WINDOW)?;
        a.mov(r13d, PAGES as u32)?;
        a.set_label(&mut next)?;
        a.stac()?;
        between(a)?;
        a.clac()?;
        // The flags are whole, and the supervisor's own pages are reached by the same registers.
        a.pushfq()?;
        a.pop(rdx)?;
        a.add(qword_ptr(OWN), rdx)?;
        a.mov(rdx, rsi)?;
        a.mov(rsi, OWN)?;
        a.add(qword_ptr(rsi + 8), 1)?;
        a.mov(rsi, rdx)?;
        a.add(rsi, 0x1000)?;
        a.dec(r13d)?;
        a.jnz(next)?;
        a.dec(r12d)?;
        a.jnz(again)?;
        a.sub(rsi, 0x1000)?;
        a.mov(rbx, rsi)?;
        last(a)?;
        a.hlt()
    };
    Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.state.cr4 |= Cr4::SMAP;
            give_to_the_supervisor(b, None);
            for page in 0..PAGES {
                // No two follow each other in RAM.
                b.map(page, (FRAMES + 0x1000 * (page * 5 % PAGES)) | 0x67);
            }
        })
        .run()
}

fn read_and_write(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(rsi + 8))?;
    a.add(qword_ptr(rsi + 16), 3)?;
    a.lea(rbx, qword_ptr(rsi + 0x100))?;
    a.inc(dword_ptr(rbx + 4))
}

fn fill(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rdi, rsi)?;
    a.mov(ecx, 64)?;
    a.mov(eax, r13d)?;
    a.rep().stosb()?;
    a.inc(dword_ptr(rdi))
}

#[test]
fn smap_holds_again_behind_clac_for_each_kind_of_access() {
    let lasts: [(&str, Access, u64); 5] = [
        ("read", |a| a.mov(rax, qword_ptr(rsi + 8)), 1),
        ("write", |a| a.mov(qword_ptr(rsi + 8), rax), 3),
        ("read by another register", |a| a.cmp(qword_ptr(rbx + 8), 1), 1),
        ("change", |a| a.inc(dword_ptr(rbx + 4)), 3),
        (
            "string",
            |a| {
                a.mov(rdi, rsi)?;
                a.mov(ecx, 8)?;
                a.rep().stosb()
            },
            3,
        ),
    ];
    let betweens: [(&str, Access); 2] = [("fields", read_and_write), ("strings", fill)];
    for (name, between) in betweens {
        for (last_name, last, error) in lasts {
            println!("{name}, then {last_name}");
            let b = lifted_and_not(between, last);
            assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
            assert_eq!(b.state.cr2 & !0xfff, WINDOW + 0x1000 * (PAGES - 1));
            assert_eq!(b.peek(b.state.gpr[RSP]), error);
            assert_eq!(b.peek(OWN + 8), u64::from(ROUNDS) * PAGES);
        }
    }
}

#[test]
fn without_smap_they_change_the_flag_alone() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 50)?;
        a.mov(rsi, WINDOW)?;
        a.set_label(&mut again)?;
        a.stac()?;
        a.pushfq()?;
        a.pop(rax)?;
        a.and(eax, AC)?;
        a.add(qword_ptr(rsi), rax)?;
        a.clac()?;
        a.pushfq()?;
        a.pop(rax)?;
        a.and(eax, AC)?;
        a.add(qword_ptr(rsi + 8), rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap()).set_up(|b| b.map(0, FRAMES | 0x67)).run();
    assert_eq!((b.peek(FRAMES), b.peek(FRAMES + 8)), (50 * u64::from(AC as u32), 0));
}
