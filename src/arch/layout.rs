//! The one map of guest-physical addresses, I/O ports and interrupt lines: a PC.
use super::{Gpa, Port};
use std::ops::RangeInclusive;

/// End of RAM below the device hole; RAM beyond continues at [`HIGH_RAM`].
pub const LOW_RAM_END: Gpa = Gpa(0xc000_0000);
/// Start of RAM above 4 GiB.
pub const HIGH_RAM: Gpa = Gpa(0x1_0000_0000);
/// I/O APIC registers.
pub const IOAPIC: Gpa = Gpa(0xfec0_0000);
/// Local APIC registers, after reset.
pub const LAPIC: Gpa = Gpa(0xfee0_0000);
/// Bytes of the local APIC's register page.
pub const LAPIC_SIZE: u64 = 0x1000;
/// Where the loader puts PVH start information, the memory map and the command line: conventional memory, low.
pub const PVH_START_INFO: Gpa = Gpa(0x6000);
/// Where the loader puts multiboot information: the same place, which only one of them needs.
pub const MULTIBOOT_INFO: Gpa = PVH_START_INFO;
/// End of conventional memory; the last KiB below 640 KiB is a BIOS's own.
pub const CONVENTIONAL_END: Gpa = Gpa(0x9_fc00);
/// Where the loader puts Linux's `boot_params`, a page.
pub const LINUX_BOOT_PARAMS: Gpa = Gpa(0x7000);
/// Where it puts the global descriptor table for a 64-bit entry.
pub const BOOT_GDT: Gpa = Gpa(0x8000);
/// Where it puts the page tables for a 64-bit entry: six pages, which map the first 4 GiB to themselves.
pub const BOOT_PAGE_TABLES: Gpa = Gpa(0x9000);
/// Where it puts Linux's command line, at most 64 KiB.
pub const LINUX_COMMAND_LINE: Gpa = Gpa(0x1_0000);
/// Start of the places of video memory and option ROMs.
pub const VIDEO_MEMORY: Gpa = Gpa(0xa_0000);
/// Where a firmware image's last 128 KiB appear below 1 MiB.
pub const FIRMWARE_SHADOW: Gpa = Gpa(0xe_0000);
/// Behind the last byte of a firmware image, which the reset vector is close to.
pub const FIRMWARE_END: Gpa = Gpa(0x1_0000_0000);
/// Bytes of a firmware image at most: below it the local APIC has its place.
pub const FIRMWARE_MOST: u64 = 8 << 20;
/// Where the ACPI tables begin, with the RSDP. Up to [`MP_POINTER`].
pub const FIRMWARE_TABLES: Gpa = Gpa(0xe_0000);
/// Where the MP floating pointer is, and its table after it: in the range that guests search. Up to 1 MiB.
pub const MP_POINTER: Gpa = Gpa(0xf_0000);
/// First byte that images may be loaded to.
pub const IMAGE_START: Gpa = Gpa(0x10_0000);
/// Where flat binaries are loaded and entered.
pub const FLAT_START: Gpa = Gpa(0x20_0000);

/// Where PCI devices decode memory, in the hole below the I/O APIC.
pub const PCI_MEMORY: Gpa = Gpa(0xe000_0000);
/// Bytes of it.
pub const PCI_MEMORY_SIZE: u64 = IOAPIC.0 - PCI_MEMORY.0;

/// Where virtio devices that are not on the PCI bus have their registers: a window of [`VIRTIO_SIZE`] for each.
pub const VIRTIO: Gpa = Gpa(0xfef0_0000);
/// Bytes of the registers of one of them.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// Inputs of the I/O APIC at which their interrupts arrive, one for each: those behind the ISA's, which nothing else has.
pub const VIRTIO_PINS: RangeInclusive<u8> = 16..=23;

/// Memory of the test device, where a machine has it. This place and its ports are those of QEMU's `pc-testdev`.
pub const TEST_MEMORY: Gpa = Gpa(0xff00_0000);
/// Bytes of it.
pub const TEST_MEMORY_SIZE: usize = 0x1_0000;

/// Configuration mechanism #1: CONFIG_ADDRESS and CONFIG_DATA.
pub const PCI_CONFIG: RangeInclusive<Port> = Port(0xcf8)..=Port(0xcff);
/// Where PCI devices decode ports.
pub const PCI_PORTS: RangeInclusive<Port> = Port(0xc000)..=Port(0xefff);
/// Master 8259.
pub const PIC_MASTER: RangeInclusive<Port> = Port(0x20)..=Port(0x21);
/// Slave 8259.
pub const PIC_SLAVE: RangeInclusive<Port> = Port(0xa0)..=Port(0xa1);
/// Edge/level control of both 8259s.
pub const PIC_ELCR: RangeInclusive<Port> = Port(0x4d0)..=Port(0x4d1);
/// 8254 counters and control.
pub const PIT: RangeInclusive<Port> = Port(0x40)..=Port(0x43);
/// Speaker gate and counter 2 output, bit-mapped.
pub const SYSTEM_CONTROL: RangeInclusive<Port> = Port(0x61)..=Port(0x61);
/// i8042 data.
pub const I8042_DATA: RangeInclusive<Port> = Port(0x60)..=Port(0x60);
/// i8042 command and status.
pub const I8042_COMMAND: RangeInclusive<Port> = Port(0x64)..=Port(0x64);
/// CMOS index and data.
pub const CMOS: RangeInclusive<Port> = Port(0x70)..=Port(0x71);
/// What firmware prints on its way; QEMU's place.
pub const FIRMWARE_LOG: RangeInclusive<Port> = Port(0x402)..=Port(0x402);
/// The firmware's configuration: selector and data; QEMU's place.
pub const FW_CFG: RangeInclusive<Port> = Port(0x510)..=Port(0x511);
/// The address of a transfer of the firmware's configuration.
pub const FW_CFG_DMA: RangeInclusive<Port> = Port(0x514)..=Port(0x51b);
/// VGA registers, with those of a monochrome adapter.
pub const VGA: RangeInclusive<Port> = Port(0x3b0)..=Port(0x3df);
/// First IDE channel: command block.
pub const IDE_PRIMARY: RangeInclusive<Port> = Port(0x1f0)..=Port(0x1f7);
/// First IDE channel: control block.
pub const IDE_PRIMARY_CONTROL: RangeInclusive<Port> = Port(0x3f6)..=Port(0x3f6);
/// Second IDE channel: command block.
pub const IDE_SECONDARY: RangeInclusive<Port> = Port(0x170)..=Port(0x177);
/// Second IDE channel: control block.
pub const IDE_SECONDARY_CONTROL: RangeInclusive<Port> = Port(0x376)..=Port(0x376);
/// ACPI's fixed hardware; QEMU's place.
pub const ACPI_PM: RangeInclusive<Port> = Port(0x600)..=Port(0x60b);
/// First serial port.
pub const COM1: RangeInclusive<Port> = Port(0x3f8)..=Port(0x3ff);
/// isa-debug-exit.
pub const DEBUG_EXIT: RangeInclusive<Port> = Port(0xf4)..=Port(0xf7);
/// Bench port.
pub const BENCH: RangeInclusive<Port> = Port(0x5f4)..=Port(0x5f7);
/// Hypercalls, where the engine does not see VMCALL. No device is there.
pub const HYPERCALL: Port = Port(0xf8);
/// Power-on self-test codes: written by everyone, ignored.
pub const POST: RangeInclusive<Port> = Port(0x80)..=Port(0x80);

/// The test device's register of 32 bits.
pub const TEST_REGISTER: RangeInclusive<Port> = Port(0xe0)..=Port(0xe3);
/// Takes the guest-physical address of a page that the host is to give up.
pub const TEST_PAGE: RangeInclusive<Port> = Port(0xe4)..=Port(0xe7);
/// The test device's register once more.
pub const TEST_REGISTER_AGAIN: RangeInclusive<Port> = Port(0xe8)..=Port(0xeb);
/// The test device's ports for the interrupt lines, one for each, from line 0 on.
pub const TEST_LINES: RangeInclusive<Port> = Port(0x2000)..=Port(0x2017);

/// Interrupt line of PIT counter 0.
pub const IRQ_PIT: u8 = 0;
/// Interrupt line of the i8042 keyboard controller.
pub const IRQ_KEYBOARD: u8 = 1;
/// Line that joins the slave 8259 to the master.
pub const IRQ_CASCADE: u8 = 2;
/// Interrupt line of [`COM1`].
pub const IRQ_COM1: u8 = 4;
/// Interrupt lines of the IDE channels.
pub const IRQ_IDE: [u8; 2] = [14, 15];
/// Interrupt line of the real-time clock.
pub const IRQ_RTC: u8 = 8;

/// Interrupt line of ACPI's system control interrupt, level-triggered.
pub const IRQ_SCI: u8 = 9;
/// Pin of the I/O APIC at which the PIT arrives: in PCs it has the place of the 8259s' cascade.
pub const IOAPIC_PIN_PIT: u8 = 2;
/// Interrupt lines that the PCI slots' pins INTA are wired to, in turn from slot 0 on; level-triggered. The wiring that
/// firmware made for QEMU's PC takes for granted.
pub const PCI_LINES: [u8; 4] = [11, 10, 10, 11];

/// Input frequency of the 8254, in Hz.
pub const PIT_HZ: u64 = 1_193_182;
/// Input frequency of the local APIC timer, in Hz (before its divider); QEMU's figure.
pub const LAPIC_HZ: u64 = 1_000_000_000;
