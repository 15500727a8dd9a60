//! The `kvm` mode: the host's CPU runs the guest through /dev/kvm. The only room that names `kvm_*`.
//!
//! [`KvmBackend`] is a virtual machine without in-kernel chips: every port, device register, platform MSR and
//! interrupt goes through the [`crate::engine::Platform`], as in the other modes. What the host's KVM cannot execute is
//! executed by [`crate::emulator::single`] and counted as [`crate::engine::Cause::Rescue`]. [`calibrate()`] finds out
//! what /dev/kvm truly is on this host, because the word "KVM" alone says little: see its label.
mod calibrate;
mod cpuid;
mod debug;
mod exit;
mod flat;
mod hypercall;
mod ioctl;
pub mod lens;
mod msr;
mod regs;
mod rescue;
mod rescued;
mod syscall;
mod tsc;
mod vcpu;
mod vm;

#[cfg(test)]
mod tests;

pub use calibrate::{Calibration, KvmKind, calibrate};
pub use vm::KvmBackend;

use crate::engine::EngineError;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// Whether KVM is the page-table virtual machine, which departs from the hardware in ways that need care here: see
/// `docs/decisions/kvm-01-pvm.md`.
fn is_pvm() -> bool {
    static PVM: OnceLock<bool> = OnceLock::new();
    *PVM.get_or_init(|| Path::new("/sys/module/kvm_pvm").exists())
}

/// The error of a KVM call.
fn host(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Host { what, source: io::Error::from_raw_os_error(error.errno()) }
}
