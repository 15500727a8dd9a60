//! Model-specific registers that belong to the CPU (SDM vol. 4); those that belong to the platform's chips, as
//! [`APIC_BASE`], are answered by the platform.

/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;
/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_TSC_ADJUST.
pub const TSC_ADJUST: u32 = 0x3b;
/// IA32_BIOS_SIGN_ID: microcode version.
pub const BIOS_SIGN_ID: u32 = 0x8b;
/// IA32_MTRRCAP.
pub const MTRR_CAP: u32 = 0xfe;
/// IA32_SYSENTER_CS.
pub const SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
pub const SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
pub const SYSENTER_EIP: u32 = 0x176;
/// IA32_MISC_ENABLE.
pub const MISC_ENABLE: u32 = 0x1a0;
/// IA32_PAT.
pub const PAT: u32 = 0x277;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// STAR: selectors of SYSCALL and SYSRET.
pub const STAR: u32 = 0xc000_0081;
/// LSTAR: target of SYSCALL from 64-bit code.
pub const LSTAR: u32 = 0xc000_0082;
/// CSTAR: target of SYSCALL from compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// SFMASK: flags that SYSCALL clears.
pub const SFMASK: u32 = 0xc000_0084;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
/// The base that SWAPGS exchanges with GS.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Value that RDTSCP and RDPID return.
pub const TSC_AUX: u32 = 0xc000_0103;

/// The value of an MSR that never changes: virtualization is locked off, no microcode, no MTRRs.
#[must_use]
pub const fn constant(index: u32) -> Option<u64> {
    match index {
        FEATURE_CONTROL => Some(1),
        BIOS_SIGN_ID | MTRR_CAP => Some(0),
        _ => None,
    }
}

/// Whether a write to this MSR is accepted and changes nothing.
#[must_use]
pub const fn ignores_writes(index: u32) -> bool {
    index == BIOS_SIGN_ID
}

/// The CPU's MSRs that are not held elsewhere in [`super::CpuState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msrs {
    /// See [`STAR`].
    pub star: u64,
    /// See [`LSTAR`].
    pub lstar: u64,
    /// See [`CSTAR`].
    pub cstar: u64,
    /// See [`SFMASK`].
    pub sfmask: u64,
    /// See [`KERNEL_GS_BASE`].
    pub kernel_gs_base: u64,
    /// See [`SYSENTER_CS`].
    pub sysenter_cs: u64,
    /// See [`SYSENTER_ESP`].
    pub sysenter_esp: u64,
    /// See [`SYSENTER_EIP`].
    pub sysenter_eip: u64,
    /// See [`PAT`].
    pub pat: u64,
    /// See [`TSC_AUX`].
    pub tsc_aux: u64,
    /// See [`MISC_ENABLE`].
    pub misc_enable: u64,
    /// What the guest's TSC is ahead of the clock's, by writes to [`TSC`] and [`TSC_ADJUST`]; in ticks, wrapping.
    pub tsc_adjust: u64,
}

impl Default for Msrs {
    /// The values after reset.
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            tsc_aux: 0,
            misc_enable: 1,
            tsc_adjust: 0,
        }
    }
}
