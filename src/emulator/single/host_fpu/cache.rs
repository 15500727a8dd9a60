//! Keeps thunks: equal host code is kept once, and when the memory is full all of it is forgotten.
//!
//! Two guest instructions that differ only in how they address memory share a thunk. The number of distinct ones is
//! bounded by the memory, whatever a guest executes.
use super::thunk::HostCode;
use crate::engine::EngineError;
use crate::sys::exec_memory::ExecMemory;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The generation that no cache of this process has had yet. One of 0 is never valid.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

fn new_generation() -> u64 {
    NEXT_GENERATION.fetch_add(1, Ordering::Relaxed)
}

const SIZE: usize = 1 << 20;

/// Where a thunk is. Valid in the cache of the same generation, which is one cache of the process, until that forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    pub(super) generation: u64,
    pub(super) address: usize,
    pub(super) resume: usize,
}

pub(super) struct Cache {
    memory: ExecMemory,
    used: usize,
    generation: u64,
    known: HashMap<Vec<u8>, Place>,
}

impl Cache {
    pub(super) fn new() -> Result<Self, EngineError> {
        let memory = ExecMemory::new(SIZE)
            .map_err(|source| EngineError::Host { what: "cannot map memory for code", source })?;
        Ok(Self { memory, used: 0, generation: new_generation(), known: HashMap::new() })
    }

    #[inline]
    pub(super) fn is_valid(&self, place: Place) -> bool {
        place.generation == self.generation
    }

    /// The addresses of all thunks.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.memory.address(0)..self.memory.address(SIZE)
    }

    /// The place of this code, written now if it is new.
    pub(super) fn insert(&mut self, code: HostCode) -> Place {
        if let Some(&place) = self.known.get(&code.bytes) {
            return place;
        }
        if self.used + code.bytes.len() > SIZE {
            self.known.clear();
            self.used = 0;
            self.generation = new_generation();
        }
        let fits = self.memory.write(self.used, &code.bytes);
        debug_assert!(fits, "a thunk is far smaller than the memory");
        let address = self.memory.address(self.used);
        let place = Place { generation: self.generation, address, resume: address + code.resume };
        self.used = (self.used + code.bytes.len()).next_multiple_of(16);
        self.known.insert(code.bytes, place);
        place
    }
}
