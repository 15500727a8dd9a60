//! isa-debug-exit: a guest's way to end the machine with a status, as QEMU's device of that name.
use crate::arch::{Port, Width};
use crate::bus::{PortDevice, PowerSwitch};
use std::sync::Arc;

/// The device: four ports, without state. A write of `v` asks for power-off with status `(v << 1) | 1`.
#[derive(Debug)]
pub struct DebugExit {
    power: Arc<PowerSwitch>,
}

impl DebugExit {
    /// A device that turns off `power`.
    #[must_use]
    pub fn new(power: Arc<PowerSwitch>) -> Self {
        Self { power }
    }
}

impl PortDevice for DebugExit {
    /// Reads as zero, as in QEMU.
    fn port_read(&mut self, _: Port, _: Width) -> u32 {
        0
    }

    fn port_write(&mut self, _: Port, _: Width, value: u32) {
        self.power.power_off(value << 1 | 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::PowerRequest;

    #[test]
    fn the_status_is_odd() {
        for (value, status) in [(0, 1), (1, 3), (0xffff_ffff, 0xffff_ffff)] {
            let power = Arc::new(PowerSwitch::default());
            let mut device = DebugExit::new(Arc::clone(&power));
            assert_eq!(device.port_read(Port(0xf4), Width::B4), 0);
            assert!(!power.is_requested());
            device.port_write(Port(0xf4), Width::B4, value);
            assert_eq!(power.take(), Some(PowerRequest::Off(status)));
        }
    }
}
