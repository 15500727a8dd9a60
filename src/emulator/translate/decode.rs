//! The instructions of one block, each with all that translating asks of it again and again.
use super::address::Address;
use super::builder::{Flags, may_cross};
use super::forms::{Form, Kind};
use super::integer::{FlagEffect, FlagUse, Source};
use super::{Limits, MANY_INSTRUCTIONS, MOST_INSTRUCTIONS, Vectors, Workshop, ablation};
use crate::arch::LONGEST_INSTRUCTION;
use crate::arch::address::PAGE_SIZE;
use crate::emulator::emit::Shape;
use crate::emulator::front;
use crate::emulator::front::features::Features;
use crate::emulator::mistake::Mistake;
use crate::emulator::mmu::Mmu;
use crate::emulator::mmu::slow::Place;
use crate::emulator::technique::Technique;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};

/// Bytes of guest code that are looked at for one block at most.
const WINDOW: usize = 1024;
/// Bytes of guest code that are looked at first: most blocks are shorter.
const FIRST: usize = 192;

/// An instruction of a block.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Decoded {
    pub instruction: Instruction,
    /// `None`: only `single` knows what to do.
    pub shape: Option<Shape>,
    pub form: Form,
    pub flags: FlagEffect,
    /// Of its memory operand, if it has one that the r/m field names and that is not cut to 32 bits.
    pub address: Option<Address>,
}

impl Decoded {
    /// Where it wants the flags to be, if it is the first in its block to care.
    pub(super) fn flags_first(&self) -> Option<Flags> {
        let Some(shape) = &self.shape else { return Some(Flags::Saved) };
        match self.form.kind {
            Kind::Nothing | Kind::Lea => None,
            _ if shape.is_memory() => Some(Flags::Saved),
            Kind::Plain | Kind::Verbatim | Kind::Accumulator | Kind::Multiply => {
                (self.flags.usage == FlagUse::Needs).then_some(Flags::Live)
            }
            Kind::OpcodeRegister | Kind::ExchangeAccumulator | Kind::Widen => None,
            Kind::Jump | Kind::JumpIf => Some(Flags::Live),
            Kind::ShiftByCl => Some(Flags::Live),
            Kind::CompareExchange => None,
            _ => Some(Flags::Saved),
        }
    }

    pub(super) fn source(&self) -> Option<Source<'_>> {
        self.shape.as_ref().map(|shape| Source {
            instruction: &self.instruction,
            shape,
            form: &self.form,
            flags: self.flags,
            address: &self.address,
        })
    }

    /// Whether it is the branch back to the start of a block at `rip`.
    pub(super) fn closes_loop(&self, rip: u64) -> bool {
        self.form.kind == Kind::JumpIf && self.instruction.near_branch_target() == rip
    }

    pub(super) fn sets_flags(&self) -> bool {
        self.flags.usage == FlagUse::Sets
    }
}

/// Decodes the block at `rip`, whose first byte lies at `place`. Gives the address behind it.
pub(super) fn decode(
    mmu: &mut Mmu,
    features: &Features,
    workshop: &mut Workshop,
    limits: Limits,
    rip: u64,
    place: Place,
) -> u64 {
    let mut window = [0; WINDOW];
    let most = WINDOW.min((4096 - rip % 4096) as usize);
    workshop.decoded.clear();
    workshop.second_page = None;
    let (mut length, mut ended) = (0, false);
    let mut next = rip;
    while !ended && length < most {
        let more = if length == 0 { most.min(FIRST) } else { most };
        let rest = Place { gpa: place.gpa.offset(length as u64), ..place };
        front::fetch(mmu, rest, &mut window[length..more]);
        length = more;
        let known = next.wrapping_sub(rip) as usize;
        ended = decode_part(features, workshop, limits, &window[known..length], next);
        next = workshop.decoded.last().map_or(rip, |last| last.instruction.next_ip());
    }
    if workshop.decoded.is_empty() {
        return decode_across(mmu, features, workshop, limits, rip, place).unwrap_or(rip);
    }
    next
}

/// As [`decode`], of the bytes of code that somebody has read: the instructions that lie in their page, or the one that
/// reaches out of it.
pub(super) fn decode_aside(
    features: &Features,
    workshop: &mut Workshop,
    limits: Limits,
    rip: u64,
    bytes: &[u8],
) -> u64 {
    let bytes = &bytes[..bytes.len().min(WINDOW)];
    let in_page = bytes.len().min((PAGE_SIZE - rip % PAGE_SIZE) as usize);
    workshop.decoded.clear();
    workshop.second_page = None;
    decode_part(features, workshop, limits, &bytes[..in_page], rip);
    if workshop.decoded.is_empty() {
        decode_part(features, workshop, limits, bytes, rip);
        workshop.decoded.truncate(1);
    }
    workshop.decoded.last().map_or(rip, |last| last.instruction.next_ip())
}

/// Decodes the one instruction at `rip` if it reaches into the next page, and that page is RAM that may be executed. Gives
/// the address behind it.
fn decode_across(
    mmu: &mut Mmu,
    features: &Features,
    workshop: &mut Workshop,
    limits: Limits,
    rip: u64,
    place: Place,
) -> Option<u64> {
    let here = (PAGE_SIZE - rip % PAGE_SIZE) as usize;
    if !may_cross(rip) {
        return None;
    }
    let next = next_page(rip);
    // In 32-bit code there is no address behind the last page.
    if limits.is_narrow() && next > u64::from(u32::MAX) {
        return None;
    }
    let second = mmu.fetch_place(next).ok().filter(|second| second.host.is_some())?;
    // More than an instruction has, so that what is none is known to be none.
    let mut window = [0; 2 * LONGEST_INSTRUCTION + 2];
    let window = &mut window[..here + LONGEST_INSTRUCTION + 1];
    front::fetch(mmu, place, &mut window[..here]);
    front::fetch(mmu, second, &mut window[here..]);
    decode_part(features, workshop, limits, window, rip);
    workshop.decoded.truncate(1);
    // What is none, or is too long, `single` knows.
    workshop.decoded.retain(|one| one.instruction.len() > here && !one.instruction.is_invalid());
    let across = workshop.decoded.first()?;
    workshop.second_page = Some(second.gpa.0);
    Some(across.instruction.next_ip())
}

/// The first address of the page after the one of `rip`.
pub(super) fn next_page(rip: u64) -> u64 {
    (rip | (PAGE_SIZE - 1)).wrapping_add(1)
}

/// Decodes on with the instruction at `rip`, whose bytes and following ones are `bytes`. Says whether the block has ended;
/// else bytes are lacking.
fn decode_part(features: &Features, workshop: &mut Workshop, limits: Limits, bytes: &[u8], rip: u64) -> bool {
    let (block, without) = (&mut workshop.decoded, workshop.without);
    let narrow = limits.is_narrow();
    let mut decoder = Decoder::with_ip(limits.code.bits(), bytes, rip, DecoderOptions::FORCE_RESERVED_NOP);
    while decoder.can_decode() {
        if block.len() >= MOST_INSTRUCTIONS {
            return true;
        }
        let at = decoder.position();
        // Filled in where it stays: a copy of what was written in small parts a moment ago is slow.
        block.push(Decoded::default());
        let Some(one) = block.last_mut() else { break };
        decoder.decode_out(&mut one.instruction);
        let instruction = &mut one.instruction;
        let left = bytes.len() - at;
        if decoder.last_error() == DecoderError::NoMoreBytes || instruction.is_invalid() && left < 16 {
            block.pop();
            return false;
        }
        if narrow {
            instruction.set_code(super::narrow::twin(instruction.code()));
        } else {
            front::drop_void_segments(instruction);
        }
        let form = workshop.forms.of(instruction, features);
        if form.offered {
            one.shape = Shape::parse(&bytes[at..], instruction.len(), narrow, |rest| {
                *form.modrm.get_or_insert_with(|| {
                    let known = decoder.get_constant_offsets(instruction);
                    rest > known.immediate_size() + known.immediate_size2() + known.displacement_size()
                })
            });
        }
        one.flags = FlagEffect::find(instruction, form);
        one.form = *form;
        let form = &mut one.form;
        let needed = if form.avx { Vectors::Avx } else { Vectors::Sse };
        if !form.offered {
            form.kind = Kind::End;
        } else if form.vector && limits.vectors < needed {
            form.kind = Kind::Execute;
            one.shape = None;
        } else if !without.is_nothing() {
            form.kind = ablation::kind(form, instruction, without);
            one.shape = one.shape.filter(|_| form.kind != Kind::Execute);
        }
        if narrow {
            match form.kind {
                Kind::System | Kind::String => {
                    form.kind = Kind::Execute;
                    one.shape = None;
                }
                Kind::SystemEnd => form.kind = Kind::End,
                _ => {}
            }
        }
        if workshop.mistake == Some(Mistake::Width)
            && instruction.mnemonic() == Mnemonic::Movzx
            && let Some(shape) = &mut one.shape
            && shape.opcode == 0xb7
        {
            shape.opcode = 0xb6;
        }
        if workshop.tsc_by_single && matches!(instruction.mnemonic(), Mnemonic::Rdtsc | Mnemonic::Rdtscp) {
            form.kind = Kind::End;
        }
        if one.shape.as_ref().is_some_and(Shape::is_memory) {
            one.address = Address::of(instruction, narrow);
            let unchecked = || super::narrow::needs_no_check(instruction, limits.ring0, limits.thread);
            // The fields behind a 16-bit address are not where they were looked for.
            if narrow && (one.address.is_none() || !unchecked()) {
                one.shape = None;
            }
        }
        let ends = match form.kind {
            Kind::End | Kind::SystemEnd | Kind::Jump | Kind::Call => true,
            Kind::JumpIndirect | Kind::CallIndirect | Kind::Ret => true,
            Kind::JumpIf => {
                let back = instruction.near_branch_target() <= instruction.ip();
                back || block.len() >= MANY_INSTRUCTIONS || without.has(Technique::Superblocks)
            }
            _ => false,
        };
        if ends {
            return true;
        }
    }
    false
}
