//! Names and numbers of the virtio standard (OASIS "Virtual I/O Device (VIRTIO) Version 1.2", 2022).
use bitflags::bitflags;

bitflags! {
    /// Device status field (2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest has a driver for it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// The features are negotiated.
        const FEATURES_OK = 8;
        /// The device met something that it cannot go on from.
        const NEEDS_RESET = 64;
        /// The driver gave up.
        const FAILED = 128;
    }

    /// Feature bits that concern no particular kind of device (6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Features: u64 {
        /// Descriptors may point at tables of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// The device follows version 1 of the standard.
        const VERSION_1 = 1 << 32;
        const _ = !0;
    }

    /// Interrupt status (4.1.4.5, 4.2.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Isr: u8 {
        /// The device has used a buffer.
        const QUEUE = 1;
        /// The configuration or the status has changed.
        const CONFIGURATION = 2;
    }

    /// Flags of a descriptor (2.7.5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct DescriptorFlags: u16 {
        /// The chain goes on at `next`.
        const NEXT = 1;
        /// The device writes here, otherwise it reads.
        const WRITE = 2;
        /// The buffer is a table of descriptors.
        const INDIRECT = 4;
        const _ = !0;
    }
}

/// What every device here offers beside its own features.
pub(super) const OFFERED: Features = Features::INDIRECT_DESC.union(Features::VERSION_1);

/// Bytes of a descriptor (2.7.5).
pub(super) const DESCRIPTOR: u64 = 16;
/// Bytes before the entries of either ring: flags and index (2.7.6, 2.7.8).
pub(super) const RING_HEADER: u64 = 4;
/// Bytes of an entry of the available ring.
pub(super) const AVAILABLE_ENTRY: u64 = 2;
/// Bytes of an entry of the used ring.
pub(super) const USED_ENTRY: u64 = 8;
/// Flag of the available ring: the driver wants no interrupts.
pub(super) const NO_INTERRUPT: u16 = 1;

/// Kinds of devices (5).
pub mod device_id {
    /// Network card (5.1).
    pub const NET: u32 = 1;
    /// Block device (5.2).
    pub const BLOCK: u32 = 2;
    /// Console (5.3).
    pub const CONSOLE: u32 = 3;
    /// Entropy (5.4).
    pub const ENTROPY: u32 = 4;
}

/// Registers of a device in memory (4.2.2), as offsets.
pub(super) mod mmio {
    pub(in super::super) const MAGIC: u64 = 0x000;
    pub(in super::super) const VERSION: u64 = 0x004;
    pub(in super::super) const DEVICE_ID: u64 = 0x008;
    pub(in super::super) const VENDOR_ID: u64 = 0x00c;
    pub(in super::super) const DEVICE_FEATURES: u64 = 0x010;
    pub(in super::super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(in super::super) const DRIVER_FEATURES: u64 = 0x020;
    pub(in super::super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(in super::super) const QUEUE_SELECT: u64 = 0x030;
    pub(in super::super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(in super::super) const QUEUE_SIZE: u64 = 0x038;
    pub(in super::super) const QUEUE_READY: u64 = 0x044;
    pub(in super::super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(in super::super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(in super::super) const INTERRUPT_ACK: u64 = 0x064;
    pub(in super::super) const STATUS: u64 = 0x070;
    pub(in super::super) const QUEUE_DESCRIPTORS_LOW: u64 = 0x080;
    pub(in super::super) const QUEUE_DESCRIPTORS_HIGH: u64 = 0x084;
    pub(in super::super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(in super::super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(in super::super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(in super::super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    /// Length of a shared memory region: all ones, for none is there.
    pub(in super::super) const SHARED_MEMORY_LENGTH: std::ops::RangeInclusive<u64> = 0x0b0..=0x0bf;
    pub(in super::super) const CONFIGURATION_GENERATION: u64 = 0x0fc;
    /// The device's own configuration begins.
    pub(in super::super) const CONFIGURATION: u64 = 0x100;

    /// "virt".
    pub(in super::super) const MAGIC_VALUE: u32 = 0x7472_6976;
    /// Of the register layout.
    pub(in super::super) const VERSION_VALUE: u32 = 2;
    /// Whose devices these are. Drivers do not look; "TRIV".
    pub(in super::super) const VENDOR_VALUE: u32 = 0x5649_5254;
}

/// A device on PCI (4.1).
pub(super) mod pci {
    pub(in super::super) const VENDOR: u16 = 0x1af4;
    /// To which the kind of device is added.
    pub(in super::super) const DEVICE: u16 = 0x1040;
    /// Vendor-specific capability, which says where registers are.
    pub(in super::super) const CAPABILITY: u8 = 0x09;
    /// Message-signalled interrupts by a table (PCI 3.0, 6.8.2).
    pub(in super::super) const CAPABILITY_MSIX: u8 = 0x11;

    /// What a vendor-specific capability points at (4.1.4).
    pub(in super::super) const COMMON: u8 = 1;
    pub(in super::super) const NOTIFY: u8 = 2;
    pub(in super::super) const ISR: u8 = 3;
    pub(in super::super) const DEVICE_CONFIGURATION: u8 = 4;

    /// Common configuration (4.1.4.3), as offsets.
    pub(in super::super) mod common {
        pub(in super::super::super) const DEVICE_FEATURES_SELECT: u64 = 0x00;
        pub(in super::super::super) const DEVICE_FEATURES: u64 = 0x04;
        pub(in super::super::super) const DRIVER_FEATURES_SELECT: u64 = 0x08;
        pub(in super::super::super) const DRIVER_FEATURES: u64 = 0x0c;
        pub(in super::super::super) const CONFIGURATION_VECTOR: u64 = 0x10;
        pub(in super::super::super) const QUEUES: u64 = 0x12;
        pub(in super::super::super) const STATUS: u64 = 0x14;
        pub(in super::super::super) const CONFIGURATION_GENERATION: u64 = 0x15;
        pub(in super::super::super) const QUEUE_SELECT: u64 = 0x16;
        pub(in super::super::super) const QUEUE_SIZE: u64 = 0x18;
        pub(in super::super::super) const QUEUE_VECTOR: u64 = 0x1a;
        pub(in super::super::super) const QUEUE_ENABLE: u64 = 0x1c;
        pub(in super::super::super) const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
        pub(in super::super::super) const QUEUE_DESCRIPTORS: u64 = 0x20;
        pub(in super::super::super) const QUEUE_DRIVER: u64 = 0x28;
        pub(in super::super::super) const QUEUE_DEVICE: u64 = 0x30;
        /// Behind the last register.
        pub(in super::super::super) const SIZE: u64 = 0x38;
    }

    /// No interrupt for this.
    pub(in super::super) const NO_VECTOR: u16 = 0xffff;
}
