//! Exceptions (SDM 6.3, 6.15).
use super::Gva;

/// Exception vectors 0–31.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Vector {
    /// #DE, divide error.
    DivideError = 0,
    /// #DB, debug.
    Debug = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// #BP, breakpoint (INT3).
    Breakpoint = 3,
    /// #OF, overflow (INTO).
    Overflow = 4,
    /// #BR, BOUND range exceeded.
    BoundRange = 5,
    /// #UD, invalid opcode.
    InvalidOpcode = 6,
    /// #NM, device not available.
    DeviceNotAvailable = 7,
    /// #DF, double fault.
    DoubleFault = 8,
    /// #TS, invalid TSS.
    InvalidTss = 10,
    /// #NP, segment not present.
    SegmentNotPresent = 11,
    /// #SS, stack-segment fault.
    StackFault = 12,
    /// #GP, general protection.
    GeneralProtection = 13,
    /// #PF, page fault.
    PageFault = 14,
    /// #MF, x87 error.
    X87 = 16,
    /// #AC, alignment check.
    AlignmentCheck = 17,
    /// #MC, machine check.
    MachineCheck = 18,
    /// #XM, SIMD floating-point error.
    Simd = 19,
}

impl Vector {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::DivideError,
        Self::Debug,
        Self::Nmi,
        Self::Breakpoint,
        Self::Overflow,
        Self::BoundRange,
        Self::InvalidOpcode,
        Self::DeviceNotAvailable,
        Self::DoubleFault,
        Self::InvalidTss,
        Self::SegmentNotPresent,
        Self::StackFault,
        Self::GeneralProtection,
        Self::PageFault,
        Self::X87,
        Self::AlignmentCheck,
        Self::MachineCheck,
        Self::Simd,
    ];

    /// Whether its handler is given an error code (SDM table 6-1).
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
        )
    }
}

/// An exception on its way to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// The address to be put into CR2, for #PF.
    pub cr2: Option<Gva>,
}

impl Exception {
    /// An exception without an error code.
    #[must_use]
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: None, cr2: None }
    }

    /// An exception with an error code.
    #[must_use]
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, error_code: Some(code), cr2: None }
    }

    /// #UD.
    pub const UD: Self = Self::plain(Vector::InvalidOpcode);
    /// #GP(0).
    pub const GP0: Self = Self::with_code(Vector::GeneralProtection, 0);
    /// #SS(0).
    pub const SS0: Self = Self::with_code(Vector::StackFault, 0);
    /// #NM.
    pub const NM: Self = Self::plain(Vector::DeviceNotAvailable);
    /// #DE.
    pub const DE: Self = Self::plain(Vector::DivideError);

    /// #PF at `address`; `code` is made of [`PageFaultCode`].
    #[must_use]
    pub const fn page_fault(address: Gva, code: PageFaultCode) -> Self {
        Self { vector: Vector::PageFault, error_code: Some(code.bits()), cr2: Some(address) }
    }
}

bitflags::bitflags! {
    /// Error code of #PF (SDM 4.7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
    pub struct PageFaultCode: u32 {
        /// The translation was present: a protection violation.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was made at ring 3.
        const USER = 1 << 2;
        /// A reserved bit was set in a paging structure.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The page's protection key forbids the access.
        const KEY = 1 << 5;
    }
}

/// How two exceptions in a row combine (SDM table 6-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// The second one is delivered on its own.
    Serial,
    /// #DF takes their place.
    Double,
    /// The processor shuts down.
    Triple,
}

/// What happens when `second` is raised while `first` is being delivered.
#[must_use]
pub fn combine(first: Vector, second: Vector) -> Combined {
    let contributory = |v: Vector| {
        matches!(
            v,
            Vector::DivideError
                | Vector::InvalidTss
                | Vector::SegmentNotPresent
                | Vector::StackFault
                | Vector::GeneralProtection
        )
    };
    match (first, second) {
        (Vector::DoubleFault, s) if contributory(s) || s == Vector::PageFault => Combined::Triple,
        (f, s) if contributory(f) && contributory(s) => Combined::Double,
        (Vector::PageFault, s) if contributory(s) || s == Vector::PageFault => Combined::Double,
        _ => Combined::Serial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_combine_as_in_the_manuals_table() {
        use Vector::{
            DivideError as De, DoubleFault as Df, GeneralProtection as Gp, InvalidOpcode as Ud,
            PageFault as Pf,
        };
        assert_eq!(combine(Ud, Gp), Combined::Serial);
        assert_eq!(combine(Gp, Pf), Combined::Serial);
        assert_eq!(combine(Gp, De), Combined::Double);
        assert_eq!(combine(Pf, Pf), Combined::Double);
        assert_eq!(combine(Pf, Ud), Combined::Serial);
        assert_eq!(combine(Df, Pf), Combined::Triple);
        assert_eq!(combine(Df, Ud), Combined::Serial);
    }
}
