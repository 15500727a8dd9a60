//! The empty hypercall, by the hypercall page: what a call of the monitor costs at least.
#![no_std]
#![no_main]

use guest::hypercall::{self, Hypercalls};
use guest::{Checksum, Run, UNROLL, abi};

guest::entry!(main);

fn main(run: &Run) {
    let Some(calls) = Hypercalls::find() else { guest::absent(hypercall::NONE) };
    let mut checksum = Checksum::new();
    for number in [abi::CALL_NULL, abi::CALL_CLOCK_PAGE + 1, u64::MAX, abi::CALL_NULL] {
        // SAFETY: the first and the last do nothing, and the others are none.
        checksum = checksum.word(unsafe { calls.call(number, [1, 2, 3]) });
    }
    run.nano("hypercall_null", checksum, UNROLL, |turns| {
        for _ in 0..turns {
            for _ in 0..UNROLL {
                calls.null();
            }
        }
    });
}
