//! String instructions: stretches, overlap, direction, faults in the middle, device memory.
use super::*;
use crate::arch::Rflags;
use crate::arch::state::gpr::{RAX, RCX, RDI, RSI};
use iced_x86::code_asm::*;

const P: u64 = 7;

fn string(program: fn(&mut CodeAssembler), count: u64, from: u64, to: u64) -> Bench {
    let mut b = Bench::new(program);
    (b.state.gpr[RCX], b.state.gpr[RSI], b.state.gpr[RDI]) = (count, from, to);
    b
}

#[test]
fn a_copy_over_several_pages_moves_every_byte() {
    let mut b = string(|a| a.rep().movsb().unwrap(), 10_000, DATA + 3, DATA + 0x8001);
    let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    b.machine.ram().write(Gpa(DATA + 3), &bytes).unwrap();
    assert_eq!(b.step(), Outcome::Retired);
    let mut copy = vec![0; bytes.len()];
    b.machine.ram().read(Gpa(DATA + 0x8001), &mut copy).unwrap();
    assert!(copy == bytes);
    assert_eq!((b.state.gpr[RCX], b.state.rip), (0, CODE + 2));
    assert_eq!((b.state.gpr[RSI], b.state.gpr[RDI]), (DATA + 3 + 10_000, DATA + 0x8001 + 10_000));
}

#[test]
fn overlap_spreads_a_pattern_upwards_and_not_downwards() {
    let mut b = string(|a| a.rep().movsb().unwrap(), 64, DATA, DATA + 1);
    b.poke(DATA, 0xab);
    b.step();
    assert_eq!(b.peek(DATA + 56), 0xabab_abab_abab_abab);
    let mut b = string(|a| a.rep().movsb().unwrap(), 64, DATA + 63, DATA + 64);
    b.state.rflags |= Rflags::DF;
    b.poke(DATA, 0x1122_3344_5566_7788);
    b.step();
    assert_eq!(b.peek(DATA + 1), 0x1122_3344_5566_7788);
    assert_eq!(b.state.gpr[RSI], DATA - 1);
}

#[test]
fn a_copy_downwards_moves_every_element_whatever_its_place() {
    // Apart; target above the source and below it, overlapping; elements across the ends of pages.
    for (from, to) in
        [(0x11, 0x8002), (0x800, 0x1808), (0x1808, 0x800), (0x0, 0x4), (0x4, 0x0), (0x3, 0x5001)]
    {
        let mut b = string(|a| a.rep().movsq().unwrap(), 1500, DATA + from + 8 * 1499, DATA + to + 8 * 1499);
        b.state.rflags |= Rflags::DF;
        let mut memory: Vec<u8> = (0..0x10000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
        b.machine.ram().write(Gpa(DATA), &memory).unwrap();
        while b.state.rip == CODE {
            assert_eq!(b.step(), Outcome::Retired);
        }
        for i in (0..1500).rev() {
            let (from, to) = (from as usize + 8 * i, to as usize + 8 * i);
            memory.copy_within(from..from + 8, to);
        }
        let mut now = vec![0; memory.len()];
        b.machine.ram().read(Gpa(DATA), &mut now).unwrap();
        assert!(now == memory, "{from:#x} {to:#x}");
        assert_eq!((b.state.gpr[RSI], b.state.gpr[RDI]), (DATA + from - 8, DATA + to - 8));
    }
}

#[test]
fn a_fault_in_the_middle_leaves_the_registers_at_its_element() {
    let mut b = string(|a| a.rep().stosd().unwrap(), 2000, 0, WINDOW);
    b.map(0, DATA | P);
    b.state.gpr[RAX] = 0x5555_6666;
    b.faults(Vector::PageFault);
    assert_eq!(b.state.cr2, WINDOW + 0x1000);
    assert_eq!((b.state.gpr[RCX], b.state.gpr[RDI]), (2000 - 1024, WINDOW + 0x1000));
    assert_eq!(b.peek(b.state.gpr[4] + 8), CODE);
    assert_eq!(b.peek(DATA + 0xff8), 0x5555_6666_5555_6666);
    // The page comes, and the instruction goes on.
    b.map(1, (DATA + 0x1000) | P);
    b.state.rip = CODE;
    b.step();
    assert_eq!(b.state.gpr[RCX], 0);
    assert_eq!(b.peek(DATA + 4 * 1998), 0x5555_6666_5555_6666);
}

#[test]
fn masked_stores_go_where_rdi_points() {
    let mut b = string(|a| a.maskmovdqu(xmm0, xmm1).unwrap(), 0, 0, DATA);
    b.poke(DATA, 0x1111_1111_1111_1111);
    b.state.xsave.0[160..176].fill(0x22);
    b.state.xsave.0[178] = 0x80;
    assert_eq!(b.step(), Outcome::Retired);
    assert_eq!(b.peek(DATA), 0x1111_1111_1122_1111);
}

#[test]
fn compares_and_scans_stop_where_they_should() {
    let mut b = string(|a| a.repne().scasb().unwrap(), 100, 0, DATA);
    b.poke(DATA + 40, 0x2a);
    b.state.gpr[RAX] = 0x2a;
    b.step();
    assert_eq!((b.state.gpr[RCX], b.state.gpr[RDI]), (59, DATA + 41));
    assert!(b.state.rflags.contains(Rflags::ZF));
    let mut b = string(|a| a.repe().cmpsq().unwrap(), 4, DATA, DATA + 0x100);
    b.poke(DATA + 0x108, 1);
    b.step();
    assert_eq!(b.state.gpr[RCX], 2);
    assert!(b.state.rflags.contains(Rflags::CF));
    let mut b = string(|a| a.repe().cmpsb().unwrap(), 0, WINDOW, WINDOW);
    b.state.rflags |= Rflags::ZF;
    assert_eq!(b.step(), Outcome::Retired, "with a count of zero nothing is touched");
    assert!(b.state.rflags.contains(Rflags::ZF));
}

#[test]
fn ports_and_device_memory_see_each_element_once() {
    let mut b = string(|a| a.rep().outsb().unwrap(), 3, DATA, 0);
    b.poke(DATA, 0x33_2211);
    b.state.gpr[2] = 0x500;
    while b.state.rip == CODE {
        assert_eq!(b.step(), Outcome::Retired);
    }
    assert_eq!(b.machine.port.lock().unwrap().writes, [(0x500, 1, 0x11), (0x500, 1, 0x22), (0x500, 1, 0x33)]);
    let mut b = string(|a| a.rep().insw().unwrap(), 2, 0, WINDOW + 0xffe);
    b.map(0, DATA | P);
    b.machine.port.lock().unwrap().answer = 0xbeef;
    b.state.gpr[2] = 0x502;
    b.faults(Vector::PageFault);
    assert_eq!(b.machine.port.lock().unwrap().reads.len(), 1, "no read whose value could not be stored");
    let mut b =
        string(|a| a.mov(eax, dword_ptr(rdi + 2)).unwrap(), 0, 0, crate::engine::fake::FakeMachine::MMIO.0);
    b.machine.mmio.lock().unwrap().answer = 0x1234;
    b.step();
    assert_eq!(
        b.machine.mmio.lock().unwrap().reads,
        [(2, 2), (4, 2)],
        "an unaligned access in aligned pieces"
    );
    assert_eq!(b.state.gpr[RAX], 0x1234_1234);
}
