//! Registers by name, as expressions and `set` use them.
use crate::arch::state::gpr;
use crate::arch::{CpuState, Rflags, SegmentRegister};

/// Names of the segment registers in encoding order.
pub const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

const HALVES: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
const LOW_BYTES: [&str; 8] = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
const HIGH_BYTES: [&str; 4] = ["ah", "ch", "dh", "bh"];

/// Where a general register's name points: which one, how far shifted, which bits.
fn general(name: &str) -> Option<(usize, u32, u64)> {
    let find = |names: &[&str], word: &str| names.iter().position(|&n| n == word);
    if let Some(i) = find(&gpr::NAMES, name) {
        return Some((i, 0, u64::MAX));
    }
    // $sp and $fp are what GDB calls the stack and frame pointer, whatever their width.
    match name {
        "sp" => return Some((gpr::RSP, 0, u64::MAX)),
        "fp" => return Some((gpr::RBP, 0, u64::MAX)),
        _ => {}
    }
    if let Some(i) = name.strip_prefix('e').and_then(|half| find(&HALVES, half)) {
        return Some((i, 0, 0xffff_ffff));
    }
    if let Some(i) = find(&HALVES, name) {
        return Some((i, 0, 0xffff));
    }
    if let Some(i) = find(&LOW_BYTES, name) {
        return Some((i, 0, 0xff));
    }
    if let Some(i) = find(&HIGH_BYTES, name) {
        return Some((i, 8, 0xff));
    }
    let (whole, mask) = match name.as_bytes().last()? {
        b'd' => (&name[..name.len() - 1], 0xffff_ffff),
        b'w' => (&name[..name.len() - 1], 0xffff),
        b'b' => (&name[..name.len() - 1], 0xff),
        _ => return None,
    };
    find(&gpr::NAMES[8..], whole).map(|i| (i + 8, 0, mask))
}

/// The value of the register called `name` (lower case, without `$`). `None` if there is none of that name here; CR8
/// is the platform's.
#[must_use]
pub fn read(state: &CpuState, name: &str) -> Option<u64> {
    if let Some((index, shift, mask)) = general(name) {
        return Some(state.gpr[index] >> shift & mask);
    }
    if let Some(i) = SEGMENTS.iter().position(|&s| s == name) {
        return Some(state.segments[i].selector.into());
    }
    let msrs = &state.msrs;
    Some(match name {
        "rip" | "pc" => state.rip,
        "eip" => state.rip & 0xffff_ffff,
        "rflags" | "eflags" | "flags" => state.rflags.bits(),
        "cr0" => state.cr0.bits(),
        "cr2" => state.cr2,
        "cr3" => state.cr3,
        "cr4" => state.cr4.bits(),
        "efer" => state.efer.bits(),
        "xcr0" => state.xcr0.bits(),
        "dr0" => state.dr[0],
        "dr1" => state.dr[1],
        "dr2" => state.dr[2],
        "dr3" => state.dr[3],
        "dr6" => state.dr[6],
        "dr7" => state.dr[7],
        "fs_base" => state.segment(SegmentRegister::Fs).base,
        "gs_base" => state.segment(SegmentRegister::Gs).base,
        "gdtr" => state.gdtr.base,
        "idtr" => state.idtr.base,
        "tr" => state.tr.selector.into(),
        "ldtr" => state.ldtr.selector.into(),
        "star" => msrs.star,
        "lstar" => msrs.lstar,
        "cstar" => msrs.cstar,
        "sfmask" => msrs.sfmask,
        "kernel_gs_base" => msrs.kernel_gs_base,
        "sysenter_cs" => msrs.sysenter_cs,
        "sysenter_esp" => msrs.sysenter_esp,
        "sysenter_eip" => msrs.sysenter_eip,
        "pat" => msrs.pat,
        "tsc_aux" => msrs.tsc_aux,
        "pkru" => state.pkru.into(),
        "pkrs" => msrs.pkrs,
        _ => return None,
    })
}

/// Changes a general register or part of one, RIP or RFLAGS (whose bit 1 stays one). Whether `name` is one of these.
/// A 32-bit part clears the upper half, as the CPU does.
pub fn write(state: &mut CpuState, name: &str, value: u64) -> bool {
    if let Some((index, shift, mask)) = general(name) {
        let kept = if mask == 0xffff_ffff { 0 } else { state.gpr[index] & !(mask << shift) };
        state.gpr[index] = kept | (value & mask) << shift;
        return true;
    }
    match name {
        "rip" | "pc" => state.rip = value,
        "rflags" | "eflags" | "flags" => {
            state.rflags = Rflags::from_bits_truncate(value) | Rflags::FIXED;
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_registers_have_names_too() {
        let mut state = CpuState::reset();
        state.gpr[gpr::RBX] = 0x1122_3344_5566_7788;
        state.gpr[gpr::R11] = 0x8899_aabb_ccdd_eeff;
        for (name, value) in [
            ("rbx", 0x1122_3344_5566_7788),
            ("ebx", 0x5566_7788),
            ("bx", 0x7788),
            ("bl", 0x88),
            ("bh", 0x77),
            ("r11d", 0xccdd_eeff),
            ("r11w", 0xeeff),
            ("r11b", 0xff),
            ("rip", 0xfff0),
            ("cs", 0xf000),
        ] {
            assert_eq!(read(&state, name), Some(value), "{name}");
        }
        for name in ["", "r16", "rax1", "e", "d", "b", "xmm0"] {
            assert_eq!(read(&state, name), None, "{name}");
        }
    }

    #[test]
    fn writing_a_part_keeps_or_clears_the_rest_as_the_cpu_does() {
        let mut state = CpuState::reset();
        state.gpr[gpr::RAX] = u64::MAX;
        assert!(write(&mut state, "ah", 0x12));
        assert_eq!(state.gpr[gpr::RAX], 0xffff_ffff_ffff_12ff);
        assert!(write(&mut state, "eax", 5));
        assert_eq!(state.gpr[gpr::RAX], 5);
        assert!(write(&mut state, "rflags", 0));
        assert_eq!(state.rflags, Rflags::FIXED);
        assert!(!write(&mut state, "cr0", 1));
    }
}
