//! Two processes of a vCPU, the kernel's and a user's, of which one at a time has the vCPU; and the engine that waits for
//! either.
//!
//! | turn of the kernel's | who has the vCPU |
//! |---|---|
//! | `CHILD` | the kernel's |
//! | `ENGINE` | the engine |
//! | `STAND_DOWN`, then `PARKED` | the user's |
//!
//! The user's word stays `KERNEL` while the kernel handles a SYSCALL. So the user's must be set to `CHILD` before the kernel's
//! leaves `ENGINE`, or the kernel's process would take the same SYSCALL up again.
//!
//! A user's report counts only if the engine can take the kernel's word from `PARKED` to `ENGINE` (*claim*), which the
//! kernel's process does itself, to `CHILD`, when it takes up a SYSCALL. So the two cannot both believe to have the vCPU,
//! whatever a user program writes into its own area.
//!
//! With three CPUs each looks at its word on its own. With two, the engine has one while it is needed often, and the
//! processes hand over to each other by sleeping on the other; once the engine has gone to sleep, the user's process takes
//! over its CPU and both look again. See `docs/decisions/pv-handover.md`.
use super::{Awake, Child, LIFE_CHECK, PATIENCE, Waiting, crash};
use crate::engine::{EngineError, KickCell};
use crate::pv::layout::{at, command, turn};
use crate::sys::{futex, tsc};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::pv) enum Who {
    /// The kernel's process.
    Kernel,
    /// The user's process.
    User,
}

/// The engine sleeps so long before the user's process gets its CPU.
const GIVE_AFTER: Duration = Duration::from_millis(1);
/// After so many short waits in a row the engine wants its CPU back.
const SHORT_WAITS: u32 = 4;
/// A wait of the engine that is shorter than this, in nanoseconds, is short.
const SHORT: u64 = 100_000;

/// Who waits for whom.
#[derive(Debug)]
pub(in crate::pv) struct Pairing {
    /// Whose report the engine has.
    pub(in crate::pv) holder: Who,
    /// The user's process has the engine's CPU.
    taken_over: bool,
    short_waits: u32,
    /// When both were told to come out where they may be interrupted.
    hurried: Option<Instant>,
}

impl Pairing {
    /// The kernel's process waits for the engine, and no user's is there.
    pub(in crate::pv) fn new() -> Self {
        Self { holder: Who::Kernel, taken_over: false, short_waits: 0, hurried: None }
    }

    /// Who has reported, if anybody.
    fn reporter(kernel: &Child, user: Option<&Child>) -> Option<Who> {
        if kernel.has_reported() {
            return Some(Who::Kernel);
        }
        user.filter(|user| user.has_reported())?;
        let word = kernel.shared.word(at::TURN);
        // In this order: the kernel's process goes from the first to the second.
        let claimed = [turn::STAND_DOWN, turn::PARKED].into_iter().any(|from| {
            word.compare_exchange(from, turn::ENGINE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        });
        claimed.then_some(Who::User)
    }

    /// Lets one of the two go on, and the other wait for it. Without a user's process it is the kernel's.
    pub(in crate::pv) fn release(
        &mut self,
        kernel: &mut Child,
        user: Option<&mut Child>,
        who: Who,
        commands: u32,
    ) -> Result<(), EngineError> {
        kernel.check_results()?;
        self.hurried = None;
        let Some(user) = user else {
            kernel.release(commands)?;
            return Ok(());
        };
        match (self.holder, who) {
            (Who::Kernel, Who::Kernel) => {
                user.park();
                // A report that the engine has had is none any more.
                let word = user.shared.word(at::TURN);
                let _ = word.compare_exchange(turn::ENGINE, turn::PARKED, Ordering::SeqCst, Ordering::SeqCst);
                kernel.release(commands)?;
            }
            (Who::User, Who::Kernel) => {
                user.park();
                // First: once the kernel's process goes on, the user's may go on, too, and report again, which this must not
                // take for the report that the engine has had.
                let word = user.shared.word(at::TURN);
                let stands_down =
                    word.compare_exchange(turn::ENGINE, turn::STAND_DOWN, Ordering::SeqCst, Ordering::SeqCst);
                kernel.hand_over(commands)?;
                // Awake, and not yet standing by, it wakes the kernel's process itself, which costs less on the same CPU.
                if stands_down.is_err() || user.turn() != turn::STAND_DOWN || user.is_asleep() {
                    kernel.wake();
                }
            }
            (_, Who::User) => {
                kernel.flush()?;
                kernel.park();
                user.hand_over(commands)?;
                kernel.shared.put_word(at::KICK, 0);
                let was_asleep = kernel.is_asleep();
                kernel.shared.word(at::TURN).store(turn::STAND_DOWN, Ordering::SeqCst);
                if self.holder == Who::User || was_asleep || kernel.is_asleep() {
                    user.wake();
                }
                if user.turn() == turn::KERNEL {
                    // It rang before the kernel's process could know that it had the vCPU, and does not do so again.
                    kernel.wake();
                }
            }
        }
        Ok(())
    }

    /// Has the user's process execute its requests, and wait; the engine has the vCPU, and the ways are shut.
    pub(in crate::pv) fn confine(&mut self, kernel: &mut Child, user: &mut Child) -> Result<(), EngineError> {
        if self.holder == Who::User {
            return user.confine();
        }
        // On the kernel's CPU, if there is no other: so that has to stand down.
        let proof = user.announce()?;
        self.release(kernel, Some(user), Who::User, command::REPORT)?;
        self.await_report(kernel, Some(user))?;
        user.check(proof)
    }

    /// The user's process, which is confined, is no longer the one that the kernel's hands over to.
    pub(in crate::pv) fn dismiss(&mut self, user: &Child) {
        if self.holder == Who::User {
            self.holder = Who::Kernel;
            let word = user.shared.word(at::TURN);
            let _ = word.compare_exchange(turn::ENGINE, turn::STAND_DOWN, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Waits until one of the two reports or `kick` is raised. [`Self::holder`] is then the one that has.
    pub(in crate::pv) fn wait(
        &mut self,
        kernel: &mut Child,
        mut user: Option<&mut Child>,
        kick: &KickCell,
    ) -> Result<Awake, EngineError> {
        let start = tsc::read();
        let look = if self.taken_over { 0 } else { kernel.place.look_ticks() };
        loop {
            for _ in 0..16 {
                if let Some(who) = Self::reporter(kernel, user.as_deref()) {
                    self.holder = who;
                    self.waited(kernel, user, tsc::read().wrapping_sub(start));
                    return Ok(Awake::Report);
                }
                if kick.is_raised() {
                    return Ok(Awake::Attention);
                }
                std::hint::spin_loop();
            }
            if tsc::read().wrapping_sub(start) >= look {
                break;
            }
        }
        if !self.taken_over {
            // Otherwise the two have their CPUs, and the engine may wake up on either.
            kernel.place.update(kernel.process.pid());
            if let Some(user) = user.as_deref_mut() {
                user.place.update(user.process.pid());
            }
        }
        let slept = Instant::now();
        loop {
            let gives = !self.taken_over && user.as_deref().is_some_and(|user| user.place.is_tight());
            let reported =
                self.sleep(kernel, user.as_deref(), kick, if gives { GIVE_AFTER } else { LIFE_CHECK });
            if let Some(user) = user.as_deref_mut()
                && gives
                && reported.is_none()
                && slept.elapsed() >= GIVE_AFTER
            {
                self.give_cpu(kernel, user, true);
            }
            if let Some(who) = reported {
                self.holder = who;
                let waited = tsc::read().wrapping_sub(start);
                kernel.place.slept(waited);
                self.waited(kernel, user, waited);
                return Ok(Awake::Report);
            }
            if kick.is_raised() {
                return Ok(Awake::Attention);
            }
            kernel.check_alive()?;
            if let Some(user) = user.as_deref() {
                user.check_alive()?;
            }
            self.check_patience(kernel)?;
        }
    }

    /// Both are to come out where they may be interrupted; the ways are closed.
    pub(in crate::pv) fn hurry(&mut self) {
        self.hurried.get_or_insert_with(Instant::now);
    }

    /// A kernel may keep interrupts off for as long as it likes, a user may not.
    fn check_patience(&self, kernel: &Child) -> Result<(), EngineError> {
        let is_users = matches!(kernel.turn(), turn::STAND_DOWN | turn::PARKED);
        if is_users && self.hurried.is_some_and(|since| since.elapsed() > PATIENCE) {
            return Err(crash("a program in it does not let itself be interrupted"));
        }
        Ok(())
    }

    /// Takes the CPU back that the user's process was given, where the engine is needed often: a report came after so many
    /// ticks.
    fn waited(&mut self, kernel: &mut Child, user: Option<&mut Child>, ticks: u64) {
        if !self.taken_over {
            return;
        }
        let is_short = ticks < tsc::frequency() / 1_000_000 * SHORT / 1000;
        self.short_waits = if is_short { self.short_waits + 1 } else { 0 };
        if let Some(user) = user
            && self.short_waits >= SHORT_WAITS
        {
            self.give_cpu(kernel, user, false);
        }
    }

    /// As [`Self::wait`], for a report that must come because both were told to stop.
    pub(in crate::pv) fn await_report(
        &mut self,
        kernel: &mut Child,
        user: Option<&mut Child>,
    ) -> Result<(), EngineError> {
        let (start, ticks) = (Instant::now(), tsc::read());
        let quiet = KickCell::new();
        loop {
            let looked = tsc::read().wrapping_sub(ticks) >= kernel.place.look_ticks();
            let reported = if looked {
                self.sleep(kernel, user.as_deref(), &quiet, LIFE_CHECK)
            } else {
                std::hint::spin_loop();
                Self::reporter(kernel, user.as_deref())
            };
            if let Some(who) = reported {
                self.holder = who;
                return Ok(());
            }
            if looked {
                kernel.check_alive()?;
                if let Some(user) = user.as_deref() {
                    user.check_alive()?;
                }
                if start.elapsed() > PATIENCE {
                    return Err(crash("it did not stop when it was told to"));
                }
            }
        }
    }

    /// One sleep, until someone may have reported.
    fn sleep(&self, kernel: &Child, user: Option<&Child>, kick: &KickCell, timeout: Duration) -> Option<Who> {
        let asleep = kernel.shared.word(at::ENGINE_ASLEEP);
        asleep.store(1, Ordering::SeqCst);
        let users = user.map(|user| user.shared.word(at::ENGINE_ASLEEP));
        if let Some(word) = users {
            word.store(1, Ordering::SeqCst);
        }
        let mut reported = Self::reporter(kernel, user);
        if reported.is_none() && !kick.is_raised() {
            match users {
                None => futex::wait_any([(asleep, 1), (kick.word(), 0)], timeout),
                Some(word) => futex::wait_any([(asleep, 1), (word, 1), (kick.word(), 0)], timeout),
            }
        }
        asleep.store(0, Ordering::SeqCst);
        if let Some(word) = users {
            word.store(0, Ordering::SeqCst);
        }
        reported = reported.or_else(|| Self::reporter(kernel, user));
        reported
    }

    /// Lets the user's process have the engine's CPU, or takes it back.
    fn give_cpu(&mut self, kernel: &mut Child, user: &mut Child, give: bool) {
        self.taken_over = give;
        self.short_waits = 0;
        user.place.take_over(give);
        kernel.place.update(kernel.process.pid());
        user.place.update(user.process.pid());
        self.set_looks(kernel, user);
    }

    /// Tells both how long to look for each other.
    pub(in crate::pv) fn set_looks(&self, kernel: &Child, user: &Child) {
        let looks = user.place.pair_looks();
        kernel.shared.put_word(at::PAIR_SPINS, looks);
        user.shared.put_word(at::PAIR_SPINS, looks);
    }
}

impl Child {
    /// A child that waits in a signal handler is to leave that before it goes on; its registers are then where a
    /// hypercall has them.
    pub(super) fn park(&mut self) {
        if matches!(self.waiting, Waiting::Signal { .. }) {
            self.shared.put_word(at::PARK, 1);
            self.waiting = Waiting::Hypercall;
        }
    }

    /// The kernel's process: hands over to this user's process from now on.
    pub(in crate::pv) fn set_user(&mut self, user: &Self) {
        let area = user.shared.area() as u64;
        let address = crate::pv::layout::SHARED + crate::pv::layout::SHARED_SIZE * area;
        if self.shared.get(at::USER_AREA) == address {
            return;
        }
        self.shared.swap(at::USER_AREA, address);
        // It may sleep at the former's door.
        self.wake();
        self.door = Some(user.shared.clone());
    }
}
