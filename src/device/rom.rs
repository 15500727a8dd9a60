//! Read-only memory: a firmware image where the CPU looks after a reset.
use crate::arch::Width;
use crate::bus::{MmioTarget, VcpuId};

/// The memory. Writes vanish.
pub struct Rom(Box<[u8]>);

impl std::fmt::Debug for Rom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rom({} bytes)", self.0.len())
    }
}

impl Rom {
    /// Memory of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl MmioTarget for Rom {
    fn mmio_read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| self.0.get(at)).copied().unwrap_or(0xff);
        super::gather(width.bytes(), |i| byte(offset.saturating_add(i)))
    }

    fn mmio_write(&self, _: VcpuId, _: u64, _: Width, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_and_stays() {
        let rom = Rom::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        rom.mmio_write(VcpuId(0), 0, Width::B4, 0xffff_ffff);
        assert_eq!(rom.mmio_read(VcpuId(0), 1, Width::B8), 0x0908_0706_0504_0302);
        assert_eq!(rom.mmio_read(VcpuId(0), 8, Width::B2), 0xff09);
        assert_eq!(rom.mmio_read(VcpuId(0), u64::MAX, Width::B2), 0xffff);
    }
}
