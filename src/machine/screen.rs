//! What a person in front of the machine has: its screen and its keyboard.
use super::parts::Parts;
use crate::arch::layout;
use crate::bus::{Bus, ClaimConflict, Lock};
use crate::device::i8042::{I8042, KeyStroke};
use crate::device::vga::{TextScreen, Vga};
use crate::mem::GuestRam;
use std::sync::Arc;

/// Screen and keyboard of a machine. Clones are of the same machine.
#[derive(Clone, Debug)]
pub struct Screen {
    vga: Arc<Lock<Vga>>,
    keyboard: Arc<Lock<I8042>>,
    ram: Arc<GuestRam>,
}

impl Screen {
    /// Puts a VGA into the machine, beside its keyboard.
    pub(super) fn insert(
        bus: &mut Bus,
        keyboard: Arc<Lock<I8042>>,
        ram: Arc<GuestRam>,
    ) -> Result<Self, ClaimConflict> {
        let vga = Arc::new(Lock::new(Vga::default()));
        bus.claim_ports("vga", layout::VGA, vga.clone())?;
        Ok(Self { vga, keyboard, ram })
    }

    /// Notes its state as one to be saved. The keyboard's is the controller's, which every machine has.
    pub(super) fn add_to(&self, parts: &mut Parts) {
        parts.add_light("vga", &self.vga, Vga::saved, Vga::restore);
    }

    /// What the screen shows now; `None` in graphics modes.
    #[must_use]
    pub fn text(&self) -> Option<TextScreen> {
        self.vga.lock().text(&self.ram)
    }

    /// Strikes these keys, all or none: whether the keyboard took them.
    #[must_use]
    pub fn strike(&self, strokes: &[KeyStroke]) -> bool {
        self.keyboard.lock().strike(strokes)
    }
}
