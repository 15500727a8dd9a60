//! Privilege changes, control registers, segments, and the way from a PVH entry to 64-bit code.
use super::engines::{both, handled};
use super::*;
use crate::arch::state::gpr::{R11, RAX, RBX, RCX, RDX, RSP};
use crate::arch::{Cr0, Cr4, Efer, Rflags, msr};
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::*;

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let mut b = Bench::new(|a| a.syscall().unwrap());
    b.assemble(DATA, |a| a.sysretq().unwrap());
    b.state.msrs.star = 0x1b_0008 << 32;
    b.state.msrs.lstar = DATA;
    b.state.msrs.sfmask = (Rflags::IF | Rflags::DF).bits();
    b.state.rflags |= Rflags::IF | Rflags::CF;
    b.enter_ring3();
    let flags = b.state.rflags;
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.gpr[RCX], b.state.gpr[R11]), (DATA, CODE + 2, flags.bits()));
    assert_eq!((b.state.cpl(), b.state.gpr[RSP]), (0, STACK));
    assert!(!b.state.rflags.contains(Rflags::IF));
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.cpl(), b.state.rflags), (CODE + 2, 3, flags));
    assert_eq!(b.state.segment(SegmentRegister::Cs).selector, 0x2b);
    assert_eq!(b.state.segment(SegmentRegister::Ss).selector, 0x23);
}

#[test]
fn amds_syscall_exists_in_32_bit_code_and_intels_does_not() {
    for (vendor, goes) in [(*b"AuthenticAMD", true), (*b"HygonGenuine", true), (*b"GenuineIntel", false)] {
        let setup = || {
            let mut b = Bench::on(FakeMachine::of_vendor(4 << 20, vendor), |a| a.syscall().unwrap());
            b.assemble(DATA, |a| a.hlt().unwrap());
            b.state.msrs.star = 0x1b_0008 << 32;
            b.state.msrs.lstar = 0;
            b.state.msrs.cstar = DATA;
            b.state.msrs.sfmask = Rflags::CF.bits();
            b.state.rflags |= Rflags::CF | Rflags::ZF;
            b.enter_ring3();
            b.state.segment_mut(SegmentRegister::Cs).attributes = 0xc0fb;
            b
        };
        both(setup, |b, s| {
            if goes {
                assert_eq!((s.rip, s.gpr[RCX], s.cpl()), (DATA + 1, CODE + 2, 0));
                assert!(s.is_64bit_code() && s.rflags.contains(Rflags::ZF) && !s.rflags.contains(Rflags::CF));
                assert_eq!(s.gpr[R11] & 0x41, 0x41);
            } else {
                assert_eq!(handled(b, s, 6), CODE);
            }
        });
    }
}

#[test]
fn amds_syscall_exists_in_legacy_mode() {
    let machine = FakeMachine::of_vendor(4 << 20, *b"AuthenticAMD");
    let mut b = Bench::on(machine, |a| a.db(&[0x0f, 0x05]).unwrap());
    b.assemble(DATA, |a| a.db(&[0x0f, 0x07]).unwrap());
    b.state.efer = Efer::SCE;
    b.state.cr0.remove(Cr0::PG);
    b.state.cr4.remove(Cr4::PAE);
    b.enter_ring3();
    b.state.segment_mut(SegmentRegister::Cs).attributes = 0xc0fb;
    b.state.rflags |= Rflags::IF | Rflags::ZF;
    b.state.msrs.star = 0x1b_0008 << 32 | DATA;
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.gpr[RCX], b.state.cpl()), (DATA, CODE + 2, 0));
    assert!(!b.state.rflags.contains(Rflags::IF) && b.state.rflags.contains(Rflags::ZF));
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.cpl()), (CODE + 2, 3));
    assert_eq!(b.state.segment(SegmentRegister::Cs).selector, 0x1b);
    assert!(b.state.rflags.contains(Rflags::IF));
}

#[test]
fn syscall_and_sysret_trap_by_the_flag_that_they_leave() {
    for engine in [EmuEngine::Single, EmuEngine::Translator] {
        let mut b = Bench::new(|a| a.syscall().unwrap());
        b.assemble(DATA, |a| {
            a.or(r11d, Rflags::TF.bits() as i32).unwrap();
            a.sysretq().unwrap();
        });
        b.state.msrs.star = 0x1b_0008 << 32;
        b.state.msrs.lstar = DATA;
        b.state.msrs.sfmask = Rflags::TF.bits();
        b.state.rflags |= Rflags::TF;
        b.enter_ring3();
        let mut vcpu = b.vcpu_of(engine);
        assert_eq!(vcpu.run(&b.machine.platform).unwrap(), crate::engine::Exit::Halted);
        let state = vcpu.save().unwrap();
        // HLT of the handler of #DB, entered once, from ring 3, before an instruction of it was executed.
        let frame: [u64; 2] = std::array::from_fn(|i| b.peek(RING0_STACK - 40 + 8 * i as u64));
        assert_eq!(state.rip, HANDLERS + 16 + 1, "{engine:?}");
        assert_eq!((frame, state.gpr[RSP]), ([CODE + 2, 0x2b], RING0_STACK - 40), "{engine:?}");
        assert_eq!(state.dr[6] & 0xf00f, 1 << 14, "{engine:?}");
    }
}

#[test]
fn int1_brings_the_breakpoint_that_a_load_of_ss_held_off() {
    let mut b = Bench::new(|_| ());
    b.poke(DATA, 0x10);
    b.state.dr[1] = DATA;
    // Reads and writes of two bytes, by register 1.
    b.state.dr[7] = 0x400 | 1 << 2 | 0b0111 << 20;
    let end = b.assemble(CODE, |a| {
        a.mov(ss, word_ptr(DATA)).unwrap();
        a.int1().unwrap();
    });
    // To the HLT of the handler, which is entered once.
    assert_eq!(b.run(), super::super::Ended::Halted);
    assert_eq!((b.state.rip, b.state.dr[6] & 0xf00f), (HANDLERS + 17, 1 << 1));
    assert_eq!((b.peek(b.state.gpr[RSP]), b.state.gpr[RSP]), (end, STACK - 40));
}

#[test]
fn cpuid_tells_of_an_apic_that_is_enabled() {
    for engine in [EmuEngine::Single, EmuEngine::Translator] {
        // A loop, so that CPUID is asked by the same code before and after.
        let mut b = Bench::new(|a| {
            let mut again = a.create_label();
            a.mov(esi, 40).unwrap();
            a.set_label(&mut again).unwrap();
            a.mov(eax, 1).unwrap();
            a.cpuid().unwrap();
            a.shr(edx, 9).unwrap();
            a.and(edx, 1).unwrap();
            a.add(edi, edx).unwrap();
            a.mov(ecx, msr::APIC_BASE).unwrap();
            a.rdmsr().unwrap();
            a.xor(eax, 0x800).unwrap();
            a.wrmsr().unwrap();
            a.dec(esi).unwrap();
            a.jnz(again).unwrap();
            a.hlt().unwrap();
        });
        b.state.gpr[7] = 0;
        let mut vcpu = b.vcpu_of(engine);
        assert_eq!(vcpu.run(&b.machine.platform).unwrap(), crate::engine::Exit::Halted);
        assert_eq!(vcpu.save().unwrap().gpr[7], 20, "{engine:?}");
        // An address that no CPU here has, and a mode that CPUID does not tell of.
        for bit in [b.machine.platform.cpuid_table().physical_bits(), 10] {
            let value = 0xfee0_0900 | 1 << bit;
            assert_eq!(b.machine.platform.msr_write(VcpuId(0), msr::APIC_BASE, value, 0), None, "bit {bit}");
        }
    }
}

#[test]
fn iret_goes_to_ring_3_and_int_comes_back() {
    let mut b = Bench::new(|a| a.iretq().unwrap());
    b.assemble(DATA, |a| a.int(0x80).unwrap());
    b.gate(0x80, 3, 0);
    for (i, word) in (0..).zip([DATA, u64::from(USER_CODE), 0x202, 0x8800, u64::from(USER_DATA)]) {
        b.poke(STACK - 40 + 8 * i, word);
    }
    b.state.gpr[RSP] = STACK - 40;
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.cpl(), b.state.gpr[RSP]), (DATA, 3, 0x8800));
    assert!(b.state.rflags.contains(Rflags::IF));
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!((b.state.rip, b.state.cpl()), (HANDLERS + 16 * 0x80, 0));
    assert_eq!(b.peek(b.state.gpr[RSP]), DATA + 2, "the frame holds the next instruction");
}

#[test]
fn iret_refuses_what_it_must_and_changes_nothing() {
    // A more privileged target, and a stack segment of the wrong level.
    for (target, stack, code) in [(KERNEL_CODE, 0x10, 0x8), (USER_CODE, 0x13, 0x10)] {
        let mut b = Bench::new(|a| a.iretq().unwrap());
        for (i, word) in (0..).zip([DATA, u64::from(target), 0x202, 0x8800, stack]) {
            b.poke(STACK - 40 + 8 * i, word);
        }
        b.state.gpr[RSP] = STACK - 40;
        if target == KERNEL_CODE {
            b.enter_ring3();
        }
        let frame = b.faults(Vector::GeneralProtection);
        assert_eq!((frame[0], frame[1], frame[4]), (code, CODE, STACK - 40));
    }
}

#[test]
fn control_registers_refuse_reserved_and_contradictory_bits() {
    for (program, value) in [
        ((|a| a.mov(cr0, rax).unwrap()) as fn(&mut CodeAssembler), 0x8000_0000),
        (|a| a.mov(cr0, rax).unwrap(), 1 << 32 | 0x8000_0011),
        (|a| a.mov(cr4, rax).unwrap(), 1 << 30),
        (|a| a.mov(cr4, rax).unwrap(), 0),
        (|a| a.mov(cr8, rax).unwrap(), 16),
        (|a| a.mov(cr3, rax).unwrap(), 1 << 60),
        (|a| a.mov(cr3, rax).unwrap(), 1 << 46),
    ] {
        let mut b = Bench::new(program);
        b.state.gpr[RAX] = value;
        let before = (b.state.cr0, b.state.cr3, b.state.cr4);
        b.faults(Vector::GeneralProtection);
        assert_eq!((b.state.cr0, b.state.cr3, b.state.cr4), before);
    }
    let mut b = Bench::new(|a| a.mov(cr3, rax).unwrap());
    let ignored = FakeMachine::TABLES.0 | 0xfff;
    b.state.gpr[RAX] = ignored;
    assert_eq!((b.step(), b.state.cr3), (Outcome::Retired, ignored));
    let mut b = Bench::new(|a| a.mov(cr8, rax).unwrap());
    b.state.gpr[RAX] = 5;
    b.step();
    assert_eq!(b.machine.platform.cr8(VcpuId(0)), 5);
}

#[test]
fn the_root_of_pae_paging_is_loaded_with_cr3_and_cr0() {
    let outcome = |entry: u64, program: fn(&mut CodeAssembler), paging: Cr0| {
        let mut b = Bench::new(program);
        b.poke(DATA, 0x2_1000 | 1);
        b.poke(DATA + 24, entry);
        b.poke(0x2_1000, 0x83);
        b.state.cr0 = Cr0::PE | Cr0::ET | paging;
        b.state.cr3 = DATA;
        b.state.cr4 = Cr4::PAE;
        b.state.efer = Efer::empty();
        *b.state.segment_mut(SegmentRegister::Cs) = Segment::flat32(0x8, 0xb);
        // No exception can be delivered: a fault shuts down.
        b.state.idtr.limit = 0;
        (b.state.gpr[RAX], b.state.gpr[RBX]) = (DATA, (Cr0::PE | Cr0::ET | Cr0::PG).bits());
        b.step()
    };
    let reload: fn(&mut CodeAssembler) = |a| a.mov(cr3, rax).unwrap();
    let enable: fn(&mut CodeAssembler) = |a| a.mov(cr0, rbx).unwrap();
    for (program, paging) in [(reload, Cr0::PG), (enable, Cr0::empty())] {
        assert_eq!(outcome(0x2_1000 | 1, program, paging), Outcome::Retired);
        assert_eq!(outcome(0x2_1000 | 2, program, paging), Outcome::Retired, "not present");
        assert_eq!(outcome(0x2_1000 | 3, program, paging), Outcome::TripleFault, "a reserved bit");
    }
    assert_eq!(outcome(3, reload, Cr0::empty()), Outcome::Retired, "without paging nothing is loaded");
}

#[test]
fn model_specific_registers_are_checked_and_kept() {
    let write = |index: u32, value: u64| {
        let mut b = Bench::new(|a| a.wrmsr().unwrap());
        (b.state.gpr[RCX], b.state.gpr[RAX], b.state.gpr[RDX]) =
            (index.into(), value & 0xffff_ffff, value >> 32);
        let outcome = b.step();
        (b, outcome)
    };
    let general = Outcome::Exception(Vector::GeneralProtection);
    assert_eq!(write(msr::LSTAR, 0x8000_0000_0000).1, general);
    assert_eq!(write(msr::PAT, 2).1, general);
    assert_eq!(write(msr::EFER, 1 << 3).1, general);
    assert_eq!(write(msr::EFER, 0).1, general, "LME cannot change while paging is on");
    assert_eq!(write(0x1234_5678, 0).1, general);
    let (b, outcome) = write(msr::GS_BASE, 0xffff_8000_0000_0000);
    assert_eq!(outcome, Outcome::Retired);
    assert_eq!(b.state.segment(SegmentRegister::Gs).base, 0xffff_8000_0000_0000);
    assert!(write(msr::EFER, 0x501).0.state.efer.contains(Efer::LMA), "LMA is not the guest's to clear");
    assert_eq!(write(msr::APIC_BASE, 0xfee0_0800).1, Outcome::Retired, "the platform's");
}

/// CPUID offers machine checks, and there are no banks: what says so can be read, and cleared where that has a meaning.
#[test]
fn there_are_machine_checks_without_banks() {
    const MCG_CTL: u32 = 0x17b;
    const FIRST_BANK: u32 = 0x400;
    let read = |index: u32| {
        let mut b = Bench::new(|a| a.rdmsr().unwrap());
        (b.state.gpr[RCX], b.state.gpr[RAX], b.state.gpr[RDX]) = (index.into(), 7, 7);
        (b.step() == Outcome::Retired).then(|| (b.state.gpr[RAX], b.state.gpr[RDX]))
    };
    let write = |index: u32, value: u64| {
        let mut b = Bench::new(|a| a.wrmsr().unwrap());
        (b.state.gpr[RCX], b.state.gpr[RAX], b.state.gpr[RDX]) = (index.into(), value, 0);
        b.step() == Outcome::Retired
    };
    for (index, cleared) in
        [(msr::MCG_CAP, false), (msr::MCG_STATUS, true), (msr::P5_MC_ADDR, true), (msr::P5_MC_TYPE, true)]
    {
        assert_eq!(
            (read(index), write(index, 0), write(index, 1)),
            (Some((0, 0)), cleared, false),
            "{index:#x}"
        );
    }
    for index in [MCG_CTL, FIRST_BANK, FIRST_BANK + 1] {
        assert_eq!((read(index), write(index, 0)), (None, false), "{index:#x}");
    }
}

#[test]
fn gs_is_swapped_and_used() {
    let mut b = Bench::new(|a| {
        a.swapgs().unwrap();
        a.mov(rax, qword_ptr(8).gs()).unwrap();
        a.hlt().unwrap();
    });
    b.state.msrs.kernel_gs_base = DATA;
    b.poke(DATA + 8, 0x77);
    b.run();
    assert_eq!(b.state.gpr[RAX], 0x77);
}

#[test]
fn segment_loads_check_descriptors() {
    let load = |selector: u16| {
        let mut b = Bench::new(|a| a.mov(ds, ax).unwrap());
        b.state.gpr[RAX] = selector.into();
        let outcome = b.step();
        (outcome, b.peek(b.state.gpr[RSP]))
    };
    assert_eq!(load(0x10).0, Outcome::Retired);
    assert_eq!(load(0).0, Outcome::Retired, "a null selector");
    assert_eq!(load(0x40), (Outcome::Exception(Vector::GeneralProtection), 0x40), "beyond the table");
    assert_eq!(load(0x30), (Outcome::Exception(Vector::GeneralProtection), 0x30), "a system descriptor");
    let mut b = Bench::new(|a| a.mov(ss, ax).unwrap());
    b.enter_ring3();
    b.faults(Vector::GeneralProtection);
    let mut b = Bench::new(|a| {
        a.mov(ss, ax).unwrap();
        a.nop().unwrap();
    });
    b.state.gpr[RAX] = 0x10;
    b.step();
    assert!(b.state.interrupt_shadow);
    b.step();
    assert!(!b.state.interrupt_shadow);
}

#[test]
fn global_pages_survive_cr3_and_not_cr4() {
    let check = |program: fn(&mut CodeAssembler), seen: u64| {
        let mut b = Bench::new(program);
        b.state.cr4 |= Cr4::PGE;
        b.map(0, DATA | 0x107);
        b.poke(DATA, 1);
        b.poke(DATA + 0x1000, 2);
        b.state.gpr[RBX] = WINDOW;
        b.state.gpr[RCX] = PAGE_TABLE;
        b.state.gpr[RDX] = (DATA + 0x1000) | 0x107;
        b.run();
        assert_eq!(b.state.gpr[RAX], seen);
    };
    check(
        |a| {
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.mov(qword_ptr(rcx), rdx).unwrap();
            a.mov(rsi, cr3).unwrap();
            a.mov(cr3, rsi).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.hlt().unwrap();
        },
        1,
    );
    check(
        |a| {
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.mov(qword_ptr(rcx), rdx).unwrap();
            a.mov(rsi, cr4).unwrap();
            a.and(sil, 0x7f).unwrap();
            a.mov(cr4, rsi).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.hlt().unwrap();
        },
        2,
    );
}

#[test]
fn a_pvh_stub_reaches_64_bit_code() {
    let mut b = Bench::new(|a| a.nop().unwrap());
    let mut a = CodeAssembler::new(32).unwrap();
    a.mov(eax, DATA as u32).unwrap();
    a.lgdt(fword_ptr(eax)).unwrap();
    a.mov(eax, cr4).unwrap();
    a.or(eax, 0x20).unwrap();
    a.mov(cr4, eax).unwrap();
    a.mov(eax, 0x1000).unwrap();
    a.mov(cr3, eax).unwrap();
    a.mov(ecx, msr::EFER).unwrap();
    a.rdmsr().unwrap();
    a.or(eax, 0x100).unwrap();
    a.wrmsr().unwrap();
    a.mov(esp, STACK as u32).unwrap();
    a.push(ebx).unwrap();
    a.pop(edi).unwrap();
    a.mov(eax, cr0).unwrap();
    a.or(eax, 0x8000_0000_u32).unwrap();
    a.mov(cr0, eax).unwrap();
    // JMP FAR 8:DATA + 0x100.
    let mut far = vec![0xea];
    far.extend((DATA as u32 + 0x100).to_le_bytes());
    far.extend([8, 0]);
    a.db(&far).unwrap();
    let code = a.assemble(CODE).unwrap();
    b.machine.ram().write(Gpa(CODE), &code).unwrap();
    b.assemble(DATA + 0x100, |a| {
        a.mov(rax, 0x1122_3344_5566_7788_u64).unwrap();
        a.hlt().unwrap();
    });
    b.machine.ram().write(Gpa(DATA), &[0x3f, 0, 0, 0x40, 0, 0]).unwrap();
    b.state = CpuState::pvh_entry(CODE as u32, 0x6000);
    assert_eq!(b.run(), crate::emulator::single::Ended::Halted);
    assert_eq!(b.state.gpr[RAX], 0x1122_3344_5566_7788);
    assert_eq!(b.state.gpr[7], 0x6000);
    assert!(b.state.is_64bit_code() && b.state.cr0.contains(Cr0::PG));
}

#[test]
fn cpuid_and_the_clock_are_the_platforms() {
    let mut b = Bench::new(|a| {
        a.cpuid().unwrap();
        a.rdtsc().unwrap();
    });
    b.state.gpr[RAX] = u64::from(crate::abi::CPUID_HYPERVISOR);
    b.step();
    assert_eq!((b.state.gpr[RBX] as u32).to_le_bytes(), *b"TriV");
    b.state.cr4 |= Cr4::TSD;
    b.step();
    assert_eq!(b.state.rip, CODE + 4, "time is ring 0's");
    b.state.rip = CODE + 2;
    b.enter_ring3();
    b.faults(Vector::GeneralProtection);
}
