//! The smallest 64-bit guest: an identity map of the first GiB, flat segments for both rings, a task segment, an
//! empty interrupt table. The calibration guest and the room's tests start from it.
use crate::arch::{
    CpuState, Cr0, Cr4, DescriptorTable, Efer, Gpa, Rflags, Segment, SegmentRegister, Xcr0, state::gpr,
};
use crate::mem::{GuestRam, NotRam};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x1_4000;
/// The task segment ends with a bitmap that lets ring 3 use every port (SDM vol. 1, 19.5.2): 104 bytes, 8 KiB of zeros
/// and a byte of ones.
const TSS_LIMIT: u32 = BITMAP as u32 + 0x2000;
const BITMAP: u16 = 0x68;
/// Top of the stack that the CPU takes when it enters ring 0 from ring 3.
const STACK_FROM_USER: u64 = 0xa000;
/// Top of the stack that a guest starts with.
pub(super) const STACK: u64 = 0xc000;
/// Where code goes: up to 16 KiB.
pub(super) const CODE: u64 = 0x1_0000;

/// Ring-0 code selector.
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_DATA: u16 = 0x1b;
const USER_CODE: u16 = 0x23;
const TASK: u16 = 0x28;
/// IA32_STAR for these selectors: SYSCALL to ring 0, SYSRET to ring 3.
pub(super) const STAR: u64 = (KERNEL_CODE as u64) << 32 | (KERNEL_DATA as u64 | 3) << 48;
/// Page-table bits: present, writable, user, accessed, dirty.
const TABLE: u64 = 0x27;
const LARGE: u64 = 0xe7;

const DESCRIPTORS: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    TSS_LIMIT as u64 | (TSS & 0xff_ffff) << 16 | 0x8b << 40,
    0,
];

fn put(ram: &GuestRam, at: u64, value: u64) -> Result<(), NotRam> {
    ram.write(Gpa(at), &value.to_le_bytes())
}

/// Writes the tables into the first 128 KiB of `ram`.
pub(super) fn lay_out(ram: &GuestRam) -> Result<(), NotRam> {
    put(ram, PML4, PDPT | TABLE)?;
    put(ram, PDPT, DIRECTORY | TABLE)?;
    for i in 0..512 {
        put(ram, DIRECTORY + 8 * i, i << 21 | LARGE)?;
    }
    for (i, descriptor) in (0..).zip(DESCRIPTORS) {
        put(ram, GDT + 8 * i, descriptor)?;
    }
    put(ram, TSS + 4, STACK_FROM_USER)?;
    ram.write(Gpa(TSS + 0x66), &BITMAP.to_le_bytes())?;
    ram.write(Gpa(TSS + u64::from(TSS_LIMIT)), &[0xff])
}

/// Points vector `vector` to `handler`: an interrupt gate that ring 3 may call.
pub(super) fn set_gate(ram: &GuestRam, vector: u8, handler: u64) -> Result<(), NotRam> {
    let at = IDT + 16 * u64::from(vector);
    let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48;
    put(ram, at, low)?;
    put(ram, at + 8, handler >> 32)
}

/// A CPU about to execute at `entry`, at ring 0 or 3, interrupts off.
pub(super) fn state(entry: u64, user: bool) -> CpuState {
    let (code, data) = if user { (USER_CODE, USER_DATA) } else { (KERNEL_CODE, KERNEL_DATA) };
    let segment = |selector: u16| Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]);
    let mut state = CpuState::reset();
    state.segments = [segment(data); 6];
    *state.segment_mut(SegmentRegister::Cs) = segment(code);
    state.tr = Segment { selector: TASK, base: TSS, limit: TSS_LIMIT, attributes: 0x8b };
    state.gdtr = DescriptorTable { base: GDT, limit: 8 * DESCRIPTORS.len() as u16 - 1 };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
    state.cr3 = PML4;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    state.xcr0 = Xcr0::X87 | Xcr0::SSE;
    state.rflags = Rflags::FIXED;
    state.rip = entry;
    state.gpr[gpr::RSP] = STACK;
    state
}
