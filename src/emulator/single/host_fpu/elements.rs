//! Masked moves and gathers, element by element: only what the mask selects is touched, and a fault leaves what the
//! manual says.
use super::control::FSW;
use super::{OperandMemory, Prepared};
use crate::arch::state::XsaveArea;
use crate::arch::{CpuState, Exception, Gva};
use iced_x86::{EncodingKind, Instruction, Mnemonic, Register};

/// The bytes of an XMM, YMM or MMX register, zero-extended.
fn register(area: &XsaveArea, register: Register) -> [u8; 32] {
    let mut value = [0; 32];
    if register.is_mm() {
        let top = usize::from(area.u16_at(FSW) >> 11 & 7);
        let slot = (register.number() + 8 - top) % 8;
        value[..8].copy_from_slice(&area.0[32 + 16 * slot..][..8]);
    } else {
        value = area.ymm(register.number());
        if register.is_xmm() {
            value[16..].fill(0);
        }
    }
    value
}

/// Replaces all 256 bits of a vector register.
fn set_ymm(area: &mut XsaveArea, number: usize, value: &[u8; 32]) {
    area.0[XsaveArea::XMM + 16 * number..][..16].copy_from_slice(&value[..16]);
    area.0[XsaveArea::YMM_HIGH + 16 * number..][..16].copy_from_slice(&value[16..]);
}

/// Whether the most significant bit of each element is set, as a function.
fn selects(mask: [u8; 32], element: usize) -> impl Fn(usize) -> bool {
    move |i| mask[(i + 1) * element - 1] & 0x80 != 0
}

/// VMASKMOVPS/PD, VPMASKMOVD/Q from memory.
pub(super) fn masked_load<M: OperandMemory + ?Sized>(
    element: usize,
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    let instruction = &prepared.instruction;
    let into = instruction.op0_register();
    let selected = selects(register(&state.xsave, instruction.op1_register()), element);
    let at = memory.effective(state, instruction, None, 0, 0)?;
    let mut value = [0; 32];
    for i in (0..into.size() / element).filter(|&i| selected(i)) {
        let offset = i * element;
        memory.read(state, at.offset(offset as u64), &mut value[offset..offset + element])?;
    }
    set_ymm(&mut state.xsave, into.number(), &value);
    Ok(())
}

/// The same to memory.
pub(super) fn masked_store<M: OperandMemory + ?Sized>(
    element: usize,
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    let instruction = &prepared.instruction;
    let selected = selects(register(&state.xsave, instruction.op1_register()), element);
    let from = instruction.op2_register();
    let value = register(&state.xsave, from);
    let at = memory.effective(state, instruction, None, 0, 0)?;
    let chosen = || (0..from.size() / element).filter(|&i| selected(i));
    if let (Some(first), Some(last)) = (chosen().next(), chosen().next_back()) {
        // Both ends are touched, so each page in between is too.
        let bytes = (last + 1 - first) * element;
        memory.probe_write(state, at.offset((first * element) as u64), bytes)?;
        for i in chosen() {
            let offset = i * element;
            memory.write(state, at.offset(offset as u64), &value[offset..offset + element])?;
        }
    }
    Ok(())
}

/// MASKMOVDQU and MASKMOVQ, as Intel's CPUs do them: by eights, the upper one first. Each has its own address, which
/// wraps with the address size, and is checked as a whole even if nothing of it is selected.
pub(super) fn masked_bytes<M: OperandMemory + ?Sized>(
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    let instruction = &prepared.instruction;
    let selected = selects(register(&state.xsave, instruction.op2_register()), 1);
    let from = instruction.op1_register();
    let value = register(&state.xsave, from);
    if from.is_mm() {
        // Done even if the store faults.
        state.xsave.enter_mmx();
    }
    let mut eights = [Gva(0); 2];
    let eights = &mut eights[..from.size() / 8];
    for (i, at) in eights.iter_mut().enumerate().rev() {
        *at = memory.effective(state, instruction, Some(8 * i as u64), 8, 0)?;
        memory.probe_write(state, *at, 8)?;
    }
    for (i, at) in eights.iter().enumerate() {
        for byte in (0..8).filter(|byte| selected(8 * i + byte)) {
            memory.write(state, at.offset(byte as u64), &[value[8 * i + byte]])?;
        }
    }
    Ok(())
}

/// Bytes of an index and of a data element.
fn gather_sizes(mnemonic: Mnemonic) -> (usize, usize) {
    match mnemonic {
        Mnemonic::Vpgatherdd | Mnemonic::Vgatherdps => (4, 4),
        Mnemonic::Vpgatherdq | Mnemonic::Vgatherdpd => (4, 8),
        Mnemonic::Vpgatherqd | Mnemonic::Vgatherqps => (8, 4),
        _ => (8, 8),
    }
}

/// Whether the three registers of a gather differ, as they must.
pub(super) fn gather_is_valid(instruction: &Instruction) -> bool {
    let [into, index, mask] =
        [instruction.op0_register(), instruction.memory_index(), instruction.op2_register()]
            .map(Register::number);
    instruction.encoding() == EncodingKind::VEX && into != index && into != mask && index != mask
}

/// VGATHER*, VPGATHER*: elements in ascending order. If one faults, those before it are in place with their mask
/// elements cleared, and the rest of the destination is as it was.
pub(super) fn gather<M: OperandMemory + ?Sized>(
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    let instruction = &prepared.instruction;
    let (index_bytes, bytes) = gather_sizes(instruction.mnemonic());
    let into = instruction.op0_register();
    let mask_register = instruction.op2_register();
    let indices = register(&state.xsave, instruction.memory_index());
    let count = (instruction.memory_index().size() / index_bytes).min(into.size() / bytes);
    let selected = selects(register(&state.xsave, mask_register), bytes);
    let selected_of_all = selects(state.xsave.ymm(mask_register.number()), bytes);
    let mut value = state.xsave.ymm(into.number());
    let mut left = state.xsave.ymm(mask_register.number());
    // Each mask element becomes all ones or all zeros before the first access.
    let width = into.size().max(instruction.memory_index().size());
    for (i, element) in left[..width].chunks_exact_mut(bytes).enumerate() {
        element.fill(if selected_of_all(i) { 0xff } else { 0 });
    }
    left[width..].fill(0);
    let mut result = Ok(());
    for i in (0..count).filter(|&i| selected(i)) {
        let mut raw = [0; 8];
        raw[..index_bytes].copy_from_slice(&indices[i * index_bytes..][..index_bytes]);
        let index = if index_bytes == 4 {
            i64::from(i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])) as u64
        } else {
            u64::from_le_bytes(raw)
        };
        let range = i * bytes..(i + 1) * bytes;
        result = fetch(instruction, state, memory, index, &mut value[range.clone()]);
        if result.is_err() {
            break;
        }
        left[range].fill(0);
        // Each arrival is a write of that vector length.
        value[width..].fill(0);
    }
    if result.is_ok() {
        value[count * bytes..].fill(0);
        left.fill(0);
    }
    set_ymm(&mut state.xsave, into.number(), &value);
    set_ymm(&mut state.xsave, mask_register.number(), &left);
    result
}

fn fetch<M: OperandMemory + ?Sized>(
    instruction: &Instruction,
    state: &mut CpuState,
    memory: &mut M,
    index: u64,
    into: &mut [u8],
) -> Result<(), Exception> {
    let at: Gva = memory.effective(state, instruction, Some(index), into.len(), 0)?;
    memory.read(state, at, into)
}
