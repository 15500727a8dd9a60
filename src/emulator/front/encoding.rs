//! How the operands of each instruction form are encoded, from a table that `build/encodings.rs` made of iced's.
//!
//! iced's own, [`Code::op_code`], is right as well, but the first question to it takes milliseconds, which is more than
//! the translation of a small guest.
use iced_x86::{Code, OpCodeOperandKind};

/// Eight bytes a form; see `build/encodings.rs`.
static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/encodings.bin"));
const OTHER: u8 = 0x80;
/// The number of operands, beside the flags.
const COUNT: u8 = 7;
const WRITTEN: u8 = 3;

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
        let count = usize::from(self.0[5] & COUNT).min(5);
        let kind = |&number: &u8| OpCodeOperandKind::try_from(usize::from(number)).unwrap_or_default();
        self.0.into_iter().take(count).map(move |number| kind(&number))
    }

    /// Where one operand stands; `None` if there is no such operand.
    pub(crate) fn operand(self, index: u32) -> OpCodeOperandKind {
        self.operands().nth(index as usize).unwrap_or_default()
    }

    /// Whether an operand may be written; only the first four ever are.
    pub(crate) fn writes(self, index: usize) -> bool {
        index < 4 && self.0[5] >> WRITTEN >> index & 1 != 0
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
    use iced_x86::{Decoder, DecoderOptions, EncodingKind, InstructionInfoFactory, OpAccess};

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

    #[test]
    fn operands_are_written_whatever_they_are() {
        let mut factory = InstructionInfoFactory::new();
        let mut random = 1_u64;
        let mut bytes = [0; 1 << 16];
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..40 {
            for byte in &mut bytes {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = (random >> 40) as u8;
            }
            // More of the longer opcodes.
            for escape in bytes.iter_mut().step_by(7).filter(|_| round % 2 == 0) {
                *escape = if random & 1 << 50 == 0 { 0x0f } else { 0xc4 };
            }
            for instruction in Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE).iter() {
                let encoding = Encoding::of(instruction.code());
                let info = factory.info(&instruction);
                seen.insert(instruction.code() as usize);
                for i in 0..instruction.op_count() {
                    let only_read = matches!(
                        info.op_access(i),
                        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
                    );
                    assert_eq!(encoding.writes(i as usize), !only_read, "{instruction:?} {i}");
                }
            }
        }
        assert!(seen.len() > 1000, "{}", seen.len());
    }
}
