//! Calls through a table of methods, in an order that a predictor cannot learn wholly: indirect branches.

use super::scratch::as_numbers;
use super::{Kernel, Sequence, always};

/// 65,536 calls.
pub const KERNEL: Kernel =
    Kernel { name: "virtual_dispatch", scratch: 4 * CALLS, operations: 1, prepare, available: always, unit };

const CALLS: usize = 65_536;

trait Operation: Sync {
    fn apply(&self, value: u64) -> u64;
}

struct Add(u64);
struct Multiply(u64);
struct Rotate(u32);
struct Mix;
struct Negate;

impl Operation for Add {
    fn apply(&self, value: u64) -> u64 {
        value.wrapping_add(self.0)
    }
}

impl Operation for Multiply {
    fn apply(&self, value: u64) -> u64 {
        value.wrapping_mul(self.0)
    }
}

impl Operation for Rotate {
    fn apply(&self, value: u64) -> u64 {
        value.rotate_left(self.0)
    }
}

impl Operation for Mix {
    fn apply(&self, value: u64) -> u64 {
        value ^ value >> 23
    }
}

impl Operation for Negate {
    fn apply(&self, value: u64) -> u64 {
        !value
    }
}

static OPERATIONS: [&dyn Operation; 8] = [
    &Add(0x1234_5677),
    &Multiply(0x9e37_79b9_7f4a_7c15),
    &Rotate(17),
    &Mix,
    &Negate,
    &Add(3),
    &Rotate(41),
    &Multiply(5),
];

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0xfedc_ba98_7654_3210);
    for index in as_numbers::<u32>(scratch) {
        *index = (sequence.draw() >> 61) as u32;
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    as_numbers::<u32>(scratch).iter().fold(1, |value, &index| OPERATIONS[(index & 7) as usize].apply(value))
}
