//! Callers, found without unwind tables.
//!
//! For each frame, in this order: if only pops and stack adjustments lie between RIP and a `ret`, these are followed
//! (epilogue); if the function's symbol is known, its prologue is followed from the start, which tells how far RSP was
//! moved and whether RBP became the frame pointer; else RBP is taken for a frame pointer. The result must be an address
//! after a `call`. For the innermost frame only, the stack is then searched for such an address.
use super::memory::{GuestMemory, Space, linear_rip};
use super::symbols::{Label, Symbols};
use super::view::Hex;
use super::view::disassembly::decode;
use crate::arch::CpuState;
use crate::arch::state::gpr;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use serde::Serialize;
use std::fmt;

/// Frames that are shown at most.
const DEEPEST: usize = 64;
/// Instructions of a prologue or epilogue that are followed.
const PROLOGUE: usize = 24;
/// Words of the stack that are searched.
const SEARCHED: u64 = 128;

/// How a frame was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// It is where the CPU is.
    Here,
    /// From the code of the function.
    Code,
    /// From RBP.
    Pointer,
    /// By searching the stack: a guess.
    Search,
}

/// One function that is being executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Next instruction in it.
    pub rip: u64,
    /// RSP there.
    pub rsp: u64,
    /// RBP there, if it is known.
    pub rbp: Option<u64>,
    /// How it was found.
    pub evidence: Evidence,
}

/// The frame that `state` is in.
#[must_use]
pub fn innermost(state: &CpuState) -> Frame {
    let rbp = Some(state.gpr[gpr::RBP]);
    Frame { rip: linear_rip(state), rsp: state.gpr[gpr::RSP], rbp, evidence: Evidence::Here }
}

/// The frame that called `frame`. Only 64-bit code is understood.
#[must_use]
pub fn caller(memory: &GuestMemory<'_>, symbols: &Symbols, frame: &Frame) -> Option<Frame> {
    let candidates = [
        by_epilogue(memory, frame),
        by_prologue(memory, symbols, frame),
        frame.rbp.filter(|&rbp| rbp >= frame.rsp).and_then(|rbp| {
            let saved = memory.read_u64(rbp)?;
            above(memory, rbp.checked_add(8)?, Some(saved), Evidence::Pointer)
        }),
    ];
    let sound = |f: &Frame| f.rsp > frame.rsp && follows_call(memory, f.rip);
    if let Some(found) = candidates.into_iter().flatten().find(sound) {
        return Some(found);
    }
    if frame.evidence != Evidence::Here {
        return None;
    }
    (0..SEARCHED)
        .filter_map(|i| above(memory, frame.rsp.checked_add(8 * i)?, frame.rbp, Evidence::Search))
        .find(|f| follows_call(memory, f.rip) && symbols.at(f.rip).is_some())
}

/// The caller whose return address lies at `at`.
fn above(memory: &GuestMemory<'_>, at: u64, rbp: Option<u64>, evidence: Evidence) -> Option<Frame> {
    Some(Frame { rip: memory.read_u64(at)?, rsp: at.checked_add(8)?, rbp, evidence })
}

/// Whether the instruction before `address` is a call.
fn follows_call(memory: &GuestMemory<'_>, address: u64) -> bool {
    (2..=7).any(|length| {
        let Some(start) = address.checked_sub(length) else {
            return false;
        };
        let bytes = memory.read_prefix(Space::Virtual, start, length as usize);
        let mut decoder = Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE);
        let instruction = decoder.decode();
        instruction.mnemonic() == Mnemonic::Call && instruction.len() as u64 == length
    })
}

/// What an instruction does to the stack, as far as prologues and epilogues go.
enum Effect {
    /// RSP moves by so many bytes.
    Moves(i64),
    /// PUSH RBP.
    SavesRbp,
    /// POP RBP.
    RestoresRbp,
    /// MOV RBP, RSP.
    PointsRbp,
    /// The stack is as before.
    None,
    /// Control goes elsewhere, or the stack moves in a way that is not followed.
    Ends,
}

fn effect(instruction: &Instruction) -> Effect {
    let register = |n: u32| {
        let is_register = n < instruction.op_count() && instruction.op_kind(n) == OpKind::Register;
        if is_register { instruction.op_register(n) } else { Register::None }
    };
    match (instruction.mnemonic(), register(0)) {
        (Mnemonic::Push, Register::RBP) => Effect::SavesRbp,
        (Mnemonic::Push, _) => Effect::Moves(-8),
        (Mnemonic::Pop, Register::RBP) => Effect::RestoresRbp,
        (Mnemonic::Pop, to) if to != Register::RSP => Effect::Moves(8),
        (Mnemonic::Add, Register::RSP) => match instruction.try_immediate(1) {
            Ok(n) => Effect::Moves(n.cast_signed()),
            Err(_) => Effect::Ends,
        },
        (Mnemonic::Sub, Register::RSP) => match instruction.try_immediate(1) {
            Ok(n) => Effect::Moves(n.cast_signed().wrapping_neg()),
            Err(_) => Effect::Ends,
        },
        (Mnemonic::Mov, Register::RBP) if register(1) == Register::RSP => Effect::PointsRbp,
        (Mnemonic::Cmp | Mnemonic::Test, _) => Effect::None,
        (Mnemonic::Leave, _) | (_, Register::RSP | Register::RBP) => Effect::Ends,
        _ if instruction.flow_control() != FlowControl::Next => Effect::Ends,
        _ => Effect::None,
    }
}

/// Follows pops and adjustments up to a `ret`; anything else in between is no epilogue.
fn by_epilogue(memory: &GuestMemory<'_>, frame: &Frame) -> Option<Frame> {
    let (mut rip, mut rsp, mut rbp) = (frame.rip, frame.rsp, frame.rbp);
    for _ in 0..PROLOGUE {
        let instruction = decode(memory, 64, rip)?;
        match instruction.code() {
            Code::Retnq | Code::Retnq_imm16 => return above(memory, rsp, rbp, Evidence::Code),
            Code::Leaveq => {
                rsp = rbp?;
                rbp = Some(memory.read_u64(rsp)?);
                rsp = rsp.checked_add(8)?;
            }
            _ => match effect(&instruction) {
                Effect::Moves(by) if by > 0 => rsp = rsp.checked_add_signed(by)?,
                Effect::RestoresRbp => {
                    rbp = Some(memory.read_u64(rsp)?);
                    rsp = rsp.checked_add(8)?;
                }
                _ => return None,
            },
        }
        rip = instruction.next_ip();
    }
    None
}

/// Follows the function from its start to RIP, or to the end of its straight beginning.
fn by_prologue(memory: &GuestMemory<'_>, symbols: &Symbols, frame: &Frame) -> Option<Frame> {
    // After a call that does not return, the return address may already lie in the next function.
    let inside = if frame.evidence == Evidence::Here { frame.rip } else { frame.rip.checked_sub(1)? };
    let start = symbols.at(inside)?.symbol.address;
    let mut rip = start;
    // Bytes pushed since the function was entered, and where among them RBP was saved and the frame pointer stands.
    let (mut depth, mut saved, mut pointer) = (0_i64, None, None);
    for _ in 0..PROLOGUE {
        if rip >= frame.rip {
            break;
        }
        let instruction = decode(memory, 64, rip)?;
        match effect(&instruction) {
            Effect::Moves(by) if by < 0 => depth = depth.checked_sub(by)?,
            Effect::SavesRbp => {
                depth = depth.checked_add(8)?;
                saved.get_or_insert(depth);
            }
            Effect::PointsRbp => pointer = Some(depth),
            Effect::None => {}
            _ => break,
        }
        rip = instruction.next_ip();
    }
    // The address of the return address: from RBP if it is the frame pointer, else from RSP.
    let at = match (pointer, frame.rbp) {
        (Some(depth), Some(rbp)) => rbp.checked_add_signed(depth)?,
        _ => frame.rsp.checked_add_signed(depth)?,
    };
    let rbp = match saved {
        Some(saved) => Some(memory.read_u64(at.checked_add_signed(-saved)?)?),
        None => frame.rbp,
    };
    above(memory, at, rbp, Evidence::Code)
}

/// One line of a backtrace.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// 0 is the innermost.
    pub number: usize,
    /// Next instruction.
    pub rip: Hex,
    /// Its symbol.
    pub symbol: Option<String>,
    /// RSP there.
    pub rsp: Hex,
    /// How it was found.
    pub evidence: Evidence,
}

/// The functions that are being executed, innermost first.
#[derive(Clone, Debug, Serialize)]
pub struct Backtrace {
    /// One each.
    pub frames: Vec<Row>,
}

/// The function of a frame. A call that never returns may be the last instruction of its function, so that what
/// follows it belongs to the next one: callers are looked up by the call.
fn name(symbols: &Symbols, frame: &Frame) -> Option<String> {
    let back = u64::from(frame.evidence != Evidence::Here);
    let label = symbols.at(frame.rip.checked_sub(back)?)?;
    Some(Label { offset: label.offset + back, ..label }.to_string())
}

/// The callers of where `state` is.
#[must_use]
pub fn backtrace(memory: &GuestMemory<'_>, symbols: &Symbols, state: &CpuState) -> Backtrace {
    let first = Some(innermost(state));
    let next = |frame: &Frame| if state.is_64bit_code() { caller(memory, symbols, frame) } else { None };
    let frames = std::iter::successors(first, next)
        .take(DEEPEST)
        .enumerate()
        .map(|(number, f)| Row {
            number,
            rip: Hex(f.rip),
            symbol: name(symbols, &f),
            rsp: Hex(f.rsp),
            evidence: f.evidence,
        })
        .collect();
    Backtrace { frames }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self
            .frames
            .iter()
            .map(|row| {
                let note = match row.evidence {
                    Evidence::Here | Evidence::Code => "",
                    Evidence::Pointer => "   (by frame pointer)",
                    Evidence::Search => "   (a guess: found by searching the stack)",
                };
                let symbol = row.symbol.as_deref().unwrap_or("??");
                format!("#{:<2} {:#014x}  {symbol}{note}", row.number, row.rip.0)
            })
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::tests::long_mode;
    use crate::mem::GuestRam;

    /// `outer` at 0x20_0000 calls `inner` at 0x20_0020; the stack top is 0x20_0f00.
    fn machine(inner: &[u8], stack: &[u64]) -> (GuestRam, CpuState, Symbols) {
        let (ram, mut state) = long_mode();
        // outer: push rbx; sub rsp, 0x20; call inner; add rsp, 0x20; pop rbx; ret
        let outer =
            [0x53, 0x48, 0x83, 0xec, 0x20, 0xe8, 0x16, 0x00, 0x00, 0x00, 0x48, 0x83, 0xc4, 0x20, 0x5b, 0xc3];
        ram.write(Gpa(0x8000), &outer).unwrap();
        ram.write(Gpa(0x8020), inner).unwrap();
        // start: call outer
        ram.write(Gpa(0x8040), &[0xe8, 0xbb, 0xff, 0xff, 0xff]).unwrap();
        for (i, word) in stack.iter().enumerate() {
            ram.write(Gpa(0x8f00 + 8 * i as u64), &word.to_le_bytes()).unwrap();
        }
        state.gpr[gpr::RSP] = 0x20_0f00;
        let symbols =
            Symbols::new([(0x20_0000, 0x10, "outer"), (0x20_0020, 0x10, "inner"), (0x20_0040, 5, "start")]);
        (ram, state, symbols)
    }

    fn names(ram: &GuestRam, state: &CpuState, symbols: &Symbols) -> String {
        backtrace(&GuestMemory::new(ram, state), symbols, state).to_string()
    }

    #[test]
    fn frames_are_found_from_prologues_and_epilogues_alone() {
        // inner: push r12; sub rsp, 8; nop; add rsp, 8; pop r12; ret
        let inner = [0x41, 0x54, 0x48, 0x83, 0xec, 0x08, 0x90, 0x48, 0x83, 0xc4, 0x08, 0x41, 0x5c, 0xc3];
        let tail = [0x20_000a, 1, 2, 3, 4, 5, 0x20_0045];
        let whole =
            "#0  0x000000200026  inner+0x6\n#1  0x00000020000a  outer+0xa\n#2  0x000000200045  start+0x5";
        for (rip, pushed) in [(0x26, 2), (0x20, 0), (0x22, 1), (0x27, 2), (0x2b, 1), (0x2d, 0)] {
            let stack: Vec<u64> = std::iter::repeat_n(7, pushed).chain(tail).collect();
            let (ram, mut state, symbols) = machine(&inner, &stack);
            state.rip = 0x20_0000 + rip;
            let expected = whole.replace(
                "0x000000200026  inner+0x6",
                &format!("0x0000002000{rip:02x}  {}", symbols.label(state.rip).unwrap()),
            );
            assert_eq!(names(&ram, &state, &symbols), expected, "{rip:#x}");
        }
    }

    #[test]
    fn frame_pointers_are_followed_where_a_function_sets_one() {
        // inner: push rbp; mov rbp, rsp; and rsp, -64; nop
        let inner = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xc0, 0x90];
        let (ram, mut state, symbols) = machine(&inner, &[9, 9, 0x1111, 0x20_000a, 1, 2, 3, 4, 5, 0x20_0045]);
        state.rip = 0x20_0028;
        state.gpr[gpr::RBP] = 0x20_0f10;
        let text = names(&ram, &state, &symbols);
        assert!(text.contains("#1  0x00000020000a  outer+0xa\n#2  0x000000200045"), "{text}");
    }

    #[test]
    fn without_any_rule_the_stack_is_searched_and_the_guess_is_named() {
        // inner moves RSP in a way that is not followed, and has no frame pointer.
        let (ram, mut state, symbols) = machine(&[0x48, 0x29, 0xc4, 0x90], &[9, 9, 9, 0x20_000a]);
        state.rip = 0x20_0023;
        let text = names(&ram, &state, &symbols);
        assert!(text.contains("outer+0xa   (a guess: found by searching the stack)"), "{text}");
    }

    #[test]
    fn nonsense_ends_at_once() {
        let (ram, mut state, symbols) = machine(&[0x90], &[u64::MAX, 0, 1 << 63]);
        for rsp in [0, u64::MAX, 0x20_0ffc, 1 << 63] {
            state.gpr[gpr::RSP] = rsp;
            state.gpr[gpr::RBP] = u64::MAX - 7;
            state.rip = u64::MAX;
            assert_eq!(backtrace(&GuestMemory::new(&ram, &state), &symbols, &state).frames.len(), 1);
        }
    }
}
