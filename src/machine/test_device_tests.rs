//! A multiboot guest that uses the test device: the vectors that a BIOS gives the 8259s, the register, the memory.
use super::{Capture, Limits, Machine, MachineSpec, Stop};
use crate::arch::layout;
use crate::emulator::EmuEngine;
use crate::engine::Mode;
use crate::loader::Image;
use iced_x86::code_asm::*;

const START: u32 = 0x10_0000;
const ENTRY: u32 = START + 0x40;
const IDT: u32 = 0x20_0000;
const GDT: u32 = 0x20_1000;

/// A raw multiboot image of this 32-bit code.
fn image(program: impl FnOnce(&mut CodeAssembler)) -> Image {
    let mut a = CodeAssembler::new(32).unwrap();
    program(&mut a);
    let code = a.assemble(ENTRY.into()).unwrap();
    let (magic, flags) = (0x1bad_b002_u32, 1 << 16);
    let end = ENTRY + code.len() as u32;
    let header = [magic, flags, 0_u32.wrapping_sub(magic + flags), START, START, end, end, ENTRY];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.resize((ENTRY - START) as usize, 0);
    bytes.extend(code);
    Image::parse(&bytes).unwrap()
}

#[test]
fn an_interrupt_in_real_mode_ends_and_comes_again() {
    use super::BOOT_CPU;
    use crate::arch::{Cr0, Gpa, Rflags, SegmentRegister};
    let mut spec = MachineSpec::new(Mode::Emu);
    (spec.memory, spec.test_device) = (4 << 20, true);
    let mut machine = Machine::build(&spec, &image(|a| a.hlt().unwrap()), Box::new(Capture::new(0))).unwrap();
    let mut a = CodeAssembler::new(16).unwrap();
    for _ in 0..2 {
        a.mov(dx, 0x200e).unwrap();
        a.mov(al, 1).unwrap();
        a.out(dx, al).unwrap();
        a.dec(al).unwrap();
        a.out(dx, al).unwrap();
        a.sti().unwrap();
        a.hlt().unwrap();
        a.cli().unwrap();
    }
    a.int(0x10).unwrap();
    a.mov(al, 0x44).unwrap();
    end(&mut a);
    machine.platform().ram().write(Gpa(0x7c00), &a.assemble(0x7c00).unwrap()).unwrap();
    let mut state = machine.state().unwrap();
    state.cr0.remove(Cr0::PE | Cr0::PG);
    state.rflags = Rflags::FIXED;
    for (register, kind) in
        [(SegmentRegister::Cs, 0x9b), (SegmentRegister::Ss, 0x93), (SegmentRegister::Ds, 0x93)]
    {
        let segment = state.segment_mut(register);
        (segment.selector, segment.base, segment.limit, segment.attributes) = (0, 0, 0xffff, kind);
    }
    state.idtr.base = 0;
    state.idtr.limit = 0x3ff;
    (state.rip, state.gpr[4]) = (0x7c00, 0x7000);
    machine.set_state(&state).unwrap();
    let limits = Limits { timeout: Some(std::time::Duration::from_secs(20)), ..Limits::default() };
    assert_eq!(machine.run(&limits).unwrap(), Stop::PowerOff(0x44 << 1 | 1));
    let entered = machine.platform().counters(BOOT_CPU).get(crate::engine::Cause::Interrupt);
    assert_eq!(entered, 2);
}

/// Runs it with and without the device; the status that it ends with.
fn ends(engine: EmuEngine, test_device: bool, program: impl FnOnce(&mut CodeAssembler)) -> Stop {
    let mut spec = MachineSpec::new(Mode::Emu);
    (spec.memory, spec.emulator, spec.test_device) = (4 << 20, engine, test_device);
    let mut machine = Machine::build(&spec, &image(program), Box::new(Capture::new(0))).unwrap();
    let limits = Limits { timeout: Some(std::time::Duration::from_secs(20)), ..Limits::default() };
    machine.run(&limits).unwrap()
}

/// Ends the run with the status in AL.
fn end(a: &mut CodeAssembler) {
    a.out(i32::from(layout::DEBUG_EXIT.start().0), al).unwrap();
}

/// A short jump over the handler, which begins behind it.
const HANDLER: u32 = ENTRY + 2;

/// Sets up a GDT with a flat code segment, selector 8, and an IDT whose gate of this vector leads to the handler.
fn set_tables(a: &mut CodeAssembler, vector: u32) {
    let gate = IDT + 8 * vector;
    for (at, word) in [
        (GDT + 8, 0xffff),
        (GDT + 12, 0x00cf_9b00),
        (gate, 8 << 16 | HANDLER & 0xffff),
        (gate + 4, HANDLER & 0xffff_0000 | 0x8e00),
    ] {
        a.mov(dword_ptr(at), word).unwrap();
    }
    for (at, table, limit) in [(IDT - 8, IDT, 0x7ff_u32), (IDT - 16, GDT, 0xf)] {
        a.mov(word_ptr(at), limit).unwrap();
        a.mov(dword_ptr(at + 2), table).unwrap();
    }
    a.lidt(ptr(IDT - 8)).unwrap();
    a.lgdt(ptr(IDT - 16)).unwrap();
}

#[test]
fn a_line_that_the_guest_raises_comes_by_the_vector_of_a_bios() {
    for engine in [EmuEngine::Single, EmuEngine::Translator] {
        for (line, vector) in [(14_u32, 0x76_u32), (5, 0xd)] {
            let stop = ends(engine, true, |a| {
                let mut start = a.create_label();
                a.jmp(start).unwrap();
                a.inc(al).unwrap();
                end(a);
                a.set_label(&mut start).unwrap();
                a.mov(esp, IDT - 0x1000).unwrap();
                set_tables(a, vector);
                a.mov(edx, 0x2000 + line).unwrap();
                a.mov(eax, 1).unwrap();
                a.out(dx, eax).unwrap();
                a.xor(eax, eax).unwrap();
                a.out(dx, al).unwrap();
                a.mov(eax, 0x55).unwrap();
                a.sti().unwrap();
                a.hlt().unwrap();
                a.mov(al, 0x66).unwrap();
                end(a);
            });
            assert_eq!(stop, Stop::PowerOff(0x56 << 1 | 1), "{engine:?}, line {line}");
        }
    }
}

#[test]
fn register_and_memory_are_there_where_they_are_asked_for() {
    for engine in [EmuEngine::Single, EmuEngine::Translator] {
        for (test_device, status) in [(true, 0x22 + 0x33), (false, 0xfe)] {
            let stop = ends(engine, test_device, |a| {
                a.mov(eax, 0x2211).unwrap();
                a.out(0xe0, ax).unwrap();
                a.mov(byte_ptr(layout::TEST_MEMORY.0 as u32 + 5), 0x33).unwrap();
                // The page that the code is in.
                a.mov(eax, START).unwrap();
                a.out(0xe4, eax).unwrap();
                a.in_(al, 0xe1).unwrap();
                a.add(al, byte_ptr(layout::TEST_MEMORY.0 as u32 + 5)).unwrap();
                end(a);
            });
            assert_eq!(stop, Stop::PowerOff(status << 1 | 1), "{engine:?}");
        }
    }
}
