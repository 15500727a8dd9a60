//! The VGA's registers as a person sees them: retrace and the attribute port's turn stay as they are.
use super::Vga;
use super::spec::{self, crtc};
use crate::device::registers::{Block, Described};

impl Described for Vga {
    fn describe(&self, called: &str) -> Vec<Block> {
        let s = &self.state;
        let adapter = if s.misc & spec::MISC_COLOUR == 0 { "monochrome ports" } else { "colour ports" };
        let word = |at: usize| u16::from_be_bytes([s.crtc[at], s.crtc[at + 1]]);
        let columns = u32::from(s.crtc[crtc::DISPLAYED_COLUMNS]) + 1;
        let cursor = if s.crtc[crtc::CURSOR_START] & crtc::CURSOR_OFF == 0 {
            let at = word(crtc::CURSOR_HIGH).wrapping_sub(word(crtc::START_HIGH));
            let (line, column) = (u32::from(at) / columns, u32::from(at) % columns);
            format!("line {line}, column {column}")
        } else {
            "off".to_owned()
        };
        let mode = if s.graphics[spec::GRAPHICS_MISC] & 1 == 0 { "text mode" } else { "graphics mode" };
        let display = if s.attribute_index & spec::ATTRIBUTE_ON == 0 { "display off" } else { "display on" };
        let turn = if s.attribute_data { "data is written next" } else { "an index is written next" };
        vec![
            Block::new(called)
                .said("MISC", 8, s.misc, adapter)
                .plain("FEATURE", 8, s.feature)
                .plain("SEQUENCER_INDEX", 8, s.sequencer_index)
                .bytes("SEQUENCER", &s.sequencer)
                .plain("CRTC_INDEX", 8, s.crtc_index)
                .bytes("CRTC", &s.crtc)
                .said("CRTC start", 16, word(crtc::START_HIGH), format!("{columns} columns"))
                .said("CRTC cursor", 16, word(crtc::CURSOR_HIGH), cursor)
                .plain("GRAPHICS_INDEX", 8, s.graphics_index)
                .put("GRAPHICS[6]", 8, s.graphics[spec::GRAPHICS_MISC], vec![mode.into()])
                .bytes("GRAPHICS", &s.graphics)
                .put("ATTRIBUTE_INDEX", 8, s.attribute_index, vec![display.into(), turn.into()])
                .bytes("ATTRIBUTE", &s.attribute)
                .plain("DAC_MASK", 8, s.dac_mask)
                .said("DAC_READ", 8, s.dac.read / 3, "colour that is read next")
                .said("DAC_WRITE", 8, s.dac.write / 3, "colour that is written next"),
        ]
    }
}
