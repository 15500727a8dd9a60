//! A guest that stands, with interrupts off, in a loop until it is let go: its timer is armed, the interrupt of another is
//! pending, and what was typed is in the UART's FIFO. Then it takes all of it in turn and prints what it took.
use iced_x86::code_asm::*;
use trivisor::abi;
use trivisor::arch::{CpuState, Cr0, Cr4, DescriptorTable, Gpa, layout};
use trivisor::engine::Mode;
use trivisor::loader::Image;
use trivisor::machine::{ConsoleSink, Machine, MachineSpec};

/// What a person types before the guest is let go.
pub(crate) const TYPED: &[u8] = b"abcde";
/// What the guest prints: P for the PIT's interrupt, L for the local APIC's, what was typed, and that its registers are
/// as they were.
pub(crate) const PRINTS: &str = "PLabcde.";

const CODE: u64 = 0x20_0000;
const TABLES: u64 = 0x11_0000;
const GDT: u64 = 0x10_0000;
const IDT: u64 = 0x12_0000;
const STACK: u64 = 0x18_0000;
/// Set to let the guest go; the byte behind it, when it waits; the one after that, by the local APIC's handler.
const GO: u64 = 0x19_0000;
const WAITS: u64 = GO + 1;
const FIRED: u64 = GO + 2;
const NUMBER: u64 = GO + 8;

const PIC_VECTOR: u64 = 0x20;
const APIC_VECTOR: u64 = 0x40;
const MAGIC: u64 = 0x1122_3344_5566_7788;
const PI: u64 = 0x4009_21fb_5444_2d18;

/// Guest time of the local APIC's timer, in nanoseconds.
const TIMER_NANOS: u64 = 400_000_000;

struct Code {
    bytes: Vec<u8>,
    pic_handler: u64,
    apic_handler: u64,
}

fn out8(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(edx, port)?;
    a.mov(eax, value)?;
    a.out(dx, al)
}

fn apic(a: &mut CodeAssembler, offset: u64, value: u32) -> Result<(), IcedError> {
    a.mov(rax, layout::LAPIC.0 + offset)?;
    a.mov(dword_ptr(rax), value)
}

fn code() -> Result<Code, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let (mut waits, mut halts, mut idle) = (a.create_label(), a.create_label(), a.create_label());
    let (mut reads, mut all_read, mut bad) = (a.create_label(), a.create_label(), a.create_label());
    let (mut pic, mut apic_fired) = (a.create_label(), a.create_label());
    // Vector and x87 registers hold something.
    a.mov(rax, MAGIC)?;
    a.movq(xmm5, rax)?;
    a.mov(r12, rax)?;
    a.fninit()?;
    a.fldpi()?;
    // Both 8259s, with the PIT's line open.
    for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2)] {
        out8(&mut a, port, value)?;
    }
    for (port, value) in [(0x21, 1), (0xa1, 1), (0x21, 0xfe), (0xa1, 0xff)] {
        out8(&mut a, port, value)?;
    }
    // FIFOs on and empty, trigger level 14.
    out8(&mut a, 0x3fa, 0xc7)?;
    // The local APIC lets the 8259s through; its timer counts once.
    apic(&mut a, 0xf0, 0x1ff)?;
    apic(&mut a, 0x350, 0x700)?;
    apic(&mut a, 0x320, APIC_VECTOR as u32)?;
    apic(&mut a, 0x3e0, 0xb)?;
    apic(&mut a, 0x380, (TIMER_NANOS * layout::LAPIC_HZ / 1_000_000_000) as u32)?;
    // The PIT's counter 0 comes to its end after 5 ms.
    out8(&mut a, 0x43, 0x30)?;
    out8(&mut a, 0x40, 0x4e)?;
    out8(&mut a, 0x40, 0x17)?;
    a.mov(rbx, WAITS)?;
    a.mov(byte_ptr(rbx), 1)?;
    a.mov(rbx, GO)?;
    a.set_label(&mut waits)?;
    a.pause()?;
    a.cmp(byte_ptr(rbx), 0)?;
    a.je(waits)?;
    a.sti()?;
    a.nop()?;
    a.mov(rbx, FIRED)?;
    a.set_label(&mut idle)?;
    a.cli()?;
    a.cmp(byte_ptr(rbx), 0)?;
    a.jne(halts)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(idle)?;
    a.set_label(&mut halts)?;
    a.nop()?;
    a.set_label(&mut reads)?;
    a.mov(edx, 0x3fd)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jz(all_read)?;
    a.mov(edx, 0x3f8)?;
    a.in_(al, dx)?;
    a.out(dx, al)?;
    a.jmp(reads)?;
    a.set_label(&mut all_read)?;
    a.movq(rax, xmm5)?;
    a.cmp(rax, r12)?;
    a.jne(bad)?;
    a.mov(rcx, MAGIC)?;
    a.cmp(rax, rcx)?;
    a.jne(bad)?;
    a.mov(rbx, NUMBER)?;
    a.fstp(qword_ptr(rbx))?;
    a.mov(rcx, PI)?;
    a.cmp(qword_ptr(rbx), rcx)?;
    a.jne(bad)?;
    out8(&mut a, 0x3f8, u32::from(b'.'))?;
    a.set_label(&mut bad)?;
    out8(&mut a, 0xf4, abi::EXIT_OK.into())?;
    a.hlt()?;
    for (label, letter, ends) in [(&mut pic, b'P', false), (&mut apic_fired, b'L', true)] {
        a.set_label(label)?;
        a.push(rax)?;
        a.push(rdx)?;
        out8(&mut a, 0x3f8, letter.into())?;
        if ends {
            a.mov(rax, FIRED)?;
            a.mov(byte_ptr(rax), 1)?;
            apic(&mut a, 0xb0, 0)?;
        } else {
            out8(&mut a, 0x20, 0x20)?;
        }
        a.pop(rdx)?;
        a.pop(rax)?;
        a.iretq()?;
    }
    let assembled =
        a.assemble_options(CODE, iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
    let (pic_handler, apic_handler) = (assembled.label_ip(&pic)?, assembled.label_ip(&apic_fired)?);
    Ok(Code { bytes: assembled.inner.code_buffer, pic_handler, apic_handler })
}

/// The machine for it, of 32 MiB.
pub(crate) fn spec(mode: Mode) -> MachineSpec {
    let mut spec = MachineSpec::new(mode);
    spec.memory = 32 << 20;
    spec
}

/// The guest before its first instruction.
pub(crate) fn machine(mode: Mode, console: Box<dyn ConsoleSink>) -> Machine {
    machine_of(&spec(mode), console)
}

/// The same on a machine of this kind.
pub(crate) fn machine_of(spec: &MachineSpec, console: Box<dyn ConsoleSink>) -> Machine {
    let code = code().unwrap();
    let mut machine = Machine::build(spec, &Image::flat(code.bytes).unwrap(), console).unwrap();
    let put = |at: u64, value: u64| machine.platform().ram().write(Gpa(at), &value.to_le_bytes()).unwrap();
    // The first and the fourth GiB, as they are, in pages of 2 MiB.
    put(TABLES, TABLES + 0x1003);
    put(TABLES + 0x1000, TABLES + 0x2003);
    put(TABLES + 0x1018, TABLES + 0x3003);
    for i in 0..512 {
        put(TABLES + 0x2000 + 8 * i, i << 21 | 0x83);
        put(TABLES + 0x3000 + 8 * i, 3 << 30 | i << 21 | 0x83);
    }
    put(GDT + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT + 0x18, 0x00cf_9300_0000_ffff);
    for (vector, handler) in [(PIC_VECTOR, code.pic_handler), (APIC_VECTOR, code.apic_handler)] {
        put(IDT + 16 * vector, handler & 0xffff | 0x10 << 16 | 0x8e << 40 | (handler >> 16) << 48);
        put(IDT + 16 * vector + 8, handler >> 32);
    }
    let mut state = CpuState::linux64_entry(CODE, 0, TABLES);
    state.gpr[4] = STACK;
    state.cr0 |= Cr0::NE | Cr0::MP;
    state.cr4 |= Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    state.gdtr = DescriptorTable { base: GDT, limit: 0x1f };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    machine.set_state(&state).unwrap();
    machine
}

fn byte(machine: &Machine, at: u64) -> u8 {
    let mut byte = [0];
    machine.platform().ram().read(Gpa(at), &mut byte).unwrap();
    byte[0]
}

/// Whether it waits to be let go.
pub(crate) fn waits(machine: &Machine) -> bool {
    byte(machine, WAITS) != 0
}

/// Lets it go.
pub(crate) fn let_go(machine: &Machine) {
    machine.platform().ram().write(Gpa(GO), &[1]).unwrap();
}
