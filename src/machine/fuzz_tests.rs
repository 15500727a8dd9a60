//! A hostile guest in front of all devices at once: any accesses to ports and device memory, of any width, with rings and
//! tables of rubbish in RAM. The machine stands, nothing hangs, and the disk goes on after a reset of its channel.
use super::{Capture, MachineSpec, Pc, VirtioPlace};
use crate::arch::{Gpa, Port, Width, layout};
use crate::bus::VcpuId;
use crate::engine::Mode;
use crate::host::disk::DiskSpec;
use crate::host::net::NetSpec;
use proptest::prelude::*;
use std::path::Path;
use tempfile::TempDir;

const CPU: VcpuId = VcpuId(0);
const WIDTHS: [Width; 4] = [Width::B1, Width::B2, Width::B4, Width::B8];

/// A machine of 2 MiB with one of each device; those of virtio are there.
fn machine(virtio: VirtioPlace) -> (Pc, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for name in DISKS {
        std::fs::write(folder.path().join(name), vec![7; 64 << 10]).unwrap();
    }
    let mut spec = spec(virtio, folder.path());
    spec.entropy = true;
    (assemble(&spec), folder)
}

/// The disks that [`spec`] names, in its folder.
pub(super) const DISKS: [&str; 3] = ["ide", "cd", "virtio"];

/// Such a machine but for the entropy device, with its disks in `folder`.
pub(super) fn spec(virtio: VirtioPlace, folder: &Path) -> MachineSpec {
    let disk = |name: &str| DiskSpec { image: folder.join(name), read_only: false, overlay: None };
    let mut spec = MachineSpec::new(Mode::Emu);
    spec.memory = 2 << 20;
    spec.ide_disks = vec![disk("ide")];
    spec.cdroms = vec![disk("cd")];
    spec.disks = vec![disk("virtio")];
    spec.virtio_console = true;
    spec.network = Some(NetSpec::default());
    spec.test_device = true;
    spec.virtio = virtio;
    spec
}

/// Its chips, with firmware of breakpoints.
pub(super) fn assemble(spec: &MachineSpec) -> Pc {
    Pc::assemble(spec, Some(&[0xcc; 64 << 10]), Box::new(Capture::new(1000)), None).unwrap()
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Port(u16, usize, Option<u32>),
    Memory(u64, usize, Option<u64>),
    /// Configuration space of a slot.
    Config(u8, u8, Option<u32>),
    /// Bytes in RAM, where rings and tables may be.
    Bytes(u64, Vec<u8>),
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let ports = [
        layout::PIC_MASTER,
        layout::PIC_SLAVE,
        layout::PIC_ELCR,
        layout::PIT,
        layout::I8042_DATA,
        layout::I8042_COMMAND,
        layout::CMOS,
        layout::ACPI_PM,
        layout::COM1,
        layout::FW_CFG,
        layout::FW_CFG_DMA,
        layout::FIRMWARE_LOG,
        layout::VGA,
        layout::IDE_PRIMARY,
        layout::IDE_PRIMARY_CONTROL,
        layout::IDE_SECONDARY,
        layout::IDE_SECONDARY_CONTROL,
        layout::PCI_CONFIG,
        layout::TEST_REGISTER,
        layout::TEST_PAGE,
        layout::TEST_LINES,
        // Where the IDE's bus master is placed.
        Port(0xc000)..=Port(0xc010),
    ];
    let port = prop::sample::select(ports.to_vec())
        .prop_flat_map(|range| range.start().0..=range.end().0.saturating_add(1));
    let memory = prop_oneof![
        8 => (0..5_u64, 0..0x5000_u64).prop_map(|(device, offset)| layout::PCI_MEMORY.0 + device * 0x8000 + offset),
        8 => (0..4_u64, prop_oneof![0..0x110_u64, 0..0x1000_u64])
            .prop_map(|(device, offset)| layout::VIRTIO.0 + device * layout::VIRTIO_SIZE + offset),
        1 => (0..0x1000_u64).prop_map(|offset| layout::LAPIC.0 + offset),
        1 => (0..0x40_u64).prop_map(|offset| layout::IOAPIC.0 + offset),
        1 => (0..0x1_0000_u64).prop_map(|offset| layout::FIRMWARE_END.0 - 1 - offset),
        1 => (0..0x1_0010_u64).prop_map(|offset| layout::TEST_MEMORY.0 + offset),
        1 => any::<u64>(),
    ];
    // Small numbers are sizes, bits and places in RAM.
    let value =
        || prop_oneof![2 => any::<u64>(), 3 => 0..0x100_u64, 2 => (0..0x200_u64).prop_map(|n| n << 12)];
    prop_oneof![
        6 => (port, 0..3_usize, prop::option::weighted(0.8, value()))
            .prop_map(|(port, width, value)| Act::Port(port, width, value.map(|value| value as u32))),
        6 => (memory, 0..4_usize, prop::option::weighted(0.8, value()))
            .prop_map(|(at, width, value)| Act::Memory(at, width, value)),
        2 => (0..7_u8, any::<u8>(), prop::option::weighted(0.8, value()))
            .prop_map(|(slot, register, value)| Act::Config(slot, register, value.map(|value| value as u32))),
        2 => (0..0x20_0000_u64, prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Act::Bytes(at, bytes)),
    ]
}

/// Does it; what was read, and which interrupt came.
pub(super) fn apply(pc: &Pc, act: &Act) -> (u64, Option<u8>) {
    let platform = pc.platform();
    let config = |slot: u8, register: u8, value: Option<u32>| {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register & 0xfc);
        platform.pio_write(CPU, Port(0xcf8), Width::B4, address);
        match value {
            Some(value) => {
                platform.pio_write(CPU, Port(0xcfc), Width::B4, value);
                0
            }
            None => platform.pio_read(CPU, Port(0xcfc), Width::B4),
        }
    };
    let mut read = 0;
    match act {
        Act::Port(port, width, Some(value)) => {
            let width = WIDTHS[*width];
            platform.pio_write(CPU, Port(*port), width, value & width.mask() as u32);
        }
        Act::Port(port, width, None) => read = platform.pio_read(CPU, Port(*port), WIDTHS[*width]).into(),
        Act::Memory(at, width, Some(value)) => {
            let width = WIDTHS[*width];
            platform.mmio_write(CPU, Gpa(*at), width, value & width.mask());
        }
        Act::Memory(at, width, None) => read = platform.mmio_read(CPU, Gpa(*at), WIDTHS[*width]),
        Act::Config(slot, register, value) => read = config(*slot, *register, *value).into(),
        Act::Bytes(at, bytes) => drop(platform.ram().write(Gpa(*at), bytes)),
    }
    platform.attend(CPU);
    (read, platform.acknowledge_interrupt(CPU))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(100_000) / 4, ..ProptestConfig::default() })]
    #[test]
    fn any_accesses_leave_a_machine_that_goes_on(
        acts in prop::collection::vec(act(), 0..400),
        in_memory in any::<bool>(),
    ) {
        let (pc, _folder) = machine(if in_memory { VirtioPlace::Memory } else { VirtioPlace::Pci });
        // Decoding and bus mastering on, as a driver begins.
        for slot in 1..6 {
            apply(&pc, &Act::Config(slot, 4, Some(7)));
        }
        for act in &acts {
            apply(&pc, act);
            let _screen = pc.screen().and_then(super::Screen::text);
        }
        for value in [4, 0] {
            apply(&pc, &Act::Port(layout::IDE_PRIMARY_CONTROL.start().0, 0, Some(value)));
        }
        apply(&pc, &Act::Port(0x1f6, 0, Some(0xa0)));
        apply(&pc, &Act::Port(0x1f7, 0, Some(0xec)));
        prop_assert_eq!(pc.platform().pio_read(CPU, Port(0x1f7), Width::B1), 0x58);
        prop_assert_eq!(pc.platform().ram().size(), 2 << 20);
    }
}
