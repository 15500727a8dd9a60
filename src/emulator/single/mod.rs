//! Executes one instruction on [`crate::arch::CpuState`].
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "called by the interpreter, which comes next")
)]
mod host_fpu;
