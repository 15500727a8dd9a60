//! Saved state of the I/O APIC.
use super::IoApic;
use super::spec::{ENTRY_WRITABLE, Entry, PINS};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the I/O APIC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedIoApic {
    /// Identification, 0–15.
    pub id: u8,
    /// The register select.
    pub select: u8,
    /// Levels of the pins.
    pub inputs: u32,
    /// Edges that wait to be sent.
    pub edges: u32,
    /// The redirection table.
    pub entries: [u64; PINS],
}

impl IoApic {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedIoApic {
        let Self { id, select, inputs, edges, entries } = self.clone();
        SavedIoApic { id, select, inputs, edges, entries: entries.map(|e| e.bits()) }
    }

    /// A chip in a saved state.
    ///
    /// # Errors
    /// [`BadState`], if the chip cannot be in that state.
    pub fn restored(saved: &SavedIoApic) -> Result<Self, BadState> {
        let SavedIoApic { id, select, inputs, edges, entries } = saved.clone();
        let most = ENTRY_WRITABLE | Entry::REMOTE_IRR.bits();
        if id > 15 || (inputs | edges) >> PINS != 0 || entries.iter().any(|e| e & !most != 0) {
            return Err(BadState { device: "ioapic", what: "a reserved bit is set" });
        }
        Ok(Self { id, select, inputs, edges, entries: entries.map(Entry::from_bits_retain) })
    }
}
