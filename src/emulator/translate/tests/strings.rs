//! REP MOVS and REP STOS, which run natively where windows cover all that they touch.
use super::*;
use crate::arch::Vector;
use crate::emulator::translate::string::repeated;
use iced_x86::code_asm::*;

/// Where a page that stands alone ends.
const END: u64 = WINDOW + 0x1000;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const FORMS: &[(Emit, u64)] = &[
    (|a| a.rep().movsb(), 1),
    (|a| a.rep().movsw(), 2),
    (|a| a.rep().movsd(), 4),
    (|a| a.rep().movsq(), 8),
    (|a| a.rep().stosb(), 1),
    (|a| a.rep().stosw(), 2),
    (|a| a.rep().stosd(), 4),
    (|a| a.rep().stosq(), 8),
];

/// The instruction often enough for windows to be moved to where it works; flags live across it.
fn often(
    a: &mut CodeAssembler,
    emit: Emit,
    [from, to, count]: [u64; 3],
    down: bool,
) -> Result<(), IcedError> {
    let (mut again, mut fill) = (a.create_label(), a.create_label());
    // Each byte of the source differs from its neighbours.
    a.mov(rdi, DATA)?;
    a.mov(ecx, 0x3000)?;
    a.set_label(&mut fill)?;
    a.mov(eax, edi)?;
    a.imul_3(eax, eax, 0x9e37)?;
    a.shr(eax, 7)?;
    a.mov(byte_ptr(rdi), al)?;
    a.inc(rdi)?;
    a.dec(ecx)?;
    a.jnz(fill)?;
    if down {
        a.std()?;
    }
    a.mov(ebp, 150)?;
    a.set_label(&mut again)?;
    a.mov(rsi, from)?;
    a.mov(rdi, to)?;
    a.mov(rcx, count)?;
    a.mov(rax, 0x0123_4567_89ab_cdef_u64)?;
    a.cmp(ebp, 70)?;
    emit(a)?;
    a.adc(r8, 0)?;
    a.dec(ebp)?;
    a.jnz(again)?;
    a.cld()?;
    a.hlt()
}

fn pair(emit: Emit, places: [u64; 3], down: bool) -> Pair {
    Pair::new(|a| often(a, emit, places, down).unwrap()).set_up(|b| b.map(0, (DATA + 0x8000) | 0x67))
}

#[test]
fn repetitions_do_what_the_interpreter_does() {
    let places: &[[u64; 3]] = &[
        [DATA, DATA + 0x1000, 0x200],
        // Overlapping, either way, and by less than an element.
        [DATA, DATA + 3, 0x100],
        [DATA + 3, DATA, 0x100],
        [DATA + 8, DATA + 8, 0x40],
        [DATA, DATA + 0x1801, 0],
        [DATA + 0xff9, DATA + 0x2005, 1],
        // To the very end of a page, or beyond.
        [DATA, END - 0x800, 0x100],
        [END - 0x800, DATA, 0x100],
        // A source and a target that are not there.
        [1 << 63, DATA, 4],
        [DATA, 1 << 46, 4],
        [DATA, 1 << 46, 0],
    ];
    for (form, (emit, bytes)) in FORMS.iter().enumerate() {
        for (place, &[from, to, count]) in places.iter().enumerate() {
            for down in [false, true] {
                println!("form {form} of {bytes} bytes, place {place}, down: {down}");
                let b = pair(*emit, [from, to, count], down).run();
                assert_eq!(b.state.gpr[1] != 0, b.state.rip < CODE, "a count is left after a fault only");
            }
        }
    }
}

#[test]
fn a_repetition_that_reaches_beyond_the_mapped_memory_stops_at_the_element_that_faults() {
    for (emit, bytes) in FORMS {
        let b = pair(*emit, [DATA, END - 8 * bytes, 12], false).run();
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::PageFault as u64 + 1);
        assert_eq!((b.state.gpr[1], b.state.gpr[7]), (4, END));
    }
}

#[test]
fn code_that_a_repetition_writes_is_executed_as_written() {
    // The loop copies `mov ebx, 1` or `mov ebx, 2` over its own start.
    fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
        let (mut again, mut patched, mut one) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ebp, 200)?;
        a.set_label(&mut again)?;
        a.mov(eax, ebp)?;
        a.and(eax, 1)?;
        a.lea(rsi, qword_ptr(one))?;
        a.lea(rax, qword_ptr(rax + rax * 4))?;
        a.add(rsi, rax)?;
        a.lea(rdi, qword_ptr(patched))?;
        a.mov(ecx, 5)?;
        a.rep().movsb()?;
        a.set_label(&mut patched)?;
        a.mov(ebx, 0x1234)?;
        a.add(r8, rbx)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.hlt()?;
        a.set_label(&mut one)?;
        a.mov(ebx, 1)?;
        a.mov(ebx, 2)
    }
    let b = Pair::new(|a| program(a).unwrap()).run();
    assert_eq!(b.state.gpr[8], 300);
}

#[test]
fn only_plain_repetitions_upwards_with_whole_addresses_are_taken() {
    let parse = |bytes: &[u8]| {
        let instruction = iced_x86::Decoder::new(64, bytes, iced_x86::DecoderOptions::NONE).decode();
        repeated(&instruction)
    };
    assert_eq!(parse(&[0xf3, 0xa4]), Some((0, true)));
    assert_eq!(parse(&[0xf3, 0x48, 0xab]), Some((3, false)));
    assert_eq!(parse(&[0xa4]), None, "not repeated");
    assert_eq!(parse(&[0x67, 0xf3, 0xa4]), None, "addresses of 32 bits");
    assert_eq!(parse(&[0x64, 0xf3, 0xa4]), None, "FS");
    assert_eq!(parse(&[0xf3, 0xa6]), None, "CMPS");
}
