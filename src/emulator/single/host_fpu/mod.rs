//! x87, MMX, SSE and AVX instructions, executed on the host's FPU.
//!
//! An instruction is prepared once: it becomes a small host function (`thunk`) that loads the registers it uses from
//! the guest's saved state, executes the same instruction with its memory operand pointed at a bounce buffer, and
//! stores what it wrote. Guest memory is read before and written after, through [`OperandMemory`], so faults come
//! before anything changes. Host code is shared between equal instructions and bounded (`cache`).
//!
//! - MXCSR is the guest's while the instruction runs, unmasked exceptions included: the host's CPU decides, and a SIGFPE
//!   becomes #XM with the registers untouched (`sys::fp_trap`).
//! - x87 errors are deferred by the hardware: the next waiting instruction gets #MF, seen in the saved status word.
//! - x87 pointers: FIP is the guest's RIP of the last non-control instruction. FDP and FOP change when the host's CPU
//!   changes them (new ones only for an unmasked error); FDP then is the operand's linear address. FCS and FDS are
//!   zero. Never a host address.
//! - Control registers are checked first: #UD, #NM, #MF, then operands, then #XM.
//! - Masked moves and gathers (`elements`), FXSAVE and XSAVE (`save`) and control words (`control`) need no host code.
//!
//! `CpuState::rip` must still be the instruction's own address. Not here: general-register instructions of the SSE and
//! BMI sets (CRC32, POPCNT, MOVNTI, fences), XGETBV and XSETBV.
#![expect(unsafe_code, reason = "calls generated code")]
mod cache;
mod classify;
mod control;
mod elements;
mod fpu;
mod save;
#[cfg(test)]
mod tests;
mod thunk;

use crate::arch::state::XsaveArea;
use crate::arch::{CpuState, Cr4, Exception, Gva, Vector};
use crate::engine::EngineError;
use crate::sys::fp_trap;
use cache::{Cache, Place};
pub(crate) use classify::alignment as operand_alignment;
use classify::{Unit, Work};
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use std::cell::Cell;
use thunk::Scratch;

/// Bits of MXCSR that exist.
const MXCSR_MASK: u32 = 0xffff;
/// MXCSR's exception masks.
const MXCSR_ALL_MASKED: u32 = 0x1f80;

/// How instructions reach guest memory. Addresses are linear; every access checks what paging, alignment checks and
/// canonical form demand, and has no effect if it fails.
pub(crate) trait OperandMemory {
    /// Linear address of the instruction's memory operand, of which `bytes` will be touched (0: perhaps none, so
    /// canonical form is left to the accesses). `index` is the value of a
    /// vector index register's element, not yet scaled, or what is added to an implicit RDI. Bits of `aligned` must be zero in it, which comes before
    /// canonical form.
    ///
    /// # Errors
    /// #GP or #SS for what segmentation and canonical form forbid.
    fn effective(
        &mut self,
        state: &CpuState,
        instruction: &Instruction,
        index: Option<u64>,
        bytes: usize,
        aligned: u64,
    ) -> Result<Gva, Exception>;

    /// Reads guest memory.
    ///
    /// # Errors
    /// What the access raises.
    fn read(&mut self, state: &mut CpuState, at: Gva, into: &mut [u8]) -> Result<(), Exception>;

    /// Writes guest memory: all of it or nothing.
    ///
    /// # Errors
    /// What the access raises.
    fn write(&mut self, state: &mut CpuState, at: Gva, from: &[u8]) -> Result<(), Exception>;

    /// Checks that a write of `bytes` at `at` would succeed, and writes nothing.
    ///
    /// # Errors
    /// What the access would raise.
    fn probe_write(&mut self, state: &mut CpuState, at: Gva, bytes: usize) -> Result<(), Exception>;
}

/// What a thunk does with its memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    None,
    Read,
    Write,
}

/// An instruction made ready to be executed many times.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    instruction: Instruction,
    unit: Unit,
    work: Work,
    access: Access,
    mxcsr: bool,
    bytes: u8,
    /// Bits of the operand's address that must be zero.
    misaligned: u64,
    /// The x87 opcode as FOP shows it, 0 for others.
    opcode: u16,
    place: Cell<Place>,
}

impl Prepared {
    /// Whether its accesses are never checked for alignment (SDM vol. 2, VMASKMOV, gathers, VCVTPH2PS, VCVTPS2PH).
    pub(crate) fn ignores_alignment(&self) -> bool {
        let half = matches!(self.instruction.mnemonic(), Mnemonic::Vcvtph2ps | Mnemonic::Vcvtps2ph);
        half || matches!(
            self.work,
            Work::MaskedLoad(_) | Work::MaskedStore(_) | Work::MaskedBytes | Work::Gather
        )
    }
}

type Thunk = extern "sysv64" fn(*mut CpuState, *mut Scratch);

/// Executes vector and floating-point instructions.
pub(crate) struct HostFpu {
    cache: Cache,
    scratch: Box<Scratch>,
}

impl std::fmt::Debug for HostFpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostFpu").finish_non_exhaustive()
    }
}

impl HostFpu {
    /// Maps memory for host code and installs the SIGFPE handler.
    ///
    /// # Errors
    /// When the host refuses either.
    pub(crate) fn new() -> Result<Self, EngineError> {
        fp_trap::install()
            .map_err(|source| EngineError::Host { what: "cannot catch floating-point exceptions", source })?;
        Ok(Self { cache: Cache::new()?, scratch: Box::new(Scratch::new()) })
    }

    /// Whether this module executes the instruction. That the guest's CPUID offers it (and so the host has it) is the
    /// decoder's to check: [`crate::emulator::front::features`].
    pub(crate) fn handles(instruction: &Instruction) -> bool {
        classify::handles(instruction)
    }

    /// Executes one instruction that [`Self::handles`].
    ///
    /// # Errors
    /// The exception that it raises; the state is as the manual says then.
    #[cfg(test)]
    pub(crate) fn execute<M: OperandMemory + ?Sized>(
        &mut self,
        instruction: &Instruction,
        state: &mut CpuState,
        memory: &mut M,
    ) -> Result<(), Exception> {
        let prepared = Self::prepare(instruction);
        self.run(&prepared, state, memory)
    }

    /// Makes an instruction ready, for any `HostFpu`: the one that runs it finds or builds the host code.
    pub(crate) fn prepare(instruction: &Instruction) -> Prepared {
        let (unit, mut work) = classify::classify(instruction);
        if work == Work::Gather && !elements::gather_is_valid(instruction) {
            work = Work::Undefined;
        }
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        let operand = (0..instruction.op_count()).find(|&i| instruction.op_kind(i) == OpKind::Memory);
        let access = operand.map_or(Access::None, |i| match info.op_access(i) {
            OpAccess::Read | OpAccess::CondRead => Access::Read,
            _ => Access::Write,
        });
        let bytes = instruction.memory_size().size();
        Prepared {
            instruction: *instruction,
            unit,
            work,
            access,
            mxcsr: classify::uses_mxcsr(instruction),
            bytes: bytes.min(128) as u8,
            misaligned: classify::alignment(instruction, bytes) - 1,
            opcode: if unit == Unit::X87 { fpu::opcode(instruction) } else { 0 },
            place: Cell::default(),
        }
    }

    /// Executes a prepared instruction.
    ///
    /// # Errors
    /// As [`Self::execute`].
    #[inline]
    pub(crate) fn run<M: OperandMemory + ?Sized>(
        &mut self,
        prepared: &Prepared,
        state: &mut CpuState,
        memory: &mut M,
    ) -> Result<(), Exception> {
        if prepared.work != Work::Vector {
            return self.run_other(prepared, state, memory);
        }
        prepared.unit.check(state)?;
        let bytes = usize::from(prepared.bytes);
        if prepared.access == Access::Read {
            let at = memory.effective(state, &prepared.instruction, None, bytes, prepared.misaligned)?;
            memory.read(state, at, &mut self.scratch.bounce[..bytes])?;
        }
        self.call(prepared, state)?;
        if prepared.access == Access::Write {
            // Stores change no register; the flags that VCVTPS2PH sets in MXCSR stay if the store faults.
            let at = memory.effective(state, &prepared.instruction, None, bytes, prepared.misaligned)?;
            memory.write(state, at, &self.scratch.bounce[..bytes])?;
        }
        Ok(())
    }

    /// Calls the thunk. Guest memory is already in the bounce buffer.
    #[inline]
    fn call(&mut self, prepared: &Prepared, state: &mut CpuState) -> Result<(), Exception> {
        let mut place = prepared.place.get();
        if !self.cache.is_valid(place) {
            place = self.build(prepared)?;
        }
        if prepared.mxcsr && state.xsave.mxcsr() & (!MXCSR_MASK | MXCSR_ALL_MASKED) != MXCSR_ALL_MASKED {
            return self.call_unmasked(place, state);
        }
        self.enter(place, state);
        Ok(())
    }

    #[inline]
    fn enter(&mut self, place: Place, state: &mut CpuState) {
        // SAFETY: `place` is valid, so there is a thunk at its address, which is a function of this type and touches
        // only the state and the scratch memory it is given.
        let thunk: Thunk = unsafe { std::mem::transmute::<usize, Thunk>(place.address) };
        thunk(state, &raw mut *self.scratch);
    }

    /// With exceptions unmasked in MXCSR, or with reserved bits that only a bad saved state can have.
    #[cold]
    fn call_unmasked(&mut self, place: Place, state: &mut CpuState) -> Result<(), Exception> {
        // Loading reserved bits would fault on the host. A guest cannot set them.
        let mxcsr = state.xsave.mxcsr() & MXCSR_MASK;
        state.xsave.set_mxcsr(mxcsr);
        // SAFETY: from `resume` on a thunk restores the host's control words and returns.
        let fault =
            unsafe { fp_trap::call_catching(self.cache.range(), place.resume, || self.enter(place, state)) };
        let Some(mxcsr) = fault else { return Ok(()) };
        state.xsave.set_mxcsr(mxcsr & MXCSR_MASK);
        if state.cr4.contains(Cr4::OSXMMEXCPT) {
            Err(Exception::plain(Vector::Simd))
        } else {
            Err(Exception::UD)
        }
    }

    /// Builds the thunk, or finds an equal one.
    #[cold]
    fn build(&mut self, prepared: &Prepared) -> Result<Place, Exception> {
        let code = if prepared.work == Work::Vector {
            thunk::vector(&prepared.instruction, prepared.mxcsr)
        } else {
            thunk::fpu(&prepared.instruction)
        };
        // Every form is encoded in a test; one that cannot be would be undefined rather than wrong.
        let place = self.cache.insert(code.map_err(|_| Exception::UD)?);
        prepared.place.set(place);
        Ok(place)
    }

    fn run_other<M: OperandMemory + ?Sized>(
        &mut self,
        prepared: &Prepared,
        state: &mut CpuState,
        memory: &mut M,
    ) -> Result<(), Exception> {
        if prepared.work == Work::Undefined {
            return Err(Exception::UD);
        }
        prepared.unit.check(state)?;
        match prepared.work {
            Work::Undefined | Work::Vector => Err(Exception::UD),
            Work::Control(control) => control::run(control, prepared, state, memory),
            Work::Save(save) => save::run(save, prepared, state, memory),
            Work::MaskedLoad(element) => elements::masked_load(element, prepared, state, memory),
            Work::MaskedStore(element) => elements::masked_store(element, prepared, state, memory),
            Work::MaskedBytes => elements::masked_bytes(prepared, state, memory),
            Work::Gather => elements::gather(prepared, state, memory),
            Work::Fpu => self.run_fpu(prepared, state, memory),
        }
    }
}

impl XsaveArea {
    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_u16_at(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_mxcsr(&mut self, value: u32) {
        self.0[Self::MXCSR..Self::MXCSR + 4].copy_from_slice(&value.to_le_bytes());
    }
}
