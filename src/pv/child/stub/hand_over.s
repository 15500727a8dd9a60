// ----- region B from here to the end of the exchange
        // A SYSCALL of the user: vector registers and turn go to the kernel.
pv_stub_to_kernel:
        mov eax, 7
        xor edx, edx
        xsaveopt64 [rip + pv_stub_begin + {D} + {XSAVE}]
        mov eax, {T_KERNEL}
        xchg [rip + pv_stub_begin + {D} + {TURN}], eax
        call pv_stub_ring
        call pv_stub_wait_parked
        jmp pv_stub_go
        // SYSRETQ or IRETQ to the user, if nothing about it is unusual; otherwise it is for the engine.
pv_stub_to_user:
        mov r14, [rip + pv_stub_begin + {D} + {USER_AREA}]
        mov rsi, [rip + pv_stub_begin + {D} + {GPR} + 0x20]
        cmp eax, {W_IRET}
        je 11f
        mov r8, [rip + pv_stub_begin + {D} + {GPR} + 0x08]
        mov r9d, [rip + pv_stub_begin + {D} + {GPR} + 0x58]
        and r9d, {SYSRET_FLAGS}
        jmp 12f
11:     test dword ptr [rip + pv_stub_begin + {D} + {RFLAGS}], {NT}
        jnz pv_stub_report
        movzx eax, word ptr [rsi + 8]
        cmp rax, [rip + pv_stub_begin + {D} + {USER_CS}]
        jne pv_stub_report
        movzx eax, word ptr [rsi + 32]
        cmp rax, [rip + pv_stub_begin + {D} + {USER_SS}]
        jne pv_stub_report
        mov r8, [rsi]
        mov r9, [rsi + 16]
        and r9, {NOT_RF}
        mov rsi, [rsi + 24]
12:     mov rax, r9
        and rax, {NOT_USER_FLAGS}
        jnz pv_stub_report
        test r9d, 0x200
        jz pv_stub_report
        lea rax, [rip + pv_stub_begin]
        cmp r8, rax
        jae pv_stub_report
        lea rax, [r8 - {ZONE}]
        cmp rax, {ZONE_SIZE}
        jb pv_stub_report
        or r9d, 2
        cmp r8, [r14 + {NEXT_GUEST}]
        cmove r8, [r14 + {NEXT_NATIVE}]
        mov [r14 + {RIP}], r8
        mov [r14 + {RFLAGS}], r9
        mov r10, rsi
        // Moves one by one: a short REP MOVSQ takes longer to begin than these take.
        .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        mov rax, [rip + pv_stub_begin + {D} + {GPR} + 8 * \i]
        mov [r14 + {GPR} + 8 * \i], rax
        .endr
        mov [r14 + {GPR} + 0x20], r10
        mov r8d, {C_LOAD_FPU}
        mov rax, [rip + pv_stub_begin + {D} + {FS_BASE}]
        mov rcx, [rip + pv_stub_begin + {D} + {GS_BASE}]
        cmp rax, [r14 + {FS_BASE}]
        jne 13f
        cmp rcx, [r14 + {GS_BASE}]
        je 14f
13:     mov [r14 + {FS_BASE}], rax
        mov [r14 + {GS_BASE}], rcx
        or r8d, {C_LOAD_BASES}
14:     mov [r14 + {COMMAND}], r8d
        mov eax, 7
        xor edx, edx
        xsaveopt64 [r14 + {XSAVE}]
        mov dword ptr [rip + pv_stub_begin + {D} + {CROSSED}], 1
        mov dword ptr [rip + pv_stub_begin + {D} + {TURN}], {T_PARKED}
        mov eax, {T_CHILD}
        xchg [r14 + {TURN}], eax
        call pv_stub_ring
        call pv_stub_wait_parked
        jmp pv_stub_go
        // Wakes the other process: the kernel's for a user, the user's for the kernel. Keeps what the exchange keeps.
pv_stub_ring:
        mov rdi, [rip + pv_stub_begin + {D} + {USER_AREA}]
        test rdi, rdi
        jz 16f
        cmp dword ptr [rdi + {CHILD_ASLEEP}], 0
        je 17f
        add rdi, {TURN}
        jmp 18f
16:     cmp dword ptr [rip + pv_stub_begin + {D} + {KERNEL_ASLEEP}], 0
        je 17f
        lea rdi, [rip + pv_stub_begin + {D} + {DOOR}]
        mov dword ptr [rdi], 1
18:     mov eax, {SYS_FUTEX}
        mov esi, 1
        mov edx, 0x7fffffff
        syscall
17:     ret
        // A user's SYSCALL in the kernel's process. R14: its area.
pv_stub_from_user:
        cmp qword ptr [rip + pv_stub_begin + {D} + {ENTRY}], 0
        je 5f
        // What the other has written, all at once: each line comes from another CPU.
        prefetcht0 [r14 + {GPR}]
        prefetcht0 [r14 + {GPR} + 64]
        prefetcht0 [r14 + {XSAVE} + 512]
        mov edx, {T_CHILD}
        lock cmpxchg [rip + pv_stub_begin + {D} + {TURN}], edx
        jne 3f
        mov dword ptr [rip + pv_stub_begin + {D} + {CROSSED}], 1
        .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        mov rax, [r14 + {GPR} + 8 * \i]
        mov [rip + pv_stub_begin + {D} + {GPR} + 8 * \i], rax
        .endr
        // A program may have written what no SYSCALL leaves there: an address that is none, a header that XRSTOR refuses.
        mov rax, [r14 + {NEXT_GUEST}]
        lea rcx, [rip + pv_stub_begin]
        cmp rax, rcx
        jb 34f
        xor eax, eax
34:     mov [rip + pv_stub_begin + {D} + {GPR} + 0x08], rax
        mov eax, [r14 + {RFLAGS}]
        and eax, {NATIVE_FLAGS}
        or eax, 0x202
        mov [rip + pv_stub_begin + {D} + {GPR} + 0x58], rax
        and rax, [rip + pv_stub_begin + {D} + {ENTRY_KEEP}]
        or eax, 0x202
        mov [rip + pv_stub_begin + {D} + {RFLAGS}], rax
        mov rax, [rip + pv_stub_begin + {D} + {ENTRY_DELTA}]
        mov [rip + pv_stub_begin + {D} + {FLAGS_DELTA}], rax
        mov rax, [rip + pv_stub_begin + {D} + {ENTRY}]
        mov [rip + pv_stub_begin + {D} + {RIP}], rax
        mov rax, [r14 + {FS_BASE}]
        cmp rax, [rip + pv_stub_begin + {D} + {FS_BASE}]
        je 19f
        mov rcx, rax
        shl rcx, 16
        sar rcx, 16
        cmp rcx, rax
        jne 19f
        mov [rip + pv_stub_begin + {D} + {FS_BASE}], rax
        wrfsbase rax
19:     mov rax, [r14 + {GS_BASE}]
        cmp rax, [rip + pv_stub_begin + {D} + {GS_BASE}]
        je 19f
        mov rcx, rax
        shl rcx, 16
        sar rcx, 16
        cmp rcx, rax
        jne 19f
        mov [rip + pv_stub_begin + {D} + {GS_BASE}], rax
        wrgsbase rax
19:     cmp qword ptr [r14 + {XSAVE} + 520], 0
        je 35f
        mov qword ptr [r14 + {XSAVE} + 520], 0
35:     test qword ptr [r14 + {XSAVE} + 512], -8
        jz 36f
        and qword ptr [r14 + {XSAVE} + 512], 7
36:     test dword ptr [r14 + {XSAVE} + 24], 0xffff0000
        jz 37f
        and dword ptr [r14 + {XSAVE} + 24], 0xffff
37:     mov eax, 7
        xor edx, edx
        xrstor64 [r14 + {XSAVE}]
        ret
