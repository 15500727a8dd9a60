//! Saved state of a local APIC.
use super::spec::{
    APIC_BASE_WRITABLE, ApicBase, Esr, ICR_LOW_WRITABLE, LINT0, LVT_COUNT, LVT_WRITABLE, Lvt, Svr,
};
use super::timer::Counter;
use super::{Lapic, State, Vectors};
use crate::clock::Nanos;
use crate::device::BadState;
use serde::{Deserialize, Serialize};

/// State of one local APIC: the registers of the SDM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the manual")]
pub struct SavedLapic {
    /// IA32_APIC_BASE.
    pub base: u64,
    pub id: u8,
    pub tpr: u8,
    pub ldr: u8,
    /// Bits 31–28 of the DFR.
    pub model: u8,
    pub svr: u32,
    pub isr: Vectors,
    pub tmr: Vectors,
    pub irr: Vectors,
    pub esr: u32,
    /// Errors since the last write to the ESR.
    pub errors: u32,
    pub icr: [u32; 2],
    pub lvt: [u32; LVT_COUNT],
    /// Level of the pin.
    pub lint0: bool,
    pub initial_count: u32,
    pub divide: u32,
    /// Guest time at which the timer's count reaches zero, in nanoseconds.
    pub expiry: Option<u64>,
    /// IA32_TSC_DEADLINE.
    pub deadline: u64,
    /// The CPU takes a start-up message.
    pub waits: bool,
}

impl Lapic {
    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedLapic {
        let Self { is_boot: _, initial_id: _, clock: _, timer: _, armed: _, state } = self;
        let State {
            base,
            id,
            tpr,
            ldr,
            model,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            lint0,
            counter,
            deadline,
            waits,
        } = state.clone();
        let Counter { initial, divide, expiry } = counter;
        SavedLapic {
            base: base.bits(),
            id,
            tpr,
            ldr,
            model,
            svr: svr.bits(),
            isr,
            tmr,
            irr,
            esr: esr.bits(),
            errors: errors.bits(),
            icr,
            lvt: lvt.map(|entry| entry.bits()),
            lint0,
            initial_count: initial,
            divide,
            expiry: expiry.map(|at| at.0),
            deadline,
            waits,
        }
    }

    /// Takes on a saved state and arms the timer. The clock has been restored before.
    ///
    /// # Errors
    /// [`BadState`], if the APIC cannot be in that state; it is unchanged then.
    pub fn restore(&mut self, saved: &SavedLapic) -> Result<(), BadState> {
        self.take_on(State::restored(saved)?);
        Ok(())
    }

    /// Takes on a state that is possible, and arms the timer. The clock has been restored before.
    pub fn take_on(&mut self, state: State) {
        self.state = state;
        self.sync();
    }
}

impl State {
    /// The state that was saved.
    ///
    /// # Errors
    /// [`BadState`], if no APIC can be in that state.
    pub fn restored(saved: &SavedLapic) -> Result<Self, BadState> {
        let SavedLapic {
            base,
            id,
            tpr,
            ldr,
            model,
            svr,
            isr,
            tmr,
            irr,
            esr,
            errors,
            icr,
            lvt,
            lint0,
            initial_count,
            divide,
            expiry,
            deadline,
            waits,
        } = saved.clone();
        let lvt_possible = |(i, (entry, writable)): (usize, (&u32, u32))| {
            let read_only = if i == LINT0 { Lvt::REMOTE_IRR.bits() } else { 0 };
            entry & !(writable | read_only) == 0
        };
        let x2apic = base & ApicBase::EXTD.bits() != 0;
        let possible = base & !APIC_BASE_WRITABLE == 0
            && model <= 0xf
            && svr <= 0x1ff
            && icr[0] & !ICR_LOW_WRITABLE == 0
            && (x2apic || icr[1] & 0x00ff_ffff == 0)
            && (!x2apic || base & ApicBase::ENABLE.bits() != 0)
            && divide & !0xb == 0
            && lvt.iter().zip(LVT_WRITABLE).enumerate().all(lvt_possible);
        if !possible {
            return Err(BadState { device: "lapic", what: "a reserved bit is set" });
        }
        Ok(Self {
            base: ApicBase::from_bits_retain(base),
            id,
            tpr,
            ldr,
            model,
            svr: Svr::from_bits_retain(svr),
            isr,
            tmr,
            irr,
            esr: Esr::from_bits_retain(esr),
            errors: Esr::from_bits_retain(errors),
            icr,
            lvt: lvt.map(Lvt::from_bits_retain),
            lint0,
            counter: Counter { initial: initial_count, divide, expiry: expiry.map(Nanos) },
            deadline,
            waits,
        })
    }
}
