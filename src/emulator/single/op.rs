//! One prepared instruction.
use super::cx::{FS_BASE, GS_BASE, HIGH_BYTE, Handler, ZERO};
use super::host_fpu::Prepared;
use iced_x86::{Instruction, OpKind, Register};
use std::cell::OnceCell;

/// One prepared instruction: a handler and its operands, resolved to register slots and constants.
pub(crate) struct Op {
    /// Executes it.
    pub run: Handler,
    /// The immediate, sign- or zero-extended to the operand size; the target of a near branch.
    pub imm: u64,
    /// Displacement of the memory operand; the address of the next instruction for branches.
    pub disp: u64,
    /// The decoded instruction, for handlers that look deeper.
    pub instruction: Option<Box<Instruction>>,
    /// What the host's FPU made of it, for vector and x87 instructions.
    pub vector: OnceCell<Box<Prepared>>,
    /// First register operand, see [`super::cx::Cx::reg`].
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Third register operand.
    pub aux: u8,
    /// Base register of the memory operand.
    pub base: u8,
    /// Its index register.
    pub index: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// Slot of its segment base in 64-bit mode.
    pub segment: u8,
    /// [`Op::SLOW_ADDRESS`] and so on.
    pub bits: u8,
    /// Distance from the start of the block.
    pub offset: u16,
    /// Bytes of the instruction.
    pub length: u8,
}

impl Op {
    /// The address needs segment checks or cutting to 16 or 32 bits.
    pub(crate) const SLOW_ADDRESS: u8 = 1;
    /// The memory operand is accessed through SS: non-canonical addresses are #SS.
    pub(crate) const STACK_SEGMENT: u8 = 2;

    /// Whether one of the bits is set.
    #[inline(always)]
    pub(crate) fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    /// Operands of `instruction`, which begins a block at `block_rip`, decoded as `bits`-bit code.
    pub(crate) fn of(instruction: &Instruction, run: Handler, block_rip: u64, code_bits: u32) -> Self {
        let mut op = Self {
            run,
            imm: 0,
            disp: 0,
            instruction: None,
            vector: OnceCell::new(),
            dst: ZERO,
            src: ZERO,
            aux: ZERO,
            base: ZERO,
            index: ZERO,
            scale: 0,
            segment: ZERO,
            bits: 0,
            offset: instruction.ip().wrapping_sub(block_rip) as u16,
            length: instruction.len() as u8,
        };
        for i in 0..instruction.op_count() {
            match instruction.op_kind(i) {
                OpKind::Register => {
                    let code = register(instruction.op_register(i));
                    match i {
                        0 => op.dst = code,
                        1 => op.src = code,
                        _ => op.aux = code,
                    }
                }
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    op.imm = instruction.near_branch_target();
                    op.disp = instruction.next_ip();
                }
                OpKind::Memory => op.set_memory(instruction, code_bits),
                OpKind::FarBranch16 | OpKind::FarBranch32 => {}
                kind if is_immediate(kind) => op.imm = instruction.immediate(i),
                _ => {}
            }
        }
        op
    }

    fn set_memory(&mut self, instruction: &Instruction, code_bits: u32) {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        self.disp = instruction.memory_displacement64();
        let narrow = |r: Register| r.is_gpr32() || r.is_gpr16();
        if !matches!(base, Register::RIP | Register::EIP) {
            self.base = register(base);
        }
        self.index = register(index);
        self.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        // An address made of a displacement alone is zero-extended by the decoder and needs no cutting.
        let short = narrow(base) || narrow(index);
        if code_bits != 64 || short {
            self.bits |= Self::SLOW_ADDRESS;
        }
        let segment = instruction.memory_segment();
        if segment == Register::SS {
            self.bits |= Self::STACK_SEGMENT;
        }
        self.segment = match segment {
            Register::FS => FS_BASE,
            Register::GS => GS_BASE,
            _ => ZERO,
        };
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The slot of a general register, [`ZERO`] for any other.
pub(crate) fn register(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            HIGH_BYTE | (register as u8 - Register::AH as u8)
        }
        r if r.is_gpr() => r.full_register().number() as u8,
        _ => ZERO,
    }
}
