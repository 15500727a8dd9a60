//! Ports, device memory and interrupt lines: what lies between a CPU and a device, the same in every mode.
//!
//! A device claims ranges once, when the machine is built; afterwards the maps never change and are read without a
//! lock. Each device is behind a lock, [`Lock`] as a rule; what has one of its own implements the traits by which the
//! bus reaches it ([`PortTarget`], [`MmioTarget`]) without a further one. Reads of nothing float to ones and writes to nothing vanish.
//! Lock order: device, then interrupt complex, then kick. Interrupt code never calls a device.
mod irq;
mod power;
mod target;

pub use crate::sys::lock::{Lock, Locked};
pub use irq::{CpuSignal, InterruptController, IrqLine, IrqSink, MsiSink, NoInterrupts};
pub use power::{PowerRequest, PowerSwitch};
pub use target::{MmioTarget, OwnPage, PortTarget};

use crate::arch::address::PAGE_SIZE;
use crate::arch::{Gpa, Port, Width};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Which virtual CPU: 0 is the boot processor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct VcpuId(pub u8);

/// A device with I/O ports.
pub trait PortDevice: Send {
    /// Reads `width` bytes (1, 2 or 4) at `port`, which is one that the device claimed. Bits above the width are ignored.
    fn port_read(&mut self, port: Port, width: Width) -> u32;
    /// Writes the low `width` bytes of `value`; the bits above are zero.
    fn port_write(&mut self, port: Port, width: Width, value: u32);
}

/// A device with registers in memory.
pub trait MmioDevice: Send {
    /// Reads `width` bytes at `offset` from the start of the claimed range, for `vcpu`.
    fn mmio_read(&mut self, vcpu: VcpuId, offset: u64, width: Width) -> u64;
    /// Writes the low `width` bytes of `value`; the bits above are zero.
    fn mmio_write(&mut self, vcpu: VcpuId, offset: u64, width: Width, value: u64);
}

/// Two devices claim the same place: a fault of whoever builds the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} claims {range}, which {other} has already claimed")]
pub struct ClaimConflict {
    /// Who asks.
    pub name: &'static str,
    /// For what.
    pub range: String,
    /// Who has it.
    pub other: &'static str,
}

struct PortClaim {
    name: &'static str,
    device: Arc<dyn PortTarget>,
}

struct MmioClaim {
    name: &'static str,
    start: u64,
    size: u64,
    device: Arc<dyn MmioTarget>,
}

/// The maps of ports and of device memory.
pub struct Bus {
    /// For each port, index into `port_claims` plus one; 0 = nobody.
    ports: Box<[u8; 65536]>,
    port_claims: Vec<PortClaim>,
    mmio_claims: Vec<MmioClaim>,
    own_pages: Option<Arc<dyn OwnPage>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            ports: Box::new([0; 65536]),
            port_claims: Vec::new(),
            mmio_claims: Vec::new(),
            own_pages: None,
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.port_claims.iter().map(|c| c.name).collect();
        f.debug_struct("Bus").field("ports", &names).field("mmio", &self.mmio_claims.len()).finish()
    }
}

impl Bus {
    /// Gives `range` of ports to `device`.
    ///
    /// # Errors
    /// If another device has a port of the range, or more than 255 devices claim ports.
    pub fn claim_ports(
        &mut self,
        name: &'static str,
        range: RangeInclusive<Port>,
        device: Arc<dyn PortTarget>,
    ) -> Result<(), ClaimConflict> {
        let numbers = usize::from(range.start().0)..=usize::from(range.end().0);
        let conflict = |other| ClaimConflict { name, range: format!("ports {range:?}"), other };
        if let Some(&taken) = self.ports[numbers.clone()].iter().find(|&&i| i != 0) {
            return Err(conflict(self.port_claims[usize::from(taken) - 1].name));
        }
        self.port_claims.push(PortClaim { name, device });
        let index = u8::try_from(self.port_claims.len()).map_err(|_| conflict("the last free slot"))?;
        self.ports[numbers].fill(index);
        Ok(())
    }

    /// Gives `size` bytes of guest-physical addresses from `start` on to `device`.
    ///
    /// # Errors
    /// If another device has some of them.
    pub fn claim_mmio(
        &mut self,
        name: &'static str,
        start: Gpa,
        size: u64,
        device: Arc<dyn MmioTarget>,
    ) -> Result<(), ClaimConflict> {
        let end = start.0.saturating_add(size);
        if let Some(other) = self.mmio_claims.iter().find(|c| start.0 < c.start + c.size && c.start < end) {
            return Err(ClaimConflict {
                name,
                range: format!("{size:#x} bytes at {start}"),
                other: other.name,
            });
        }
        self.mmio_claims.push(MmioClaim { name, start: start.0, size, device });
        Ok(())
    }

    /// The names of those that claimed something, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let all = self.port_claims.iter().map(|c| c.name).chain(self.mmio_claims.iter().map(|c| c.name));
        let mut names: Vec<_> = all.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The ports that `name` has claimed.
    #[must_use]
    pub fn ports_of(&self, name: &str) -> Vec<Port> {
        let mine =
            |index: u8| index.checked_sub(1).is_some_and(|i| self.port_claims[usize::from(i)].name == name);
        (0..=u16::MAX).filter(|&port| mine(self.ports[usize::from(port)])).map(Port).collect()
    }

    /// The addresses that `name` has claimed: first and last of each stretch.
    pub fn memory_of(&self, name: &str) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.mmio_claims.iter().filter(move |c| c.name == name).map(|c| c.start..=c.start + (c.size - 1))
    }

    /// Reads a port. `width` is 1, 2 or 4 bytes.
    #[must_use]
    pub fn port_read(&self, port: Port, width: Width) -> u32 {
        let mask = width.mask() as u32;
        match self.ports[usize::from(port.0)] {
            0 => mask,
            i => {
                let claim = &self.port_claims[usize::from(i) - 1];
                claim.device.port_read(port, width) & mask
            }
        }
    }

    /// Writes a port. `width` is 1, 2 or 4 bytes.
    pub fn port_write(&self, port: Port, width: Width, value: u32) {
        let i = self.ports[usize::from(port.0)];
        if i != 0 {
            let claim = &self.port_claims[usize::from(i) - 1];
            claim.device.port_write(port, width, value & width.mask() as u32);
        }
    }

    /// Gives each vCPU pages of its own. They go before whatever else is in their place, but for RAM.
    pub fn set_own_pages(&mut self, pages: Arc<dyn OwnPage>) {
        self.own_pages = Some(pages);
    }

    /// Who answers to an access, and at which offset.
    fn mmio_target(&self, vcpu: VcpuId, at: Gpa, width: Width) -> Option<(&dyn MmioTarget, u64)> {
        if let Some(pages) = &self.own_pages
            && let Some(offset) = pages.place(vcpu).and_then(|page| at.0.checked_sub(page.0))
            && offset <= PAGE_SIZE - width.bytes() as u64
        {
            let pages: &dyn MmioTarget = &**pages;
            return Some((pages, offset));
        }
        self.mmio_claims.iter().find_map(|claim| {
            let offset = at.0.checked_sub(claim.start)?;
            let fits = offset < claim.size && width.bytes() as u64 <= claim.size - offset;
            fits.then_some((&*claim.device, offset))
        })
    }

    /// Reads device memory on behalf of `vcpu`.
    #[must_use]
    pub fn mmio_read(&self, vcpu: VcpuId, at: Gpa, width: Width) -> u64 {
        self.mmio_target(vcpu, at, width)
            .map_or(width.mask(), |(target, offset)| target.mmio_read(vcpu, offset, width) & width.mask())
    }

    /// Writes device memory on behalf of `vcpu`.
    pub fn mmio_write(&self, vcpu: VcpuId, at: Gpa, width: Width, value: u64) {
        if let Some((target, offset)) = self.mmio_target(vcpu, at, width) {
            target.mmio_write(vcpu, offset, width, value & width.mask());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last write and returns it.
    #[derive(Default)]
    struct Latch(u64);

    impl PortDevice for Latch {
        fn port_read(&mut self, _: Port, _: Width) -> u32 {
            self.0 as u32
        }
        fn port_write(&mut self, _: Port, _: Width, value: u32) {
            self.0 = u64::from(value);
        }
    }

    impl MmioDevice for Latch {
        fn mmio_read(&mut self, _: VcpuId, _: u64, _: Width) -> u64 {
            self.0
        }
        fn mmio_write(&mut self, _: VcpuId, offset: u64, _: Width, value: u64) {
            self.0 = value ^ offset;
        }
    }

    #[test]
    fn unclaimed_places_float() {
        let bus = Bus::default();
        assert_eq!(bus.port_read(Port(0x10), Width::B2), 0xffff);
        assert_eq!(bus.mmio_read(VcpuId(0), Gpa(0x1000), Width::B8), u64::MAX);
        bus.port_write(Port(0xffff), Width::B4, 1);
        bus.mmio_write(VcpuId(0), Gpa(u64::MAX), Width::B8, 1);
    }

    #[test]
    fn accesses_reach_the_claimant_cut_to_their_width() {
        let mut bus = Bus::default();
        bus.claim_ports("latch", Port(0x10)..=Port(0x13), Arc::new(Lock::new(Latch::default()))).unwrap();
        bus.port_write(Port(0x12), Width::B1, 0x1234);
        assert_eq!(bus.port_read(Port(0x10), Width::B4), 0x34);
        bus.claim_mmio("latch", Gpa(0x1000), 0x10, Arc::new(Lock::new(Latch::default()))).unwrap();
        bus.mmio_write(VcpuId(0), Gpa(0x1008), Width::B4, 0);
        assert_eq!(bus.mmio_read(VcpuId(0), Gpa(0x1000), Width::B1), 8);
        assert_eq!(bus.mmio_read(VcpuId(0), Gpa(0x100e), Width::B4), 0xffff_ffff, "crosses the end");
    }

    /// A page that the first vCPU has at 0x1000 and the second nowhere.
    struct Page(Lock<Latch>);

    impl MmioTarget for Page {
        fn mmio_read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
            self.0.mmio_read(vcpu, offset, width)
        }
        fn mmio_write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
            self.0.mmio_write(vcpu, offset, width, value);
        }
    }

    impl OwnPage for Page {
        fn place(&self, vcpu: VcpuId) -> Option<Gpa> {
            (vcpu == VcpuId(0)).then_some(Gpa(0x1000))
        }
    }

    #[test]
    fn a_page_of_ones_own_goes_before_what_is_claimed() {
        let mut bus = Bus::default();
        bus.claim_mmio("latch", Gpa(0x1000), 0x2000, Arc::new(Lock::new(Latch(7)))).unwrap();
        bus.set_own_pages(Arc::new(Page(Lock::new(Latch(9)))));
        let read = |cpu, at| bus.mmio_read(VcpuId(cpu), Gpa(at), Width::B4);
        assert_eq!((read(0, 0x1000), read(1, 0x1000)), (9, 7));
        assert_eq!(
            (read(0, 0x1ffc), read(0, 0x1ffd), read(0, 0x2000), read(0, 0xffc)),
            (9, 7, 7, u32::MAX.into())
        );
        bus.mmio_write(VcpuId(0), Gpa(0x1004), Width::B4, 0);
        assert_eq!((read(0, 0x1000), read(1, 0x1000)), (4, 7));
    }

    #[test]
    fn claims_do_not_overlap() {
        let mut bus = Bus::default();
        let device = || Arc::new(Lock::new(Latch::default()));
        bus.claim_ports("a", Port(0x10)..=Port(0x13), device()).unwrap();
        let conflict = bus.claim_ports("b", Port(0x13)..=Port(0x14), device()).unwrap_err();
        assert_eq!((conflict.name, conflict.other), ("b", "a"));
        bus.claim_mmio("a", Gpa(0x1000), 0x1000, device()).unwrap();
        assert!(bus.claim_mmio("b", Gpa(0x1fff), 1, device()).is_err());
        bus.claim_mmio("b", Gpa(0x2000), 1, device()).unwrap();
    }
}
