//! The benchmark room: plans runs, executes them in every mode, and turns what the guests printed into figures.
//!
//! Data flows one way: [`plan`] → [`run`] → CSV ([`record`]) → [`dataset`] → [`table`], [`plot`], [`report`]. What comes
//! after the CSV reads nothing live, so that a page can be drawn again from the file alone, on any machine.

pub mod checksum;
pub mod compare;
pub mod dataset;
pub mod error;
pub mod fingerprint;
#[path = "../../workloads/kernels/mod.rs"]
pub mod kernels;
pub mod language;
pub mod linux;
pub mod marks;
pub mod measure;
pub mod native;
pub mod plan;
pub mod plot;
pub mod progress;
pub mod quantity;
pub mod random;
pub mod reading;
pub mod record;
pub mod report;
pub mod run;
pub mod side;
pub mod significance;
pub mod stats;
pub mod sweep;
pub mod table;
pub mod timestamp;
pub mod workload;

pub use error::BenchError;

/// Names of the modes and peers in the order in which tables and figures show them; a mode's engines, and pairs of its
/// engine with other interfaces, stand in its place. Those of the engine direct, whose mode has a name of its own, follow it.
pub const MODE_ORDER: [&str; 7] = ["native", "emu", "pv", "direct", "kvm", "qemu-tcg", "qemu-kvm"];

/// The mode of a column: `emu` of `emu/single`, where the user asked for engines of a mode side by side, and `kvm` of
/// `kvm/pv`, a pair of engine and interface; else the name.
pub fn base_mode(column: &str) -> &str {
    column.split('/').next().unwrap_or(column)
}

/// Name of the column of the guest that runs natively as it is. What of it is wrong nobody notices but by its checksum.
pub const UNPATCHED: &str = "direct/none";

/// Name of the column that every slowdown is relative to: the same kernels in a host process.
pub const NATIVE: &str = "native";
