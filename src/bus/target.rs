//! How the bus reaches a device: through a shared reference, from any vCPU's thread.
//!
//! The one call through a table of functions leads to code that knows the device's type: the lock and the access
//! belong together there.
use super::{Lock, MmioDevice, PortDevice, VcpuId};
use crate::arch::{Gpa, Port, Width};
use std::sync::{Mutex, PoisonError};

/// What answers at I/O ports: a device behind a lock, or one that sees to its own. See [`PortDevice`].
pub trait PortTarget: Send + Sync {
    /// Reads `width` bytes (1, 2 or 4) at `port`. Bits above the width are ignored.
    fn port_read(&self, port: Port, width: Width) -> u32;
    /// Writes the low `width` bytes of `value`; the bits above are zero.
    fn port_write(&self, port: Port, width: Width, value: u32);
}

/// What answers in device memory: a device behind a lock, or one that sees to its own. See [`MmioDevice`].
pub trait MmioTarget: Send + Sync {
    /// Reads `width` bytes at `offset` from the start of the claimed range, for `vcpu`.
    fn mmio_read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64;
    /// Writes the low `width` bytes of `value`; the bits above are zero.
    fn mmio_write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64);
}

/// Registers in memory that each CPU has of its own, in a page that it can move: those of a local APIC.
pub trait OwnPage: MmioTarget {
    /// Where `vcpu` has its page, if it has one now. Asked at each access to device memory.
    fn place(&self, vcpu: VcpuId) -> Option<Gpa>;
}

impl<T: PortDevice> PortTarget for Lock<T> {
    fn port_read(&self, port: Port, width: Width) -> u32 {
        self.lock().port_read(port, width)
    }

    fn port_write(&self, port: Port, width: Width, value: u32) {
        self.lock().port_write(port, width, value);
    }
}

impl<T: MmioDevice> MmioTarget for Lock<T> {
    fn mmio_read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        self.lock().mmio_read(vcpu, offset, width)
    }

    fn mmio_write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        self.lock().mmio_write(vcpu, offset, width, value);
    }
}

impl<T: PortDevice> PortTarget for Mutex<T> {
    fn port_read(&self, port: Port, width: Width) -> u32 {
        self.lock().unwrap_or_else(PoisonError::into_inner).port_read(port, width)
    }

    fn port_write(&self, port: Port, width: Width, value: u32) {
        self.lock().unwrap_or_else(PoisonError::into_inner).port_write(port, width, value);
    }
}

impl<T: MmioDevice> MmioTarget for Mutex<T> {
    fn mmio_read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        self.lock().unwrap_or_else(PoisonError::into_inner).mmio_read(vcpu, offset, width)
    }

    fn mmio_write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        self.lock().unwrap_or_else(PoisonError::into_inner).mmio_write(vcpu, offset, width, value);
    }
}
