//! x87, MMX, SSE and AVX instructions: the bridge to [`super::host_fpu`].
use super::address;
use super::cx::{Cx, Handler, Step};
use super::flags;
use super::host_fpu::{HostFpu, OperandMemory};
use super::op::Op;
use crate::arch::{CpuState, Exception, Gva, SegmentRegister};
use crate::emulator::mmu::{Bank, Fault, Mmu};
use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, RflagsBits};

/// The guest's memory, as the host FPU's instructions reach it.
struct Memory<'m, 'a> {
    mmu: &'m mut Mmu<'a>,
    regs: &'m [u64; 32],
    op: &'m Op,
}

impl Memory<'_, '_> {
    fn stack(&self) -> bool {
        self.op.has(Op::STACK_SEGMENT)
    }
}

impl OperandMemory for Memory<'_, '_> {
    fn effective(
        &mut self,
        state: &CpuState,
        instruction: &Instruction,
        index: Option<u64>,
        bytes: usize,
        aligned: u64,
    ) -> Result<Gva, Exception> {
        let offset = address::offset(instruction, self.regs, index);
        let segment = address::segment_of(instruction.memory_segment());
        let at = address::segmented(state, segment, offset, bytes, false)?;
        if at & aligned != 0 {
            return Err(Exception::GP0);
        }
        if bytes != 0 {
            let stack = segment == SegmentRegister::Ss;
            // The rest of it is looked at by the access, after its alignment.
            self.mmu.check_canonical(at, 1, stack).map_err(|Fault| self.mmu.exception)?;
        }
        Ok(Gva(at))
    }

    fn read(&mut self, _: &mut CpuState, at: Gva, into: &mut [u8]) -> Result<(), Exception> {
        let stack = self.stack();
        self.mmu.read_into(at.0, into, stack).map_err(|Fault| self.mmu.exception)
    }

    fn write(&mut self, _: &mut CpuState, at: Gva, from: &[u8]) -> Result<(), Exception> {
        let stack = self.stack();
        self.mmu.write_from(at.0, from, stack).map_err(|Fault| self.mmu.exception)
    }

    fn probe_write(&mut self, _: &mut CpuState, at: Gva, bytes: usize) -> Result<(), Exception> {
        let stack = self.stack();
        self.mmu.check_write(at.0, bytes, stack).map_err(|Fault| self.mmu.exception)
    }
}

fn execute<const GENERAL: bool>(cx: &mut Cx, op: &Op) -> Step {
    let Some(instruction) = op.instruction.as_deref() else {
        return Err(cx.raise(Exception::UD));
    };
    if cx.fpu.is_none() {
        match HostFpu::new() {
            Ok(fpu) => *cx.fpu = Some(fpu),
            Err(error) => return cx.broken(error),
        }
    }
    if GENERAL {
        cx.leave();
    }
    let Some(fpu) = cx.fpu.as_mut() else {
        return Err(cx.raise(Exception::UD));
    };
    let prepared = op.vector.get_or_init(|| Box::new(HostFpu::prepare(instruction)));
    cx.state.rip = instruction.ip();
    let bank = cx.mmu.bank;
    if bank == Bank::UserAligned && prepared.ignores_alignment() {
        cx.mmu.bank = Bank::User;
    }
    let mut memory = Memory { mmu: &mut cx.mmu, regs: cx.regs, op };
    let result = fpu.run(prepared, cx.state, &mut memory);
    cx.mmu.bank = bank;
    if let Err(exception) = result {
        return Err(cx.raise(exception));
    }
    if GENERAL {
        cx.regs[..16].copy_from_slice(&cx.state.gpr);
        cx.flags = flags::from_rflags(cx.state.rflags);
        // XRSTOR, which reads its mask from general registers.
        if cx.state.pkru != cx.mmu.mode.pkru {
            super::keys::take_over(cx);
        }
    }
    cx.stored()
}

/// Whether general registers (beyond addresses) or flags take part.
fn uses_general(instruction: &Instruction) -> bool {
    // The condition codes of the x87 status word are no flags.
    let flags = !(RflagsBits::C0 | RflagsBits::C1 | RflagsBits::C2 | RflagsBits::C3 | RflagsBits::UIF);
    if (instruction.rflags_read() | instruction.rflags_modified()) & flags != 0 {
        return true;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let address = [instruction.memory_base(), instruction.memory_index()];
    info.used_registers().iter().any(|used| {
        let register = used.register();
        register.is_gpr() && (!address.contains(&register) || used.access() != OpAccess::Read)
    })
}

/// The handler of an instruction of this family.
pub(super) fn lower(instruction: &Instruction) -> Option<Handler> {
    if !HostFpu::handles(instruction) {
        return None;
    }
    Some(if uses_general(instruction) { execute::<true> } else { execute::<false> })
}
