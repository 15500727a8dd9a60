//! Windows hold what translations say, not longer: changed page-table entries are used after INVLPG. And blocks that go
//! on behind an access to a device see what it did.
use super::*;
use crate::arch::Vector;
use crate::arch::state::gpr::{R11, RBX, RCX};
use crate::emulator::single::tests::PAGE_DIRECTORY;
use crate::engine::Cause;
use iced_x86::code_asm::*;

/// Present, writable, for ring 3; accessed and dirty, so that windows are made of it at once.
const USED: u64 = 0x67;
/// Frames with a word each.
const FRAMES: [(u64, u64); 3] = [(0x10_0000, 3), (0x10_1000, 50), (0x10_2000, 700)];

#[test]
fn each_access_after_invlpg_uses_the_changed_entry() {
    for bits in [7, USED] {
        let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            let mut again = a.create_label();
            a.mov(ecx, 90)?;
            a.set_label(&mut again)?;
            // The entries take turns.
            a.mov(rdx, r8)?;
            a.mov(r8, r9)?;
            a.mov(r9, r10)?;
            a.mov(r10, rdx)?;
            a.mov(qword_ptr(r12), rdx)?;
            a.invlpg(byte_ptr(rbx + 0x123))?;
            // By bases of several windows, for reading and for writing.
            a.add(r11, qword_ptr(rbx))?;
            a.add(r11, qword_ptr(rsi))?;
            a.add(r11, qword_ptr(rbp))?;
            a.add(qword_ptr(rbx + 8), 1)?;
            a.mov(qword_ptr(rsi + 16), rcx)?;
            // The page behind it stays as it was.
            a.add(qword_ptr(rbx + 0x1000), 1)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        };
        let b = Pair::new(|a| emit(a).unwrap())
            .set_up(|b| {
                for (register, (frame, word)) in (8..).zip(FRAMES) {
                    b.state.gpr[register] = frame | bits;
                    b.poke(frame, word);
                }
                b.map(1, 0x10_3000 | bits);
                for base in [3, 5, 6] {
                    b.state.gpr[base] = WINDOW;
                }
                b.state.gpr[12] = PAGE_TABLE;
            })
            .run();
        assert_eq!(b.state.gpr[R11], 3 * 30 * (3 + 50 + 700));
        for (i, (frame, _)) in (1..).zip(FRAMES) {
            assert_eq!((b.peek(frame + 8), b.peek(frame + 16)), (30, 4 - i), "{frame:#x}");
        }
        assert_eq!(b.peek(0x10_3000), 90);
    }
}

#[test]
fn invlpg_of_any_page_of_a_large_one_forgets_the_whole() {
    // Of the large page at the first two MiB of RAM code takes away a part, so that its windows for writing have an end
    // before the page that is named.
    const LARGE: u64 = WINDOW + (2 << 20);
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 60)?;
        a.set_label(&mut again)?;
        a.add(qword_ptr(rbx), rcx)?;
        a.add(r11, qword_ptr(rsi))?;
        a.xchg(r8, r9)?;
        a.mov(qword_ptr(PAGE_DIRECTORY + 8), r8)?;
        a.invlpg(byte_ptr(rdi))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.poke(PAGE_DIRECTORY + 8, USED | 0x80);
            b.state.gpr[8] = USED | 0x80;
            b.state.gpr[9] = 0x20_0000 | USED | 0x80;
            b.state.gpr[RBX] = LARGE + 0x10_0000;
            b.state.gpr[6] = LARGE + 0x10_1000;
            b.state.gpr[7] = LARGE + 0x1000;
            b.poke(0x10_1000, 1);
            b.poke(0x30_1000, 100);
        })
        .run();
    assert_eq!(b.state.gpr[R11], 30 + 30 * 100);
    let even = (1..=30).map(|i| 2 * i).sum::<u64>();
    assert_eq!((b.peek(0x10_0000), b.peek(0x30_0000)), (even, even - 30));
}

#[test]
fn an_interrupt_that_a_device_raises_when_written_comes_before_the_next_instruction() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(edx, 0x500)?;
        a.mov(ecx, 40)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.mov(eax, ecx)?;
        a.inc(ebx)?;
        a.out(dx, eax)?;
        a.inc(ebx)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            let interrupts = std::sync::Arc::clone(&b.machine.interrupts);
            let hook = Box::new(move |value| {
                if value == 7 {
                    interrupts.raise(0x40);
                }
            });
            b.machine.port.lock().unwrap().on_port_write.0 = Some(hook);
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * 0x40 + 1);
    assert_eq!((b.state.gpr[RCX], b.state.gpr[RBX]), (7, 2 * 33 + 1));
    assert_eq!(b.machine.port.lock().unwrap().writes.len(), 2 * 33 + 1);
}

/// Pages of ring 3 that lie apart in RAM.
const PAGES: u64 = 12;

fn map_apart(b: &Bench) {
    for page in 0..PAGES {
        b.map(page, (DATA + 0x1000 * (page * 7 % PAGES)) | 7);
    }
}

/// Fills them with words that are all different.
fn fill(b: &Bench) {
    for i in 0..PAGES * 512 {
        b.poke(DATA + 8 * i, i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// Puts the CPU into ring 3, which calls `handler` in ring 0 by INT 0x81 and ends by INT 0x80.
fn enter_ring3_below(b: &mut Bench, handler: fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    const HANDLER: u64 = DATA + 0x2_0000;
    b.assemble(HANDLER, |a| handler(a).unwrap());
    b.assemble(HANDLERS + 16 * 0x81, |a| a.jmp(HANDLER).unwrap());
    b.gate(0x80, 3, 0);
    b.gate(0x81, 3, 0);
    b.enter_ring3();
}

/// Ring 3, over single pages that lie in RAM in another order: reads, changes and stores, aligned vectors, fields on both
/// sides of a page's end, two bases of one class, a stack that walks from page to page.
#[test]
fn single_pages_take_turns_in_a_users_windows() {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut next, mut leave) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(r12d, 40)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.mov(rsi, WINDOW)?;
        a.mov(rdi, WINDOW + 0x7010)?;
        a.mov(ecx, PAGES as u32 - 1)?;
        a.set_label(&mut next)?;
        a.mov(rdx, qword_ptr(rsi + 8))?;
        a.add(rax, rdx)?;
        a.rol(rax, 7)?;
        a.mov(qword_ptr(rsi + 16), rax)?;
        a.xor(qword_ptr(rdi), rax)?;
        a.movaps(xmm0, xmmword_ptr(rsi + 32))?;
        a.paddq(xmm0, xmmword_ptr(rdi + 32))?;
        a.movaps(xmmword_ptr(rsi + 48), xmm0)?;
        a.movq(rbx, xmm0)?;
        a.add(rax, rbx)?;
        // Both pages, and either.
        a.add(qword_ptr(rsi + 0xffc), rax)?;
        a.mov(r9, qword_ptr(rsi + 0xff8))?;
        a.mov(r10, qword_ptr(rsi + 0x1000))?;
        a.lea(rsp, qword_ptr(rsi + 0x1008))?;
        a.push(r9)?;
        a.push(r10)?;
        a.push(rax)?;
        a.pop(r11)?;
        a.pop(rdx)?;
        a.xor(rax, rdx)?;
        a.add(rsi, 0x1000)?;
        a.xor(rdi, 0x3000)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.dec(r12d)?;
        a.jz(leave)?;
        a.jmp(again)?;
        a.set_label(&mut leave)?;
        a.int(0x80)
    };
    let run = |user: bool| {
        let pair = Pair::new(|a| emit(a).unwrap()).set_up(|b| {
            map_apart(b);
            fill(b);
            b.gate(0x80, 3, 0);
            if user {
                b.enter_ring3();
            }
        });
        pair.run().state.gpr[0]
    };
    assert_eq!(run(true), run(false));
}

/// Pages of ring 3 that lie apart in RAM and are walked over again and again come to lie in one window. Two of them change
/// places now and then, by a handler in ring 0; one is taken out of the page table, and what is there then is not seen.
#[test]
fn pages_side_by_side_follow_the_page_table() {
    const ROUNDS: u64 = 10;
    const WALKS: u64 = 1000;
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut walk, mut next) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(r12d, ROUNDS as u32)?;
        // Not by a constant, of which several rounds would be made one group.
        a.mov(r14d, 0x1000)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.mov(r13d, WALKS as u32)?;
        a.set_label(&mut walk)?;
        a.mov(rsi, WINDOW)?;
        a.mov(rdi, WINDOW + 0x1000 * (PAGES - 1))?;
        a.mov(ecx, PAGES as u32)?;
        a.set_label(&mut next)?;
        a.add(rax, qword_ptr(rsi + 8))?;
        a.rol(rax, 3)?;
        a.add(qword_ptr(rdi + 16), rax)?;
        a.add(rsi, r14)?;
        a.sub(rdi, r14)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.dec(r13d)?;
        a.jnz(walk)?;
        a.int(0x81)?;
        a.dec(r12d)?;
        a.jnz(again)?;
        // It is not there any more.
        a.mov(rax, qword_ptr(WINDOW + 0x5000))?;
        a.int(0x80)
    };
    let handler = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut stays = a.create_label();
        let entry = |number: u64| qword_ptr(PAGE_TABLE + 8 * number);
        a.mov(r8, entry(2))?;
        a.mov(r9, entry(3))?;
        a.mov(entry(2), r9)?;
        a.mov(entry(3), r8)?;
        for number in [2, 3] {
            a.mov(r8, WINDOW + 0x1000 * number)?;
            a.invlpg(byte_ptr(r8))?;
        }
        a.cmp(r12d, 1)?;
        a.jne(stays)?;
        a.mov(entry(5), 0)?;
        a.mov(r8, WINDOW + 0x5000)?;
        a.invlpg(byte_ptr(r8))?;
        a.set_label(&mut stays)?;
        a.iretq()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            map_apart(b);
            fill(b);
            enter_ring3_below(b, handler);
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
    assert_eq!(b.state.cr2, WINDOW + 0x5000);
    let misses = b.machine.platform.counters(CPU).get(Cause::WindowMiss);
    assert!(misses < 2 * PAGES * WALKS * ROUNDS / 8, "{misses} accesses missed their windows");
}

/// A page gets a frame that may only be read, and is not flushed. Whoever looks at its neighbours then must not bring the new
/// frame to those who still have the old one, with the right to write.
#[test]
fn an_open_window_keeps_its_frames_until_they_are_flushed() {
    const READ_ONLY: u64 = DATA + 0x1_8000;
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(r12d, 2)?;
        let (mut again, mut walk, mut next, mut end) =
            (a.create_label(), a.create_label(), a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.mov(r13d, 3000)?;
        a.set_label(&mut walk)?;
        a.mov(rsi, WINDOW)?;
        a.mov(rdi, WINDOW + 0x3000)?;
        a.mov(ecx, PAGES as u32)?;
        a.set_label(&mut next)?;
        a.add(rax, qword_ptr(rsi + 8))?;
        // Only these are dirty: what is written lies in a window of its own.
        a.mov(qword_ptr(rdi + 16), r13)?;
        a.mov(qword_ptr(rdi + 0x1010), r13)?;
        a.mov(qword_ptr(rdi + 0x2010), r13)?;
        a.add(rsi, 0x1000)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.dec(r13d)?;
        a.jnz(walk)?;
        a.dec(r12d)?;
        a.jz(end)?;
        a.int(0x81)?;
        a.jmp(again)?;
        a.set_label(&mut end)?;
        a.int(0x80)
    };
    let handler = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(r8, READ_ONLY | 5)?;
        a.mov(qword_ptr(PAGE_TABLE + 8 * 4), r8)?;
        // The window that is read through goes.
        a.mov(r8, WINDOW + 0x9000)?;
        a.invlpg(byte_ptr(r8))?;
        a.iretq()
    };
    let b = Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            map_apart(b);
            b.poke(READ_ONLY + 16, 0x5afe);
            enter_ring3_below(b, handler);
        })
        .run();
    assert_eq!(b.peek(READ_ONLY + 16), 0x5afe);
}
