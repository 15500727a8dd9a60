//! Hands the platform's CPUID table to KVM, which answers the instruction without leaving the kernel.
//!
//! KVM keeps the bits that follow the CPU's state up to date itself: OSXSAVE follows CR4, the size in leaf 0xd XCR0.
use super::host;
use crate::arch::cpuid::CpuidTable;
use crate::engine::EngineError;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;

/// The rows as KVM wants them.
fn rows(table: &CpuidTable) -> Vec<kvm_cpuid_entry2> {
    table
        .entries()
        .iter()
        .map(|entry| kvm_cpuid_entry2 {
            function: entry.leaf,
            index: entry.subleaf.unwrap_or(0),
            flags: if entry.subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: entry.result.eax,
            ebx: entry.result.ebx,
            ecx: entry.result.ecx,
            edx: entry.result.edx,
            ..kvm_cpuid_entry2::default()
        })
        .collect()
}

/// Sets what CPUID says. To be called before the first KVM_RUN.
pub(super) fn set(vcpu: &VcpuFd, table: &CpuidTable) -> Result<(), EngineError> {
    let rows = CpuId::from_entries(&rows(table)).map_err(|_| EngineError::Host {
        what: "cannot make a CPUID table for KVM",
        source: std::io::Error::other("it has too many rows"),
    })?;
    vcpu.set_cpuid2(&rows).map_err(host("KVM refuses the guest's CPUID"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host_cpuid;

    #[test]
    fn subleaves_are_marked_as_such() {
        let table = CpuidTable::from_host(host_cpuid::query);
        for (row, entry) in rows(&table).iter().zip(table.entries()) {
            assert_eq!(row.function, entry.leaf);
            assert_eq!(row.flags != 0, entry.subleaf.is_some());
        }
    }
}
