//! What /dev/kvm truly is on this host, measured: the word "KVM" alone misleads.
//!
//! A calibration guest of a few instructions turns a loop and executes CPUID, at ring 0 and at ring 3, and reads the TSC
//! around both. The same loop natively gives the ratio. On hardware both rings run at full speed; under a nested
//! hypervisor too, with dearer exits; under an emulated supervisor (`kvm_pvm`) ring 0 runs a thousand times slower.
#![expect(unsafe_code, reason = "the native loop is the guest's own machine code")]
use super::vcpu::KvmVcpu;
use super::vm::KvmBackend;
use super::{flat, host};
use crate::arch::cpuid::CpuidTable;
use crate::arch::state::gpr;
use crate::arch::{CpuState, Gpa, Vector};
use crate::engine::{Backend, EngineError, VcpuId};
use crate::mem::GuestRam;
use crate::sys::{host_cpuid, tsc};
use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, eax, ecx, r8, r9, r10, r11, rax, rdi, rdx};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What stands behind /dev/kvm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvmKind {
    /// The CPU's own virtualization, on a host that is not itself virtual.
    Hardware,
    /// The CPU's virtualization as offered by an outer hypervisor: full speed, dear exits.
    Nested,
    /// Ring 3 natively, ring 0 by an emulator in the host kernel.
    EmulatedSupervisor,
    /// Nothing that can be used.
    None,
}

impl KvmKind {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Nested => "nested",
            Self::EmulatedSupervisor => "emulated supervisor",
            Self::None => "none",
        }
    }
}

impl fmt::Display for KvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The result of a calibration.
#[derive(Clone, PartialEq, Debug)]
pub struct Calibration {
    /// What it is.
    pub label: KvmKind,
    /// Speed of a loop at ring 0 in the guest, as a part of the native speed. 0 if it could not be measured.
    pub ring0_ratio: f64,
    /// The same at ring 3.
    pub ring3_ratio: f64,
    /// Cost of CPUID at ring 3 in the guest, in nanoseconds.
    pub cpuid_nanos: u64,
    /// SYSCALL at ring 3 enters ring 0. Where it does not, each one is mended and counts as a rescue.
    pub syscall_enters: bool,
    /// For [`KvmKind::None`]: why, and what to do.
    pub reason: Option<String>,
    /// The kernel's module, as `kvm_intel`; nothing if KVM is built in.
    pub vendor: Option<&'static str>,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.reason {
            return write!(f, "{}: {reason}", self.label);
        }
        let percent = |ratio: f64| match 100.0 * ratio {
            p if p < 1.0 => format!("{p:.2} %"),
            p => format!("{p:.0} %"),
        };
        write!(
            f,
            "{} ({}): ring 0 at {} of native speed, ring 3 at {}, cpuid {:.1} µs",
            self.label,
            self.vendor.unwrap_or("kvm"),
            percent(self.ring0_ratio),
            percent(self.ring3_ratio),
            self.cpuid_nanos as f64 / 1000.0
        )?;
        if self.syscall_enters { Ok(()) } else { f.write_str(", SYSCALL by rescue") }
    }
}

/// Below this part of the native speed, ring 0 is not executed by the CPU. Hardware gives about 1, an emulator 0.001.
const EMULATED_BELOW: f64 = 0.1;
const CPUIDS: u64 = 16;
/// Turns of the loop: the first try is short because ring 0 may be emulated, the last long enough to be exact.
const FEW_TURNS: u64 = 1_000;
const MANY_TURNS: u64 = 1_000_000;
/// A run of `FEW_TURNS` in fewer ticks than this is followed by one of `MANY_TURNS`.
const QUICK: u64 = 100_000;
/// Of so many runs the best counts: others were disturbed.
const RUNS: usize = 4;

/// Measures what /dev/kvm is here. Takes some ten milliseconds.
#[must_use]
pub fn calibrate() -> Calibration {
    let vendor = ["kvm_intel", "kvm_amd", "kvm_pvm"]
        .into_iter()
        .find(|module| Path::new("/sys/module").join(module).exists());
    let nothing = Calibration {
        label: KvmKind::None,
        ring0_ratio: 0.0,
        ring3_ratio: 0.0,
        cpuid_nanos: 0,
        syscall_enters: true,
        reason: None,
        vendor,
    };
    let measured = measure(false).and_then(|ring0| Ok((ring0, measure(true)?, syscall_enters()?)));
    let (ring0, ring3, syscall_enters) = match measured {
        Ok(all) => all,
        Err(EngineError::Unavailable { reason, .. }) => {
            return Calibration { reason: Some(reason), ..nothing };
        }
        Err(error) => {
            return Calibration { reason: Some(error.to_string()), ..nothing };
        }
    };
    let native = native_ticks_per_turn();
    let ring0_ratio = native / ring0.ticks_per_turn;
    Calibration {
        label: kind(ring0_ratio, is_virtual_host()),
        ring0_ratio,
        ring3_ratio: native / ring3.ticks_per_turn,
        cpuid_nanos: tsc::to_nanos(ring3.ticks_per_cpuid as u64),
        syscall_enters,
        ..nothing
    }
}

/// [`calibrate`], once for each process.
pub(super) fn calibrated() -> &'static Calibration {
    static ONCE: OnceLock<Calibration> = OnceLock::new();
    ONCE.get_or_init(calibrate)
}

fn kind(ring0_ratio: f64, virtual_host: bool) -> KvmKind {
    if ring0_ratio < EMULATED_BELOW {
        KvmKind::EmulatedSupervisor
    } else if virtual_host {
        KvmKind::Nested
    } else {
        KvmKind::Hardware
    }
}

/// Whether the host runs under a hypervisor: CPUID leaf 1, ECX bit 31.
fn is_virtual_host() -> bool {
    host_cpuid::query(1, 0).ecx & 1 << 31 != 0
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    ticks_per_turn: f64,
    ticks_per_cpuid: f64,
}

/// The guest: the loop, RDI turns of it, then CPUIDs; R8, R9 and R11 are the TSC before, between and after.
fn program(user: bool) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let read = |a: &mut CodeAssembler, into| {
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.mov(into, rax)
    };
    read(&mut a, r8)?;
    let mut turn = a.create_label();
    a.set_label(&mut turn)?;
    a.dec(rdi)?;
    a.jnz(turn)?;
    read(&mut a, r9)?;
    a.mov(r10, CPUIDS)?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.xor(eax, eax)?;
    a.xor(ecx, ecx)?;
    a.cpuid()?;
    a.dec(r10)?;
    a.jnz(again)?;
    read(&mut a, r11)?;
    if user {
        a.ud2()?;
    } else {
        a.hlt()?;
    }
    a.assemble(flat::CODE)
}

/// Where ring 3 ends up: its #UD halts at ring 0.
const END: u64 = flat::CODE + 0x1000;
const HLT: u8 = 0xf4;

fn failed(why: String) -> EngineError {
    EngineError::Host { what: "cannot run the calibration guest", source: std::io::Error::other(why) }
}

/// A vCPU for a guest that executes `code` and may halt at the addresses `ends`, to each of which a vector leads.
fn guest(code: &[u8], ends: &[(u8, u64)]) -> Result<KvmVcpu, EngineError> {
    let ram = Arc::new(GuestRam::new(1 << 20).map_err(|e| failed(e.to_string()))?);
    let cpuid = vec![CpuidTable::from_host(host_cpuid::query).of_cpu(0, 1)];
    let backend = KvmBackend::with_parts(Path::new(super::vm::DEVICE), &ram, cpuid, false)?;
    for slot in ram.slots() {
        backend.map_ram(slot)?;
    }
    let mut written = flat::lay_out(&ram).and_then(|()| ram.write(Gpa(flat::CODE), code));
    for &(vector, end) in ends {
        written = written
            .and_then(|()| ram.write(Gpa(end), &[HLT]))
            .and_then(|()| flat::set_gate(&ram, vector, end));
    }
    written.map_err(|e| failed(e.to_string()))?;
    backend.new_vcpu(VcpuId(0))
}

/// Runs a guest until it halts; its state then. Nothing if it ended in a triple fault.
fn run(vcpu: &mut KvmVcpu) -> Result<Option<CpuState>, EngineError> {
    loop {
        match vcpu.fd.run() {
            Ok(kvm_ioctls::VcpuExit::Hlt) => return Ok(Some(vcpu.save_state()?)),
            Ok(kvm_ioctls::VcpuExit::Shutdown) => return Ok(None),
            Ok(other) => return Err(failed(format!("it came out with {other:?}"))),
            // A signal of this program's other business.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(host("cannot run the calibration guest")(error)),
        }
    }
}

fn measure(user: bool) -> Result<Measured, EngineError> {
    let code = program(user).map_err(|e| failed(e.to_string()))?;
    let mut vcpu = guest(&code, &[(Vector::InvalidOpcode as u8, END)])?;
    let mut state = flat::state(flat::CODE, user);
    let mut best = Measured { ticks_per_turn: f64::INFINITY, ticks_per_cpuid: f64::INFINITY };
    let mut turns = FEW_TURNS;
    for _ in 0..RUNS {
        state.gpr[gpr::RDI] = turns;
        vcpu.load_state(&state)?;
        let end = run(&mut vcpu)?.ok_or_else(|| failed("it ended in a triple fault".to_owned()))?.gpr;
        let ticks = end[9].wrapping_sub(end[8]).max(1);
        best.ticks_per_turn = best.ticks_per_turn.min(ticks as f64 / turns as f64);
        let cpuids = end[11].wrapping_sub(end[9]).max(1);
        best.ticks_per_cpuid = best.ticks_per_cpuid.min(cpuids as f64 / CPUIDS as f64);
        if ticks < QUICK {
            turns = MANY_TURNS;
        }
    }
    Ok(best)
}

/// Whether ring 0 is where SYSCALL at ring 3 leads: HLT at its entry works there, and is #GP at ring 3.
fn syscall_enters() -> Result<bool, EngineError> {
    const ENTRY: u64 = END + 0x100;
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    // Vector 0 is never raised: the gate is there so that the HLT is.
    let mut vcpu = guest(&SYSCALL, &[(Vector::GeneralProtection as u8, END), (0, ENTRY)])?;
    let mut state = flat::state(flat::CODE, true);
    state.msrs.star = flat::STAR;
    state.msrs.lstar = ENTRY;
    vcpu.load_state(&state)?;
    // Whoever does neither is in no need of this help.
    Ok(run(&mut vcpu)?.is_none_or(|end| end.rip != END + 1))
}

/// The guest's loop, here.
fn native_ticks_per_turn() -> f64 {
    (0..RUNS)
        .map(|_| {
            let start = tsc::read();
            // SAFETY: counts a register down; touches no memory and no stack.
            unsafe {
                core::arch::asm!("2: dec {0}", "jnz 2b", inout(reg) MANY_TURNS => _, options(nomem, nostack));
            }
            tsc::read().wrapping_sub(start).max(1) as f64 / MANY_TURNS as f64
        })
        .fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_follows_from_the_measurement() {
        assert_eq!(kind(0.98, false), KvmKind::Hardware);
        assert_eq!(kind(0.98, true), KvmKind::Nested);
        assert_eq!(kind(0.0005, true), KvmKind::EmulatedSupervisor);
    }

    #[test]
    fn this_host_gets_figures_or_a_reason() {
        let calibration = calibrate();
        println!("{calibration}");
        match calibration.label {
            KvmKind::None => assert!(calibration.reason.is_some()),
            _ => {
                assert!(calibration.ring0_ratio > 0.0 && calibration.ring3_ratio > 0.0);
                assert!(calibration.cpuid_nanos > 0);
                assert_eq!(calibration.reason, None);
            }
        }
        if calibration.vendor == Some("kvm_pvm") && calibration.reason.is_none() {
            assert_eq!(calibration.label, KvmKind::EmulatedSupervisor);
            assert!(calibration.ring3_ratio > calibration.ring0_ratio);
        }
    }
}
