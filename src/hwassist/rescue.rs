//! Executes with [`Single`] what the host's KVM cannot, and goes on.
//!
//! KVM gives up on an instruction when its own emulator has no code for it and the CPU cannot run it either: on
//! emulated-supervisor hosts that is every less common instruction of ring 0 (`lock cmpxchg16b`, SSE arithmetic).
//! `Single` remembers nothing between two rescues: the guest ran in between and may have changed page tables and code.
//! There, too, vector code of ring 0 (a kernel's checksums) is executed in runs, not instruction by instruction:
//! [`KvmVcpu::go_on`]. Whatever `single` executes is counted.
use super::calibrate::{KvmKind, calibrated};
use super::exit::Code;
use super::host;
use super::regs::Parts;
use super::vcpu::KvmVcpu;
use crate::arch::{CpuState, Vector};
use crate::emulator::single::{Outcome, Single};
use crate::engine::{EngineError, Exit, Platform};
use iced_x86::{Instruction, Mnemonic};
use std::sync::Arc;

/// What an instruction, or the exception that it raises, may look at or change. Of most all is taken; those that are
/// rescued often are worth a closer look, because every call of KVM for a vCPU may cost 10 µs.
fn parts(mnemonic: Mnemonic) -> Parts {
    match mnemonic {
        Mnemonic::Clac
        | Mnemonic::Stac
        | Mnemonic::Cmpxchg8b
        | Mnemonic::Cmpxchg16b
        | Mnemonic::Popcnt
        | Mnemonic::Lzcnt
        | Mnemonic::Tzcnt
        | Mnemonic::Andn
        | Mnemonic::Bextr
        | Mnemonic::Blsi
        | Mnemonic::Blsmsk
        | Mnemonic::Blsr
        | Mnemonic::Bzhi
        | Mnemonic::Mulx
        | Mnemonic::Pdep
        | Mnemonic::Pext
        | Mnemonic::Rorx
        | Mnemonic::Sarx
        | Mnemonic::Shlx
        | Mnemonic::Shrx => Parts { vectors: false, msrs: false },
        Mnemonic::Rdtscp => Parts { vectors: false, msrs: true },
        _ => Parts::ALL,
    }
}

/// Instructions that one rescue executes at most, where a run of them is of the kind that the host lacks.
const MOST_AT_ONCE: usize = 256;
/// Other instructions in sequence that do not end such a run: vector code loads its indices and turns its loops.
const MOST_OTHERS: usize = 4;

/// Whether an instruction works on x87, MMX or vector registers.
fn is_vector(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .map(|i| instruction.op_register(i))
        .any(|r| r.is_xmm() || r.is_ymm() || r.is_mm() || r.is_st())
}

impl KvmVcpu {
    /// The interpreter, with what it remembers.
    pub(super) fn single(&mut self) -> &mut Single {
        let (id, ram) = (self.id, &self.shared.ram);
        self.single.get_or_insert_with(|| Box::new(Single::new(id, Arc::clone(ram))))
    }

    /// The guest ran outside of `single`: what it remembers may be wrong now.
    pub(super) fn forget_single(&mut self) {
        self.single().flush();
    }

    /// Executes the instruction at RIP. KVM has stopped before it.
    pub(super) fn rescue(&mut self, platform: &Platform, code: Code) -> Result<Option<Exit>, EngineError> {
        self.forget_single();
        if let Some(outcome) = self.deliver_queued(platform)? {
            // The handler comes first; the instruction is met again after it.
            return Ok((outcome == Outcome::TripleFault).then_some(Exit::TripleFault));
        }
        let core = self.core_after_run()?;
        let mnemonic = self.mnemonic(&core, code);
        let before = self.save_parts(&core, parts(mnemonic))?;
        let mut state = before.clone();
        // Without KVM_CAP_EXIT_ON_EMULATION_FAILURE KVM has also queued the #UD that the guest would get from it.
        if state.pending_exception.is_some_and(|e| e.vector == Vector::InvalidOpcode) {
            state.pending_exception = None;
        }
        self.note_rescue(platform, state.rip, mnemonic);
        let mut outcome = self.single().step(&mut state, platform)?;
        if parts(mnemonic) == Parts::ALL && calibrated().label == KvmKind::EmulatedSupervisor {
            outcome = self.go_on(&mut state, platform, outcome)?;
        }
        self.load_changes(&state, Some(&before))?;
        Ok((outcome == Outcome::TripleFault).then_some(Exit::TripleFault))
    }

    /// After an instruction that was rescued: executes those behind it while they are vector code, each of which would be
    /// a rescue of its own, with few others in between. Each counts as a rescue.
    fn go_on(
        &mut self,
        state: &mut CpuState,
        platform: &Platform,
        mut outcome: Outcome,
    ) -> Result<Outcome, EngineError> {
        let mut others = 0;
        for _ in 1..MOST_AT_ONCE {
            let attention = platform.kick(self.id).is_raised()
                || platform.interrupt_pending(self.id) && state.can_take_interrupt();
            if outcome != Outcome::Retired || attention {
                break;
            }
            let Some(next) = self.instruction_at(state).filter(|next| !next.is_privileged()) else { break };
            others = if is_vector(&next) { 0 } else { others + 1 };
            if others > MOST_OTHERS {
                break;
            }
            self.note_rescue(platform, state.rip, next.mnemonic());
            outcome = self.single().step(state, platform)?;
        }
        Ok(outcome)
    }

    /// Enters the guest's handler for the vector or NMI that KVM was given and has not delivered, if there is one. Else a
    /// state that is saved now would have lost it: the interrupt chips count it as taken.
    pub(super) fn deliver_queued(&mut self, platform: &Platform) -> Result<Option<Outcome>, EngineError> {
        if !std::mem::take(&mut self.queued) {
            return Ok(None);
        }
        let mut events = self.fd.get_vcpu_events().map_err(host("cannot read the events of a vCPU"))?;
        let vector = (events.interrupt.injected != 0).then_some(events.interrupt.nr);
        // One that comes while another is handled is KVM's to keep.
        let held_back = events.nmi.masked != 0 && events.nmi.injected == 0;
        let nmi = (events.nmi.injected | events.nmi.pending) != 0 && !held_back;
        if vector.is_none() && !nmi {
            return Ok(None);
        }
        events.interrupt.injected = 0;
        if nmi {
            // Its handler has not been entered yet.
            (events.nmi.injected, events.nmi.pending, events.nmi.masked) = (0, 0, 0);
        }
        self.fd.set_vcpu_events(&events).map_err(host("cannot write the events of a vCPU"))?;
        self.forget_single();
        let mut state = self.save_state()?;
        let mut outcome = Outcome::Retired;
        if let Some(vector) = vector {
            outcome = self.single().deliver_interrupt(&mut state, platform, vector)?;
        }
        if nmi && outcome != Outcome::TripleFault {
            outcome = self.single().deliver_nmi(&mut state, platform)?;
        }
        self.load_state(&state)?;
        Ok(Some(outcome))
    }
}
