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
///
/// A point of a sweep also has `size=WHAT:N`: one iteration did N of WHAT (a name such as `bytes`; N is decimal, at least 1).
/// Points of one sweep have metric, ring and WHAT in common.
pub const RECORD_RESULT: &str = "result";

/// Console record that ends a run: `@trivisor end status=ok`, or `status=failed reason=WORDS…` (to end of line), or the same
/// with `status=absent`: what was to be measured, or a part of it, is not there on this machine, and all else went well.
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

/// First bytes of a disk that guests may overwrite: workloads leave all others alone.
pub const SCRATCH_DISK: [u8; 16] = *b"trivisor scratch";

/// CPUID leaf at which hypervisors name themselves.
pub const CPUID_HYPERVISOR: u32 = 0x4000_0000;

/// The vendor signature in EBX, ECX, EDX of [`CPUID_HYPERVISOR`]. EAX there is the highest leaf: [`CPUID_CALLS`] where
/// hypercalls are offered.
pub const CPUID_SIGNATURE: [u8; 12] = *b"TriVisorTV01";

/// CPUID leaf of the explicit interface (`docs/pv-abi.md`); all zero, and beyond the highest leaf, where it is not offered.
/// EAX: `OFFERS_*`. EBX: number of the MSR that names the hypercall page. ECX: most entries of a [`CALL_MMU_UPDATE`]. EDX:
/// most calls of a [`CALL_MULTICALL`].
pub const CPUID_CALLS: u32 = 0x4000_0001;

/// In EAX of [`CPUID_CALLS`]: [`CALL_MMU_UPDATE`] is there.
pub const OFFERS_MMU_UPDATE: u32 = 1 << 0;

/// In EAX of [`CPUID_CALLS`]: [`CALL_SET_CR3`] is there.
pub const OFFERS_SET_CR3: u32 = 1 << 1;

/// In EAX of [`CPUID_CALLS`]: [`CALL_MULTICALL`] is there.
pub const OFFERS_MULTICALL: u32 = 1 << 2;

/// In EAX of [`CPUID_CALLS`]: [`CALL_CONSOLE_WRITE`] is there.
pub const OFFERS_CONSOLE: u32 = 1 << 3;

/// In EAX of [`CPUID_CALLS`]: [`CALL_CLOCK_PAGE`] is there.
pub const OFFERS_CLOCK: u32 = 1 << 4;

/// The MSR that names the hypercall page: its guest-physical address, and [`PAGE_ON`]. The monitor writes the page. Guests
/// take the number from EBX of [`CPUID_CALLS`].
pub const MSR_HYPERCALL_PAGE: u32 = 0x5456_0000;

/// Bit 0 of [`MSR_HYPERCALL_PAGE`]: hypercalls are taken.
pub const PAGE_ON: u64 = 1;

// A hypercall is a near call of the first byte of the hypercall page, at ring 0 in 64-bit mode. RAX: number in, result out.
// Arguments are in RDI, RSI and RDX. All else is kept. All addresses are guest-physical unless said otherwise.

/// Hypercall: does nothing; result 0.
pub const CALL_NULL: u64 = 0;

/// Hypercall: page-table entries are written. RDI: address of a list of pairs (address of an entry, value), 16 bytes each;
/// RSI: how many; RDX: the virtual address of the small page that the first entry maps, if each next entry maps the next
/// page, or [`ANYWHERE`]. Result: how many were written, in order; less than RSI if the next is none that can be.
pub const CALL_MMU_UPDATE: u64 = 1;

/// Hypercall: CR3 is written. RDI: the value.
pub const CALL_SET_CR3: u64 = 2;

/// Hypercall: others, one after the other. RDI: address of a list of [`MULTICALL_WORDS`] words each: number, three
/// arguments, and room for the result; RSI: how many. Result: how many were made, which is all of them.
pub const CALL_MULTICALL: u64 = 3;

/// Hypercall: text for the console. RDI: its address; RSI: its length, at most [`CONSOLE_MOST`]. Result: the length.
pub const CALL_CONSOLE_WRITE: u64 = 4;

/// Hypercall: the clock page, 4 KiB, is to be kept at the address in RDI, or nowhere: [`ANYWHERE`].
pub const CALL_CLOCK_PAGE: u64 = 5;

/// No address in particular.
pub const ANYWHERE: u64 = u64::MAX;

/// Most entries of one [`CALL_MMU_UPDATE`].
pub const MMU_UPDATE_MOST: u32 = 512;

/// Most calls of one [`CALL_MULTICALL`].
pub const MULTICALL_MOST: u32 = 64;

/// Eight-byte words of a call in a [`CALL_MULTICALL`].
pub const MULTICALL_WORDS: usize = 5;

/// Most bytes of one [`CALL_CONSOLE_WRITE`].
pub const CONSOLE_MOST: u64 = 4096;

/// Result: there is no call of this number. Errors are negative numbers; nothing was done then.
pub const ERROR_NUMBER: u64 = -1_i64 as u64;

/// Result: an address is not that of RAM, or not aligned (lists: 8 bytes; pages: 4 KiB).
pub const ERROR_ADDRESS: u64 = -2_i64 as u64;

/// Result: a count is too large.
pub const ERROR_COUNT: u64 = -3_i64 as u64;

/// Result: the value cannot be loaded into CR3.
pub const ERROR_VALUE: u64 = -4_i64 as u64;

/// Result of a [`CALL_MULTICALL`] in a multicall.
pub const ERROR_NESTED: u64 = -5_i64 as u64;

/// The clock page. The time, in nanoseconds since the machine was made, is
/// `nanos + ((RDTSC - tsc) * mult >> shift)`, with a product of 96 bits. A reader takes `version` before and after, and begins
/// anew if it was odd or has changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockPage {
    /// Odd while the others are being written.
    pub version: u32,
    /// Reserved, 0.
    pub flags: u32,
    /// The TSC at `nanos`.
    pub tsc: u64,
    /// Guest time at `tsc`, in nanoseconds.
    pub nanos: u64,
    /// Nanoseconds per tick, times 2 to the power of `shift`.
    pub mult: u32,
    /// See `mult`; below 64.
    pub shift: u32,
}
