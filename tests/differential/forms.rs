//! Which instruction forms are compared, and the one table of those that are not, with reasons.
use iced_x86::{Code, CpuidFeature as F, EncodingKind, FlowControl, Instruction, Mnemonic as M, OpKind};
use std::sync::LazyLock;

/// Whether the host's CPU is one of AMD's make. The emulator is Intel's where the two differ in what no program relies on:
/// [`excluded`], [`differs_on_amd`], [`loose_faults`] and `regressions/intel` hold all of it.
pub static IS_AMD: LazyLock<bool> = LazyLock::new(|| {
    let zero = std::arch::x86_64::__cpuid(0);
    let name = [zero.ebx, zero.edx, zero.ecx].map(u32::to_le_bytes);
    matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine")
});

/// Features that the guest's CPUID offers (or that every x86-64 CPU has).
const OFFERED: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::X64,
    F::ADX,
    F::AES,
    F::AVX,
    F::AVX2,
    F::BMI1,
    F::BMI2,
    F::CLFLUSHOPT,
    F::CLFSH,
    F::CMOV,
    F::CMPXCHG16B,
    F::CPUID,
    F::CX8,
    F::F16C,
    F::FMA,
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::FSGSBASE,
    F::FXSR,
    F::LZCNT,
    F::MMX,
    F::MOVBE,
    F::MSR,
    F::MULTIBYTENOP,
    F::PAUSE,
    F::PCLMULQDQ,
    F::POPCNT,
    F::PREFETCHW,
    F::RDRAND,
    F::RDSEED,
    F::RDTSCP,
    F::RDPMC,
    F::SEP,
    F::SHA,
    F::SSE,
    F::SSE2,
    F::SSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::SSSE3,
    F::SYSCALL,
    F::TSC,
    F::XSAVE,
    F::XSAVEOPT,
];

/// Why a form is not compared; `None` if it is.
pub fn excluded(code: Code) -> Option<&'static str> {
    let op = code.op_code();
    if !op.is_instruction() || !op.mode64() || !op.intel_decoder64() || op.decoder_option() != 0 {
        return Some("not an instruction of Intel's 64-bit mode");
    }
    if op.fwait() {
        return Some("decoded as FWAIT and another instruction");
    }
    if !matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return Some("an encoding that is not offered");
    }
    match code.mnemonic() {
        // No-operations where CET is off, which is everywhere here.
        M::Endbr64 | M::Endbr32 => return None,
        M::Rdtsc | M::Rdtscp | M::Rdpmc => return Some("a counter: never the same twice"),
        M::Rdrand | M::Rdseed => return Some("a random number"),
        M::Cpuid | M::Xgetbv => return Some("answers for the guest's CPU, not for the host's"),
        M::Syscall | M::Sysenter => return Some("enters the host's kernel"),
        M::Int => return Some("depends on the gates in the kernel's IDT"),
        M::Int3 => return Some("ends every case, so each case executes it"),
        M::Int1 => return Some("the kernel hides where #DB came from"),
        M::Iret | M::Iretd | M::Iretq | M::Retf | M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq => {
            return Some("loads selectors: depends on the kernel's GDT");
        }
        M::Lss | M::Lfs | M::Lgs | M::Lar | M::Lsl | M::Verr | M::Verw => {
            return Some("reads the kernel's GDT");
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => {
            return Some("the host's kernel emulates it under UMIP");
        }
        // The mask of MXCSR with its bit for misaligned operands, and selectors of the last operation, with its address only
        // where an error waits.
        M::Fnsave
        | M::Fnstenv
        | M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
            if *IS_AMD =>
        {
            return Some("stores of the x87 unit what AMD's CPUs hold otherwise");
        }
        M::Movsxd if *IS_AMD && code == Code::Movsxd_r16_rm16 => {
            return Some("reads four bytes on AMD's CPUs");
        }
        M::Ud0 | M::Ud1 if *IS_AMD => return Some("undefined: AMD's CPUs fetch less of it"),
        M::Reservednop if *IS_AMD && format!("{code:?}").ends_with("_0F0D") => {
            return Some("a prefetch, which on AMD's CPUs wants memory");
        }
        _ => {}
    }
    match code {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => Some("reads the kernel's GDT"),
        Code::Popw_FS | Code::Popq_FS | Code::Popw_GS | Code::Popq_GS => Some("reads the kernel's GDT"),
        Code::Call_m1616
        | Code::Call_m1632
        | Code::Call_m1664
        | Code::Jmp_m1616
        | Code::Jmp_m1632
        | Code::Jmp_m1664 => Some("reads the kernel's GDT"),
        _ if !code.cpuid_features().iter().all(|f| OFFERED.contains(f)) => {
            Some("a feature that is not offered")
        }
        _ => None,
    }
}

/// All forms that are compared.
pub fn in_scope() -> Vec<Code> {
    Code::values().filter(|&code| excluded(code).is_none()).collect()
}

/// Instructions that make several accesses in an order that is not documented: the vectors that may then come first
/// (12 #SS, 13 #GP, 14 #PF, 17 #AC). What was written before the fault is the CPU's own business too.
pub fn unordered_faults(code: Code) -> &'static [u8] {
    match code.mnemonic() {
        // Whether the target is judged before the return address is pushed.
        M::Call if *IS_AMD => &[12, 13, 14, 17],
        M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor => &[12, 13, 14, 17],
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => &[14, 17],
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 => &[14, 17],
        // Some CPUs look for pages that are not there before they judge the header, in some cases.
        M::Xrstor | M::Xrstor64 => &[13, 14, 17],
        // SDM vol. 2, VMASKMOV: which of several selected elements faults first is left open.
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => &[12, 13, 14],
        // In two parts, of which the first may be seen.
        M::Fbstp => &[14],
        M::Fstp if code == Code::Fstp_m80fp => &[14],
        _ => &[],
    }
}

/// Instructions that are run without alignment checks: which addresses Intel's CPUs refuse depends on the mask, and is
/// not documented.
pub fn checks_alignment_oddly(code: Code) -> bool {
    matches!(code.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
}

/// Whether AMD's CPUs take these bytes for something else than Intel's do, or demand less of them.
pub fn differs_on_amd(instruction: &Instruction, bytes: &[u8]) -> bool {
    let is_prefix = |b: u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = bytes.iter().take_while(|&&b| is_prefix(b)).count();
    match instruction.mnemonic() {
        // XCHG R8, RAX
        M::Pause => bytes.get(prefixes).is_some_and(|b| b & 0xf1 == 0x41),
        // Operands in memory need not be aligned.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => instruction.op_kinds().any(|kind| kind == OpKind::Memory),
        // RSI and RDI are not cut to 32 bits where nothing was moved.
        _ if instruction.is_string_instruction() => {
            bytes[..prefixes].contains(&0x67) && bytes[..prefixes].iter().any(|b| matches!(b, 0xf2 | 0xf3))
        }
        // The operand size, which Intel's ignore, cuts RIP to 16 bits.
        _ => {
            !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Exception)
                && bytes[..prefixes].contains(&0x66)
        }
    }
}

/// Instructions for which AMD's CPUs find another fault first, report it with another address, or leave other things done.
pub fn loose_faults(instruction: &Instruction) -> bool {
    let compares = matches!(
        instruction.mnemonic(),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq
    );
    match instruction.mnemonic() {
        // Flags of what was compared before.
        _ if compares => instruction.has_rep_prefix() || instruction.has_repne_prefix(),
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu | M::Vcvtps2ph | M::Xrstor | M::Xrstor64 => true,
        // Whether the x87 unit became the MMX unit.
        M::Movd | M::Movq | M::Movntq => instruction.op1_register().is_mm(),
        _ => instruction.is_vsib() || instruction.is_call_near_indirect(),
    }
}

/// Stores of the x87 unit: AMD's CPUs look for the page even if an unmasked error keeps them from storing.
pub fn stores_from_x87(instruction: &Instruction) -> bool {
    let stores =
        matches!(instruction.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
    stores && instruction.op0_kind() == OpKind::Memory
}
