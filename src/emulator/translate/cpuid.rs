//! CPUID without a call for help: the platform's answers, as they were given before.
//!
//! An answer holds for a leaf, a subleaf and CR4, which shows in one bit; and for a local APIC that is enabled or not, which
//! changes so seldom that all are forgotten then. Nothing is remembered while the platform's
//! trace is on, so that it sees each CPUID.
use super::builder::Builder;
use crate::arch::CpuState;
use crate::emulator::code::context::Context;
use crate::emulator::code::registers::{GUEST_RAX, GUEST_RBX, GUEST_RCX, GUEST_RDX};
use crate::emulator::code::stubs::field;
use crate::emulator::emit::{Alu, Condition, Mem, RAX, RCX};
use std::mem::offset_of;

/// A power of two: four kinds of leaves, sixteen of each.
const SLOTS: usize = 64;
const SLOT_SHIFT: u8 = 5;
/// No value of CR4.
const NEVER: u64 = u64::MAX;

/// One answer. Read by translated code.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Leaf, and the subleaf above it.
    asked: u64,
    /// CR4 at which the answer holds.
    cr4: u64,
    /// EAX, EBX, ECX, EDX.
    answer: [u32; 4],
}
const _: () = assert!(size_of::<Slot>() == 1 << SLOT_SHIFT);

const EMPTY: Slot = Slot { asked: 0, cr4: NEVER, answer: [0; 4] };

/// What CPUID was answered.
#[derive(Debug)]
pub(super) struct Answers {
    slots: Box<[Slot; SLOTS]>,
    /// The local APIC was enabled when they were given.
    apic: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self { slots: Box::new([EMPTY; SLOTS]), apic: true }
    }
}

impl Answers {
    /// Where translated code finds them.
    pub(super) fn address(&self) -> u64 {
        self.slots.as_ptr() as u64
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.slots.fill(EMPTY);
    }

    /// Forgets all if the local APIC's being enabled has changed.
    #[inline]
    pub(super) fn hold_for(&mut self, apic: bool) {
        if self.apic != apic {
            self.apic = apic;
            self.clear();
        }
    }

    /// Remembers what a leaf and a subleaf gave.
    pub(super) fn note(&mut self, (leaf, subleaf): (u32, u32), cr4: u64, answer: [u32; 4]) {
        let slot = (leaf.rotate_left(2) as usize) & (SLOTS - 1);
        self.slots[slot] = Slot { asked: u64::from(subleaf) << 32 | u64::from(leaf), cr4, answer };
    }
}

impl Builder<'_> {
    /// CPUID. Whoever asks for something new goes the cold way.
    pub(super) fn cpuid(&mut self) {
        self.save_flags();
        self.asm.mov32(RCX, GUEST_RCX);
        self.asm.shift(true, false, RCX, 32);
        self.asm.mov32(RAX, GUEST_RAX);
        self.asm.op(true, 0x0b, RAX.0, RCX);
        self.asm.mov32(RCX, RAX);
        // rol ecx, 2
        self.asm.op(false, 0xc1, 0, RCX);
        self.asm.byte(2);
        self.asm.alu_imm(false, Alu::And, RCX, (SLOTS - 1) as i32);
        self.asm.shift(false, false, RCX, SLOT_SHIFT);
        self.asm.alu(Alu::Add, RCX, field(Context::CPUID));
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, offset_of!(Slot, asked) as i32));
        self.cold_if(Condition::NOT_EQUAL);
        self.asm.load(RAX, field(Context::STATE));
        self.asm.load(RAX, Mem::at(RAX, offset_of!(CpuState, cr4) as i32));
        self.asm.alu(Alu::Cmp, RAX, Mem::at(RCX, offset_of!(Slot, cr4) as i32));
        self.cold_if(Condition::NOT_EQUAL);
        for (i, register) in (0..).zip([GUEST_RAX, GUEST_RBX, GUEST_RCX, GUEST_RDX]) {
            self.asm.load32(register, Mem::at(RCX, offset_of!(Slot, answer) as i32 + 4 * i));
        }
    }
}
