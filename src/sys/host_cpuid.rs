//! The host's CPUID.
use crate::arch::cpuid::CpuidResult;

/// What the host's CPUID says. The cost is that of the instruction: on a virtual host, an exit of some microseconds.
#[must_use]
pub fn query(leaf: u32, subleaf: u32) -> CpuidResult {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}
