//! The bridge and the configuration space of each function, as a person sees them.
use super::config::ConfigSpace;
use super::spec::{self, BARS, Command, at};
use super::{PciHost, lock};
use crate::device::registers::{Block, Described, names};
use std::sync::atomic::Ordering;

/// A field of `N` bytes; outside of the space there is none, and zeros are told.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..offset + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn half(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(field(bytes, offset))
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(bytes, offset))
}

const fn class_name(class: u32) -> &'static str {
    match class >> 8 {
        0x0101 => "IDE controller",
        0x0180 => "mass storage",
        0x0200 => "Ethernet controller",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0780 => "communication controller",
        _ => "other",
    }
}

const fn capability_name(id: u8) -> &'static str {
    match id {
        0x05 => "MSI",
        0x09 => "vendor-specific",
        0x11 => "MSI-X",
        _ => "other",
    }
}

fn function(name: String, space: &ConfigSpace) -> Block {
    let bytes = space.bytes();
    let status = half(bytes, at::STATUS);
    let mut flags = vec![];
    flags.extend((status & spec::STATUS_INTERRUPT != 0).then_some("interrupt asserted".into()));
    flags.extend((status & spec::STATUS_CAPABILITIES != 0).then_some("capabilities".into()));
    let class = word(bytes, at::REVISION) >> 8;
    let command = Command::from_bits_truncate(half(bytes, at::COMMAND));
    let mut block = Block::new(name)
        .plain("VENDOR", 16, half(bytes, at::VENDOR))
        .plain("DEVICE", 16, half(bytes, at::DEVICE))
        .put("COMMAND", 16, half(bytes, at::COMMAND), names(&command))
        .put("STATUS", 16, status, flags)
        .plain("REVISION", 8, bytes[at::REVISION])
        .said("CLASS", 24, class, class_name(class));
    let decoded: Vec<_> = space.decoded().collect();
    for bar in 0..BARS {
        let value = word(bytes, at::BAR + 4 * bar);
        let says = match decoded.iter().find(|d| d.bar == bar) {
            Some(d) => {
                let what = if d.io { "ports" } else { "memory" };
                format!("{what} {:#x}-{:#x}", d.start, d.start + (d.size - 1))
            }
            None if value == 0 => continue,
            None => "not decoded".to_owned(),
        };
        block = block.said(format!("BAR{bar}"), 32, value, says);
    }
    block = block
        .plain("SUBSYSTEM", 32, word(bytes, at::SUBSYSTEM_VENDOR))
        .plain("INTERRUPT_LINE", 8, bytes[at::INTERRUPT_LINE])
        .plain("INTERRUPT_PIN", 8, bytes[at::INTERRUPT_PIN]);
    // As many as fit: the list is the device's own, and ends all the same.
    let mut place = usize::from(bytes[at::CAPABILITIES]);
    for _ in 0..48 {
        if place < at::FREE || status & spec::STATUS_CAPABILITIES == 0 {
            break;
        }
        let [id, next, low, high] = field(bytes, place);
        let control = u16::from_le_bytes([low, high]);
        let says = match id {
            0x11 => format!(
                "MSI-X: {} vectors, {}{}",
                (control & 0x7ff) + 1,
                if control & 1 << 15 == 0 { "off" } else { "on" },
                if control & 1 << 14 == 0 { "" } else { ", all masked" }
            ),
            id => capability_name(id).to_owned(),
        };
        block = block.said(format!("capability at {place:#x}"), 8, id, says);
        place = usize::from(next);
    }
    block
}

impl Described for PciHost {
    fn describe(&self, called: &str) -> Vec<Block> {
        let address = self.address.load(Ordering::Relaxed);
        let selected = if address & spec::ENABLE == 0 {
            "configuration accesses are off".to_owned()
        } else {
            let (bus, slot, function) = (address >> 16 & 0xff, address >> 11 & 31, address >> 8 & 7);
            format!("{bus:02x}:{slot:02x}.{function}, register {:#04x}", address & 0xff)
        };
        let mut blocks = vec![Block::new(called).said("CONFIG_ADDRESS", 32, address, selected)];
        for (slot, device) in self.slots.iter().enumerate() {
            if let Some(device) = device {
                blocks.push(function(format!("{called} 00:{slot:02x}.0"), lock(device).config()));
            }
        }
        blocks
    }
}
