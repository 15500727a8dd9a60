//! Signals: the kick that brings a vCPU thread out of guest code, and Ctrl-C.
//!
//! [`KickCell`] is the mechanism of kicks that cannot be lost. A kick sets a word first and then sends a signal to
//! the thread that the cell is bound to. The handler sets the word again (host timers send the same signal without
//! touching the cell) and its mirror, a byte that guest code or KVM_RUN looks at. So a kick at any moment is seen: before
//! the look at the word by that look, after it by the signal, which either interrupts the blocking call or, through the
//! mirror, keeps it from blocking.
#![expect(unsafe_code, reason = "signal handlers and thread-directed signals")]
use super::futex;
use std::cell::Cell;
use std::io;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

thread_local! {
    /// The cell bound to this thread. Without destructor and const-initialised: safe to read in a signal handler.
    static BOUND: Cell<*const KickCell> = const { Cell::new(null()) };
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// The signal used for kicks and deadlines. Not one of the real-time signals: of those the host queues so many for a
/// user and then no more, and a kick that is not delivered is lost.
#[must_use]
pub fn kick_signal() -> i32 {
    libc::SIGURG
}

/// The calling thread's id.
#[must_use]
pub fn current_tid() -> i32 {
    TID.with(|tid| {
        if tid.get() == 0 {
            // SAFETY: gettid has no preconditions.
            tid.set(unsafe { libc::gettid() });
        }
        tid.get()
    })
}

extern "C" fn on_kick(_: i32) {
    let cell = BOUND.with(Cell::get);
    if !cell.is_null() {
        // SAFETY: `Bound` keeps the cell alive while the pointer is set, and this handler runs on that same thread.
        unsafe { (*cell).raise() };
    }
}

fn install_handler() -> io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let errno = *DONE.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid: no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_kick as *const () as usize;
        // SAFETY: `action` is initialised and the handler only touches atomics. No SA_RESTART: calls must return.
        if unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) } == 0 {
            0
        } else {
            io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
        }
    });
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Lets the calling thread have the signal, whatever mask it was started with.
fn unblock() -> io::Result<()> {
    // SAFETY: the set is initialised before it is used, and lives on this stack.
    let errno = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, kick_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Calls for a vCPU thread's attention. See the file's head for why none is lost.
#[derive(Debug, Default)]
pub struct KickCell {
    attention: AtomicU32,
    leave: AtomicBool,
    tid: AtomicI32,
    mirror: AtomicPtr<u8>,
}

impl KickCell {
    /// A cell that is bound to no thread yet; kicks are remembered.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Binds the cell to the calling thread until the guard is dropped.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn bind(self: &Arc<Self>) -> io::Result<Bound> {
        install_handler()?;
        unblock()?;
        let before = BOUND.with(|b| b.replace(Arc::as_ptr(self)));
        self.tid.store(current_tid(), Ordering::SeqCst);
        Ok(Bound { cell: Arc::clone(self), before })
    }

    /// Asks the vCPU to look at its surroundings (an interrupt line, a timer) at the next instruction boundary.
    pub fn poke(&self) {
        self.raise();
        let tid = self.tid.load(Ordering::SeqCst);
        if tid != 0 && tid != current_tid() {
            // SAFETY: signals a thread of this process; one that has just ended gives ESRCH, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, kick_signal()) };
        }
    }

    /// As [`Self::poke`], unless the caller is the thread that the cell is bound to.
    pub fn poke_from_elsewhere(&self) {
        if self.tid.load(Ordering::SeqCst) != current_tid() {
            self.poke();
        }
    }

    /// Asks the vCPU to leave `run` at the next instruction boundary. A kick before `run` is remembered.
    pub fn kick(&self) {
        self.leave.store(true, Ordering::SeqCst);
        self.poke();
    }

    /// The next call for attention, whatever it is for, has the vCPU leave `run`.
    pub fn leave_when_asked(&self) {
        self.leave.store(true, Ordering::SeqCst);
    }

    fn raise(&self) {
        self.attention.store(1, Ordering::SeqCst);
        let flag = self.mirror.load(Ordering::SeqCst);
        if !flag.is_null() && self.tid.load(Ordering::SeqCst) == current_tid() {
            // SAFETY: the owner of the mapping is this thread (see `mirror_in`) and clears the pointer
            // before it unmaps it.
            unsafe { flag.write_volatile(1) };
        }
    }

    /// Whether attention is asked for. Cheap: one load.
    #[inline]
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.attention.load(Ordering::Relaxed) != 0
    }

    /// The word that is nonzero while attention is asked for, to wait for.
    #[must_use]
    pub fn word(&self) -> &AtomicU32 {
        &self.attention
    }

    /// Whether the cell is bound to the calling thread, and no other one since.
    #[must_use]
    pub fn is_bound_here(&self) -> bool {
        self.tid.load(Ordering::SeqCst) == current_tid() && std::ptr::eq(BOUND.with(Cell::get), self)
    }

    /// Whether attention was asked for; the request is taken down.
    pub fn take_attention(&self) -> bool {
        self.attention.swap(0, Ordering::SeqCst) != 0
    }

    /// Whether the vCPU was asked to leave; the request is taken down.
    pub fn take_leave(&self) -> bool {
        self.leave.swap(false, Ordering::SeqCst)
    }

    /// Names a byte that becomes 1, on the thread that the cell is bound to, when attention is asked for: one that the
    /// guest's code or KVM_RUN looks at (`kvm_run.immediate_exit`). Whoever clears it looks at [`Self::is_raised`] after.
    ///
    /// # Safety
    /// The byte must stay valid until the guard is dropped, which happens on the calling thread, and be accessed in
    /// between by that thread alone, through raw pointers.
    pub unsafe fn mirror_in(&self, flag: *mut u8) -> Mirrored<'_> {
        self.mirror.store(flag, Ordering::SeqCst);
        Mirrored(self)
    }

    /// Sleeps until attention is asked for, or for at most `timeout`; may return early.
    pub fn wait(&self, timeout: Option<Duration>) {
        if !self.is_raised() {
            futex::wait(&self.attention, 0, timeout);
        }
    }
}

/// Takes the mirror of a [`KickCell`] back.
#[derive(Debug)]
#[must_use]
pub struct Mirrored<'a>(&'a KickCell);

impl Drop for Mirrored<'_> {
    fn drop(&mut self) {
        self.0.mirror.store(std::ptr::null_mut(), Ordering::SeqCst);
    }
}

/// Keeps a [`KickCell`] bound to the thread that made it.
#[derive(Debug)]
pub struct Bound {
    cell: Arc<KickCell>,
    before: *const KickCell,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.cell.tid.store(0, Ordering::SeqCst);
        BOUND.with(|b| b.set(self.before));
    }
}

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static TIMES_INTERRUPTED: AtomicU32 = AtomicU32::new(0);
/// The number of the first signal since the mark was last down; 0 for none.
static INTERRUPTED_BY: AtomicI32 = AtomicI32::new(0);

/// A signal by which somebody wants this process to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruption {
    /// SIGINT, as Ctrl-C sends it.
    CtrlC,
    /// SIGTERM, as `kill` and service managers send it.
    Terminate,
}

impl Interruption {
    const ALL: [Self; 2] = [Self::CtrlC, Self::Terminate];

    const fn number(self) -> i32 {
        match self {
            Self::CtrlC => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
        }
    }

    /// The word for it in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CtrlC => "Ctrl-C",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The exit status of a process that ends because of it, as shells give it: 128 and the signal's number.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        // Both numbers are below 16.
        128 + self.number() as u8
    }
}

extern "C" fn on_interrupt(signal: i32) {
    // The first one counts. Before the mark, so that whoever sees the mark finds the number.
    let _not_the_first = INTERRUPTED_BY.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    // Reading an initialised OnceLock is one atomic load.
    if let Some(flag) = INTERRUPTED.get() {
        flag.store(true, Ordering::SeqCst);
    }
    if TIMES_INTERRUPTED.fetch_add(1, Ordering::SeqCst) >= 2 {
        // The third one means it. SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// The mark that Ctrl-C and SIGTERM set once they are caught.
#[must_use]
pub fn interrupt_flag() -> Arc<AtomicBool> {
    Arc::clone(INTERRUPTED.get_or_init(Arc::default))
}

/// From now on Ctrl-C and SIGTERM only set a mark (see [`interrupted`]); the third one ends the process.
///
/// # Errors
/// What `sigaction` reports.
pub fn catch_interrupts() -> io::Result<()> {
    catch(&Interruption::ALL)
}

/// As [`catch_interrupts`] for Ctrl-C alone; SIGTERM still ends the process.
///
/// # Errors
/// What `sigaction` reports.
pub fn catch_ctrl_c() -> io::Result<()> {
    catch(&[Interruption::CtrlC])
}

fn catch(wanted: &[Interruption]) -> io::Result<()> {
    let _exists_before_the_handler = interrupt_flag();
    for signal in wanted.iter().map(|wanted| wanted.number()) {
        // SAFETY: as in `install_handler`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_interrupt as *const () as usize;
        // SAFETY: as in `install_handler`.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether Ctrl-C or SIGTERM came since [`catch_interrupts`].
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// Which signal it was, if [`interrupted`].
#[must_use]
pub fn interruption() -> Option<Interruption> {
    let number = INTERRUPTED_BY.load(Ordering::SeqCst);
    Interruption::ALL.into_iter().find(|one| one.number() == number)
}

/// Takes the mark down, so that a prompt can go on.
pub fn clear_interrupted() {
    TIMES_INTERRUPTED.store(0, Ordering::SeqCst);
    interrupt_flag().store(false, Ordering::SeqCst);
    INTERRUPTED_BY.store(0, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_kick_before_the_wait_is_remembered() {
        let cell = KickCell::new();
        cell.kick();
        let _bound = cell.bind().unwrap();
        cell.wait(None);
        assert!(cell.take_attention() && cell.take_leave());
        assert!(!cell.take_attention() && !cell.take_leave());
    }

    #[test]
    fn a_kick_ends_a_sleep_and_a_blocking_call() {
        let cell = KickCell::new();
        let (ready, is_ready) = crossbeam_channel::bounded(0);
        let other = Arc::clone(&cell);
        let sleeper = std::thread::spawn(move || {
            let _bound = other.bind().unwrap();
            ready.send(()).unwrap();
            let start = Instant::now();
            while !other.take_attention() {
                other.wait(Some(Duration::from_secs(10)));
            }
            start.elapsed()
        });
        is_ready.recv().unwrap();
        std::thread::sleep(Duration::from_millis(5));
        cell.poke();
        assert!(sleeper.join().unwrap() < Duration::from_secs(9));
    }

    #[test]
    fn kicks_are_delivered_however_many_signals_the_user_has_pending() {
        assert!(kick_signal() < libc::SIGRTMIN());
    }

    #[test]
    fn a_kick_comes_through_though_its_signal_was_blocked() {
        let cell = KickCell::new();
        let mut flag = 0_u8;
        // SAFETY: the set is initialised before it is used, and lives on this stack.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
        let bound = cell.bind().unwrap();
        // SAFETY: `flag` outlives the guard, which is dropped below on this thread.
        let mirrored = unsafe { cell.mirror_in(&raw mut flag) };
        std::thread::scope(|scope| scope.spawn(|| cell.poke()).join().unwrap());
        drop((mirrored, bound));
        assert_eq!(flag, 1);
    }

    #[test]
    fn the_signal_sets_the_mirror_on_its_own_thread_only() {
        let cell = KickCell::new();
        let mut flag = 0_u8;
        let bound = cell.bind().unwrap();
        // SAFETY: `flag` outlives the guard, which is dropped below on this thread.
        let mirrored = unsafe { cell.mirror_in(&raw mut flag) };
        cell.poke();
        drop(mirrored);
        drop(bound);
        assert_eq!(flag, 1);
    }
}
