//! One case for each instruction.
use core::arch::asm;

use guest::layout::{KERNEL_CODE, KERNEL_DATA, TSS, USER_CODE};
use guest::{cpu, trap, user};

use crate::tables::{self, BASE, LDT, OUTER_CODE, Raised, WITH_BASE};
use crate::{Finding, watched};

/// An instruction, in a state in which its result is known.
pub struct Case {
    /// The instruction.
    pub name: &'static str,
    /// Whether it faults in ring 3, for comparison.
    pub privileged: bool,
    /// Whether this CPU has it.
    pub exists: fn() -> bool,
    /// Executes it.
    pub run: fn() -> Finding,
}

const fn case(name: &'static str, run: fn() -> Finding) -> Case {
    Case { name, privileged: false, exists: || true, run }
}

const fn privileged(name: &'static str, run: fn() -> Finding) -> Case {
    Case { privileged: true, ..case(name, run) }
}

/// All of them.
pub static ALL: [Case; 34] = [
    privileged("cli", || {
        cpu::sti();
        Finding { right: 0, seen: interrupt_flag(|| cpu::cli()) }
    }),
    privileged("sti", || Finding { right: IF, seen: interrupt_flag(|| cpu::sti()) }),
    privileged("mov from cr0", || {
        let seen: u64;
        // SAFETY: reading has no side effect.
        unsafe { asm!("mov {}, cr0", out(reg) seen, options(nomem, nostack, preserves_flags)) };
        Finding { right: MACHINE_STATUS, seen: seen & 0xffff }
    }),
    privileged("wrmsr and rdmsr", || {
        // SAFETY: a plain register to whoever does not use SWAPGS.
        unsafe { cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, BASE) };
        Finding { right: BASE, seen: cpu::rdmsr(cpu::MSR_KERNEL_GS_BASE) }
    }),
    privileged("sysretq", || {
        // SAFETY: ring 3 may execute the page of the code, and raises an exception at once.
        let raised = unsafe {
            watched!(["lea rcx, [rip + 8f]", "mov r11d, 2", "sysretq", "8:", "ud2"], out("rcx") _, out("r11") _)
        };
        Finding { right: USER_CODE.into(), seen: raised.cs }
    }),
    case("pushfq", || {
        let seen: u64;
        cpu::cli();
        // SAFETY: balanced.
        unsafe { asm!("pushfq", "pop {}", out(reg) seen) };
        Finding { right: 0, seen: seen & IF }
    }),
    case("popfq that clears IF", || {
        cpu::sti();
        // SAFETY: balanced.
        Finding { right: 0, seen: interrupt_flag(|| unsafe { asm!("push 2", "popfq") }) }
    }),
    case("popfq that sets IF", || {
        cpu::cli();
        // SAFETY: balanced; every vector has a handler.
        Finding { right: IF, seen: interrupt_flag(|| unsafe { asm!("push 0x202", "popfq") }) }
    }),
    case("sgdt", || {
        let mut pointer = [0_u16; 5];
        // SAFETY: ten bytes are written.
        unsafe { asm!("sgdt [{}]", in(reg) pointer.as_mut_ptr(), options(nostack, preserves_flags)) };
        Finding { right: tables::gdt(), seen: base_in(&pointer) }
    }),
    case("sidt", || {
        let mut pointer = [0_u16; 5];
        // SAFETY: ten bytes are written.
        unsafe { asm!("sidt [{}]", in(reg) pointer.as_mut_ptr(), options(nostack, preserves_flags)) };
        Finding { right: base_in(&trap::idt_pointer()), seen: base_in(&pointer) }
    }),
    case("sldt", || {
        let seen: u64;
        // SAFETY: writes a register.
        unsafe { asm!("sldt {:e}", out(reg) seen, options(nomem, nostack, preserves_flags)) };
        Finding { right: LDT.into(), seen: seen & 0xffff }
    }),
    case("str", || {
        let seen: u64;
        // SAFETY: writes a register.
        unsafe { asm!("str {:e}", out(reg) seen, options(nomem, nostack, preserves_flags)) };
        Finding { right: TSS.into(), seen: seen & 0xffff }
    }),
    case("smsw", || {
        let seen: u64;
        // SAFETY: writes a register.
        unsafe { asm!("smsw {:e}", out(reg) seen, options(nomem, nostack, preserves_flags)) };
        Finding { right: MACHINE_STATUS, seen: seen & 0xffff }
    }),
    case("lar", || {
        let seen: u64;
        // SAFETY: writes a register; what it holds if the selector may not be seen is known before.
        unsafe {
            asm!("xor {s:e}, {s:e}", "lar {s:e}, {of:e}", s = out(reg) seen, of = in(reg) u32::from(KERNEL_DATA))
        };
        Finding { right: 0xc0_9300, seen: seen & 0xf0_ff00 }
    }),
    case("lsl", || {
        let seen: u64;
        // SAFETY: as for LAR.
        unsafe {
            asm!("xor {s:e}, {s:e}", "lsl {s:e}, {of:e}", s = out(reg) seen, of = in(reg) u32::from(KERNEL_DATA))
        };
        Finding { right: 0xffff_ffff, seen }
    }),
    case("verr", || {
        let seen: u8;
        // SAFETY: changes ZF only.
        unsafe { asm!("verr {:x}", "setz {}", in(reg) KERNEL_DATA, out(reg_byte) seen) };
        Finding { right: 1, seen: seen.into() }
    }),
    case("verw", || {
        let seen: u8;
        // SAFETY: changes ZF only.
        unsafe { asm!("verw {:x}", "setz {}", in(reg) KERNEL_DATA, out(reg_byte) seen) };
        Finding { right: 1, seen: seen.into() }
    }),
    case("mov from cs", || {
        let seen: u64;
        // SAFETY: writes a register.
        unsafe { asm!("mov {}, cs", out(reg) seen, options(nomem, nostack, preserves_flags)) };
        Finding { right: KERNEL_CODE.into(), seen }
    }),
    case("push fs", || {
        let seen: u64;
        // SAFETY: balanced: PUSH FS of 64 bits; the segment is used by nobody.
        unsafe { asm!("mov fs, {:e}", ".byte 0x0f, 0xa0", "pop {}", in(reg) u32::from(KERNEL_DATA), out(reg) seen) };
        Finding { right: KERNEL_DATA.into(), seen }
    }),
    case("mov to fs", || {
        clear_base();
        // SAFETY: the segment is used by nobody.
        unsafe { asm!("mov fs, {:e}", in(reg) u32::from(WITH_BASE)) };
        Finding { right: BASE, seen: cpu::rdmsr(MSR_FS_BASE) }
    }),
    case("pop fs", || {
        clear_base();
        // SAFETY: balanced: POP FS of 64 bits; the segment is used by nobody.
        unsafe { asm!("push {}", ".byte 0x0f, 0xa1", in(reg) u64::from(WITH_BASE)) };
        Finding { right: BASE, seen: cpu::rdmsr(MSR_FS_BASE) }
    }),
    case("lfs", || {
        clear_base();
        let pointer = [0, 0, WITH_BASE];
        // SAFETY: `lfs eax, [rdi]`; the segment is used by nobody.
        unsafe { asm!(".byte 0x0f, 0xb4, 0x07", in("rdi") pointer.as_ptr(), out("rax") _) };
        Finding { right: BASE, seen: cpu::rdmsr(MSR_FS_BASE) }
    }),
    // A selector of an outer ring is refused by far jumps and calls, and taken by a process that is in that ring.
    case("jmp far", || {
        let mut pointer = FAR_POINTER;
        // SAFETY: `jmp far [rdi]` to the label, or an exception.
        let raised = unsafe {
            watched!(
                ["lea eax, [rip + 8f]", "mov [rdi], eax", ".byte 0xff, 0x2f", "8:"],
                in("rdi") pointer.as_mut_ptr(), out("rax") _
            )
        };
        Finding { right: refusal_of(OUTER_CODE), seen: summary(raised) }
    }),
    case("call far", || {
        let mut pointer = FAR_POINTER;
        // SAFETY: `call far [rdi]` to the label, or an exception. The stack is put right behind it.
        let raised = unsafe {
            watched!(
                ["lea eax, [rip + 8f]", "mov [rdi], eax", ".byte 0xff, 0x1f", "8:"],
                in("rdi") pointer.as_mut_ptr(), out("rax") _
            )
        };
        Finding { right: refusal_of(OUTER_CODE), seen: summary(raised) }
    }),
    case("retf to ring 3", || {
        // SAFETY: ring 3 may execute the page of the code, and raises an exception at once. The stack is put right.
        let raised = unsafe {
            watched!(
                ["push {ss}", "push {sp}", "push {cs}", "lea {to}, [rip + 8f]", "push {to}", ".byte 0x48, 0xcb", "8:", "ud2"],
                ss = in(reg) u64::from(WITH_BASE), sp = in(reg) OUTER_STACK, cs = in(reg) u64::from(OUTER_CODE),
                to = out(reg) _
            )
        };
        Finding { right: OUTER_STACK | u64::from(OUTER_CODE), seen: raised.rsp | raised.cs }
    }),
    case("iretq to ring 3", || {
        // SAFETY: as for RETF.
        let raised = unsafe {
            watched!(
                [
                    "push {ss}", "push {sp}", "push 2", "push {cs}", "lea {to}, [rip + 8f]", "push {to}", "iretq", "8:",
                    "ud2"
                ],
                ss = in(reg) u64::from(WITH_BASE), sp = in(reg) OUTER_STACK, cs = in(reg) u64::from(OUTER_CODE),
                to = out(reg) _
            )
        };
        Finding { right: OUTER_STACK | u64::from(OUTER_CODE), seen: raised.rsp | raised.cs }
    }),
    // What a process cannot do, although the instruction is no privileged one: these fault, or their monitor sees them.
    case("retf to ring 0", || {
        let seen: u64;
        // SAFETY: to the next instruction.
        unsafe {
            asm!(
                "xor {s:e}, {s:e}", "push {cs}", "lea {to}, [rip + 8f]", "push {to}", ".byte 0x48, 0xcb", "ud2", "8:",
                "inc {s:e}",
                s = out(reg) seen, cs = in(reg) u64::from(KERNEL_CODE), to = out(reg) _
            )
        };
        Finding { right: 1, seen }
    }),
    case("iretq that sets IF", || {
        cpu::cli();
        // SAFETY: to the next instruction, in the same ring and with the same stack.
        let go = || unsafe {
            asm!(
                "mov {to}, rsp", "push {ss}", "push {to}", "push 0x202", "push {cs}", "lea {to}, [rip + 8f]", "push {to}",
                "iretq", "8:",
                ss = in(reg) u64::from(KERNEL_DATA), cs = in(reg) u64::from(KERNEL_CODE), to = out(reg) _
            )
        };
        Finding { right: IF, seen: interrupt_flag(go) }
    }),
    case("int 0x80", || {
        trap::set(0x80, Some(|frame| frame.rax += 1));
        let seen: u64;
        // SAFETY: the handler saves what it changes, but for RAX.
        unsafe { asm!("int 0x80", inout("rax") 0x41_u64 => seen) };
        Finding { right: 0x42, seen }
    }),
    case("syscall", || {
        let previous = cpu::rdmsr(cpu::MSR_LSTAR);
        let seen: u64;
        // SAFETY: the entry returns by a jump, in the same ring and on the same stack.
        unsafe {
            user::set_entry(answer);
            asm!("syscall", inout("rax") 0x41_u64 => seen, out("rcx") _, out("r11") _);
            cpu::wrmsr(cpu::MSR_LSTAR, previous);
        }
        Finding { right: 0x42, seen }
    }),
    case("cpuid", || {
        // OSXSAVE shows CR4's bit of that name.
        Finding { right: 0, seen: (cpu::cpuid(1, 0)[2] >> 27 & 1).into() }
    }),
    Case {
        exists: has_rdtscp,
        ..case("rdtscp", || {
            // SAFETY: a register that only RDTSCP and RDPID show.
            unsafe { cpu::wrmsr(MSR_TSC_AUX, 0x1234) };
            let seen: u64;
            // SAFETY: reads two registers.
            unsafe { asm!("rdtscp", out("rax") _, out("rdx") _, out("rcx") seen, options(nomem, nostack)) };
            Finding { right: 0x1234, seen }
        })
    },
    Case {
        exists: has_xsave,
        ..case("xgetbv", || {
            // SAFETY: an exception, since CR4.OSXSAVE is clear.
            let raised = unsafe { watched!(["xgetbv"], in("ecx") 0, out("eax") _, out("edx") _) };
            Finding { right: 6 << 32 | 1, seen: summary(raised) }
        })
    },
    case("mov to fs of a selector that Linux has not", || {
        // SAFETY: an exception, or nothing that anybody uses.
        let raised = unsafe { watched!(["mov fs, {of:e}"], of = in(reg) 0x1000_u32) };
        Finding { right: refusal_of(0x1000), seen: summary(raised) }
    }),
];

const IF: u64 = 0x200;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// PE, ET and NE.
const MACHINE_STATUS: u64 = 0x31;
/// A stack pointer for ring 3, which nobody uses.
const OUTER_STACK: u64 = 0x70_0000;

/// Does something and says what an exception behind it shows of the interrupt flag.
fn interrupt_flag(act: impl FnOnce()) -> u64 {
    act();
    // SAFETY: the exception is caught.
    let raised = unsafe { watched!(["ud2"]) };
    raised.rflags & IF
}

fn base_in(pointer: &[u16; 5]) -> u64 {
    (1..5).rev().fold(0, |base, part| base << 16 | u64::from(pointer[part]))
}

fn clear_base() {
    // SAFETY: the segment is used by nobody.
    unsafe { cpu::wrmsr(MSR_FS_BASE, 0) };
}

/// Offset, to be filled in, and selector.
const FAR_POINTER: [u16; 3] = [0, 0, OUTER_CODE];

/// The summary of the general protection exception that names a selector.
fn refusal_of(selector: u16) -> u64 {
    u64::from(selector & !3) << 40 | 13 << 32 | 1
}

/// Error code, vector, and whether there was an exception.
fn summary(raised: Raised) -> u64 {
    raised.error << 40 | raised.vector << 32 | u64::from(raised.any)
}

/// Where SYSCALL goes.
#[unsafe(naked)]
unsafe extern "C" fn answer() {
    core::arch::naked_asm!("inc rax", "jmp rcx")
}

fn has_rdtscp() -> bool {
    cpu::cpuid(0x8000_0000, 0)[0] > 0x8000_0000 && cpu::cpuid(0x8000_0001, 0)[3] >> 27 & 1 == 1
}

fn has_xsave() -> bool {
    cpu::cpuid(1, 0)[2] >> 26 & 1 == 1
}
