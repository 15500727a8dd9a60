//! The engine `direct`: the guest, unchanged, runs natively at ring 3 in a sandboxed process. In mode `pv` it is patched
//! when it is executed. Without that ([`Interface::None`]) it is trap-and-emulate as textbooks tell it: privileged
//! instructions fault and are emulated, and the sensitive unprivileged ones act on the host's state in silence.
//!
//! | room | what it is |
//! |---|---|
//! | `layout` | the child's addresses and the words of the shared page |
//! | `child` | the process: start, stub, filter, hand-over, registers |
//! | `sides` | the processes: one for the guest's kernel, one for each of its last user address spaces |
//! | `space` | guest page tables → mappings of a child |
//! | `batch` | pages that a hypercall mapped, at once |
//! | `patch` | scan, sites, thunks |
//! | `text` | the memory behind patched code |
//! | `trap` | what a trap means |
//! | `lens` | what becomes of one instruction, to be looked at |
//! | `timing` | how long the engine takes for a patched instruction |
//! | `vcpu` | the loop |
//!
//! What starts in 32-bit mode, or is in any other state that the child cannot execute, `emulator::single` executes.
mod batch;
mod child;
mod layout;
pub mod lens;
mod patch;
mod sides;
mod space;
#[cfg(test)]
mod tests;
mod text;
mod timing;
mod trap;
mod vcpu;

pub use patch::{Site, SiteKind};

use crate::arch::CpuState;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{Backend, Caps, Engine, EngineError, Interface, Mode, Vcpu, VcpuId};
use crate::mem::{GuestRam, RamSlot};
use crate::sys::memfd;
use std::sync::Arc;

/// Makes vCPUs that run natively.
#[derive(Debug)]
pub struct Direct {
    ram: Arc<GuestRam>,
    interface: Interface,
    caps: Caps,
    options: Options,
}

/// What the vCPUs do beside their work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Options {
    /// They keep account of what they patch.
    counts: bool,
    /// RDTSC comes to the engine, and reads the platform's time.
    traps_time: bool,
}

impl Direct {
    /// A backend over `ram`, for a guest that sees `interface`.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with the reason.
    pub fn new(ram: Arc<GuestRam>, interface: Interface) -> Result<Self, EngineError> {
        check_host()?;
        Ok(Self { ram, interface, caps: capabilities(interface), options: Options::default() })
    }

    /// The same, whose vCPUs keep account of what they patch, or leave alone, if `counts` says so: [`Vcpu::sites`].
    #[must_use]
    pub fn counting(self, counts: bool) -> Self {
        Self { options: Options { counts, ..self.options }, ..self }
    }

    /// The same, whose guests read the platform's time by RDTSC, each at the price of a trap, if `traps` says so: where
    /// time is not the host's.
    #[must_use]
    pub fn trapping_time(self, traps: bool) -> Self {
        Self { options: Options { traps_time: traps, ..self.options }, ..self }
    }

    /// What the engine is on this host. Starts and ends a sandboxed process to see whether that works.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with the reason, or what the host refused.
    pub fn availability(interface: Interface) -> Result<Caps, EngineError> {
        check_host()?;
        let host = |source| EngineError::Host { what: "cannot make guest memory", source };
        let ram = memfd::create(c"trivisor-pv-trial", PAGE_SIZE).map_err(host)?;
        let text = text::Text::new(PAGE_SIZE)?;
        let start = child::Start { zone_offset: text.zone_offset(), traps_time: false };
        child::Child::start(&ram, text.file(), start)?;
        Ok(capabilities(interface))
    }
}

fn capabilities(interface: Interface) -> Caps {
    let label = match interface {
        Interface::None => "trap-and-emulate: unpatched, native at ring 3 in a sandboxed process",
        Interface::Patched | Interface::Pv => {
            "patched as it executes, native at ring 3 in a sandboxed process"
        }
    };
    Caps { engine: Engine::Direct.name(), label: label.to_owned() }
}

fn check_host() -> Result<(), EngineError> {
    let unavailable = |reason: &str| EngineError::Unavailable { mode: Mode::Pv, reason: reason.to_owned() };
    if !std::arch::is_x86_feature_detected!("avx") {
        return Err(unavailable("the host's CPU has no AVX, or its kernel does not enable it"));
    }
    if !std::arch::is_x86_feature_detected!("xsaveopt") {
        return Err(unavailable("the host's CPU has no XSAVEOPT, or its hypervisor hides it"));
    }
    if !child::has_fsgsbase() {
        return Err(unavailable(
            "the host does not let programs set their FS and GS bases (FSGSBASE, Linux 5.9)",
        ));
    }
    Ok(())
}

impl Backend for Direct {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn map_ram(&self, _: &RamSlot) -> Result<(), EngineError> {
        // The child maps pages of RAM's memory object as the guest's page tables say.
        Ok(())
    }

    fn create_vcpu(&self, id: VcpuId, reset: &CpuState) -> Result<Box<dyn Vcpu>, EngineError> {
        let ram = Arc::clone(&self.ram);
        Ok(Box::new(vcpu::PvVcpu::new(id, ram, reset.clone(), self.interface, self.options)?))
    }

    fn accepts(&self, state: &CpuState) -> Result<(), EngineError> {
        // A guest that has not set itself up yet may still do so elsewhere.
        let places = [("IDT", state.idtr.base), ("GDT", state.gdtr.base), ("code", state.rip)];
        let taken = places.into_iter().find(|(_, at)| state.is_long_mode() && !space::is_guest_address(*at));
        taken.map_or(Ok(()), |(what, _)| {
            let reason = format!("its {what} is where the monitor is, or above {:#x}", layout::MONITOR);
            Err(EngineError::Unfit { mode: Mode::Pv, reason })
        })
    }
}
