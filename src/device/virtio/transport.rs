//! The registers that every virtio device has, whichever way the guest reaches them.
//!
//! A face (memory, PCI) translates accesses into the calls here and afterwards drives its interrupt as
//! [`Transport::isr`] says. What a driver does out of order is ignored, or ends, where the standard has a place for it,
//! in a status: features that were not offered leave `FEATURES_OK` unset, and a queue that cannot be sets
//! `NEEDS_RESET`, after which only a reset changes anything.
use super::queue::{Broken, Queue};
use super::spec::{Features, Isr, OFFERED, Status};
use super::{CONFIGURATION, VirtioDevice};
use crate::arch::Gpa;
use crate::mem::GuestRam;
use std::sync::Arc;

/// A device with its registers.
pub struct Transport<D> {
    // Runtime glue.
    pub(super) ram: Arc<GuestRam>,
    device: D,
    /// What broke a queue, for those who look for the reason.
    broken: Option<Broken>,
    /// What the face has not told the guest of yet.
    raised: Raised,
    // Volatile state.
    pub(super) state: State,
}

/// Reasons for interrupts, for a face that tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Raised {
    /// A bit for each queue.
    pub(super) queues: u64,
    pub(super) configuration: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) status: Status,
    pub(super) isr: Isr,
    /// Which half of the device's features is looked at.
    pub(super) device_features_select: u32,
    /// Which half of the driver's is written.
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<Queue>,
}

impl State {
    fn new(sizes: &[u16]) -> Self {
        Self {
            status: Status::empty(),
            isr: Isr::empty(),
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: sizes.iter().map(|&size| Queue::new(size)).collect(),
        }
    }
}

/// One of a queue's three places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Descriptors,
    Driver,
    Device,
}

impl<D: VirtioDevice> std::fmt::Debug for Transport<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("device", &self.device.device_id())
            .field("broken", &self.broken)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<D: VirtioDevice> Transport<D> {
    /// `device` after power-on, whose queues lie in `ram`.
    #[must_use]
    pub fn new(device: D, ram: Arc<GuestRam>) -> Self {
        let state = State::new(device.queue_sizes());
        Self { ram, device, broken: None, raised: Raised::default(), state }
    }

    /// The device itself.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Why the device asks for a reset, if it does because of a queue.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Whether the guest has acknowledged the device and not reset it since.
    #[must_use]
    pub fn is_driven(&self) -> bool {
        self.state.status.contains(Status::DRIVER_OK)
    }

    /// Does something with the device from the host's side and then has it serve a queue.
    pub fn act<R>(&mut self, index: u16, act: impl FnOnce(&mut D) -> R) -> R {
        let result = act(&mut self.device);
        self.notify(index.into());
        result
    }

    pub(super) fn offered(&self) -> u64 {
        self.device.features() | OFFERED.bits()
    }

    /// Whether a driver may settle on these features.
    pub(super) fn accepts(&self, features: u64) -> bool {
        features & !self.offered() == 0 && features & Features::VERSION_1.bits() != 0
    }

    pub(super) fn device_id(&self) -> u32 {
        self.device.device_id()
    }

    pub(super) fn select_device_features(&mut self, half: u32) {
        self.state.device_features_select = half;
    }

    pub(super) fn device_features(&self) -> u32 {
        half(self.offered(), self.state.device_features_select)
    }

    pub(super) fn select_driver_features(&mut self, half: u32) {
        self.state.driver_features_select = half;
    }

    pub(super) fn driver_features(&self) -> u32 {
        half(self.state.driver_features, self.state.driver_features_select)
    }

    /// Ignored once the features are settled.
    pub(super) fn set_driver_features(&mut self, value: u32) {
        if self.state.status.contains(Status::FEATURES_OK) {
            return;
        }
        let select = self.state.driver_features_select;
        if let Some(shift) = [0, 32].get(select as usize) {
            let old = self.state.driver_features & !(u64::from(u32::MAX) << shift);
            self.state.driver_features = old | u64::from(value) << shift;
        } else if value != 0 {
            // Features that nobody has: they must not be taken for accepted.
            self.state.driver_features |= !self.offered();
        }
    }

    pub(super) fn status(&self) -> u8 {
        self.state.status.bits()
    }

    /// Zero resets; otherwise bits are set, and none is ever taken back.
    pub(super) fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut new = Status::from_bits_truncate(value) - Status::NEEDS_RESET - self.state.status;
        if new.contains(Status::FEATURES_OK) {
            let accepted = self.state.driver_features;
            if self.accepts(accepted) {
                self.device.negotiated(accepted);
            } else {
                new -= Status::FEATURES_OK;
            }
        }
        if !(self.state.status | new).contains(Status::FEATURES_OK) {
            // A driver of an older standard would now go on as if nothing were.
            new -= Status::DRIVER_OK;
        }
        self.state.status |= new;
    }

    fn reset(&mut self) {
        self.state = State::new(self.device.queue_sizes());
        self.broken = None;
        self.raised = Raised::default();
        self.device.reset();
    }

    pub(super) fn isr(&self) -> Isr {
        self.state.isr
    }

    pub(super) fn take_raised(&mut self) -> Raised {
        std::mem::take(&mut self.raised)
    }

    pub(super) fn acknowledge(&mut self, isr: Isr) {
        self.state.isr -= isr;
    }

    pub(super) fn queue_select(&self) -> u16 {
        self.state.queue_select
    }

    /// A number that no queue has selects none.
    pub(super) fn select_queue(&mut self, index: u32) {
        self.state.queue_select = u16::try_from(index).unwrap_or(u16::MAX);
    }

    pub(super) fn queues(&self) -> u16 {
        self.state.queues.len() as u16
    }

    /// The selected queue.
    pub(super) fn queue(&self) -> Option<&Queue> {
        self.state.queues.get(usize::from(self.state.queue_select))
    }

    /// The selected queue, as long as the driver may change it.
    fn open_queue(&mut self) -> Option<&mut Queue> {
        self.state.queues.get_mut(usize::from(self.state.queue_select)).filter(|queue| !queue.enabled)
    }

    pub(super) fn set_queue_size(&mut self, size: u32) {
        if let Some(queue) = self.open_queue() {
            // What is no size stays none.
            queue.size = u16::try_from(size).unwrap_or(0);
        }
    }

    /// Writes one half of a place.
    pub(super) fn set_queue_place(&mut self, place: Place, high: bool, value: u32) {
        if let Some(queue) = self.open_queue() {
            let at = match place {
                Place::Descriptors => &mut queue.places.descriptors,
                Place::Driver => &mut queue.places.driver,
                Place::Device => &mut queue.places.device,
            };
            let (kept, shift) = if high { (u64::from(u32::MAX), 32) } else { (!u64::from(u32::MAX), 0) };
            *at = Gpa(at.0 & kept | u64::from(value) << shift);
        }
    }

    /// The driver hands the selected queue over. Only after the features are settled.
    pub(super) fn enable_queue(&mut self) {
        if !self.state.status.contains(Status::FEATURES_OK) || self.stopped() {
            return;
        }
        let features = Features::from_bits_retain(self.state.driver_features);
        let ram = Arc::clone(&self.ram);
        if let Some(Err(broken)) = self.open_queue().map(|queue| queue.enable(&ram, features)) {
            self.stop(broken);
        }
    }

    /// The driver takes the selected queue back.
    pub(super) fn disable_queue(&mut self) {
        if let Some(queue) = self.state.queues.get_mut(usize::from(self.state.queue_select)) {
            queue.reset();
        }
    }

    fn stopped(&self) -> bool {
        self.state.status.intersects(Status::NEEDS_RESET | Status::FAILED)
    }

    fn stop(&mut self, broken: Broken) {
        self.broken = Some(broken);
        self.state.status |= Status::NEEDS_RESET;
        if self.state.status.contains(Status::DRIVER_OK) {
            self.state.isr |= Isr::CONFIGURATION;
            self.raised.configuration = true;
        }
    }

    /// The driver notifies of a queue.
    pub(super) fn notify(&mut self, index: u32) {
        if !self.state.status.contains(Status::DRIVER_OK) || self.stopped() {
            return;
        }
        let Ok(index) = u16::try_from(index) else { return };
        let Some(queue) = self.state.queues.get_mut(usize::from(index)).filter(|queue| queue.enabled) else {
            return;
        };
        queue.begin();
        let served = self.device.serve(index, queue, &self.ram);
        // What was given back before a fault is told of, too.
        let wanted = queue.wants_interrupt(&self.ram);
        if wanted == Ok(true) {
            self.state.isr |= Isr::QUEUE;
            self.raised.queues |= 1 << (index & 63);
        }
        if let Err(broken) = served.and(wanted.map(drop)) {
            self.stop(broken);
        }
    }

    /// Reads the device's configuration; what lies behind it is zero.
    pub(super) fn read_configuration(&self, offset: u64, bytes: usize) -> u64 {
        let all = self.device.configuration();
        let byte = |at: u64| all.get(usize::try_from(at).unwrap_or(CONFIGURATION)).copied().unwrap_or(0);
        crate::device::gather(bytes.min(8), |i| byte(offset.saturating_add(i)))
    }

    pub(super) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }
}

/// The low half of 64 bits for 0, the high one for 1, and nothing beyond.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
