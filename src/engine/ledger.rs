//! Where a vCPU's time goes: each moment of its thread belongs to one account, named alike in every mode.
//!
//! An engine leaves guest code and goes on with it; what lies between is a *stay*, and its time belongs to what the stay was
//! for. That is known only after a while — the exit has to be read first — so a stay begins as [`Account::Dispatch`], and the
//! first cause that is counted ([`super::Counters::count`]) gives all of it so far its name. Work that is much the same in
//! every stay (a page walk, a device's model, making code) is charged by itself while it lasts ([`Ledger::charge`]).
//!
//! So the accounts add up to the thread's time by construction; whether that is the time of the run is for whoever measures
//! the run to say. Off by default, and then one load and a branch for each cause that is counted. On, each change of account
//! reads the TSC (about 20 ns): costs of single operations are measured without it.
use super::Cause;
use crate::sys::tsc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What a moment of a vCPU's thread went to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Account {
    /// Guest code, run or interpreted; and what a host's own mechanism (KVM, the kernel under pv's processes) does for it unseen.
    Guest,
    /// Instructions are decoded or translated.
    Translate,
    /// Finding out what guest code was left for and where it goes on, if that is all there was to do.
    Dispatch,
    /// The engine walks guest page tables for addresses that are not in its own cache, or moves its windows.
    SoftMmuFill,
    /// Hypercalls.
    Hypercall,
    /// Privileged or sensitive instructions, and those that a translator leaves to the interpreter.
    Privileged,
    /// Instructions that the host could not execute and the interpreter does.
    Rescue,
    /// Exceptions are entered in the guest.
    GuestException,
    /// Guest page-table changes are brought to the host's mappings.
    PageTableSync,
    /// Port accesses, without the device's own part.
    PortIo,
    /// Device-memory accesses, without the device's own part.
    Mmio,
    /// External interrupts are entered in the guest.
    Interrupt,
    /// The device models, timers that are due among them.
    Device,
    /// HLT waits.
    Idle,
    /// All else: a run begins or ends, the guest is moved to another engine.
    Host,
}

impl Account {
    /// All accounts, in the order in which they are shown.
    pub const ALL: [Self; 15] = [
        Self::Guest,
        Self::Translate,
        Self::Dispatch,
        Self::SoftMmuFill,
        Self::Hypercall,
        Self::Privileged,
        Self::Rescue,
        Self::GuestException,
        Self::PageTableSync,
        Self::PortIo,
        Self::Mmio,
        Self::Interrupt,
        Self::Device,
        Self::Idle,
        Self::Host,
    ];

    /// The word for it in CSV and tables; that of the [`Cause`] which it is the time of, if it is one's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest-code",
            Self::Translate => Cause::Translate.name(),
            Self::Dispatch => "dispatch",
            Self::SoftMmuFill => Cause::SoftMmuFill.name(),
            Self::Hypercall => Cause::Hypercall.name(),
            Self::Privileged => Cause::Privileged.name(),
            Self::Rescue => Cause::Rescue.name(),
            Self::GuestException => Cause::GuestException.name(),
            Self::PageTableSync => Cause::PageTableSync.name(),
            Self::PortIo => Cause::PortIo.name(),
            Self::Mmio => Cause::Mmio.name(),
            Self::Interrupt => Cause::Interrupt.name(),
            Self::Device => "device-model",
            Self::Idle => Cause::Idle.name(),
            Self::Host => "host",
        }
    }

    /// The account of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.name() == name)
    }

    /// What it holds, for readers of figures.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Guest => {
                "guest code runs or is interpreted; in kvm also what the host's kernel does for it unseen, in pv what the host's \
                 kernel does between a process and its monitor"
            }
            Self::Translate => "instructions are decoded or translated",
            Self::Dispatch => {
                "the engine finds out what guest code was left for and where it goes on, and that is all"
            }
            Self::SoftMmuFill => {
                "guest page tables are walked, or windows moved, for addresses that the engine does not know"
            }
            Self::Hypercall => "patched places in guest code, and hypercalls of its own, are answered",
            Self::Privileged => {
                "privileged instructions are executed for the guest, and those that are not translated"
            }
            Self::Rescue => "the interpreter executes what the host could not",
            Self::GuestException => "exceptions are entered in the guest",
            Self::PageTableSync => "the host's mappings follow the guest's page tables",
            Self::PortIo => "a port is accessed: the way to the device and back",
            Self::Mmio => "device memory is accessed: the way to the device and back",
            Self::Interrupt => "external interrupts are entered in the guest",
            Self::Device => "device models work, and timers that are due",
            Self::Idle => "HLT waits",
            Self::Host => "all else: a run begins or ends, the guest changes engines",
        }
    }

    /// Whose time what is counted as `cause` takes; none if that is no stay's purpose.
    const fn of(cause: Cause) -> Option<Self> {
        Some(match cause {
            Cause::Hypercall => Self::Hypercall,
            Cause::Privileged => Self::Privileged,
            Cause::HelpWindow => Self::SoftMmuFill,
            Cause::Rescue => Self::Rescue,
            Cause::GuestException => Self::GuestException,
            Cause::PageTableSync => Self::PageTableSync,
            Cause::PortIo => Self::PortIo,
            Cause::Mmio => Self::Mmio,
            Cause::Interrupt => Self::Interrupt,
            _ => return None,
        })
    }

    /// Whether it is a stay's, whose purpose may turn out to be another one; not guest code, nor charged by itself.
    const fn is_a_stays(self) -> bool {
        !matches!(self, Self::Guest | Self::Translate | Self::Device | Self::Idle | Self::Host)
    }

    const fn from_index(index: u8) -> Self {
        Self::ALL[index as usize % Self::ALL.len()]
    }
}

/// The word for time of a run that is on no account.
pub const UNATTRIBUTED: &str = "unattributed";

/// Ticks of the host's TSC on each account, in the order of [`Account::ALL`].
pub type Ticks = [u64; Account::ALL.len()];

/// TSC ticks as time.
#[must_use]
pub fn time_of(ticks: u64) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(tsc::frequency().max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// One vCPU's times. Written by its thread, read by anyone.
#[derive(Debug, Default)]
pub struct Ledger {
    kept: bool,
    /// The account to which time goes now.
    current: AtomicU8,
    /// The TSC up to which time has been charged; 0 while the vCPU does not run.
    since: AtomicU64,
    /// A work that is charged by itself lasts: the stay's purpose does not change.
    charges: AtomicU8,
    ticks: [AtomicU64; Account::ALL.len()],
}

/// Charges an account until it is dropped; the time after belongs to the account before again.
#[must_use]
pub struct Charge<'a>(Option<(&'a Ledger, Account)>);

impl Drop for Charge<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((ledger, before)) = self.0 {
            ledger.charges.store(ledger.charges.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            ledger.turn_to(before);
        }
    }
}

impl Ledger {
    /// A ledger that is kept, or not.
    #[must_use]
    pub fn new(kept: bool) -> Self {
        if kept {
            // Measured once, which takes a while.
            let _hz = tsc::frequency();
        }
        Self { kept, ..Self::default() }
    }

    /// Whether it is kept.
    #[inline]
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The vCPU's thread begins to run it.
    pub fn begin(&self) {
        if self.kept {
            self.current.store(Account::Host as u8, Ordering::Relaxed);
            self.since.store(tsc::read(), Ordering::Relaxed);
        }
    }

    /// The vCPU's thread stops to run it.
    pub fn end(&self) {
        if self.kept {
            self.turn_to(Account::Host);
            self.since.store(0, Ordering::Relaxed);
        }
    }

    /// An engine begins, or has left guest code: a stay.
    #[inline]
    pub fn leaves_guest(&self) {
        if self.kept {
            self.turn_to(Account::Dispatch);
        }
    }

    /// An engine goes on with guest code.
    #[inline]
    pub fn enters_guest(&self) {
        if self.kept {
            self.turn_to(Account::Guest);
        }
    }

    /// An engine has ended, and the vCPU's thread looks what is to be done.
    #[inline]
    pub fn leaves_engine(&self) {
        if self.kept {
            self.turn_to(Account::Host);
        }
    }

    /// Charges `account` until the answer is dropped.
    #[inline]
    pub fn charge(&self, account: Account) -> Charge<'_> {
        if !self.kept {
            return Charge(None);
        }
        let before = self.current();
        self.turn_to(account);
        self.charges.store(self.charges.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Charge(Some((self, before)))
    }

    /// The stay was for this, as the engine knows better than what is counted.
    #[inline]
    pub fn is_for(&self, account: Account) {
        if self.kept {
            self.name(account);
        }
    }

    /// Something was counted: the stay may have been for that.
    #[inline]
    pub(super) fn note(&self, cause: Cause) {
        if self.kept
            && let Some(account) = Account::of(cause)
        {
            self.name(account);
        }
    }

    #[cold]
    fn name(&self, account: Account) {
        let current = self.current();
        if !current.is_a_stays() || self.charges.load(Ordering::Relaxed) > 0 || current == account {
            return;
        }
        match (current, account) {
            // All of the stay so far was for it: what a translator leaves to the interpreter is one thing or another.
            (Account::Dispatch, _)
            | (Account::Privileged, Account::PortIo | Account::Mmio | Account::Hypercall) => {
                self.current.store(account as u8, Ordering::Relaxed);
            }
            // They follow from what has its name already: a hypercall for OUT.
            (_, Account::PortIo | Account::Mmio | Account::Hypercall | Account::Privileged) => {}
            // It comes on top.
            _ => self.turn_to(account),
        }
    }

    /// Ticks so far, those of the account that is current up to now. Exact on the vCPU's thread, and while it does not run.
    #[must_use]
    pub fn read(&self) -> Ticks {
        let mut ticks = self.ticks.each_ref().map(|ticks| ticks.load(Ordering::Relaxed));
        let since = self.since.load(Ordering::Relaxed);
        if since != 0 {
            ticks[self.current() as usize] += tsc::read().saturating_sub(since);
        }
        ticks
    }

    fn current(&self) -> Account {
        Account::from_index(self.current.load(Ordering::Relaxed))
    }

    /// Charges the account that is current, and goes on with another one. A vCPU that does not run (single steps do without
    /// [`Self::begin`]) has no time.
    fn turn_to(&self, account: Account) {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return;
        }
        let now = tsc::read();
        let cell = &self.ticks[self.current() as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(now.saturating_sub(since)), Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.current.store(account as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ledger that runs, with the TSC moved on by what the test wants.
    fn running() -> Ledger {
        let ledger = Ledger::new(true);
        ledger.begin();
        ledger
    }

    fn busy(ticks: u64) {
        let begun = tsc::read();
        while tsc::read().wrapping_sub(begun) < ticks {
            std::hint::spin_loop();
        }
    }

    fn on(ledger: &Ledger, account: Account) -> u64 {
        ledger.read()[account as usize]
    }

    #[test]
    fn accounts_are_listed_in_their_own_order_and_explained() {
        let explained = include_str!("../../docs/exits.md");
        for (i, account) in Account::ALL.into_iter().enumerate() {
            assert_eq!(account as usize, i);
            assert_eq!(Account::find(account.name()), Some(account));
            assert!(explained.contains(&format!("| `{}` |", account.name())), "{}", account.name());
        }
    }

    #[test]
    fn a_stay_belongs_to_what_it_was_for_from_its_begin() {
        let ledger = running();
        ledger.leaves_guest();
        busy(50_000);
        ledger.note(Cause::PortIo);
        {
            let _device = ledger.charge(Account::Device);
            ledger.note(Cause::Interrupt);
            busy(20_000);
        }
        busy(1000);
        ledger.enters_guest();
        ledger.note(Cause::SoftMmuFill);
        ledger.note(Cause::Hypercall);
        assert!(on(&ledger, Account::PortIo) >= 51_000, "{:?}", ledger.read());
        assert!(on(&ledger, Account::Device) >= 20_000);
        assert_eq!(ledger.current(), Account::Guest);
        for nothing in [Account::Dispatch, Account::Interrupt, Account::Hypercall] {
            assert_eq!(on(&ledger, nothing), 0, "{nothing:?}");
        }
    }

    #[test]
    fn what_comes_on_top_has_its_own_time_and_what_follows_has_not() {
        let ledger = running();
        ledger.leaves_guest();
        ledger.note(Cause::Hypercall);
        ledger.note(Cause::PortIo);
        assert_eq!(ledger.current(), Account::Hypercall);
        ledger.note(Cause::GuestException);
        assert_eq!(ledger.current(), Account::GuestException);
        ledger.leaves_engine();
        ledger.note(Cause::Hypercall);
        assert_eq!(ledger.current(), Account::Host);
    }

    #[test]
    fn nothing_is_charged_that_was_not_begun() {
        for ledger in [Ledger::default(), Ledger::new(true)] {
            ledger.leaves_guest();
            ledger.note(Cause::Mmio);
            drop(ledger.charge(Account::Device));
            assert_eq!(ledger.read(), Ticks::default());
        }
        let ledger = running();
        ledger.end();
        let stands = ledger.read();
        busy(1000);
        ledger.enters_guest();
        assert_eq!(ledger.read(), stands);
    }

    proptest! {
        #[test]
        fn accounts_add_up_to_the_time_that_passed(acts in prop::collection::vec((0u8..6, 0usize..Cause::ALL.len()), 0..60)) {
            let before = tsc::read();
            let ledger = running();
            let begun = ledger.since.load(Ordering::Relaxed);
            prop_assert!(begun >= before);
            for (act, which) in acts {
                match act {
                    0 => ledger.leaves_guest(),
                    1 => ledger.enters_guest(),
                    2 => ledger.leaves_engine(),
                    3 => ledger.note(Cause::ALL[which]),
                    4 => drop(ledger.charge(Account::ALL[which % Account::ALL.len()])),
                    _ => {
                        let _outer = ledger.charge(Account::Device);
                        ledger.note(Cause::ALL[which]);
                        let _inner = ledger.charge(Account::SoftMmuFill);
                    }
                }
            }
            ledger.turn_to(Account::Host);
            let passed = ledger.since.load(Ordering::Relaxed) - begun;
            prop_assert_eq!(ledger.ticks.iter().map(|t| t.load(Ordering::Relaxed)).sum::<u64>(), passed);
            prop_assert_eq!(ledger.charges.load(Ordering::Relaxed), 0);
        }
    }
}
