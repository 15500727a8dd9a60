//! The child's system-call filter (seccomp(2), classic BPF).
//!
//! Only instructions of the stub may make system calls, and only those that it needs, with arguments that can harm
//! nobody but the child itself: a guest that jumps into the stub gains nothing. All other calls raise SIGSYS, which is
//! how a guest's own `syscall` instruction is noticed.
use super::keys::Secret;
use super::stub::Entries;
use crate::pv::layout::{KEYS_FD, RAM_FD, SHARED, TEXT_FD, at};

/// One BPF instruction, as the kernel reads it (`struct sock_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Instruction {
    /// The 8 bytes of `struct sock_filter`.
    pub(super) fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&self.code.to_le_bytes());
        bytes[2] = self.jt;
        bytes[3] = self.jf;
        bytes[4..].copy_from_slice(&self.k.to_le_bytes());
        bytes
    }
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const XOR: u16 = 0xa4; // BPF_ALU | BPF_XOR | BPF_K
const OR_X: u16 = 0x4c; // BPF_ALU | BPF_OR | BPF_X
const TO_X: u16 = 0x07; // BPF_MISC | BPF_TAX

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const POINTER_LOW: u32 = 8;
const POINTER_HIGH: u32 = 12;
const fn argument_low(index: u32) -> u32 {
    16 + 8 * index
}
const fn argument_high(index: u32) -> u32 {
    argument_low(index) + 4
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

fn load(k: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k }
}

fn verdict(k: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k }
}

/// Falls through where what was loaded is `k`; otherwise the call traps.
fn require(k: u32) -> [Instruction; 2] {
    [Instruction { code: EQUAL, jt: 1, jf: 0, k }, verdict(libc::SECCOMP_RET_TRAP)]
}

/// Allows the call where what was loaded is one of these; otherwise it traps.
fn require_one_of(values: &[u32]) -> Vec<Instruction> {
    let allow = verdict(libc::SECCOMP_RET_ALLOW);
    let checks = values.iter().flat_map(|&k| [Instruction { code: EQUAL, jt: 0, jf: 1, k }, allow]);
    checks.chain([verdict(libc::SECCOMP_RET_TRAP)]).collect()
}

/// `checks`, which end in a verdict, for this system call; another goes on behind them. Its number is loaded.
fn call(number: i64, checks: &[Instruction]) -> Vec<Instruction> {
    let length = u8::try_from(checks.len()).expect("a jump of this filter reaches 255 instructions");
    let other = Instruction { code: EQUAL, jt: 0, jf: length, k: number as u32 };
    std::iter::once(other).chain(checks.iter().copied()).collect()
}

/// What a call that changes mappings must have besides. One branch for both halves: it does not tell which was wrong.
fn keyed(secret: Option<Secret>) -> Vec<Instruction> {
    let Some([third, fourth]) = secret else { return Vec::new() };
    let plain = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let mut checks = vec![
        load(argument_high(3)),
        plain(XOR, third),
        plain(TO_X, 0),
        load(argument_high(4)),
        plain(XOR, fourth),
        plain(OR_X, 0),
    ];
    checks.extend(require(0));
    checks
}

/// The filter for a stub at `entries`; with a key that changes of mappings need (`super::keys`).
pub(super) fn program(entries: &Entries, secret: Option<Secret>) -> Vec<Instruction> {
    let trap = verdict(libc::SECCOMP_RET_TRAP);
    let allow = [verdict(libc::SECCOMP_RET_ALLOW)];
    let mut p = vec![load(ARCHITECTURE)];
    p.extend(require(AUDIT_ARCH_X86_64));
    p.push(load(POINTER_HIGH));
    p.extend(require((entries.begin >> 32) as u32));
    p.push(load(POINTER_LOW));
    p.extend([Instruction { code: AT_LEAST, jt: 1, jf: 0, k: entries.begin as u32 }, trap]);
    p.extend([Instruction { code: AT_LEAST, jt: 0, jf: 1, k: entries.end as u32 + 1 }, trap]);
    p.push(load(NUMBER));
    p.extend(call(libc::SYS_rt_sigreturn, &allow));
    // futex: only waiting and waking.
    let mut futex = vec![load(argument_low(1))];
    futex.extend(require_one_of(&[libc::FUTEX_WAIT as u32, libc::FUTEX_WAKE as u32]));
    p.extend(call(libc::SYS_futex, &futex));
    let mut munmap = keyed(secret);
    munmap.extend(allow);
    p.extend(call(libc::SYS_munmap, &munmap));
    // mmap: only RAM and its text, shared and at a fixed address. The shared area is where it is.
    let mut mmap = keyed(secret);
    mmap.push(load(argument_low(3)));
    mmap.extend(require((libc::MAP_SHARED | libc::MAP_FIXED) as u32));
    mmap.push(load(argument_low(4)));
    mmap.extend(require_one_of(&[RAM_FD, TEXT_FD]));
    p.extend(call(libc::SYS_mmap, &mmap));
    if secret.is_some() {
        // read: one instruction, one descriptor, one place.
        let mut read = vec![load(POINTER_LOW)];
        read.extend(require(entries.read as u32));
        let into = SHARED + at::REQUESTS;
        for (argument, value) in [(0, u64::from(KEYS_FD)), (1, into), (2, at::REQUESTS_SIZE)] {
            read.push(load(argument_low(argument)));
            read.extend(require(value as u32));
            read.push(load(argument_high(argument)));
            read.extend(require((value >> 32) as u32));
        }
        read.extend(allow);
        p.extend(call(libc::SYS_read, &read));
    }
    p.push(trap);
    p
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pv::child::stub;

    /// Runs a filter as the kernel does.
    fn judge(
        program: &[Instruction],
        number: i64,
        architecture: u32,
        pointer: u64,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = Vec::new();
        data.extend_from_slice(&(number as u32).to_le_bytes());
        data.extend_from_slice(&architecture.to_le_bytes());
        data.extend_from_slice(&pointer.to_le_bytes());
        arguments.iter().for_each(|a| data.extend_from_slice(&a.to_le_bytes()));
        let (mut at, mut a, mut x) = (0, 0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD => {
                    let k = i.k as usize;
                    a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                }
                EQUAL => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                AT_LEAST => at += usize::from(if a >= i.k { i.jt } else { i.jf }),
                XOR => a ^= i.k,
                OR_X => a |= x,
                TO_X => x = a,
                _ => return i.k,
            }
        }
    }

    #[test]
    fn only_the_stub_may_call_and_only_what_it_needs() {
        let entries = stub::entries();
        let program = program(&entries, None);
        let inside = entries.begin + 2;
        let map = [0x20_0000, 4096, 3, 0x11, u64::from(RAM_FD), 0];
        let run = |n, pointer, a| judge(&program, n, AUDIT_ARCH_X86_64, pointer, a);
        assert_eq!(run(libc::SYS_mmap, inside, map), libc::SECCOMP_RET_ALLOW);
        for (operation, verdict) in [
            (libc::FUTEX_WAIT, libc::SECCOMP_RET_ALLOW),
            (libc::FUTEX_WAKE, libc::SECCOMP_RET_ALLOW),
            (libc::FUTEX_REQUEUE, libc::SECCOMP_RET_TRAP),
            (libc::FUTEX_LOCK_PI, libc::SECCOMP_RET_TRAP),
        ] {
            assert_eq!(run(libc::SYS_futex, inside, [0, operation as u64, 0, 0, 0, 0]), verdict);
        }
        for n in 0..500 {
            let known = [libc::SYS_futex, libc::SYS_rt_sigreturn, libc::SYS_munmap, libc::SYS_mmap];
            if !known.contains(&n) {
                assert_eq!(run(n, inside, map), libc::SECCOMP_RET_TRAP, "system call {n}");
            }
            assert_eq!(run(n, 0x20_0000, map), libc::SECCOMP_RET_TRAP, "system call {n} of a guest");
            assert_eq!(run(n, entries.begin - 1, map), libc::SECCOMP_RET_TRAP);
            assert_eq!(run(n, entries.end + 1, map), libc::SECCOMP_RET_TRAP);
            assert_eq!(
                judge(&program, n, 0x4000_0003, inside, map),
                libc::SECCOMP_RET_TRAP,
                "32-bit call {n}"
            );
        }
        let anonymous = [0x20_0000, 4096, 3, 0x32, u64::MAX, 0];
        assert_eq!(run(libc::SYS_mmap, inside, anonymous), libc::SECCOMP_RET_TRAP);
        let other = [0x20_0000, 4096, 3, 0x11, 6, 0];
        assert_eq!(run(libc::SYS_mmap, inside, other), libc::SECCOMP_RET_TRAP);
    }

    #[test]
    fn a_users_process_needs_the_key_and_reads_it_at_one_place_only() {
        let entries = stub::entries();
        let secret = [0xdead_beef, 0x8000_0001];
        let program = program(&entries, Some(secret));
        let run = |n, pointer, a| judge(&program, n, AUDIT_ARCH_X86_64, pointer, a);
        let (allow, trap) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP);
        let inside = entries.begin + 2;
        let high = |half: u32| u64::from(half) << 32;
        let map = [0x20_0000, 4096, 3, 0x11 | high(secret[0]), high(secret[1]) | u64::from(RAM_FD), 0];
        assert_eq!(run(libc::SYS_mmap, inside, map), allow);
        let unmap = [0x20_0000, 4096, 0, high(secret[0]), high(secret[1]), 0];
        assert_eq!(run(libc::SYS_munmap, inside, unmap), allow);
        for argument in [3, 4] {
            for bit in 32..64 {
                for (number, mut arguments) in [(libc::SYS_mmap, map), (libc::SYS_munmap, unmap)] {
                    arguments[argument] ^= 1 << bit;
                    assert_eq!(run(number, inside, arguments), trap, "bit {bit} of argument {argument}");
                }
            }
        }
        assert_eq!(run(libc::SYS_futex, inside, [0; 6]), allow);
        let read = [u64::from(KEYS_FD), SHARED + at::REQUESTS, at::REQUESTS_SIZE, 0, 0, 0];
        assert_eq!(run(libc::SYS_read, entries.read, read), allow);
        assert_eq!(run(libc::SYS_read, entries.read + 1, read), trap);
        assert_eq!(run(libc::SYS_read, inside, read), trap);
        for argument in 0..3 {
            for bit in [0, 12, 31, 32, 63] {
                let mut other = read;
                other[argument] ^= 1 << bit;
                assert_eq!(
                    run(libc::SYS_read, entries.read, other),
                    trap,
                    "bit {bit} of argument {argument}"
                );
            }
        }
    }
}
