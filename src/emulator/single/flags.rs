//! The six status flags while code runs: as the host's LAHF and SETO leave them in AX.
//!
//! Guest and host are the same machine, so the host computes the flags: AH holds SF, ZF, AF, PF and CF at their places
//! in RFLAGS bits 7:0, AL holds OF. All other bits of RFLAGS stay in [`crate::arch::CpuState::rflags`].
use crate::arch::Rflags;

/// Status flags as AX after `lahf; seto al`.
pub(crate) type Flags = u16;

/// Overflow.
pub(crate) const OF: Flags = 1;
/// Carry.
pub(crate) const CF: Flags = 1 << 8;
/// Parity.
pub(crate) const PF: Flags = 1 << 10;
/// Auxiliary carry.
pub(crate) const AF: Flags = 1 << 12;
/// Zero.
pub(crate) const ZF: Flags = 1 << 14;
/// Sign.
pub(crate) const SF: Flags = 1 << 15;

/// The status flags of `rflags`.
#[inline]
pub(crate) fn from_rflags(rflags: Rflags) -> Flags {
    let bits = rflags.bits();
    ((bits & 0xd5) << 8) as Flags | (bits >> 11 & 1) as Flags
}

/// `rflags` with its status flags replaced.
#[inline]
pub(crate) fn into_rflags(flags: Flags, rflags: Rflags) -> Rflags {
    let status = u64::from(flags >> 8 & 0xd5) | u64::from(flags & OF) << 11;
    Rflags::from_bits_retain(rflags.bits() & !Rflags::STATUS.bits() | status)
}

/// Sets or clears one flag.
#[inline]
pub(crate) fn with(flags: Flags, bit: Flags, on: bool) -> Flags {
    if on { flags | bit } else { flags & !bit }
}

/// Whether the condition with code `CC` (the low four bits of the opcodes of Jcc) holds.
#[inline(always)]
pub(crate) fn holds<const CC: u8>(flags: Flags) -> bool {
    let less = (flags >> 15) ^ (flags & OF) != 0;
    let base = match CC >> 1 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => less || flags & ZF != 0,
    };
    base != (CC & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_to_rflags_and_back() {
        for bits in 0..0x1000_u64 {
            let rflags = Rflags::from_bits_retain(bits);
            let back = into_rflags(from_rflags(rflags), Rflags::empty());
            assert_eq!(back, rflags & Rflags::STATUS);
        }
    }

    #[test]
    fn conditions_come_in_pairs_and_compare_signed_numbers() {
        let less = SF;
        assert!(holds::<0xc>(less) && !holds::<0xd>(less) && holds::<0xe>(less));
        assert!(!holds::<0xc>(SF | OF) && holds::<0xf>(SF | OF));
        assert!(holds::<4>(ZF) && holds::<6>(ZF) && !holds::<7>(CF));
        assert!(holds::<0xe>(ZF) && !holds::<0xf>(ZF) && holds::<0xa>(PF) && holds::<0>(OF));
    }
}
