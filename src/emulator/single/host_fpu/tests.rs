use super::*;
use crate::arch::cpuid::CpuidTable;
use crate::arch::exception::PageFaultCode;
use crate::arch::{Cr0, Xcr0};
use crate::emulator::front::features::Features;
use crate::sys::host_cpuid;
use iced_x86::{Code, Decoder, DecoderOptions, OpKind, Register};

/// One page of memory at 0x1000; everything else faults.
struct Page([u8; 4096]);

const PAGE: u64 = 0x1000;

impl Page {
    fn range(at: Gva, bytes: usize, code: PageFaultCode) -> Result<std::ops::Range<usize>, Exception> {
        let start = at.0.wrapping_sub(PAGE);
        if start < 4096 && start + bytes as u64 <= 4096 {
            Ok(start as usize..start as usize + bytes)
        } else {
            Err(Exception::page_fault(at, code))
        }
    }
}

impl OperandMemory for Page {
    fn effective(
        &mut self,
        state: &CpuState,
        instruction: &Instruction,
        index: Option<u64>,
        _: usize,
        aligned: u64,
    ) -> Result<Gva, Exception> {
        let operand = (0..instruction.op_count())
            .find(|&i| matches!(instruction.op_kind(i), OpKind::Memory | OpKind::MemorySegRDI))
            .unwrap();
        let at = instruction.virtual_address(operand, 0, |register, _, _| {
            if register.is_gpr() {
                Some(state.gpr[register.number()])
            } else if register.is_vector_register() {
                index
            } else {
                Some(0)
            }
        });
        let distance = if instruction.op_kind(operand) == OpKind::MemorySegRDI { index } else { None };
        let at = at.unwrap().wrapping_add(distance.unwrap_or(0));
        if at & aligned == 0 { Ok(Gva(at)) } else { Err(Exception::GP0) }
    }

    fn read(&mut self, _: &mut CpuState, at: Gva, into: &mut [u8]) -> Result<(), Exception> {
        let range = Self::range(at, into.len(), PageFaultCode::empty())?;
        into.copy_from_slice(&self.0[range]);
        Ok(())
    }

    fn write(&mut self, _: &mut CpuState, at: Gva, from: &[u8]) -> Result<(), Exception> {
        let range = Self::range(at, from.len(), PageFaultCode::WRITE)?;
        self.0[range].copy_from_slice(from);
        Ok(())
    }

    fn probe_write(&mut self, _: &mut CpuState, at: Gva, bytes: usize) -> Result<(), Exception> {
        Self::range(at, bytes, PageFaultCode::WRITE).map(|_| ())
    }
}

fn ready() -> (HostFpu, CpuState, Page) {
    let mut state = CpuState::reset();
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::NE;
    state.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    state.efer = crate::arch::Efer::LMA;
    state.segments[1].attributes |= crate::arch::Segment::LONG;
    (HostFpu::new().unwrap(), state, Page([0; 4096]))
}

fn decode(bytes: &[u8]) -> Instruction {
    let instruction = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    assert_eq!(instruction.len(), bytes.len(), "{:?}", instruction.code());
    instruction
}

fn set_xmm(state: &mut CpuState, number: usize, value: u128) {
    state.xsave.0[XsaveArea::XMM + 16 * number..][..16].copy_from_slice(&value.to_le_bytes());
}

fn xmm(state: &CpuState, number: usize) -> u128 {
    u128::from_le_bytes(state.xsave.ymm(number)[..16].try_into().unwrap())
}

#[test]
fn every_form_that_is_offered_can_be_encoded() {
    let (mut fpu, ..) = ready();
    let features = Features::of(&CpuidTable::from_host(host_cpuid::query));
    let mut forms = 0;
    for code in Code::values() {
        let op_code = code.op_code();
        // A decoder gives FWAIT and the rest as two instructions.
        if !op_code.mode64() || !op_code.is_instruction() || op_code.fwait() {
            continue;
        }
        // Operands of the first kind that the form takes are enough: numbers only change fields. They differ, as a
        // gather's must.
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        for i in 0..op_code.op_count() {
            use iced_x86::OpCodeOperandKind as K;
            let (kind, register) = match op_code.op_kind(i) {
                K::mem | K::mem_offs | K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => {
                    (OpKind::Memory, Register::None)
                }
                K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_or_mem | K::xmm_is4 => {
                    (OpKind::Register, Register::XMM1 + i)
                }
                K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_or_mem | K::ymm_is4 => {
                    (OpKind::Register, Register::YMM1 + i)
                }
                K::mm_reg | K::mm_rm | K::mm_or_mem => (OpKind::Register, Register::MM1 + i),
                K::r32_reg | K::r32_rm | K::r32_or_mem => (OpKind::Register, Register::EBP),
                K::r64_reg | K::r64_rm | K::r64_or_mem => (OpKind::Register, Register::RSP),
                K::st0 => (OpKind::Register, Register::ST0),
                K::sti_opcode => (OpKind::Register, Register::ST1),
                K::ax => (OpKind::Register, Register::AX),
                _ => (OpKind::Immediate8, Register::None),
            };
            instruction.set_op_kind(i, kind);
            if kind == OpKind::Register {
                instruction.set_op_register(i, register);
            } else if kind == OpKind::Memory {
                instruction.set_memory_base(Register::RAX);
                let index = match op_code.op_kind(i) {
                    K::mem_vsib32x | K::mem_vsib64x => Register::XMM9,
                    K::mem_vsib32y | K::mem_vsib64y => Register::YMM9,
                    _ => Register::None,
                };
                instruction.set_memory_index(index);
            }
        }
        if !HostFpu::handles(&instruction) || !features.offers(&instruction) {
            continue;
        }
        let prepared = HostFpu::prepare(&instruction);
        assert_ne!(prepared.work, Work::Undefined, "{code:?}");
        if matches!(prepared.work, Work::Vector | Work::Fpu) {
            assert!(fpu.build(&prepared).is_ok(), "{code:?}");
            forms += 1;
        }
    }
    assert!(forms > 800, "{forms}");
}

#[test]
fn registers_memory_and_general_registers_go_in_and_out() {
    let (mut fpu, mut state, mut page) = ready();
    state.gpr[4] = PAGE;
    page.0[16..32].copy_from_slice(&5_u128.to_le_bytes());
    set_xmm(&mut state, 15, 7);
    state.xsave.0[XsaveArea::YMM_HIGH + 240] = 9;
    // paddq xmm15, [rsp+16]
    let add = decode(&[0x66, 0x44, 0x0f, 0xd4, 0x7c, 0x24, 0x10]);
    fpu.execute(&add, &mut state, &mut page).unwrap();
    assert_eq!(xmm(&state, 15), 12);
    assert_eq!(state.xsave.0[XsaveArea::YMM_HIGH + 240], 9, "legacy SSE keeps the upper half");
    // movq rsp, xmm15
    fpu.execute(&decode(&[0x66, 0x4c, 0x0f, 0x7e, 0xfc]), &mut state, &mut page).unwrap();
    assert_eq!(state.gpr[4], 12);
    // vmovdqa xmm15, xmm15 clears it.
    fpu.execute(&decode(&[0xc4, 0x41, 0x79, 0x6f, 0xff]), &mut state, &mut page).unwrap();
    assert_eq!(state.xsave.0[XsaveArea::YMM_HIGH + 240], 0);
    // ucomisd xmm15, xmm15 with a denormal: equal.
    state.rflags = crate::arch::Rflags::all();
    fpu.execute(&decode(&[0x66, 0x45, 0x0f, 0x2e, 0xff]), &mut state, &mut page).unwrap();
    let status = crate::arch::Rflags::STATUS;
    assert_eq!(state.rflags & status, crate::arch::Rflags::ZF);
    assert_eq!(state.rflags | status, crate::arch::Rflags::all());
    assert_eq!(state.xsave.mxcsr(), 0x1f82, "the denormal was noticed");
}

#[test]
fn control_bits_forbid_what_they_should() {
    let (mut fpu, ready_state, mut page) = ready();
    let sse = decode(&[0x0f, 0x58, 0xc1]);
    let avx = decode(&[0xc5, 0xf4, 0x58, 0xc2]);
    let x87 = decode(&[0xd9, 0xe8]);
    let mmx = decode(&[0x0f, 0xfc, 0xc1]);
    let mut raised = |change: fn(&mut CpuState), instruction: &Instruction| {
        let mut state = ready_state.clone();
        change(&mut state);
        fpu.execute(instruction, &mut state, &mut page).err()
    };
    for all in [&sse, &avx, &x87, &mmx] {
        assert_eq!(raised(|_| {}, all), None);
        assert_eq!(raised(|s| s.cr0 |= Cr0::TS, all), Some(Exception::NM));
    }
    assert_eq!(raised(|s| s.cr0 |= Cr0::EM, &sse), Some(Exception::UD));
    assert_eq!(raised(|s| s.cr0 |= Cr0::EM, &mmx), Some(Exception::UD));
    assert_eq!(raised(|s| s.cr0 |= Cr0::EM, &x87), Some(Exception::NM));
    assert_eq!(raised(|s| s.cr4 -= Cr4::OSFXSR, &sse), Some(Exception::UD));
    assert_eq!(raised(|s| s.cr4 -= Cr4::OSXSAVE, &avx), Some(Exception::UD));
    assert_eq!(raised(|s| s.xcr0 -= Xcr0::AVX, &avx), Some(Exception::UD));
    let pending = |s: &mut CpuState| s.xsave.0[..4].copy_from_slice(&[0x7e, 0x03, 0x81, 0x80]);
    assert_eq!(raised(pending, &x87), Some(Exception::plain(Vector::X87)));
    assert_eq!(raised(pending, &sse), None);
}

#[test]
fn an_unmasked_simd_error_leaves_the_registers() {
    let (mut fpu, mut state, mut page) = ready();
    set_xmm(&mut state, 0, 1);
    state.xsave.set_mxcsr(0x1f80 & !0x80);
    // sqrtss xmm0, xmm1 of -1.
    set_xmm(&mut state, 1, 0xbf80_0000);
    let sqrt = decode(&[0xf3, 0x0f, 0x51, 0xc1]);
    let raised = fpu.execute(&sqrt, &mut state, &mut page);
    assert_eq!(raised, Err(Exception::plain(Vector::Simd)));
    assert_eq!((xmm(&state, 0), state.xsave.mxcsr()), (1, 0x1f01));
    state.cr4 -= Cr4::OSXMMEXCPT;
    assert_eq!(fpu.execute(&sqrt, &mut state, &mut page), Err(Exception::UD));
}

#[test]
fn x87_keeps_its_stack_and_shows_no_host_address() {
    let (mut fpu, mut state, mut page) = ready();
    state.gpr[0] = PAGE;
    state.rip = 0x1234_5678_9abc;
    page.0[..8].copy_from_slice(&2.25_f64.to_le_bytes());
    for bytes in [&[0xdd, 0x00][..], &[0xd9, 0xfa], &[0xdd, 0x58, 0x08]] {
        // fld qword [rax]; fsqrt; fstp qword [rax+8]
        fpu.execute(&decode(bytes), &mut state, &mut page).unwrap();
    }
    assert_eq!(page.0[8..16], 1.5_f64.to_le_bytes());
    assert_eq!(state.xsave.0[4], 0, "empty again");
    assert_eq!(state.xsave.0[8..16], 0x1234_5678_9abc_u64.to_le_bytes());
    // Some CPUs note operands always, others only with an error.
    assert!([0, PAGE + 8].map(u64::to_le_bytes).iter().any(|fdp| state.xsave.0[16..24] == *fdp));
    // A pop whose store faults does not happen.
    state.gpr[0] = 0x10_0000;
    fpu.execute(&decode(&[0xd9, 0xe8]), &mut state, &mut page).unwrap();
    let before = state.clone();
    assert!(fpu.execute(&decode(&[0xdd, 0x18]), &mut state, &mut page).is_err());
    assert_eq!(state, before);
}

#[test]
fn aligned_forms_refuse_other_addresses() {
    let (mut fpu, mut state, mut page) = ready();
    state.gpr[0] = PAGE + 8;
    let run = |fpu: &mut HostFpu, state: &mut CpuState, page: &mut Page, bytes: &[u8]| {
        fpu.execute(&decode(bytes), state, page)
    };
    let aligned = [&[0x0f, 0x28, 0x00][..], &[0x0f, 0x58, 0x00], &[0xc5, 0xf8, 0x28, 0x00]];
    for bytes in aligned {
        assert_eq!(run(&mut fpu, &mut state, &mut page, bytes), Err(Exception::GP0));
    }
    for bytes in [&[0x0f, 0x10, 0x00][..], &[0xc5, 0xf0, 0x58, 0x00]] {
        assert_eq!(run(&mut fpu, &mut state, &mut page, bytes), Ok(()));
    }
}

#[test]
fn a_full_cache_forgets_and_goes_on() {
    let (mut fpu, mut state, mut page) = ready();
    let early = HostFpu::prepare(&decode(&[0x0f, 0xfe, 0xc1]));
    fpu.run(&early, &mut state, &mut page).unwrap();
    let first = early.place.get();
    // pshufd and shufps with every immediate and many registers: more than the memory holds.
    for registers in 0..64_u8 {
        for immediate in 0..=255 {
            for bytes in [
                &[0x66, 0x0f, 0x70, 0xc0 + registers, immediate][..],
                &[0x0f, 0xc6, 0xc0 + registers, immediate],
            ] {
                fpu.execute(&decode(bytes), &mut state, &mut page).unwrap();
            }
        }
    }
    assert!(!fpu.cache.is_valid(first));
    fpu.run(&early, &mut state, &mut page).unwrap();
    assert!(fpu.cache.is_valid(early.place.get()));
}

#[test]
fn what_is_prepared_serves_any_host_fpu() {
    let (mut first, mut state, mut page) = ready();
    let paddd = HostFpu::prepare(&decode(&[0x66, 0x0f, 0xfe, 0xc1]));
    set_xmm(&mut state, 1, 3);
    first.run(&paddd, &mut state, &mut page).unwrap();
    let (mut second, ..) = ready();
    assert!(!second.cache.is_valid(paddd.place.get()));
    drop(first);
    second.run(&paddd, &mut state, &mut page).unwrap();
    assert!(second.cache.is_valid(paddd.place.get()));
    assert_eq!(xmm(&state, 0), 6);
}

/// Prints nanoseconds an instruction: `cargo test --release -- --ignored --nocapture host_fpu::tests::speed`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let (mut fpu, mut state, mut page) = ready();
    state.gpr[0] = PAGE;
    let cases: [(&str, &[u8]); 10] = [
        ("addps xmm0, xmm1", &[0x0f, 0x58, 0xc1]),
        ("paddd xmm0, xmm1", &[0x66, 0x0f, 0xfe, 0xc1]),
        ("movups xmm0, [rax]", &[0x0f, 0x10, 0x00]),
        ("movups [rax], xmm0", &[0x0f, 0x11, 0x00]),
        ("addps xmm0, xmm1", &[0x0f, 0x58, 0xc1]),
        ("cvtsi2sd xmm0, rcx", &[0xf2, 0x48, 0x0f, 0x2a, 0xc1]),
        ("ucomisd xmm0, xmm1", &[0x66, 0x0f, 0x2e, 0xc1]),
        ("vaddps ymm0, ymm1, ymm2", &[0xc5, 0xf4, 0x58, 0xc2]),
        ("fld1", &[0xd9, 0xe8]),
        ("paddb mm0, mm1", &[0x0f, 0xfc, 0xc1]),
    ];
    for (name, bytes) in cases {
        let prepared = HostFpu::prepare(&decode(bytes));
        let start = std::time::Instant::now();
        for _ in 0..1_000_000 {
            fpu.run(&prepared, &mut state, &mut page).unwrap();
        }
        let each = start.elapsed().as_nanos() as f64 / 1e6;
        println!("{name}: {each:.1} ns (MXCSR {:#x})", state.xsave.mxcsr());
    }
}
