//! Quicksort of 32-bit numbers: data-dependent branches and recursion.

use super::scratch::as_numbers;
use super::{Kernel, Sequence, always, fold};

/// 8192 pseudo-random numbers, copied and sorted.
pub const KERNEL: Kernel =
    Kernel { name: "quicksort", scratch: 2 * 4 * COUNT, operations: 1, prepare, available: always, unit };

const COUNT: usize = 8192;

/// Below this, insertion sort.
const SHORT: usize = 12;

/// Sorts in ascending order: Hoare's partition around the median of three, recursion into the shorter part.
pub fn quicksort(mut numbers: &mut [u32]) {
    while numbers.len() > SHORT {
        let last = numbers.len() - 1;
        let (low, middle, high) = (numbers[0], numbers[last / 2], numbers[last]);
        let pivot = low.max(middle).min(high).max(low.min(middle));
        let (mut left, mut right) = (0, last);
        loop {
            while numbers[left] < pivot {
                left += 1;
            }
            while numbers[right] > pivot {
                right -= 1;
            }
            if left >= right {
                break;
            }
            numbers.swap(left, right);
            left += 1;
            right -= 1;
        }
        let (lower, upper) = numbers.split_at_mut(left);
        if lower.len() < upper.len() {
            quicksort(lower);
            numbers = upper;
        } else {
            quicksort(upper);
            numbers = lower;
        }
    }
    for end in 1..numbers.len() {
        let mut position = end;
        while position > 0 && numbers[position - 1] > numbers[position] {
            numbers.swap(position - 1, position);
            position -= 1;
        }
    }
}

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0x2468_ace1_3579_bdf0);
    for number in &mut as_numbers::<u32>(scratch)[..COUNT] {
        *number = sequence.draw() as u32;
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    let (source, sorted) = as_numbers::<u32>(scratch).split_at_mut(COUNT);
    sorted.copy_from_slice(source);
    quicksort(sorted);
    sorted.chunks_exact(16).fold(0, |sum, chunk| fold(sum, u64::from(chunk[0])))
}
