//! What a PC's BIOS leaves behind it, for images that take it for granted: multiboot demands the 8259s' vectors of a BIOS,
//! and that real mode goes on working (Multiboot Specification 0.6.96, 3.2). There is no BIOS to call: its interrupt
//! handlers are there, and do nothing but end what interrupted.
use crate::arch::{Gpa, Width, layout};
use crate::bus::PortTarget;
use crate::device::interrupts::{InterruptComplex, PicPorts};
use crate::mem::GuestRam;
use std::sync::Arc;

/// Vectors of IRQ 0 and of IRQ 8.
const VECTORS: [u8; 2] = [0x08, 0x70];
/// The segment of a BIOS.
const SEGMENT: u16 = 0xf000;
/// Where a BIOS has the IRET of what it does not handle.
const RETURN_AT: u16 = 0xff53;
/// Where the handler of interrupts is.
const INTERRUPT_AT: u16 = 0xff40;
/// `push ax; mov al, 20h; out 0a0h, al; out 20h, al; pop ax; iret`: a non-specific EOI for both chips.
const INTERRUPT: [u8; 9] = [0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf];
const IRET: u8 = 0xcf;
/// Bytes of the real-mode interrupt vector table, from address 0 on.
const TABLE: usize = 0x400;

/// Puts all of it in place, before the image's first instruction. Nothing is masked in the 8259s.
pub(super) fn leave(ram: &GuestRam, interrupts: &Arc<InterruptComplex>) {
    let pics = PicPorts(Arc::clone(interrupts));
    let cascades = [1 << layout::IRQ_CASCADE, layout::IRQ_CASCADE];
    for ((range, base), cascade) in [layout::PIC_MASTER, layout::PIC_SLAVE].iter().zip(VECTORS).zip(cascades)
    {
        // ICW1 to ICW4.
        let words = [(range.start(), 0x11), (range.end(), base), (range.end(), cascade), (range.end(), 1)];
        for (port, word) in words {
            pics.port_write(*port, Width::B1, word.into());
        }
    }
    let mut table = [0; TABLE];
    for (vector, entry) in (0_u8..=255).zip(table.chunks_exact_mut(4)) {
        let is_interrupt = VECTORS.contains(&(vector & !7));
        let offset = if is_interrupt { INTERRUPT_AT } else { RETURN_AT };
        entry[..2].copy_from_slice(&offset.to_le_bytes());
        entry[2..].copy_from_slice(&SEGMENT.to_le_bytes());
    }
    let at = |offset: u16| Gpa((u64::from(SEGMENT) << 4) + u64::from(offset));
    // A guest with less than 1 MiB of RAM has no room for a BIOS.
    let _too_small = ram
        .write(at(INTERRUPT_AT), &INTERRUPT)
        .and_then(|()| ram.write(at(RETURN_AT), &[IRET]))
        .and_then(|()| ram.write(Gpa(0), &table));
}
