//! What a trap of the child means, and what the instruction at RIP will need.
use super::child::Trap;
use crate::arch::paging::{self, Access, PagingMode};
use crate::arch::{CpuState, Gva};
use crate::emulator::single::address;
use crate::mem::GuestRam;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

/// Why the child stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// A page that the child lacks, or that lacks a right there.
    Page {
        /// Where.
        address: u64,
        /// What was wanted.
        access: Access,
    },
    /// An instruction that `single` is to execute.
    Execute,
    /// The same, asked for by a patched place.
    Hypercall,
}

/// Reads guest-virtual memory as far as it is RAM; returns how much.
pub(super) fn read(ram: &GuestRam, mode: &PagingMode, at: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    while done < into.len() {
        let gva = Gva(at.wrapping_add(done as u64));
        let in_page = (4096 - gva.page_offset()) as usize;
        let part = in_page.min(into.len() - done);
        let Some((t, _)) = paging::probe(ram, mode, gva) else { break };
        if ram.read(t.gpa, &mut into[done..done + part]).is_err() {
            break;
        }
        done += part;
    }
    done
}

/// What a trap at `rip` means, and how many bytes RIP is to be taken back so that it is at the instruction.
pub(super) fn classify(
    trap: &Trap,
    rip: u64,
    mode: &PagingMode,
    ram: &GuestRam,
    is_patched: impl Fn(u64) -> bool,
) -> (Cause, u64) {
    let before = |back: u64| {
        let mut bytes = [0; 2];
        let n = read(ram, mode, rip.wrapping_sub(back), &mut bytes[..back as usize]);
        (n == back as usize).then_some(bytes)
    };
    match (trap.signal, trap.vector) {
        (libc::SIGSEGV | libc::SIGBUS, 14) => {
            let access = if trap.error & 0x10 != 0 {
                Access::Execute
            } else if trap.error & 2 != 0 {
                Access::Write
            } else {
                Access::Read
            };
            (Cause::Page { address: trap.address, access }, 0)
        }
        // `syscall` and `int 0x80` are two bytes long.
        (libc::SIGSYS, _) => (Cause::Execute, 2),
        (libc::SIGTRAP, 3) => {
            let one = is_patched(rip.wrapping_sub(1)) || before(1).is_some_and(|b| b[0] == 0xcc);
            (Cause::Execute, if !one && before(2) == Some([0xcd, 3]) { 2 } else { 1 })
        }
        (libc::SIGTRAP, 1) if before(1).is_some_and(|b| b[0] == 0xf1) => (Cause::Execute, 1),
        (_, 4) => (Cause::Execute, 2),
        _ => (Cause::Execute, 0),
    }
}

/// What the engine must know of an instruction before `single` executes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Facts {
    /// It uses x87, SSE or AVX registers.
    pub(super) vectors: bool,
    /// It is privileged or sensitive, rather than one that met a fault.
    pub(super) privileged: bool,
    /// It may drop all translations.
    pub(super) flushes: bool,
    /// INVLPG of this address.
    pub(super) invalidates: Option<u64>,
    /// VMCALL of this length.
    pub(super) calls: Option<u64>,
    /// INT n: where the handler returns to.
    pub(super) goes_on_at: Option<u64>,
}

/// The facts of the instruction at RIP.
pub(super) fn facts(state: &CpuState, ram: &GuestRam) -> Facts {
    let mut bytes = [0; 15];
    let n = read(ram, &PagingMode::of(state), state.rip, &mut bytes);
    let mut decoder = Decoder::with_ip(state.code_bits(), &bytes[..n], state.rip, DecoderOptions::NONE);
    let i = decoder.decode();
    if i.code() == Code::INVALID {
        return Facts::default();
    }
    Facts {
        vectors: uses_vectors(&i),
        privileged: i.is_privileged() || super::patch::is_sensitive(&i),
        flushes: matches!(i.mnemonic(), Mnemonic::Invpcid | Mnemonic::Vmcall)
            || i.mnemonic() == Mnemonic::Mov && i.op0_kind() == OpKind::Register && i.op0_register().is_cr(),
        calls: (i.mnemonic() == Mnemonic::Vmcall).then_some(i.len() as u64),
        goes_on_at: matches!(i.mnemonic(), Mnemonic::Int | Mnemonic::Int3).then(|| i.next_ip()),
        invalidates: (i.mnemonic() == Mnemonic::Invlpg).then(|| {
            address::linear(
                state,
                address::segment_of(i.memory_segment()),
                address::offset(&i, &state.gpr, None),
            )
        }),
    }
}

fn uses_vectors(i: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    i.cpuid_features().iter().any(|f| {
        !matches!(
            f,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL386_ONLY
                | F::INTEL486
                | F::X64
                | F::CPUID
                | F::TSC
                | F::MSR
                | F::RDTSCP
                | F::CMOV
                | F::SYSCALL
                | F::SEP
                | F::FSGSBASE
                | F::RDPID
                | F::SMAP
                | F::SMM
                | F::INVPCID
                | F::VMX
                | F::SVM
        )
    }) && !matches!(i.mnemonic(), Mnemonic::Invlpg)
}
