//! A VGA in text mode: the registers that decide where the text is and what of it is seen.
//!
//! The text itself lies in guest RAM, where a VGA's memory is looked for (0xB8000): characters and attributes in turn, as
//! text mode shows them to a program. Fonts are not kept; a program that loads one writes to 0xA0000, where nobody looks.
//! Graphics modes can be set and show nothing. The registers begin as a BIOS leaves them, in mode 3, so that a guest
//! that no firmware started has a screen. [`Vga::text`] reads the screen.
mod glyphs;
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;
mod text;

pub use saved::SavedVga;
pub use text::{Cell, TextScreen};

use super::BytePorts;
use crate::arch::Port;
use spec::{ATTRIBUTES, COLOURS, CRTCS, GRAPHICSES, MONO, SEQUENCERS, crtc, mode3};

/// The registers. They claim their ports as one range.
#[derive(Debug, Default)]
pub struct Vga {
    // Volatile state.
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    misc: u8,
    feature: u8,
    /// What input status 1 said last: each read is in and out of the retrace in turn.
    retrace: bool,
    sequencer_index: u8,
    sequencer: [u8; SEQUENCERS],
    crtc_index: u8,
    crtc: [u8; CRTCS],
    graphics_index: u8,
    graphics: [u8; GRAPHICSES],
    attribute_index: u8,
    /// The next write to the attribute port is data.
    attribute_data: bool,
    attribute: [u8; ATTRIBUTES],
    dac_mask: u8,
    dac: Dac,
}

/// The colours, three bytes of six bits each.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Dac {
    colours: [u8; 3 * COLOURS],
    /// Next byte to be read and to be written.
    read: u16,
    write: u16,
    /// The last index was one to write at.
    writing: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            misc: mode3::MISC,
            feature: 0,
            retrace: false,
            sequencer_index: 0,
            sequencer: mode3::SEQUENCER,
            crtc_index: 0,
            crtc: mode3::CRTC,
            graphics_index: 0,
            graphics: mode3::GRAPHICS,
            attribute_index: spec::ATTRIBUTE_ON,
            attribute_data: false,
            attribute: mode3::ATTRIBUTE,
            dac_mask: 0xff,
            dac: Dac { colours: [0; 3 * COLOURS], read: 0, write: 0, writing: true },
        }
    }
}

impl Dac {
    fn read(&mut self) -> u8 {
        let value = self.colours[usize::from(self.read)];
        self.read = (self.read + 1) % (3 * COLOURS) as u16;
        value
    }

    fn write(&mut self, value: u8) {
        self.colours[usize::from(self.write)] = value & 0x3f;
        self.write = (self.write + 1) % (3 * COLOURS) as u16;
    }
}

impl State {
    /// The port as a colour adapter has it; `None` for the CRT controller in the place where it is not.
    fn colour_port(&self, port: u16) -> Option<u16> {
        let colour = self.misc & spec::MISC_COLOUR != 0;
        match port {
            0x3b0..=0x3bf => (!colour).then_some(port + MONO),
            0x3d0..=0x3df => colour.then_some(port),
            _ => Some(port),
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.crtc_index);
        let protected = self.crtc[crtc::RETRACE_END] & crtc::PROTECT != 0 && index <= crtc::OVERFLOW;
        let mask = match (protected, index) {
            (false, _) => 0xff,
            (true, crtc::OVERFLOW) => crtc::LINE_COMPARE,
            (true, _) => 0,
        };
        if let Some(register) = self.crtc.get_mut(index) {
            *register = *register & !mask | value & mask;
        }
    }

    fn write_attribute(&mut self, value: u8) {
        if self.attribute_data {
            if let Some(register) = self.attribute.get_mut(usize::from(self.attribute_index & 0x1f)) {
                *register = value;
            }
        } else {
            self.attribute_index = value & 0x3f;
        }
        self.attribute_data = !self.attribute_data;
    }
}

fn register(registers: &[u8], index: u8) -> u8 {
    registers.get(usize::from(index)).copied().unwrap_or(0)
}

fn set_register(registers: &mut [u8], index: u8, value: u8) {
    if let Some(register) = registers.get_mut(usize::from(index)) {
        *register = value;
    }
}

impl BytePorts for Vga {
    fn read_byte(&mut self, port: Port) -> u8 {
        let s = &mut self.state;
        let Some(port) = s.colour_port(port.0) else { return 0xff };
        match port {
            spec::ATTRIBUTE => s.attribute_index,
            spec::ATTRIBUTE_DATA => register(&s.attribute, s.attribute_index & 0x1f),
            // Input status 0: a colour monitor is sensed, no interrupt waits.
            spec::MISC => 1 << 4,
            spec::SEQUENCER => s.sequencer_index,
            spec::SEQUENCER_DATA => register(&s.sequencer, s.sequencer_index),
            spec::DAC_MASK => s.dac_mask,
            spec::DAC_READ => {
                if s.dac.writing {
                    0
                } else {
                    3
                }
            }
            spec::DAC_WRITE => (s.dac.write / 3) as u8,
            spec::DAC_DATA => s.dac.read(),
            spec::FEATURE_READ => s.feature,
            spec::MISC_READ => s.misc,
            spec::GRAPHICS => s.graphics_index,
            spec::GRAPHICS_DATA => register(&s.graphics, s.graphics_index),
            spec::CRTC => s.crtc_index,
            spec::CRTC_DATA => register(&s.crtc, s.crtc_index),
            spec::STATUS => {
                s.attribute_data = false;
                s.retrace = !s.retrace;
                if s.retrace { spec::STATUS_RETRACE } else { 0 }
            }
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        let s = &mut self.state;
        let Some(port) = s.colour_port(port.0) else { return };
        match port {
            spec::ATTRIBUTE => s.write_attribute(value),
            spec::MISC => s.misc = value,
            spec::SEQUENCER => s.sequencer_index = value & 7,
            spec::SEQUENCER_DATA => set_register(&mut s.sequencer, s.sequencer_index, value),
            spec::DAC_MASK => s.dac_mask = value,
            spec::DAC_READ => {
                s.dac.writing = false;
                s.dac.read = 3 * u16::from(value);
            }
            spec::DAC_WRITE => {
                s.dac.writing = true;
                s.dac.write = 3 * u16::from(value);
            }
            spec::DAC_DATA => s.dac.write(value),
            spec::GRAPHICS => s.graphics_index = value & 0xf,
            spec::GRAPHICS_DATA => set_register(&mut s.graphics, s.graphics_index, value),
            spec::CRTC => s.crtc_index = value & 0x1f,
            spec::CRTC_DATA => s.write_crtc(value),
            spec::STATUS => s.feature = value,
            _ => {}
        }
    }
}
