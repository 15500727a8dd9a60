//! Kernels against published vectors and against simpler methods.

use super::{
    ALL, Kernel, Sequence, calls, crc32, lz, matmul, nbody, pointer_chase, quicksort, recursion, scratch,
    sha256, sieve, string_ops,
};

fn run_twice(kernel: &Kernel) -> (u64, u64) {
    let mut memory = vec![0xa5u8; kernel.scratch + 64];
    let start = memory.as_ptr().align_offset(64);
    let scratch = &mut memory[start..start + kernel.scratch];
    (kernel.prepare)(scratch);
    ((kernel.unit)(scratch), (kernel.unit)(scratch))
}

#[test]
fn every_unit_can_be_repeated_and_names_differ() {
    let mut seen = std::collections::HashSet::new();
    for kernel in ALL {
        if !(kernel.available)() {
            println!("{} skipped: this CPU lacks its instructions", kernel.name);
            continue;
        }
        let (first, second) = run_twice(kernel);
        assert_eq!(first, second, "{}", kernel.name);
        assert_ne!(first, 0, "{}", kernel.name);
        assert!(seen.insert(kernel.name) && seen.insert(Box::leak(first.to_string().into_boxed_str())));
    }
}

#[test]
fn crc32_check_value() {
    assert_eq!(crc32::crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32::crc32(b""), 0);
}

#[test]
fn sha256_of_fips_180_examples() {
    let hex = |bytes: &[u8]| sha256::sha256(bytes).map(|word| format!("{word:08x}")).concat();
    assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        hex(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    );
    assert_eq!(hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn sha256_agrees_with_another_implementation_at_every_length() {
    use sha2::Digest;
    let bytes: Vec<u8> = (0..300u32).map(|number| (number * 7) as u8).collect();
    for length in 0..bytes.len() {
        let ours: Vec<u8> =
            sha256::sha256(&bytes[..length]).iter().flat_map(|word| word.to_be_bytes()).collect();
        assert_eq!(ours, sha2::Sha256::digest(&bytes[..length]).to_vec(), "length {length}");
    }
}

#[test]
fn quicksort_agrees_with_the_standard_library() {
    let mut sequence = Sequence::new(99);
    for length in [0, 1, 2, 3, 11, 12, 13, 14, 50, 1000, 5000] {
        for modulus in [1, 2, 10, u32::MAX] {
            let mut numbers: Vec<u32> = (0..length).map(|_| sequence.draw() as u32 % modulus).collect();
            let mut expected = numbers.clone();
            expected.sort_unstable();
            quicksort::quicksort(&mut numbers);
            assert_eq!(numbers, expected);
            quicksort::quicksort(&mut numbers);
            assert_eq!(numbers, expected, "sorted input");
            numbers.reverse();
            quicksort::quicksort(&mut numbers);
            assert_eq!(numbers, expected, "reversed input");
        }
    }
}

#[test]
fn primes_are_counted() {
    // π(10^4) and the sum of the primes below 10^4: OEIS A006880, A046731.
    assert_eq!(sieve::sieve(&mut vec![7; 10_000]), (1229, 5_736_396));
    assert_eq!(sieve::sieve(&mut [1; 2]), (0, 0));
}

#[test]
fn chase_visits_every_node() {
    for kernel in [pointer_chase::IN_CACHE, pointer_chase::IN_MEMORY] {
        let mut memory = vec![0u8; kernel.scratch + 64];
        let start = memory.as_ptr().align_offset(64);
        let scratch = &mut memory[start..start + kernel.scratch];
        (kernel.prepare)(scratch);
        let words = super::scratch::as_numbers::<u32>(scratch);
        let nodes = words.len() / 16;
        let (mut at, mut steps) = (0, 0);
        loop {
            at = words[at as usize];
            steps += 1;
            if at == 0 {
                break;
            }
        }
        assert_eq!(steps, nodes);
        assert_eq!(pointer_chase::chase(words, nodes), 0);
    }
}

#[test]
fn matrices_multiply() {
    let mut product = [9.0; 4];
    matmul::multiply(2, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], &mut product);
    assert_eq!(product, [19.0, 22.0, 43.0, 50.0]);
}

fn decompress(mut input: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let [token, rest @ ..] = input {
        if *token < 128 {
            let (run, rest) = rest.split_at(usize::from(*token) + 1);
            text.extend_from_slice(run);
            input = rest;
        } else {
            let distance = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
            for _ in 0..usize::from(*token) - 125 {
                text.push(text[text.len() - distance]);
            }
            input = &rest[2..];
        }
    }
    text
}

#[test]
fn compression_loses_nothing() {
    let mut sequence = Sequence::new(5);
    for (length, alphabet) in
        [(0, 1), (1, 1), (2, 2), (700, 1), (5000, 2), (20_000, 4), (3000, 255), (70_000, 3)]
    {
        let text: Vec<u8> = (0..length).map(|_| (sequence.draw() % alphabet) as u8).collect();
        let mut output = vec![0; length + length / 100 + 16];
        let written = lz::compress(&text, &mut output, &mut vec![77; lz::TABLE]);
        assert_eq!(decompress(&output[..written]), text, "{length} bytes of {alphabet}");
    }
}

#[test]
fn tak_agrees_with_its_definition() {
    // tak(18, 12, 6) with the result z makes 63,609 calls (R. P. Gabriel, Performance and Evaluation of Lisp Systems).
    let mut calls = 0;
    assert_eq!(recursion::tak(18, 12, 6, &mut calls), 7);
    assert_eq!(calls, 63_609);
}

#[test]
fn energy_is_kept() {
    let mut bodies = nbody::BODIES;
    let before = nbody::energy(&bodies);
    for _ in 0..10_000 {
        nbody::advance(&mut bodies);
    }
    assert!(((nbody::energy(&bodies) - before) / before).abs() < 1e-3, "energy drifts");
    assert!(before < 0.0, "bound orbits");
}

/// The same stream, a word at a time.
#[test]
fn vector_streams_agree_with_scalar_arithmetic() {
    for (kernel, vectors_as_words) in [(&super::sse2_stream::KERNEL, 4), (&super::avx2_stream::KERNEL, 8)] {
        if !(kernel.available)() {
            println!("{} skipped: this CPU lacks its instructions", kernel.name);
            continue;
        }
        let mut memory = vec![0u8; kernel.scratch + 64];
        let start = memory.as_ptr().align_offset(64);
        let scratch = &mut memory[start..start + kernel.scratch];
        (kernel.prepare)(scratch);
        (kernel.unit)(scratch);
        let words = super::scratch::as_numbers::<u32>(scratch);
        let count = 2048 * vectors_as_words;
        assert_eq!(words.len(), 3 * count);
        for index in 0..count {
            let (left, right) = (words[count + index], words[2 * count + index]);
            let expected = (0..8u32).fold(0u32, |sum, pass| {
                let key = pass.wrapping_mul(0x0101_0101);
                sum.wrapping_add(left).wrapping_add((right ^ key) << 1)
            });
            assert_eq!(words[index], expected, "{} word {index}", kernel.name);
        }
    }
}

/// The same operations, told in Rust.
#[test]
fn calls_arrive_each_and_in_order() {
    type Function = fn(u64) -> u64;
    let triple: Function = |v| v.wrapping_mul(3).wrapping_add(1);
    let quintuple: Function = |v| v.wrapping_mul(5).wrapping_add(3);
    let ninefold: Function = |v| v.wrapping_mul(9).wrapping_add(5);
    let step: Function = |v| v.wrapping_add(7);
    let in_turn = [triple, quintuple, ninefold, step];
    for (kernel, function) in [
        (&calls::DIRECT, Box::new(|_: u64| triple) as Box<dyn Fn(u64) -> Function>),
        (&calls::INDIRECT, Box::new(|_| quintuple)),
        // A call takes the function after the last call's; each turn of sixteen calls begins one further.
        (&calls::INDIRECT_4, Box::new(|n| in_turn[((n + n / 16) % 4) as usize])),
    ] {
        let expected = (0..kernel.operations).fold(1, |value, number| function(number)(value));
        assert_eq!((kernel.unit)(&mut []), expected, "{}", kernel.name);
    }
}

#[test]
fn string_instructions_reach_both_ends_and_no_further() {
    for kernel in [&string_ops::MOVS_4K, &string_ops::MOVS_4K_BY8, &string_ops::MOVS_64K] {
        let mut memory = vec![0x5au8; kernel.scratch + 128];
        let start = memory.as_ptr().align_offset(64);
        let whole = &mut memory[start..start + kernel.scratch + 64];
        let (block, after) = whole.split_at_mut(kernel.scratch);
        (kernel.prepare)(block);
        (kernel.unit)(block);
        let (from, to) = block.split_at(kernel.scratch / 2);
        let differ: Vec<usize> = (0..from.len()).filter(|&at| from[at] != to[at]).collect();
        // The last operation changed the last word, which was put back after it was copied.
        assert_eq!(differ.iter().min(), Some(&(from.len() - 8)), "{}", kernel.name);
        assert!(after.iter().all(|&byte| byte == 0x5a), "{}", kernel.name);
    }
    for kernel in [&string_ops::STOS_4K, &string_ops::STOS_4K_BY8, &string_ops::STOS_64K] {
        let mut memory = vec![0x5au8; kernel.scratch + 128];
        let start = memory.as_ptr().align_offset(64);
        let whole = &mut memory[start..start + kernel.scratch + 64];
        let (block, after) = whole.split_at_mut(kernel.scratch);
        (kernel.unit)(block);
        let words = scratch::as_numbers::<u64>(block);
        assert!(
            words.iter().all(|&word| word == words[0] && word != 0x5a5a_5a5a_5a5a_5a5a),
            "{}",
            kernel.name
        );
        assert!(after.iter().all(|&byte| byte == 0x5a), "{}", kernel.name);
    }
}
