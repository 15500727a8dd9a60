//! Loops that reach several arrays through registers that they borrow: whatever way they are left on, each register of the
//! guest is its own again.
use super::*;
use crate::arch::Vector;
use crate::arch::state::gpr::{RAX, RBX, RCX, RDX, RSI};
use iced_x86::code_asm::*;

/// Present, writable, for ring 3; accessed and dirty, so that windows are made of it at once.
const USED: u64 = 0x67;
/// Pages of each array.
const PAGES: u64 = 3;
const TURNS: i32 = 200;
/// Words of an array.
const WORDS: u64 = PAGES * 512;

/// Adds up two arrays into a third, many times; each time it goes on to the index in RCX, or to where the sum is RBX. No access
/// comes after the branch, where it would have a check of its own.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut round, mut found) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(dword_ptr(DATA + 0x8000), TURNS)?;
    a.set_label(&mut again)?;
    a.xor(r9d, r9d)?;
    a.set_label(&mut round)?;
    a.mov(rax, qword_ptr(rdi + r9 * 8))?;
    a.add(rax, qword_ptr(rsi + r9 * 8))?;
    a.mov(qword_ptr(rdx + r9 * 8), rax)?;
    a.cmp(rax, rbx)?;
    a.je(found)?;
    a.add(r9, 1)?;
    a.cmp(r9, rcx)?;
    a.jne(round)?;
    a.set_label(&mut found)?;
    // What the loop does not use is used between.
    for register in [rbp, r8, r10, r11, r14] {
        a.add(register, r9)?;
    }
    a.dec(dword_ptr(DATA + 0x8000))?;
    a.jnz(again)?;
    a.hlt()
}

/// Three arrays of [`PAGES`], whose frames lie together (`next` = 1) or apart.
fn arrays(b: &mut Bench, next: u64) {
    for (number, register) in (0..).zip([7, RSI, RDX]) {
        // A page that is not mapped follows each.
        let first = number * (PAGES + 1);
        for page in 0..PAGES {
            let frame = 0x10_0000 + 0x1000 * (number * 64 + page * next);
            b.map(first + page, frame | USED);
            for word in 0..512 {
                b.poke(frame + 8 * word, (number + 1) * (page * 512 + word));
            }
        }
        b.state.gpr[register] = WINDOW + 0x1000 * first;
    }
    for (number, register) in (1..).zip([5, 8, 10, 11, 12, 13, 14, 15]) {
        b.state.gpr[register] = number << 32;
    }
    b.state.gpr[RBX] = u64::MAX;
    b.state.gpr[RCX] = WORDS;
}

/// Runs it and gives the machine, whose unused registers must have moved with the index.
fn run(turns: u64, ends_at: u64, set_up: impl Fn(&mut Bench)) -> Bench {
    let b = Pair::new(|a| program(a).unwrap()).set_up(set_up).run();
    for (number, register) in (1..).zip([5, 8, 10, 11]) {
        assert_eq!(b.state.gpr[register], (number << 32) + turns * ends_at, "{register}");
    }
    b
}

#[test]
fn it_ends_where_its_condition_says() {
    for (next, words) in [(1, WORDS), (3, WORDS), (1, 1), (1, 2), (1, 15), (3, 517)] {
        let b = run(TURNS as u64, words, |b| {
            arrays(b, next);
            b.state.gpr[RCX] = words;
        });
        assert_eq!(b.state.gpr[RAX], 3 * (words - 1));
    }
}

#[test]
fn it_is_left_in_the_middle_of_any_round() {
    for word in [0, 1, 7, 8, 9, 500, 513, 1030] {
        let b = run(TURNS as u64, word, |b| {
            arrays(b, 1);
            b.state.gpr[RBX] = 3 * word;
        });
        assert_eq!(b.state.gpr[RAX], 3 * word);
    }
}

#[test]
fn it_faults_at_the_first_word_that_is_not_mapped() {
    for next in [1, 3] {
        let b = run(0, 0, |b| {
            arrays(b, next);
            b.state.gpr[RCX] = WORDS + 1;
        });
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
        assert_eq!((b.state.cr2, b.state.gpr[9]), (WINDOW + 0x1000 * PAGES, WORDS));
    }
}
