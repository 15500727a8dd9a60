//! PUSHF and POPF: every value that their thunks load by themselves, from every such state, and what they leave to others.
use super::*;
use crate::mem::GuestRam;

/// The program reads the states here, eight bytes each, and writes what it saw there.
const STATES: u64 = 0x40_0000;
const SEEN: u64 = 0x50_0000;
/// CF, PF, AF, ZF, SF, IF, DF, OF, ID.
const BITS: [u32; 9] = [0, 2, 4, 6, 7, 9, 10, 11, 21];

#[test]
fn flags_that_thunks_handle_are_those_of_the_interpreter() {
    for flags in [0_u64, 0x2, 0x202, 0xcd7, 0xed7, 0x20_0202, 0x4_0202, 0x3202, 0x4046, !0x1_0100] {
        compare(
            move |a| {
                a.mov(rax, flags).unwrap();
                a.push(rax).unwrap();
                a.popfq().unwrap();
                a.mov(rax, -1_i64 as u64).unwrap();
                a.mov(rcx, 0x1234_u64).unwrap();
                a.pushfq().unwrap();
                a.pop(rbx).unwrap();
                a.cli().unwrap();
                a.pushfq().unwrap();
                a.pop(rdx).unwrap();
                a.push(rbx).unwrap();
                a.popfq().unwrap();
                a.pushfq().unwrap();
                a.pop(rsi).unwrap();
                a.cli().unwrap();
                a.hlt().unwrap();
            },
            halt,
        );
    }
}

/// All combinations of [`BITS`], the reserved bit set.
fn states() -> Vec<u64> {
    (0..1_u64 << BITS.len())
        .map(|n| BITS.iter().enumerate().fold(2, |flags, (i, bit)| flags | (n >> i & 1) << bit))
        .collect()
}

/// Loads each of `count` states, and each of them after it; writes what PUSHFQ shows then, mixed with what should not have
/// changed: RAX, RCX, RSP and the word above the popped one.
fn load_every_pair(a: &mut CodeAssembler, count: u32) {
    let (mut outer, mut inner) = (a.create_label(), a.create_label());
    a.mov(rsi, STATES).unwrap();
    a.mov(rdi, SEEN).unwrap();
    a.xor(r8d, r8d).unwrap();
    a.set_label(&mut outer).unwrap();
    a.xor(r9d, r9d).unwrap();
    a.set_label(&mut inner).unwrap();
    a.mov(rax, 0x1111_2222_3333_4444_u64).unwrap();
    a.lea(rcx, qword_ptr(rax + r9 * 8)).unwrap();
    a.push(rcx).unwrap();
    a.push(qword_ptr(rsi + r8 * 8)).unwrap();
    a.popfq().unwrap();
    a.push(qword_ptr(rsi + r9 * 8)).unwrap();
    a.popfq().unwrap();
    a.mov(rbx, qword_ptr(rsp - 8)).unwrap();
    a.pushfq().unwrap();
    a.pop(rdx).unwrap();
    a.pop(rbp).unwrap();
    a.xor(rax, rdx).unwrap();
    a.ror(rcx, 7).unwrap();
    a.xor(rax, rcx).unwrap();
    a.rol(rbx, 23).unwrap();
    a.xor(rax, rbx).unwrap();
    a.rol(rbp, 13).unwrap();
    a.xor(rax, rbp).unwrap();
    a.rol(rsp, 33).unwrap();
    a.xor(rax, rsp).unwrap();
    a.ror(rsp, 33).unwrap();
    a.mov(qword_ptr(rdi), rax).unwrap();
    a.lea(rdi, qword_ptr(rdi + 8)).unwrap();
    a.inc(r9d).unwrap();
    a.cmp(r9d, count as i32).unwrap();
    a.jne(inner).unwrap();
    a.inc(r8d).unwrap();
    a.cmp(r8d, count as i32).unwrap();
    a.jne(outer).unwrap();
    a.mov(eax, 2).unwrap();
    a.push(rax).unwrap();
    a.popfq().unwrap();
    a.hlt().unwrap();
}

fn seen(ram: &GuestRam, count: usize) -> Vec<u64> {
    let mut bytes = vec![0; 8 * count];
    ram.read(Gpa(SEEN), &mut bytes).unwrap();
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_state_is_loaded_exactly_from_every_state() {
    let states = states();
    let prepare = || {
        let (machine, state) = guest(|a| load_every_pair(a, states.len() as u32), halt);
        for (i, flags) in states.iter().enumerate() {
            machine.ram().write(Gpa(STATES + 8 * i as u64), &flags.to_le_bytes()).unwrap();
        }
        (machine, state)
    };
    let pairs = states.len() * states.len();
    let (machine, mut expected) = prepare();
    let mut single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
    while single.step(&mut expected, &machine.platform).unwrap() != Outcome::Halted {}
    let wanted = seen(machine.ram(), pairs);
    assert!(wanted.windows(2).any(|w| w[0] != w[1]));
    for vcpu in [vcpu, counting] {
        let (machine, state) = prepare();
        let mut pv = vcpu(&machine, &state);
        assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
        let found = seen(machine.ram(), pairs);
        if let Some(at) = (0..pairs).find(|&at| found[at] != wanted[at]) {
            let (from, to) = (states[at / states.len()], states[at % states.len()]);
            panic!("{to:#x} loaded over {from:#x}: differs by {:#x}", found[at] ^ wanted[at]);
        }
        assert_eq!(pv.save().unwrap().gpr, expected.gpr);
        let calls = machine.platform.counters(VcpuId(0)).get(Cause::Hypercall);
        assert!(calls < 10, "{calls} times the engine was asked");
    }
}

#[test]
fn a_popf_that_faults_finds_all_as_it_was() {
    // The page of the popped word is not there, but the one below is; the handler looks at the state it was entered with, and maps it.
    let entry = FakeMachine::TABLES.0 + 0x2000 + 8 * 3;
    for flags in [0x2_u64, 0x8d7, 0x20_0cd7, 0x4046] {
        compare(
            move |a| {
                a.mov(rbx, entry).unwrap();
                a.mov(qword_ptr(rbx), 0).unwrap();
                a.mov(rax, cr3).unwrap();
                a.mov(cr3, rax).unwrap();
                a.mov(rax, 0x1234_5678_u64).unwrap();
                a.mov(rcx, 0x8765_4321_u64).unwrap();
                a.push(flags as i32).unwrap();
                a.popfq().unwrap();
                a.mov(rsp, 0x60_0000_u64).unwrap();
                a.popfq().unwrap();
                a.pushfq().unwrap();
                a.pop(rdx).unwrap();
                a.hlt().unwrap();
            },
            |a| {
                a.mov(r8, rax).unwrap();
                a.mov(r9, rcx).unwrap();
                a.mov(rax, 0x60_0087_u64).unwrap();
                a.mov(qword_ptr(rbx), rax).unwrap();
                a.mov(r10, qword_ptr(rsp + 24)).unwrap();
                a.mov(r11, qword_ptr(rsp + 32)).unwrap();
                a.lea(rsp, qword_ptr(rsp + 8)).unwrap();
                a.iretq().unwrap();
            },
        );
    }
}

#[test]
fn a_popf_that_the_engine_does_finds_the_flags_as_they_were() {
    // An interrupt waits, so that POPF goes to the engine; a handler sees the flags before and after.
    let (machine, state) = guest(
        |a| {
            for flags in [0x2d7_u64, 0xad7, 0x246, 0x202, 0x20_0ad5] {
                a.cli().unwrap();
                a.mov(edx, 0x500).unwrap();
                a.out(dx, al).unwrap();
                a.push(flags as i32).unwrap();
                a.popfq().unwrap();
                a.nop().unwrap();
                a.nop().unwrap();
            }
            a.cli().unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.mov(rax, qword_ptr(rsp + 16)).unwrap();
            a.rol(r14, 11).unwrap();
            a.xor(r14, rax).unwrap();
            a.inc(r15).unwrap();
            a.iretq().unwrap();
        },
    );
    let mut pv = vcpu(&machine, &state);
    let interrupts = Arc::clone(&machine.interrupts);
    machine.port.lock().unwrap().on_port_write.0 = Some(Box::new(move |_| interrupts.raise(0x40)));
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    let state = pv.save().unwrap();
    let expected =
        [0x2d7_u64, 0xad7, 0x246, 0x202, 0x20_0ad7].iter().fold(0_u64, |v, f| v.rotate_left(11) ^ f);
    assert_eq!((state.gpr[15], state.gpr[14]), (5, expected));
}
