//! Registers and commands of the 8042 keyboard controller (IBM PS/2 Hardware Interface Technical Reference, "Keyboard
//! and Auxiliary Device Controller").
use bitflags::bitflags;

/// The data port.
pub(super) const DATA: u16 = 0x60;
/// The command (write) and status (read) port.
pub(super) const COMMAND: u16 = 0x64;

bitflags! {
    /// Status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u8 {
        /// The output buffer is full: a byte can be read.
        const OBF = 1 << 0;
        /// System flag: the self-test was passed.
        const SYS = 1 << 2;
        /// The last write was a command.
        const COMMAND = 1 << 3;
        /// The keyboard is not locked.
        const UNLOCKED = 1 << 4;
    }

    /// Command byte: byte 0 of the controller's RAM.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct CommandByte: u8 {
        /// Interrupt when the output buffer fills.
        const INTERRUPT = 1 << 0;
        /// Copied to the status register.
        const SYS = 1 << 2;
        /// Keyboard off.
        const KEYBOARD_OFF = 1 << 4;
        /// Auxiliary device off.
        const AUX_OFF = 1 << 5;
        /// Scan codes of set 2 become those of set 1.
        const TRANSLATE = 1 << 6;
        const _ = !0;
    }

    /// Output port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct OutputPort: u8 {
        /// Not reset: low resets the CPU.
        const NOT_RESET = 1 << 0;
        /// Gate of address line 20.
        const A20 = 1 << 1;
        const _ = !0;
    }
}

/// Commands. Those that read and write RAM and that pulse the output port are ranges.
pub(super) mod command {
    pub(in super::super) const AUX_DISABLE: u8 = 0xa7;
    pub(in super::super) const AUX_ENABLE: u8 = 0xa8;
    pub(in super::super) const AUX_TEST: u8 = 0xa9;
    pub(in super::super) const SELF_TEST: u8 = 0xaa;
    pub(in super::super) const KEYBOARD_TEST: u8 = 0xab;
    pub(in super::super) const KEYBOARD_DISABLE: u8 = 0xad;
    pub(in super::super) const KEYBOARD_ENABLE: u8 = 0xae;
    pub(in super::super) const READ_INPUT_PORT: u8 = 0xc0;
    pub(in super::super) const READ_OUTPUT_PORT: u8 = 0xd0;
    pub(in super::super) const WRITE_OUTPUT_PORT: u8 = 0xd1;
    /// The next data byte comes back as if typed.
    pub(in super::super) const WRITE_OUTPUT_BUFFER: u8 = 0xd2;
    pub(in super::super) const WRITE_AUX: u8 = 0xd4;
    pub(in super::super) const DISABLE_A20: u8 = 0xdd;
    pub(in super::super) const ENABLE_A20: u8 = 0xdf;
}

/// Answer of the self-test.
pub(super) const SELF_TEST_PASSED: u8 = 0x55;
/// Answer of the tests of an interface.
pub(super) const INTERFACE_GOOD: u8 = 0;
/// The input port: keyboard not locked.
pub(super) const INPUT_PORT: u8 = 0x80;
