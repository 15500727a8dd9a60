//! The complex's faces on the bus: the ports of the 8259s and the register pages of the APICs. The complex's own lock is
//! the only one.
use super::InterruptComplex;
use crate::arch::{Gpa, Port, Width};
use crate::bus::{MmioTarget, OwnPage, PortTarget, VcpuId};
use crate::device::{lapic, read_bytes, write_bytes};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Ports of both 8259s and their edge/level registers; it claims all six.
#[derive(Debug)]
pub struct PicPorts(pub Arc<InterruptComplex>);

impl PortTarget for PicPorts {
    fn port_read(&self, port: Port, width: Width) -> u32 {
        read_bytes(port, width, |port| self.0.with(|chips| chips.pics.read(port)))
    }

    fn port_write(&self, port: Port, width: Width, value: u32) {
        write_bytes(port, width, value, |port, value| self.0.with(|chips| chips.pics.write(port, value)));
    }
}

/// The part of a 32-bit register that an access of `width` at `offset` sees. Registers lie 16 bytes apart; the twelve
/// bytes between them read as zero.
fn part(register: u32, offset: u64, width: Width) -> u64 {
    let shifted = u64::from(register).checked_shr(8 * (offset as u32 & 15)).unwrap_or(0);
    shifted & width.mask()
}

/// Whether a write of `width` at `offset` is one that the APICs take: 32 bits wide and aligned (SDM 11.4.1). Of a
/// wider write the low half counts.
fn takes_write(offset: u64, width: Width) -> bool {
    offset & 15 == 0 && width >= Width::B4
}

/// The page of each vCPU's own local APIC, which is where IA32_APIC_BASE says.
#[derive(Debug)]
pub struct LapicPage(pub Arc<InterruptComplex>);

impl MmioTarget for LapicPage {
    fn mmio_read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        let register = self.0.with_lapic(vcpu, |lapic| lapic.has_page().then(|| lapic.read(offset & 0xff0)));
        register.flatten().map_or(width.mask(), |value| part(value, offset, width))
    }

    fn mmio_write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        if takes_write(offset, width) {
            self.0.with(|chips| {
                if chips.lapics.get(usize::from(vcpu.0)).is_some_and(|l| l.has_page()) {
                    chips.write_lapic(vcpu, offset & 0xff0, value as u32);
                }
            });
        }
    }
}

impl OwnPage for LapicPage {
    fn place(&self, vcpu: VcpuId) -> Option<Gpa> {
        let base = self.0.bases.get(usize::from(vcpu.0))?;
        lapic::page(base.load(Ordering::Acquire))
    }
}

/// The page of the I/O APIC.
#[derive(Debug)]
pub struct IoApicPage(pub Arc<InterruptComplex>);

impl MmioTarget for IoApicPage {
    fn mmio_read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        part(self.0.with(|chips| chips.ioapic.read(offset & 0xff0)), offset, width)
    }

    fn mmio_write(&self, _: VcpuId, offset: u64, width: Width, value: u64) {
        if takes_write(offset, width) {
            self.0.with(|chips| chips.ioapic.write(offset & 0xff0, value as u32));
        }
    }
}
