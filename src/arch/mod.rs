//! Pure x86-64 facts: registers, descriptors, paging, exceptions, CPUID, and the one map of addresses and ports.
//!
//! Nothing here does I/O, needs `unsafe`, or knows of an engine. "SDM" in doc lines is Intel's *Software Developer's
//! Manual*; volume 3A unless another one is named.
pub mod address;
pub mod control;
pub mod cpuid;
pub mod exception;
pub mod layout;
pub mod msr;
pub mod paging;
pub mod rflags;
pub mod saved;
pub mod segment;
pub mod state;

pub use address::{Gpa, Gva, Port, Width};
pub use control::{Cr0, Cr4, Efer, Xcr0};
pub use exception::{Exception, Vector};
pub use rflags::Rflags;
pub use saved::{BadCpu, SavedCpu};
pub use segment::{DescriptorTable, Segment, SegmentRegister};
pub use state::{Activity, CpuState, XsaveArea};

/// Bytes that an instruction has at most (SDM vol. 2A, 2.3.11).
pub const LONGEST_INSTRUCTION: usize = 15;
