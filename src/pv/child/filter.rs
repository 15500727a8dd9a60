//! The child's system-call filter (seccomp(2), classic BPF).
//!
//! Only instructions of the stub may make system calls, and only those that it needs, with arguments that can harm
//! nobody but the child itself: a guest that jumps into the stub gains nothing. All other calls raise SIGSYS, which is
//! how a guest's own `syscall` instruction is noticed.
use super::stub::Entries;
use crate::pv::layout::{RAM_FD, TEXT_FD};

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

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const POINTER_LOW: u32 = 8;
const POINTER_HIGH: u32 = 12;
const fn argument_low(index: u32) -> u32 {
    16 + 8 * index
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The filter for a stub at `entries`.
pub(super) fn program(entries: &Entries) -> Vec<Instruction> {
    let load = |k| Instruction { code: LOAD, jt: 0, jf: 0, k };
    let verdict = |k| Instruction { code: RETURN, jt: 0, jf: 0, k };
    let trap = verdict(libc::SECCOMP_RET_TRAP);
    let allow = verdict(libc::SECCOMP_RET_ALLOW);
    // Each check falls through when it holds and else meets the `trap` behind it.
    let require = |k| [Instruction { code: EQUAL, jt: 1, jf: 0, k }, trap];
    let mut p = vec![load(ARCHITECTURE)];
    p.extend(require(AUDIT_ARCH_X86_64));
    p.push(load(POINTER_HIGH));
    p.extend(require((entries.begin >> 32) as u32));
    p.push(load(POINTER_LOW));
    p.extend([Instruction { code: AT_LEAST, jt: 1, jf: 0, k: entries.begin as u32 }, trap]);
    p.extend([Instruction { code: AT_LEAST, jt: 0, jf: 1, k: entries.end as u32 + 1 }, trap]);
    p.push(load(NUMBER));
    for number in [libc::SYS_rt_sigreturn, libc::SYS_munmap] {
        p.extend([Instruction { code: EQUAL, jt: 0, jf: 1, k: number as u32 }, allow]);
    }
    // futex: only waiting and waking. What follows EQUAL is passed over by another call.
    let operations = [libc::FUTEX_WAIT, libc::FUTEX_WAKE];
    let checks: Vec<Instruction> = operations
        .iter()
        .flat_map(|&op| [Instruction { code: EQUAL, jt: 0, jf: 1, k: op as u32 }, allow])
        .collect();
    p.push(Instruction { code: EQUAL, jt: 0, jf: checks.len() as u8 + 2, k: libc::SYS_futex as u32 });
    p.push(load(argument_low(1)));
    p.extend(checks);
    p.push(trap);
    p.extend(require(libc::SYS_mmap as u32));
    // mmap: only RAM and its text, shared and at a fixed address. The shared area is where it is.
    p.push(load(argument_low(3)));
    p.extend(require((libc::MAP_SHARED | libc::MAP_FIXED) as u32));
    p.push(load(argument_low(4)));
    for fd in [RAM_FD, TEXT_FD] {
        p.extend([Instruction { code: EQUAL, jt: 0, jf: 1, k: fd }, allow]);
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
        let (mut at, mut a) = (0, 0);
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
                _ => return i.k,
            }
        }
    }

    #[test]
    fn only_the_stub_may_call_and_only_what_it_needs() {
        let entries = stub::entries();
        let program = program(&entries);
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
}
