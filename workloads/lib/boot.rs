//! From the PVH entry point (32-bit, paging off) to Rust in long mode.
//!
//! The page tables and the GDT are data, laid down by the linker, so that booting costs a few hundred instructions:
//! some hosts run ring 0 at 1.5 million instructions a second. The stub copies the command line while paging is off,
//! because it lies below 2 MiB, which is never mapped.
//! Source: Xen `docs/misc/pvh.pandoc` and `hvm_start_info`; Intel SDM volume 3, 10.8.5 "Initializing IA-32e Mode".

use core::arch::global_asm;

/// Bytes kept of the command line, the terminating zero included.
pub(crate) const COMMAND_LINE_MAX: usize = 512;

global_asm!(
    ".section .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18", // XEN_ELFNOTE_PHYS32_ENTRY
    ".asciz \"Xen\"",
    ".quad pvh_start",
    // ----- code
    ".section .text.boot, \"ax\", @progbits",
    ".code32",
    ".global pvh_start",
    "pvh_start:",
    "cli",
    "cld",
    "mov esp, offset boot_stack_top",
    // hvm_start_info in EBX: magic at 0, physical address of the command line at 24.
    "mov ecx, {command_line_copied}",
    "cmp dword ptr [ebx], 0x336ec578",
    "jne 3f",
    "mov esi, [ebx + 24]",
    "test esi, esi",
    "jz 3f",
    "mov edi, offset boot_command_line",
    "2:",
    "mov al, [esi]",
    "mov [edi], al",
    "test al, al",
    "jz 3f",
    "inc esi",
    "inc edi",
    "dec ecx",
    "jnz 2b",
    "3:",
    "mov eax, {command_line_copied}", // what is left of it counts down from there
    "sub eax, ecx",
    "mov [boot_command_line_length], eax",
    "mov eax, 0x620", // CR4: PAE, OSFXSR, OSXMMEXCPT
    "mov cr4, eax",
    "mov eax, offset boot_pml4",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER: SCE, LME, NXE
    "rdmsr",
    "or eax, 0x901",
    "wrmsr",
    "mov eax, 0x80010033", // CR0: PG, WP, NE, ET, MP, PE
    "mov cr0, eax",
    "lgdt [boot_gdt_pointer]",
    ".byte 0xea", // far jump to boot_long
    ".long boot_long",
    ".word 0x08",
    ".code64",
    "boot_long:",
    "mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov esp, offset boot_stack_top",
    "fninit",
    "xor ebp, ebp",
    "call guest_start",
    "ud2",
    // ----- data
    ".section .data.boot, \"aw\", @progbits",
    ".balign 8",
    ".word 0",
    ".word 0",
    ".word 0",
    "boot_gdt_pointer:",
    ".word boot_gdt_end - boot_gdt - 1",
    ".quad boot_gdt",
    ".balign 8",
    ".global boot_gdt",
    "boot_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff", // 0x08 kernel code, 64-bit
    ".quad 0x00cf93000000ffff", // 0x10 kernel data
    ".quad 0x00cffb000000ffff", // 0x18 user code, 32-bit: a place holder that SYSRET's arithmetic wants
    ".quad 0x00cff3000000ffff", // 0x20 user data
    ".quad 0x00affb000000ffff", // 0x28 user code, 64-bit
    ".quad 0, 0",               // 0x30 TSS, filled in by `trap::init`
    "boot_gdt_end:",
    ".balign 4096",
    ".global boot_pml4",
    "boot_pml4:",
    ".quad boot_pdpt + 7",
    ".fill 511, 8, 0",
    "boot_pdpt:",
    ".quad boot_pd + 7, 0, 0, boot_pd_devices + 3",
    ".fill 508, 8, 0",
    "boot_pd:",
    ".quad 0",                            // 0 MiB: not mapped
    ".quad 0x200000 + 0x85",              // 2 MiB: code and constants, read-only, ring 3 too
    ".quad 0x8000000000400000 + 0x83",    // 4 MiB: kernel data
    ".quad 0x8000000000600000 + 0x87",    // 6 MiB: ring-3 stack
    ".set boot_address, 0x800000",        // 8 to 16 MiB: frames
    ".rept 4",
    ".quad 0x8000000000000083 + boot_address",
    ".set boot_address, boot_address + 0x200000",
    ".endr",
    ".rept 24", // 16 to 64 MiB: ring-3 arena
    ".quad 0x8000000000000087 + boot_address",
    ".set boot_address, boot_address + 0x200000",
    ".endr",
    ".fill 480, 8, 0",
    "boot_pd_devices:", // the fourth GiB
    ".fill 503, 8, 0",
    ".quad 0x80000000fee0009b", // local APIC, uncached
    ".fill 8, 8, 0",
    ".section .bss.boot, \"aw\", @nobits",
    ".global boot_command_line",
    "boot_command_line:",
    ".skip {command_line_max}",
    ".global boot_command_line_length",
    "boot_command_line_length:",
    ".skip 8",
    ".balign 16",
    ".skip 65536",
    "boot_stack_top:",
    ".text",
    command_line_max = const COMMAND_LINE_MAX,
    command_line_copied = const COMMAND_LINE_MAX - 1,
);

unsafe extern "C" {
    static boot_command_line: [u8; COMMAND_LINE_MAX];
    static boot_command_line_length: usize;
    pub(crate) static mut boot_gdt: [u64; 8];
}

/// The command line as the loader gave it, without its terminating zero.
pub(crate) fn command_line() -> &'static [u8] {
    // SAFETY: both written once by the stub, before any Rust code ran; the length is at most the array's.
    unsafe { core::slice::from_raw_parts((&raw const boot_command_line).cast(), boot_command_line_length) }
}
