//! A virtio network card (virtio 1.2, 5.1): one pair of queues, a MAC address, no offloads.
//!
//! What the guest sends goes to a [`FrameSink`] at once, frame by frame. Frames from the host wait in a bounded queue until
//! the guest offers buffers; what comes beyond that is lost, as on a wire. A frame that does not fit into the guest's
//! buffer is lost, too, and the buffer comes back empty.
#[cfg(test)]
mod tests;

use super::{Broken, CONFIGURATION, Chain, Queue, VirtioDevice};
use crate::device::BadState;
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Number of the queue of buffers for frames.
pub const RECEIVE: u16 = 0;
/// Number of the queue of frames that the guest sends.
pub const TRANSMIT: u16 = 1;
/// Bytes of a frame: its addresses and type, and with a VLAN's tag and 1500 bytes of data at most. No check sequence.
pub const FRAME: std::ops::RangeInclusive<usize> = 14..=1518;
/// Bytes ahead of each frame: `virtio_net_hdr` with its number of buffers.
const HEADER: usize = 12;
/// Where that number is.
const BUFFERS: usize = 10;
/// VIRTIO_NET_F_MAC.
const HAS_MAC: u64 = 1 << 5;

/// Where a guest's frames go. Called on the vCPU's thread, under the device's lock: does not wait.
pub trait FrameSink: Send {
    /// Takes a frame, or loses it.
    fn send(&mut self, frame: &[u8]);
}

/// The card.
pub struct Net {
    // Configuration.
    mac: [u8; 6],
    // Runtime glue.
    sink: Box<dyn FrameSink>,
    // Volatile state.
    /// From the host, not yet in a buffer of the guest.
    backlog: VecDeque<Vec<u8>>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("backlog", &self.backlog.len()).finish_non_exhaustive()
    }
}

/// State of the card beside its registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedNet {
    /// The address that the guest was told.
    pub mac: [u8; 6],
    /// Frames from the host that wait for a buffer.
    pub backlog: Vec<Vec<u8>>,
}

impl Net {
    /// How many frames from the host wait at most.
    pub const BACKLOG: usize = 256;

    /// A card with this address, whose frames go to `sink`.
    #[must_use]
    pub fn new(mac: [u8; 6], sink: Box<dyn FrameSink>) -> Self {
        Self { mac, sink, backlog: VecDeque::new() }
    }

    /// A frame comes in, or is lost: whether there was room, and it is a frame. To be followed by a serving of
    /// [`RECEIVE`].
    pub fn receive(&mut self, frame: &[u8]) -> bool {
        let taken = FRAME.contains(&frame.len()) && self.backlog.len() < Self::BACKLOG;
        if taken {
            self.backlog.push_back(frame.to_vec());
        }
        taken
    }

    fn give(&mut self, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        while !self.backlog.is_empty() {
            let Some(mut chain) = queue.pop(ram)? else { break };
            let Some(frame) = self.backlog.pop_front() else { break };
            let mut bytes = vec![0; HEADER];
            bytes[BUFFERS] = 1;
            bytes.extend(frame);
            let written = match chain.writable.write(ram, &bytes) {
                Ok(()) => bytes.len() as u32,
                Err(_) => 0,
            };
            queue.push(ram, &chain, written)?;
        }
        Ok(())
    }

    fn take(&mut self, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        let mut bytes = [0; HEADER + *FRAME.end()];
        while let Some(mut chain) = queue.pop(ram)? {
            if let Some(frame) = frame(&mut chain, ram, &mut bytes) {
                self.sink.send(frame);
            }
            queue.push(ram, &chain, 0)?;
        }
        Ok(())
    }
}

/// The frame in `chain`, if it holds one.
fn frame<'a>(chain: &mut Chain, ram: &GuestRam, into: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(chain.readable.left()).ok()?;
    let bytes = into.get_mut(..length)?;
    chain.readable.read(ram, bytes).ok()?;
    // Without offloads the header says nothing.
    bytes.get(HEADER..).filter(|frame| FRAME.contains(&frame.len()))
}

impl VirtioDevice for Net {
    type Saved = SavedNet;

    fn device_id(&self) -> u32 {
        super::spec::device_id::NET
    }

    fn features(&self) -> u64 {
        HAS_MAC
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn configuration(&self) -> [u8; CONFIGURATION] {
        let mut bytes = [0; CONFIGURATION];
        bytes[..6].copy_from_slice(&self.mac);
        bytes
    }

    fn negotiated(&mut self, _: u64) {}

    fn serve(&mut self, index: u16, queue: &mut Queue, ram: &GuestRam) -> Result<(), Broken> {
        match index {
            RECEIVE => self.give(queue, ram),
            _ => self.take(queue, ram),
        }
    }

    fn reset(&mut self) {}

    fn saved(&self) -> SavedNet {
        let Self { mac, sink: _, backlog } = self;
        SavedNet { mac: *mac, backlog: backlog.iter().cloned().collect() }
    }

    fn restore(&mut self, saved: &SavedNet) -> Result<(), BadState> {
        let SavedNet { mac, backlog } = saved;
        if backlog.len() > Self::BACKLOG || !backlog.iter().all(|frame| FRAME.contains(&frame.len())) {
            return Err(BadState { device: "virtio-net", what: "frames that cannot have come in" });
        }
        self.mac = *mac;
        self.backlog = backlog.iter().cloned().collect();
        Ok(())
    }
}
