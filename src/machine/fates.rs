//! What would become of one instruction of the guest in each technique, whatever executes the guest now.
use super::{Machine, MachineError};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{PagingMode, peek};
use crate::arch::{CpuState, Gva, SegmentRegister};
use crate::emulator;
use crate::engine::{Engine, Interface, Interpretation, KvmFate, Mode, Native, Translation, VcpuId};
use crate::mem::GuestRam;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register};

/// Bytes of code that are looked at: more than the translator takes into a block.
const BYTES: usize = 1024;

/// All fates of one instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fates {
    /// The instruction's bytes.
    pub bytes: Vec<u8>,
    /// What the interpreter does.
    pub interpreted: Interpretation,
    /// What the translator does.
    pub translated: Translation,
    /// What a guest meets that runs natively in a process.
    pub native: Native,
    /// How that guest is changed: patched, or not at all.
    pub interface: Interface,
    /// What KVM does.
    pub kvm: KvmFate,
}

impl Machine {
    /// The fates of the instruction at a linear address, as a CPU now would execute it there. `None`: there is no whole
    /// instruction in RAM. Nothing of the guest changes.
    ///
    /// # Errors
    /// [`MachineError`], when the host refuses memory, or the state.
    pub fn fates(&mut self, cpu: VcpuId, at: Gva) -> Result<Option<Fates>, MachineError> {
        let state = self.state_of(cpu)?;
        let ram = self.platform.ram();
        let bytes = code(ram, &state, at.0);
        let bits = state.code_bits();
        let base = if bits == 64 { 0 } else { state.segment(SegmentRegister::Cs).base };
        let rip = at.0.wrapping_sub(base) & if bits == 64 { u64::MAX } else { u64::from(u32::MAX) };
        let i = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
        if i.is_invalid() {
            return Ok(None);
        }
        let pair = self.pair();
        let interface = match pair.engine {
            Engine::Direct => pair.interface,
            Engine::Emu | Engine::Kvm => Mode::Pv.pair().interface,
        };
        let cpuid = self.platform.cpuid_table();
        Ok(Some(Fates {
            interpreted: emulator::lens::interpretation(&state, cpuid, rip, &bytes),
            translated: emulator::lens::translation(&state, cpuid, rip, &bytes)?,
            native: crate::pv::lens::native(ram, &state, interface, rip, &bytes)?,
            interface,
            kvm: crate::hwassist::lens::fate(&state, &i, reaches_device(ram, &state, &i)),
            bytes: bytes[..i.len()].to_vec(),
        }))
    }
}

/// The bytes of RAM from a linear address on, up to what is not mapped.
fn code(ram: &GuestRam, state: &CpuState, at: u64) -> Vec<u8> {
    let mode = PagingMode::of(state);
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        let from = at.wrapping_add(bytes.len() as u64);
        let mut piece = vec![0; ((PAGE_SIZE - from % PAGE_SIZE) as usize).min(BYTES - bytes.len())];
        let read = place(ram, &mode, from).is_some_and(|gpa| ram.read(gpa, &mut piece).is_ok());
        if !read {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn place(ram: &GuestRam, mode: &PagingMode, at: u64) -> Option<crate::arch::Gpa> {
    let canonical = !mode.cr0.contains(crate::arch::Cr0::PG) || Gva(at).is_canonical();
    if canonical { peek(ram, mode, Gva(at)) } else { None }
}

/// Whether a memory operand, with the registers as they are, is mapped to something else than RAM.
fn reaches_device(ram: &GuestRam, state: &CpuState, i: &Instruction) -> bool {
    let mode = PagingMode::of(state);
    let mut factory = InstructionInfoFactory::new();
    let register = |register: Register, _: usize, _: usize| Some(value(state, register));
    factory
        .info(i)
        .used_memory()
        .iter()
        .filter(|memory| memory.access() != OpAccess::NoMemAccess)
        .filter_map(|memory| memory.virtual_address(0, register))
        .filter_map(|at| place(ram, &mode, if state.is_64bit_code() { at } else { at & 0xffff_ffff }))
        .any(|gpa| ram.offset(gpa, 1).is_none())
}

/// What a register of an address holds; of a segment its base.
fn value(state: &CpuState, register: Register) -> u64 {
    let segment = |segment| match segment {
        // Outside of the two, 64-bit code has no bases.
        SegmentRegister::Fs | SegmentRegister::Gs => state.segment(segment).base,
        _ if state.is_64bit_code() => 0,
        _ => state.segment(segment).base,
    };
    match register {
        Register::ES => segment(SegmentRegister::Es),
        Register::CS => segment(SegmentRegister::Cs),
        Register::SS => segment(SegmentRegister::Ss),
        Register::DS => segment(SegmentRegister::Ds),
        Register::FS => segment(SegmentRegister::Fs),
        Register::GS => segment(SegmentRegister::Gs),
        r if r.is_gpr() => {
            let all = state.gpr[r.full_register().number()];
            match r.size() {
                2 => all & 0xffff,
                4 => all & 0xffff_ffff,
                _ => all,
            }
        }
        _ => 0,
    }
}
