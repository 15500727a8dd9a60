//! System instructions that translated code executes without a call: flags of RFLAGS, control registers, the
//! time-stamp counter, MSRs that the CPU holds.
//!
//! They read and write [`CpuState`] by its address in the context. What only `single` can decide — a privilege that is
//! not certain, a trap flag, an interrupt that waits — takes the cold way. An interrupt that was held off waits in the
//! interrupt complex with no kick raised, so whatever lets interrupts in looks there; one that comes later raises the
//! kick, which the way to the next block looks at.
use super::address::Address;
use super::builder::{Builder, Flags};
use crate::arch::msr::{self, Msrs};
use crate::arch::{CpuState, Cr4, DescriptorTable, Rflags, Segment, SegmentRegister};
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RAX, GUEST_RCX, home};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX, RDX, Rm};
use crate::emulator::single::cx::{FS_BASE, GS_BASE};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use std::mem::offset_of;

const RSP: u8 = 4;
pub(super) const RFLAGS: i32 = offset_of!(CpuState, rflags) as i32;
pub(super) const CR4: i32 = offset_of!(CpuState, cr4) as i32;
const TSC_ADJUST: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, tsc_adjust)) as i32;
const TSC_AUX: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, tsc_aux)) as i32;
const KERNEL_GS_BASE: i32 = (offset_of!(CpuState, msrs) + offset_of!(Msrs, kernel_gs_base)) as i32;

/// Offset of a part of a segment register in the CPU's state.
pub(super) const fn segment(register: SegmentRegister, part: usize) -> i32 {
    (offset_of!(CpuState, segments) + register as usize * size_of::<Segment>() + part) as i32
}

const fn segment_base(register: SegmentRegister) -> i32 {
    segment(register, offset_of!(Segment, base))
}

/// RFLAGS that POPF changes here at any privilege, beside the status flags.
const FREE: Rflags = Rflags::DF.union(Rflags::ID);
/// RFLAGS whose change `single` must see.
const WATCHED: Rflags = Rflags::TF.union(Rflags::NT).union(Rflags::AC).union(Rflags::IOPL);

/// What is known where a system instruction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The privilege level is 0.
    pub ring0: bool,
    /// The privilege level is 3.
    pub ring3: bool,
    /// It is the last instruction of its block.
    pub last: bool,
    /// It ends its block, as [`knows`] says.
    pub ends: bool,
}

/// Whether this module may know what to do with an instruction, and whether its block ends behind it. Those that change
/// the base of a segment end it, because accesses before and behind may be checked together.
pub(super) fn knows(instruction: &Instruction) -> Option<bool> {
    use Mnemonic as M;
    Some(match instruction.mnemonic() {
        M::Cli | M::Sti | M::Cld | M::Std | M::Rdtsc | M::Rdtscp | M::Rdmsr | M::Lahf | M::Sahf => false,
        M::Pushfq | M::Popfq | M::Cpuid => false,
        M::Lidt | M::Lgdt => false,
        M::In | M::Out => false,
        M::Mov if instruction.op1_kind() == OpKind::Register && instruction.op1_register().is_cr() => false,
        M::Mov
            if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::CR0 =>
        {
            true
        }
        M::Mov
            if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::CR8 =>
        {
            false
        }
        M::Swapgs | M::Wrmsr | M::Wrfsbase | M::Wrgsbase | M::Syscall | M::Sysretq | M::Clts => true,
        // Groups of accesses are not to reach over a change of what may be accessed.
        M::Stac | M::Clac => true,
        M::Rdfsbase | M::Rdgsbase => false,
        _ => return None,
    })
}

impl Builder<'_> {
    /// Translates an instruction that [`knows`] names; says whether the block has ended.
    pub(super) fn system(&mut self, instruction: &Instruction, place: Place) -> bool {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Syscall if place.ring3 => {
                self.system_call(instruction);
                return true;
            }
            M::Sysretq if place.ring0 => {
                self.system_return(instruction);
                return true;
            }
            M::Mov | M::Clts if place.ring0 && Self::writes_cr0(instruction) => {
                self.write_cr0(instruction);
                return true;
            }
            M::Cli if place.ring0 => self.clear(Rflags::IF),
            M::Sti if place.ring0 && !place.last => self.sti(),
            M::Sti => {
                // The shadow ends with the next block's first instruction.
                self.end(instruction);
                return true;
            }
            M::Cpuid => self.cpuid(),
            M::Lidt | M::Lgdt if place.ring0 => match Address::of(instruction, false) {
                Some(address) => self.load_table(instruction.mnemonic(), &address),
                None => self.execute(instruction),
            },
            // A device may ask how many instructions were counted, which is told on the way to `single`.
            M::In | M::Out if place.ring0 && !self.counts => self.port(instruction),
            M::Cld => self.clear(Rflags::DF),
            M::Std => self.set(Rflags::DF),
            M::Lahf => self.lahf(),
            M::Sahf => self.sahf(),
            M::Pushfq => self.push_flags(),
            M::Popfq => self.pop_flags(place.ring0),
            M::Rdtsc | M::Rdtscp => self.rdtsc(place.ring0, instruction.mnemonic() == M::Rdtscp),
            M::Rdmsr if place.ring0 => self.rdmsr(),
            M::Rdfsbase | M::Rdgsbase if instruction.op0_register().is_gpr64() => self.read_base(instruction),
            M::Mov if place.ring0 && !place.ends => {
                if !self.read_control(instruction) {
                    self.execute(instruction);
                }
            }
            M::Wrmsr if place.ring0 => self.wrmsr(),
            M::Swapgs if place.ring0 => self.swapgs(),
            M::Stac if place.ring0 => self.set_ac(true),
            M::Clac if place.ring0 => self.set_ac(false),
            _ if place.ends => {
                self.end(instruction);
                return true;
            }
            _ => self.execute(instruction),
        }
        if place.ends {
            self.settle_last(instruction);
            self.leave(instruction.next_ip());
            return true;
        }
        if instruction.mnemonic() == M::Sti {
            // With an interrupt waiting the next instruction is executed alone.
            self.settle_last(instruction);
        }
        self.settle(instruction);
        false
    }

    /// A field of the CPU's state. Changes RCX.
    pub(super) fn state(&mut self, offset: i32) -> Mem {
        self.asm.load(RCX, field(Context::STATE));
        Mem::at(RCX, offset)
    }

    /// Tests the low half of a field of the CPU's state for bits. Changes RCX.
    pub(super) fn test_state(&mut self, offset: i32, bits: u64) {
        let mem = self.state(offset);
        self.asm.op(false, 0xf7, 0, mem);
        self.asm.raw(&(bits as u32).to_le_bytes());
    }

    /// Clears a flag of RFLAGS that is none of the status flags. Changes RCX.
    pub(super) fn clear(&mut self, flag: Rflags) {
        self.save_flags();
        let rflags = self.state(RFLAGS);
        self.asm.alu_imm(false, Alu::And, rflags, !(flag.bits() as i32));
    }

    /// Sets a flag of RFLAGS that is none of the status flags. Changes RCX.
    pub(super) fn set(&mut self, flag: Rflags) {
        self.save_flags();
        let rflags = self.state(RFLAGS);
        self.asm.op(false, 0x81, 1, rflags);
        self.asm.raw(&(flag.bits() as u32).to_le_bytes());
    }

    /// Goes the cold way if an interrupt waits. Changes RCX and flags.
    pub(super) fn cold_if_interrupt(&mut self) {
        self.asm.load(RCX, field(Context::PENDING));
        self.asm.op(false, 0x80, 7, Mem::at(RCX, 0));
        self.asm.byte(0);
        self.cold_if(Condition::NOT_EQUAL);
    }

    fn sti(&mut self) {
        self.save_flags();
        self.cold_if_interrupt();
        self.set(Rflags::IF);
    }

    fn lahf(&mut self) {
        self.save_flags();
        self.asm.load32(RAX, field(Context::FLAGS));
        self.asm.alu_imm(false, Alu::And, RAX, 0xd500);
        // or eax, 0x200: bit 1 of RFLAGS.
        self.asm.raw(&[0x0d, 0, 2, 0, 0]);
        self.asm.mov(RCX, GUEST_RAX);
        self.asm.alu_imm(true, Alu::And, RCX, !0xff00);
        self.asm.op(true, 0x0b, RCX.0, RAX);
        self.asm.mov(GUEST_RAX, RCX);
    }

    fn sahf(&mut self) {
        self.save_flags();
        self.asm.load32(RCX, field(Context::FLAGS));
        self.asm.alu_imm(false, Alu::And, RCX, 1);
        self.asm.mov32(RAX, GUEST_RAX);
        self.asm.alu_imm(false, Alu::And, RAX, 0xd500);
        self.asm.op(false, 0x0b, RAX.0, RCX);
        self.asm.store32(field(Context::FLAGS), RAX);
        self.flags = Flags::Saved;
    }

    /// RFLAGS as PUSHF shows them, in RAX. The status flags are saved. Changes RCX.
    pub(super) fn rflags_image(&mut self) {
        self.asm.load32(RAX, field(Context::FLAGS));
        self.asm.mov32(RCX, RAX);
        self.asm.alu_imm(false, Alu::And, RCX, 1);
        self.asm.shift(false, false, RCX, 11);
        self.asm.shift(false, true, RAX, 8);
        self.asm.alu_imm(false, Alu::And, RAX, 0xd5);
        self.asm.op(false, 0x0b, RAX.0, RCX);
        let rflags = self.state(RFLAGS);
        self.asm.load32(RCX, rflags);
        let others = !(Rflags::STATUS | Rflags::VM | Rflags::RF).bits();
        self.asm.alu_imm(false, Alu::And, RCX, others as i32);
        self.asm.op(false, 0x0b, RAX.0, RCX);
    }

    /// The status flags of RFLAGS in RAX become the guest's: the way back of [`Self::rflags_image`]. Changes RAX and RCX.
    pub(super) fn take_status(&mut self) {
        self.asm.mov32(RCX, RAX);
        self.asm.shift(false, true, RCX, 11);
        self.asm.alu_imm(false, Alu::And, RCX, 1);
        self.asm.alu_imm(false, Alu::And, RAX, 0xd5);
        self.asm.shift(false, false, RAX, 8);
        self.asm.op(false, 0x0b, RAX.0, RCX);
        self.asm.store32(field(Context::FLAGS), RAX);
        self.flags = Flags::Saved;
    }

    fn push_flags(&mut self) {
        self.save_flags();
        self.rflags_image();
        self.asm.store(field(Context::RIP), RAX);
        let top = self.memory(&Address::at(RSP, -8), 8, true, 1);
        self.asm.load(RAX, field(Context::RIP));
        self.asm.store(top, RAX);
        self.move_stack(-8);
    }

    fn pop_flags(&mut self, ring0: bool) {
        let (mut changed, mut watched) = (FREE, WATCHED);
        if ring0 {
            changed |= Rflags::IF
        } else {
            watched |= Rflags::IF
        }
        self.save_flags();
        if ring0 {
            self.cold_if_interrupt();
        }
        let top = self.memory(&Address::at(RSP, 0), 8, false, 1);
        self.asm.load(RAX, top);
        self.asm.store(field(Context::RIP), RAX);
        let rflags = self.state(RFLAGS);
        self.asm.op(false, 0x33, RAX.0, rflags);
        // test eax, watched
        self.asm.byte(0xa9);
        self.asm.raw(&(watched.bits() as u32).to_le_bytes());
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.alu_imm(false, Alu::And, RAX, changed.bits() as i32);
        self.asm.op(false, 0x31, RAX.0, rflags);
        self.asm.load32(RAX, field(Context::RIP));
        self.take_status();
        self.move_stack(8);
    }

    /// Puts EAX into the guest's EAX and the upper half of RAX into its EDX.
    fn split(&mut self) {
        self.asm.mov(RDX, RAX);
        self.asm.shift(true, true, RDX, 32);
        self.asm.mov32(GUEST_RAX, RAX);
    }

    fn rdtsc(&mut self, ring0: bool, with_aux: bool) {
        self.save_flags();
        if !ring0 {
            self.test_state(CR4, Cr4::TSD.bits());
            self.cold_if(Condition::NOT_EQUAL);
        }
        let adjust = self.state(TSC_ADJUST);
        // rdtsc
        self.asm.raw(&[0x0f, 0x31]);
        self.asm.shift(true, false, RDX, 32);
        self.asm.op(true, 0x0b, RAX.0, RDX);
        self.asm.alu(Alu::Add, RAX, adjust);
        self.split();
        if with_aux {
            self.asm.load32(GUEST_RCX, Mem::at(RCX, TSC_AUX));
        }
    }

    fn rdmsr(&mut self) {
        self.save_flags();
        self.asm.load(RCX, field(Context::MSR_PLACES));
        self.asm.lea(RAX, Mem::at(GUEST_RCX, (FIRST_MSR as i32).wrapping_neg()));
        self.asm.mov32(RAX, RAX);
        self.asm.alu_imm(true, Alu::Cmp, RAX, MSRS as i32);
        self.cold_if(Condition::NOT_BELOW);
        self.asm.load32(RAX, Mem { base: Some(RCX), index: Some((RAX, 2)), disp: 0 });
        self.asm.alu_imm(false, Alu::Cmp, RAX, 0);
        self.cold_if(Condition::EQUAL);
        self.asm.load(RCX, field(Context::STATE));
        self.asm.load(RAX, Mem { base: Some(RCX), index: Some((RAX, 0)), disp: 0 });
        self.split();
    }

    /// Sets a base that was checked; RCX has it. Changes RAX.
    fn set_base(&mut self, offset: i32, slot: Option<u8>) {
        self.asm.load(RAX, field(Context::STATE));
        self.asm.store(Mem::at(RAX, offset), RCX);
        if let Some(slot) = slot {
            self.asm.store(field(Context::register(slot)), RCX);
        }
    }

    fn wrmsr(&mut self) {
        self.save_flags();
        let is = |b: &mut Self, index: u32| {
            b.asm.alu_imm(false, Alu::Cmp, GUEST_RCX, index as i32);
            b.asm.jump_if(Condition::NOT_EQUAL)
        };
        self.asm.mov(RCX, RDX);
        self.asm.shift(true, false, RCX, 32);
        self.asm.mov32(RAX, GUEST_RAX);
        self.asm.op(true, 0x0b, RCX.0, RAX);
        self.cold_unless_canonical();
        let other = is(self, msr::KERNEL_GS_BASE);
        self.set_base(KERNEL_GS_BASE, None);
        let done = self.asm.jump();
        self.asm.bind(other);
        let other = is(self, msr::FS_BASE);
        self.set_base(segment_base(SegmentRegister::Fs), Some(FS_BASE));
        let done_too = self.asm.jump();
        self.asm.bind(other);
        self.asm.alu_imm(false, Alu::Cmp, GUEST_RCX, msr::GS_BASE as i32);
        self.cold_if(Condition::NOT_EQUAL);
        self.set_base(segment_base(SegmentRegister::Gs), Some(GS_BASE));
        self.asm.bind(done);
        self.asm.bind(done_too);
    }

    /// Goes the cold way unless RCX is canonical. Changes RAX and flags.
    pub(super) fn cold_unless_canonical(&mut self) {
        self.asm.mov(RAX, RCX);
        self.asm.shift(true, false, RAX, 16);
        // sar rax, 16
        self.asm.op(true, 0xc1, 7, RAX);
        self.asm.byte(16);
        self.asm.alu(Alu::Cmp, RAX, Rm::from(RCX));
        self.cold_if(Condition::NOT_EQUAL);
    }

    /// LIDT or LGDT.
    fn load_table(&mut self, table: Mnemonic, from: &Address) {
        self.save_flags();
        let from = self.memory(from, 10, false, 1);
        self.asm.lea(RCX, from);
        // movzx eax, word: the limit
        self.asm.op_0f(0xb7, RAX.0, Mem::at(RCX, 0));
        self.asm.store(field(Context::RIP), RAX);
        self.asm.load(RCX, Mem::at(RCX, 2));
        self.cold_unless_canonical();
        let offset = match table {
            Mnemonic::Lidt => offset_of!(CpuState, idtr),
            _ => offset_of!(CpuState, gdtr),
        };
        self.asm.load(RAX, field(Context::STATE));
        self.asm.store(Mem::at(RAX, (offset + offset_of!(DescriptorTable, base)) as i32), RCX);
        self.asm.load(RCX, field(Context::RIP));
        // mov word
        self.asm.byte(0x66);
        let limit = Mem::at(RAX, (offset + offset_of!(DescriptorTable, limit)) as i32);
        self.asm.op(false, 0x89, RCX.0, limit);
    }

    fn swapgs(&mut self) {
        let gs = field(Context::register(GS_BASE));
        let kernel = self.state(KERNEL_GS_BASE);
        self.asm.load(RAX, kernel);
        self.asm.store(Mem::at(RCX, segment_base(SegmentRegister::Gs)), RAX);
        self.asm.store(field(Context::RIP), RAX);
        self.asm.load(RAX, gs);
        self.asm.store(kernel, RAX);
        self.asm.load(RAX, field(Context::RIP));
        self.asm.store(gs, RAX);
    }

    /// The destination of a read, and a way to bring it there from RAX if it has no host register.
    fn give(&mut self, register: Register, from: impl Into<Rm>) {
        let guest = register.number() as u8;
        match home(guest) {
            Some(reg) => self.asm.load(reg, from),
            None => {
                self.asm.load(RAX, from);
                self.asm.store(field(Context::register(guest)), RAX);
            }
        }
    }

    fn read_base(&mut self, instruction: &Instruction) {
        self.save_flags();
        self.test_state(CR4, Cr4::FSGSBASE.bits());
        self.cold_if(Condition::EQUAL);
        let slot = if instruction.mnemonic() == Mnemonic::Rdfsbase { FS_BASE } else { GS_BASE };
        self.give(instruction.op0_register(), field(Context::register(slot)));
    }

    fn read_control(&mut self, instruction: &Instruction) -> bool {
        if instruction.code() != Code::Mov_r64_cr {
            return false;
        }
        let offset = match instruction.op1_register() {
            Register::CR0 => offset_of!(CpuState, cr0),
            Register::CR2 => offset_of!(CpuState, cr2),
            Register::CR3 => offset_of!(CpuState, cr3),
            Register::CR4 => offset_of!(CpuState, cr4),
            _ => return false,
        };
        let from = self.state(offset as i32);
        self.give(instruction.op0_register(), from);
        true
    }
}

/// The first MSR of [`MSR_PLACES`].
const FIRST_MSR: u32 = msr::EFER;
const MSRS: usize = (msr::TSC_AUX - FIRST_MSR + 1) as usize;

/// For MSRs from [`FIRST_MSR`] on, where the CPU's state has their value; zero: RDMSR does more than read it.
pub(super) static MSR_PLACES: [u32; MSRS] = {
    let mut places = [0; MSRS];
    let msrs = offset_of!(CpuState, msrs);
    places[(msr::EFER - FIRST_MSR) as usize] = offset_of!(CpuState, efer) as u32;
    places[(msr::STAR - FIRST_MSR) as usize] = (msrs + offset_of!(Msrs, star)) as u32;
    places[(msr::LSTAR - FIRST_MSR) as usize] = (msrs + offset_of!(Msrs, lstar)) as u32;
    places[(msr::CSTAR - FIRST_MSR) as usize] = (msrs + offset_of!(Msrs, cstar)) as u32;
    places[(msr::SFMASK - FIRST_MSR) as usize] = (msrs + offset_of!(Msrs, sfmask)) as u32;
    places[(msr::FS_BASE - FIRST_MSR) as usize] = segment_base(SegmentRegister::Fs) as u32;
    places[(msr::GS_BASE - FIRST_MSR) as usize] = segment_base(SegmentRegister::Gs) as u32;
    places[(msr::KERNEL_GS_BASE - FIRST_MSR) as usize] = KERNEL_GS_BASE as u32;
    places[(msr::TSC_AUX - FIRST_MSR) as usize] = TSC_AUX as u32;
    places
};

// A place of zero would be taken for none.
const _: () = {
    let mut known = 0;
    let mut i = 0;
    while i < MSRS {
        known += (MSR_PLACES[i] != 0) as usize;
        i += 1;
    }
    assert!(known == 9);
};
