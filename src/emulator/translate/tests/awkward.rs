//! Instructions that take a detour: AH to BH, bits of strings of bits, CMPXCHG8B and CMPXCHG16B, PCMPISTRI, SERIALIZE.
use super::*;
use crate::arch::state::gpr::{RAX, RBX, RCX, RDX, RSI};
use iced_x86::code_asm::*;

/// Runs `body` 60 times, until it is hot, with flags of before it that a later one must find.
fn hot(registers: [u64; 16], body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(r15d, 60)?;
        a.set_label(&mut again)?;
        body(a)?;
        a.dec(r15)?;
        a.jnz(again)?;
        a.hlt()
    };
    Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            let stack = b.state.gpr[4];
            b.state.gpr = registers;
            b.state.gpr[4] = stack;
            for i in 0..512 {
                b.poke(DATA + 8 * i, (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            }
        })
        .run()
}

fn registers() -> [u64; 16] {
    let mut all = std::array::from_fn(|i| 0x0123_4567_89ab_cdef_u64.wrapping_mul(2 * i as u64 + 1));
    all[RSI] = DATA + 0x100;
    all
}

#[test]
fn high_bytes_take_part_in_everything() {
    hot(registers(), |a| {
        a.test(ah, 2)?;
        a.setz(r8b)?;
        a.lea(r9, qword_ptr(r9 + r8 * 2))?;
        a.and(ah, 0x7b)?;
        a.or(dh, 0x11)?;
        a.xor(ch, bh)?;
        a.add(bh, ah)?;
        a.adc(ah, 3)?;
        a.sbb(dl, ch)?;
        a.cmp(bh, dl)?;
        a.setc(ch)?;
        a.inc(ah)?;
        a.neg(dh)?;
        a.xchg(ah, cl)?;
        a.xchg(bh, dh)?;
        a.mov(ch, ah)?;
        a.mov(al, bh)?;
        a.mov(bl, 0x5a)?;
        a.mov(bh, 0x6b)?;
        a.rol(ah, 3)?;
        a.shr(dh, 1)?;
        a.not(ch)?;
        a.movzx(edi, ah)?;
        a.pushfq()?;
        a.pop(r11)?;
        a.add(r12, r11)
    });
}

#[test]
fn high_bytes_leave_the_flags_that_they_do_not_change() {
    let b = hot(registers(), |a| {
        a.cmp(rbx, rsi)?;
        a.mov(ah, dh)?;
        a.mov(ch, 7)?;
        a.not(bh)?;
        a.pushfq()?;
        a.pop(r11)?;
        a.stc()?;
        a.inc(dh)?;
        a.adc(r12, 0)
    });
    assert_eq!(b.state.gpr[12], registers()[12] + 60, "INC leaves the carry");
}

#[test]
fn bits_of_strings_lie_before_and_behind_their_operand() {
    for index in [0_i64, 1, 63, 64, 1000, -1, -65, -2048, 70_000] {
        hot(registers(), |a| {
            a.mov(rdi, index)?;
            a.mov(r13, index)?;
            a.cmp(rbx, rsi)?;
            a.bt(qword_ptr(rsi), rdi)?;
            a.setc(r8b)?;
            a.setz(r9b)?;
            a.bts(dword_ptr(rsi + 4), edi)?;
            a.adc(r10, 0)?;
            a.lock().btr(qword_ptr(rsi + 8), r13)?;
            a.adc(r11, 0)?;
            a.lock().btc(word_ptr(rsi + 2), di)?;
            a.adc(r12, 0)?;
            a.lock().bts(qword_ptr(rsi - 16), r13)?;
            a.adc(r14, 0)
        });
    }
}

#[test]
fn a_bit_beyond_what_is_mapped_faults_at_its_own_address() {
    let b = Pair::new(|a| {
        a.mov(rdi, WINDOW).unwrap();
        a.mov(rcx, 8 * 4096_u64 + 5).unwrap();
        a.stc().unwrap();
        a.bts(qword_ptr(rdi), rcx).unwrap();
        a.hlt().unwrap();
    })
    .set_up(|b| b.map(0, DATA | 3))
    .run();
    assert_eq!((b.state.cr2, b.state.rip), (WINDOW + 4096, HANDLERS + 16 * 14 + 1));
}

#[test]
fn wide_exchanges_succeed_and_fail() {
    let mut given = registers();
    given[RBX] = 0x1111;
    given[RCX] = 0x2222;
    let b = hot(given, |a| {
        // Right at first, then wrong, then what is there was loaded: right again.
        a.lock().cmpxchg16b(xmmword_ptr(rsi))?;
        a.setz(r8b)?;
        a.add(r9, r8)?;
        a.inc(rbx)?;
        a.cmpxchg8b(qword_ptr(rsi + 32))?;
        a.setz(r8b)?;
        a.lea(r10, qword_ptr(r10 + r8 * 4))?;
        a.cmp(rbx, rcx)?;
        a.lock().cmpxchg16b(xmmword_ptr(rsi))?;
        a.pushfq()?;
        a.pop(r11)?;
        a.add(r12, r11)
    });
    assert_eq!(b.state.gpr[RCX], 0x2222);
    assert_ne!(b.state.gpr[RDX], given[RDX]);
}

#[test]
fn a_wide_exchange_that_is_not_aligned_faults() {
    let b = Pair::new(|a| {
        a.mov(rsi, DATA + 8).unwrap();
        a.cmpxchg16b(xmmword_ptr(rsi)).unwrap();
        a.hlt().unwrap();
    })
    .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * 13 + 1);
}

#[test]
fn strings_are_compared_natively() {
    for imm in [0x00, 0x0c, 0x1a, 0x44, 0x38] {
        let b = hot(registers(), |a| {
            a.movdqu(xmm1, xmmword_ptr(rsi))?;
            a.pcmpistri(xmm1, xmmword_ptr(rsi + 3), imm)?;
            a.setc(r8b)?;
            a.adc(r9, rcx)?;
            a.pcmpistri(xmm1, xmm1, imm)?;
            a.pushfq()?;
            a.pop(r11)?;
            a.add(r12, r11)?;
            a.add(r14, rcx)
        });
        assert!(b.state.gpr[RCX] <= 16);
    }
}

#[test]
fn code_stored_before_serialize_is_what_runs_behind_it() {
    let b = Pair::new(|a| {
        let mut patched = a.create_label();
        a.lea(rdi, ptr(patched)).unwrap();
        a.mov(byte_ptr(rdi + 1), 7).unwrap();
        a.serialize().unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(al, 1).unwrap();
        a.hlt().unwrap();
    })
    .run();
    // Where CPUID does not offer it, it is #UD in both.
    assert!(b.state.gpr[RAX] & 0xff == 7 || b.state.rip == HANDLERS + 16 * 6 + 1);
}

/// AMD's CPUs read four bytes: executed as it is, it would read beyond the guest's RAM in the host.
#[test]
fn movsxd_of_two_bytes_reads_no_more() {
    let mut all = registers();
    all[RSI] = RAM as u64 - 2;
    let b = hot(all, |a| {
        a.mov(word_ptr(rsi), 0x8765)?;
        // movsxd ax, [rsi]
        a.db(&[0x66, 0x63, 0x06])
    });
    assert_eq!(b.state.gpr[RAX] as u16, 0x8765);
}
