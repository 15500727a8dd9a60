//! Reading guest time from the clock page that the monitor keeps: no exit, but for naming the page.
#![no_std]
#![no_main]

use guest::hypercall::{self, Hypercalls};
use guest::{Checksum, Run, abi, paging};

guest::entry!(main);

fn main(run: &Run) {
    let Some(calls) = Hypercalls::find().filter(|calls| calls.offers(abi::OFFERS_CLOCK)) else {
        guest::absent(hypercall::NONE)
    };
    let frame = paging::allocate_zeroed();
    let page = frame as *const abi::ClockPage;
    // SAFETY: the frame is ours; the second address is no page.
    let results = unsafe { [frame, frame + 8].map(|at| calls.call(abi::CALL_CLOCK_PAGE, [at, 0, 0])) };
    let mut checksum = Checksum::new().word(results[0]).word(results[1]);
    // SAFETY: the monitor keeps the page from now on.
    let now = || unsafe { hypercall::read_clock(page) };
    let first = now();
    let mut last = first;
    for _ in 0..64 {
        let time = now();
        checksum = checksum.word(u64::from(time >= last));
        last = time;
    }
    while now() < first + 1000 {}
    run.nano("clock_read", checksum, 1, |turns| {
        for _ in 0..turns {
            core::hint::black_box(now());
        }
    });
}
