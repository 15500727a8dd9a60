//! ACPI's fixed hardware as a person sees it.
use super::{AcpiPm, ticks};
use crate::device::registers::{Block, Described};

impl Described for AcpiPm {
    fn describe(&self, called: &str) -> Vec<Block> {
        let (s, now) = (&self.state, ticks(self.clock.now()));
        let mut status = s.status;
        status.set(super::Event::TIMER, s.status.contains(super::Event::TIMER) || now >> 31 != s.seen);
        vec![
            Block::new(called)
                .flags("PM1_STS", status)
                .flags("PM1_EN", s.enable)
                .flags("PM1_CNT", s.control)
                .said("PM_TMR", 32, now as u32, "3.579545 MHz"),
        ]
    }
}
