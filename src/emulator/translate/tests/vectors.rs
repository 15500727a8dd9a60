//! Vector code that was translated and hot, and then may not run by itself any more: #NM, #UD, #XM, #GP must come, at
//! the right instruction and with nothing changed; and it runs by itself again afterwards.
use super::*;
use crate::arch::state::gpr::{RAX, RSP};
use crate::arch::{Cr4, Vector, Xcr0, XsaveArea};
use iced_x86::code_asm::*;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const FUNCTION: u64 = CODE + 0x800;
/// Aligned numbers: 1.0 to 4.0, then 0.0.
const NUMBERS: u64 = DATA;

/// Calls the function until it is hot, does `change`, calls it once more and halts.
fn hot_then(function: Emit, change: Emit) -> Bench {
    let emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(ecx, 40)?;
        a.set_label(&mut again)?;
        a.call(FUNCTION)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        change(a)?;
        a.call(FUNCTION)?;
        a.hlt()
    };
    Pair::new(|a| emit(a).unwrap())
        .set_up(|b| {
            b.state.cr4 |= Cr4::OSXSAVE;
            b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
            b.state.gpr[7] = NUMBERS;
            for (i, number) in (0..).zip([1.0_f32, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]) {
                b.machine.ram().write(Gpa(NUMBERS + 4 * i), &number.to_le_bytes()).unwrap();
            }
            b.assemble(FUNCTION, |a| {
                a.inc(rax).unwrap();
                a.add(rdx, rax).unwrap();
                function(a).unwrap();
                a.inc(rax).unwrap();
                a.ret().unwrap();
            });
        })
        .run()
}

fn mxcsr(b: &Bench) -> u32 {
    u32::from_le_bytes(b.state.xsave.0[XsaveArea::MXCSR..][..4].try_into().unwrap())
}

/// The function's vector instruction lies behind INC and ADD.
const AT: u64 = FUNCTION + 6;

fn faulted(b: &Bench, vector: Vector) {
    assert_eq!(b.state.rip, HANDLERS + 16 * vector as u64 + 1, "{vector:?}");
    let code = matches!(vector, Vector::GeneralProtection | Vector::PageFault | Vector::AlignmentCheck);
    assert_eq!(b.peek(b.state.gpr[RSP] + if code { 8 } else { 0 }), AT, "RIP at the vector instruction");
    assert_eq!(b.state.gpr[RAX], 81, "what comes after it was not done");
}

const SSE: Emit = |a| a.addps(xmm1, xmmword_ptr(rdi));
const SSE_REGISTER: Emit = |a| a.paddd(xmm1, xmm1);
const AVX: Emit = |a| a.vaddps(ymm1, ymm1, ymm2);

fn or_cr0(a: &mut CodeAssembler, bits: i32) -> Result<(), IcedError> {
    a.mov(r8, cr0)?;
    a.or(r8, bits)?;
    a.mov(cr0, r8)
}

#[test]
fn task_switched_brings_device_not_available() {
    for function in [SSE, SSE_REGISTER, AVX] {
        faulted(&hot_then(function, |a| or_cr0(a, 8)), Vector::DeviceNotAvailable);
        let lmsw: Emit = |a| {
            a.smsw(r8d)?;
            a.or(r8d, 8)?;
            a.lmsw(r8w)
        };
        faulted(&hot_then(function, lmsw), Vector::DeviceNotAvailable);
    }
}

#[test]
fn clts_makes_it_run_again() {
    let b = hot_then(SSE, |a| {
        or_cr0(a, 8)?;
        a.clts()
    });
    assert_eq!(b.state.gpr[RAX], 82);
}

#[test]
fn emulation_brings_invalid_opcode() {
    for function in [SSE, SSE_REGISTER] {
        faulted(&hot_then(function, |a| or_cr0(a, 4)), Vector::InvalidOpcode);
    }
}

#[test]
fn without_the_systems_support_vectors_are_invalid() {
    let without_osfxsr: Emit = |a| {
        a.mov(r8, cr4)?;
        a.and(r8, !0x200)?;
        a.mov(cr4, r8)
    };
    let without_osxsave: Emit = |a| {
        a.mov(r8, cr4)?;
        a.and(r8, !0x4_0000)?;
        a.mov(cr4, r8)
    };
    let without_avx: Emit = |a| {
        a.mov(r9, rdx)?;
        a.mov(r10, rcx)?;
        a.mov(r11, rax)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 3)?;
        a.xsetbv()?;
        a.mov(rax, r11)?;
        a.mov(rcx, r10)?;
        a.mov(rdx, r9)
    };
    faulted(&hot_then(SSE, without_osfxsr), Vector::InvalidOpcode);
    faulted(&hot_then(AVX, without_osxsave), Vector::InvalidOpcode);
    faulted(&hot_then(AVX, without_avx), Vector::InvalidOpcode);
    assert_eq!(hot_then(SSE, without_osxsave).state.gpr[RAX], 82, "SSE does not need it");
}

/// Loads MXCSR with all but division by zero masked.
const UNMASK: Emit = |a| {
    a.push(0x1d80)?;
    a.ldmxcsr(dword_ptr(rsp))?;
    a.pop(r8)
};

#[test]
fn unmasked_errors_are_raised_by_code_that_ran_when_they_were_masked() {
    for function in [
        (|a| a.divps(xmm1, xmmword_ptr(rdi + 16))) as Emit,
        |a| a.divss(xmm1, dword_ptr(rdi + 16)),
        |a| a.vdivps(ymm1, ymm1, ymm7),
    ] {
        // XMM1 is 1.0 and so on first; the error is the division.
        let emit: Emit = |a| {
            a.movaps(xmm1, xmmword_ptr(rdi))?;
            UNMASK(a)
        };
        let b = hot_then(function, emit);
        faulted(&b, Vector::Simd);
        assert_ne!(mxcsr(&b) & 4, 0, "the error is noted");
    }
    // Masked again, it runs.
    let b = hot_then(
        |a| a.divps(xmm1, xmmword_ptr(rdi + 16)),
        |a| {
            UNMASK(a)?;
            a.push(0x1f80)?;
            a.ldmxcsr(dword_ptr(rsp))?;
            a.pop(r8)
        },
    );
    assert_eq!(b.state.gpr[RAX], 82);
}

#[test]
fn errors_of_masked_operations_are_noted_in_mxcsr() {
    let b = hot_then(|a| a.divps(xmm1, xmmword_ptr(rdi + 16)), |a| a.stmxcsr(dword_ptr(rdi + 64)));
    assert_ne!(b.peek(NUMBERS + 64) & 0x3f, 0);
    assert_eq!(mxcsr(&b) & 0x3f, b.peek(NUMBERS + 64) as u32 & 0x3f);
}

#[test]
fn misaligned_operands_of_aligned_moves_fault() {
    let shift: Emit = |a| a.add(rdi, 4);
    faulted(&hot_then(|a| a.movaps(xmm1, xmmword_ptr(rdi)), shift), Vector::GeneralProtection);
    faulted(&hot_then(|a| a.movdqa(xmmword_ptr(rdi), xmm1), shift), Vector::GeneralProtection);
    faulted(&hot_then(|a| a.paddd(xmm1, xmmword_ptr(rdi)), shift), Vector::GeneralProtection);
    faulted(&hot_then(|a| a.vmovaps(ymm1, ymmword_ptr(rdi)), |a| a.add(rdi, 16)), Vector::GeneralProtection);
    assert_eq!(hot_then(|a| a.vpaddd(ymm1, ymm1, ymmword_ptr(rdi)), shift).state.gpr[RAX], 82);
    assert_eq!(hot_then(|a| a.movups(xmm1, xmmword_ptr(rdi)), shift).state.gpr[RAX], 82);
}

#[test]
fn what_vector_code_left_is_saved_and_restored_by_the_guest() {
    // XSAVE after translated code that changed registers since the initial state, then XRSTOR of something else.
    let b = hot_then(
        |a| {
            a.vaddps(ymm1, ymm1, ymmword_ptr(rdi))?;
            a.vpcmpeqd(ymm9, ymm9, ymm9)
        },
        |a| {
            a.mov(r9, rax)?;
            a.mov(r10, rdx)?;
            a.mov(eax, 7)?;
            a.xor(edx, edx)?;
            a.xsave(ptr(rdi + 0x400))?;
            a.vpxor(xmm1, xmm1, xmm1)?;
            a.vpaddd(ymm9, ymm9, ymm9)?;
            a.xsave(ptr(rdi + 0x800))?;
            a.xrstor(ptr(rdi + 0x400))?;
            a.vmovups(ymmword_ptr(rdi + 0x100), ymm1)?;
            a.vmovups(ymmword_ptr(rdi + 0x120), ymm9)?;
            a.fxsave(ptr(rdi + 0xc00))?;
            a.mov(rdx, r10)?;
            a.mov(rax, r9)
        },
    );
    assert_eq!(b.peek(NUMBERS + 0x100) as u32, 40.0_f32.to_bits());
    assert_eq!(b.peek(NUMBERS + 0x120 + 24), u64::MAX);
    assert_eq!(b.peek(NUMBERS + 0x400 + 512) & 6, 6, "SSE and AVX are in use");
}
