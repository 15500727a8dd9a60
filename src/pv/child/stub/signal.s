// ----- behind a signal handler that was left for the other process to go on
pv_stub_park:
        lea rsp, [rip + pv_stub_begin + {D} + {STACK_TOP}]
        cld
        xor ebp, ebp
        mov dword ptr [rip + pv_stub_begin + {D} + {PARK}], 0
        call pv_stub_wait_parked
        jmp pv_stub_go
// ----- signals: RDI number, RSI siginfo, RDX ucontext; all signals are blocked until rt_sigreturn
pv_stub_signal:
        mov rax, [rdx + {FRAME_RIP}]
        lea rcx, [rip + pv_stub_keyed]
        cmp rax, rcx
        jb 39f
        lea rcx, [rip + pv_stub_keyed_end]
        cmp rax, rcx
        jae 39f
        // Region K: no key stays in the frame, and the frame is where it should be. A single step is not taken. A wrong key is
        // reported; whatever else comes where a key is ends the process.
        cmp edi, {KICK_SIGNAL}
        je 36f
        cmp edi, {SIGTRAP}
        je 36f
        cmp edi, {SIGSYS}
        je 39f
        cmp edi, {SIGILL}
        je 37f
        cmp qword ptr [rdx + {FRAME_R14}], 0
        je 39f
        jmp 37f
36:     lea rcx, [rip + pv_stub_begin + {D} + {SIGNAL_STACK}]
        mov r8, rdx
        sub r8, rcx
        cmp r8, {SIGNAL_STACK_SIZE}
        jb 38f
37:     ud2
38:     mov qword ptr [rdx + {FRAME_R8}], 0
        mov qword ptr [rdx + {FRAME_R10}], 0
        and dword ptr [rdx + {FRAME_RFLAGS}], {NOT_TF}
        mov dword ptr [rip + pv_stub_begin + {D} + {KICK}], 1
        // A request that has not been made is begun again.
        lea rcx, [rip + pv_stub_request]
        cmp rax, rcx
        jb 50f
        lea r8, [rip + pv_stub_requested]
        cmp rax, r8
        jae 50f
        mov [rdx + {FRAME_RIP}], rcx
        jmp 50f
39:     cmp edi, {KICK_SIGNAL}
        jne 40f
        lea rcx, [rip + pv_stub_out]
        cmp rax, rcx
        jb 41f
        lea rcx, [rip + pv_stub_out_end]
        cmp rax, rcx
        jae 41f
        lea rcx, [rip + pv_stub_again]
        mov [rdx + {FRAME_RIP}], rcx
        jmp 50f
41:     lea rcx, [rip + pv_stub_begin]
        cmp rax, rcx
        jb 42f
        lea rcx, [rip + pv_stub_end]
        cmp rax, rcx
        jae 42f
        mov dword ptr [rip + pv_stub_begin + {D} + {KICK}], 1
        jmp 50f
42:     cmp qword ptr [rip + pv_stub_begin + {D} + {STOP}], 0
        jne 40f
        sub rax, {ZONE}
        cmp rax, {ZONE_SIZE}
        jb 40f
        test dword ptr [rip + pv_stub_begin + {D} + {FLAGS_DELTA}], 0x200
        jnz 50f
40:     mov [rip + pv_stub_begin + {D} + {SIGNAL}], rdi
        mov [rip + pv_stub_begin + {D} + {SIGNAL_INFO}], rsi
        mov [rip + pv_stub_begin + {D} + {SIGNAL_FRAME}], rdx
        mov rbx, rdx
        mov ebp, 1
        rdfsbase rax
        mov [rip + pv_stub_begin + {D} + {FS_BASE}], rax
        rdgsbase rax
        mov [rip + pv_stub_begin + {D} + {GS_BASE}], rax
        mov dword ptr [rip + pv_stub_begin + {D} + {EVENT}], {E_SIGNAL}
        call pv_stub_exchange
        mov rdx, rbx
        cmp dword ptr [rip + pv_stub_begin + {D} + {PARK}], 0
        je 50f
        lea rax, [rip + pv_stub_park]
        mov [rdx + {FRAME_RIP}], rax
50:     mov rsp, rdx
        // The kernel restores neither ID nor NT from the frame: they stay what they are at the call.
        push qword ptr [rdx + {FRAME_RFLAGS}]
        popfq
pv_stub_restorer:
        mov eax, {SYS_RT_SIGRETURN}
        syscall
        ud2
pv_stub_end:
        .popsection
