//! The registers as MSRs, in x2APIC mode (SDM vol. 3A, 11.12), and the timer's deadline (11.5.4.1).
use super::spec::{self, ApicBase, LVT_COUNT, LVT_WRITABLE, Lvt, offset};
use super::{Effect, Lapic, Message, Shorthand};
use crate::arch::msr;

impl Lapic {
    /// Whether the registers are MSRs, and not a page.
    #[must_use]
    pub fn is_x2apic(&self) -> bool {
        self.state.base.contains(ApicBase::ENABLE | ApicBase::EXTD)
    }

    /// The logical ID in this mode: a cluster of 16 APICs, and a bit in it (11.12.10.2).
    pub(super) fn logical_x2apic_id(&self) -> u32 {
        let id = u32::from(self.state.id);
        id >> 4 << 16 | 1 << (id & 15)
    }

    /// Reads an MSR of the APIC; `None` means #GP.
    #[must_use]
    pub fn read_msr(&mut self, index: u32) -> Option<u64> {
        match index {
            msr::APIC_BASE => return Some(self.base()),
            msr::TSC_DEADLINE => return Some(self.deadline()),
            _ => {}
        }
        let at = self.register(index)?;
        Some(match at {
            offset::ID => self.state.id.into(),
            offset::LDR => self.logical_x2apic_id().into(),
            offset::ICR_LOW => u64::from(self.state.icr[1]) << 32 | u64::from(self.state.icr[0]),
            offset::EOI | offset::ICR_HIGH | offset::DFR | offset::APR | SELF_IPI => return None,
            at if exists(at) => self.read(at).into(),
            _ => return None,
        })
    }

    /// Writes an MSR of the APIC; `None` means #GP.
    #[must_use]
    pub fn write_msr(&mut self, index: u32, value: u64) -> Option<Effect> {
        match index {
            msr::APIC_BASE => return self.set_base(value).map(|()| Effect::None),
            msr::TSC_DEADLINE => {
                self.set_deadline(value);
                return Some(Effect::None);
            }
            _ => {}
        }
        let at = self.register(index)?;
        if at == offset::ICR_LOW {
            self.state.icr = [value as u32 & spec::ICR_LOW_WRITABLE, (value >> 32) as u32];
            return Some(self.command());
        }
        let value = u32::try_from(value).ok()?;
        let allowed = match at {
            offset::EOI | offset::ESR => 0,
            offset::TPR | SELF_IPI => 0xff,
            offset::SVR => 0x1ff,
            offset::LVT_TIMER..=offset::LVT_ERROR => {
                let read_only = (Lvt::DELIVERY_STATUS | Lvt::REMOTE_IRR).bits();
                LVT_WRITABLE[((at - offset::LVT_TIMER) / 16) as usize % LVT_COUNT] | read_only
            }
            offset::INITIAL_COUNT => u32::MAX,
            offset::DIVIDE => 0xb,
            _ => return None,
        };
        if value & !allowed != 0 {
            return None;
        }
        if at == SELF_IPI {
            return Some(self.send_to_self(value as u8));
        }
        Some(self.write(at, value))
    }

    /// The offset of the register that an MSR is in x2APIC mode.
    fn register(&self, index: u32) -> Option<u64> {
        let number = index.checked_sub(msr::X2APIC).filter(|number| *number < 0x100)?;
        self.is_x2apic().then_some(u64::from(number) << 4)
    }

    fn send_to_self(&mut self, vector: u8) -> Effect {
        self.checked(
            Message {
                destination: 0,
                logical: false,
                mode: super::DeliveryMode::Fixed,
                vector,
                level: false,
            },
            Shorthand::OnlySelf,
        )
    }
}

/// The register by which a CPU interrupts itself; it exists in this mode only.
const SELF_IPI: u64 = 0x3f0;

/// Whether there is a register that can be read, but for those that differ in this mode.
fn exists(at: u64) -> bool {
    matches!(
        at,
        offset::VERSION | offset::TPR | offset::PPR | offset::SVR | offset::ESR | offset::DIVIDE
            | offset::INITIAL_COUNT | offset::CURRENT_COUNT
            | offset::ISR..offset::ESR
            | offset::LVT_TIMER..=offset::LVT_ERROR
    )
}
