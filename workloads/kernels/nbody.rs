//! Five bodies under gravity: dependent f64 arithmetic with division and square root.
//!
//! Symplectic Euler steps from the Sun and the outer planets. Units: astronomical unit, year/2π, solar mass. Figures to
//! five digits are enough: the point is the arithmetic.
#![expect(unsafe_code, reason = "intrinsics ask for a CPU feature, which x86-64 always has")]

use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set_sd, _mm_sqrt_pd};

use super::{Kernel, always, fold};

/// 1500 steps.
pub const KERNEL: Kernel =
    Kernel { name: "nbody", scratch: 64, operations: 1, prepare, available: always, unit };

const STEPS: usize = 1500;
const STEP: f64 = 0.01;

/// A point mass.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    position: [f64; 3],
    velocity: [f64; 3],
    mass: f64,
}

const fn planet(distance: f64, height: f64, speed: f64, mass: f64) -> Body {
    Body { position: [distance, 0.0, height], velocity: [0.0, speed, 0.0], mass }
}

/// The Sun, Jupiter, Saturn, Uranus, Neptune: all in one line at the start, at their mean distances and speeds.
pub const BODIES: [Body; 5] = [
    planet(0.0, 0.0, 0.0, 1.0),
    planet(5.2028, 0.1180, 0.43841, 9.5479e-4),
    planet(-9.5388, -0.4146, -0.32378, 2.8588e-4),
    planet(19.191, 0.2588, 0.22827, 4.3662e-5),
    planet(-30.061, 0.9282, -0.18239, 5.1514e-5),
];

/// Square root; `f64::sqrt` is not in `core`.
fn square_root(value: f64) -> f64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsd_f64(_mm_sqrt_pd(_mm_set_sd(value))) }
}

fn separation(left: &Body, right: &Body) -> [f64; 3] {
    core::array::from_fn(|axis| left.position[axis] - right.position[axis])
}

fn square(vector: [f64; 3]) -> f64 {
    vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]
}

/// Moves all bodies by one step.
pub fn advance(bodies: &mut [Body; 5]) {
    for first in 0..bodies.len() {
        for second in first + 1..bodies.len() {
            let apart = separation(&bodies[first], &bodies[second]);
            let squared = square(apart);
            let magnitude = STEP / (squared * square_root(squared));
            let (pull, push) = (bodies[second].mass * magnitude, bodies[first].mass * magnitude);
            for (axis, distance) in apart.into_iter().enumerate() {
                bodies[first].velocity[axis] -= distance * pull;
                bodies[second].velocity[axis] += distance * push;
            }
        }
    }
    for body in bodies {
        for (position, velocity) in body.position.iter_mut().zip(body.velocity) {
            *position += STEP * velocity;
        }
    }
}

/// Kinetic plus potential energy.
pub fn energy(bodies: &[Body; 5]) -> f64 {
    let mut sum = 0.0;
    for (index, body) in bodies.iter().enumerate() {
        sum += 0.5 * body.mass * square(body.velocity);
        for other in &bodies[index + 1..] {
            sum -= body.mass * other.mass / square_root(square(separation(body, other)));
        }
    }
    sum
}

fn prepare(_: &mut [u8]) {}

fn unit(_: &mut [u8]) -> u64 {
    let mut bodies = core::hint::black_box(BODIES);
    for _ in 0..STEPS {
        advance(&mut bodies);
    }
    fold(energy(&bodies).to_bits(), bodies[4].position[0].to_bits())
}
