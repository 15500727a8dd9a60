//! Registers of a VGA as text mode needs them (IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem").

pub(super) const ATTRIBUTE: u16 = 0x3c0;
pub(super) const ATTRIBUTE_DATA: u16 = 0x3c1;
/// Written: miscellaneous output. Read: input status 0.
pub(super) const MISC: u16 = 0x3c2;
pub(super) const SEQUENCER: u16 = 0x3c4;
pub(super) const SEQUENCER_DATA: u16 = 0x3c5;
pub(super) const DAC_MASK: u16 = 0x3c6;
/// Written: index to read at. Read: what was done last.
pub(super) const DAC_READ: u16 = 0x3c7;
pub(super) const DAC_WRITE: u16 = 0x3c8;
pub(super) const DAC_DATA: u16 = 0x3c9;
pub(super) const FEATURE_READ: u16 = 0x3ca;
pub(super) const MISC_READ: u16 = 0x3cc;
pub(super) const GRAPHICS: u16 = 0x3ce;
pub(super) const GRAPHICS_DATA: u16 = 0x3cf;
/// The CRT controller and what goes with it, in the place of a colour adapter; a monochrome one's is [`MONO`] lower.
pub(super) const CRTC: u16 = 0x3d4;
pub(super) const CRTC_DATA: u16 = 0x3d5;
/// Read: input status 1. Written: feature control.
pub(super) const STATUS: u16 = 0x3da;
pub(super) const MONO: u16 = 0x20;

/// Miscellaneous output: the registers are in the colour adapter's place.
pub(super) const MISC_COLOUR: u8 = 1;
/// Input status 1: no display now, vertical retrace.
pub(super) const STATUS_RETRACE: u8 = 1 << 0 | 1 << 3;
/// Index of the attribute registers: the display is on, and the palette is the display's.
pub(super) const ATTRIBUTE_ON: u8 = 1 << 5;

/// How many registers of each kind there are.
pub(super) const SEQUENCERS: usize = 8;
pub(super) const CRTCS: usize = 25;
pub(super) const GRAPHICSES: usize = 9;
pub(super) const ATTRIBUTES: usize = 21;
pub(super) const COLOURS: usize = 256;

/// Registers of the CRT controller.
pub(super) mod crtc {
    pub(in super::super) const DISPLAYED_COLUMNS: usize = 0x01;
    pub(in super::super) const OVERFLOW: usize = 0x07;
    pub(in super::super) const HEIGHT: usize = 0x09;
    pub(in super::super) const CURSOR_START: usize = 0x0a;
    /// The low half is in the next one.
    pub(in super::super) const START_HIGH: usize = 0x0c;
    /// The low half is in the next one.
    pub(in super::super) const CURSOR_HIGH: usize = 0x0e;
    pub(in super::super) const RETRACE_END: usize = 0x11;
    pub(in super::super) const DISPLAYED_LINES: usize = 0x12;
    pub(in super::super) const PITCH: usize = 0x13;
    /// [`CURSOR_START`]: no cursor.
    pub(in super::super) const CURSOR_OFF: u8 = 1 << 5;
    /// [`RETRACE_END`]: registers 0–7 cannot be written, but for bit 4 of [`OVERFLOW`].
    pub(in super::super) const PROTECT: u8 = 1 << 7;
    pub(in super::super) const LINE_COMPARE: u8 = 1 << 4;
}

/// Graphics register: mode of memory.
pub(super) const GRAPHICS_MISC: usize = 6;

/// What a BIOS sets for mode 3: 80×25 characters of 9×16 dots, 16 colours.
pub(super) mod mode3 {
    use super::{ATTRIBUTES, CRTCS, GRAPHICSES, SEQUENCERS};
    pub(in super::super) const MISC: u8 = 0x67;
    pub(in super::super) const SEQUENCER: [u8; SEQUENCERS] = [0x03, 0x00, 0x03, 0x00, 0x02, 0, 0, 0];
    pub(in super::super) const CRTC: [u8; CRTCS] = [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c,
        0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ];
    pub(in super::super) const GRAPHICS: [u8; GRAPHICSES] =
        [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff];
    pub(in super::super) const ATTRIBUTE: [u8; ATTRIBUTES] = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c,
        0x00, 0x0f, 0x08, 0x00,
    ];
}
