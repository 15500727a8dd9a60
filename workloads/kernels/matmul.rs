//! Multiplication of two 64×64 matrices of f64: floating-point throughput.

use super::scratch::as_numbers;
use super::{Kernel, Sequence, always, fold};

/// Two factors and the product.
pub const KERNEL: Kernel =
    Kernel { name: "matmul", scratch: 3 * 8 * SIZE * SIZE, operations: 1, prepare, available: always, unit };

const SIZE: usize = 64;

/// `product = left × right`, all `n`×`n` in row order.
pub fn multiply(n: usize, left: &[f64], right: &[f64], product: &mut [f64]) {
    product.fill(0.0);
    for (left_row, product_row) in left.chunks_exact(n).zip(product.chunks_exact_mut(n)) {
        for (&factor, right_row) in left_row.iter().zip(right.chunks_exact(n)) {
            for (sum, &value) in product_row.iter_mut().zip(right_row) {
                *sum += factor * value;
            }
        }
    }
}

fn prepare(scratch: &mut [u8]) {
    let mut sequence = Sequence::new(0x1122_3344_5566_7788);
    for number in as_numbers::<f64>(scratch) {
        *number = (sequence.draw() >> 40) as f64 / 4096.0 - 2048.0;
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    let numbers = as_numbers::<f64>(scratch);
    let (left, rest) = numbers.split_at_mut(SIZE * SIZE);
    let (right, product) = rest.split_at_mut(SIZE * SIZE);
    multiply(SIZE, left, right, product);
    product.iter().step_by(SIZE + 1).fold(0, |sum, number| fold(sum, number.to_bits()))
}
