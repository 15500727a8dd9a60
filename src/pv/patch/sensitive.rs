//! Which instructions a guest's kernel may not execute natively at ring 3, and how each is patched.
//!
//! Privileged ones fault by themselves; a patch only makes them cheaper. The sensitive unprivileged ones (Robin and
//! Irvine, 2000, and what came later) silently do something else at ring 3 or tell of the host: they *must* be patched.
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};

/// How an instruction is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::pv) enum Remedy {
    /// Clears the virtual interrupt flag in the child.
    Cli,
    /// Sets it.
    Sti,
    /// Pushes the virtual flags.
    Pushf,
    /// Pops the virtual flags.
    Popf,
    /// A hypercall: the empty one is answered in the child.
    Vmcall,
    /// Enters the kernel's process, or calls the engine.
    Syscall,
    /// Goes back to the user's process, or calls the engine.
    Sysret,
    /// The same.
    Iret,
    /// Calls the engine, which executes the original.
    Call,
}

impl Remedy {
    /// Whether a thunk does it in the child, as long as the engine need not know of it.
    pub(super) fn is_in_process(self) -> bool {
        !matches!(self, Self::Call | Self::Syscall | Self::Sysret | Self::Iret)
    }
}

/// The remedy for an instruction, and whether it must not run natively; `None` for the ordinary ones.
pub(in crate::pv) fn remedy(i: &Instruction) -> Option<(Remedy, bool)> {
    use Mnemonic as M;
    match i.code() {
        Code::Pushfq => return Some((Remedy::Pushf, true)),
        Code::Popfq => return Some((Remedy::Popf, true)),
        Code::Syscall => return Some((Remedy::Syscall, true)),
        Code::Sysretq => return Some((Remedy::Sysret, true)),
        Code::Iretq => return Some((Remedy::Iret, true)),
        _ => {}
    }
    match i.mnemonic() {
        M::Cli => Some((Remedy::Cli, false)),
        M::Sti => Some((Remedy::Sti, false)),
        M::Pushf | M::Pushfd | M::Popf | M::Popfd => Some((Remedy::Call, true)),
        M::Sgdt | M::Sidt | M::Sldt | M::Smsw | M::Str | M::Lar | M::Lsl | M::Verr | M::Verw => {
            Some((Remedy::Call, true))
        }
        M::Lss | M::Lfs | M::Lgs | M::Iret | M::Iretd | M::Retf => Some((Remedy::Call, true)),
        M::Sysret | M::Sysenter | M::Sysexit | M::Sysexitq | M::Int => Some((Remedy::Call, true)),
        // On a host that is a guest itself, its hypervisor would answer them.
        M::Vmcall => Some((Remedy::Vmcall, true)),
        M::Vmmcall => Some((Remedy::Call, true)),
        M::Cpuid | M::Rdpmc | M::Rdtscp | M::Rdpid | M::Xgetbv => Some((Remedy::Call, true)),
        M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xrstor
        | M::Xrstor64 => Some((Remedy::Call, true)),
        M::Jmp | M::Call if is_far(i) => Some((Remedy::Call, true)),
        M::Mov | M::Push | M::Pop if names_segment(i) => Some((Remedy::Call, true)),
        M::In
        | M::Out
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Hlt
        | M::Stac
        | M::Clac => Some((Remedy::Call, false)),
        _ if i.is_privileged() => Some((Remedy::Call, false)),
        _ => None,
    }
}

/// Whether an instruction means something else at ring 3 than at ring 0.
pub(in crate::pv) fn is_sensitive(i: &Instruction) -> bool {
    remedy(i).is_some()
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect()
}

fn names_segment(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register())
}

/// Whether control does not go on behind the instruction, as far as the patched code is concerned.
pub(super) fn ends_block(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        i.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Exception
    ) || matches!(
        i.mnemonic(),
        M::Sysret | M::Sysretq | M::Iret | M::Iretd | M::Iretq | M::Sysexit | M::Sysexitq
    )
}

/// Whether an ordinary instruction does the same when it is executed elsewhere.
pub(super) fn can_move(i: &Instruction) -> bool {
    match i.flow_control() {
        // A call would push an address that the guest could see.
        FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::XbeginXabortXend
        | FlowControl::Interrupt => false,
        FlowControl::Exception => false,
        FlowControl::ConditionalBranch => !i.is_loop() && !i.is_loopcc() && !i.is_jcx_short(),
        FlowControl::UnconditionalBranch => i.is_jmp_short_or_near(),
        FlowControl::Next | FlowControl::IndirectBranch | FlowControl::Return => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn of(bytes: &[u8]) -> Option<(Remedy, bool)> {
        remedy(&Decoder::with_ip(64, bytes, 0x20_0000, DecoderOptions::NONE).decode())
    }

    #[test]
    fn the_sensitive_unprivileged_instructions_must_be_patched() {
        let list: [&[u8]; 30] = [
            &[0x9c],             // pushfq
            &[0x9d],             // popfq
            &[0x66, 0x9c],       // pushf
            &[0x0f, 0x01, 0x00], // sgdt
            &[0x0f, 0x01, 0x08], // sidt
            &[0x0f, 0x00, 0xc0], // sldt
            &[0x0f, 0x01, 0xe0], // smsw
            &[0x0f, 0x00, 0xc8], // str
            &[0x0f, 0x02, 0xc0], // lar
            &[0x0f, 0x03, 0xc0], // lsl
            &[0x0f, 0x00, 0xe0], // verr
            &[0x0f, 0x00, 0xe8], // verw
            &[0x8c, 0xc8],       // mov eax, cs
            &[0x8e, 0xd8],       // mov ds, eax
            &[0x0f, 0xa0],       // push fs
            &[0x0f, 0xa9],       // pop gs
            &[0x48, 0xcf],       // iretq
            &[0x48, 0xcb],       // retfq
            &[0xff, 0x28],       // jmp far [rax]
            &[0xff, 0x18],       // call far [rax]
            &[0xcd, 0x80],       // int 80
            &[0x0f, 0x05],       // syscall
            &[0x48, 0x0f, 0x07], // sysretq
            &[0x0f, 0xa2],       // cpuid
            &[0x0f, 0x01, 0xf9], // rdtscp
            &[0x0f, 0x01, 0xd0], // xgetbv
            &[0x0f, 0xae, 0x20], // xsave
            &[0x0f, 0xb2, 0x00], // lss
            &[0x0f, 0x01, 0xc1], // vmcall
            &[0x0f, 0x01, 0xd9], // vmmcall
        ];
        for bytes in list {
            assert_eq!(of(bytes).map(|r| r.1), Some(true), "{bytes:02x?}");
        }
    }

    #[test]
    fn privileged_instructions_may_and_ordinary_ones_need_no_patch() {
        for bytes in [
            &[0xfa][..],
            &[0xfb],
            &[0xf4],
            &[0xee],
            &[0xe4, 1],
            &[0x0f, 0x30],
            &[0x0f, 0x22, 0xd8],
            &[0x0f, 1, 0xca],
        ] {
            assert_eq!(of(bytes).map(|r| r.1), Some(false), "{bytes:02x?}");
        }
        for bytes in [
            &[0x90][..],
            &[0x0f, 0x31],
            &[0xc3],
            &[0x48, 0x89, 0xc8],
            &[0xe8, 0, 0, 0, 0],
            &[0x0f, 0xae, 0xe8],
        ] {
            assert_eq!(of(bytes), None, "{bytes:02x?}");
        }
    }
}
