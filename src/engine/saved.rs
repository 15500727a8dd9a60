//! Saved state of what the platform itself keeps for a guest: hypercalls, and KVM's clock.
use super::Platform;
use super::hypercall::SavedHypercalls;
use super::kvm_clock::SavedKvmClock;
use serde::{Deserialize, Serialize};

/// State of what the guest uses of its hypervisor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedOffers {
    /// The hypercalls, if the machine offers them.
    pub hypercalls: Option<SavedHypercalls>,
    /// KVM's clock, if the machine offers it.
    pub kvm_clock: Option<SavedKvmClock>,
}

/// Why a platform cannot take on a saved state of what it offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadOffers(pub(super) &'static str);

impl Platform {
    /// The state of what the guest uses of its hypervisor.
    #[must_use]
    pub fn saved_offers(&self) -> SavedOffers {
        SavedOffers {
            hypercalls: self.hypercalls().map(|calls| calls.saved()),
            kvm_clock: self.kvm_clock().map(|clock| clock.saved()),
        }
    }

    /// Whether [`Self::restore_offers`] will take this state on.
    ///
    /// # Errors
    /// [`BadOffers`] with the reason.
    pub fn accepts_offers(&self, saved: &SavedOffers) -> Result<(), BadOffers> {
        match (self.hypercalls(), &saved.hypercalls) {
            (None, None) => {}
            (Some(_), Some(saved)) => saved.check(self.ram())?,
            _ => return Err(BadOffers("one of the machines offers hypercalls, the other does not")),
        }
        match (self.kvm_clock(), &saved.kvm_clock) {
            (None, None) => Ok(()),
            (Some(clock), Some(saved)) => clock.check(saved),
            _ => Err(BadOffers("one of the machines offers KVM's clock, the other does not")),
        }
    }

    /// Takes on a saved state that [`Self::accepts_offers`] accepted. RAM and clock have been restored before. The pages
    /// of time in RAM are written anew when the machine runs.
    pub fn restore_offers(&self, saved: &SavedOffers) {
        if let (Some(calls), Some(saved)) = (self.hypercalls(), &saved.hypercalls) {
            calls.restore(saved, self.ram());
        }
        if let (Some(clock), Some(saved)) = (self.kvm_clock(), &saved.kvm_clock) {
            clock.restore(saved);
        }
    }
}
