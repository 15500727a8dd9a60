use super::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

fn text(bytes: &[u8]) -> Vec<String> {
    let mut formatter = IntelFormatter::new();
    Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE)
        .iter()
        .map(|instruction| {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            line
        })
        .collect()
}

#[test]
fn every_addressing_form_is_what_it_says() {
    let mut asm = Assembler::default();
    for base in 0..16 {
        for disp in [0, 8, -129] {
            asm.load(Reg(9), Mem::at(Reg(base), disp));
            for index in (0..16).filter(|&i| i != 4) {
                asm.lea(Reg(15), Mem { base: Some(Reg(base)), index: Some((Reg(index), 3)), disp });
            }
        }
    }
    asm.lea(RAX, Mem { base: None, index: Some((Reg(12), 2)), disp: 64 });
    let lines = text(asm.bytes());
    assert_eq!(lines.len(), 16 * 3 * 16 + 1);
    assert!(lines.contains(&"mov r9,[r13]".to_owned()) || lines.contains(&"mov r9,[r13+0]".to_owned()));
    assert!(lines.contains(&"lea r15,[rsp+r12*8-81h]".to_owned()));
    assert_eq!(lines.last().unwrap(), "lea rax,[r12*4+40h]");
}

#[test]
fn jumps_reach_their_targets() {
    let mut asm = Assembler::default();
    asm.restart(0x1000);
    let forward = asm.jump_if(Condition::EQUAL);
    let short = asm.jump_if_rcx_zero();
    asm.jump_to(0x1000);
    asm.bind(forward);
    asm.bind_short(short);
    asm.call(0x2000);
    assert_eq!(
        text(asm.bytes()),
        ["je 100Dh", "jrcxz 100Dh", "jmp 1000h", "call 2000h"].map(|l| {
            l.replace("100Dh", "000000000000100Dh")
                .replace(" 1000h", " 0000000000001000h")
                .replace("2000h", "0000000000002000h")
        })
    );
}

#[test]
fn a_byte_of_the_context_is_loaded_whole() {
    let mut asm = Assembler::default();
    let before = asm.version(RCX);
    asm.load_byte(RCX, Gs(0x14f));
    assert_ne!(asm.version(RCX), before);
    assert_eq!(text(asm.bytes()), ["movzx ecx,byte ptr gs:[14Fh]"]);
}

#[test]
fn shapes_take_other_operands() {
    let cases: [(&[u8], &str); 5] = [
        (&[0x48, 0x01, 0xd8], "add [rcx+8],r13"),
        (&[0x66, 0x0f, 0x6f, 0xc1], "movdqa xmm13,[rcx+8]"),
        (&[0xc5, 0xf5, 0x58, 0x00], "vaddpd ymm13,ymm2,[rcx+8]"),
        (&[0xc4, 0xe2, 0xf8, 0xf2, 0xc1], "andn r13,rdx,[rcx+8]"),
        (&[0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x07], "palignr xmm13,[rcx+8],7"),
    ];
    for (bytes, expected) in cases {
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let offsets = decoder.get_constant_offsets(&instruction);
        let known = offsets.immediate_size() + offsets.displacement_size();
        let shape = Shape::parse(bytes, bytes.len(), false, |rest| rest > known).unwrap();
        let mut asm = Assembler::default();
        asm.guest(&shape, 13, Some(Mem::at(RCX, 8).into()), 2, false);
        assert_eq!(text(asm.bytes()), [expected]);
    }
}
