//! The guest's time-stamp counter: the host's plus the guest's own adjustment, so that all modes read one clock.
use super::{host, ioctl, msr};
use crate::arch::msr as index;
use crate::engine::EngineError;
use crate::sys::tsc;
use kvm_ioctls::VcpuFd;

/// How this host's KVM keeps the offset between the two counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TscOffset {
    /// As an attribute of the vCPU, exactly (Linux 5.16 and later).
    Attribute,
    /// Only by writes to the counter itself, to within a microsecond or so.
    Counter,
    /// Not at all: the guest reads the host's counter, whatever it is told. Remembered so that a state that was loaded
    /// is saved unchanged; see `docs/decisions/kvm-01-pvm.md`.
    Ignored(u64),
}

impl TscOffset {
    /// Finds out on a vCPU that has not run yet. Its offset is zero afterwards.
    pub(super) fn probe(vcpu: &VcpuFd) -> Result<Self, EngineError> {
        if !ioctl::has_tsc_offset(vcpu) {
            Self::Counter.set_adjust(vcpu, 0)?;
            return Ok(Self::Counter);
        }
        const TRIAL: u64 = 1 << 36;
        let mut attribute = Self::Attribute;
        attribute.set_adjust(vcpu, TRIAL)?;
        let kept = attribute.adjust(vcpu)? == TRIAL;
        attribute.set_adjust(vcpu, 0)?;
        Ok(if kept { attribute } else { Self::Ignored(0) })
    }

    /// What the guest's counter is ahead of the host's, in ticks, wrapping.
    pub(super) fn adjust(&self, vcpu: &VcpuFd) -> Result<u64, EngineError> {
        match *self {
            Self::Ignored(adjust) => Ok(adjust),
            Self::Attribute => ioctl::tsc_offset(vcpu).map_err(|source| EngineError::Host {
                what: "cannot read the offset of a vCPU's time-stamp counter",
                source,
            }),
            Self::Counter => {
                let mut entries = msr::one(index::TSC_ADJUST, 0)?;
                vcpu.get_msrs(&mut entries).map_err(host("cannot read a vCPU's time-stamp counter"))?;
                Ok(entries.as_slice().first().map_or(0, |e| e.data))
            }
        }
    }

    /// What the counter that the guest reads is ahead of the host's, in ticks, wrapping.
    pub(super) fn guests(&self, vcpu: &VcpuFd) -> Result<u64, EngineError> {
        match self {
            Self::Ignored(_) => Ok(0),
            Self::Attribute | Self::Counter => self.adjust(vcpu),
        }
    }

    /// Sets the guest's counter to the host's plus `adjust` ticks, wrapping.
    pub(super) fn set_adjust(&mut self, vcpu: &VcpuFd, adjust: u64) -> Result<(), EngineError> {
        match self {
            Self::Ignored(kept) => *kept = adjust,
            Self::Attribute => ioctl::set_tsc_offset(vcpu, adjust).map_err(|source| EngineError::Host {
                what: "cannot set the offset of a vCPU's time-stamp counter",
                source,
            })?,
            Self::Counter => {
                let what = host("cannot set a vCPU's time-stamp counter");
                let counter = msr::one(index::TSC, tsc::read().wrapping_add(adjust))?;
                vcpu.set_msrs(&counter).map_err(&what)?;
                vcpu.set_msrs(&msr::one(index::TSC_ADJUST, adjust)?).map_err(&what)?;
            }
        }
        Ok(())
    }
}
