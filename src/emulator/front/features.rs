//! What the guest's CPUID offers: instructions outside it are #UD, and addresses have no more bits.
use crate::abi;
use crate::arch::Cr4;
use crate::arch::cpuid::CpuidTable;
use iced_x86::{CpuidFeature, Instruction, Mnemonic};

/// What is offered.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// Which of iced's feature names, by number.
    instructions: [bool; 256],
    /// VMCALL, which is of no use without hypercalls.
    hypercalls: bool,
    physical_bits: u8,
}

impl Features {
    /// What `table` offers.
    pub(crate) fn of(table: &CpuidTable) -> Self {
        use CpuidFeature as F;
        let leaf = |leaf, subleaf| table.query(leaf, subleaf, Cr4::empty());
        let (one, seven, save, extended) = (leaf(1, 0), leaf(7, 0), leaf(0xd, 1), leaf(0x8000_0001, 0));
        let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
        let mut offered = [false; 256];
        let mut set = |feature: CpuidFeature, on: bool| offered[feature as usize & 0xff] = on;
        // Instructions of every 64-bit CPU; those with a bit of their own that we always offer are here too.
        for feature in [
            F::INTEL8086,
            F::INTEL8086_ONLY,
            F::INTEL186,
            F::INTEL286,
            F::INTEL386,
            F::INTEL486,
            F::X64,
            F::CPUID,
            F::MULTIBYTENOP,
            F::PAUSE,
            F::RDPMC,
            F::FPU287,
            F::FPU387,
            F::SMM,
        ] {
            set(feature, true);
        }
        for (feature, on) in [
            (F::FPU, bit(one.edx, 0)),
            (F::TSC, bit(one.edx, 4)),
            (F::MSR, bit(one.edx, 5)),
            (F::CX8, bit(one.edx, 8)),
            (F::SEP, bit(one.edx, 11)),
            (F::CMOV, bit(one.edx, 15)),
            (F::CLFSH, bit(one.edx, 19)),
            (F::MMX, bit(one.edx, 23)),
            (F::FXSR, bit(one.edx, 24)),
            (F::SSE, bit(one.edx, 25)),
            (F::SSE2, bit(one.edx, 26)),
            (F::SSE3, bit(one.ecx, 0)),
            (F::PCLMULQDQ, bit(one.ecx, 1)),
            (F::MONITOR, bit(one.ecx, 3)),
            (F::SSSE3, bit(one.ecx, 9)),
            (F::FMA, bit(one.ecx, 12)),
            (F::CMPXCHG16B, bit(one.ecx, 13)),
            (F::SSE4_1, bit(one.ecx, 19)),
            (F::SSE4_2, bit(one.ecx, 20)),
            (F::MOVBE, bit(one.ecx, 22)),
            (F::POPCNT, bit(one.ecx, 23)),
            (F::AES, bit(one.ecx, 25)),
            (F::XSAVE, bit(one.ecx, 26)),
            (F::AVX, bit(one.ecx, 28)),
            (F::F16C, bit(one.ecx, 29)),
            (F::RDRAND, bit(one.ecx, 30)),
            (F::FSGSBASE, bit(seven.ebx, 0)),
            (F::BMI1, bit(seven.ebx, 3)),
            (F::AVX2, bit(seven.ebx, 5)),
            (F::BMI2, bit(seven.ebx, 8)),
            (F::INVPCID, bit(seven.ebx, 10)),
            (F::RDSEED, bit(seven.ebx, 18)),
            (F::ADX, bit(seven.ebx, 19)),
            (F::SMAP, bit(seven.ebx, 20)),
            (F::CLFLUSHOPT, bit(seven.ebx, 23)),
            (F::CLWB, bit(seven.ebx, 24)),
            (F::SHA, bit(seven.ebx, 29)),
            (F::VAES, bit(seven.ecx, 9)),
            (F::VPCLMULQDQ, bit(seven.ecx, 10)),
            (F::PKU, bit(seven.ecx, 3)),
            (F::RDPID, bit(seven.ecx, 22)),
            (F::SERIALIZE, bit(seven.edx, 14)),
            (F::XSAVEOPT, bit(save.eax, 0)),
            (F::XSAVEC, bit(save.eax, 1)),
            (F::XSAVES, bit(save.eax, 3)),
            (F::LZCNT, bit(extended.ecx, 5)),
            (F::PREFETCHW, bit(extended.ecx, 8)),
            (F::SYSCALL, bit(extended.edx, 11)),
            (F::RDTSCP, bit(extended.edx, 27)),
        ] {
            set(feature, on);
        }
        let hypercalls = leaf(abi::CPUID_CALLS, 0).ebx != 0;
        Self { instructions: offered, hypercalls, physical_bits: table.physical_bits() }
    }

    /// Whether the guest may use `instruction`.
    pub(crate) fn offers(&self, instruction: &Instruction) -> bool {
        if instruction.mnemonic() == Mnemonic::Vmcall {
            return self.hypercalls;
        }
        instruction.cpuid_features().iter().all(|&f| self.instructions[f as usize & 0xff])
    }

    /// MAXPHYADDR.
    pub(crate) fn physical_bits(&self) -> u8 {
        self.physical_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host_cpuid;
    use iced_x86::Code;

    #[test]
    fn what_cpuid_hides_is_not_offered() {
        let offered = |host: fn(u32, u32) -> _, code| {
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            Features::of(&CpuidTable::from_host(host)).offers(&instruction)
        };
        assert!(!offered(|_, _| Default::default(), Code::VEX_Andn_r32_r32_rm32));
        assert!(!offered(host_cpuid::query, Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er));
        assert!(offered(host_cpuid::query, Code::Add_rm64_r64));
        assert!(offered(host_cpuid::query, Code::Syscall));
    }
}
