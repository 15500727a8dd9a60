//! Several vCPUs at once, in each engine that can: what one does is seen by the others as the manual has it.
//!
//! Each vCPU begins in 64-bit mode at code of its own, memory mapped to itself, unless a test starts it by message.
use super::{Capture, Limits, Machine, MachineSpec, Stop, availability};
use crate::arch::{Activity, CpuState, Cr0, Cr4, Efer, Gpa, Rflags, Segment, layout};
use crate::emulator::EmuEngine;
use crate::engine::Mode;
use crate::loader::Image;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::time::Duration;

const TABLES: u64 = 0x1_0000;
const GDT: u64 = 0x7000;
const IDT: u64 = 0x6000;
const CODE: u64 = 0x20_0000;
/// Memory that tests share, a line apart.
const SHARED: u64 = 0x40_0000;
const ICR: u64 = layout::LAPIC.0 + 0x300;
const EOI: u64 = layout::LAPIC.0 + 0xb0;
const SPURIOUS: u64 = layout::LAPIC.0 + 0xf0;
const VECTOR: u64 = 0x41;

const fn line(number: u64) -> u64 {
    SHARED + 64 * number
}

struct Rig {
    machine: Machine,
    name: &'static str,
}

impl Rig {
    fn each(cpus: u8, test: impl Fn(&mut Self)) {
        let emulators = EmuEngine::ALL.map(|emulator| (Mode::Emu, emulator));
        for (mode, emulator) in emulators.into_iter().chain([(Mode::Kvm, EmuEngine::default())]) {
            if let Err(reason) = availability(mode) {
                println!("{mode} is skipped: {reason}");
                continue;
            }
            let spec = MachineSpec { emulator, cpus, memory: 16 << 20, ..MachineSpec::new(mode) };
            let image = Image::flat(vec![0xf4]).unwrap();
            let machine = Machine::build(&spec, &image, Box::new(Capture::new(4096))).unwrap();
            let name = if mode == Mode::Emu { emulator.name() } else { mode.name() };
            let mut rig = Self { machine, name };
            rig.map();
            test(&mut rig);
        }
    }

    /// How often something is done, `most` in the fastest engine.
    fn rounds(&self, most: u32) -> u32 {
        match self.name {
            "translator" => most,
            "single" => most / 5,
            // Some hosts' KVM executes ring 0 instruction by instruction.
            _ => most / 50,
        }
    }

    fn put(&self, at: u64, value: u64) {
        self.machine.platform().ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.platform().ram().read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// The first and the fourth GiB, mapped to themselves; the first 2 MiB in small pages.
    fn map(&self) {
        self.put(TABLES, (TABLES + 0x1000) | 7);
        self.put(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        self.put(TABLES + 0x1018, (TABLES + 0x4000) | 7);
        self.put(TABLES + 0x2000, (TABLES + 0x3000) | 7);
        for i in 1..512 {
            self.put(TABLES + 0x2000 + 8 * i, i << 21 | 0x87);
        }
        for i in 0..512 {
            self.put(TABLES + 0x3000 + 8 * i, i << 12 | 7);
            self.put(TABLES + 0x4000 + 8 * i, 0xc000_0000 | i << 21 | 0x87);
        }
        self.put(GDT + 8, 0x00af_9b00_0000_ffff);
        self.put(GDT + 16, 0x00cf_9300_0000_ffff);
    }

    fn assemble(&self, at: u64, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let mut a = CodeAssembler::new(64).unwrap();
        code(&mut a).unwrap();
        let bytes = a.assemble(at).unwrap();
        self.machine.platform().ram().write(Gpa(at), &bytes).unwrap();
    }

    fn long_mode(rip: u64) -> CpuState {
        let mut state = CpuState::reset();
        state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET | Cr0::NE | Cr0::WP;
        state.cr3 = TABLES;
        state.cr4 = Cr4::PAE;
        state.efer = Efer::LME | Efer::LMA | Efer::NXE;
        state.segments = [Segment::flat32(0x10, 0x3); 6];
        state.segments[1] = Segment { attributes: 0xa09b, ..Segment::flat32(0x8, 0xb) };
        (state.gdtr.base, state.gdtr.limit) = (GDT, 0x17);
        (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
        state.rip = rip;
        state.gpr[4] = rip + 0x1_0000;
        state
    }

    /// Lets a vCPU begin with this code; the last one's ends the machine when it is through.
    fn cpu(&mut self, number: u64, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let at = CODE + 0x2_0000 * number;
        self.assemble(at, code);
        let state = Self::long_mode(at);
        match number.checked_sub(1) {
            None => self.machine.executor.vcpu.load(&state).unwrap(),
            Some(other) => self.machine.executor.others[other as usize].load(&state).unwrap(),
        }
    }

    fn run(&mut self) {
        let limits =
            Limits { timeout: Some(Duration::from_secs(60)), interruptible: false, ..Limits::default() };
        assert_eq!(self.machine.run(&limits).unwrap(), Stop::PowerOff(1), "{}", self.name);
    }

    /// The handler of a vector, which ends the interrupt after `code`.
    fn handler(&self, vector: u64, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let at = CODE - 0x1_0000 + 0x100 * (vector & 0xff);
        self.put(IDT + 16 * vector, at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48);
        self.put(IDT + 16 * vector + 8, at >> 32);
        self.assemble(at, |a| {
            a.push(rax)?;
            code(a)?;
            a.mov(eax, EOI as u32)?;
            a.mov(dword_ptr(rax), 0)?;
            a.pop(rax)?;
            a.iretq()
        });
    }
}

/// Switches the machine off with status 0.
fn off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(edx, 0xf4)?;
    a.xor(eax, eax)?;
    a.out(dx, al)?;
    a.hlt()
}

/// Waits until the word at `at` is `value`.
fn until(a: &mut CodeAssembler, at: u64, value: i32) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.pause()?;
    a.cmp(qword_ptr(at), value)?;
    a.jne(again)
}

/// Says that one more is through; the boot CPU waits for all and switches off.
fn through(a: &mut CodeAssembler, number: u64, cpus: i32) -> Result<(), IcedError> {
    a.lock().inc(qword_ptr(line(60)))?;
    if number > 0 {
        return a.hlt();
    }
    until(a, line(60), cpus)?;
    off(a)
}

/// Writes to a register of the local APIC.
fn apic(a: &mut CodeAssembler, at: u64, value: u32) -> Result<(), IcedError> {
    a.mov(eax, at as u32)?;
    a.mov(dword_ptr(rax), value)
}

#[test]
fn locked_instructions_of_four_cpus_lose_nothing() {
    const CPUS: u64 = 4;
    const ACROSS: u64 = 0x50_0ffc;
    Rig::each(CPUS as u8, |rig| {
        let rounds = u64::from(rig.rounds(20_000));
        // Code in the page of one counter: its stores take the slow path.
        let in_code = CODE + 0x10_0800;
        for number in 0..CPUS {
            rig.cpu(number, |a| {
                let [mut again, mut pair, mut take] = [a.create_label(), a.create_label(), a.create_label()];
                a.mov(r15, rounds)?;
                a.set_label(&mut again)?;
                a.lock().inc(qword_ptr(line(0)))?;
                a.mov(eax, 3)?;
                a.lock().xadd(dword_ptr(line(1)), eax)?;
                // Not aligned: across a line, within a page.
                a.lock().add(qword_ptr(line(3) - 3), 1)?;
                a.lock().inc(dword_ptr(in_code))?;
                a.mov(rax, qword_ptr(line(4)))?;
                a.mov(rdx, qword_ptr(line(4) + 8))?;
                a.set_label(&mut pair)?;
                a.mov(rbx, rax)?;
                a.mov(rcx, rdx)?;
                a.add(rbx, 1)?;
                a.add(rcx, 2)?;
                a.lock().cmpxchg16b(xmmword_ptr(line(4)))?;
                a.jne(pair)?;
                // A lock by XCHG, given back by a plain store, around a counter without one.
                a.set_label(&mut take)?;
                a.pause()?;
                a.mov(eax, 1)?;
                a.xchg(dword_ptr(line(6)), eax)?;
                a.test(eax, eax)?;
                a.jne(take)?;
                a.inc(qword_ptr(line(7)))?;
                a.mov(dword_ptr(line(6)), 0)?;
                a.test(r15b, 15)?;
                let mut not_now = a.create_label();
                a.jne(not_now)?;
                a.lock().add(qword_ptr(ACROSS), 1)?;
                a.call(in_code - 0x100)?;
                a.set_label(&mut not_now)?;
                a.dec(r15)?;
                a.jne(again)?;
                through(a, number, CPUS as i32)
            });
        }
        rig.assemble(in_code - 0x100, |a| a.ret());
        rig.run();
        let all = CPUS * rounds;
        let found = [
            rig.get(line(0)),
            rig.get(line(1)),
            rig.get(line(3) - 3),
            rig.get(in_code) & 0xffff_ffff,
            rig.get(line(4)),
            rig.get(line(4) + 8),
            rig.get(line(7)),
            rig.get(ACROSS),
        ];
        assert_eq!(found, [all, 3 * all, all, all, all, 2 * all, all, CPUS * (rounds / 16)], "{}", rig.name);
    });
}

#[test]
fn stores_are_seen_in_their_order_and_before_loads_behind_a_fence() {
    Rig::each(2, |rig| {
        let rounds = rig.rounds(20_000);
        for number in 0..2 {
            rig.cpu(number, |a| {
                let [mut again, mut fine, mut wait, mut ordered] = [(); 4].map(|()| a.create_label());
                a.xor(r15d, r15d)?;
                a.set_label(&mut again)?;
                a.inc(r15)?;
                // Store buffering: what was stored before the fence is seen by one of the two at least.
                a.mov(qword_ptr(line(number)), r15)?;
                a.mfence()?;
                a.mov(rax, qword_ptr(line(1 - number)))?;
                a.mov(qword_ptr(line(2 + number)), rax)?;
                // Message passing: who sees the flag sees the data.
                if number == 0 {
                    a.mov(qword_ptr(line(10)), r15)?;
                    a.mov(qword_ptr(line(11)), r15)?;
                } else {
                    a.mov(rbx, qword_ptr(line(11)))?;
                    a.mov(rcx, qword_ptr(line(10)))?;
                    a.cmp(rcx, rbx)?;
                    a.jae(ordered)?;
                    a.lock().inc(qword_ptr(line(21)))?;
                    a.set_label(&mut ordered)?;
                }
                // Both are here.
                a.lock().inc(qword_ptr(line(5)))?;
                a.lea(rdx, qword_ptr(r15 + r15))?;
                a.set_label(&mut wait)?;
                a.pause()?;
                a.cmp(qword_ptr(line(5)), rdx)?;
                a.jb(wait)?;
                if number == 0 {
                    a.cmp(qword_ptr(line(2)), r15)?;
                    a.jae(fine)?;
                    a.cmp(qword_ptr(line(3)), r15)?;
                    a.jae(fine)?;
                    a.lock().inc(qword_ptr(line(20)))?;
                    a.set_label(&mut fine)?;
                }
                // And both have looked.
                let mut wait = a.create_label();
                a.lock().inc(qword_ptr(line(6)))?;
                a.set_label(&mut wait)?;
                a.pause()?;
                a.cmp(qword_ptr(line(6)), rdx)?;
                a.jb(wait)?;
                a.cmp(r15d, rounds)?;
                a.jb(again)?;
                through(a, number, 2)
            });
        }
        rig.run();
        assert_eq!([rig.get(line(20)), rig.get(line(21))], [0, 0], "{}", rig.name);
        assert_eq!(rig.get(line(5)), 2 * u64::from(rounds));
    });
}

#[test]
fn interrupts_wake_another_cpu_and_stop_one_that_spins() {
    Rig::each(2, |rig| {
        let rounds = rig.rounds(1000);
        rig.handler(VECTOR, |a| a.lock().inc(qword_ptr(line(0))));
        for spins in [false, true] {
            rig.put(line(0), 0);
            rig.put(line(60), 0);
            rig.cpu(1, |a| {
                let mut again = a.create_label();
                apic(a, SPURIOUS, 0x1ff)?;
                a.lock().inc(qword_ptr(line(60)))?;
                a.set_label(&mut again)?;
                a.sti()?;
                if spins {
                    a.inc(rbx)?
                } else {
                    a.hlt()?
                }
                a.jmp(again)
            });
            rig.cpu(0, |a| {
                let mut again = a.create_label();
                until(a, line(60), 1)?;
                apic(a, ICR + 0x10, 1 << 24)?;
                a.xor(r15d, r15d)?;
                a.set_label(&mut again)?;
                apic(a, ICR, 0x4000 | VECTOR as u32)?;
                a.inc(r15)?;
                let mut wait = a.create_label();
                a.set_label(&mut wait)?;
                a.pause()?;
                a.cmp(qword_ptr(line(0)), r15)?;
                a.jne(wait)?;
                a.cmp(r15d, rounds)?;
                a.jb(again)?;
                off(a)
            });
            rig.run();
            assert_eq!(rig.get(line(0)), u64::from(rounds), "{}", rig.name);
        }
    });
}

#[test]
fn a_cpu_is_started_by_messages_and_stopped_by_init() {
    Rig::each(2, |rig| {
        // Real mode: `inc word [cs:0x100]; hlt; jmp $-1`, at two pages.
        for page in [0x8000_u64, 0x9000] {
            let code = [0x2e, 0xff, 0x06, 0x00, 0x01, 0xf4, 0xeb, 0xfd];
            rig.machine.platform().ram().write(Gpa(page), &code).unwrap();
        }
        rig.cpu(0, |a| {
            apic(a, ICR + 0x10, 1 << 24)?;
            for (page, count) in [(8, 1), (9, 1), (8, 2)] {
                // INIT, its de-assertion, and two start-ups of which one counts.
                for message in [0xc500, 0x8500, 0x4600 | page, 0x4600 | (page ^ 1)] {
                    apic(a, ICR, message)?;
                }
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.pause()?;
                a.cmp(word_ptr((u64::from(page) << 12) + 0x100), count)?;
                a.jne(again)?;
            }
            off(a)
        });
        assert_eq!(rig.machine.executor.others[0].save().unwrap().activity, Activity::WaitsForStartUp);
        rig.run();
        assert_eq!(rig.get(0x8100) & 0xffff, 2, "{}", rig.name);
        let state = rig.machine.executor.others[0].save().unwrap();
        assert_eq!((state.cr0.contains(Cr0::PE), state.segments[1].base), (false, 0x8000), "{}", rig.name);
    });
}

#[test]
fn an_nmi_comes_through_to_a_cpu_that_takes_no_interrupts() {
    Rig::each(2, |rig| {
        rig.handler(2, |a| a.lock().inc(qword_ptr(line(0))));
        rig.cpu(1, |a| {
            let mut again = a.create_label();
            a.lock().inc(qword_ptr(line(60)))?;
            a.set_label(&mut again)?;
            a.inc(rbx)?;
            a.jmp(again)
        });
        rig.cpu(0, |a| {
            until(a, line(60), 1)?;
            apic(a, ICR + 0x10, 1 << 24)?;
            for count in 1..=3 {
                apic(a, ICR, 0x4400)?;
                until(a, line(0), count)?;
            }
            off(a)
        });
        rig.run();
        let state = rig.machine.executor.others[0].save().unwrap();
        assert!(!state.rflags.contains(Rflags::IF), "{}", rig.name);
    });
}

/// One CPU changes where a page lies and tells the other by an interrupt, whose handler forgets the translation.
#[test]
fn a_translation_that_was_shot_down_is_used_no_more() {
    const PAGE: u64 = 0x10_0000;
    const ENTRY: u64 = TABLES + 0x3000 + 8 * (PAGE >> 12);
    Rig::each(2, |rig| {
        let rounds = rig.rounds(1000);
        // Two pages that hold 0 and 1.
        rig.put(0x60_0000, 0);
        rig.put(0x60_1000, 1);
        rig.put(ENTRY, 0x60_0000 | 7);
        rig.handler(VECTOR, |a| {
            a.invlpg(byte_ptr(PAGE))?;
            a.mov(rax, qword_ptr(PAGE))?;
            a.mov(qword_ptr(line(1)), rax)?;
            a.lock().inc(qword_ptr(line(0)))
        });
        rig.cpu(1, |a| {
            let mut again = a.create_label();
            apic(a, SPURIOUS, 0x1ff)?;
            a.mov(rax, qword_ptr(PAGE))?;
            a.lock().inc(qword_ptr(line(60)))?;
            a.sti()?;
            a.set_label(&mut again)?;
            a.mov(rcx, qword_ptr(PAGE))?;
            a.mov(qword_ptr(PAGE + 8), rcx)?;
            a.jmp(again)
        });
        rig.cpu(0, |a| {
            let [mut again, mut wait, mut right, mut wrong] = [(); 4].map(|()| a.create_label());
            until(a, line(60), 1)?;
            apic(a, ICR + 0x10, 1 << 24)?;
            a.xor(r15d, r15d)?;
            a.set_label(&mut again)?;
            a.xor(qword_ptr(ENTRY), 0x1000)?;
            apic(a, ICR, 0x4000 | VECTOR as u32)?;
            a.inc(r15)?;
            a.set_label(&mut wait)?;
            a.pause()?;
            a.cmp(qword_ptr(line(0)), r15)?;
            a.jne(wait)?;
            // What the other saw is the number of the page.
            a.mov(rax, r15)?;
            a.and(eax, 1)?;
            a.cmp(qword_ptr(line(1)), rax)?;
            a.je(right)?;
            a.set_label(&mut wrong)?;
            a.inc(qword_ptr(line(2)))?;
            a.set_label(&mut right)?;
            a.cmp(r15d, rounds)?;
            a.jb(again)?;
            off(a)
        });
        rig.run();
        assert_eq!(rig.get(line(2)), 0, "{}", rig.name);
        // Accessed and dirty bits were set without undoing a change.
        assert_eq!(rig.get(ENTRY) & !0x60, 0x60_0000 | (u64::from(rounds) & 1) << 12 | 7, "{}", rig.name);
    });
}

/// One CPU changes code that the other executes, and tells it by an interrupt: the other executes the new code then.
#[test]
fn code_that_another_cpu_changes_is_executed_as_changed() {
    /// `mov eax, imm32; ret`, one for each round, so that it is decoded for the first time again and again; all
    /// in memory that both write.
    const FUNCTION: u64 = 0x70_0000;
    Rig::each(2, |rig| {
        let rounds = rig.rounds(300);
        rig.handler(VECTOR, |a| a.lock().inc(qword_ptr(line(0))));
        for i in 0..u64::from(rounds) {
            rig.put(FUNCTION + 0x1000 * i, 0x0000_c300_0000_00b8);
        }
        rig.cpu(1, |a| {
            let [mut again, mut wait] = [(); 2].map(|()| a.create_label());
            apic(a, SPURIOUS, 0x1ff)?;
            a.mov(ebx, FUNCTION as u32)?;
            a.lock().inc(qword_ptr(line(60)))?;
            a.sti()?;
            a.xor(r15d, r15d)?;
            a.set_label(&mut again)?;
            a.inc(r15)?;
            a.call(rbx)?;
            a.mov(qword_ptr(line(1)), r15)?;
            // The interrupt comes when the code was changed.
            a.set_label(&mut wait)?;
            a.cmp(qword_ptr(line(0)), r15)?;
            a.jne(wait)?;
            a.call(rbx)?;
            a.mov(qword_ptr(line(2)), rax)?;
            a.mov(qword_ptr(line(3)), r15)?;
            a.add(rbx, 0x1000)?;
            a.jmp(again)
        });
        rig.cpu(0, |a| {
            let [mut again, mut wait, mut wait2, mut right] = [(); 4].map(|()| a.create_label());
            until(a, line(60), 1)?;
            apic(a, ICR + 0x10, 1 << 24)?;
            a.mov(ebx, FUNCTION as u32)?;
            a.xor(r15d, r15d)?;
            a.set_label(&mut again)?;
            a.inc(r15)?;
            // As data, before it is code.
            a.mov(dword_ptr(rbx + 0x100), r15d)?;
            a.set_label(&mut wait)?;
            a.cmp(qword_ptr(line(1)), r15)?;
            a.jne(wait)?;
            a.mov(dword_ptr(rbx + 1), r15d)?;
            apic(a, ICR, 0x4000 | VECTOR as u32)?;
            a.set_label(&mut wait2)?;
            a.cmp(qword_ptr(line(3)), r15)?;
            a.jne(wait2)?;
            a.cmp(qword_ptr(line(2)), r15)?;
            a.je(right)?;
            a.inc(qword_ptr(line(4)))?;
            a.set_label(&mut right)?;
            a.add(rbx, 0x1000)?;
            a.cmp(r15d, rounds)?;
            a.jb(again)?;
            off(a)
        });
        rig.run();
        assert_eq!(rig.get(line(4)), 0, "{}", rig.name);
    });
}

#[test]
fn a_machine_that_was_stopped_goes_on_with_all_its_cpus() {
    Rig::each(3, |rig| {
        for number in 0..3 {
            rig.cpu(number, |a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.inc(qword_ptr(line(number)))?;
                a.jmp(again)
            });
        }
        let limits =
            Limits { timeout: Some(Duration::from_millis(100)), interruptible: false, ..Limits::default() };
        let mut before = [0; 3];
        for _ in 0..3 {
            assert_eq!(rig.machine.run(&limits).unwrap(), Stop::Timeout, "{}", rig.name);
            let now = [0, 1, 2].map(|number| rig.get(line(number)));
            assert_eq!(now, [0, 1, 2].map(|number| rig.get(line(number))), "they stand");
            assert!(now.iter().zip(before).all(|(now, before)| *now > before), "{}", rig.name);
            before = now;
        }
    });
}

#[test]
fn machines_that_cannot_have_several_cpus_are_refused() {
    let image = Image::flat(vec![0xf4]).unwrap();
    for (cpus, mode) in [(0, Mode::Emu), (9, Mode::Emu), (2, Mode::Pv)] {
        let spec = MachineSpec { cpus, ..MachineSpec::new(mode) };
        let refused = Machine::build(&spec, &image, Box::new(Capture::new(4096))).unwrap_err();
        assert!(refused.to_string().contains(&format!("cannot run {cpus} CPUs")), "{refused}");
    }
}
