//! What a guest sees of trivisor: ports, console lines and hypercall numbers.
//!
//! This file has no imports and needs no allocator, because the guests under `workloads/` include it too
//! (`#[path]`): the protocol is written once. Everything here also makes sense, or is harmless, in a machine that is
//! not trivisor, so that the same guest image measures QEMU.

/// First bytes of every console line that is meant for the benchmark harness rather than for a person.
pub const LINE_PREFIX: &str = "@trivisor ";

/// Console record of one measurement:
/// `@trivisor result workload=W metric=M ring=R iterations=N cycles=C checksum=H`.
///
/// `iterations` and `cycles` (TSC ticks) are decimal totals of the timed region; `checksum` is 16 hex digits and
/// covers one fixed unit of work, so it does not depend on how many iterations the calibration chose.
pub const RECORD_RESULT: &str = "result";

/// Console record that ends a run: `@trivisor end status=ok` or `status=failed reason=WORDS…` (to end of line).
pub const RECORD_END: &str = "end";

/// Command-line word `budget_us=N`: how long a calibrated measurement should run, in microseconds of guest TSC time.
pub const ARG_BUDGET_US: &str = "budget_us";

/// Command-line word `tsc_khz=N`: the frequency of the guest's TSC, in kHz, which turns a budget into ticks.
pub const ARG_TSC_KHZ: &str = "tsc_khz";

/// Budget where the command line names none, in microseconds.
pub const DEFAULT_BUDGET_US: u64 = 50_000;

/// TSC frequency assumed where the command line names none, in kHz.
pub const DEFAULT_TSC_KHZ: u64 = 2_000_000;

/// I/O port of the first serial port (16550A), the console.
pub const PORT_COM1: u16 = 0x3f8;

/// `isa-debug-exit`: a write of `v` ends the machine with status `(v << 1) | 1`, as QEMU's device of that name does.
pub const PORT_DEBUG_EXIT: u16 = 0xf4;

/// Value that a guest writes to [`PORT_DEBUG_EXIT`] when all went well (process status 1 in QEMU).
pub const EXIT_OK: u8 = 0;

/// Value that a guest writes to [`PORT_DEBUG_EXIT`] when it failed.
pub const EXIT_FAILED: u8 = 1;

/// The bench port: a 32-bit write marks a phase (see `MARK_*`); unclaimed, so without effect, in other machines.
pub const PORT_BENCH: u16 = 0x5f4;

/// Mark on [`PORT_BENCH`]: the timed region begins.
pub const MARK_BEGIN: u32 = 1;

/// Mark on [`PORT_BENCH`]: the timed region ends.
pub const MARK_END: u32 = 2;

/// Mark on [`PORT_BENCH`]: the timed region that ended last is one whose figure is reported. Regions without it were
/// for calibration.
pub const MARK_KEPT: u32 = 3;

/// CPUID leaf at which hypervisors name themselves.
pub const CPUID_HYPERVISOR: u32 = 0x4000_0000;

/// The vendor signature in EBX, ECX, EDX of [`CPUID_HYPERVISOR`].
pub const CPUID_SIGNATURE: [u8; 12] = *b"TriVisorTV01";
