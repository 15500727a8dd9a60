//! How each instruction form is translated: which of its encoded fields name general registers, and the way it takes.
//!
//! Found once for each of iced's codes, apart for a memory destination, and kept; what else depends on the operands is
//! asked of the instruction itself.
use super::integer::FlagEffect;
use crate::emulator::front::encoding::Encoding;
use crate::emulator::front::features::Features;
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

/// The way of an instruction into host code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Itself, with registers renamed and the memory operand replaced.
    Plain,
    /// Itself, byte for byte: no operand, or implied vector registers only.
    Verbatim,
    /// Nothing: hints.
    Nothing,
    /// Arithmetic of AL to RAX with an immediate in its short form.
    Accumulator,
    /// One register that is part of the opcode.
    OpcodeRegister,
    /// XCHG of RAX with a register in its short form.
    ExchangeAccumulator,
    /// A shift or rotation by CL.
    ShiftByCl,
    /// MUL and IMUL into RDX:RAX.
    Multiply,
    /// DIV and IDIV.
    Divide,
    /// CBW to CQO.
    Widen,
    CompareExchange,
    /// CMPXCHG8B and CMPXCHG16B.
    CompareExchangeWide,
    /// PCMPISTRI and its VEX form: itself, with the index in RCX.
    StringIndex,
    Lea,
    Push,
    Pop,
    Leave,
    /// Direct near jump.
    Jump,
    /// Conditional jump.
    JumpIf,
    Call,
    /// Near jump or call through register or memory.
    JumpIndirect,
    CallIndirect,
    Ret,
    /// See [`super::system`].
    System,
    /// As `System`, and the block ends behind it.
    SystemEnd,
    /// MOVS and STOS; see [`super::string`].
    String,
    /// `single` executes it, and the block goes on.
    Execute,
    /// `single` executes it, and everything is looked at anew.
    End,
}

/// What an encoded field names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Field {
    /// Nothing, part of the opcode, or a vector register.
    #[default]
    Other,
    /// A general register.
    General {
        /// It is written (perhaps read too).
        written: bool,
    },
}

/// What is known of an instruction form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub kind: Kind,
    pub reg: Field,
    pub rm: Field,
    pub vvvv: Field,
    /// General 8-bit registers may take part.
    pub byte: bool,
    /// Memory is written.
    pub writes_memory: bool,
    /// The host's vector registers are used.
    pub vector: bool,
    /// It is AVX.
    pub avx: bool,
    /// The guest may use it.
    pub offered: bool,
    /// With memory, it takes a bit of a string of bits whose index is in a register: BT and its kin.
    pub bit_string: bool,
    /// Its encoding has a ModRM byte; `None`: not looked at yet.
    pub modrm: Option<bool>,
    /// What it does with the status flags; `None`: not looked at yet, or that depends on an immediate.
    pub flags: Option<FlagEffect>,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            kind: Kind::Execute,
            reg: Field::Other,
            rm: Field::Other,
            vvvv: Field::Other,
            byte: false,
            writes_memory: false,
            vector: false,
            avx: false,
            offered: false,
            bit_string: false,
            modrm: None,
            flags: None,
        }
    }
}

/// Forms that a guest uses.
const USUAL: usize = 256;

/// The forms that were met so far.
#[derive(Debug)]
pub(crate) struct Forms {
    /// For each code, and whether its destination is memory: the place in `forms`, and one more.
    known: Box<[u16]>,
    forms: Vec<Form>,
}

impl Default for Forms {
    fn default() -> Self {
        Self { known: vec![0; 2 * Code::values().len()].into(), forms: Vec::with_capacity(USUAL) }
    }
}

impl Forms {
    /// The form of an instruction. Those of one [`Forms`] are all asked for with the same features.
    pub(crate) fn of(&mut self, instruction: &Instruction, features: &Features) -> &mut Form {
        // A code is shared by registers and memory, but BT and its kin differ: only a bit in a register stays there.
        let memory = instruction.op0_kind() == OpKind::Memory;
        let known = &mut self.known[instruction.code() as usize * 2 + usize::from(memory)];
        let place = match usize::from(*known).checked_sub(1) {
            Some(place) => place,
            None => {
                self.forms.push(Form::default());
                // There are fewer forms than codes.
                *known = self.forms.len() as u16;
                let place = self.forms.len() - 1;
                self.forms[place] = find(instruction, features);
                place
            }
        };
        // Each control register is written in its own way.
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_cr() {
            self.forms[place] = find(instruction, features);
        }
        &mut self.forms[place]
    }
}

/// Instructions after which nothing that was known holds: modes, translations, the way vectors are handled.
fn ends(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Ldmxcsr
            | M::Vldmxcsr
            | M::Fxrstor
            | M::Fxrstor64
            | M::Xrstor
            | M::Xrstor64
            | M::Invpcid
            | M::Wrmsr
    ) || crate::emulator::single::lower::ends_block(instruction)
}

fn is_general(instruction: &Instruction) -> Option<Kind> {
    use Mnemonic as M;
    let encoding = Encoding::of(instruction.code());
    Some(match instruction.mnemonic() {
        M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Sub | M::Xor | M::Cmp | M::Test => {
            let short = encoding.operand(0);
            let accumulator = matches!(
                short,
                OpCodeOperandKind::al | OpCodeOperandKind::ax | OpCodeOperandKind::eax | OpCodeOperandKind::rax
            );
            if accumulator { Kind::Accumulator } else { Kind::Plain }
        }
        M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            let last = encoding.operand(instruction.op_count() - 1);
            if last == OpCodeOperandKind::cl { Kind::ShiftByCl } else { Kind::Plain }
        }
        M::Bt | M::Bts | M::Btr | M::Btc => Kind::Plain,
        M::Imul if instruction.op_count() == 1 => Kind::Multiply,
        M::Mul => Kind::Multiply,
        M::Div | M::Idiv => Kind::Divide,
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => Kind::Widen,
        M::Cmpxchg => Kind::CompareExchange,
        M::Cmpxchg8b | M::Cmpxchg16b => Kind::CompareExchangeWide,
        M::Xchg => match encoding.operand(0) {
            OpCodeOperandKind::r16_opcode | OpCodeOperandKind::r32_opcode | OpCodeOperandKind::r64_opcode => {
                Kind::ExchangeAccumulator
            }
            _ => Kind::Plain,
        },
        // AMD's CPUs read four bytes for it where two were looked up.
        M::Movsxd if instruction.code() == Code::Movsxd_r16_rm16 => Kind::Execute,
        M::Imul | M::Movzx | M::Movsx | M::Movsxd | M::Inc | M::Dec | M::Neg | M::Not | M::Xadd
        | M::Movbe | M::Crc32 | M::Popcnt | M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt | M::Movnti
        // BMI and ADX
        | M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi | M::Mulx | M::Pdep | M::Pext
        | M::Rorx | M::Sarx | M::Shlx | M::Shrx | M::Adcx | M::Adox
        // CMOVcc and SETcc
        | M::Cmova | M::Cmovae | M::Cmovb | M::Cmovbe | M::Cmove | M::Cmovg | M::Cmovge | M::Cmovl
        | M::Cmovle | M::Cmovne | M::Cmovno | M::Cmovnp | M::Cmovns | M::Cmovo | M::Cmovp | M::Cmovs
        | M::Seta | M::Setae | M::Setb | M::Setbe | M::Sete | M::Setg | M::Setge | M::Setl | M::Setle
        | M::Setne | M::Setno | M::Setnp | M::Setns | M::Seto | M::Setp | M::Sets => Kind::Plain,
        M::Bswap => Kind::OpcodeRegister,
        M::Mov => match encoding.operand(0) {
            OpCodeOperandKind::r8_opcode
            | OpCodeOperandKind::r16_opcode
            | OpCodeOperandKind::r32_opcode
            | OpCodeOperandKind::r64_opcode => Kind::OpcodeRegister,
            _ => Kind::Plain,
        },
        M::Lea => Kind::Lea,
        M::Movsb | M::Movsw | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => Kind::String,
        M::Movsd if instruction.code() == Code::Movsd_m32_m32 => Kind::String,
        M::Push => Kind::Push,
        M::Pop => Kind::Pop,
        M::Leave => Kind::Leave,
        M::Clc | M::Stc | M::Cmc | M::Lfence | M::Mfence | M::Sfence | M::Pause => Kind::Verbatim,
        M::Nop | M::Endbr64 | M::Endbr32 | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchnta
        | M::Prefetchw | M::Reservednop => Kind::Nothing,
        _ => return None,
    })
}

fn branch(instruction: &Instruction) -> Option<Kind> {
    if let Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Jmp_rel8_32 | Code::Jmp_rel32_32 =
        instruction.code()
    {
        return Some(Kind::Jump);
    }
    Some(match instruction.code() {
        Code::Call_rel32_64 | Code::Call_rel32_32 => Kind::Call,
        Code::Jmp_rm64 | Code::Jmp_rm32 => Kind::JumpIndirect,
        Code::Call_rm64 | Code::Call_rm32 => Kind::CallIndirect,
        Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16 => Kind::Ret,
        _ if instruction.is_jcc_short_or_near()
            && matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32) =>
        {
            Kind::JumpIf
        }
        _ => return None,
    })
}

/// Vector instructions that run as themselves.
fn vector(instruction: &Instruction) -> Option<Kind> {
    use Mnemonic as M;
    let encoding = Encoding::of(instruction.code());
    let unfit = |kind: OpCodeOperandKind| {
        use OpCodeOperandKind as K;
        matches!(
            kind,
            K::mm_or_mem
                | K::mm_reg
                | K::mm_rm
                | K::seg_rDI
                | K::mem_vsib32x
                | K::mem_vsib64x
                | K::mem_vsib32y
                | K::mem_vsib64y
                | K::st0
                | K::sti_opcode
        )
    };
    let is_vector = |kind: OpCodeOperandKind| {
        use OpCodeOperandKind as K;
        matches!(
            kind,
            K::xmm_or_mem
                | K::ymm_or_mem
                | K::xmm_reg
                | K::xmm_rm
                | K::xmm_vvvv
                | K::xmm_is4
                | K::ymm_reg
                | K::ymm_rm
                | K::ymm_vvvv
                | K::ymm_is4
        )
    };
    if encoding.operands().any(unfit) || encoding.is_other() {
        return None;
    }
    match instruction.mnemonic() {
        M::Vzeroupper | M::Vzeroall => return Some(Kind::Verbatim),
        // Implied general registers, and elements that are not accessed.
        M::Pcmpestri
        | M::Pcmpestri64
        | M::Pcmpestrm
        | M::Pcmpestrm64
        | M::Vpcmpestri
        | M::Vpcmpestri64
        | M::Vpcmpestrm
        | M::Vpcmpestrm64
        | M::Vmaskmovps
        | M::Vmaskmovpd
        | M::Vpmaskmovd
        | M::Vpmaskmovq => return None,
        M::Pcmpistri | M::Vpcmpistri => return Some(Kind::StringIndex),
        _ => {}
    }
    encoding.operands().any(is_vector).then_some(Kind::Plain)
}

fn find(instruction: &Instruction, features: &Features) -> Form {
    use OpCodeOperandKind as K;
    let mut form = Form {
        offered: !instruction.is_invalid() && features.offers(instruction),
        avx: instruction.cpuid_features().iter().any(|f| {
            matches!(
                f,
                CpuidFeature::AVX
                    | CpuidFeature::AVX2
                    | CpuidFeature::FMA
                    | CpuidFeature::F16C
                    | CpuidFeature::VAES
                    | CpuidFeature::VPCLMULQDQ
            )
        }),
        ..Form::default()
    };
    if let Some(ends) = super::system::knows(instruction) {
        form.kind = if ends { Kind::SystemEnd } else { Kind::System };
        return form;
    }
    let branch = branch(instruction);
    if branch.is_none() && ends(instruction) {
        form.kind = Kind::End;
        return form;
    }
    let encoding = Encoding::of(instruction.code());
    for (i, kind) in encoding.operands().enumerate() {
        let written = encoding.writes(i);
        let general = Field::General { written };
        match kind {
            K::r8_reg | K::r16_reg | K::r32_reg | K::r64_reg => form.reg = general,
            K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::r16_rm
            | K::r32_rm
            | K::r64_rm
            | K::r8_opcode
            | K::r16_opcode
            | K::r32_opcode
            | K::r64_opcode => form.rm = general,
            K::r32_vvvv | K::r64_vvvv => form.vvvv = general,
            K::seg_reg
            | K::cr_reg
            | K::dr_reg
            | K::tr_reg
            | K::mem_offs
            | K::r16_reg_mem
            | K::r32_reg_mem
            | K::r64_reg_mem => return form,
            _ => {}
        }
        form.byte |= matches!(kind, K::r8_reg | K::r8_or_mem | K::r8_opcode);
        // The code is shared with the register form, whose access is the same.
        form.writes_memory |= written
            && matches!(
                kind,
                K::mem
                    | K::r8_or_mem
                    | K::r16_or_mem
                    | K::r32_or_mem
                    | K::r64_or_mem
                    | K::xmm_or_mem
                    | K::ymm_or_mem
            );
    }
    form.bit_string = is_bit_string(instruction);
    let general = branch.or_else(|| is_general(instruction));
    form.kind = match general {
        Some(kind) => kind,
        None => match vector(instruction) {
            Some(kind) => {
                form.vector = true;
                kind
            }
            None => Kind::Execute,
        },
    };
    form
}

/// Whether a bit index in a register may reach beyond the memory operand.
fn is_bit_string(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let indexes = Encoding::of(instruction.code()).operand(1);
    matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && matches!(
            indexes,
            OpCodeOperandKind::r16_reg | OpCodeOperandKind::r32_reg | OpCodeOperandKind::r64_reg
        )
}

/// Whether one of the operands is AH, CH, DH or BH.
pub(crate) fn has_high_byte(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| {
        instruction.op_kind(i) == OpKind::Register
            && matches!(instruction.op_register(i), Register::AH | Register::CH | Register::DH | Register::BH)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::cpuid::CpuidTable;
    use crate::sys::host_cpuid;
    use iced_x86::MemoryOperand;

    #[test]
    fn each_control_register_is_written_in_its_own_way_whichever_comes_first() {
        let features = Features::of(&CpuidTable::from_host(host_cpuid::query));
        let mut forms = Forms::default();
        let mut kind = |register| {
            let instruction = Instruction::with2(Code::Mov_cr_r64, register, Register::RAX).unwrap();
            forms.of(&instruction, &features).kind
        };
        for _ in 0..2 {
            assert_eq!(kind(Register::CR3), Kind::End);
            assert_eq!(kind(Register::CR8), Kind::System);
            assert_eq!(kind(Register::CR0), Kind::SystemEnd);
        }
    }

    /// AMD's CPUs read four bytes where two were looked up: they may be the host's.
    #[test]
    fn what_may_read_more_than_is_looked_up_is_not_executed_as_it_is() {
        let features = Features::of(&CpuidTable::from_host(host_cpuid::query));
        let two_bytes = MemoryOperand::with_base(Register::RSI);
        let instruction = Instruction::with2(Code::Movsxd_r16_rm16, Register::AX, two_bytes).unwrap();
        assert_eq!(Forms::default().of(&instruction, &features).kind, Kind::Execute);
    }
}
