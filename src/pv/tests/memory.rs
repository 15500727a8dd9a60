//! Guests that change their page tables under the mirror.
use super::*;

/// A page directory pointer entry for the second GiB.
const SECOND_GIB: u64 = FakeMachine::TABLES.0 + 0x1000 + 8;
/// A page directory of the guest's own.
const DIRECTORY: u64 = 0x50_0000;

/// Writes `value` at `at`.
fn store(a: &mut CodeAssembler, at: u64, value: u64) {
    a.mov(rdi, at).unwrap();
    a.mov(rax, value).unwrap();
    a.mov(qword_ptr(rdi), rax).unwrap();
}

fn load(a: &mut CodeAssembler, from: u64, into: AsmRegister64) {
    a.mov(rdi, from).unwrap();
    a.mov(into, qword_ptr(rdi)).unwrap();
}

#[test]
fn invlpg_concerns_all_of_a_large_page_also_when_the_tables_have_forgotten_it() {
    let one_gib = 0x83_u64;
    let small = DIRECTORY | 3;
    for (before, after, invalidated, expected) in [
        (one_gib, small, 0x4000_0000_u64, 0xb),
        (one_gib, small, 0x4060_0000, 0xb),
        (one_gib, small, 0x4080_0008, 0xb),
        (one_gib, small, 0x7fff_f000, 0xb),
        (small, one_gib, 0x4080_0008, 8),
    ] {
        let (state, _) = compare(
            |a| {
                for (at, value) in [(0x60_0000, 6), (0x80_0000, 8), (0xa0_0000, 0xa), (0xc0_0000, 0xb)] {
                    store(a, at, value);
                }
                store(a, DIRECTORY + 8 * 3, 0xa0_0083);
                store(a, DIRECTORY + 8 * 4, 0xc0_0083);
                store(a, SECOND_GIB, before);
                load(a, 0x4060_0000, r14);
                load(a, 0x4080_0000, r15);
                store(a, SECOND_GIB, after);
                a.mov(rbx, invalidated).unwrap();
                a.invlpg(byte_ptr(rbx)).unwrap();
                load(a, 0x4080_0000, rdx);
                a.hlt().unwrap();
            },
            halt,
        );
        assert_eq!(state.gpr[gpr::RDX], expected, "{before:#x} {after:#x} {invalidated:#x}");
    }
}
