//! Deadlines of devices. The vCPU's thread runs what is due; a host timer wakes it in time.
//!
//! Threads may arm timers at once. What the observer is told must not arrive in another order than it was decided in, or
//! the host's timer would end at the later of two deadlines and the earlier would be missed. So a thread that tells
//! holds [`TimerQueue::teller`] and reads the earliest deadline anew under it: whoever tells last tells what holds then.
//! Lock order: a device's lock, then the teller's, then the observer's own; the slots' lock is held over none of them.
use super::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// A device that wants to be called at a time.
pub trait TimerClient: Send {
    /// The deadline of one of its timers has passed; `now` may be later than it was armed for.
    fn timer_fired(&mut self, now: Nanos);
}

const IDLE: u64 = u64::MAX;

struct Slot {
    deadline: u64,
    client: Option<Weak<Mutex<dyn TimerClient>>>,
}

/// All deadlines of a machine: a short list, scanned.
#[derive(Default)]
pub struct TimerQueue {
    slots: Mutex<Vec<Slot>>,
    next: AtomicU64,
    /// The deadline that the observer was last told of: the host's timer stands at it. Written by the teller only.
    told: AtomicU64,
    /// Held by the thread that tells the observer, until it has been told.
    teller: Mutex<()>,
    observer: OnceLock<Observer>,
}

type Observer = Box<dyn Fn(Nanos) + Send + Sync>;

impl std::fmt::Debug for TimerQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimerQueue").field("next", &self.next_deadline()).finish_non_exhaustive()
    }
}

/// A device's handle on one deadline in a [`TimerQueue`].
#[derive(Clone, Debug)]
pub struct Timer {
    queue: Arc<TimerQueue>,
    index: usize,
}

impl TimerQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(IDLE), told: AtomicU64::new(IDLE), ..Self::default() })
    }

    /// Adds a timer, not armed and not connected: it fires into nothing until [`Timer::connect`].
    #[must_use]
    pub fn add(self: &Arc<Self>) -> Timer {
        let mut slots = self.lock();
        slots.push(Slot { deadline: IDLE, client: None });
        Timer { queue: Arc::clone(self), index: slots.len() - 1 }
    }

    /// Has `observer` told of the earliest deadline, so that it can set the host's timer: whenever one comes before the
    /// one it was last told of, and after that one has passed. It is called from the thread that armed the timer, which
    /// may hold a device's lock. Only the first observer counts.
    pub fn observe(&self, observer: impl Fn(Nanos) + Send + Sync + 'static) {
        let _first_wins = self.observer.set(Box::new(observer));
    }

    /// Tells the observer of the earliest deadline if `due(earliest, told)` still asks for it.
    ///
    /// No deadline is lost: one that is published before the look at it below is told by it, and the thread of one that
    /// is published later finds an earlier deadline than `told` and comes here itself.
    fn tell_if(&self, due: impl Fn(u64, u64) -> bool) {
        let wanted = || {
            let (next, told) = (self.next.load(Ordering::SeqCst), self.told.load(Ordering::SeqCst));
            due(next, told).then_some(next)
        };
        if wanted().is_none() {
            return;
        }
        let _telling = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = wanted() else { return };
        self.told.store(next, Ordering::SeqCst);
        if let Some(observer) = self.observer.get().filter(|_| next != IDLE) {
            observer(Nanos(next));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        Some(self.next.load(Ordering::SeqCst)).filter(|&n| n != IDLE).map(Nanos)
    }

    /// Calls every device whose deadline is not after `now`, in order of the deadlines. A device that arms itself
    /// again for a time that is also past is called again, a bounded number of times.
    pub fn run_due(&self, now: Nanos) {
        const MOST: usize = 64;
        for _ in 0..MOST {
            let Some(client) = self.take_due(now) else { break };
            if let Some(client) = client {
                client.lock().unwrap_or_else(PoisonError::into_inner).timer_fired(now);
            }
        }
        // The host's timer has fired, for whatever: it is to be set again.
        self.tell_if(|_, told| told <= now.0);
    }

    /// Disarms the most overdue timer; returns its device, if it is still there.
    #[expect(clippy::option_option, reason = "no timer is due; one is, with or without a device")]
    fn take_due(&self, now: Nanos) -> Option<Option<Arc<Mutex<dyn TimerClient>>>> {
        if self.next.load(Ordering::SeqCst) > now.0 {
            return None;
        }
        let mut slots = self.lock();
        let slot = slots.iter_mut().filter(|s| s.deadline <= now.0).min_by_key(|s| s.deadline)?;
        slot.deadline = IDLE;
        let client = slot.client.as_ref().and_then(Weak::upgrade);
        self.publish(&slots);
        Some(client)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recomputes the earliest deadline. The caller holds the lock that `slots` come from.
    fn publish(&self, slots: &[Slot]) {
        let next = slots.iter().map(|s| s.deadline).min().unwrap_or(IDLE);
        self.next.store(next, Ordering::SeqCst);
    }
}

impl Timer {
    /// Names the device to be called. The queue does not keep it alive.
    pub fn connect(&self, client: &Arc<Mutex<dyn TimerClient>>) {
        self.queue.lock()[self.index].client = Some(Arc::downgrade(client));
    }

    /// Sets the deadline, in place of an earlier one.
    pub fn arm(&self, deadline: Nanos) {
        self.set(deadline.0.min(IDLE - 1));
    }

    /// Takes the deadline back.
    pub fn cancel(&self) {
        self.set(IDLE);
    }

    fn set(&self, deadline: u64) {
        {
            let mut slots = self.queue.lock();
            slots[self.index].deadline = deadline;
            self.queue.publish(&slots);
        }
        self.queue.tell_if(|next, told| next < told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Recorder {
        timer: Timer,
        fired: Vec<u64>,
        period: Option<u64>,
    }

    impl TimerClient for Recorder {
        fn timer_fired(&mut self, now: Nanos) {
            self.fired.push(now.0);
            if let Some(period) = self.period {
                self.timer.arm(now.after(period));
            }
        }
    }

    fn recorder(queue: &Arc<TimerQueue>, period: Option<u64>) -> (Arc<Mutex<Recorder>>, Timer) {
        let timer = queue.add();
        let device = Arc::new(Mutex::new(Recorder { timer: timer.clone(), fired: vec![], period }));
        timer.connect(&(Arc::clone(&device) as Arc<Mutex<dyn TimerClient>>));
        (device, timer)
    }

    #[test]
    fn timers_fire_once_when_due_and_not_when_cancelled() {
        let queue = TimerQueue::new();
        let (device, timer) = recorder(&queue, None);
        timer.arm(Nanos(10));
        queue.run_due(Nanos(9));
        assert!(device.lock().unwrap().fired.is_empty());
        queue.run_due(Nanos(10));
        queue.run_due(Nanos(11));
        assert_eq!(device.lock().unwrap().fired, [10]);
        timer.arm(Nanos(20));
        timer.cancel();
        assert_eq!(queue.next_deadline(), None);
        queue.run_due(Nanos(30));
        assert_eq!(device.lock().unwrap().fired, [10]);
    }

    #[test]
    fn a_device_that_is_always_due_cannot_hang_the_thread() {
        let queue = TimerQueue::new();
        let (device, timer) = recorder(&queue, Some(0));
        timer.arm(Nanos(1));
        queue.run_due(Nanos(1));
        assert_eq!(device.lock().unwrap().fired.len(), 64);
    }

    #[test]
    fn the_observer_hears_of_sooner_deadlines_and_of_the_next_one_after_each() {
        let queue = TimerQueue::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        queue.observe(move |deadline| seen.lock().unwrap().push(deadline.0));
        let (a, b) = (queue.add(), queue.add());
        a.arm(Nanos(10));
        b.arm(Nanos(20));
        b.arm(Nanos(5));
        b.arm(Nanos(15));
        assert_eq!(*told.lock().unwrap(), [10, 5]);
        // The host's timer fires at 5 for nothing: it must be set again for 10.
        queue.run_due(Nanos(6));
        assert_eq!(*told.lock().unwrap(), [10, 5, 10]);
        queue.run_due(Nanos(12));
        assert_eq!(*told.lock().unwrap(), [10, 5, 10, 15]);
        assert_eq!(queue.next_deadline(), Some(Nanos(15)));
    }

    /// The observer is slow in setting the host's timer to the later deadline, while another thread arms an earlier one:
    /// the timer must end at the earlier.
    #[test]
    fn an_earlier_deadline_armed_while_a_later_one_is_told_has_the_last_word() {
        let queue = TimerQueue::new();
        let (begun, is_begun) = crossbeam_channel::bounded(1);
        let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(1);
        let host_timer = Arc::new(AtomicU64::new(IDLE));
        let stands = Arc::clone(&host_timer);
        queue.observe(move |deadline| {
            if deadline == Nanos(20) {
                begun.send(()).unwrap();
                // Until the other thread is about to arm; it may also be through, if nothing holds it back.
                may_go_on.recv_timeout(Duration::from_millis(50)).unwrap_or_default();
            }
            stands.store(deadline.0, Ordering::SeqCst);
        });
        let (late, early) = (queue.add(), queue.add());
        std::thread::scope(|scope| {
            scope.spawn(move || late.arm(Nanos(20)));
            is_begun.recv().unwrap();
            early.arm(Nanos(10));
            // Without effect on the queue as it is: the observer of 20 has come to its end before that of 10.
            let _too_late = go_on.try_send(());
        });
        assert_eq!(host_timer.load(Ordering::SeqCst), 10);
    }

    /// Whatever the order in which threads arm, the host's timer stands at the earliest deadline in the end.
    #[test]
    fn threads_that_arm_at_once_leave_the_host_timer_at_the_earliest_deadline() {
        for round in 0..500_u64 {
            let queue = TimerQueue::new();
            let host_timer = Arc::new(AtomicU64::new(IDLE));
            let stands = Arc::clone(&host_timer);
            queue.observe(move |deadline| {
                std::thread::yield_now();
                stands.store(deadline.0, Ordering::SeqCst);
            });
            let start = Arc::new(std::sync::Barrier::new(3));
            std::thread::scope(|scope| {
                for thread in 0..3_u64 {
                    let (timer, start) = (queue.add(), Arc::clone(&start));
                    scope.spawn(move || {
                        start.wait();
                        for turn in (0..4).rev() {
                            timer.arm(Nanos(1 + (thread * 7 + round * 5) % 11 + turn * 20));
                        }
                    });
                }
            });
            assert_eq!(
                Some(Nanos(host_timer.load(Ordering::SeqCst))),
                queue.next_deadline(),
                "round {round}"
            );
        }
    }
}
