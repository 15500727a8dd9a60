//! Where guest registers live while translated code runs. This is the only place that knows.
//!
//! | guest | host |
//! |---|---|
//! | RAX, RCX, RSP | R12, R13, R15 |
//! | RDX, RBX, RBP, RSI, RDI, R8–R11, R14 | themselves |
//! | R12, R13, R15 | the context |
//! | XMM0–15, YMM0–15, MXCSR | themselves, once a block that uses them was entered |
//! | status flags | the host's, or the context when glue needed the host's |
//!
//! RAX and RCX of the host are scratch (LAHF, CL, JRCXZ and multiplications want them), the base of GS is the
//! context, and RSP is the stack of returns; see [`super::context`]. Of the guest's registers compilers take R12, R13 and
//! R15 last.
use crate::emulator::emit::Reg;

/// Host registers of the guest's sixteen, `None` for those in the context.
const HOME: [Option<Reg>; 16] = {
    const fn same(n: u8) -> Option<Reg> {
        Some(Reg(n))
    }
    [
        same(12),
        same(13),
        same(2),
        same(3),
        same(15),
        same(5),
        same(6),
        same(7),
        same(8),
        same(9),
        same(10),
        same(11),
        None,
        None,
        same(14),
        None,
    ]
};

/// The guest's stack pointer.
pub(crate) const GUEST_RSP: Reg = Reg(15);
/// The guest's RAX.
pub(crate) const GUEST_RAX: Reg = Reg(12);
/// The guest's RCX.
pub(crate) const GUEST_RCX: Reg = Reg(13);
/// The guest's RBX.
pub(crate) const GUEST_RBX: Reg = Reg(3);
/// The guest's RDX.
pub(crate) const GUEST_RDX: Reg = Reg(2);
/// The guest's R11.
pub(crate) const GUEST_R11: Reg = Reg(11);
/// The guest's RBP.
pub(crate) const GUEST_RBP: Reg = Reg(5);

/// The host register of a guest register.
pub(crate) const fn home(guest: u8) -> Option<Reg> {
    HOME[(guest & 15) as usize]
}

/// Guest registers with their host registers.
pub(crate) fn pinned() -> impl Iterator<Item = (u8, Reg)> {
    (0..16).filter_map(|guest| home(guest).map(|reg| (guest, reg)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_register_is_given_twice_and_scratch_is_free() {
        let mut seen = [false; 16];
        for (_, reg) in pinned() {
            assert!(!matches!(reg.0, 0 | 1 | 4), "scratch and the context are not the guest's");
            assert!(!std::mem::replace(&mut seen[usize::from(reg.0)], true));
        }
        assert_eq!(pinned().count(), 13);
        assert_eq!(home(4), Some(GUEST_RSP));
        assert_eq!((home(2), home(3), home(11)), (Some(GUEST_RDX), Some(GUEST_RBX), Some(GUEST_R11)));
        assert_eq!((home(0), home(1), home(5)), (Some(GUEST_RAX), Some(GUEST_RCX), Some(GUEST_RBP)));
    }
}
