//! A virtual machine of KVM without in-kernel chips: the mode's [`Backend`].
//!
//! Invariant: the RAM that the kernel maps into the guest outlives the machine, because [`Shared`] holds both and drops
//! the machine first.
#![expect(unsafe_code, reason = "KVM keeps addresses of this process")]
use super::calibrate::calibrated;
use super::vcpu::KvmVcpu;
use super::{host, msr};
use crate::arch::CpuState;
use crate::arch::cpuid::CpuidTable;
use crate::engine::{Backend, Caps, Engine, EngineError, Mode, Platform, Vcpu, VcpuId};
use crate::mem::{GuestRam, RamSlot};
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_EXIT_ON_EMULATION_FAILURE, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) const DEVICE: &str = "/dev/kvm";
/// Three pages for a task segment and one for an identity map, which VMX without "unrestricted guest" needs in real
/// mode: in the device hole, where no slot of RAM and no device is.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What the backend and its vCPUs share. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) vm: VmFd,
    pub(super) ram: Arc<GuestRam>,
    /// What CPUID says to each vCPU.
    pub(super) cpuid: Vec<CpuidTable>,
    /// What KVM was told of RAM.
    regions: Mutex<Vec<kvm_userspace_memory_region>>,
    /// Whether accesses to MSRs that KVM does not hold come to us.
    has_msr_exits: bool,
    /// Whether SYSCALL needs the help of [`super::syscall`].
    pub(super) mends_syscall: bool,
}

impl Shared {
    /// Has KVM forget what it made of the guest's page tables: entries were written from outside, which it does not see
    /// where it keeps shadows of them. Takes RAM away and gives it back, so no vCPU may run.
    pub(super) fn forget_translations(&self) -> Result<(), EngineError> {
        for &region in self.regions.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for memory_size in [0, region.memory_size] {
                let region = kvm_userspace_memory_region { memory_size, ..region };
                // SAFETY: as when it was first given.
                unsafe { self.vm.set_user_memory_region(region) }
                    .map_err(host("KVM refuses the guest's memory"))?;
            }
        }
        Ok(())
    }
}

/// The `kvm` mode.
#[derive(Debug)]
pub struct KvmBackend {
    shared: Arc<Shared>,
    caps: Caps,
    slots: AtomicU32,
}

fn caps(label: String) -> Caps {
    Caps { engine: Engine::Kvm.name(), label }
}

fn unavailable(reason: impl Into<String>) -> EngineError {
    EngineError::Unavailable { mode: Mode::Kvm, reason: reason.into() }
}

/// Whether those in the device's group may open it.
fn is_for_its_group(device: &Path) -> bool {
    device.metadata().is_ok_and(|metadata| metadata.mode() & 0o060 == 0o060 && metadata.gid() != 0)
}

/// Opens `device`, with a sentence for each way in which that fails.
fn open(device: &Path) -> Result<Kvm, EngineError> {
    let name = device.display();
    let path = std::ffi::CString::new(device.as_os_str().as_encoded_bytes())
        .map_err(|_| unavailable(format!("{name} is no path")))?;
    let kvm = Kvm::new_with_path(path).map_err(|error| {
        let error = io::Error::from_raw_os_error(error.errno());
        unavailable(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "{name} does not exist; load the module kvm_intel or kvm_amd, switch virtualization on in the \
                 firmware, or let the outer hypervisor offer nested virtualization"
            ),
            io::ErrorKind::PermissionDenied if is_for_its_group(device) => format!(
                "{name} may not be opened; add your user to the group kvm (sudo usermod -aG kvm $USER) and log in again"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "{name} may be opened by its owner alone; let yourself in (sudo setfacl -m u:$USER:rw {name}), or run as root"
            ),
            _ => format!("{name} cannot be opened: {error}"),
        })
    })?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => {}
        version if version < 0 => return Err(unavailable(format!("{name} is not the device of KVM"))),
        version => {
            return Err(unavailable(format!(
                "{name} speaks version {version} of its interface and not {KVM_API_VERSION}; use a current kernel"
            )));
        }
    }
    const NEEDED: [(Cap, &str); 9] = [
        (Cap::UserMemory, "USER_MEMORY"),
        (Cap::DestroyMemoryRegionWorks, "DESTROY_MEMORY_REGION_WORKS"),
        (Cap::SetTssAddr, "SET_TSS_ADDR"),
        (Cap::ExtCpuid, "EXT_CPUID"),
        (Cap::VcpuEvents, "VCPU_EVENTS"),
        (Cap::Debugregs, "DEBUGREGS"),
        (Cap::Xsave, "XSAVE"),
        (Cap::Xcrs, "XCRS"),
        (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
    ];
    let missing: Vec<_> =
        NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Ok(kvm)
    } else {
        Err(unavailable(format!("the kernel's KVM lacks {}; use Linux 4.13 or later", missing.join(", "))))
    }
}

/// Asks that an instruction that KVM cannot emulate comes to us at every privilege level (Linux 5.15 and later).
/// Without it ring 3 would get #UD where the rescue could help.
fn exit_on_emulation_failure(vm: &VmFd) -> Result<(), EngineError> {
    if vm.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) <= 0 {
        return Ok(());
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        args: [1, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&cap).map_err(host("KVM refuses to report instructions that it cannot emulate"))
}

impl KvmBackend {
    /// A virtual machine for `platform`, still without RAM: [`Backend::map_ram`] gives it that.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with what to do about it; [`EngineError::Host`] if KVM refuses a step.
    pub fn new(platform: &Platform) -> Result<Self, EngineError> {
        let cpuid = platform.vcpus().map(|id| platform.cpuid_table_of(id).clone()).collect();
        let mends_syscall = !calibrated().syscall_enters;
        let mut backend = Self::with_parts(Path::new(DEVICE), platform.ram(), cpuid, mends_syscall)?;
        if let Some(calls) = platform.hypercalls() {
            if !backend.shared.has_msr_exits {
                return Err(unavailable(
                    "hypercalls need MSRs that KVM hands out; use Linux 5.10 or later, or --interface none",
                ));
            }
            calls.take_port();
        }
        backend.caps.label = calibrated().to_string();
        Ok(backend)
    }

    /// What the mode is on this host.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with the reason and what to do about it.
    pub fn availability() -> Result<Caps, EngineError> {
        let calibration = calibrated();
        match &calibration.reason {
            Some(reason) => Err(unavailable(reason.clone())),
            None => Ok(caps(calibration.to_string())),
        }
    }

    /// A vCPU in KVM's own initial state.
    pub(super) fn new_vcpu(&self, id: VcpuId) -> Result<KvmVcpu, EngineError> {
        KvmVcpu::new(id, Arc::clone(&self.shared))
    }

    pub(super) fn with_parts(
        device: &Path,
        ram: &Arc<GuestRam>,
        cpuid: Vec<CpuidTable>,
        mends_syscall: bool,
    ) -> Result<Self, EngineError> {
        let kvm = open(device)?;
        let vm = kvm.create_vm().map_err(host("cannot create a virtual machine with KVM"))?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(host("cannot place KVM's identity map"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(host("cannot place KVM's task segment"))?;
        exit_on_emulation_failure(&vm)?;
        let has_msr_exits = msr::filter(&vm, mends_syscall)?;
        let mends_syscall = mends_syscall && has_msr_exits;
        let ram = Arc::clone(ram);
        Ok(Self {
            shared: Arc::new(Shared {
                vm,
                ram,
                cpuid,
                regions: Mutex::default(),
                has_msr_exits,
                mends_syscall,
            }),
            caps: Caps { engine: Engine::Kvm.name(), label: String::from("KVM") },
            slots: AtomicU32::new(0),
        })
    }
}

impl Backend for KvmBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn map_ram(&self, slot: &RamSlot) -> Result<(), EngineError> {
        let ours = self.shared.ram.slots().contains(slot);
        if !ours {
            return Err(EngineError::Host {
                what: "cannot map guest memory",
                source: io::Error::other("the slot is not of this machine's memory"),
            });
        }
        let region = kvm_userspace_memory_region {
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            flags: 0,
            guest_phys_addr: slot.gpa.0,
            memory_size: slot.size,
            userspace_addr: slot.host as u64,
        };
        // SAFETY: the slot is one of `shared.ram`, which stays mapped until after the machine is closed.
        unsafe { self.shared.vm.set_user_memory_region(region) }
            .map_err(host("KVM refuses the guest's memory"))?;
        self.shared.regions.lock().unwrap_or_else(PoisonError::into_inner).push(region);
        Ok(())
    }

    fn create_vcpu(&self, id: VcpuId, reset: &CpuState) -> Result<Box<dyn Vcpu>, EngineError> {
        let mut vcpu = self.new_vcpu(id)?;
        vcpu.load(reset)?;
        Ok(Box::new(vcpu))
    }

    fn ram_changed(&self) -> Result<(), EngineError> {
        self.shared.forget_translations()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::address::PAGE_SIZE;
    use crate::sys::host_cpuid;

    fn refused(device: &str) -> String {
        let ram = Arc::new(GuestRam::new(PAGE_SIZE).unwrap());
        let cpuid = vec![CpuidTable::from_host(host_cpuid::query).of_cpu(0, 1)];
        let error = KvmBackend::with_parts(Path::new(device), &ram, cpuid, false).unwrap_err();
        assert!(matches!(error, EngineError::Unavailable { mode: Mode::Kvm, .. }));
        error.to_string()
    }

    #[test]
    fn a_device_that_is_missing_or_something_else_is_named_in_a_sentence() {
        let missing = refused("/dev/no-such-kvm");
        assert!(missing.contains("/dev/no-such-kvm does not exist; load the module"), "{missing}");
        let other = refused("/dev/null");
        assert!(other.contains("is not the device of KVM"), "{other}");
    }
}
