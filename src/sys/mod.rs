//! Thin unsafe over Linux: memory objects, code memory, signals, timers, futexes, locks, the TSC, CPU pinning.
//!
//! Each file wraps one facility so that nothing above needs `unsafe` for it. Errors are `std::io::Error`.
pub mod affinity;
pub mod cpuid_faulting;
pub mod deadline;
pub mod exec_memory;
pub mod fp_trap;
pub mod futex;
pub mod host_cpuid;
pub mod keepalive;
pub mod lock;
pub mod membarrier;
pub mod memfd;
pub mod reserved;
pub mod segment_base;
pub mod signal;
pub mod terminal;
pub mod tsc;
pub mod written;
