//! How the operands of each instruction form are encoded, from a table that `build/encodings.rs` made of iced's.
//!
//! iced's own, [`Code::op_code`], is right as well, but the first question to it takes milliseconds, which is more than
//! the translation of a small guest.
use iced_x86::{Code, OpCodeOperandKind};

/// Eight bytes a form; see `build/encodings.rs`.
static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/encodings.bin"));
const OTHER: u8 = 0x80;

/// One form's encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding([u8; 8]);

impl Encoding {
    /// That of `code`.
    pub(crate) fn of(code: Code) -> Self {
        let (entries, _) = TABLE.as_chunks();
        Self(entries.get(code as usize).copied().unwrap_or_default())
    }

    /// Where operands stand, in their order.
    pub(crate) fn operands(self) -> impl Iterator<Item = OpCodeOperandKind> {
        let count = usize::from(self.0[5] & !OTHER).min(5);
        let kind = |&number: &u8| OpCodeOperandKind::try_from(usize::from(number)).unwrap_or_default();
        self.0.into_iter().take(count).map(move |number| kind(&number))
    }

    /// Where one operand stands; `None` if there is no such operand.
    pub(crate) fn operand(self, index: u32) -> OpCodeOperandKind {
        self.operands().nth(index as usize).unwrap_or_default()
    }

    /// Neither legacy nor VEX.
    pub(crate) fn is_other(self) -> bool {
        self.0[5] & OTHER != 0
    }

    /// Bytes of an operand, where the form decides about them; else 0.
    pub(crate) fn operand_size(self) -> usize {
        usize::from(self.0[6]) / 8
    }

    /// Bytes of an address, where the form decides about them; else 0.
    pub(crate) fn address_size(self) -> usize {
        usize::from(self.0[7]) / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::EncodingKind;

    #[test]
    fn the_table_says_what_iced_says() {
        assert_eq!(TABLE.len(), 8 * Code::values().len());
        for code in Code::values() {
            let (ours, its) = (Encoding::of(code), code.op_code());
            assert!(ours.operands().eq(its.op_kinds().iter().copied()), "{code:?}");
            let plain = matches!(its.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
            assert_eq!(ours.is_other(), !plain, "{code:?}");
            assert_eq!(ours.operand_size(), its.operand_size() as usize / 8, "{code:?}");
            assert_eq!(ours.address_size(), its.address_size() as usize / 8, "{code:?}");
        }
    }
}
