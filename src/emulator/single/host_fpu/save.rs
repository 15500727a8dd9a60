//! FXSAVE, FXRSTOR, XSAVE, XSAVEOPT and XRSTOR (SDM vol. 1, 10.5 and 13.7–13.8), between the saved image and guest
//! memory.
//!
//! What the manual leaves open: XINUSE is what the contents say (a component equal to its initial state is not in use);
//! XSAVEOPT does not track what was modified; FCS and FDS are always zero.
use super::classify::Save;
use super::{MXCSR_MASK, OperandMemory, Prepared};
use crate::arch::state::{XsaveArea, gpr};
use crate::arch::{CpuState, Cr0, Exception, Gva, Rflags, Vector, Xcr0};

const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
const PKRU: u64 = Xcr0::PKRU.bits();
const FIP: usize = 8;
const FDP: usize = 16;
const ST: usize = 32;
/// End of the XMM registers; the rest of the legacy area is reserved or software's.
const LEGACY_END: usize = 416;
const HEADER: usize = XsaveArea::XSTATE_BV;

pub(super) fn run<M: OperandMemory + ?Sized>(
    save: Save,
    prepared: &Prepared,
    state: &mut CpuState,
    memory: &mut M,
) -> Result<(), Exception> {
    let (alignment, bytes) = match save {
        Save::Fxsave { .. } | Save::Fxrstor { .. } => (16, 512),
        Save::Xsave { .. } | Save::Xrstor { .. } => (64, HEADER + 64),
    };
    let at = memory.effective(state, &prepared.instruction, None, bytes, 0)?;
    let checked = state.cpl() == 3 && state.cr0.contains(Cr0::AM) && state.rflags.contains(Rflags::AC);
    if checked && !at.0.is_multiple_of(4) {
        // Alignment checks come first (SDM vol. 2, FXSAVE); Intel's CPUs check words of 4.
        return Err(Exception::with_code(Vector::AlignmentCheck, 0));
    }
    if !at.0.is_multiple_of(alignment) {
        return Err(Exception::GP0);
    }
    match save {
        Save::Fxsave { wide } => fxsave(state, memory, at, wide),
        Save::Fxrstor { wide } => fxrstor(state, memory, at, wide),
        Save::Xsave { wide, optimised } => xsave(state, memory, at, wide, optimised),
        Save::Xrstor { wide } => xrstor(state, memory, at, wide),
    }
}

/// End of the XMM registers that exist in this mode.
fn xmm_end(state: &CpuState) -> usize {
    if state.is_64bit_code() { LEGACY_END } else { LEGACY_END - 128 }
}

/// The legacy area as it is stored: pointers cut to 32 bits without REX.W.
fn legacy_image(state: &CpuState, wide: bool) -> [u8; LEGACY_END] {
    let mut image = [0; LEGACY_END];
    image.copy_from_slice(&state.xsave.0[..LEGACY_END]);
    if !wide {
        image[FIP + 4..FIP + 8].fill(0);
        image[FDP + 4..FDP + 8].fill(0);
    }
    image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    image
}

/// Loads the x87 part of a stored image; what cannot be held is dropped as the CPU drops it.
fn load_x87(area: &mut XsaveArea, image: &[u8], wide: bool) {
    area.0[..24].copy_from_slice(&image[..24]);
    area.set_u16_at(XsaveArea::FCW, area.u16_at(XsaveArea::FCW) & 0x1f7f | 0x40);
    // The abridged tags are one byte, the opcode eleven bits.
    area.0[5] = 0;
    area.0[7] &= 7;
    if wide {
        // CPUs keep as many bits of FIP as their widest linear addresses have.
        area.0[FIP + 7] = if area.0[FIP + 7] & 1 == 0 { 0 } else { 0xff };
    } else {
        area.0[FIP + 4..FIP + 8].fill(0);
        area.0[FDP + 4..FDP + 8].fill(0);
    }
    for at in (ST..XsaveArea::XMM).step_by(16) {
        area.0[at..at + 10].copy_from_slice(&image[at..at + 10]);
        area.0[at + 10..at + 16].fill(0);
    }
    area.summarise_x87_errors();
}

fn fxsave<M: OperandMemory + ?Sized>(
    state: &mut CpuState,
    memory: &mut M,
    at: Gva,
    wide: bool,
) -> Result<(), Exception> {
    let image = legacy_image(state, wide);
    let end = xmm_end(state);
    memory.probe_write(state, at, 512)?;
    memory.write(state, at, &image[..end])
}

fn mxcsr_of(image: &[u8]) -> Result<u32, Exception> {
    let at = XsaveArea::MXCSR;
    let value = u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
    if value & !MXCSR_MASK == 0 { Ok(value) } else { Err(Exception::GP0) }
}

fn fxrstor<M: OperandMemory + ?Sized>(
    state: &mut CpuState,
    memory: &mut M,
    at: Gva,
    wide: bool,
) -> Result<(), Exception> {
    let mut image = [0; 512];
    memory.read(state, at, &mut image)?;
    let mxcsr = mxcsr_of(&image)?;
    let end = xmm_end(state);
    load_x87(&mut state.xsave, &image, wide);
    state.xsave.set_mxcsr(mxcsr);
    state.xsave.0[XsaveArea::XMM..end].copy_from_slice(&image[XsaveArea::XMM..end]);
    Ok(())
}

/// RFBM: what is asked for, of what is enabled.
fn requested(state: &CpuState) -> u64 {
    let mask = state.gpr[gpr::RDX] << 32 | state.gpr[gpr::RAX] & 0xffff_ffff;
    mask & state.xcr0.bits()
}

/// XINUSE: the components that differ from their initial state.
fn in_use(state: &CpuState) -> u64 {
    let area = &state.xsave.0;
    let initial = XsaveArea::default();
    let x87 = area[..24] != initial.0[..24] || area[ST..XsaveArea::XMM].iter().any(|&b| b != 0);
    let sse = area[XsaveArea::XMM..LEGACY_END].iter().any(|&b| b != 0);
    let avx = area[XsaveArea::YMM_HIGH..].iter().any(|&b| b != 0);
    let pkru = if state.pkru == 0 { 0 } else { PKRU };
    u64::from(x87) | u64::from(sse) << 1 | u64::from(avx) << 2 | pkru
}

fn xsave<M: OperandMemory + ?Sized>(
    state: &mut CpuState,
    memory: &mut M,
    at: Gva,
    wide: bool,
    optimised: bool,
) -> Result<(), Exception> {
    let requested = requested(state);
    let in_use = in_use(state);
    let written = if optimised { requested & in_use } else { requested };
    let image = legacy_image(state, wide);
    let end = xmm_end(state);
    let high_end = XsaveArea::YMM_HIGH + (end - XsaveArea::XMM);
    let part = |from: usize| at.offset(from as u64);
    // Everything that will be written is probed first, so that a fault leaves nothing half done.
    memory.probe_write(state, at, HEADER + 8)?;
    let mut header = [0; 8];
    memory.read(state, part(HEADER), &mut header)?;
    if written & AVX != 0 {
        memory.probe_write(state, part(XsaveArea::YMM_HIGH), high_end - XsaveArea::YMM_HIGH)?;
    }
    let pkru = u64::from(state.pkru).to_le_bytes();
    if written & PKRU != 0 {
        memory.probe_write(state, part(XsaveArea::PKRU), pkru.len())?;
    }
    if written & X87 != 0 {
        memory.write(state, at, &image[..24])?;
        memory.write(state, part(ST), &image[ST..XsaveArea::XMM])?;
    }
    if requested & (SSE | AVX) != 0 {
        memory.write(state, part(XsaveArea::MXCSR), &image[XsaveArea::MXCSR..ST])?;
    }
    if written & SSE != 0 {
        memory.write(state, part(XsaveArea::XMM), &image[XsaveArea::XMM..end])?;
    }
    if written & AVX != 0 {
        let high = {
            let mut high = [0; 256];
            high.copy_from_slice(&state.xsave.0[XsaveArea::YMM_HIGH..XsaveArea::SIZE]);
            high
        };
        memory.write(state, part(XsaveArea::YMM_HIGH), &high[..high_end - XsaveArea::YMM_HIGH])?;
    }
    if written & PKRU != 0 {
        memory.write(state, part(XsaveArea::PKRU), &pkru)?;
    }
    let bits = u64::from_le_bytes(header) & !requested | in_use & requested;
    memory.write(state, part(HEADER), &bits.to_le_bytes())
}

fn xrstor<M: OperandMemory + ?Sized>(
    state: &mut CpuState,
    memory: &mut M,
    at: Gva,
    wide: bool,
) -> Result<(), Exception> {
    let requested = requested(state);
    if requested & AVX != 0 {
        // The CPU looks at the end of the area first, whether the component is present or not.
        let last = XsaveArea::YMM_HIGH + (xmm_end(state) - XsaveArea::XMM) - 1;
        memory.read(state, at.offset(last as u64), &mut [0])?;
    }
    let mut header = [0; 64];
    memory.read(state, at.offset(HEADER as u64), &mut header)?;
    let mut bits = [0; 8];
    bits.copy_from_slice(&header[..8]);
    let bits = u64::from_le_bytes(bits);
    // No bit that is not enabled, no compaction (it is not offered), reserved bytes zero.
    if bits & !state.xcr0.bits() != 0 || header[8..24].iter().any(|&b| b != 0) {
        return Err(Exception::GP0);
    }
    let present = requested & bits;
    let end = xmm_end(state);
    let high_end = XsaveArea::YMM_HIGH + (end - XsaveArea::XMM);
    let mut image = [0; XsaveArea::SIZE];
    memory.read(state, at, &mut image[..LEGACY_END])?;
    if present & AVX != 0 {
        let high = XsaveArea::YMM_HIGH;
        memory.read(state, at.offset(high as u64), &mut image[high..high_end])?;
    }
    // Its upper half is not used.
    let mut pkru = [0; 4];
    if present & PKRU != 0 {
        memory.read(state, at.offset(XsaveArea::PKRU as u64), &mut pkru)?;
    }
    if requested & (SSE | AVX) != 0 {
        let mxcsr = mxcsr_of(&image)?;
        state.xsave.set_mxcsr(mxcsr);
    }
    // A component that is asked for but not present gets its initial state: zeros, but for the control word.
    if present & X87 == 0 {
        image[..24].fill(0);
        image[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        image[ST..XsaveArea::XMM].fill(0);
    }
    if present & SSE == 0 {
        image[XsaveArea::XMM..LEGACY_END].fill(0);
    }
    if requested & X87 != 0 {
        load_x87(&mut state.xsave, &image, wide);
    }
    for (component, range) in [(SSE, XsaveArea::XMM..end), (AVX, XsaveArea::YMM_HIGH..high_end)] {
        if requested & component != 0 {
            state.xsave.0[range.clone()].copy_from_slice(&image[range]);
        }
    }
    if requested & PKRU != 0 {
        state.pkru = u32::from_le_bytes(pkru);
    }
    Ok(())
}
