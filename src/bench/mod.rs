//! Measuring: workloads, their native kernels, plans, runs, statistics and records.

#[path = "../../workloads/kernels/mod.rs"]
pub mod kernels;
pub mod native;
pub mod workload;
