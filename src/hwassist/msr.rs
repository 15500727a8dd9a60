//! Which MSRs KVM holds for the guest, and which come to the platform.
//!
//! KVM knows many MSRs that our guests are not offered. With a filter (Linux 5.10 and later) only those that are part
//! of [`CpuState`] stay in the kernel; an access to any other one exits to us, so that all modes answer alike.
use super::host;
use crate::arch::CpuState;
use crate::arch::msr::{self, Msrs};
use crate::engine::EngineError;
use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, kvm_enable_cap, kvm_msr_entry};
use kvm_ioctls::{
    Cap, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd,
};

/// The MSRs that KVM and [`Msrs`] both hold, with the way to each field.
type Field = (u32, fn(&mut Msrs) -> &mut u64);
const HELD: [Field; 11] = [
    (msr::STAR, |m| &mut m.star),
    (msr::LSTAR, |m| &mut m.lstar),
    (msr::CSTAR, |m| &mut m.cstar),
    (msr::SFMASK, |m| &mut m.sfmask),
    (msr::KERNEL_GS_BASE, |m| &mut m.kernel_gs_base),
    (msr::SYSENTER_CS, |m| &mut m.sysenter_cs),
    (msr::SYSENTER_ESP, |m| &mut m.sysenter_esp),
    (msr::SYSENTER_EIP, |m| &mut m.sysenter_eip),
    (msr::PAT, |m| &mut m.pat),
    (msr::TSC_AUX, |m| &mut m.tsc_aux),
    (msr::MISC_ENABLE, |m| &mut m.misc_enable),
];

/// Sends accesses to all other MSRs to user space. Returns whether the host can do that; if not, KVM answers them.
/// With `keeps_entry` those that [`super::syscall`] keeps are among them.
pub(super) fn filter(vm: &VmFd, keeps_entry: bool) -> Result<bool, EngineError> {
    if !vm.check_extension(Cap::X86UserSpaceMsr) || !vm.check_extension(Cap::X86MsrFilter) {
        return Ok(false);
    }
    let reasons = MsrExitReason::Filter | MsrExitReason::Unknown | MsrExitReason::Inval;
    let exits = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(reasons.bits()), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&exits).map_err(host("KVM refuses to hand out MSR accesses"))?;
    // One bit an MSR, set: KVM may handle it.
    let range = |base: u32, msr_count: u32, bitmap| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count,
        bitmap,
    };
    const ALL: [u8; 1] = [0xff];
    // Of EFER, STAR, LSTAR, CSTAR and SFMASK.
    const WITHOUT_ENTRY: [u8; 1] = [0b0_1011];
    let ranges = [
        range(msr::TSC, 1, &ALL),
        range(msr::TSC_ADJUST, 1, &ALL),
        range(msr::SYSENTER_CS, 3, &ALL),
        range(msr::MISC_ENABLE, 1, &ALL),
        range(msr::PAT, 1, &ALL),
        range(msr::EFER, 5, if keeps_entry { &WITHOUT_ENTRY } else { &ALL }),
        range(msr::FS_BASE, 4, &ALL),
    ];
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges).map_err(host("KVM refuses the MSR filter"))?;
    Ok(true)
}

/// Whether KVM handles accesses to this MSR by itself, as [`filter`] leaves it to.
pub(super) fn is_held(index: u32, keeps_entry: bool) -> bool {
    if keeps_entry && matches!(index, msr::LSTAR | msr::SFMASK) {
        return false;
    }
    let among = |base: u32, count: u32| (base..base + count).contains(&index);
    among(msr::TSC, 1)
        || among(msr::TSC_ADJUST, 1)
        || among(msr::SYSENTER_CS, 3)
        || among(msr::MISC_ENABLE, 1)
        || among(msr::PAT, 1)
        || among(msr::EFER, 5)
        || among(msr::FS_BASE, 4)
}

/// Reads the MSRs that KVM holds. `tsc_adjust` is left alone.
pub(super) fn save(vcpu: &VcpuFd, into: &mut Msrs) -> Result<(), EngineError> {
    let wanted = HELD.map(|(index, _)| kvm_msr_entry { index, ..kvm_msr_entry::default() });
    let mut entries = list(&wanted)?;
    let read = vcpu.get_msrs(&mut entries).map_err(host("cannot read MSRs"))?;
    if read != HELD.len() {
        return Err(refused("cannot read MSRs", HELD[read].0));
    }
    for ((_, field), entry) in HELD.iter().zip(entries.as_slice()) {
        *field(into) = entry.data;
    }
    Ok(())
}

/// Writes the MSRs that KVM holds. `tsc_adjust` is left alone.
pub(super) fn load(vcpu: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let mut from = state.msrs;
    let entries = HELD.map(|(index, field)| kvm_msr_entry {
        index,
        data: *field(&mut from),
        ..kvm_msr_entry::default()
    });
    let written = vcpu.set_msrs(&list(&entries)?).map_err(host("cannot write MSRs"))?;
    if written != HELD.len() {
        return Err(refused("cannot write MSRs", HELD[written].0));
    }
    Ok(())
}

/// A list of one MSR.
pub(super) fn one(index: u32, data: u64) -> Result<kvm_bindings::Msrs, EngineError> {
    list(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }])
}

fn list(entries: &[kvm_msr_entry]) -> Result<kvm_bindings::Msrs, EngineError> {
    kvm_bindings::Msrs::from_entries(entries).map_err(|_| EngineError::Host {
        what: "cannot make a list of MSRs",
        source: std::io::Error::from(std::io::ErrorKind::OutOfMemory),
    })
}

fn refused(what: &'static str, index: u32) -> EngineError {
    EngineError::Host { what, source: std::io::Error::other(format!("KVM refuses MSR {index:#x}")) }
}
