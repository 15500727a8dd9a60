//! Integers of the four operand sizes and their arithmetic, flags included, done by the host's own instructions.
//!
//! Each operation is the guest's instruction itself between "flags in" and "flags out" ([`super::flags`]): results,
//! defined flags and, on a host of the same make, undefined flags are those of the hardware; but for those of divisions,
//! which leave the flags alone.
#![expect(unsafe_code, reason = "flags can only be had from the host's instructions by inline assembly")]
use super::flags::Flags;
use std::arch::asm;
use std::sync::LazyLock;

/// An operand: `u8`, `u16`, `u32` or `u64`.
pub(crate) trait Int: Copy + Eq + Ord + std::fmt::Debug + Default + 'static {
    /// Bytes.
    const BYTES: usize;
    /// Bits.
    const BITS: u32;
    /// The low bits of `value`.
    fn of(value: u64) -> Self;
    /// Zero-extended.
    fn zx(self) -> u64;
    /// Sign-extended.
    fn sx(self) -> u64;

    /// ADD.
    fn add(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// ADC.
    fn adc(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// SUB and CMP.
    fn sub(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// SBB.
    fn sbb(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// AND and TEST.
    fn and(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// OR.
    fn or(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// XOR.
    fn xor(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// INC.
    fn inc(a: Self, f: Flags) -> (Self, Flags);
    /// DEC.
    fn dec(a: Self, f: Flags) -> (Self, Flags);
    /// NEG.
    fn neg(a: Self, f: Flags) -> (Self, Flags);
    /// SHL.
    fn shl(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// SHR.
    fn shr(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// SAR.
    fn sar(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// ROL.
    fn rol(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// ROR.
    fn ror(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// RCL.
    fn rcl(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// RCR.
    fn rcr(a: Self, count: u8, f: Flags) -> (Self, Flags);
    /// One-operand MUL of `a.rax`.
    fn mul(a: Pair, b: Self, f: Flags) -> (Pair, Flags);
    /// One-operand IMUL.
    fn imul_wide(a: Pair, b: Self, f: Flags) -> (Pair, Flags);
    /// DIV. `None` for what is #DE.
    fn div(a: Pair, b: Self) -> Option<Pair>;
    /// IDIV. `None` for what is #DE.
    fn idiv(a: Pair, b: Self) -> Option<Pair>;
}

/// The registers that multiplications and divisions have as an operand and leave their results in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// RAX.
    pub rax: u64,
    /// RDX.
    pub rdx: u64,
}

/// Operations that do not exist for bytes.
pub(crate) trait Wide: Int {
    /// SHLD: bits of `b` enter `a` from below.
    fn shld(a: Self, b: Self, count: u8, f: Flags) -> (Self, Flags);
    /// SHRD: bits of `b` enter `a` from above.
    fn shrd(a: Self, b: Self, count: u8, f: Flags) -> (Self, Flags);
    /// BT.
    fn bt(a: Self, bit: Self, f: Flags) -> (Self, Flags);
    /// BTS.
    fn bts(a: Self, bit: Self, f: Flags) -> (Self, Flags);
    /// BTR.
    fn btr(a: Self, bit: Self, f: Flags) -> (Self, Flags);
    /// BTC.
    fn btc(a: Self, bit: Self, f: Flags) -> (Self, Flags);
    /// BSF; `old` is the destination, which stays if the source is zero.
    fn bsf(source: Self, old: Self, f: Flags) -> (Self, Flags);
    /// BSR.
    fn bsr(source: Self, old: Self, f: Flags) -> (Self, Flags);
    /// LZCNT.
    fn lzcnt(source: Self, old: Self, f: Flags) -> (Self, Flags);
    /// TZCNT.
    fn tzcnt(source: Self, old: Self, f: Flags) -> (Self, Flags);
    /// POPCNT.
    fn popcnt(source: Self, old: Self, f: Flags) -> (Self, Flags);
    /// Two-operand IMUL.
    fn imul(a: Self, b: Self, f: Flags) -> (Self, Flags);
}

/// Operations that exist for 32 and 64 bits only (BMI1, BMI2, ADX).
pub(crate) trait Bmi: Wide {
    /// ANDN: `!a & b`.
    fn andn(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// BEXTR.
    fn bextr(a: Self, control: Self, f: Flags) -> (Self, Flags);
    /// BZHI.
    fn bzhi(a: Self, index: Self, f: Flags) -> (Self, Flags);
    /// BLSI.
    fn blsi(a: Self, f: Flags) -> (Self, Flags);
    /// BLSMSK.
    fn blsmsk(a: Self, f: Flags) -> (Self, Flags);
    /// BLSR.
    fn blsr(a: Self, f: Flags) -> (Self, Flags);
    /// PDEP.
    fn pdep(a: Self, mask: Self, f: Flags) -> (Self, Flags);
    /// PEXT.
    fn pext(a: Self, mask: Self, f: Flags) -> (Self, Flags);
    /// ADCX.
    fn adcx(a: Self, b: Self, f: Flags) -> (Self, Flags);
    /// ADOX.
    fn adox(a: Self, b: Self, f: Flags) -> (Self, Flags);
}

impl Pair {
    /// What is divided: AX for 8 bits, else (R/E)DX:(R/E)AX.
    fn dividend(self, bits: u32) -> u128 {
        let low = |value: u64| u128::from(value & (u64::MAX >> (64 - bits)));
        if bits == 8 { (self.rax & 0xffff).into() } else { low(self.rdx) << bits | low(self.rax) }
    }
}

/// Whether the host's MUL and IMUL write all status flags, as Intel's do, or leave those that are undefined as they were,
/// as AMD's do.
pub(crate) static PRODUCTS_SET_FLAGS: LazyLock<bool> =
    LazyLock::new(|| u64::imul(3, 5, 0).1 == u64::imul(3, 5, !0).1);

/// `op a, b` that sets all status flags it defines and reads none.
macro_rules! binary {
    ($name:ident, $t:ty, $class:ident, $m:literal, $insn:literal) => {
        #[inline(always)]
        fn $name(mut a: $t, b: $t, _: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!(concat!($insn, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, b = in($class) b, out("ax") f, options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op a, b` after the carry is set.
macro_rules! binary_carry {
    ($name:ident, $t:ty, $class:ident, $m:literal, $insn:literal) => {
        #[inline(always)]
        fn $name(mut a: $t, b: $t, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("bt {f:e}, 8", concat!($insn, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, b = in($class) b, f = in(reg) u32::from(flags), out("ax") f,
                    options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op a` after the carry is set (INC and DEC keep it, NEG overwrites it).
macro_rules! unary {
    ($name:ident, $t:ty, $class:ident, $m:literal, $insn:literal) => {
        #[inline(always)]
        fn $name(mut a: $t, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("bt {f:e}, 8", concat!($insn, " {a", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, f = in(reg) u32::from(flags), out("ax") f,
                    options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op a, cl` with all flags set before: a count of zero leaves them.
macro_rules! shift {
    ($name:ident, $t:ty, $class:ident, $m:literal, $insn:literal) => {
        #[inline(always)]
        fn $name(mut a: $t, count: u8, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a, in("cl") count, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op a, b, cl` with all flags set before.
macro_rules! double_shift {
    ($name:ident, $t:ty, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(mut a: $t, b: $t, count: u8, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {a", $m, "}, {b", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) a, b = in(reg) b, in("cl") count, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op a, b` with all flags set before, for instructions that leave some of them.
macro_rules! binary_keep {
    ($name:ident, $t:ty, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(mut a: $t, b: $t, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) a, b = in(reg) b, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (a, f)
        }
    };
}

/// `op old, source` with all flags set before: the result replaces `old`.
macro_rules! scan {
    ($name:ident, $t:ty, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(source: $t, mut old: $t, flags: Flags) -> ($t, Flags) {
            let f: Flags;
            // SAFETY: computes on registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) old, b = in(reg) source, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (old, f)
        }
    };
}

/// `op result, a, b` (VEX) with all flags set before.
macro_rules! vex3 {
    ($name:ident, $t:ty, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(a: $t, b: $t, flags: Flags) -> ($t, Flags) {
            let (r, f): ($t, Flags);
            // SAFETY: computes on registers only; the instruction is offered to guests only if the host has it.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {r", $m, "}, {a", $m, "}, {b", $m, "}"),
                    "lahf", "seto al",
                    r = out(reg) r, a = in(reg) a, b = in(reg) b, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (r, f)
        }
    };
}

/// `op result, a` (VEX) with all flags set before.
macro_rules! vex2 {
    ($name:ident, $t:ty, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(a: $t, flags: Flags) -> ($t, Flags) {
            let (r, f): ($t, Flags);
            // SAFETY: as for `vex3`.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($insn, " {r", $m, "}, {a", $m, "}"), "lahf", "seto al",
                    r = out(reg) r, a = in(reg) a, inout("ax") flags => f,
                    options(pure, nomem, nostack));
            }
            (r, f)
        }
    };
}

/// `op b` on RAX and RDX with all flags set before: which of them a product or quotient leaves is the CPU's own.
macro_rules! pair {
    ($name:ident, $t:ty, $class:ident, $m:literal, $insn:literal) => {
        #[inline]
        fn $name(a: Pair, b: $t, flags: Flags) -> (Pair, Flags) {
            let (rax, rdx, f);
            // SAFETY: computes on registers only; a quotient fits, as the caller has seen.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!($insn, " {b", $m, "}"), "mov {a}, rax",
                    "lahf", "seto al", a = inout(reg) a.rax => rax, b = in($class) b, inout("rdx") a.rdx => rdx,
                    inout("ax") flags => f, options(nomem, nostack));
            }
            (Pair { rax, rdx }, f)
        }
    };
}

macro_rules! int {
    ($t:ty, $signed:ty, $class:ident, $m:literal) => {
        impl Int for $t {
            const BYTES: usize = size_of::<$t>();
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn of(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn zx(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sx(self) -> u64 {
                self as $signed as i64 as u64
            }
            binary!(add, $t, $class, $m, "add");
            binary_carry!(adc, $t, $class, $m, "adc");
            binary!(sub, $t, $class, $m, "sub");
            binary_carry!(sbb, $t, $class, $m, "sbb");
            binary!(and, $t, $class, $m, "and");
            binary!(or, $t, $class, $m, "or");
            binary!(xor, $t, $class, $m, "xor");
            unary!(inc, $t, $class, $m, "inc");
            unary!(dec, $t, $class, $m, "dec");
            unary!(neg, $t, $class, $m, "neg");
            shift!(shl, $t, $class, $m, "shl");
            shift!(shr, $t, $class, $m, "shr");
            shift!(sar, $t, $class, $m, "sar");
            shift!(rol, $t, $class, $m, "rol");
            shift!(ror, $t, $class, $m, "ror");
            shift!(rcl, $t, $class, $m, "rcl");
            shift!(rcr, $t, $class, $m, "rcr");
            pair!(mul, $t, $class, $m, "mul");
            pair!(imul_wide, $t, $class, $m, "imul");
            #[inline]
            fn div(a: Pair, b: $t) -> Option<Pair> {
                pair!(divide, $t, $class, $m, "div");
                let dividend = a.dividend(<$t>::BITS);
                // Where the high half is less than the divisor, the quotient fits.
                (dividend >> <$t>::BITS < u128::from(b)).then(|| divide(a, b, 0).0)
            }
            #[inline]
            fn idiv(a: Pair, b: $t) -> Option<Pair> {
                pair!(divide, $t, $class, $m, "idiv");
                let unused = 128 - 2 * <$t>::BITS;
                let dividend = (a.dividend(<$t>::BITS) << unused) as i128 >> unused;
                let quotient = dividend.checked_div(i128::from(b as $signed))?;
                <$signed>::try_from(quotient).is_ok().then(|| divide(a, b, 0).0)
            }
        }
    };
}
int!(u8, i8, reg_byte, "");
int!(u16, i16, reg, ":x");
int!(u32, i32, reg, ":e");
int!(u64, i64, reg, ":r");

macro_rules! wide {
    ($t:ty, $m:literal) => {
        impl Wide for $t {
            double_shift!(shld, $t, $m, "shld");
            double_shift!(shrd, $t, $m, "shrd");
            binary_keep!(bt, $t, $m, "bt");
            binary_keep!(bts, $t, $m, "bts");
            binary_keep!(btr, $t, $m, "btr");
            binary_keep!(btc, $t, $m, "btc");
            scan!(bsf, $t, $m, "bsf");
            scan!(bsr, $t, $m, "bsr");
            scan!(lzcnt, $t, $m, "lzcnt");
            scan!(tzcnt, $t, $m, "tzcnt");
            scan!(popcnt, $t, $m, "popcnt");
            binary_keep!(imul, $t, $m, "imul");
        }
    };
}
wide!(u16, ":x");
wide!(u32, ":e");
wide!(u64, ":r");

macro_rules! bmi {
    ($t:ty, $m:literal) => {
        impl Bmi for $t {
            vex3!(andn, $t, $m, "andn");
            vex3!(bextr, $t, $m, "bextr");
            vex3!(bzhi, $t, $m, "bzhi");
            vex2!(blsi, $t, $m, "blsi");
            vex2!(blsmsk, $t, $m, "blsmsk");
            vex2!(blsr, $t, $m, "blsr");
            vex3!(pdep, $t, $m, "pdep");
            vex3!(pext, $t, $m, "pext");
            binary_keep!(adcx, $t, $m, "adcx");
            binary_keep!(adox, $t, $m, "adox");
        }
    };
}
bmi!(u32, ":e");
bmi!(u64, ":r");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::single::flags::{AF, CF, OF, PF, SF, ZF};

    #[test]
    fn flags_are_those_of_the_hardware() {
        let status = CF | PF | AF | ZF | SF | OF;
        let (r, f) = u8::add(0x7f, 1, 0);
        assert_eq!((r, f & status), (0x80, OF | SF | AF));
        let (r, f) = u64::sub(0, 1, 0);
        assert_eq!((r, f & status), (u64::MAX, CF | SF | AF | PF));
        assert_eq!(u32::adc(1, 1, CF).0, 3);
        assert_eq!(u32::sbb(5, 1, CF).0, 3);
        let (r, f) = u16::inc(0xffff, CF);
        assert_eq!((r, f & (CF | ZF)), (0, CF | ZF));
        let (r, f) = u32::shl(1, 0, OF | ZF | CF);
        assert_eq!((r, f & status), (1, OF | ZF | CF), "a count of zero leaves the flags");
        let (r, f) = u8::rcl(0x80, 1, 0);
        assert_eq!((r, f & CF), (0, CF));
        assert_eq!(u64::bsf(0, 77, 0).0, 77);
        assert_eq!(u64::bsr(0x100, 0, 0).0, 8);
    }
}
