//! Saved state of the bridge and of the configuration space of each function.
use super::config::ConfigSpace;
use super::spec::{self, SIZE, at};
use super::{PciHost, lock};
use crate::device::BadState;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// State of the bus. Interrupt pins are not in it: each device drives its own when it takes on its state, which comes after
/// this one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedPci {
    /// CONFIG_ADDRESS.
    pub address: u32,
    /// The configuration space of each slot's function, 256 bytes, if there is one.
    pub slots: Vec<Option<Vec<u8>>>,
}

const BAD: fn(&'static str) -> BadState = |what| BadState { device: "pci", what };

impl ConfigSpace {
    /// Whether these bytes can be those of this function: what the guest cannot write is the same, but for the status of
    /// the interrupt, which the device makes.
    fn can_become(&self, saved: &[u8]) -> bool {
        let mut fixed = self.writable.map(|mask| !mask);
        fixed[at::STATUS] &= !(spec::STATUS_INTERRUPT as u8);
        saved.len() == SIZE
            && self.bytes.iter().zip(saved).zip(fixed).all(|((now, then), mask)| (now ^ then) & mask == 0)
    }

    fn take_on(&mut self, saved: &[u8]) {
        self.put(0, saved);
        self.drive();
    }
}

impl PciHost {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedPci {
        let slots = self.slots.iter().map(|slot| Some(lock(slot.as_ref()?).config().bytes().to_vec()));
        SavedPci { address: self.address.load(Ordering::Relaxed), slots: slots.collect() }
    }

    /// Takes on a saved state.
    ///
    /// # Errors
    /// [`BadState`], if it is that of other functions; nothing is changed then.
    pub fn restore(&self, saved: &SavedPci) -> Result<(), BadState> {
        let SavedPci { address, slots } = saved;
        if slots.len() != self.slots.len() || address & !spec::ADDRESS_WRITABLE != 0 {
            return Err(BAD("another number of slots, or a reserved bit is set"));
        }
        for (slot, saved) in self.slots.iter().zip(slots) {
            let fits = match (slot, saved) {
                (None, None) => true,
                (Some(device), Some(saved)) => lock(device).config().can_become(saved),
                _ => false,
            };
            if !fits {
                return Err(BAD("other functions"));
            }
        }
        let mut routes = vec![];
        for (slot, (device, saved)) in self.slots.iter().zip(slots).enumerate() {
            let (Some(device), Some(saved)) = (device, saved) else { continue };
            let mut device = lock(device);
            device.config().take_on(saved);
            routes.extend(device.config().decoded().map(|decoded| (slot, decoded)));
        }
        *self.routes.lock() = routes;
        self.address.store(*address, Ordering::Relaxed);
        Ok(())
    }
}
