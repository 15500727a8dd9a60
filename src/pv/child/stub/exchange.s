// ----- the exchange: report, wait for the turn, do what is asked. Keeps RBX, RBP and R15. RBP: 0, or 1 in a signal handler.
pv_stub_exchange:
        mov eax, {T_ENGINE}
        xchg [rip + pv_stub_begin + {D} + {TURN}], eax
        cmp dword ptr [rip + pv_stub_begin + {D} + {ENGINE_ASLEEP}], 0
        je 2f
        mov dword ptr [rip + pv_stub_begin + {D} + {ENGINE_ASLEEP}], 0
        mov eax, {SYS_FUTEX}
        lea rdi, [rip + pv_stub_begin + {D} + {ENGINE_ASLEEP}]
        mov esi, 1
        mov edx, 1
        syscall
2:      mov ecx, [rip + pv_stub_begin + {D} + {SPINS}]
        jmp 3f
pv_stub_wait_parked:
        mov ecx, [rip + pv_stub_begin + {D} + {PAIR_SPINS}]
3:      mov eax, [rip + pv_stub_begin + {D} + {TURN}]
        cmp eax, {T_CHILD}
        je 6f
        cmp eax, {T_STAND_DOWN}
        je 4f
        cmp eax, {T_PARKED}
        jne 5f
        mov r14, [rip + pv_stub_begin + {D} + {USER_AREA}]
        test r14, r14
        jz 5f
        cmp dword ptr [r14 + {TURN}], {T_KERNEL}
        je pv_stub_from_user
5:      pause
        dec ecx
        jnz 3b
        jmp pv_stub_sleep
        // The other process goes on. A signal handler is left first: its way back leads to the waiting.
4:      test ebp, ebp
        jnz 9f
        mov edx, {T_PARKED}
        lock cmpxchg [rip + pv_stub_begin + {D} + {TURN}], edx
        jne 3b
        call pv_stub_ring
        jmp pv_stub_wait_parked
pv_stub_sleep:
        mov eax, 1
        cmp qword ptr [rip + pv_stub_begin + {D} + {USER_AREA}], 0
        je 30f
        // The kernel's process: at its door.
        mov r14, [rip + pv_stub_begin + {D} + {USER_AREA}]
        // For the engine here, where no user writes, and for the user.
        mov [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], eax
        xchg [r14 + {KERNEL_ASLEEP}], eax
        xor edx, edx
        xchg [r14 + {DOOR}], edx
        cmp r14, [rip + pv_stub_begin + {D} + {USER_AREA}]
        jne 29f
        mov eax, [rip + pv_stub_begin + {D} + {TURN}]
        cmp eax, {T_CHILD}
        je 29f
        cmp eax, {T_STAND_DOWN}
        je 29f
        cmp eax, {T_PARKED}
        jne 28f
        cmp dword ptr [r14 + {TURN}], {T_KERNEL}
        je 29f
28:     mov eax, {SYS_FUTEX}
        lea rdi, [r14 + {DOOR}]
        xor esi, esi
        xor edx, edx
        xor r10d, r10d
        syscall
29:     mov dword ptr [r14 + {KERNEL_ASLEEP}], 0
        mov dword ptr [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], 0
        jmp 33f
        // A user's process: on its turn.
30:     mov r12d, [rip + pv_stub_begin + {D} + {TURN}]
        xchg [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], eax
        mov eax, [rip + pv_stub_begin + {D} + {TURN}]
        cmp eax, r12d
        jne 31f
        cmp eax, {T_CHILD}
        je 31f
        cmp eax, {T_STAND_DOWN}
        je 31f
        mov eax, {SYS_FUTEX}
        lea rdi, [rip + pv_stub_begin + {D} + {TURN}]
        xor esi, esi
        mov edx, r12d
        xor r10d, r10d
        syscall
31:     mov dword ptr [rip + pv_stub_begin + {D} + {CHILD_ASLEEP}], 0
33:     cmp dword ptr [rip + pv_stub_begin + {D} + {TURN}], {T_ENGINE}
        je 2b
        jmp pv_stub_wait_parked
6:      prefetcht0 [rip + pv_stub_begin + {D} + {GPR}]
        prefetcht0 [rip + pv_stub_begin + {D} + {GPR} + 64]
        prefetcht0 [rip + pv_stub_begin + {D} + {XSAVE} + 512]
        test ebp, ebp
        jz 7f
        cmp dword ptr [rip + pv_stub_begin + {D} + {PARK}], 0
        jne 9f
7:      cmp dword ptr [rip + pv_stub_begin + {D} + {REQUEST_COUNT}], 0
        je 8f
        mov r13d, [rip + pv_stub_begin + {D} + {REQUEST_COUNT}]
        xor r14d, r14d
        lea r12, [rip + pv_stub_begin + {D} + {REQUESTS}]
        cmp dword ptr [rip + pv_stub_begin + {D} + {KEYED}], 0
        je pv_stub_request
// ----- region K, to its end: a user's requests, with keys in them, see `keys.rs`. Whoever jumps here with registers of his own
// finds no key; from the read on nothing depends on them, nothing is left when it ends, and it ends in the stub. R14: whether
// keys are there. RBX: the proof.
pv_stub_keyed:
        mov r14d, 1
        mov eax, {SYS_READ}
        mov edi, {KEYS_FD}
        lea rsi, [rip + pv_stub_begin + {D} + {REQUESTS}]
        mov edx, {REQUESTS_SIZE}
        syscall
pv_stub_read:
        mov r13d, eax
        sar r13d, {REQUEST_SHIFT}
        test eax, {REQUEST_SIZE} - 1
        jnz 34f
        test eax, eax
        jle 28f
        // Again: whoever jumps to the call has an R14 of his own.
        mov r14d, 1
        lea r12, [rip + pv_stub_begin + {D} + {REQUESTS}]
        mov rbx, [r12 + rax - 8]
pv_stub_request:
        mov rax, [r12]
        mov rdi, [r12 + 8]
        mov rsi, [r12 + 16]
        mov rdx, [r12 + 24]
        mov r10, [r12 + 32]
        mov r8, [r12 + 40]
        mov r9, [r12 + 48]
        syscall
pv_stub_requested:
        mov [r12 + 56], rax
        test r14d, r14d
        jz 27f
        xor r8d, r8d
        xor r10d, r10d
        cmp rax, -4095
        jb 26f
        // Rights that could not be taken away: the process ends, see the signal handler.
        ud2
        // No whole requests: a kick came while there were none, or the host is in trouble.
34:     cmp eax, -{EINTR}
        je 28f
        ud2
        // Nothing of it stays where the program can read it.
26:     cld
        mov rdi, r12
        mov ecx, {REQUEST_SIZE} / 8
        xor eax, eax
        rep stosq
27:     add r12, {REQUEST_SIZE}
        dec r13d
        jnz pv_stub_request
        test r14d, r14d
        jz 28f
        // Behind a user's requests. What a program can have set up for signals to come is as it was at the start: the way on
        // is a return from a signal, by a frame of constants. x87, SSE and AVX registers stay.
        cld
        xor eax, eax
        lea rdi, [rip + pv_stub_begin + {D} + {XSAVE} + 512]
        mov ecx, 8
        rep stosq
        mov eax, 7
        xor edx, edx
        xsave64 [rip + pv_stub_begin + {D} + {XSAVE}]
        lea rsp, [rip + pv_stub_begin + {D} + {BOOT}]
        xor eax, eax
        mov rdi, rsp
        mov ecx, {FRAME_SIZE} / 8
        rep stosq
        mov qword ptr [rsp], {FRAME_HAS_SS}
        lea rax, [rip + pv_stub_begin + {D} + {SIGNAL_STACK}]
        mov [rsp + 16], rax
        mov qword ptr [rsp + 32], {SIGNAL_STACK_SIZE}
        mov [rsp + {FRAME_RBX}], rbx
        lea rax, [rip + pv_stub_confined_end]
        mov [rsp + {FRAME_RIP}], rax
        mov qword ptr [rsp + {FRAME_RFLAGS}], 0x202
        // RSP is 0: the one place that is on no signal stack, wherever the program has put that.
        mov rax, {FRAME_SEGMENTS}
        mov [rsp + {FRAME_CS}], rax
        push 0x202
        popfq
        mov eax, {SYS_RT_SIGRETURN}
        syscall
        ud2
pv_stub_keyed_end:
28:     mov dword ptr [rip + pv_stub_begin + {D} + {REQUEST_COUNT}], 0
8:      mov ecx, [rip + pv_stub_begin + {D} + {COMMAND}]
        jecxz 9f
        mov dword ptr [rip + pv_stub_begin + {D} + {COMMAND}], 0
        mov r12d, ecx
        mov eax, 7
        xor edx, edx
        test r12d, {C_LOAD_FPU}
        jz 24f
        xrstor64 [rip + pv_stub_begin + {D} + {XSAVE}]
24:     test r12d, {C_SAVE_FPU}
        jz 25f
        xsave64 [rip + pv_stub_begin + {D} + {XSAVE}]
25:     test r12d, {C_LOAD_BASES}
        jz 26f
        mov rax, [rip + pv_stub_begin + {D} + {FS_BASE}]
        wrfsbase rax
        mov rax, [rip + pv_stub_begin + {D} + {GS_BASE}]
        wrgsbase rax
26:     test r12d, {C_REPORT}
        jz 9f
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_DONE}
        jmp pv_stub_exchange
9:      ret
pv_stub_confined_end:
        lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]
        xor ebp, ebp
        mov eax, 7
        xor edx, edx
        xrstor64 [rip + pv_stub_begin + {D} + {XSAVE}]
        mov qword ptr [rip + pv_stub_begin + {D} + {USER_AREA}], 0
        mov dword ptr [rip + pv_stub_begin + {D} + {REQUEST_COUNT}], 0
        mov dword ptr [rip + pv_stub_begin + {D} + {COMMAND}], 0
        mov [rip + pv_stub_begin + {D} + {CONFINED}], rbx
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_DONE}
        call pv_stub_exchange
        jmp pv_stub_go
