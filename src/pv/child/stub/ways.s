        .pushsection .rodata.trivisor_pv_stub,"a",@progbits
        // Global, because this file's code and its assembly may end up in different objects; hidden, because nobody else's.
        .irp name, begin, end, length, offset, hypercall, syscall, sysret, iret, read, signal, restorer
        .globl pv_stub_\name
        .hidden pv_stub_\name
        .endr
        .balign 4096
pv_stub_begin:
// ----- start: map the shared area, then wait for the first requests
        mov eax, {SYS_MMAP}
        lea rdi, [rip + pv_stub_begin + {D}]
        // Length and offset are patched, each into an immediate operand: mov esi, mov r9d.
        .byte 0xbe
pv_stub_length:
        .long {SHARED_SIZE}
        mov edx, 3
        mov r10d, {SHARED_FIXED}
        mov r8d, {SHARED_FD}
        .byte 0x41, 0xb9
pv_stub_offset:
        .long 0
        syscall
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_BOOT}
        lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]
        xor ebp, ebp
        jmp 20f
// ----- region A: the ways in from thunks. RAX: where the guest is; its RAX is in SAVED_RAX
pv_stub_syscall:
        mov dword ptr [rip + pv_stub_begin + {D} + {WAY}], {W_SYSCALL}
        jmp 10f
pv_stub_sysret:
        mov dword ptr [rip + pv_stub_begin + {D} + {WAY}], {W_SYSRET}
        jmp 10f
pv_stub_iret:
        mov dword ptr [rip + pv_stub_begin + {D} + {WAY}], {W_IRET}
        jmp 10f
pv_stub_hypercall:
        mov dword ptr [rip + pv_stub_begin + {D} + {WAY}], {W_HYPERCALL}
10:     mov [rip + pv_stub_begin + {D} + {GPR} + 0x08], rcx
        mov rcx, rax
        mov rax, [rip + pv_stub_begin + {D} + {SAVED_RAX}]
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x00], rax
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x10], rdx
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x18], rbx
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x20], rsp
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x28], rbp
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x30], rsi
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x38], rdi
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x40], r8
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x48], r9
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x50], r10
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x58], r11
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x60], r12
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x68], r13
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x70], r14
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x78], r15
        lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]
        pushfq
        pop rdx
        cld
        rdfsbase rax
        mov [rip + pv_stub_begin + {D} + {FS_BASE}], rax
        rdgsbase rax
        mov [rip + pv_stub_begin + {D} + {GS_BASE}], rax
        // The line that the engine looks at: last, and at once.
        mov [rip + pv_stub_begin + {D} + {RIP}], rcx
        mov [rip + pv_stub_begin + {D} + {RFLAGS}], rdx
        xor ebp, ebp
        mov eax, [rip + pv_stub_begin + {D} + {WAY}]
        cmp eax, {W_SYSCALL}
        je pv_stub_to_kernel
        ja pv_stub_to_user
pv_stub_report:
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_HYPERCALL}
        jmp 20f
pv_stub_again:
        cld
        lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]
        xor ebp, ebp
        mov dword ptr [rip + pv_stub_begin + {D} + {KICK}], 0
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_KICKED}
20:     call pv_stub_exchange
// ----- region C, from the last look at the kick word on: the way out of a hypercall
pv_stub_out:
pv_stub_go:
        cmp dword ptr [rip + pv_stub_begin + {D} + {KICK}], 0
        jne pv_stub_again
        push qword ptr [rip + pv_stub_begin + {D} + {RFLAGS}]
        popfq
        mov rax, [rip + pv_stub_begin + {D} + {GPR} + 0x00]
        mov rcx, [rip + pv_stub_begin + {D} + {GPR} + 0x08]
        mov rdx, [rip + pv_stub_begin + {D} + {GPR} + 0x10]
        mov rbx, [rip + pv_stub_begin + {D} + {GPR} + 0x18]
        mov rbp, [rip + pv_stub_begin + {D} + {GPR} + 0x28]
        mov rsi, [rip + pv_stub_begin + {D} + {GPR} + 0x30]
        mov rdi, [rip + pv_stub_begin + {D} + {GPR} + 0x38]
        mov r8, [rip + pv_stub_begin + {D} + {GPR} + 0x40]
        mov r9, [rip + pv_stub_begin + {D} + {GPR} + 0x48]
        mov r10, [rip + pv_stub_begin + {D} + {GPR} + 0x50]
        mov r11, [rip + pv_stub_begin + {D} + {GPR} + 0x58]
        mov r12, [rip + pv_stub_begin + {D} + {GPR} + 0x60]
        mov r13, [rip + pv_stub_begin + {D} + {GPR} + 0x68]
        mov r14, [rip + pv_stub_begin + {D} + {GPR} + 0x70]
        mov r15, [rip + pv_stub_begin + {D} + {GPR} + 0x78]
        mov rsp, [rip + pv_stub_begin + {D} + {GPR} + 0x20]
        jmp qword ptr [rip + pv_stub_begin + {D} + {RIP}]
pv_stub_out_end:
