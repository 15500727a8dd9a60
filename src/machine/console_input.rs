//! What a person types for the guest's console, on its way to whichever device that is.
use super::virtio::Plugged;
use crate::bus::Lock;
use crate::device::uart16550::Uart16550;
use crate::device::virtio::console::{self, Console};
use std::sync::Weak;

/// The console's end for input. It does not keep the machine.
#[derive(Clone, Debug)]
pub enum ConsoleInput {
    /// The first serial port.
    Serial(Weak<Lock<Uart16550>>),
    /// A virtio console.
    Virtio(Plugged<Console>),
}

impl ConsoleInput {
    /// Takes input and returns how many bytes: no more than the device has room for, and none if the machine is gone.
    #[must_use]
    pub fn receive(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Serial(uart) => uart.upgrade().map_or(0, |uart| uart.lock().receive(bytes)),
            Self::Virtio(device) => {
                device.act(console::RECEIVE, |console| console.receive(bytes)).unwrap_or(0)
            }
        }
    }
}
