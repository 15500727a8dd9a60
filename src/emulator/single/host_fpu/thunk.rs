//! Builds the host code that executes one guest instruction.
//!
//! A thunk is a function `(state: *mut CpuState, scratch: *mut Scratch)` in the System V convention: RDI and RSI. It
//! loads what the instruction reads, executes it with its memory operand pointed at the bounce buffer, and stores what
//! it wrote. Vector registers keep their numbers. An explicit general register is renamed to R8 or R9; an implicit one
//! (RAX, RCX, RDX of PCMPESTRI) keeps its name. No callee-saved register and no stack slot is live while the
//! instruction runs, so that a fault can be resumed at the epilogue (see `sys::fp_trap`).
//!
//! Loading MXCSR with a value that it does not hold costs about 40 ns. So it is loaded only if it differs from the
//! guest's, and after the instruction put right only if its control bits are not what the ABI wants: the guest's flags
//! stay behind, which nobody outside looks at.
use crate::arch::CpuState;
use crate::arch::state::XsaveArea;
use iced_x86::{
    Code, Encoder, EncodingKind, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic,
    OpAccess, OpKind, Register, RflagsBits,
};
use std::mem::offset_of;

/// Memory that a thunk uses beside the guest's state.
#[repr(C, align(64))]
pub(super) struct Scratch {
    /// The memory operand. The largest is FNSAVE's, 108 bytes.
    pub(super) bounce: [u8; 128],
    /// MXCSR as the thunk found it.
    found_mxcsr: u32,
    /// MXCSR and control word as the ABI wants them.
    plain_mxcsr: u32,
    plain_fcw: u16,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { bounce: [0; 128], found_mxcsr: 0, plain_mxcsr: PLAIN_MXCSR, plain_fcw: 0x037f }
    }
}

/// Round to nearest, all exceptions masked, no flag.
const PLAIN_MXCSR: u32 = 0x1f80;
/// The bits of MXCSR that code outside may rely on; the other six are flags that may be left behind.
const MXCSR_CONTROL: i32 = 0xffc0;
/// CF, PF, AF, ZF, SF, OF.
const STATUS_FLAGS: i32 = 0x8d5;
const STATE: Register = Register::RDI;
const SCRATCH: Register = Register::RSI;

/// Host code and the offset at which a fault is resumed.
pub(super) struct HostCode {
    pub(super) bytes: Vec<u8>,
    pub(super) resume: usize,
}

/// What a thunk loads and stores.
struct Plan {
    /// The instruction in terms of the host's registers and the bounce buffer.
    body: Instruction,
    /// Vector registers (0–15) and whether they are written.
    vectors: Vec<(u32, bool)>,
    /// Host register, guest index, written.
    general: Vec<(Register, u32, bool)>,
    reads_flags: bool,
    writes_flags: bool,
    vex: bool,
    wide: bool,
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn compares_strings(mnemonic: Mnemonic) -> bool {
    let name = format!("{mnemonic:?}").to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    name.starts_with("pcmpestr") || name.starts_with("pcmpistr")
}

fn plan(instruction: &Instruction) -> Plan {
    let mut body = *instruction;
    body.set_has_lock_prefix(false);
    body.set_has_rep_prefix(false);
    body.set_has_repne_prefix(false);
    body.set_segment_prefix(Register::None);
    let mut general: Vec<(Register, u32, bool)> = Vec::new();
    let mut explicit = Vec::new();
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut wide = false;
    let names = [Register::R8, Register::R9];
    for i in 0..instruction.op_count() {
        match instruction.op_kind(i) {
            OpKind::Register => {
                let register = instruction.op_register(i);
                wide |= register.is_ymm();
                // FNSTSW is done elsewhere, so no operand's register is fixed by the encoding.
                if register.is_gpr() && explicit.len() < names.len() {
                    let host = names[explicit.len()];
                    explicit.push(register.full_register());
                    let same_size = match register.size() {
                        4 => host as u32 - Register::RAX as u32 + Register::EAX as u32,
                        2 => host as u32 - Register::RAX as u32 + Register::AX as u32,
                        _ => host as u32,
                    };
                    let renamed = Register::try_from(same_size as usize).unwrap_or(host);
                    body.set_op_register(i, renamed);
                    let index = register.full_register() as u32 - Register::RAX as u32;
                    general.push((host, index, writes(info.op_access(i))));
                }
            }
            OpKind::Memory => {
                body.set_memory_base(SCRATCH);
                body.set_memory_index(Register::None);
                body.set_memory_index_scale(1);
                body.set_memory_displacement64(0);
                body.set_memory_displ_size(0);
            }
            _ => {}
        }
    }
    // RAX, RCX and RDX of the string comparisons. Elsewhere an unnamed general register only forms the address.
    let implicit = [Register::RAX, Register::RCX, Register::RDX];
    let compares_strings = compares_strings(instruction.mnemonic());
    let mut vectors: Vec<(u32, bool)> = Vec::new();
    for used in info.used_registers() {
        let register = used.register();
        if register.is_vector_register() {
            let number = register.number() as u32;
            match vectors.iter_mut().find(|v| v.0 == number) {
                Some(v) => v.1 |= writes(used.access()),
                None => vectors.push((number, writes(used.access()))),
            }
        } else if compares_strings && implicit.contains(&register.full_register()) {
            let full = register.full_register();
            let index = full as u32 - Register::RAX as u32;
            match general.iter_mut().find(|g| g.0 == full) {
                Some(g) => g.2 |= writes(used.access()),
                None => general.push((full, index, writes(used.access()))),
            }
        }
    }
    vectors.retain(|v| v.0 < 16);
    Plan {
        body,
        vectors,
        general,
        reads_flags: instruction.rflags_read() != RflagsBits::NONE,
        writes_flags: instruction.rflags_modified()
            & !(RflagsBits::UIF | RflagsBits::C0 | RflagsBits::C1 | RflagsBits::C2 | RflagsBits::C3)
            != RflagsBits::NONE,
        vex: instruction.encoding() == EncodingKind::VEX,
        wide,
    }
}

/// Appends instructions to a buffer.
struct Emitter {
    encoder: Encoder,
    length: usize,
    /// Where a short jump's distance is, and the distance.
    jumps: Vec<(usize, usize)>,
}

impl Emitter {
    fn new() -> Result<Self, IcedError> {
        Ok(Self { encoder: Encoder::try_new(64)?, length: 0, jumps: Vec::new() })
    }

    fn finish(mut self, resume: usize) -> HostCode {
        let mut bytes = self.encoder.take_buffer();
        for (at, distance) in self.jumps {
            bytes[at] = distance as u8;
        }
        HostCode { bytes, resume }
    }

    /// Emits `je` over the instruction.
    fn unless_equal(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        self.encoder.write_u8(0x74);
        self.encoder.write_u8(0);
        self.length += 2;
        let start = self.length;
        self.put(instruction)?;
        self.jumps.push((start - 1, self.length - start));
        Ok(())
    }

    /// Brings the guest's MXCSR into the host's. Clobbers R10 and the flags.
    fn load_mxcsr(&mut self) -> Result<(), IcedError> {
        let guest = XSAVE + XsaveArea::MXCSR;
        let found = offset_of!(Scratch, found_mxcsr);
        self.memory(Code::Stmxcsr_m32, SCRATCH, found)?;
        self.load(Code::Mov_r32_rm32, Register::R10D, SCRATCH, found)?;
        self.load(Code::Cmp_r32_rm32, Register::R10D, STATE, guest)?;
        self.unless_equal(&Instruction::with1(Code::Ldmxcsr_m32, operand(STATE, guest))?)
    }

    /// Makes the host's MXCSR fit for code outside; returns where a fault is resumed. Clobbers R10 and the flags.
    fn leave_mxcsr(&mut self) -> Result<usize, IcedError> {
        self.load(Code::Mov_r32_rm32, Register::R10D, STATE, XSAVE + XsaveArea::MXCSR)?;
        self.put(&Instruction::with2(Code::And_rm32_imm32, Register::R10D, MXCSR_CONTROL)?)?;
        self.put(&Instruction::with2(Code::Cmp_rm32_imm32, Register::R10D, PLAIN_MXCSR)?)?;
        let plain = operand(SCRATCH, offset_of!(Scratch, plain_mxcsr));
        self.unless_equal(&Instruction::with1(Code::Ldmxcsr_m32, plain)?)?;
        Ok(self.jumps.last().map_or(self.length, |jump| jump.0 + 1))
    }

    fn put(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        // Nothing in a thunk is relative to RIP, so any address serves.
        self.length += self.encoder.encode(instruction, 0)?;
        Ok(())
    }

    fn plain(&mut self, code: Code) -> Result<(), IcedError> {
        self.put(&Instruction::with(code))
    }

    fn memory(&mut self, code: Code, base: Register, offset: usize) -> Result<(), IcedError> {
        self.put(&Instruction::with1(code, operand(base, offset))?)
    }

    fn load(&mut self, code: Code, into: Register, base: Register, offset: usize) -> Result<(), IcedError> {
        self.put(&Instruction::with2(code, into, operand(base, offset))?)
    }

    fn store(&mut self, code: Code, base: Register, offset: usize, from: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with2(code, operand(base, offset), from)?)
    }

    fn load_general(&mut self, plan: &Plan) -> Result<(), IcedError> {
        for &(host, guest, _) in &plan.general {
            self.load(Code::Mov_r64_rm64, host, STATE, general_offset(guest))?;
        }
        Ok(())
    }

    fn store_general(&mut self, plan: &Plan) -> Result<(), IcedError> {
        for &(host, guest, written) in &plan.general {
            if written {
                self.store(Code::Mov_rm64_r64, STATE, general_offset(guest), host)?;
            }
        }
        Ok(())
    }

    /// Brings the guest's status flags into the host's.
    fn load_flags(&mut self) -> Result<(), IcedError> {
        self.load(Code::Mov_r64_rm64, Register::R10, STATE, offset_of!(CpuState, rflags))?;
        self.put(&Instruction::with2(Code::And_rm32_imm32, Register::R10D, STATUS_FLAGS)?)?;
        self.put(&Instruction::with1(Code::Push_r64, Register::R10)?)?;
        self.plain(Code::Popfq)
    }

    /// Merges the host's status flags into the guest's. Clobbers R10, R11 and the flags.
    fn store_flags(&mut self) -> Result<(), IcedError> {
        self.plain(Code::Pushfq)?;
        self.put(&Instruction::with1(Code::Pop_r64, Register::R10)?)?;
        self.put(&Instruction::with2(Code::And_rm32_imm32, Register::R10D, STATUS_FLAGS)?)?;
        self.load(Code::Mov_r64_rm64, Register::R11, STATE, offset_of!(CpuState, rflags))?;
        self.put(&Instruction::with2(Code::And_rm64_imm32, Register::R11, !STATUS_FLAGS)?)?;
        self.put(&Instruction::with2(Code::Or_r64_rm64, Register::R11, Register::R10)?)?;
        self.store(Code::Mov_rm64_r64, STATE, offset_of!(CpuState, rflags), Register::R11)
    }
}

fn operand(base: Register, offset: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, offset as i64)
}

fn general_offset(index: u32) -> usize {
    offset_of!(CpuState, gpr) + 8 * index as usize
}

const XSAVE: usize = offset_of!(CpuState, xsave);

fn xmm(number: u32) -> Register {
    Register::XMM0 + number
}

fn ymm(number: u32) -> Register {
    Register::YMM0 + number
}

/// The thunk of an SSE or AVX instruction that touches no MMX register.
pub(super) fn vector(instruction: &Instruction, mxcsr: bool) -> Result<HostCode, IcedError> {
    let plan = plan(instruction);
    let mut emit = Emitter::new()?;
    if mxcsr {
        emit.load_mxcsr()?;
    }
    emit.load_general(&plan)?;
    for &(number, _) in &plan.vectors {
        let low = XSAVE + XsaveArea::XMM + 16 * number as usize;
        let high = XSAVE + XsaveArea::YMM_HIGH + 16 * number as usize;
        if !plan.vex {
            emit.load(Code::Movups_xmm_xmmm128, xmm(number), STATE, low)?;
            continue;
        }
        emit.load(Code::VEX_Vmovups_xmm_xmmm128, xmm(number), STATE, low)?;
        if plan.wide {
            emit.put(&Instruction::with4(
                Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8,
                ymm(number),
                ymm(number),
                operand(STATE, high),
                1,
            )?)?;
        }
    }
    emit.put(&plan.body)?;
    for &(number, written) in &plan.vectors {
        if !written {
            continue;
        }
        let low = XSAVE + XsaveArea::XMM + 16 * number as usize;
        let high = XSAVE + XsaveArea::YMM_HIGH + 16 * number as usize;
        if plan.vex {
            // A VEX.128 result has a zero upper half, in the host's register as in the guest's.
            emit.store(Code::VEX_Vmovups_xmmm128_xmm, STATE, low, xmm(number))?;
            emit.put(&Instruction::with3(
                Code::VEX_Vextractf128_xmmm128_ymm_imm8,
                operand(STATE, high),
                ymm(number),
                1,
            )?)?;
        } else {
            emit.store(Code::Movups_xmmm128_xmm, STATE, low, xmm(number))?;
        }
    }
    emit.store_general(&plan)?;
    if plan.writes_flags {
        emit.store_flags()?;
    }
    let mut resume = emit.length;
    if mxcsr {
        emit.memory(Code::Stmxcsr_m32, STATE, XSAVE + XsaveArea::MXCSR)?;
        resume = emit.leave_mxcsr()?;
    }
    if plan.vex {
        emit.plain(Code::VEX_Vzeroupper)?;
    }
    emit.plain(Code::Retnq)?;
    Ok(emit.finish(resume))
}

/// The thunk of an x87 or MMX instruction: the whole legacy state goes through FXRSTOR and FXSAVE.
pub(super) fn fpu(instruction: &Instruction) -> Result<HostCode, IcedError> {
    let plan = plan(instruction);
    let mut emit = Emitter::new()?;
    emit.memory(Code::Fxrstor64_m512byte, STATE, XSAVE)?;
    emit.load_general(&plan)?;
    if plan.reads_flags {
        emit.load_flags()?;
    }
    emit.put(&plan.body)?;
    emit.store_general(&plan)?;
    if plan.writes_flags {
        emit.store_flags()?;
    }
    emit.memory(Code::Fxsave64_m512byte, STATE, XSAVE)?;
    let resume = emit.length;
    emit.plain(Code::Fninit)?;
    emit.memory(Code::Fldcw_m2byte, SCRATCH, offset_of!(Scratch, plain_fcw))?;
    emit.leave_mxcsr()?;
    emit.plain(Code::Retnq)?;
    Ok(emit.finish(resume))
}
