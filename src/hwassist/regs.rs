//! [`CpuState`] to KVM's registers and back, whole.
//!
//! Order of a load: special registers first (they set the mode that the others are checked against), events last
//! (KVM_SET_REGS drops a pending exception). XSAVE areas are kept in a normal form — all three components present, the
//! software-reserved bytes zero — so that equal states compare equal.
#![expect(unsafe_code, reason = "KVM_SET_XSAVE reads a fixed 4 KiB area")]
use super::tsc::TscOffset;
use super::{host, msr};
use crate::arch::exception::{Exception, Vector};
use crate::arch::state::gpr;
use crate::arch::{
    Activity, CpuState, Cr0, Cr4, DescriptorTable, Efer, Gva, Rflags, Segment, Xcr0, XsaveArea,
};
use crate::engine::EngineError;
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_debugregs, kvm_dtable, kvm_regs,
    kvm_segment, kvm_sregs, kvm_sync_regs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

/// Bits of `kvm_vcpu_events.interrupt.shadow` (Linux `asm/kvm.h`).
const SHADOW_MOV_SS: u8 = 1;
const SHADOW_STI: u8 = 2;
/// Software-reserved bytes of an FXSAVE image: KVM notes its features there, no instruction does.
const SOFTWARE_RESERVED: std::ops::Range<usize> = 464..512;
/// x87 state except for MXCSR and its mask.
const X87_HEAD: std::ops::Range<usize> = 0..24;
const X87_REGISTERS: std::ops::Range<usize> = 32..160;

pub(super) fn segment_to_kvm(segment: &Segment) -> kvm_segment {
    let bit = |at: u16| (segment.attributes >> at & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind(),
        present: bit(7),
        dpl: segment.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: u8::from(!segment.is_present()),
        padding: 0,
    }
}

fn segment_from_kvm(from: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u16::from(value & 1) << at;
    let present = from.present & u8::from(from.unusable == 0);
    Segment {
        selector: from.selector,
        base: from.base,
        limit: from.limit,
        attributes: u16::from(from.type_ & 15)
            | bit(from.s, 4)
            | u16::from(from.dpl & 3) << 5
            | bit(present, 7)
            | bit(from.avl, 12)
            | bit(from.l, 13)
            | bit(from.db, 14)
            | bit(from.g, 15),
    }
}

fn table_to_kvm(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..kvm_dtable::default() }
}

fn table_from_kvm(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

fn regs_to_kvm(state: &CpuState) -> kvm_regs {
    let g = &state.gpr;
    kvm_regs {
        rax: g[gpr::RAX],
        rcx: g[gpr::RCX],
        rdx: g[gpr::RDX],
        rbx: g[gpr::RBX],
        rsp: g[gpr::RSP],
        rbp: g[gpr::RBP],
        rsi: g[gpr::RSI],
        rdi: g[gpr::RDI],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[gpr::R11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip,
        rflags: state.rflags.bits(),
    }
}

fn gpr_from_kvm(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ]
}

fn sregs_to_kvm(state: &CpuState, apic_base: u64, cr8: u64) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = &state.segments;
    let cr2 = state.pending_exception.and_then(|e| e.cr2).map_or(state.cr2, |a| a.0);
    kvm_sregs {
        cs: segment_to_kvm(cs),
        ds: segment_to_kvm(ds),
        es: segment_to_kvm(es),
        fs: segment_to_kvm(fs),
        gs: segment_to_kvm(gs),
        ss: segment_to_kvm(ss),
        tr: segment_to_kvm(&state.tr),
        ldt: segment_to_kvm(&state.ldtr),
        gdt: table_to_kvm(state.gdtr),
        idt: table_to_kvm(state.idtr),
        cr0: state.cr0.bits(),
        cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        cr8,
        efer: state.efer.bits(),
        apic_base,
        interrupt_bitmap: [0; 4],
    }
}

/// Vector number to [`Vector`], for those that KVM can have in flight.
fn vector(number: u8) -> Option<Vector> {
    use Vector::{
        AlignmentCheck, BoundRange, Breakpoint, Debug, DeviceNotAvailable, DivideError, DoubleFault,
        GeneralProtection, InvalidOpcode, InvalidTss, MachineCheck, Nmi, Overflow, PageFault,
        SegmentNotPresent, Simd, StackFault, X87,
    };
    [
        DivideError,
        Debug,
        Nmi,
        Breakpoint,
        Overflow,
        BoundRange,
        InvalidOpcode,
        DeviceNotAvailable,
        DoubleFault,
        InvalidTss,
        SegmentNotPresent,
        StackFault,
        GeneralProtection,
        PageFault,
        X87,
        AlignmentCheck,
        MachineCheck,
        Simd,
    ]
    .into_iter()
    .find(|&v| v as u8 == number)
}

fn events_to_kvm(state: &CpuState) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
        ..kvm_vcpu_events::default()
    };
    if let Some(exception) = state.pending_exception {
        events.exception.injected = 1;
        events.exception.nr = exception.vector as u8;
        events.exception.has_error_code = exception.error_code.is_some().into();
        events.exception.error_code = exception.error_code.unwrap_or(0);
    }
    if state.interrupt_shadow {
        // VMX refuses an STI shadow while interrupts are off (SDM vol. 3C, 27.3.1.5); that of MOV SS acts alike.
        events.interrupt.shadow = if state.rflags.contains(Rflags::IF) { SHADOW_STI } else { SHADOW_MOV_SS };
    }
    events.nmi.masked = state.nmi_blocked.into();
    events
}

fn exception_from_kvm(events: &kvm_vcpu_events, cr2: u64) -> Option<Exception> {
    let from = &events.exception;
    if from.injected == 0 && from.pending == 0 {
        return None;
    }
    let vector = vector(from.nr)?;
    Some(Exception {
        vector,
        error_code: (from.has_error_code != 0).then_some(from.error_code),
        cr2: (vector == Vector::PageFault).then_some(Gva(cr2)),
    })
}

fn xsave_to_kvm(area: &XsaveArea) -> kvm_xsave {
    let mut to = kvm_xsave::default();
    for (word, bytes) in to.region.iter_mut().zip(area.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    to
}

fn xsave_from_kvm(from: &kvm_xsave) -> XsaveArea {
    let initial = XsaveArea::default();
    let mut area = XsaveArea([0; XsaveArea::SIZE]);
    for (bytes, word) in area.0.chunks_exact_mut(4).zip(from.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let present = area.0[XsaveArea::XSTATE_BV];
    let mut reset = |range: std::ops::Range<usize>| area.0[range.clone()].copy_from_slice(&initial.0[range]);
    if present & Xcr0::X87.bits() as u8 == 0 {
        reset(X87_HEAD);
        reset(X87_REGISTERS);
    }
    if present & Xcr0::SSE.bits() as u8 == 0 {
        reset(XsaveArea::XMM..XsaveArea::XMM + 256);
    }
    if present & Xcr0::AVX.bits() as u8 == 0 {
        reset(XsaveArea::YMM_HIGH..XsaveArea::SIZE);
    }
    reset(SOFTWARE_RESERVED);
    reset(XsaveArea::XSTATE_BV..XsaveArea::YMM_HIGH);
    area
}

/// What is read of a state beside general, special and debug registers and events; the rest is as after reset then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    /// XCR0, and the x87 and vector registers.
    pub(super) vectors: bool,
    /// The MSRs that are held here, and the TSC's adjustment.
    pub(super) msrs: bool,
}

impl Parts {
    /// The whole state.
    pub(super) const ALL: Self = Self { vectors: true, msrs: true };
}

/// General and special registers and events by a call for each.
pub(super) fn core(vcpu: &VcpuFd) -> Result<kvm_sync_regs, EngineError> {
    let what = host("cannot read the registers of a vCPU");
    Ok(kvm_sync_regs {
        regs: vcpu.get_regs().map_err(&what)?,
        sregs: vcpu.get_sregs().map_err(&what)?,
        events: vcpu.get_vcpu_events().map_err(&what)?,
    })
}

/// Reads the state, or `parts` of it; `core` is what has been read already. No access of the last exit may be
/// unfinished.
pub(super) fn save(
    vcpu: &VcpuFd,
    tsc: &TscOffset,
    activity: Activity,
    core: &kvm_sync_regs,
    parts: Parts,
) -> Result<CpuState, EngineError> {
    let what = host("cannot read the registers of a vCPU");
    let kvm_sync_regs { regs, sregs, events } = core;
    let debug = vcpu.get_debug_regs().map_err(&what)?;
    let (mut xcr0, mut xsave) = (Xcr0::X87, XsaveArea::default());
    if parts.vectors {
        let xcrs = vcpu.get_xcrs().map_err(&what)?;
        xcr0 = xcrs.xcrs[..(xcrs.nr_xcrs as usize).min(xcrs.xcrs.len())]
            .iter()
            .find(|x| x.xcr == 0)
            .map_or(Xcr0::default(), |x| Xcr0::from_bits_retain(x.value));
        xsave = xsave_from_kvm(&vcpu.get_xsave().map_err(&what)?);
    }
    let mut msrs = crate::arch::msr::Msrs::default();
    if parts.msrs {
        msr::save(vcpu, &mut msrs)?;
        msrs.tsc_adjust = tsc.adjust(vcpu)?;
    }
    let mut dr = [0; 8];
    dr[..4].copy_from_slice(&debug.db);
    dr[6] = debug.dr6;
    dr[7] = debug.dr7;
    Ok(CpuState {
        gpr: gpr_from_kvm(regs),
        rip: regs.rip,
        rflags: Rflags::from_bits_retain(regs.rflags),
        segments: [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(segment_from_kvm),
        ldtr: segment_from_kvm(&sregs.ldt),
        tr: segment_from_kvm(&sregs.tr),
        gdtr: table_from_kvm(&sregs.gdt),
        idtr: table_from_kvm(&sregs.idt),
        cr0: Cr0::from_bits_retain(sregs.cr0),
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: Cr4::from_bits_retain(sregs.cr4),
        efer: Efer::from_bits_retain(sregs.efer),
        xcr0,
        dr,
        msrs,
        xsave,
        // Its guests are not offered protection keys.
        pkru: 0,
        activity,
        interrupt_shadow: events.interrupt.shadow != 0,
        nmi_blocked: events.nmi.masked != 0,
        pending_exception: exception_from_kvm(events, sregs.cr2),
    })
}

/// Replaces the state: all of it, or what differs from `before`, as KVM has it now. `cr8` is the platform's.
pub(super) fn load(
    vcpu: &VcpuFd,
    tsc: &mut TscOffset,
    state: &CpuState,
    before: Option<&CpuState>,
    (apic_base, cr8): (u64, u8),
) -> Result<(), EngineError> {
    let what = host("KVM refuses the state of a vCPU");
    let special = sregs_to_kvm(state, apic_base, cr8.into());
    if before.is_none_or(|b| sregs_to_kvm(b, apic_base, cr8.into()) != special) {
        vcpu.set_sregs(&special).map_err(&what)?;
    }
    if before.is_none_or(|b| b.xcr0 != state.xcr0) {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        xcrs.xcrs[0].value = state.xcr0.bits();
        vcpu.set_xcrs(&xcrs).map_err(&what)?;
    }
    if before.is_none_or(|b| b.xsave != state.xsave) {
        // SAFETY: `kvm_xsave` is the 4096 bytes that KVM reads as long as no feature was enabled by arch_prctl(2), and
        // nothing in this program does that.
        unsafe { vcpu.set_xsave(&xsave_to_kvm(&state.xsave)) }.map_err(&what)?;
    }
    if before.is_none_or(|b| b.msrs != state.msrs) {
        msr::load(vcpu, state)?;
        tsc.set_adjust(vcpu, state.msrs.tsc_adjust)?;
    }
    if before.is_none_or(|b| b.dr != state.dr) {
        let [a, b, c, d, _, _, dr6, dr7] = state.dr;
        let debug = kvm_debugregs { db: [a, b, c, d], dr6, dr7, ..kvm_debugregs::default() };
        vcpu.set_debug_regs(&debug).map_err(&what)?;
    }
    let general = regs_to_kvm(state);
    if before.is_none_or(|b| regs_to_kvm(b) != general) {
        vcpu.set_regs(&general).map_err(&what)?;
    }
    let events = events_to_kvm(state);
    if before.is_none_or(|b| b.pending_exception.is_some() || events_to_kvm(b) != events) {
        vcpu.set_vcpu_events(&events).map_err(&what)?;
    }
    Ok(())
}
