//! Saved state of the firmware configuration device. Its items belong to the machine.
use super::{FwCfg, State};
use serde::{Deserialize, Serialize};

/// State of the device. Each value of it is possible.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedFwCfg {
    /// The selected item.
    pub selected: u16,
    /// The next byte of it.
    pub offset: u32,
    /// The high half of a transfer's address.
    pub dma_high: u32,
}

impl FwCfg {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedFwCfg {
        let Self { ram: _, items: _, names: _, state } = self;
        let State { selected, offset, dma_high } = *state;
        SavedFwCfg { selected, offset, dma_high }
    }

    /// Takes on a saved state.
    pub fn restore(&mut self, saved: &SavedFwCfg) {
        let SavedFwCfg { selected, offset, dma_high } = *saved;
        self.state = State { selected, offset, dma_high };
    }
}
