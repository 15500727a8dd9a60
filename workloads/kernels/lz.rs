//! LZ77 compression with a hash table of the last positions: byte compares, unpredictable branches, table look-ups.
//!
//! Format: a token byte; 0 to 127 announces that many literals plus one, 128 to 255 a match of that minus 125 bytes
//! (3 to 130) whose distance follows in two bytes, low first.

use super::scratch::as_numbers;
use super::{Kernel, Sequence, always, fold};

/// Text, output, and table.
pub const KERNEL: Kernel = Kernel {
    name: "lz",
    scratch: TABLE * 4 + TEXT + OUTPUT,
    operations: 1,
    prepare,
    available: always,
    unit,
};

/// Entries of the hash table, each a position plus one.
pub const TABLE: usize = 4096;
const TEXT: usize = 40 * 1024;
/// All literals need one token byte in 128.
const OUTPUT: usize = TEXT + TEXT / 128 + 64;
const SHORTEST: usize = 3;
const LONGEST: usize = 130;
const WINDOW: usize = 0xffff;
const LITERALS: usize = 128;

fn hash(bytes: &[u8]) -> usize {
    let word = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    (word.wrapping_mul(0x9e37_79b1) >> 20) as usize
}

fn literals(text: &[u8], output: &mut [u8], mut at: usize) -> usize {
    for run in text.chunks(LITERALS) {
        output[at] = (run.len() - 1) as u8;
        for (target, &byte) in output[at + 1..].iter_mut().zip(run) {
            *target = byte;
        }
        at += 1 + run.len();
    }
    at
}

/// Compresses `text` and gives the length of what it wrote. `table` has [`TABLE`] entries of any content.
pub fn compress(text: &[u8], output: &mut [u8], table: &mut [u32]) -> usize {
    table.fill(0);
    let (mut at, mut pending, mut written) = (0, 0, 0);
    while at + SHORTEST <= text.len() {
        let slot = &mut table[hash(&text[at..at + SHORTEST])];
        let candidate = core::mem::replace(slot, at as u32 + 1) as usize;
        let mut length = 0;
        if candidate != 0 && at - (candidate - 1) <= WINDOW {
            let longest = LONGEST.min(text.len() - at);
            while length < longest && text[candidate - 1 + length] == text[at + length] {
                length += 1;
            }
        }
        if length < SHORTEST {
            at += 1;
            continue;
        }
        written = literals(&text[pending..at], output, written);
        let distance = (at + 1 - candidate) as u16;
        output[written] = (length + 125) as u8;
        output[written + 1..written + 3].copy_from_slice(&distance.to_le_bytes());
        written += 3;
        at += length;
        pending = at;
    }
    literals(&text[pending..], output, written)
}

/// A text of words from a small vocabulary, with numbers between.
fn prepare(scratch: &mut [u8]) {
    const WORDS: [&str; 16] = [
        "interrupt ",
        "page ",
        "table ",
        "fault ",
        "guest ",
        "monitor ",
        "register ",
        "vector ",
        "segment ",
        "ring ",
        "the ",
        "of ",
        "and ",
        "is ",
        "a ",
        "\n",
    ];
    let mut sequence = Sequence::new(0x1234_5678_9abc_def1);
    let text = &mut scratch[TABLE * 4..TABLE * 4 + TEXT];
    let mut at = 0;
    while at < text.len() {
        let draw = sequence.draw();
        if draw & 7 == 0 {
            text[at] = b'0' + (draw >> 8) as u8 % 10;
            at += 1;
            continue;
        }
        for (target, &byte) in text[at..].iter_mut().zip(WORDS[(draw >> 32 & 15) as usize].as_bytes()) {
            *target = byte;
            at += 1;
        }
    }
}

fn unit(scratch: &mut [u8]) -> u64 {
    let (table, rest) = scratch.split_at_mut(TABLE * 4);
    let (text, output) = rest.split_at_mut(TEXT);
    let written = compress(text, output, as_numbers::<u32>(table));
    output[..written].iter().step_by(31).fold(written as u64, |sum, &byte| fold(sum, u64::from(byte)))
}
