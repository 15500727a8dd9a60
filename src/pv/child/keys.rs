//! What makes a user's process execute requests of the engine and of nobody else.
//!
//! A program of ring 3 shares its process with the stub: it can jump to the stub's system-call instruction with registers of
//! its own, and `mmap` of guest RAM would give it the guest's kernel. So the filter of such a process wants a key in the
//! upper halves of two arguments that the host looks at the lower halves of only: `flags` and `fd` of `mmap`, the fourth and
//! the fifth of `munmap`, which it does not look at at all. A wrong key is SIGSYS, as any other call.
//!
//! The key must not be where the program can read it. The requests, with the key in them, go through a pipe. The filter
//! lets one instruction of the stub read it, to one address. From there on the stub depends on nothing that the program could
//! have prepared, executes all of them, and wipes each (region K of the stub). Signals that come meanwhile take the key
//! out of their frame.
//!
//! A process that has read requests ends up waiting in the stub. That is what makes *confined* a fact: with the requests comes a
//! number that nobody can guess (the *proof*), which the stub writes into the area at their end. A program that has taken the
//! stub's place in its process can write what it likes, but not that. While requests are under way the engine waits for
//! the proof and does nothing else: it reads no registers of the process, and lets no other one run.
#![expect(unsafe_code, reason = "random bytes, and the state of a pipe")]
use crate::pv::layout::at;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;

/// The upper halves of the fourth and the fifth argument.
pub(super) type Secret = [u32; 2];

/// Random words of the host's. So few bytes (at most 256) come at once, once there are any (getrandom(2)).
fn random<const N: usize>() -> io::Result<[u64; N]> {
    const { assert!(N <= 32) };
    let mut words = [0; N];
    let length = size_of_val(&words);
    // SAFETY: the buffer is live, and any bytes are words.
    while unsafe { libc::getrandom(words.as_mut_ptr().cast(), length, 0) } != length as isize {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(words)
}

/// The engine's end of the pipe.
#[derive(Debug)]
pub(super) struct Keys {
    pipe: PipeWriter,
    secret: Secret,
    in_use: bool,
    /// So many requests at a time fit the pipe.
    most: usize,
    /// Proofs to come.
    proofs: Vec<u64>,
}

impl Keys {
    /// A new key and its pipe; the reader is for the process.
    pub(super) fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, pipe) = io::pipe()?;
        // The host fills a page of the pipe with whole requests only: twice the bytes are enough.
        let enough = 2 * at::REQUESTS_SIZE as libc::c_int;
        // SAFETY: plain system calls on an owned descriptor.
        let size = unsafe {
            libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, enough);
            libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ)
        };
        // A user who has many pipes gets small ones.
        let size = u64::try_from(size).map_err(|_| io::Error::last_os_error())?;
        let most = ((size / 2 / at::REQUEST_SIZE) as usize).clamp(1, at::REQUESTS_MOST);
        let [secret] = random()?;
        let secret = [secret as u32, (secret >> 32) as u32];
        Ok((Self { pipe, secret, in_use: false, most, proofs: Vec::new() }, reader))
    }

    /// For the filter.
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// From now on the filter is there, and requests go through the pipe.
    pub(super) fn put_in_use(&mut self) {
        self.in_use = true;
    }

    /// Whether requests go through the pipe.
    pub(super) fn are_in_use(&self) -> bool {
        self.in_use
    }

    /// So many requests may be sent at a time.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Hands over requests: number and six arguments each, none of which uses the halves that the key takes. Returns the proof
    /// that they were made.
    pub(super) fn send(&mut self, requests: &[[u64; 7]]) -> io::Result<u64> {
        let proof = match self.proofs.pop() {
            Some(proof) => proof,
            None => {
                let [first, others @ ..] = random::<32>()?;
                self.proofs.extend(others);
                first
            }
        };
        let mut message = Vec::with_capacity(requests.len() * at::REQUEST_SIZE as usize);
        for request in requests {
            let mut request = *request;
            for (argument, secret) in request[4..6].iter_mut().zip(self.secret) {
                debug_assert!(*argument >> 32 == 0);
                *argument |= u64::from(secret) << 32;
            }
            request.iter().for_each(|word| message.extend_from_slice(&word.to_le_bytes()));
            message.extend_from_slice(&proof.to_le_bytes());
        }
        match self.pipe.write_all(&message) {
            // The process has ended, which is found when its answer is waited for.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(proof),
            result => result.map(|()| proof),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn as_many_requests_as_there_may_be_fit_and_carry_the_key() {
        let (mut keys, mut reader) = Keys::new().unwrap();
        let most = keys.most();
        assert!(most > 1);
        let requests: Vec<_> = (0..most as u64).map(|i| [11, i, 4096, 0, 0x11, 4, 0]).collect();
        let proof = keys.send(&requests).unwrap();
        let mut bytes = vec![0; most * at::REQUEST_SIZE as usize];
        reader.read_exact(&mut bytes).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let [low, high] = keys.secret();
        assert_eq!((word(64 + 8), word(64 + 32)), (1, (u64::from(low) << 32) | 0x11));
        assert_eq!(word((most - 1) * 64 + 40), (u64::from(high) << 32) | 4);
        assert_eq!(word((most - 1) * 64 + 56), proof);
        assert_ne!(keys.send(&requests[..1]).unwrap(), proof);
    }

    #[test]
    fn a_process_that_has_ended_is_no_error_here() {
        let (mut keys, reader) = Keys::new().unwrap();
        drop(reader);
        keys.send(&[[11, 0, 0, 0, 0, 0, 0]]).unwrap();
    }
}
