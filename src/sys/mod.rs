//! Thin unsafe over Linux: memory objects, signals, timers, futexes, the TSC, CPU pinning.
//!
//! Each file wraps one facility so that nothing above needs `unsafe` for it. Errors are `std::io::Error`.
pub mod affinity;
pub mod deadline;
pub mod futex;
pub mod host_cpuid;
pub mod memfd;
pub mod signal;
pub mod tsc;
