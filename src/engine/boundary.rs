//! What a vCPU does between two instructions, decided in one place for all modes.
//!
//! At a boundary the vCPU looks at its surroundings, in this order: what its kick cell asks for (timers that are due,
//! a request to leave), whether an interrupt waits that the state lets in, whether it executes at all. What comes of it
//! is one thing: a step of [`super::DebugVcpu`] is exactly one [`Boundary`] acted upon.
use super::{Attention, Exit, Platform, VcpuId};
use crate::arch::{Activity, CpuState};

/// What a vCPU at an instruction boundary is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boundary {
    /// Return this from `run` or `step`.
    Leave(Exit),
    /// Enter the guest's handler for this vector, which has been acknowledged: it must not get lost. A halted CPU
    /// wakes.
    Interrupt(u8),
    /// Enter the guest's handler for the NMI (vector 2), with others blocked until IRET. A halted CPU wakes.
    Nmi,
    /// Go on: the exception that is pending in the state, or else the instruction at RIP.
    Execute,
}

impl Platform {
    /// What `vcpu`, whose state is `state`, is to do now. An exception that is pending goes before interrupts, and an
    /// interrupt shadow or a cleared IF holds them back ([`CpuState::can_take_interrupt`]).
    pub fn at_boundary(&self, vcpu: VcpuId, state: &CpuState) -> Boundary {
        if self.kick(vcpu).is_raised()
            && let Attention::Leave(exit) = self.attend(vcpu)
        {
            return Boundary::Leave(exit);
        }
        if state.activity == Activity::Shutdown {
            return Boundary::Leave(Exit::TripleFault);
        }
        // One that is held back now is looked for again when attention is next asked for.
        let deaf = state.nmi_blocked || state.interrupt_shadow || state.pending_exception.is_some();
        if !deaf && state.activity != Activity::WaitsForStartUp && self.take_nmi(vcpu) {
            return Boundary::Nmi;
        }
        if state.can_take_interrupt()
            && self.interrupt_pending(vcpu)
            && let Some(vector) = self.acknowledge_interrupt(vcpu)
        {
            return Boundary::Interrupt(vector);
        }
        match state.activity {
            Activity::Halted | Activity::WaitsForStartUp => Boundary::Leave(Exit::Halted),
            Activity::Running | Activity::Shutdown => Boundary::Execute,
        }
    }
}
