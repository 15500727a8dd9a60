//! What an instruction needs: which unit it belongs to, who executes it, and which of its accesses must be aligned.
//!
//! Facts that iced does not have (who uses MXCSR, whose memory operand must be aligned, who waits for a pending x87
//! error) are lists here, by mnemonic, and the differential test against the host's CPU holds them.
use crate::arch::state::XsaveArea;
use crate::arch::{CpuState, Cr0, Cr4, Exception, Vector, Xcr0};
use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register};

/// The condition under which an instruction may run at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// Legacy SSE on XMM registers.
    Sse,
    /// VEX-encoded.
    Avx,
    /// MMX registers only.
    Mmx,
    /// SSE with an MMX register among the operands.
    SseMmx,
    /// x87 that waits for a pending error.
    X87,
    /// x87 that does not (FNSTSW and its kin).
    X87NoWait,
    /// FWAIT.
    Wait,
    /// FXSAVE and FXRSTOR.
    Fxsave,
    /// XSAVE, XSAVEOPT and XRSTOR.
    Xsave,
}

/// Whether an x87 error is pending: an unmasked exception flag is set.
pub(super) fn x87_error_pending(area: &XsaveArea) -> bool {
    let control = area.0[XsaveArea::FCW];
    let status = area.0[XsaveArea::FCW + 2];
    status & !control & 0x3f != 0
}

impl Unit {
    /// Raises what the unit's control bits demand, before any operand is looked at.
    #[inline]
    pub(super) fn check(self, state: &CpuState) -> Result<(), Exception> {
        let blocked = state.cr0.intersects(Cr0::EM.union(Cr0::TS));
        match self {
            Self::Sse if !blocked && state.cr4.contains(Cr4::OSFXSR) => Ok(()),
            Self::Avx
                if !state.cr0.contains(Cr0::TS)
                    && state.cr4.contains(Cr4::OSXSAVE)
                    && state.xcr0.contains(Xcr0::SSE.union(Xcr0::AVX)) =>
            {
                Ok(())
            }
            _ => self.check_slowly(state),
        }
    }

    #[cold]
    fn check_slowly(self, state: &CpuState) -> Result<(), Exception> {
        let emulated = state.cr0.contains(Cr0::EM);
        let switched = state.cr0.contains(Cr0::TS);
        let undefined = match self {
            Self::Sse | Self::SseMmx => emulated || !state.cr4.contains(Cr4::OSFXSR),
            Self::Avx => {
                !state.cr4.contains(Cr4::OSXSAVE) || !state.xcr0.contains(Xcr0::SSE.union(Xcr0::AVX))
            }
            Self::Mmx => emulated,
            Self::Xsave => !state.cr4.contains(Cr4::OSXSAVE),
            Self::X87 | Self::X87NoWait | Self::Wait | Self::Fxsave => false,
        };
        let unavailable = match self {
            Self::X87 | Self::X87NoWait | Self::Fxsave => emulated || switched,
            Self::Wait => switched && state.cr0.contains(Cr0::MP),
            _ => switched,
        };
        let waits = matches!(self, Self::X87 | Self::Mmx | Self::SseMmx | Self::Wait);
        if undefined {
            Err(Exception::UD)
        } else if unavailable {
            Err(Exception::NM)
        } else if waits && x87_error_pending(&state.xsave) {
            Err(Exception::plain(Vector::X87))
        } else {
            Ok(())
        }
    }
}

/// Instructions whose whole effect is a few bits of control state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    Ldmxcsr,
    Stmxcsr,
    Vzeroupper,
    Vzeroall,
    Emms,
    Fnstcw,
    Fldcw,
    Fnstsw,
    Fnclex,
    Fninit,
    /// FWAIT, whose check is its unit's; the interrupt switches of the 8087 and FSETPM.
    Nothing,
}

/// Instructions that save or restore the whole state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Save {
    /// `wide`: with REX.W, so 64-bit instruction pointers.
    Fxsave {
        wide: bool,
    },
    Fxrstor {
        wide: bool,
    },
    /// `optimised`: XSAVEOPT.
    Xsave {
        wide: bool,
        optimised: bool,
    },
    Xrstor {
        wide: bool,
    },
}

/// Who executes the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// Registers that must differ do not: #UD.
    Undefined,
    Control(Control),
    Save(Save),
    /// Loads of chosen elements: VMASKMOVPS/PD, VPMASKMOVD/Q. The element's bytes.
    MaskedLoad(usize),
    /// Stores of chosen elements, as above.
    MaskedStore(usize),
    /// Stores of chosen bytes: MASKMOVDQU, MASKMOVQ.
    MaskedBytes,
    /// VGATHER*, VPGATHER*.
    Gather,
    /// On the host's vector registers.
    Vector,
    /// On the host's x87 or MMX registers.
    Fpu,
}

fn is_vector(register: Register) -> bool {
    register.is_xmm() || register.is_ymm()
}

fn has_register(instruction: &Instruction, which: fn(Register) -> bool) -> bool {
    (0..instruction.op_count())
        .any(|i| instruction.op_kind(i) == OpKind::Register && which(instruction.op_register(i)))
}

/// Whether this module executes the instruction.
pub(super) fn handles(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    let mine = |f: &F| {
        matches!(
            f,
            F::FPU
                | F::FPU287
                | F::FPU387
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::AVX
                | F::AVX2
                | F::FMA
                | F::F16C
                | F::AES
                | F::PCLMULQDQ
                | F::SHA
                | F::FXSR
                | F::XSAVE
                | F::XSAVEOPT
        )
    };
    // These touch no vector state: the integer side has them.
    let integer = matches!(
        instruction.mnemonic(),
        Mnemonic::Movnti
            | Mnemonic::Sfence
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Crc32
            | Mnemonic::Pause
            | Mnemonic::Clflush
            | Mnemonic::Xgetbv
            | Mnemonic::Xsetbv
    );
    let legacy_or_vex = matches!(instruction.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    let wait = instruction.mnemonic() == Mnemonic::Wait;
    legacy_or_vex && !integer && (wait || instruction.cpuid_features().iter().any(mine))
}

/// Who executes it, and under which condition.
pub(super) fn classify(instruction: &Instruction) -> (Unit, Work) {
    use Mnemonic as M;
    if !handles(instruction) {
        return (Unit::Wait, Work::Undefined);
    }
    let vex = instruction.encoding() == EncodingKind::VEX;
    let simd = if vex { Unit::Avx } else { Unit::Sse };
    match instruction.mnemonic() {
        M::Ldmxcsr | M::Vldmxcsr => (simd, Work::Control(Control::Ldmxcsr)),
        M::Stmxcsr | M::Vstmxcsr => (simd, Work::Control(Control::Stmxcsr)),
        M::Vzeroupper => (simd, Work::Control(Control::Vzeroupper)),
        M::Vzeroall => (simd, Work::Control(Control::Vzeroall)),
        M::Emms => (Unit::Mmx, Work::Control(Control::Emms)),
        M::Fnstcw => (Unit::X87NoWait, Work::Control(Control::Fnstcw)),
        M::Fldcw => (Unit::X87, Work::Control(Control::Fldcw)),
        M::Fnstsw => (Unit::X87NoWait, Work::Control(Control::Fnstsw)),
        M::Fnclex => (Unit::X87NoWait, Work::Control(Control::Fnclex)),
        M::Fninit => (Unit::X87NoWait, Work::Control(Control::Fninit)),
        M::Wait => (Unit::Wait, Work::Control(Control::Nothing)),
        M::Fneni | M::Fndisi | M::Fnsetpm => (Unit::X87NoWait, Work::Control(Control::Nothing)),
        M::Fnstenv | M::Fnsave => (Unit::X87NoWait, Work::Fpu),
        M::Fxsave => (Unit::Fxsave, Work::Save(Save::Fxsave { wide: false })),
        M::Fxsave64 => (Unit::Fxsave, Work::Save(Save::Fxsave { wide: true })),
        M::Fxrstor => (Unit::Fxsave, Work::Save(Save::Fxrstor { wide: false })),
        M::Fxrstor64 => (Unit::Fxsave, Work::Save(Save::Fxrstor { wide: true })),
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 => {
            let wide = matches!(instruction.mnemonic(), M::Xsave64 | M::Xsaveopt64);
            let optimised = matches!(instruction.mnemonic(), M::Xsaveopt | M::Xsaveopt64);
            (Unit::Xsave, Work::Save(Save::Xsave { wide, optimised }))
        }
        M::Xrstor => (Unit::Xsave, Work::Save(Save::Xrstor { wide: false })),
        M::Xrstor64 => (Unit::Xsave, Work::Save(Save::Xrstor { wide: true })),
        M::Maskmovq => (Unit::SseMmx, Work::MaskedBytes),
        M::Maskmovdqu | M::Vmaskmovdqu => (simd, Work::MaskedBytes),
        M::Vmaskmovps | M::Vpmaskmovd => (simd, masked(instruction, 4)),
        M::Vmaskmovpd | M::Vpmaskmovq => (simd, masked(instruction, 8)),
        _ if instruction.is_vsib() => (simd, Work::Gather),
        _ => {
            let mmx = has_register(instruction, Register::is_mm);
            let xmm = has_register(instruction, is_vector);
            let x87 = instruction
                .cpuid_features()
                .iter()
                .any(|f| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387));
            match (x87, mmx, xmm) {
                // FISTTP is x87 too, though it came with SSE3.
                (true, ..) => (Unit::X87, Work::Fpu),
                (_, true, true) => (Unit::SseMmx, Work::Fpu),
                (_, true, false) if uses_mxcsr(instruction) => (Unit::SseMmx, Work::Fpu),
                (_, true, false) => (Unit::Mmx, Work::Fpu),
                _ if is_fisttp(instruction) => (Unit::X87, Work::Fpu),
                // Without any vector register it converts from memory to a general register.
                _ => (simd, Work::Vector),
            }
        }
    }
}

fn is_fisttp(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Fisttp_m16int | Code::Fisttp_m32int | Code::Fisttp_m64int)
}

fn masked(instruction: &Instruction, element: usize) -> Work {
    if instruction.op0_kind() == OpKind::Memory {
        Work::MaskedStore(element)
    } else {
        Work::MaskedLoad(element)
    }
}

/// Whether the instruction reads or writes MXCSR (rounding, denormals, exception flags).
pub(super) fn uses_mxcsr(instruction: &Instruction) -> bool {
    let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    [
        "add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "comis", "ucomis", "cvt", "round", "dpp",
        "hadd", "hsub", "fm", "fnm", "rcp", "rsqrt",
    ]
    .iter()
    .any(|family| name.starts_with(family))
}

/// What a memory operand's address must be a multiple of; 1 if anything goes.
pub(crate) fn alignment(instruction: &Instruction, bytes: usize) -> u64 {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    let required = if instruction.encoding() == EncodingKind::VEX {
        matches!(
            mnemonic,
            M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
        )
    } else {
        // All 16-byte operands of legacy SSE but these.
        bytes == 16
            && !matches!(
                mnemonic,
                M::Movups
                    | M::Movupd
                    | M::Movdqu
                    | M::Lddqu
                    | M::Pcmpestri
                    | M::Pcmpestrm
                    | M::Pcmpistri
                    | M::Pcmpistrm
                    | M::Pcmpestri64
                    | M::Pcmpestrm64
            )
    };
    if required { bytes as u64 } else { 1 }
}

/// Whether an x87 instruction leaves the instruction and data pointers alone (SDM vol. 1, 8.1.8) or sets them itself.
pub(super) fn is_x87_control(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor)
}
