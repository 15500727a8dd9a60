//! Guest-virtual memory as code sees it: the TLB's fast path here, everything else in [`slow`].
//!
//! An access that hits the TLB is one host load or store. All others — first touch, page crossings, device memory,
//! stores to pages with decoded code, alignment checks — check the whole access before they change anything. A failed
//! access leaves its exception in [`Mmu::exception`] and returns the zero-sized [`Fault`].
#![expect(unsafe_code, reason = "a TLB hit is an access to guest RAM by host address")]
pub(crate) mod alias;
pub(crate) mod locked;
pub(crate) mod slow;
pub(crate) mod tlb;
pub(crate) mod watch;
pub(crate) mod window;

use super::single::debug;
use super::single::int::Int;
use crate::arch::paging::PagingMode;
use crate::arch::{CpuState, Cr0, Cr4, Exception, Rflags};
use crate::engine::{Platform, VcpuId};
use crate::mem::{GuestRam, Watcher};
use std::mem::offset_of;
pub(crate) use tlb::{Bank, Tlb};

/// An exception was raised; it lies in [`Mmu::exception`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault;

/// One vCPU's way to memory during a run.
pub(crate) struct Mmu<'a> {
    pub tlb: &'a mut Tlb,
    /// Rights of ordinary accesses now.
    pub bank: Bank,
    /// The exception behind the last [`Fault`].
    pub exception: Exception,
    /// Set by an access after which the block must end: device memory or code was written.
    pub stop: bool,
    /// Breakpoints on data.
    pub watches: watch::Watches<'a>,
    /// How addresses are translated.
    pub mode: PagingMode,
    pub ram: &'a GuestRam,
    pub platform: &'a Platform,
    pub vcpu: VcpuId,
    /// Its part in the watch over code.
    pub watcher: &'a Watcher,
}

impl Mmu<'_> {
    /// Where the mode's AC is, from `bank` on: translated code changes both.
    pub(crate) const AC_FROM_BANK: i32 =
        (offset_of!(Self, mode) + offset_of!(PagingMode, ac)) as i32 - offset_of!(Self, bank) as i32;

    /// Takes over the registers of `state` that decide about accesses.
    pub(crate) fn refresh(&mut self, state: &CpuState) {
        self.mode = PagingMode { physical_bits: self.mode.physical_bits, ..PagingMode::of(state) };
        if debug::is_armed(state) || self.watches.list != [None; 4] {
            self.watches.set(debug::watches(state));
        }
        self.bank = if state.cpl() == 3 {
            if state.cr0.contains(Cr0::AM) && state.rflags.contains(Rflags::AC) {
                Bank::UserAligned
            } else {
                Bank::User
            }
        } else if self.mode.ac && state.cr4.contains(Cr4::SMAP) {
            Bank::SupervisorAc
        } else {
            Bank::Supervisor
        };
    }

    /// Rights of rings 0–2 with RFLAGS.AC as it is.
    pub(crate) fn supervisor_bank(&self) -> Bank {
        if self.mode.ac && self.mode.cr4.contains(Cr4::SMAP) { Bank::SupervisorAc } else { Bank::Supervisor }
    }

    /// Notes `exception` and gives the token to return.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Fault {
        self.exception = exception;
        Fault
    }

    /// Reads at the linear address `at`. `stack` says that the access is through SS.
    #[inline(always)]
    pub(crate) fn read<T: Int>(&mut self, at: u64, stack: bool) -> Result<T, Fault> {
        match self.tlb.read(self.bank, at, T::BYTES) {
            // SAFETY: a hit proves that the whole access lies in a mapped page of RAM.
            Some(host) => Ok(unsafe { (host as *const T).read_unaligned() }),
            None => self.read_slow(at, T::BYTES, stack).map(T::of),
        }
    }

    /// Writes at the linear address `at`.
    #[inline(always)]
    pub(crate) fn write<T: Int>(&mut self, at: u64, value: T, stack: bool) -> Result<(), Fault> {
        match self.tlb.write(self.bank, at, T::BYTES) {
            Some(host) => {
                // SAFETY: as in `read`; the page holds no decoded code.
                unsafe { (host as *mut T).write_unaligned(value) };
                Ok(())
            }
            None => self.write_slow(at, T::BYTES, value.zx(), stack),
        }
    }

    /// Reads, changes and writes at `at`; `change` is called once, after the right to write is certain.
    #[inline(always)]
    pub(crate) fn update<T: Int>(
        &mut self,
        at: u64,
        stack: bool,
        change: impl FnOnce(T) -> T,
    ) -> Result<(), Fault> {
        if let Some(host) = self.tlb.write(self.bank, at, T::BYTES) {
            let host = host as *mut T;
            // SAFETY: as in `write`.
            unsafe { host.write_unaligned(change(host.read_unaligned())) };
            return Ok(());
        }
        self.check_write(at, T::BYTES, stack)?;
        let old = T::of(self.read_slow(at, T::BYTES, stack)?);
        self.write_slow(at, T::BYTES, change(old).zx(), stack)
    }

    /// Reads words upwards from `at`, if the TLB knows their page.
    #[inline]
    pub(crate) fn known_words<const N: usize>(&self, at: u64) -> Option<[u64; N]> {
        let host = self.tlb.read(self.bank, at, 8 * N)? as *const u64;
        // SAFETY: a hit proves that all the words lie in a mapped page of RAM.
        Some(std::array::from_fn(|i| unsafe { host.add(i).read_unaligned() }))
    }

    /// Writes words (at least one) upwards from `at` with the rights of `bank`; the last is written first, as pushes
    /// are, if they have to be written one by one.
    #[inline]
    pub(crate) fn push_words(&mut self, bank: Bank, at: u64, words: &[u64]) -> Result<(), Fault> {
        if let Some(host) = self.tlb.write(bank, at, 8 * words.len()) {
            for (i, &word) in words.iter().enumerate() {
                // SAFETY: a hit proves that all the words lie in a mapped page of RAM, which holds no decoded code.
                unsafe { (host as *mut u64).add(i).write_unaligned(word) };
            }
            return Ok(());
        }
        for (i, &word) in words.iter().enumerate().rev() {
            self.write_as(bank, at.wrapping_add(8 * i as u64), word, true)?;
        }
        Ok(())
    }

    /// Reads any number of bytes up to a page.
    #[inline]
    pub(crate) fn read_into(&mut self, at: u64, into: &mut [u8], stack: bool) -> Result<(), Fault> {
        if !into.is_empty()
            && let Some(host) = self.tlb.read(self.bank, at, into.len())
        {
            // SAFETY: a hit proves that all the bytes lie in a mapped page of RAM; `into` is a Rust slice elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(host as *const u8, into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        self.read_bytes(self.bank, at, into, stack)
    }

    /// Writes any number of bytes up to a page: all of them or none.
    #[inline]
    pub(crate) fn write_from(&mut self, at: u64, from: &[u8], stack: bool) -> Result<(), Fault> {
        if !from.is_empty()
            && let Some(host) = self.tlb.write(self.bank, at, from.len())
        {
            // SAFETY: as in `read_into`.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), host as *mut u8, from.len()) };
            return Ok(());
        }
        self.write_bytes(self.bank, at, from, stack)
    }
}
