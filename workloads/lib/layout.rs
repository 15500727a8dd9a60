//! Where things lie in guest memory. In step with `link.ld` and with the page tables of `boot.rs`.
//!
//! Virtual equals physical everywhere below [`RAM_MAPPED`]; the first 2 MiB are not mapped, so a null pointer faults.

/// One small page, in bytes.
pub const PAGE: u64 = 4096;

/// First byte of the kernel's data, where all its stacks lie too.
pub const KERNEL_DATA_START: u64 = 0x0040_0000;

/// End of the kernel's data (exclusive).
pub const KERNEL_DATA_END: u64 = 0x0060_0000;

/// A byte that ring 3 reads before each system call: 0 if SYSCALL does what it should (see `user`). Below the stack.
pub const USER_GATE: u64 = 0x0060_0000;

/// Top of the ring-3 stack (which grows down through the 2 MiB page at 6 MiB).
pub const USER_STACK_TOP: u64 = 0x0080_0000;

/// First byte of the frames that the kernel hands out for page tables and test pages.
pub const FRAMES_START: u64 = 0x0080_0000;

/// End of the frames (exclusive).
pub const FRAMES_END: u64 = 0x0100_0000;

/// First byte of the arena that ring 3 may use.
pub const USER_ARENA: u64 = 0x0100_0000;

/// End of mapped RAM and of the arena (exclusive): a machine needs at least this much memory.
pub const RAM_MAPPED: u64 = 0x0400_0000;

/// Where test mappings are made: an otherwise empty top-level slot (512 GiB) in the lower half.
pub const TEST_WINDOW: u64 = 0x0080_0000_0000;

/// The local APIC's registers.
pub const LAPIC: u64 = 0xfee0_0000;

/// Selector of the kernel's code segment.
pub const KERNEL_CODE: u16 = 0x08;

/// Selector of the kernel's data segment.
pub const KERNEL_DATA: u16 = 0x10;

/// Selector of ring 3's data segment.
pub const USER_DATA: u16 = 0x20 | 3;

/// Selector of ring 3's code segment.
pub const USER_CODE: u16 = 0x28 | 3;

/// Selector of the task state segment.
pub const TSS: u16 = 0x30;
