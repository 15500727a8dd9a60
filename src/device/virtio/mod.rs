//! Virtio devices (OASIS "Virtual I/O Device (VIRTIO) Version 1.2"): devices made for a guest that knows it is one.
//!
//! A device says what it offers and does what its queues ask ([`VirtioDevice`]). The register file around it, the same for
//! all, is [`Transport`]; the guest reaches that through one of its faces, [`VirtioPci`] or [`VirtioMmio`]. Queues ([`Queue`]) lie
//! in guest memory, with buffers ([`Buffer`]) that may lie anywhere.
//!
//! Work is done within the notification, on the vCPU's thread and under the device's lock: the guest's CPU stands
//! meanwhile, and a run repeats exactly if its host end does. So each device bounds what one notification may ask for.
pub mod block;
mod chain;
pub mod console;
pub mod entropy;
mod mmio;
mod msix;
pub mod net;
mod pci;
mod queue;
mod registers;
mod saved;
pub mod spec;
#[cfg(test)]
mod tests;
mod transport;

pub use chain::{Buffer, BufferError, Chain};
pub use mmio::VirtioMmio;
pub use pci::{SavedVirtioPci, VirtioPci};
pub use queue::{Broken, Queue};
pub use saved::{SavedQueue, SavedTransport};
pub use transport::Transport;

use crate::device::BadState;
use crate::mem::GuestRam;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a device's configuration space that are kept; what lies behind reads as zero.
pub const CONFIGURATION: usize = 64;

/// A kind of virtio device, behind a [`Transport`].
pub trait VirtioDevice: Send {
    /// What it keeps beside the registers, and what does not follow from them.
    type Saved: Serialize + DeserializeOwned;
    /// Which kind: a number of [`spec::device_id`].
    fn device_id(&self) -> u32;
    /// The features that it offers beside those of the transport, as bits of the standard.
    fn features(&self) -> u64;
    /// The most entries of each of its queues, powers of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// The configuration space.
    fn configuration(&self) -> [u8; CONFIGURATION];
    /// The driver has settled on these features, which are among those offered.
    fn negotiated(&mut self, features: u64);
    /// The driver has notified of `queue`, which has the number `index` and is enabled. Takes chains from it and gives
    /// them back, now or later.
    ///
    /// # Errors
    /// [`Broken`], as the queue said.
    fn serve(&mut self, index: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken>;
    /// As after power-on. What the host's end keeps stays.
    fn reset(&mut self);
    /// The state to save.
    fn saved(&self) -> Self::Saved;
    /// Takes on a saved state, after the registers have taken on theirs.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    fn restore(&mut self, saved: &Self::Saved) -> Result<(), BadState>;
}
