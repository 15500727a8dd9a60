//! Protection keys on both engines: who may do what while rights change, by the manual's rules written down once more here;
//! RDPKRU, WRPKRU, IA32_PKRS, and PKRU in XSAVE's image.
use super::*;
use crate::arch::exception::PageFaultCode;
use crate::arch::{Cr0, Cr4, Exception, Rflags, Vector, Xcr0, msr};
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::*;

/// Where an area for XSAVE lies.
const AREA: u64 = DATA + 0x1_8000;
/// Where PKRU lies in it, and what is beside it.
const PKRU: i32 = 832;
const PKRU_COMPONENT: u32 = 1 << 9;
/// Bytes of an access: the handler of page faults skips it.
const ACCESS: u8 = 7;
/// Pages at [`WINDOW`]: the user's, then the supervisor's, one for each key.
const PAGES: u64 = 32;

fn pair(program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Pair {
    let machine = || FakeMachine::offering_protection_keys(RAM as u64);
    Pair { benches: ENGINES.map(|_| Bench::on(machine(), |a| program(a).unwrap())) }.set_up(|b| {
        b.state.cr4 |= Cr4::OSXSAVE;
        b.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::PKRU;
    })
}

/// One thing that a program does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// By WRPKRU.
    Pkru(u32),
    /// By XRSTOR, of a component that is there or is not.
    Restore(Option<u32>),
    /// By WRMSR.
    Pkrs(u32),
    /// CR4.PKE, CR4.PKS or CR0.WP becomes its opposite.
    Toggle(Bit),
    /// STAC or CLAC.
    Ac(bool),
    /// To or from page `page`.
    Access { page: u64, write: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bit {
    Pke,
    Pks,
    Wp,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
    /// Rights of 16 keys, of which key 0, that of everything else's pages, has all.
    fn rights(&mut self) -> u32 {
        // Half of the keys forbid nothing.
        (0..15).fold(0, |rights, _| rights << 2 | [0, 0, 0, 1, 2, 3][self.below(6) as usize]) << 2
    }
}

/// A program of ring 0 or ring 3 that ends as it began, so that its rounds are alike.
fn steps(seed: u64, ring3: bool, smap: bool) -> Vec<Step> {
    let mut r = Random(seed);
    let mut on = [true, true];
    let mut steps = vec![];
    // What a round relies on is said in it.
    steps.push(Step::Pkru(r.rights()));
    if !ring3 {
        steps.push(Step::Pkrs(r.rights()));
    }
    while steps.len() < 60 {
        let step = match r.below(16) {
            0 if on[0] => Step::Pkru(r.rights()),
            1 => Step::Restore(Some(r.rights())),
            2 => Step::Restore(None),
            3 if !ring3 => Step::Pkrs(r.rights()),
            4 if !ring3 => {
                on[0] = !on[0];
                Step::Toggle(Bit::Pke)
            }
            5 if !ring3 => {
                on[1] = !on[1];
                Step::Toggle(Bit::Pks)
            }
            6 if !ring3 => Step::Toggle(Bit::Wp),
            7 if smap => Step::Ac(r.below(2) == 0),
            _ => Step::Access { page: r.below(PAGES), write: r.below(2) == 0 },
        };
        steps.push(step);
    }
    let toggled =
        |bit| steps.iter().filter(|s| matches!(s, Step::Toggle(one) if *one == bit)).count() % 2 == 1;
    let back: Vec<_> = [Bit::Pke, Bit::Pks, Bit::Wp].into_iter().filter(|bit| toggled(*bit)).collect();
    steps.extend(back.into_iter().map(Step::Toggle));
    steps
}

fn emit(a: &mut CodeAssembler, steps: &[Step], rounds: u32) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(r15d, rounds)?;
    a.mov(r8, WINDOW)?;
    a.mov(rdi, AREA)?;
    a.set_label(&mut again)?;
    for step in steps {
        match *step {
            Step::Pkru(rights) => {
                a.xor(ecx, ecx)?;
                a.xor(edx, edx)?;
                a.mov(eax, rights)?;
                a.wrpkru()?;
            }
            Step::Restore(rights) => {
                a.mov(dword_ptr(rdi + 512), rights.map_or(0, |_| PKRU_COMPONENT))?;
                a.mov(dword_ptr(rdi + PKRU), rights.unwrap_or(0xffff_fffc))?;
                a.mov(eax, PKRU_COMPONENT)?;
                a.xor(edx, edx)?;
                a.xrstor(ptr(rdi))?;
            }
            Step::Pkrs(rights) => {
                a.mov(ecx, msr::PKRS)?;
                a.xor(edx, edx)?;
                a.mov(eax, rights)?;
                a.wrmsr()?;
            }
            Step::Toggle(Bit::Wp) => {
                a.mov(rax, cr0)?;
                a.btc(rax, 16)?;
                a.mov(cr0, rax)?;
            }
            Step::Toggle(bit) => {
                a.mov(rax, cr4)?;
                a.btc(rax, if bit == Bit::Pke { 22 } else { 24 })?;
                a.mov(cr4, rax)?;
            }
            Step::Ac(true) => a.stac()?,
            Step::Ac(false) => a.clac()?,
            Step::Access { page, write } => {
                // mov rbx, [r8+disp32] or its opposite
                let mut bytes = vec![0x49, if write { 0x89 } else { 0x8b }, 0x98];
                bytes.extend((0x1000 * page as u32 + 8 * page as u32).to_le_bytes());
                assert_eq!(bytes.len(), usize::from(ACCESS));
                a.db(&bytes)?;
                a.add(rbx, 3)?;
            }
        }
    }
    a.dec(r15d)?;
    a.jnz(again)?;
    a.hlt()
}

/// What the manual says comes of it: faults, their codes together, what RBX is at the end.
fn expected(steps: &[Step], rounds: u32, state: &CpuState) -> (u64, u64, u64) {
    let ring3 = state.cpl() == 3;
    let (mut enabled, mut wp) = (state.cr4, true);
    let mut ac = state.rflags.contains(Rflags::AC);
    let (mut pkru, mut pkrs) = (0_u32, 0_u32);
    let (mut faults, mut codes, mut value) = (0, 0_u64, 0_u64);
    let mut memory = [0_u64; PAGES as usize];
    for step in (0..rounds).flat_map(|_| steps) {
        match *step {
            Step::Pkru(rights) => pkru = rights,
            Step::Restore(rights) => pkru = rights.unwrap_or(0),
            Step::Pkrs(rights) => pkrs = rights,
            Step::Toggle(Bit::Wp) => wp = !wp,
            Step::Toggle(bit) => enabled.toggle(if bit == Bit::Pke { Cr4::PKE } else { Cr4::PKS }),
            Step::Ac(on) => ac = on,
            Step::Access { page, write } => {
                let (user, key) = (page < 16, page % 16);
                let (on, rights) = if user {
                    (enabled.contains(Cr4::PKE), pkru)
                } else {
                    (enabled.contains(Cr4::PKS), pkrs)
                };
                let (no_access, no_writing) =
                    (rights >> (2 * key) & 1 != 0, rights >> (2 * key + 1) & 1 != 0);
                let by_key = on && (no_access || write && no_writing && (wp || ring3));
                let by_table = ring3 && !user || !ring3 && user && enabled.contains(Cr4::SMAP) && !ac;
                if by_key || by_table {
                    let mut code = PageFaultCode::PRESENT;
                    code.set(PageFaultCode::WRITE, write);
                    code.set(PageFaultCode::USER, ring3);
                    code.set(PageFaultCode::KEY, by_key);
                    faults += 1;
                    codes = codes.wrapping_mul(31).wrapping_add(code.bits().into());
                } else if write {
                    memory[page as usize] = value;
                } else {
                    value = memory[page as usize];
                }
                value = value.wrapping_add(3);
            }
        }
    }
    (faults, codes, value)
}

/// Turns SMAP on, with all pages the supervisor's but those at [`WINDOW`].
fn prevent_supervisor(b: &mut Bench) {
    b.state.cr4 |= Cr4::SMAP;
    for i in 0..512 {
        b.poke(FakeMachine::TABLES.0 + 0x2000 + 8 * i, i << 21 | 0x83);
    }
}

/// Runs a program on both engines, and compares them with each other and with the manual.
fn agree(seed: u64, ring3: bool, smap: bool) {
    const ROUNDS: u32 = 6;
    let steps = steps(seed, ring3, smap);
    let pair = pair(|a| emit(a, &steps, ROUNDS)).set_up(|b| {
        for page in 0..PAGES {
            let user = if page < 16 { 4 } else { 0 };
            // Some are global, which only says that they outlive writes of CR3.
            let global = (page & 1) << 8;
            b.map(page, (DATA + 0x1_a000 + 0x1000 * page) | 3 | user | global | (page % 16) << 59);
        }
        b.assemble(HANDLERS + 16 * 14, |a| a.jmp(CODE + 0xf000).unwrap());
        b.assemble(CODE + 0xf000, |a| {
            let mut body = || -> Result<(), IcedError> {
                a.inc(r11)?;
                a.imul_3(r10, r10, 31)?;
                a.add(r10, qword_ptr(rsp))?;
                a.add(rsp, 8)?;
                a.add(qword_ptr(rsp), i32::from(ACCESS))?;
                a.iretq()
            };
            body().unwrap();
        });
        b.state.cr4 |= Cr4::PKE | Cr4::PKS | Cr4::PGE;
        b.state.gpr = [0; 16];
        b.state.gpr[4] = STACK;
        if ring3 {
            b.enter_ring3();
        }
        if smap {
            prevent_supervisor(b);
        }
    });
    let (faults, codes, value) = expected(&steps, ROUNDS, &pair.benches[0].state);
    // At ring 3 HLT is #GP, whose handler halts.
    let b = pair.run();
    assert_eq!(
        (b.state.gpr[11], b.state.gpr[10], b.state.gpr[3]),
        (faults, codes, value),
        "seed {seed}: {steps:?}"
    );
}

#[test]
fn rights_hold_from_the_moment_they_change() {
    for seed in 0..60 {
        agree(seed, false, false);
        agree(seed, false, true);
        agree(seed, true, false);
    }
}

#[test]
fn a_loop_that_is_hot_sees_rights_that_another_space_was_given() {
    // Two address spaces by PCID; rights change in the one, and hold in the other, too. With SMAP and RFLAGS.AC what is known
    // of a space outlives a switch to another.
    let b = pair(|a| {
        let (mut again, mut fault) = (a.create_label(), a.create_label());
        a.mov(r15d, 100)?;
        a.mov(r8, WINDOW)?;
        a.set_label(&mut again)?;
        a.mov(cr3, r13)?;
        a.mov(dword_ptr(r8 + 8), 7)?;
        a.mov(cr3, r14)?;
        a.mov(dword_ptr(r8 + 8), 8)?;
        a.dec(r15d)?;
        a.jnz(again)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 0b10 << 6)?;
        a.wrpkru()?;
        a.mov(cr3, r13)?;
        a.mov(eax, dword_ptr(r8 + 8))?;
        a.set_label(&mut fault)?;
        a.mov(dword_ptr(r8 + 8), 9)?;
        a.hlt()
    })
    .set_up(|b| {
        b.map(0, DATA | 7 | 3 << 59);
        prevent_supervisor(b);
        b.state.rflags |= Rflags::AC;
        b.state.cr4 |= Cr4::PKE | Cr4::PCIDE;
        let keep = 1 << 63;
        (b.state.gpr[13], b.state.gpr[14]) = (b.state.cr3 | 1 | keep, b.state.cr3 | 2 | keep);
        b.state.cr3 |= 1;
    })
    .run();
    assert_eq!((b.state.gpr[0], b.state.rip), (8, HANDLERS + 16 * Vector::PageFault as u64 + 1));
    let code = b.peek(b.state.gpr[4]);
    let wanted = PageFaultCode::PRESENT | PageFaultCode::WRITE | PageFaultCode::KEY;
    assert_eq!((code, b.state.cr2), (wanted.bits().into(), WINDOW + 8));
}

/// Runs an instruction of ring 3 or 0 with these registers, and expects this exception, or none.
fn raises(
    program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    set_up: impl Fn(&mut Bench),
    expected: Option<Vector>,
) {
    let at = |vector: Vector| HANDLERS + 16 * vector as u64 + 1;
    let b = pair(|a| {
        program(a)?;
        a.hlt()
    })
    .set_up(set_up)
    .run();
    match expected {
        Some(vector) => assert_eq!(b.state.rip, at(vector)),
        None => assert!(b.state.rip < HANDLERS || b.state.rip >= CODE, "{:#x}", b.state.rip),
    }
}

#[test]
fn rdpkru_and_wrpkru_fault_as_the_manual_says() {
    let registers = |low: u64, count: u64, high: u64, pke: bool| {
        move |b: &mut Bench| {
            (b.state.gpr[0], b.state.gpr[1], b.state.gpr[2]) = (low, count, high);
            b.state.cr4.set(Cr4::PKE, pke);
        }
    };
    let (ud, gp) = (Some(Vector::InvalidOpcode), Some(Vector::GeneralProtection));
    // The upper halves of registers are ignored.
    let high = 1 << 32;
    for (count, data, pke, read, write) in [
        (0, 0, true, None, None),
        (0, 5, true, None, gp),
        (1, 0, true, gp, gp),
        (high, high, true, None, None),
        (0, 0, false, ud, ud),
        (1, 5, false, ud, ud),
    ] {
        raises(|a| a.rdpkru(), registers(0, count, data, pke), read);
        raises(|a| a.wrpkru(), registers(0, count, data, pke), write);
    }
    // With LOCK they are undefined.
    raises(|a| a.db(&[0xf0, 0x0f, 0x01, 0xee]), registers(0, 0, 0, true), ud);
    raises(|a| a.db(&[0xf0, 0x0f, 0x01, 0xef]), registers(0, 0, 0, true), ud);

    // Ring 3 may both; what was written is read, with the upper halves cleared.
    let b = pair(|a| {
        a.wrpkru()?;
        a.mov(rax, -1_i64)?;
        a.mov(rdx, -1_i64)?;
        a.rdpkru()?;
        a.mov(rbx, rax)?;
        a.hlt()
    })
    .set_up(|b| {
        registers(0xffff_ffff_5555_5554, 0, 0, true)(b);
        b.enter_ring3();
    })
    .run();
    assert_eq!((b.state.gpr[3], b.state.gpr[2], b.state.pkru), (0x5555_5554, 0, 0x5555_5554));
    assert_eq!(b.state.rip, HANDLERS + 16 * Vector::GeneralProtection as u64 + 1, "HLT of ring 3");
}

#[test]
fn ia32_pkrs_has_32_bits_and_belongs_to_ring_0() {
    let write = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(ecx, msr::PKRS)?;
        a.wrmsr()?;
        a.xor(eax, eax)?;
        a.rdmsr()
    };
    let gp = Some(Vector::GeneralProtection);
    raises(write, |b| b.state.gpr[2] = 1, gp);
    raises(write, Bench::enter_ring3, gp);
    for pks in [false, true] {
        let b = pair(|a| {
            write(a)?;
            a.hlt()
        })
        .set_up(|b| {
            (b.state.gpr[0], b.state.gpr[2]) = (0xffff_fffc, 0);
            b.state.cr4.set(Cr4::PKS, pks);
        })
        .run();
        assert_eq!((b.state.gpr[0], b.state.gpr[2], b.state.msrs.pkrs), (0xffff_fffc, 0, 0xffff_fffc));
    }
}

#[test]
fn who_is_not_offered_keys_has_none() {
    let write = |bit: u32| {
        move |a: &mut CodeAssembler| {
            let mut body = || -> Result<(), IcedError> {
                a.mov(rax, cr4)?;
                a.bts(rax, bit)?;
                a.mov(cr4, rax)?;
                a.hlt()
            };
            body().unwrap();
        }
    };
    let gp = HANDLERS + 16 * Vector::GeneralProtection as u64 + 1;
    assert_eq!(Pair::new(write(22)).run().state.rip, gp);
    assert_eq!(Pair::new(write(24)).run().state.rip, gp);
    let program = |bytes: &'static [u8]| move |a: &mut CodeAssembler| a.db(bytes).unwrap();
    let zero = |b: &mut Bench| (b.state.gpr[1], b.state.gpr[2]) = (0, 0);
    for bytes in [&[0x0f, 0x01, 0xee][..], &[0x0f, 0x01, 0xef]] {
        let b = Pair::new(program(bytes)).set_up(zero).run();
        assert_eq!(b.state.rip, HANDLERS + 16 * Vector::InvalidOpcode as u64 + 1);
    }
    // XSETBV with the bit of PKRU.
    let b = Pair::new(|a| a.xsetbv().unwrap())
        .set_up(|b| {
            b.state.cr4 |= Cr4::OSXSAVE;
            (b.state.gpr[0], b.state.gpr[1], b.state.gpr[2]) = (0x201, 0, 0);
        })
        .run();
    assert_eq!(b.state.rip, gp);
}

#[test]
fn xsave_keeps_pkru_behind_the_other_components() {
    // XSAVE and XSAVEOPT of everything, with PKRU in use and not; the header's bit, and the bytes beside it.
    for (pkru, optimised) in [(0, false), (0, true), (0x1234_5678, false), (0x1234_5678, true)] {
        let b = pair(|a| {
            a.mov(eax, -1)?;
            a.mov(edx, -1)?;
            if optimised {
                a.xsaveopt(ptr(rdi))?
            } else {
                a.xsave(ptr(rdi))?
            }
            a.hlt()
        })
        .set_up(|b| {
            b.state.pkru = pkru;
            b.state.gpr[7] = AREA;
            for at in [AREA + 832, AREA + 840] {
                b.poke(at, u64::MAX);
            }
            b.poke(AREA + 512, 0);
        })
        .run();
        let used = pkru != 0;
        assert_eq!(b.peek(AREA + 512) >> 9 & 1, u64::from(used));
        let written = if used || !optimised { pkru.into() } else { u64::MAX };
        assert_eq!((b.peek(AREA + 832), b.peek(AREA + 840)), (written, u64::MAX));
    }
    // Not asked for, or not enabled: neither written nor read.
    for (mask, enabled) in [(7, true), (-1, false)] {
        let b = pair(|a| {
            a.mov(eax, mask)?;
            a.mov(edx, mask)?;
            a.xsave(ptr(rdi))?;
            a.mov(eax, mask)?;
            a.mov(edx, mask)?;
            a.xrstor(ptr(rdi))?;
            a.hlt()
        })
        .set_up(|b| {
            b.state.pkru = 0x77;
            b.state.xcr0.set(Xcr0::PKRU, enabled);
            b.state.gpr[7] = AREA;
            b.poke(AREA + 832, u64::MAX);
        })
        .run();
        assert_eq!((b.peek(AREA + 512) >> 9 & 1, b.peek(AREA + 832), b.state.pkru), (0, u64::MAX, 0x77));
    }
}

#[test]
fn xrstor_faults_before_it_changes_pkru() {
    // The component lies in a page that is not there; one that is not enabled is in the header.
    let restore = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(eax, -1)?;
        a.mov(edx, -1)?;
        a.xrstor(ptr(rdi))?;
        a.hlt()
    };
    let set_up = |present: u64| {
        move |b: &mut Bench| {
            // The first 832 bytes in one page, PKRU in the next.
            b.map(0, DATA | 7);
            b.state.gpr[7] = WINDOW + 0x1000 - 832;
            b.poke(DATA + 0x1000 - 832 + 512, present);
            b.state.pkru = 0x10;
        }
    };
    let b = pair(restore).set_up(set_up(1 << 9)).run();
    let fault = HANDLERS + 16 * Vector::PageFault as u64 + 1;
    assert_eq!((b.state.rip, b.state.cr2, b.state.pkru), (fault, WINDOW + 0x1000, 0x10));
    let b = pair(restore).set_up(set_up(0)).run();
    assert_eq!(b.state.pkru, 0, "a component that is not there becomes what it is first");
    let b = pair(restore)
        .set_up(|b| {
            set_up(1 << 9)(b);
            b.state.xcr0 -= Xcr0::PKRU;
        })
        .run();
    assert_eq!(b.state.rip, HANDLERS + 16 * Exception::GP0.vector as u64 + 1);
    assert_eq!(b.state.pkru, 0x10);
}

#[test]
fn cpuid_and_xcr0_tell_of_keys_that_are_enabled() {
    let b = pair(|a| {
        let mut again = a.create_label();
        a.mov(esi, 8)?;
        a.set_label(&mut again)?;
        // XCR0 with PKRU and without, in turn: EBX of leaf 0DH.
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, esi)?;
        a.and(eax, 1)?;
        a.shl(eax, 9)?;
        a.or(eax, 7)?;
        a.xsetbv()?;
        a.xgetbv()?;
        a.mov(r12d, eax)?;
        a.mov(eax, 0xd)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.add(r8d, ebx)?;
        a.add(r9d, r12d)?;
        a.mov(r10d, ecx)?;
        // CR4.PKE in turn: ECX of leaf 7.
        a.mov(rax, cr4)?;
        a.btc(rax, 22)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 7)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.shr(ecx, 4)?;
        a.and(ecx, 1)?;
        a.add(r11d, ecx)?;
        a.dec(esi)?;
        a.jnz(again)?;
        a.hlt()
    })
    .run();
    let (sizes, enabled, most, told) = (b.state.gpr[8], b.state.gpr[9], b.state.gpr[10], b.state.gpr[11]);
    let first = CpuState::reset().gpr;
    assert_eq!(sizes - first[8], 4 * 840 + 4 * 832);
    assert_eq!(enabled - first[9], 4 * 0x207 + 4 * 7);
    assert_eq!((most, told - first[11]), (840, 4));
    assert!(!b.state.cr0.contains(Cr0::TS));
}
