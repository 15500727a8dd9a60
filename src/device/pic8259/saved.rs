//! Saved state of the two chips.
use super::chip::{Awaited, Chip};
use super::{PicPair, spec};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of one 8259A; the fields are those of the chip.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the datasheet")]
pub struct SavedChip {
    pub inputs: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub elcr: u8,
    pub base: u8,
    pub first: u8,
    pub awaited: Awaited,
    pub icw4_follows: bool,
    pub single: bool,
    pub read_isr: bool,
    pub poll: bool,
    pub special_mask: bool,
    pub auto_eoi: bool,
    pub rotate_in_aeoi: bool,
    pub special_fully_nested: bool,
}

/// State of master and slave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedPicPair {
    /// The one at ports 0x20 and 0x21.
    pub master: SavedChip,
    /// The one at ports 0xa0 and 0xa1.
    pub slave: SavedChip,
}

impl Chip {
    fn saved(&self) -> SavedChip {
        let Self {
            is_master: _,
            elcr_writable: _,
            inputs,
            irr,
            imr,
            isr,
            elcr,
            base,
            first,
            awaited,
            icw4_follows,
            single,
            read_isr,
            poll,
            special_mask,
            auto_eoi,
            rotate_in_aeoi,
            special_fully_nested,
        } = *self;
        SavedChip {
            inputs,
            irr,
            imr,
            isr,
            elcr,
            base,
            first,
            awaited,
            icw4_follows,
            single,
            read_isr,
            poll,
            special_mask,
            auto_eoi,
            rotate_in_aeoi,
            special_fully_nested,
        }
    }

    fn restored(is_master: bool, elcr_writable: u8, saved: &SavedChip) -> Result<Self, BadState> {
        let SavedChip {
            inputs,
            irr,
            imr,
            isr,
            elcr,
            base,
            first,
            awaited,
            icw4_follows,
            single,
            read_isr,
            poll,
            special_mask,
            auto_eoi,
            rotate_in_aeoi,
            special_fully_nested,
        } = *saved;
        let bad = |what| BadState { device: "pic8259", what };
        if first > 7 {
            return Err(bad("priority above 7"));
        }
        if base & 7 != 0 {
            return Err(bad("vector base is not a multiple of 8"));
        }
        if elcr & !elcr_writable != 0 {
            return Err(bad("an input is level-triggered that cannot be"));
        }
        Ok(Self {
            is_master,
            elcr_writable,
            inputs,
            irr,
            imr,
            isr,
            elcr,
            base,
            first,
            awaited,
            icw4_follows,
            single,
            read_isr,
            poll,
            special_mask,
            auto_eoi,
            rotate_in_aeoi,
            special_fully_nested,
        })
    }
}

impl PicPair {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedPicPair {
        let Self { master, slave } = self;
        SavedPicPair { master: master.saved(), slave: slave.saved() }
    }

    /// A pair in a saved state.
    ///
    /// # Errors
    /// [`BadState`], if the chips cannot be in that state.
    pub fn restored(saved: &SavedPicPair) -> Result<Self, BadState> {
        let SavedPicPair { master, slave } = saved;
        Ok(Self {
            master: Chip::restored(true, spec::ELCR_MASTER, master)?,
            slave: Chip::restored(false, spec::ELCR_SLAVE, slave)?,
        })
    }
}
