//! What a guest is told of its memory: the map that a PC's firmware hands out (ACPI 6.5, 15 "System Address Map
//! Interfaces"). Every way of booting writes these regions, in its own form.
use crate::arch::layout;
use crate::mem::GuestRam;

/// RAM that the guest may use (`AddressRangeMemory`).
pub(super) const USABLE: u32 = 1;
/// Not for the guest to use (`AddressRangeReserved`).
pub(super) const RESERVED: u32 = 2;

/// One region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    /// First guest-physical address.
    pub(super) start: u64,
    /// Bytes.
    pub(super) size: u64,
    /// [`USABLE`] or [`RESERVED`].
    pub(super) kind: u32,
}

/// The regions of a machine with this RAM, ascending, without overlap and none of them empty.
pub(super) fn regions(ram: &GuestRam) -> Vec<Region> {
    let mut map = Vec::new();
    let mut put = |start: u64, end: u64, kind| {
        if start < end {
            map.push(Region { start, size: end - start, kind });
        }
    };
    let low = ram.slots()[0].size;
    put(0, low.min(layout::CONVENTIONAL_END.0), USABLE);
    put(layout::CONVENTIONAL_END.0, layout::VIDEO_MEMORY.0, RESERVED);
    put(layout::FIRMWARE_TABLES.0, layout::IMAGE_START.0, RESERVED);
    put(layout::IMAGE_START.0, low, USABLE);
    put(layout::IOAPIC.0, layout::LAPIC.0 + layout::LAPIC_SIZE, RESERVED);
    for slot in &ram.slots()[1..] {
        put(slot.gpa.0, slot.gpa.0 + slot.size, USABLE);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_ascend_without_overlap_and_usable_ones_are_ram() {
        for size in [4096, 0x9_f000, 0xf_0000, 1 << 20, 256 << 20, layout::LOW_RAM_END.0 + (1 << 20)] {
            let ram = GuestRam::new(size).unwrap();
            let map = regions(&ram);
            assert!(map.windows(2).all(|p| p[0].start + p[0].size <= p[1].start), "{size:#x}");
            assert!(map.iter().all(|r| r.size > 0));
            for region in map.iter().filter(|r| r.kind == USABLE) {
                assert!(ram.offset(crate::arch::Gpa(region.start), region.size).is_some(), "{size:#x}");
            }
        }
    }
}
