//! The `pv` mode: the guest, unchanged, patched when it is executed, runs natively at ring 3 in a sandboxed process.
//!
//! | room | what it is |
//! |---|---|
//! | [`layout`] | the child's addresses and the words of the shared page |
//! | [`child`] | the process: start, stub, filter, hand-over, registers |
//! | [`space`] | guest page tables → mappings of the child |
//! | [`patch`] | scan, sites, thunks |
//! | [`text`] | the memory behind patched code |
//! | [`trap`] | what a trap means |
//! | [`vcpu`] | the loop |
//!
//! What starts in 32-bit mode, or is in any other state that the child cannot execute, `emulator::single` executes.
mod child;
mod layout;
mod patch;
mod space;
#[cfg(test)]
mod tests;
mod text;
mod trap;
mod vcpu;

pub use patch::{Site, SiteKind};

use crate::arch::CpuState;
use crate::engine::{Backend, Caps, EngineError, Mode, Vcpu, VcpuId};
use crate::mem::{GuestRam, RamSlot};
use std::sync::Arc;

/// Makes vCPUs that run natively.
#[derive(Debug)]
pub struct Pv {
    ram: Arc<GuestRam>,
    caps: Caps,
}

impl Pv {
    /// A backend over `ram`. Starts one child to see whether the host can.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with the reason, or what the host refused.
    pub fn new(ram: Arc<GuestRam>) -> Result<Self, EngineError> {
        if !std::arch::is_x86_feature_detected!("xsave") || !std::arch::is_x86_feature_detected!("avx") {
            return Err(EngineError::Unavailable {
                mode: Mode::Pv,
                reason: "the host's CPU has no AVX, or its kernel does not enable it".to_owned(),
            });
        }
        if !child::has_fsgsbase() {
            return Err(EngineError::Unavailable {
                mode: Mode::Pv,
                reason:
                    "the host does not let programs set their FS and GS bases (Linux 5.9 and FSGSBASE do)"
                        .to_owned(),
            });
        }
        Ok(Self {
            ram,
            caps: Caps {
                engine: "native",
                interface: "patched",
                label: "patched on execution, native at ring 3 in a sandboxed process".to_owned(),
            },
        })
    }
}

impl Backend for Pv {
    fn mode(&self) -> Mode {
        Mode::Pv
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn map_ram(&self, _: &RamSlot) -> Result<(), EngineError> {
        // The child maps pages of RAM's memory object as the guest's page tables say.
        Ok(())
    }

    fn create_vcpu(&self, id: VcpuId, reset: &CpuState) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(vcpu::PvVcpu::new(id, Arc::clone(&self.ram), reset.clone())?))
    }
}
