//! Explicit hypercalls: what a guest that knows of us may ask for, made once for all engines.
//!
//! The engine brings the call here — from VMCALL, a patched site, an exit — with the whole [`CpuState`] at hand, and gets
//! back what its translations of guest addresses must forget ([`Stale`]). What is done is done on the state, guest RAM and
//! the parts of the machine that [`Hypercalls`] knows. All arguments are the guest's, so each is checked: addresses to be
//! RAM and aligned, counts to be bounded, lists to be read whole before anything is done. A mistake is a result, never
//! an error of ours.
//!
//! The convention is in [`abi`], and for guests in `docs/pv-abi.md`.
mod clock_page;
mod saved;
#[cfg(test)]
pub(crate) mod tests;

pub use saved::SavedHypercalls;

use super::{EventKind, Platform};
use crate::abi;
use crate::arch::address::PAGE_SIZE;
use crate::arch::cpuid::CpuidResult;
use crate::arch::paging::{self, PagingMode};
use crate::arch::state::gpr;
use crate::arch::{CpuState, Gpa, Gva, layout};
use crate::mem::GuestRam;
use clock_page::ClockPage;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Where the text of [`abi::CALL_CONSOLE_WRITE`] goes.
pub type TextSink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// VMCALL, a filler that makes a patch fit, RET: for engines that see VMCALL themselves.
const WITH_VMCALL: &[u8] = &[0x0f, 0x01, 0xc1, 0x90, 0xc3];

/// OUT of EAX, RET.
const WITH_PORT: &[u8] = &[0xe7, layout::HYPERCALL.0 as u8, 0xc3];

/// What a machine that offers hypercalls keeps for them.
pub struct Hypercalls {
    console: TextSink,
    /// What stands at the start of the hypercall page, if the engine has a way in of its own.
    way_in: OnceLock<&'static [u8]>,
    /// [`abi::MSR_HYPERCALL_PAGE`].
    page: AtomicU64,
    clock: Mutex<Option<ClockPage>>,
}

impl std::fmt::Debug for Hypercalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hypercalls").field("page", &self.page).finish_non_exhaustive()
    }
}

impl Hypercalls {
    /// Hypercalls whose text goes to `console`. No page is named yet.
    #[must_use]
    pub fn new(console: TextSink) -> Self {
        Self { console, way_in: OnceLock::new(), page: AtomicU64::new(0), clock: Mutex::default() }
    }

    /// What CPUID says of them.
    #[must_use]
    pub fn cpuid(&self) -> CpuidResult {
        CpuidResult {
            eax: abi::OFFERS_MMU_UPDATE
                | abi::OFFERS_SET_CR3
                | abi::OFFERS_MULTICALL
                | abi::OFFERS_CONSOLE
                | abi::OFFERS_CLOCK,
            ebx: abi::MSR_HYPERCALL_PAGE,
            ecx: abi::MMU_UPDATE_MOST,
            edx: abi::MULTICALL_MOST,
        }
    }

    /// To be called by an engine to which VMCALL does not come, before the guest runs: hypercall pages then begin with a
    /// write to [`layout::HYPERCALL`].
    pub fn take_port(&self) {
        self.way_in.get_or_init(|| WITH_PORT);
    }

    /// Whether the guest calls by the engine's own way in, which is a write of EAX to [`layout::HYPERCALL`], and calls are on.
    #[inline]
    #[must_use]
    pub fn come_by_port(&self) -> bool {
        self.are_on() && self.way_in.get().is_some()
    }

    /// Whether the guest has named its hypercall page: before that there are no hypercalls.
    #[inline]
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.page.load(Ordering::Relaxed) & abi::PAGE_ON != 0
    }

    /// [`abi::MSR_HYPERCALL_PAGE`].
    pub(super) fn page(&self) -> u64 {
        self.page.load(Ordering::Relaxed)
    }

    /// Writes [`abi::MSR_HYPERCALL_PAGE`], and the page; `None` is #GP.
    pub(super) fn set_page(&self, ram: &GuestRam, value: u64) -> Option<()> {
        let page = Gpa(value & !(PAGE_SIZE - 1));
        if value & (PAGE_SIZE - 1) & !abi::PAGE_ON != 0 {
            return None;
        }
        if value & abi::PAGE_ON != 0 {
            ram.offset(page, PAGE_SIZE)?;
            // What is not the way in stops whoever goes astray.
            let mut code = vec![0xcc; PAGE_SIZE as usize];
            let way_in = self.way_in.get().copied().unwrap_or(WITH_VMCALL);
            code[..way_in.len()].copy_from_slice(way_in);
            ram.write(page, &code).ok()?;
        }
        self.page.store(value, Ordering::Relaxed);
        Some(())
    }

    fn clock(&self) -> MutexGuard<'_, Option<ClockPage>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Small pages that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    /// Any address in the first.
    pub first: Gva,
    /// How many.
    pub count: u64,
}

/// What an engine must forget of translations before the guest goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stale {
    /// All of them, global ones too.
    pub everything: bool,
    /// Those of these pages, as by INVLPG of each; if not all, then these all the same.
    pub pages: Vec<PageRange>,
}

/// A call's number and arguments.
type Call = [u64; 4];

impl Platform {
    /// Makes the hypercall that RAX, RDI, RSI and RDX of `state` ask for, and puts the result into RAX. RIP is the
    /// caller's. `tsc_adjust` is how far the guest's RDTSC is ahead of the clock's. `None`: there are no hypercalls, or not
    /// for this ring and mode; nothing was done.
    pub fn hypercall(&self, state: &mut CpuState, tsc_adjust: u64) -> Option<Stale> {
        let calls = self.hypercalls().filter(|calls| calls.are_on())?;
        if state.cpl() != 0 || !state.is_64bit_code() {
            return None;
        }
        let mut stale = Stale::default();
        let call = [state.gpr[gpr::RAX], state.gpr[gpr::RDI], state.gpr[gpr::RSI], state.gpr[gpr::RDX]];
        let mut work = Work { platform: self, calls, state, tsc_adjust, stale: &mut stale };
        let result = if call[0] == abi::CALL_MULTICALL { work.multicall(call) } else { work.single(call) };
        state.gpr[gpr::RAX] = result;
        self.trace().record(EventKind::Hypercall, call[0], result, 0);
        Some(stale)
    }
}

/// One call being made.
struct Work<'a> {
    platform: &'a Platform,
    calls: &'a Hypercalls,
    state: &'a mut CpuState,
    tsc_adjust: u64,
    stale: &'a mut Stale,
}

impl Work<'_> {
    fn ram(&self) -> &GuestRam {
        self.platform.ram()
    }

    /// Reads a list of `count` items of `N` words at `at`.
    fn list<const N: usize>(&self, at: u64, count: u64, most: u32) -> Result<Vec<[u64; N]>, u64> {
        if count > most.into() {
            return Err(abi::ERROR_COUNT);
        }
        if !at.is_multiple_of(8) {
            return Err(abi::ERROR_ADDRESS);
        }
        let mut bytes = vec![0; 8 * N * count as usize];
        self.ram().read(Gpa(at), &mut bytes).map_err(|_| abi::ERROR_ADDRESS)?;
        let (words, _) = bytes.as_chunks::<8>();
        let items = words.chunks_exact(N);
        Ok(items.map(|item| std::array::from_fn(|i| u64::from_le_bytes(item[i]))).collect())
    }

    /// Any call but [`abi::CALL_MULTICALL`].
    fn single(&mut self, [number, a, b, c]: Call) -> u64 {
        match number {
            abi::CALL_NULL => 0,
            abi::CALL_MMU_UPDATE => self.mmu_update(a, b, c),
            abi::CALL_SET_CR3 => self.set_cr3(a),
            abi::CALL_MULTICALL => abi::ERROR_NESTED,
            abi::CALL_CONSOLE_WRITE => self.console_write(a, b),
            abi::CALL_CLOCK_PAGE => self.clock_page(a),
            _ => abi::ERROR_NUMBER,
        }
    }

    fn multicall(&mut self, [_, at, count, _]: Call) -> u64 {
        let list = match self.list::<{ abi::MULTICALL_WORDS }>(at, count, abi::MULTICALL_MOST) {
            Ok(list) => list,
            Err(error) => return error,
        };
        let size = 8 * abi::MULTICALL_WORDS as u64;
        for (i, &[number, a, b, c, _]) in (0..).zip(&list) {
            let result = self.single([number, a, b, c]);
            // The list was read, so it is RAM.
            self.ram().write_u64(Gpa(at + size * i + size - 8), result);
        }
        count
    }

    fn mmu_update(&mut self, at: u64, count: u64, first: u64) -> u64 {
        let list = match self.list::<2>(at, count, abi::MMU_UPDATE_MOST) {
            Ok(list) => list,
            Err(error) => return error,
        };
        let mut written = 0;
        for &[entry, value] in &list {
            if !entry.is_multiple_of(8) || !self.ram().write_u64(Gpa(entry), value) {
                break;
            }
            written += 1;
        }
        if first == abi::ANYWHERE {
            self.stale.everything |= written > 0;
        } else if written > 0 {
            self.stale.pages.push(PageRange { first: Gva(first), count: written });
        }
        written
    }

    fn set_cr3(&mut self, value: u64) -> u64 {
        let bits = self.platform.cpuid_table().physical_bits();
        let mode = PagingMode { cr3: value, physical_bits: bits, ..PagingMode::of(self.state) };
        let beyond = u64::MAX.checked_shl(bits.into()).unwrap_or(0);
        if value & beyond != 0 || !paging::root_is_valid(self.ram(), &mode) {
            return abi::ERROR_VALUE;
        }
        self.state.cr3 = value;
        self.stale.everything = true;
        0
    }

    fn console_write(&self, at: u64, length: u64) -> u64 {
        if length > abi::CONSOLE_MOST {
            return abi::ERROR_COUNT;
        }
        let mut text = vec![0; length as usize];
        if self.ram().read(Gpa(at), &mut text).is_err() {
            return abi::ERROR_ADDRESS;
        }
        (self.calls.console)(&text);
        length
    }

    fn clock_page(&self, at: u64) -> u64 {
        if at == abi::ANYWHERE {
            *self.calls.clock() = None;
            return 0;
        }
        if !at.is_multiple_of(PAGE_SIZE) || self.ram().offset(Gpa(at), PAGE_SIZE).is_none() {
            return abi::ERROR_ADDRESS;
        }
        let mut page = ClockPage::new(Gpa(at), self.tsc_adjust);
        page.write(self.ram(), self.platform.clock());
        *self.calls.clock() = Some(page);
        0
    }
}

impl Platform {
    /// To be called when guest time goes on after it stood: what the guest has in its RAM to read the clock by is written
    /// anew. The guest stands.
    pub fn renew_clock_page(&self) {
        self.renew_kvm_clock();
        let Some(calls) = self.hypercalls() else { return };
        if let Some(page) = calls.clock().as_mut() {
            page.write(self.ram(), self.clock());
        }
    }
}
