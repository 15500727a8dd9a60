//! Control registers, EFER and XCR0 (SDM 2.5, 2.2.1, 2.6).
use bitflags::bitflags;

bitflags! {
    /// CR0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation: x87 and SSE fault.
        const EM = 1 << 2;
        /// Task switched: the next x87/SSE/AVX instruction raises #NM.
        const TS = 1 << 3;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Numeric error: x87 errors raise #MF.
        const NE = 1 << 5;
        /// Write protect: the supervisor obeys read-only pages.
        const WP = 1 << 16;
        /// Alignment mask: RFLAGS.AC checks alignment at ring 3.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }
}

bitflags! {
    /// CR4.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at ring 0.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// 4 MiB pages in 32-bit paging.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine check.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any ring.
        const PCE = 1 << 8;
        /// FXSAVE and SSE are enabled.
        const OSFXSR = 1 << 9;
        /// SIMD errors raise #XM.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT, SIDT, SLDT, SMSW, STR only at ring 0.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// RDFSBASE and its kin are enabled.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XGETBV are enabled.
        const OSXSAVE = 1 << 18;
        /// The supervisor may not execute user pages.
        const SMEP = 1 << 20;
        /// The supervisor may not touch user pages unless RFLAGS.AC is set.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// Protection keys for supervisor pages.
        const PKS = 1 << 24;
    }
}

bitflags! {
    /// IA32_EFER.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET are enabled.
        const SCE = 1 << 0;
        /// Long mode is enabled.
        const LME = 1 << 8;
        /// Long mode is active.
        const LMA = 1 << 10;
        /// No-execute pages are enabled.
        const NXE = 1 << 11;
    }
}

bitflags! {
    /// XCR0: which state components XSAVE handles and AVX instructions may use (SDM vol. 1, 13.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Xcr0: u64 {
        /// x87, always one.
        const X87 = 1 << 0;
        /// SSE: XMM and MXCSR.
        const SSE = 1 << 1;
        /// AVX: upper halves of YMM.
        const AVX = 1 << 2;
        /// PKRU.
        const PKRU = 1 << 9;
    }
}

impl Default for Xcr0 {
    /// The value after reset.
    fn default() -> Self {
        Self::X87
    }
}

impl Xcr0 {
    /// Whether XSETBV takes it (SDM vol. 1, 13.3). That CPUID offers each of its bits is another question.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.contains(Self::X87) && (self.contains(Self::SSE) || !self.contains(Self::AVX))
    }
}

impl Cr0 {
    /// Bits that exist; writing another one of the upper half raises #GP.
    pub const DEFINED: Self = Self::all();
}

impl Cr4 {
    /// Bits that each of our guests may set, all of them offered by [`super::cpuid`]. Others raise #GP, but for those of
    /// features that only some modes offer: [`Self::OPTIONAL`].
    pub const SUPPORTED: Self = Self::TSD
        .union(Self::DE)
        .union(Self::PSE)
        .union(Self::PAE)
        .union(Self::MCE)
        .union(Self::PGE)
        .union(Self::PCE)
        .union(Self::OSFXSR)
        .union(Self::OSXMMEXCPT)
        .union(Self::UMIP)
        .union(Self::FSGSBASE)
        .union(Self::OSXSAVE)
        .union(Self::SMEP)
        .union(Self::SMAP);
    /// Bits that guests may set where CPUID offers what they are for.
    pub const OPTIONAL: Self = Self::PCIDE.union(Self::PKE).union(Self::PKS);
}
