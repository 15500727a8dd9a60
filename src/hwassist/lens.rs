//! What KVM does with one instruction, from the instruction and the CPU's state: no virtual machine runs for it, but for those that show,
//! once, what this host's KVM is.
//!
//! What the CPU intercepts of itself, and what the kernel handles without a word to user space, is the kernel's to decide; this
//! says what it does in the set-up that [`super::vm`] makes: no interrupt chips in the kernel, and the MSR filter.
use super::calibrate::{KvmKind, calibrated};
use super::msr;
use crate::arch::state::gpr;
use crate::arch::{CpuState, Cr0};
use crate::engine::{KvmFate, KvmWay};
use iced_x86::{Instruction, Mnemonic as M, OpAccess, Register};

/// What becomes of `i` in `state`. `device` says that its memory operand lies outside of RAM.
#[must_use]
pub fn fate(state: &CpuState, i: &Instruction, device: bool) -> KvmFate {
    let kvm = calibrated();
    let emulated = kvm.label == KvmKind::EmulatedSupervisor;
    let (way, exit, about) = match by_exit(state, i, device) {
        Some(exit) => exit,
        None if i.mnemonic() == M::Syscall && !kvm.syscall_enters && state.cpl() == 3 => {
            (KvmWay::Rescue, None, "SYSCALL stays at ring 3 on this host, and is finished by the mode")
        }
        None if emulated && !(state.is_64bit_code() && state.cpl() == 3) => emulated_supervisor(i),
        None => by_hardware(state, i),
    };
    KvmFate { way, exit, about, host: kvm.label.name() }
}

type Fate = (KvmWay, Option<&'static str>, &'static str);

/// What comes to this program on every host.
fn by_exit(state: &CpuState, i: &Instruction, device: bool) -> Option<Fate> {
    let ring0 = state.cpl() == 0;
    let index = state.gpr[gpr::RCX] as u32;
    let exit = |name, about| Some((KvmWay::Exit, Some(name), about));
    let may_use_ports = state.cpl() <= state.rflags.iopl() || !state.cr0.contains(Cr0::PE);
    match i.mnemonic() {
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd if !may_use_ports => {
            Some((KvmWay::Native, None, "#GP in the guest, unless its TSS lets this level use the port"))
        }
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            exit("KVM_EXIT_IO", "the port is the machine's: a return to this program, the device, and back")
        }
        M::Hlt if ring0 => exit("KVM_EXIT_HLT", "waits in this program for an interrupt"),
        M::Rdmsr if ring0 && !msr::is_held(index, !calibrated().syscall_enters) => {
            exit("KVM_EXIT_X86_RDMSR", "this MSR (by ECX now) is the platform's")
        }
        M::Wrmsr if ring0 && !msr::is_held(index, !calibrated().syscall_enters) => {
            exit("KVM_EXIT_X86_WRMSR", "this MSR (by ECX now) is the platform's")
        }
        _ if device => {
            exit("KVM_EXIT_MMIO", "its operand (by the registers now) is a device's memory, not RAM")
        }
        _ => None,
    }
}

/// Code that the host's kernel executes instruction by instruction.
fn emulated_supervisor(i: &Instruction) -> Fate {
    let works_on_vectors = (0..i.op_count())
        .map(|operand| i.op_register(operand))
        .any(|r: Register| r.is_xmm() || r.is_ymm() || r.is_mm() || r.is_st());
    if works_on_vectors && !matches!(i.mnemonic(), M::Movaps | M::Movups | M::Movdqa | M::Movdqu) {
        (
            KvmWay::Rescue,
            Some("KVM_EXIT_INTERNAL_ERROR"),
            "the kernel's emulator has no vector arithmetic: the interpreter executes it",
        )
    } else {
        (
            KvmWay::KernelEmulator,
            None,
            "all but 64-bit code at ring 3 is emulated in the host's kernel, unseen; what its emulator lacks \
             (KVM_EXIT_INTERNAL_ERROR) is rescued by the interpreter",
        )
    }
}

/// What the CPU's virtualization makes of it.
fn by_hardware(state: &CpuState, i: &Instruction) -> Fate {
    let kernel = |about| (KvmWay::Kernel, None, about);
    let native = |about| (KvmWay::Native, None, about);
    let names = |set: fn(Register) -> bool| (0..i.op_count()).any(|n| set(i.op_register(n)));
    let writes_cr = |r: Register| i.op0_register() == r && first_is_written(i);
    match i.mnemonic() {
        _ if i.is_privileged() && state.cpl() != 0 => native("#GP in the guest: it is privileged"),
        M::Cpuid => kernel("always leaves the guest: the kernel answers from the table that it was given"),
        M::Rdmsr | M::Wrmsr => kernel("this MSR (by ECX now) is kept by the kernel, or by the CPU itself"),
        M::Vmcall | M::Vmmcall => kernel("a hypercall, which KVM answers itself"),
        M::Mov if writes_cr(Register::CR0) || writes_cr(Register::CR4) => {
            kernel("leaves the guest where bits change that the kernel owns")
        }
        M::Mov if writes_cr(Register::CR8) => (
            KvmWay::Exit,
            Some("KVM_EXIT_SET_TPR"),
            "comes to this program where the priority is lowered, since the chips are here",
        ),
        M::Mov if names(Register::is_cr) => native("the CPU's own paging takes CR3 (with nested paging)"),
        M::Mov if names(Register::is_dr) => kernel("leaves the guest the first time"),
        M::Xsetbv | M::Wbinvd | M::Invd | M::Monitor | M::Mwait | M::Rdpmc | M::Clts | M::Lmsw => {
            kernel("intercepted: the kernel does it or makes nothing of it")
        }
        M::Pause => native("may leave the guest to the kernel if it spins for long"),
        M::Rdtsc | M::Rdtscp => native("with the guest's offset added by the CPU"),
        _ if i.is_privileged() => native("the CPU has the guest's own state for it"),
        _ => native("no difference to the host"),
    }
}

fn first_is_written(i: &Instruction) -> bool {
    let mut factory = iced_x86::InstructionInfoFactory::new();
    matches!(factory.info(i).op0_access(), OpAccess::Write | OpAccess::ReadWrite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn of(bytes: &[u8], ecx: u64, device: bool) -> KvmFate {
        let mut state = CpuState::reset();
        state.gpr[gpr::RCX] = ecx;
        fate(&state, &Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode(), device)
    }

    #[test]
    fn what_comes_to_this_program_does_so_on_every_host() {
        for (bytes, exit) in [
            (&[0xee][..], "KVM_EXIT_IO"),
            (&[0xf4], "KVM_EXIT_HLT"),
            (&[0x0f, 0x32], "KVM_EXIT_X86_RDMSR"),
            (&[0x0f, 0x30], "KVM_EXIT_X86_WRMSR"),
        ] {
            let fate = of(bytes, 0x1b, false);
            assert_eq!((fate.way, fate.exit), (KvmWay::Exit, Some(exit)), "{bytes:02x?}: {fate:?}");
        }
        assert_eq!(of(&[0x8b, 0x03], 0, true).exit, Some("KVM_EXIT_MMIO"));
        assert_eq!(of(&[0x0f, 0x32], 0x277, false).exit, None, "the kernel keeps IA32_PAT");
    }

    #[test]
    fn the_cpu_executes_the_rest_or_the_kernel_does() {
        let hardware = |bytes: &[u8]| {
            by_hardware(&CpuState::reset(), &Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()).0
        };
        assert_eq!(hardware(&[0xfa]), KvmWay::Native, "cli");
        assert_eq!(hardware(&[0x0f, 0x22, 0xd8]), KvmWay::Native, "mov cr3, rax");
        assert_eq!(hardware(&[0x0f, 0x22, 0xc0]), KvmWay::Kernel, "mov cr0, rax");
        assert_eq!(hardware(&[0x0f, 0x20, 0xc0]), KvmWay::Native, "mov rax, cr0");
        assert_eq!(hardware(&[0x44, 0x0f, 0x22, 0xc0]), KvmWay::Exit, "mov cr8, rax");
        assert_eq!(hardware(&[0x0f, 0xa2]), KvmWay::Kernel, "cpuid");
        assert_eq!(hardware(&[0x01, 0xd8]), KvmWay::Native, "add eax, ebx");
        assert_eq!(emulated_supervisor(&Instruction::default()).0, KvmWay::KernelEmulator);
    }
}
