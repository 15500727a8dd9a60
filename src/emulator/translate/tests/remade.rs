//! Flags that are not saved before an access, for the next instruction sets all: where the access faults they are there.
use super::*;
use crate::arch::Vector;
use iced_x86::code_asm::*;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Instructions that set all flags, and whose operands stay as they are for a while.
const SETTING: &[Emit] = &[
    |a| a.cmp(eax, ebx),
    |a| a.cmp(rbx, rax),
    |a| a.cmp(al, 3),
    |a| a.cmp(r13w, -5),
    |a| a.cmp(r13b, bl),
    |a| a.cmp(rax, 0x7000_0000),
    |a| a.test(eax, eax),
    |a| a.test(r13, rbx),
    |a| a.test(bl, 0x80),
    |a| a.test(eax, 0x11),
    |a| a.and(eax, ebx),
    |a| a.and(r12, qword_ptr(DATA + 0x600)),
    |a| a.or(rbx, 0x40),
    |a| a.xor(eax, eax),
    |a| a.xor(ebx, 0x8000_0000_u32 as i32),
    |a| a.xor(r13d, r13d),
    |a| a.add(ebx, 0x7f),
    |a| a.add(rbx, -1),
    |a| a.sub(ebx, 0x7fff_0001),
    |a| a.sub(rsi, 1),
    |a| a.add(bx, 1),
    |a| a.sub(al, 1),
    |a| a.cmp(ah, bl),
];

/// What stands between them and the access: nothing, what leaves the operands alone, what changes them.
const BETWEEN: &[Emit] = &[
    |a| a.nop(),
    |a| a.lea(rdx, qword_ptr(rax + rbx * 2)),
    |a| a.mov(edx, eax),
    |a| a.lea(rbx, qword_ptr(rbx + 1)),
    |a| a.mov(eax, 77),
    |a| a.push(rdx),
    |a| a.mov(r13b, 9),
    |a| a.xchg(rsi, rbx),
];

#[test]
fn an_access_that_faults_shows_the_flags_that_were_not_saved() {
    let places = [("absent", 0, Vector::PageFault), ("read-only", DATA | 0x65, Vector::PageFault)];
    for (i, setting) in SETTING.iter().enumerate() {
        for (k, between) in BETWEEN.iter().enumerate() {
            for (what, entry, vector) in places {
                println!("{i}, {k}, {what}");
                let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
                    let (mut again, mut skip) = (a.create_label(), a.create_label());
                    a.mov(rdi, DATA + 0x400)?;
                    a.lea(r8, qword_ptr(again))?;
                    a.mov(r9d, 40)?;
                    a.set_label(&mut again)?;
                    a.mov(rax, 0x9000_0001_u64)?;
                    a.mov(rbx, 0xffff_ffff_8000_0010_u64)?;
                    a.mov(esi, 1)?;
                    a.mov(r12d, 0x1234)?;
                    a.mov(r13, 0x1_0000_fff0_u64)?;
                    setting(a)?;
                    a.jp(skip)?;
                    between(a)?;
                    a.mov(rcx, qword_ptr(rdi))?;
                    a.mov(qword_ptr(rdi + 8), r9)?;
                    a.cmp(r9d, 3)?;
                    a.set_label(&mut skip)?;
                    between(a)?;
                    a.mov(rcx, qword_ptr(rdi))?;
                    a.mov(qword_ptr(rdi + 8), r9)?;
                    a.dec(r9d)?;
                    a.mov(rdx, WINDOW + 0x800)?;
                    a.cmp(r9d, 1)?;
                    a.cmove(rdi, rdx)?;
                    a.mov(rsp, RING0_STACK - 0x100)?;
                    a.jmp(r8)
                };
                let b = Pair::new(|a| emit(a).unwrap()).set_up(|b| b.map(0, entry)).run();
                assert_eq!(b.state.rip, HANDLERS + 16 * vector as u64 + 1);
            }
        }
    }
}
