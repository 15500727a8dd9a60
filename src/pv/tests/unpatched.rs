//! Guests that run as they are: what faults is emulated, and what does not acts on the host's state.
use super::*;
use crate::engine::{Patch, Sites};
use std::collections::BTreeSet;

pub(super) fn unpatched(machine: &FakeMachine, state: &CpuState) -> PvVcpu {
    PvVcpu::new(VcpuId(0), Arc::clone(machine.ram()), state.clone(), Interface::None, Options::default())
        .unwrap()
}

/// Runs a guest to its HLT and gives its state, and what it was left with.
fn run(
    program: impl Fn(&mut CodeAssembler),
    handler: impl Fn(&mut CodeAssembler),
) -> (CpuState, PvVcpu, FakeMachine) {
    let (machine, state) = guest(program, handler);
    let ram = Arc::clone(machine.ram());
    let mut pv =
        PvVcpu::new(VcpuId(0), ram, state, Interface::None, Options { counts: true, ..Options::default() })
            .unwrap();
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    (pv.save().unwrap(), pv, machine)
}

fn mnemonics(sites: &Sites, patch: Patch) -> BTreeSet<String> {
    let decode = |bytes: &[u8]| {
        iced_x86::Decoder::with_ip(64, bytes, 0, iced_x86::DecoderOptions::NONE).decode().mnemonic()
    };
    let wanted = sites.list.iter().filter(|site| site.patch == patch && !site.taken_back);
    wanted.map(|site| format!("{:?}", decode(&site.bytes))).collect()
}

#[test]
fn what_faults_is_emulated_as_the_interpreter_does_it() {
    let program = |a: &mut CodeAssembler| {
        a.sti().unwrap();
        a.cli().unwrap();
        a.mov(rax, cr3).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(ecx, 0xc000_0102_u32).unwrap();
        a.mov(eax, 0x1234).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.rdmsr().unwrap();
        a.mov(r8, rax).unwrap();
        a.sidt(ptr(0x30_1000)).unwrap();
        a.lidt(ptr(IDT_POINTER)).unwrap();
        a.int(0x80).unwrap();
        a.int3().unwrap();
        a.nop().unwrap();
        a.ud2().unwrap();
        a.nop().unwrap();
        a.syscall().unwrap();
        a.mov(rbx, 0x80_0000_0000_u64).unwrap();
        a.hlt().unwrap();
    };
    // Skips UD2 (which it recognises by its bytes) and returns from all others.
    let handler = |a: &mut CodeAssembler| {
        let mut out = a.create_label();
        a.inc(r15).unwrap();
        a.mov(r14, qword_ptr(rsp)).unwrap();
        a.cmp(word_ptr(r14), 0x0b0f).unwrap();
        a.jne(out).unwrap();
        a.add(qword_ptr(rsp), 2).unwrap();
        a.set_label(&mut out).unwrap();
        a.iretq().unwrap();
    };
    const IDT_POINTER: u64 = 0x30_2000;
    let prepared = || {
        let (machine, mut state) = guest(program, handler);
        let pointer = [&0xfff_u16.to_le_bytes()[..], &IDT.to_le_bytes()].concat();
        machine.ram().write(Gpa(IDT_POINTER), &pointer).unwrap();
        // SYSCALL goes on behind itself.
        let code = (0..64).map(|i| CODE + i).find(|&at| {
            let mut bytes = [0; 2];
            machine.ram().read(Gpa(at), &mut bytes).unwrap();
            bytes == [0x0f, 0x05]
        });
        state.msrs.lstar = code.unwrap() + 2;
        state.msrs.star = 8 << 32;
        state.efer |= crate::arch::Efer::SCE;
        (machine, state)
    };
    let (machine, state) = prepared();
    let mut pv = unpatched(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    assert!(pv.patched().is_empty() && pv.sites().is_none());
    let native = pv.save().unwrap();
    let (machine, mut expected) = prepared();
    let mut single = Single::new(VcpuId(0), Arc::clone(machine.ram()));
    while single.step(&mut expected, &machine.platform).unwrap() != Outcome::Halted {}
    assert_eq!(native.gpr, expected.gpr);
    assert_eq!((native.rip, native.rflags, native.idtr), (expected.rip, expected.rflags, expected.idtr));
    assert_eq!((native.gpr[15], native.gpr[8]), (3, 0x1234));
}

#[test]
fn what_does_not_fault_acts_on_the_hosts_state() {
    let (state, pv, machine) = run(
        |a| {
            a.cli().unwrap();
            a.pushfq().unwrap();
            a.pop(rbx).unwrap();
            a.mov(rcx, cs).unwrap();
            a.sti().unwrap();
            a.nop().unwrap();
            a.push(2).unwrap();
            a.popfq().unwrap();
            a.sidt(ptr(0x30_1000)).unwrap();
            a.hlt().unwrap();
        },
        halt,
    );
    assert_ne!(state.gpr[gpr::RBX] & Rflags::IF.bits(), 0, "PUSHF shows the host's IF, which is set");
    assert_eq!(state.gpr[gpr::RCX], 0x33, "the host's 64-bit code segment at ring 3");
    assert!(state.rflags.contains(Rflags::IF), "POPF left the guest's IF alone");
    let mut shown = [0; 8];
    machine.ram().read(Gpa(0x30_1002), &mut shown).unwrap();
    assert_ne!(u64::from_le_bytes(shown), IDT);
    let sites = pv.sites().unwrap();
    let native = mnemonics(&sites, Patch::Native);
    assert_eq!(native, ["Mov", "Popfq", "Pushfq", "Sidt"].map(str::to_owned).into());
    let faulting = mnemonics(&sites, Patch::Fault);
    assert_eq!(faulting, ["Cli", "Hlt", "Sti"].map(str::to_owned).into());
    let counted = |address: u64| sites.list.iter().find(|s| s.address.0 == address).unwrap();
    assert_eq!((counted(CODE).by_engine, counted(CODE).count()), (1, Some(1)), "CLI is seen");
    assert_eq!(counted(CODE + 1).count(), None, "PUSHF is not");
}

#[test]
fn nothing_of_the_code_is_changed_and_code_that_the_guest_writes_is_seen() {
    let (state, pv, _) = run(
        |a| {
            let (mut code, mut top) = (a.create_label(), a.create_label());
            a.xor(ecx, ecx).unwrap();
            a.lea(rdi, qword_ptr(code)).unwrap();
            a.set_label(&mut top).unwrap();
            a.mov(byte_ptr(rdi + 1), cl).unwrap();
            a.call(rdi).unwrap();
            a.add(rbx, rax).unwrap();
            a.inc(ecx).unwrap();
            a.cmp(ecx, 5).unwrap();
            a.jne(top).unwrap();
            a.hlt().unwrap();
            a.set_label(&mut code).unwrap();
            a.mov(eax, 0).unwrap();
            a.pushfq().unwrap();
            a.add(rsp, 8).unwrap();
            // Read as data, through the address it executes at.
            a.movzx(edx, byte_ptr(rdi + 5)).unwrap();
            a.ret().unwrap();
        },
        halt,
    );
    assert_eq!(state.gpr[gpr::RBX], 10);
    assert_eq!(state.gpr[gpr::RDX], 0x9c, "PUSHF is still there");
    assert!(pv.patched().is_empty());
}

#[test]
fn flags_that_popf_sets_on_the_host_do_no_harm() {
    // TF, AC, NT, IOPL, ID, and all of them.
    for flags in [0x102_u64, 0x4_0002, 0x4002, 0x3002, 0x20_0002, 0x24_7fd7] {
        let (state, ..) = run(
            move |a| {
                a.mov(rax, flags).unwrap();
                a.push(rax).unwrap();
                a.popfq().unwrap();
                // Misaligned: #AC with AC set.
                a.mov(rcx, STACK - 0x101).unwrap();
                a.mov(qword_ptr(rcx), rcx).unwrap();
                a.mov(r15d, 1).unwrap();
                a.hlt().unwrap();
            },
            halt,
        );
        assert_eq!(state.gpr[15], 1, "{flags:#x}");
    }
}
