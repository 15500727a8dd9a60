//! Saved state of the registers and queues of a virtio device. What a device keeps beside them it saves itself.
use super::queue::{Places, Queue};
use super::spec::{Features, Isr, Status};
use super::transport::{State, Transport};
use super::{VirtioDevice, VirtioMmio};
use crate::arch::Gpa;
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of a queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the standard")]
pub struct SavedQueue {
    pub size: u16,
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
    pub enabled: bool,
    /// Entries of the available ring that were taken, modulo 2¹⁶.
    pub taken: u16,
    /// Entries of the used ring that were written, modulo 2¹⁶.
    pub used: u16,
}

/// State of the registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the standard")]
pub struct SavedTransport {
    pub status: u8,
    pub isr: u8,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub driver_features: u64,
    pub queue_select: u16,
    pub queues: Vec<SavedQueue>,
}

impl<D: VirtioDevice> Transport<D> {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedTransport {
        let State {
            status,
            isr,
            device_features_select,
            driver_features_select,
            driver_features,
            queue_select,
            queues,
        } = &self.state;
        SavedTransport {
            status: status.bits(),
            isr: isr.bits(),
            device_features_select: *device_features_select,
            driver_features_select: *driver_features_select,
            driver_features: *driver_features,
            queue_select: *queue_select,
            queues: queues.iter().map(Queue::saved).collect(),
        }
    }

    /// Takes on a saved state, with the features that were negotiated in it.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedTransport) -> Result<(), BadState> {
        let SavedTransport {
            status,
            isr,
            device_features_select,
            driver_features_select,
            driver_features,
            queue_select,
            queues,
        } = saved;
        let bad = |what| BadState { device: "virtio", what };
        let (Some(status), Some(isr)) = (Status::from_bits(*status), Isr::from_bits(*isr)) else {
            return Err(bad("a reserved bit is set"));
        };
        let sizes = self.device().queue_sizes();
        if queues.len() != sizes.len() {
            return Err(bad("another number of queues"));
        }
        let features = Features::from_bits_retain(*driver_features);
        if status.contains(Status::FEATURES_OK) && !self.accepts(*driver_features) {
            return Err(bad("features that were not settled"));
        }
        if queues.iter().any(|queue| queue.enabled) && !status.contains(Status::FEATURES_OK) {
            return Err(bad("a queue in use before the features were settled"));
        }
        let queues: Option<_> =
            queues.iter().zip(sizes).map(|(queue, &most)| Queue::restored(queue, most, features)).collect();
        self.state = State {
            status,
            isr,
            device_features_select: *device_features_select,
            driver_features_select: *driver_features_select,
            driver_features: *driver_features,
            queue_select: *queue_select,
            queues: queues.ok_or(bad("no such queue size"))?,
        };
        self.device_mut().reset();
        if status.contains(Status::FEATURES_OK) {
            self.device_mut().negotiated(*driver_features);
        }
        Ok(())
    }
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedTransport {
        self.transport().saved()
    }

    /// Takes on a saved state and drives the line accordingly.
    ///
    /// # Errors
    /// As [`Transport::restore`].
    pub fn restore(&mut self, saved: &SavedTransport) -> Result<(), BadState> {
        self.transport_mut().restore(saved)?;
        self.drive();
        Ok(())
    }
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Has the device take on its saved state, after [`Self::restore`].
    ///
    /// # Errors
    /// As [`VirtioDevice::restore`].
    pub fn restore_device(&mut self, saved: &D::Saved) -> Result<(), BadState> {
        self.transport_mut().device_mut().restore(saved)
    }
}

impl Queue {
    fn saved(&self) -> SavedQueue {
        SavedQueue {
            size: self.size,
            descriptors: self.places.descriptors.0,
            driver: self.places.driver.0,
            device: self.places.device.0,
            enabled: self.enabled,
            taken: self.taken,
            used: self.used,
        }
    }

    fn restored(saved: &SavedQueue, most: u16, features: Features) -> Option<Self> {
        let SavedQueue { size, descriptors, driver, device, enabled, taken, used } = *saved;
        // The places are checked at each access.
        let possible = !enabled || size <= most && size.is_power_of_two();
        possible.then(|| {
            let mut queue = Self::new(most);
            queue.size = size;
            queue.places = Places { descriptors: Gpa(descriptors), driver: Gpa(driver), device: Gpa(device) };
            queue.enabled = enabled;
            queue.indirect = enabled && features.contains(Features::INDIRECT_DESC);
            (queue.taken, queue.used) = (taken, used);
            queue
        })
    }
}
