//! vCPU calls that kvm-ioctls does not wrap (Linux `Documentation/virt/kvm/api.rst`, 4.16 and 4.80).
#![expect(unsafe_code, reason = "ioctl(2) takes raw pointers")]
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_interrupt};
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW(0xae, number, T)` of Linux `asm-generic/ioctl.h`.
const fn write_request<T>(number: u64) -> u64 {
    1 << 30 | (size_of::<T>() as u64) << 16 | 0xae << 8 | number
}

const KVM_INTERRUPT: u64 = write_request::<kvm_interrupt>(0x86);
const KVM_SET_DEVICE_ATTR: u64 = write_request::<kvm_device_attr>(0xe1);
const KVM_HAS_DEVICE_ATTR: u64 = write_request::<kvm_device_attr>(0xe3);
const KVM_GET_DEVICE_ATTR: u64 = write_request::<kvm_device_attr>(0xe2);

/// Queues an external interrupt; it is delivered when the guest is entered. The caller knows that the window is open.
pub(super) fn queue_interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a vCPU's and the argument a live value of the type that the request names.
    if unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const interrupt) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Calls `request` for the attribute that holds a vCPU's TSC offset, with its value at `offset`.
fn tsc_attribute(vcpu: &VcpuFd, request: u64, offset: &mut u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(offset) as u64,
    };
    // SAFETY: as in `queue_interrupt`; the kernel reads or writes eight bytes at `addr`, which is `offset`.
    if unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attribute) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the offset between the host's and the guest's TSC can be read and set (Linux 5.16 and later).
pub(super) fn has_tsc_offset(vcpu: &VcpuFd) -> bool {
    tsc_attribute(vcpu, KVM_HAS_DEVICE_ATTR, &mut 0).is_ok()
}

/// Sets the guest's TSC to the host's plus `offset` ticks, wrapping.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    tsc_attribute(vcpu, KVM_SET_DEVICE_ATTR, &mut offset)
}

/// What the guest's TSC is ahead of the host's, in ticks, wrapping.
pub(super) fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0;
    tsc_attribute(vcpu, KVM_GET_DEVICE_ATTR, &mut offset)?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    #[test]
    fn request_numbers_are_those_of_the_kernels_headers() {
        assert_eq!(super::KVM_INTERRUPT, 0x4004_ae86);
        assert_eq!(super::KVM_GET_DEVICE_ATTR, 0x4018_aee2);
    }
}
