//! Saved state of the test device.
use super::TestDevice;
use crate::arch::layout::TEST_MEMORY_SIZE;
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of the test device. The lines that it drove are the interrupt chips'.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedTestDevice {
    /// The register.
    pub register: [u8; 4],
    /// The memory, [`TEST_MEMORY_SIZE`] bytes.
    pub memory: Vec<u8>,
}

impl TestDevice {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedTestDevice {
        let Self { lines: _, ram: _, register, memory } = self;
        SavedTestDevice { register: *register, memory: memory.to_vec() }
    }

    /// Takes on a saved state.
    ///
    /// # Errors
    /// [`BadState`], if the memory has another size; the device is unchanged then.
    pub fn restore(&mut self, saved: &SavedTestDevice) -> Result<(), BadState> {
        let SavedTestDevice { register, memory } = saved;
        let memory: &[u8; TEST_MEMORY_SIZE] = memory
            .as_slice()
            .try_into()
            .map_err(|_| BadState { device: "test-device", what: "memory of another size" })?;
        self.register = *register;
        *self.memory = *memory;
        Ok(())
    }
}
