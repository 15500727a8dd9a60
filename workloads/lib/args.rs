//! The kernel command line: `budget_us=N tsc_khz=N`, words apart by blanks; unknown words are ignored.

use crate::abi::{ARG_BUDGET_US, ARG_TSC_KHZ, DEFAULT_BUDGET_US, DEFAULT_TSC_KHZ};
use crate::measure::Run;

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { value.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

fn argument(line: &[u8], name: &str) -> Option<u64> {
    line.split(|&byte| byte == b' ')
        .filter_map(|word| word.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .find_map(number)
        .filter(|&value| value > 0)
}

/// What the command line asks for, with defaults for what it leaves out or misspells.
pub(crate) fn parse(workload: &'static str, line: &[u8]) -> Run {
    let budget_us = argument(line, ARG_BUDGET_US).unwrap_or(DEFAULT_BUDGET_US);
    let tsc_khz = argument(line, ARG_TSC_KHZ).unwrap_or(DEFAULT_TSC_KHZ);
    Run { workload, budget: budget_us.saturating_mul(tsc_khz) / 1000, tsc_khz }
}
