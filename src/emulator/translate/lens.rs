//! What the translator makes of one instruction, for people: a block that begins with it is translated aside, and its parts
//! are told apart. Nothing of this is executed.
use super::decode::decode_aside;
use super::marks::Marks;
use super::{Limits, Workshop, make, narrow};
use crate::arch::state::gpr;
use crate::arch::{CpuState, SegmentRegister};
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::{Callees, Stubs};
use crate::emulator::code::{CAPACITY, CodeStore};
use crate::emulator::emit::Assembler;
use crate::emulator::front::features::Features;
use crate::emulator::mmu::window::{CLASSES, SPANS, Window};
use crate::emulator::single::cx::{FS_BASE, GS_BASE};
use crate::engine::{EngineError, HostPiece, Part, Translated, Translation};
use std::mem::offset_of;

extern "sysv64" fn no_answer(_: *mut Context, _: u32) -> usize {
    0
}

extern "sysv64" fn no_access(_: *mut Context, _: u32, _: u32) -> u32 {
    0
}

/// Translates the block that begins at the instruction pointer `rip` of `state`'s code, whose bytes and some following
/// ones are `bytes`.
///
/// # Errors
/// When the host refuses executable memory.
pub(crate) fn translation(
    state: &CpuState,
    features: &Features,
    avx: bool,
    rip: u64,
    bytes: &[u8],
) -> Result<Translation, EngineError> {
    if !narrow::is_translatable(state) {
        return Ok(Translation::Interpreted("16-bit code, and 32-bit code whose segments are not flat"));
    }
    let host = |source| EngineError::Host { what: "cannot map memory for translated code", source };
    let callees = Callees { answer: no_answer, access_port: no_access };
    let mut store = CodeStore::new(&mut Assembler::default(), CAPACITY / 64, avx, callees).map_err(host)?;
    let mut workshop = Workshop { marks: Some(Marks::default()), ..Workshop::default() };
    let limits = Limits::of(state, true);
    let next = decode_aside(features, &mut workshop, limits, rip, bytes);
    let block = workshop.decoded.len();
    let mut regs = [0; 32];
    regs[..16].copy_from_slice(&state.gpr);
    regs[usize::from(FS_BASE)] = state.segment(SegmentRegister::Fs).base;
    regs[usize::from(GS_BASE)] = state.segment(SegmentRegister::Gs).base;
    let base = store.here() as u64;
    if block == 0 || make(&regs, &mut store, &mut workshop, limits, (rip, 0), next).is_none() {
        return Ok(Translation::Interpreted("these bytes are no whole instruction"));
    }
    let code = workshop.asm.bytes();
    let marks = workshop.marks.take().unwrap_or_default();
    let mut pieces: Vec<HostPiece> = Vec::new();
    for (mark, end) in marks.parts(code.len()) {
        let own = match mark.index {
            Some(index) => index == 0,
            // What ends the block is this instruction's if there is no other.
            None => mark.part != Part::Leave || block == 1,
        };
        let piece = &code[mark.at..end];
        match pieces.last_mut().filter(|last| {
            last.part == mark.part && last.at as usize + last.code.len() == mark.at && mark.part.is_on_path()
        }) {
            _ if !own => {}
            Some(last) => last.code.extend_from_slice(piece),
            None => {
                pieces.push(HostPiece { part: mark.part, at: mark.at as u64, code: piece.to_vec() });
            }
        }
    }
    let stubs = names_of(store.stubs()).map(|(at, name)| ((at as u64).wrapping_sub(base), name)).collect();
    Ok(Translation::Code(Translated { block, size: code.len(), pieces, stubs, fields: fields() }))
}

fn names_of(stubs: Stubs) -> impl Iterator<Item = (usize, &'static str)> {
    stubs
        .named()
        .into_iter()
        .chain(stubs.refill.into_iter().flatten().flatten().map(|at| (at, "refill_window")))
}

/// What translated code finds by GS.
fn fields() -> Vec<(u64, &'static str)> {
    let mut list = Vec::new();
    let mut add = |offset: i32, name| list.push((offset as u64, name));
    for (number, name) in (0..).zip(gpr::NAMES) {
        add(Context::register(number), name);
    }
    add(Context::register(FS_BASE), "fs_base");
    add(Context::register(GS_BASE), "gs_base");
    for (offset, name) in [
        (Context::FLAGS, "flags"),
        (Context::VECTOR, "vectors_loaded"),
        (Context::RIP, "rip"),
        (Context::TLB, "soft_tlb"),
        (Context::JUMPS, "jump_cache"),
        (Context::TAG, "mark"),
        (Context::RESUME, "resume"),
        (Context::RETURNS_BASE, "returns_base"),
        (Context::RETURNS_LIMIT, "returns_limit"),
        (Context::ATTENTION, "attention"),
        (Context::XSAVE, "xsave"),
        (Context::STATE, "state"),
        (Context::CPUID, "cpuid_answers"),
        (Context::BANK, "bank"),
        (Context::PENDING, "interrupt_waits"),
        (Context::MSR_PLACES, "msr_places"),
        (Context::EXECUTED, "instructions"),
        (Context::SCRATCH, "scratch"),
        (Context::MISSES, "misses_left"),
        (Context::LEVELS, "levels"),
        (Context::UNSWITCHED, "unswitched"),
        (Context::OPENED_AC_COUNT, "opened_ac_count"),
    ] {
        add(offset, name);
    }
    for (user, write, name) in [
        (false, false, ["window_start", "window_limit", "window_addend"]),
        (false, true, ["write_window_start", "write_window_limit", "write_window_addend"]),
        (true, false, ["user_window_start", "user_window_limit", "user_window_addend"]),
        (true, true, ["user_write_window_start", "user_write_window_limit", "user_write_window_addend"]),
    ] {
        for class in 0..CLASSES {
            let window = Context::window(user, write, class);
            add(window + offset_of!(Window, start) as i32, name[0]);
            for span in 0..SPANS.len() as i32 {
                add(window + offset_of!(Window, limits) as i32 + 8 * span, name[1]);
            }
            add(window + offset_of!(Window, addend) as i32, name[2]);
        }
    }
    list
}
