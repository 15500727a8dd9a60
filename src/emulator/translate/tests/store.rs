//! Code memory: more distinct code than fits, and no mapping that is writable and executable.
//!
//! The full size: `cargo test --release --lib -- --ignored two_hundred_megabytes`.
use super::*;
use crate::arch::state::gpr::{RAX, RCX};
use crate::emulator::code::CAPACITY;
use crate::emulator::single::Ended;
use crate::emulator::translate::session::Translator;
use iced_x86::code_asm::*;
use std::sync::Arc;

/// Where the guest writes functions: 256 pages, one after the other, and again.
const AREA: u64 = 0x10_0000;
const PAGES: u64 = 256;
/// Pairs of `add eax, imm32; rol eax, 5` in a function.
const PAIRS: u64 = 510;

/// For RCX functions: writes one, each with other numbers, and calls it.
fn generator(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut function, mut pair) = (a.create_label(), a.create_label());
    a.xor(eax, eax)?;
    a.mov(rbx, 0x0001_0203_0405_0607_u64)?;
    a.xor(r9, r9)?;
    a.set_label(&mut function)?;
    a.mov(r10, r9)?;
    a.and(r10, PAGES as i32 - 1)?;
    a.shl(r10, 12)?;
    a.add(r10, AREA as i32)?;
    a.mov(rdi, r10)?;
    a.mov(edx, PAIRS as u32)?;
    a.set_label(&mut pair)?;
    a.mov(r8, 0x9e37_79b9_7f4a_7c15_u64)?;
    a.imul_2(rbx, r8)?;
    a.inc(rbx)?;
    a.mov(r11, rbx)?;
    a.shr(r11, 32)?;
    // 05 imm32, C1 C0 05
    a.shl(r11, 8)?;
    a.or(r11, 5)?;
    a.mov(r8, 0x05c0_c100_0000_0000_u64)?;
    a.or(r11, r8)?;
    a.mov(qword_ptr(rdi), r11)?;
    a.add(rdi, 8)?;
    a.dec(edx)?;
    a.jnz(pair)?;
    a.mov(byte_ptr(rdi), 0xc3)?;
    a.call(r10)?;
    a.inc(r9)?;
    a.dec(rcx)?;
    a.jnz(function)?;
    a.hlt()
}

fn expected(functions: u64) -> u32 {
    let (mut value, mut random) = (0_u32, 0x0001_0203_0405_0607_u64);
    for _ in 0..functions * PAIRS {
        random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        value = value.wrapping_add((random >> 32) as u32).rotate_left(5);
    }
    value
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Runs that many functions through `capacity` bytes of code memory.
fn distinct_code(functions: u64, capacity: usize) -> Translator {
    let mut b = Bench::new(|a| generator(a).unwrap());
    b.state.gpr[RCX] = functions;
    let before = resident();
    let mut translator = Translator::with_capacity(CPU, Arc::clone(b.machine.ram()), capacity);
    loop {
        let ended = translator.run(&mut b.state, &b.machine.platform).unwrap();
        if ended != Ended::Attention {
            assert_eq!(ended, Ended::Halted);
            break;
        }
        b.machine.platform.attend(CPU);
    }
    assert_eq!(b.state.gpr[RAX] as u32, expected(functions));
    let store = translator.store().unwrap();
    let (size, blocks, sites, links) = store.sizes();
    let grown = resident().saturating_sub(before);
    println!(
        "{} MiB of code, {} flushes, {grown} bytes more resident, {blocks} blocks, {sites} sites, {links} links",
        (functions * PAIRS * 8) >> 20,
        store.flushes
    );
    assert_eq!(size, capacity);
    assert!(blocks.max(sites).max(links) < capacity / 16, "what is kept beside the code is bounded by it");
    translator
}

#[test]
fn more_code_than_fits_runs_right_in_bounded_memory() {
    let translator = distinct_code(1000, 512 << 10);
    assert!(translator.store().unwrap().flushes > 0);
    let translator = distinct_code(300, CAPACITY);
    assert_eq!(translator.store().unwrap().flushes, 0);
}

#[test]
#[ignore = "takes a minute; the head of the file has the command"]
fn two_hundred_megabytes_of_code_run_right_in_bounded_memory() {
    let before = resident();
    let translator = distinct_code((200 << 20) / (PAIRS * 8) + 1, CAPACITY);
    assert!(translator.store().unwrap().flushes > 0);
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 * CAPACITY as u64, "{grown} bytes more resident");
}

#[test]
fn no_mapping_of_code_is_writable_and_executable() {
    let _translator = distinct_code(3, CAPACITY);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rights: Vec<&str> = maps.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert!(rights.iter().all(|r| !(r.contains('w') && r.contains('x'))), "{maps}");
    let ours: Vec<&str> = maps.lines().filter(|line| line.contains("trivisor-code")).collect();
    assert!(ours.iter().any(|line| line.contains(" r-x")), "{ours:?}");
    assert!(ours.iter().any(|line| line.contains(" rw-")), "{ours:?}");
}
