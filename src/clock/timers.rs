//! Deadlines of devices. The vCPU's thread runs what is due; a host timer wakes it in time.
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
    /// The deadline that the observer was last told of: the host's timer stands at it.
    told: AtomicU64,
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

    fn tell(&self, deadline: u64) {
        self.told.store(deadline, Ordering::SeqCst);
        if let Some(observer) = self.observer.get().filter(|_| deadline != IDLE) {
            observer(Nanos(deadline));
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
        if self.told.load(Ordering::SeqCst) <= now.0 {
            self.tell(self.next.load(Ordering::SeqCst));
        }
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

    /// Recomputes the earliest deadline.
    fn publish(&self, slots: &[Slot]) -> u64 {
        let next = slots.iter().map(|s| s.deadline).min().unwrap_or(IDLE);
        self.next.store(next, Ordering::SeqCst);
        next
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
        let next = {
            let mut slots = self.queue.lock();
            slots[self.index].deadline = deadline;
            self.queue.publish(&slots)
        };
        if next < self.queue.told.load(Ordering::SeqCst) {
            self.queue.tell(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
