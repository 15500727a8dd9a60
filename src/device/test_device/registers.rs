//! The test device as a person sees it.
use super::TestDevice;
use crate::device::registers::{Block, Described};

impl Described for TestDevice {
    fn describe(&self, called: &str) -> Vec<Block> {
        let memory = self.memory.iter().filter(|&&byte| byte != 0).count();
        vec![
            Block::new(called).plain("REGISTER", 32, u32::from_le_bytes(self.register)).words(
                "memory",
                vec![format!("{memory} of {} bytes are not zero", self.memory.len()).into()],
            ),
        ]
    }
}
