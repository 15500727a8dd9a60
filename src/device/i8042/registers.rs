//! The keyboard controller as a person sees it: the output buffer stays full.
use super::I8042;
use crate::device::registers::{Block, Described};

impl Described for I8042 {
    fn describe(&self, called: &str) -> Vec<Block> {
        let s = &self.state;
        let data = match s.output {
            Some(_) => "a byte for the guest",
            None => "empty",
        };
        let awaiting = match s.awaiting {
            Some(command) => format!("the data of command {command:#04x} is to come"),
            None => "no command waits for data".to_owned(),
        };
        let keyboard = &s.keyboard;
        let waiting = match keyboard.waiting.len() {
            0 => "nothing waits".to_owned(),
            count => format!(
                "{count} bytes wait: {}",
                keyboard.waiting.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
            ),
        };
        let on = if keyboard.enabled { "sends keys" } else { "sends no keys" };
        vec![
            Block::new(called)
                .said("DATA", 8, s.output.unwrap_or(0), data)
                .flags("STATUS", s.status())
                .flags("COMMAND_BYTE", s.command_byte())
                .flags("OUTPUT_PORT", s.output_port)
                .words("controller", vec![awaiting.into()]),
            Block::new(format!("{called} keyboard"))
                .words("state", vec![on.into(), waiting.into()])
                .plain("SCAN_CODES", 8, keyboard.set)
                .plain("LEDS", 8, keyboard.leds)
                .said("last", 8, keyboard.last, "sent last"),
        ]
    }
}
