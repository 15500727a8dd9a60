//! Saved state of the VGA's registers. The text is in RAM.
use super::spec::{ATTRIBUTES, COLOURS, CRTCS, GRAPHICSES, SEQUENCERS};
use super::{Dac, State, Vga};
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the registers are")]
pub struct SavedVga {
    pub misc: u8,
    pub feature: u8,
    pub retrace: bool,
    pub sequencer_index: u8,
    pub sequencer: [u8; SEQUENCERS],
    pub crtc_index: u8,
    pub crtc: [u8; CRTCS],
    pub graphics_index: u8,
    pub graphics: [u8; GRAPHICSES],
    pub attribute_index: u8,
    pub attribute_data: bool,
    pub attribute: [u8; ATTRIBUTES],
    pub dac_mask: u8,
    /// 256 colours, three bytes each.
    pub colours: Vec<u8>,
    pub dac_read: u16,
    pub dac_write: u16,
    pub dac_writing: bool,
}

impl Vga {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedVga {
        let Self { state } = self;
        let State {
            misc,
            feature,
            retrace,
            sequencer_index,
            sequencer,
            crtc_index,
            crtc,
            graphics_index,
            graphics,
            attribute_index,
            attribute_data,
            attribute,
            dac_mask,
            dac: Dac { colours, read, write, writing },
        } = state.clone();
        SavedVga {
            misc,
            feature,
            retrace,
            sequencer_index,
            sequencer,
            crtc_index,
            crtc,
            graphics_index,
            graphics,
            attribute_index,
            attribute_data,
            attribute,
            dac_mask,
            colours: colours.to_vec(),
            dac_read: read,
            dac_write: write,
            dac_writing: writing,
        }
    }

    /// Takes on a saved state.
    ///
    /// # Errors
    /// [`BadState`], if the device cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedVga) -> Result<(), BadState> {
        let SavedVga {
            misc,
            feature,
            retrace,
            sequencer_index,
            sequencer,
            crtc_index,
            crtc,
            graphics_index,
            graphics,
            attribute_index,
            attribute_data,
            attribute,
            dac_mask,
            colours,
            dac_read,
            dac_write,
            dac_writing,
        } = saved.clone();
        let bad = |what| BadState { device: "vga", what };
        let colours: [u8; 3 * COLOURS] = colours.try_into().map_err(|_| bad("another number of colours"))?;
        if usize::from(dac_read.max(dac_write)) >= colours.len() {
            return Err(bad("a colour that is not there"));
        }
        if sequencer_index > 7 || crtc_index > 0x1f || graphics_index > 0xf || attribute_index > 0x3f {
            return Err(bad("an index is out of range"));
        }
        let dac = Dac { colours, read: dac_read, write: dac_write, writing: dac_writing };
        self.state = State {
            misc,
            feature,
            retrace,
            sequencer_index,
            sequencer,
            crtc_index,
            crtc,
            graphics_index,
            graphics,
            attribute_index,
            attribute_data,
            attribute,
            dac_mask,
            dac,
        };
        Ok(())
    }
}
