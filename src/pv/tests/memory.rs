//! Guests that change their page tables under the mirror.
use super::super::layout::address_space;
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

#[test]
fn a_guest_that_maps_its_ram_everywhere_is_kept_within_a_bound() {
    const POINTERS: u64 = 0x51_0000;
    const PIECES: i32 = 2048;
    let (machine, state) = guest(
        |a| {
            let mut top = a.create_label();
            a.mov(rdi, 0x80_0000_0000_u64).unwrap();
            a.mov(ecx, PIECES).unwrap();
            a.set_label(&mut top).unwrap();
            a.add(r15d, dword_ptr(rdi + 0x8000)).unwrap();
            a.add(rdi, 2 << 20).unwrap();
            a.dec(ecx).unwrap();
            a.jnz(top).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    // 512 GiB of addresses from the second entry of the top on: the same 16 MiB again and again.
    let ram = machine.ram();
    ram.write(Gpa(FakeMachine::TABLES.0 + 8), &(POINTERS | 3).to_le_bytes()).unwrap();
    for i in 0..512_u64 {
        ram.write(Gpa(POINTERS + 8 * i), &(DIRECTORY | 3).to_le_bytes()).unwrap();
        ram.write(Gpa(DIRECTORY + 8 * i), &((i % 8) << 21 | 0x83).to_le_bytes()).unwrap();
    }
    for i in 0..8 {
        ram.write(Gpa((i << 21) + 0x8000), &(1_u32 << (3 * i)).to_le_bytes()).unwrap();
    }
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    assert_eq!(pv.save().unwrap().gpr[15], (0o1111_1111 * (PIECES as u64 / 8)) & 0xffff_ffff);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pv.child_pid())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let most = address_space(ram.size());
    assert!(kib("VmSize:") << 10 <= most, "{status}");
    assert!(kib("VmPTE:") << 10 <= most / 512 + (1 << 20), "{status}");
}
