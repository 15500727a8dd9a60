//! Random numbers that a seed repeats (SplitMix64), and values near the edges where arithmetic goes wrong.

/// A generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer, often one where a sign, a carry or a width changes.
    pub fn integer(&mut self) -> u64 {
        let edge = self.pick(&[
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x100,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
        ]);
        match self.below(8) {
            0..=2 => edge,
            3 => edge.wrapping_add(self.below(3)).wrapping_sub(1),
            4 => self.below(256),
            5 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }

    fn float(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let exponents = 1 << exponent_bits;
        let bias = exponents / 2 - 1;
        let exponent = match self.below(8) {
            0 => 0,
            1 => exponents - 1,
            2 => self.pick(&[1, 2, exponents - 2]),
            3 => self.below(exponents),
            // Near one, so that sums interact.
            _ => bias - 4 + self.below(9),
        };
        let mask = (1 << fraction_bits) - 1;
        let fraction = match self.below(5) {
            0 => 0,
            1 => self.pick(&[1, mask, mask >> 1, 1 << (fraction_bits - 1)]),
            2 => self.below(256) << (fraction_bits - 8),
            _ => self.next() & mask,
        };
        self.below(2) << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
    }

    /// The bits of a 32-bit float, with NaNs, denormals, infinities and zeros.
    pub fn f32(&mut self) -> u32 {
        self.float(8, 23) as u32
    }

    /// The same, 64 bits.
    pub fn f64(&mut self) -> u64 {
        self.float(11, 52)
    }

    /// Sign and exponent, and significand, of an 80-bit float; encodings that the FPU calls unsupported too.
    pub fn f80(&mut self) -> (u16, u64) {
        let wide = self.float(15, 48);
        let head = (wide >> 48) as u16;
        let significand = match self.below(4) {
            0 => self.integer(),
            1 => 1 << 63,
            _ => self.next() | 1 << 63,
        };
        (head, significand)
    }

    /// Eight bytes of one of the kinds above.
    pub fn lane(&mut self) -> u64 {
        match self.below(5) {
            0 => self.f64(),
            1 | 2 => u64::from(self.f32()) | u64::from(self.f32()) << 32,
            3 => self.integer(),
            _ => self.next(),
        }
    }
}
