//! Fetch and decode: the bytes at RIP, through the guest's MMU, become a [`Block`] of prepared operations.
//!
//! A block lies in one page. Only an instruction that itself crosses into the next page makes a block of two pages,
//! alone; such a block is entered only after the second page was translated anew. Code is marked in RAM's code map
//! before its bytes are read, so that a write is either seen or logged. Code outside RAM is decoded each time.
pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod encoding;
pub(crate) mod features;

use super::mmu::slow::Place;
use super::mmu::{Fault, Mmu};
use super::single::{lower, op::Op};
use crate::arch::address::PAGE_SIZE;
use crate::arch::{Exception, LONGEST_INSTRUCTION, Width};
use crate::engine::{Account, Cause};
use block::{Block, CodeMode};
use cache::CodeCache;
use features::Features;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Register};
use std::cell::Cell;

/// Instructions in a block at most.
const MOST_OPS: usize = 64;
/// Bytes that are fetched for one block at most.
const WINDOW: usize = 320;

/// A block for RIP.
pub(crate) enum Found {
    /// It is kept under this number.
    Kept(u32),
    /// It lies outside RAM and is used once.
    Once(Box<Block>),
}

/// The block at `rip`, decoded now if need be.
pub(crate) fn find(
    cache: &mut CodeCache,
    mmu: &mut Mmu,
    features: &Features,
    mode: CodeMode,
    rip: u64,
) -> Result<Found, Fault> {
    let start = start(cache, mmu, mode, rip)?;
    let place = mmu.fetch_place(start.linear)?;
    let key = mode.key(rip);
    if place.host.is_some()
        && let Some(number) = cache.find(place.gpa.0, key)
    {
        let second = cache.get(number).and_then(|block| block.second_page);
        if second.is_none() {
            return Ok(Found::Kept(number));
        }
        let next = next_page(mmu, start.linear);
        if second == Some(mmu.fetch_place(next)?.gpa.0) {
            return Ok(Found::Kept(number));
        }
    }
    let _decodes = mmu.platform.counters(mmu.vcpu).ledger().charge(Account::Translate);
    let block = decode(mmu, features, mode, &start, place)?;
    let in_ram = place.host.is_some()
        && block.second_page.is_none_or(|page| mmu.ram.offset(crate::arch::Gpa(page), PAGE_SIZE).is_some());
    mmu.platform.counters(mmu.vcpu).add(Cause::Translate, u64::from(block.count));
    Ok(if in_ram { Found::Kept(cache.insert(block)) } else { Found::Once(Box::new(block)) })
}

/// Where a block begins.
struct Start {
    rip: u64,
    linear: u64,
    /// Bytes before the limit of CS.
    within: u64,
}

/// Where the block at `rip` begins; #GP(0) beyond the limit of CS.
fn start(cache: &CodeCache, mmu: &mut Mmu, mode: CodeMode, rip: u64) -> Result<Start, Fault> {
    if mode.bits() == 64 {
        return Ok(Start { rip, linear: rip, within: u64::MAX });
    }
    let space = cache.space(mode);
    match space.bytes_from(rip) {
        0 => Err(mmu.raise(Exception::GP0)),
        within => Ok(Start { rip, linear: space.linear(rip), within }),
    }
}

fn next_page(mmu: &Mmu, at: u64) -> u64 {
    let next = (at & !(PAGE_SIZE - 1)).wrapping_add(PAGE_SIZE);
    if mmu.mode.efer.contains(crate::arch::Efer::LMA) { next } else { next & 0xffff_ffff }
}

/// Marks code at `place` and copies its bytes.
pub(crate) fn fetch(mmu: &mut Mmu, place: Place, into: &mut [u8]) {
    if place.host.is_some()
        && let Some(offset) = mmu.ram.offset(place.gpa, into.len() as u64)
    {
        if mmu.ram.mark_code(offset, into.len() as u64, mmu.watcher) {
            mmu.tlb.protect(place.gpa.page().0);
        }
        if mmu.ram.read(place.gpa, into).is_ok() {
            return;
        }
    }
    for (i, byte) in into.iter_mut().enumerate() {
        let at = place.gpa.offset(i as u64);
        *byte = mmu.platform.mmio_read(mmu.vcpu, at, Width::B1) as u8;
    }
}

fn decode(
    mmu: &mut Mmu,
    features: &Features,
    mode: CodeMode,
    start: &Start,
    place: Place,
) -> Result<Block, Fault> {
    let rip = start.rip;
    let within = start.within.min((WINDOW + LONGEST_INSTRUCTION) as u64) as usize;
    let in_page = (PAGE_SIZE - start.linear % PAGE_SIZE) as usize;
    let most = match (place.host, mode.is_single()) {
        (Some(_), false) => WINDOW,
        _ => LONGEST_INSTRUCTION,
    };
    let mut window = [0; WINDOW + LONGEST_INSTRUCTION];
    let length = in_page.min(most).min(within);
    fetch(mmu, place, &mut window[..length]);

    let mut ops = Vec::with_capacity(16);
    let mut at = 0;
    let mut next = rip;
    while at < length && ops.len() < MOST_OPS {
        let (instruction, complete) = decode_one(&window[at..length], mode, next);
        if !complete && length - at < LONGEST_INSTRUCTION {
            // Cut off: by the page's end, or by the window's, after which the next block begins.
            break;
        }
        let lowered = lower::lower(&instruction, features, mode, rip, complete);
        ops.push(lowered.op);
        at += instruction.len().max(1);
        next = instruction.next_ip();
        if lowered.ends || mode.is_single() {
            return Ok(finish(ops, rip, place, None, mode, (!lowered.branches).then_some(next)));
        }
    }
    if !ops.is_empty() {
        return Ok(finish(ops, rip, place, None, mode, Some(next)));
    }

    // The first instruction does not fit: it crosses the limit of CS, or into the next page.
    if within <= in_page {
        return Err(mmu.raise(Exception::GP0));
    }
    let following = next_page(mmu, start.linear);
    let second = mmu.fetch_place(following)?;
    let end = (length + LONGEST_INSTRUCTION).min(within);
    fetch(mmu, second, &mut window[length..end]);
    let (instruction, complete) = decode_one(&window[..end], mode, rip);
    if !complete && end < LONGEST_INSTRUCTION {
        return Err(mmu.raise(Exception::GP0));
    }
    let lowered = lower::lower(&instruction, features, mode, rip, complete);
    let after = (!lowered.branches).then_some(instruction.next_ip());
    Ok(finish(vec![lowered.op], rip, place, Some(second.gpa.page().0), mode, after))
}

/// Decodes one instruction; false if the bytes end before it does, or it is longer than an instruction can be.
pub(super) fn decode_one(bytes: &[u8], mode: CodeMode, rip: u64) -> (Instruction, bool) {
    let bytes = &bytes[..bytes.len().min(LONGEST_INSTRUCTION)];
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::FORCE_RESERVED_NOP);
    let mut instruction = decoder.decode();
    if mode.bits() == 64 {
        drop_void_segments(&mut instruction);
    }
    let cut = decoder.last_error() == DecoderError::NoMoreBytes
        || instruction.is_invalid() && bytes.len() == LONGEST_INSTRUCTION && is_too_long(bytes, mode);
    (instruction, !cut)
}

/// In 64-bit code some prefixes select nothing: the address keeps its own segment (SDM vol. 1, 3.3.4).
pub(crate) fn drop_void_segments(instruction: &mut Instruction) {
    if matches!(instruction.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS) {
        instruction.set_segment_prefix(Register::None);
    }
}

/// Whether 15 bytes that do not decode are the beginning of something longer: prefixes, and what would be valid without
/// some of them.
fn is_too_long(bytes: &[u8], mode: CodeMode) -> bool {
    let is_prefix = |b: u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = bytes.iter().take_while(|&&b| is_prefix(b)).count();
    let mut rest = [0; 2 * LONGEST_INSTRUCTION];
    rest[..bytes.len() - prefixes].copy_from_slice(&bytes[prefixes..]);
    let mut decoder = Decoder::new(mode.bits(), &rest, DecoderOptions::FORCE_RESERVED_NOP);
    let instruction = decoder.decode();
    prefixes == bytes.len() || !instruction.is_invalid() && prefixes + instruction.len() > LONGEST_INSTRUCTION
}

fn finish(
    mut ops: Vec<Op>,
    rip: u64,
    place: Place,
    second_page: Option<u64>,
    mode: CodeMode,
    falls_to: Option<u64>,
) -> Block {
    let count = ops.len() as u32;
    if let Some(next) = falls_to {
        ops.push(lower::fall_through(next, rip));
    }
    Block {
        rip,
        gpa: place.gpa.0,
        second_page,
        mode,
        ops: ops.into_boxed_slice(),
        count,
        links: [const { Cell::new(block::Link { key: 0, generation: 0, block: 0 }) }; 2],
    }
}

/// What an instruction that does not end within 15 bytes raises.
pub(crate) const TOO_LONG: Exception = Exception::GP0;
