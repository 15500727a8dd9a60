//! Model-specific registers that belong to the CPU (SDM vol. 4); those that belong to the platform's chips, as
//! [`APIC_BASE`], are answered by the platform.

/// IA32_P5_MC_ADDR: where a machine check was, as the Pentium had it.
pub const P5_MC_ADDR: u32 = 0;
/// IA32_P5_MC_TYPE.
pub const P5_MC_TYPE: u32 = 1;
/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;
/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// In [`APIC_BASE`]: x2APIC mode.
pub const APIC_BASE_X2APIC: u64 = 1 << 10;
/// In [`APIC_BASE`]: the local APIC is enabled.
pub const APIC_BASE_ENABLE: u64 = 1 << 11;
/// IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_TSC_ADJUST.
pub const TSC_ADJUST: u32 = 0x3b;
/// IA32_SPEC_CTRL.
pub const SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD: commands, which read back as nothing.
pub const PRED_CMD: u32 = 0x49;
/// IA32_ARCH_CAPABILITIES.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
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
/// IA32_MCG_CAP: what there is of the machine-check architecture. No banks, and so nothing else.
pub const MCG_CAP: u32 = 0x179;
/// IA32_MCG_STATUS.
pub const MCG_STATUS: u32 = 0x17a;
/// IA32_MISC_ENABLE.
pub const MISC_ENABLE: u32 = 0x1a0;
/// IA32_TSC_DEADLINE: the local APIC's.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// IA32_PKRS: rights of supervisor pages by protection key.
pub const PKRS: u32 = 0x6e1;
/// The first MSR of the local APIC in x2APIC mode.
pub const X2APIC: u32 = 0x800;
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
/// The first of AMD's four pairs of performance counters of old, the selections first, which every CPU of AMD's has
/// (APM vol. 2, 13.2).
pub const K7_EVENT_SELECT: u32 = 0xc001_0000;
/// The last of them.
pub const K7_COUNTER_LAST: u32 = 0xc001_0007;
/// AMD's hardware configuration register (HWCR, PPR of family 19h).
pub const AMD_HWCR: u32 = 0xc001_0015;
/// HWCR.TscFreqSel: the TSC counts at the rate of P0, whatever the CPU's frequency. Linux calls its absence a firmware bug.
const HWCR_TSC_AT_P0: u64 = 1 << 24;
/// AMD's northbridge configuration register.
pub const AMD_NB_CONFIGURATION: u32 = 0xc001_001f;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
/// The base that SWAPGS exchanges with GS.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Value that RDTSCP and RDPID return.
pub const TSC_AUX: u32 = 0xc000_0103;

/// KVM's MSR that names the structure for the date (Linux, `Documentation/virt/kvm/x86/msr.rst`).
pub const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
/// KVM's MSR that names a CPU's structure for the time.
pub const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// [`ARCH_CAPABILITIES`] where CPUID offers it: the guest needs no measures against RDCL, L1TF, MDS, TAA, stale MMIO data,
/// GDS, RFDS, branch history and ITS, and with IBRS set once none against branch targets.
const CAPABILITIES: u64 = 1 << 0 // RDCL_NO
    | 1 << 1 // IBRS_ALL
    | 1 << 3 // SKIP_L1DFL_VMENTRY
    | 1 << 4 // SSB_NO
    | 1 << 5 // MDS_NO
    | 1 << 6 // IF_PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 1 << 13 // SBDR_SSDP_NO
    | 1 << 14 // FBSDP_NO
    | 1 << 15 // PSDP_NO
    | 1 << 20 // BHI_NO
    | 1 << 24 // PBRSB_NO
    | 1 << 26 // GDS_NO
    | 1 << 27 // RFDS_NO
    | 1 << 62; // ITS_NO

/// Bits of [`SPEC_CTRL`] that a guest may set: IBRS.
pub const SPEC_CTRL_BITS: u64 = 1;

/// The value of an MSR that never changes: virtualization is locked off, no microcode, no MTRRs, no machine checks, and
/// AMD's counters of old count nothing. No feature of CPUID's tells of those, nor of AMD's two configuration registers, so
/// guests take them for granted.
#[must_use]
pub const fn constant(index: u32) -> Option<u64> {
    match index {
        FEATURE_CONTROL => Some(1),
        BIOS_SIGN_ID | MTRR_CAP | MCG_CAP | MCG_STATUS | P5_MC_ADDR | P5_MC_TYPE => Some(0),
        K7_EVENT_SELECT..=K7_COUNTER_LAST | AMD_NB_CONFIGURATION => Some(0),
        AMD_HWCR => Some(HWCR_TSC_AT_P0),
        ARCH_CAPABILITIES => Some(CAPABILITIES),
        _ => None,
    }
}

/// Whether a write of `value` to this MSR is accepted and changes nothing. Those of machine checks are for clearing.
#[must_use]
pub const fn ignores_write(index: u32, value: u64) -> bool {
    match index {
        BIOS_SIGN_ID | PRED_CMD | K7_EVENT_SELECT..=K7_COUNTER_LAST => true,
        AMD_HWCR | AMD_NB_CONFIGURATION => true,
        MCG_STATUS | P5_MC_ADDR | P5_MC_TYPE => value == 0,
        _ => false,
    }
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
    /// See [`SPEC_CTRL`].
    pub spec_ctrl: u64,
    /// See [`PKRS`].
    pub pkrs: u64,
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
            spec_ctrl: 0,
            pkrs: 0,
            tsc_adjust: 0,
        }
    }
}
