//! What instructions of the host name: registers, memory, conditions.

/// A general register of the host, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reg(pub u8);

/// RAX: scratch in translated code.
pub(crate) const RAX: Reg = Reg(0);
/// RCX: scratch in translated code.
pub(crate) const RCX: Reg = Reg(1);
/// RDX.
pub(crate) const RDX: Reg = Reg(2);
/// RSP: the stack of returns, in translated code.
pub(crate) const RSP: Reg = Reg(4);
/// RSI.
pub(crate) const RSI: Reg = Reg(6);
/// RDI.
pub(crate) const RDI: Reg = Reg(7);

/// A memory operand of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mem {
    pub base: Option<Reg>,
    /// Register and log2 of the scale.
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
}

/// `gs:[…]`: a field of the context, in translated code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gs(pub i32);

impl Mem {
    /// `[base + disp]`.
    pub(crate) fn at(base: Reg, disp: i32) -> Self {
        Self { base: Some(base), index: None, disp }
    }
}

/// What the r/m field of an instruction names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rm {
    Reg(u8),
    Mem(Mem),
    Gs(i32),
}

impl From<Gs> for Rm {
    fn from(gs: Gs) -> Self {
        Self::Gs(gs.0)
    }
}

impl From<Reg> for Rm {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg.0)
    }
}

impl From<Mem> for Rm {
    fn from(mem: Mem) -> Self {
        Self::Mem(mem)
    }
}

impl Rm {
    /// REX.X and REX.B (or their VEX counterparts, not inverted).
    pub(super) fn extension(self) -> u8 {
        match self {
            Self::Reg(reg) => reg >> 3 & 1,
            Self::Gs(_) => 0,
            Self::Mem(mem) => {
                mem.index.map_or(0, |(r, _)| r.0 >> 3 & 1) << 1 | mem.base.map_or(0, |r| r.0 >> 3 & 1)
            }
        }
    }
}

/// The eight operations of the classic arithmetic group, by their number in opcodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Alu {
    Add = 0,
    And = 4,
    Sub = 5,
    Cmp = 7,
}

/// Condition codes of Jcc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Condition(pub u8);

impl Condition {
    /// Unsigned: below.
    pub(crate) const BELOW: Self = Self(2);
    /// Unsigned: not below.
    pub(crate) const NOT_BELOW: Self = Self(3);
    /// Unsigned: below or equal.
    pub(crate) const NOT_ABOVE: Self = Self(6);
    /// Unsigned: above.
    pub(crate) const ABOVE: Self = Self(7);
    /// Equal.
    pub(crate) const EQUAL: Self = Self(4);
    /// Not equal.
    pub(crate) const NOT_EQUAL: Self = Self(5);
    /// Negative.
    pub(crate) const SIGN: Self = Self(8);

    /// The opposite.
    pub(crate) fn inverted(self) -> Self {
        Self(self.0 ^ 1)
    }
}
