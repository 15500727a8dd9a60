//! Random drivers: whatever is in the rings and registers, a device returns, in bounds, and goes on after a reset.
use super::*;
use crate::device::uart16550::ConsoleSink;
use crate::device::virtio::block::Block;
use crate::device::virtio::block::tests::Memory;
use crate::device::virtio::console::{self, Console};
use crate::device::virtio::entropy::{Entropy, EntropySource};
use crate::device::virtio::net::{self, FrameSink, Net};
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;

/// An address of some interest: in the rings, in the buffers, at the end of RAM, anywhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0x8000..0x1_0000_u64,
        2 => 0x1000..0x2000_u64,
        1 => RAM - 64..RAM + 16,
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..64_u32, 2 => (0..40_u32).prop_map(|n| n * 512), 1 => any::<u32>(), 1 => Just(16)]
}

#[derive(Clone, Debug)]
enum Act {
    Descriptor(u16, u64, u32, u16, u16),
    Announce(u16),
    Index(u16),
    Notify(u32),
    Bytes(u64, Vec<u8>),
    Register(u64, u32, usize),
    Read(u64, usize),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..RING, address(), length(), 0..8_u16, 0..RING + 1)
            .prop_map(|(i, at, length, flags, next)| Act::Descriptor(i, at, length, flags, next)),
        6 => (0..RING + 1).prop_map(Act::Announce),
        1 => any::<u16>().prop_map(Act::Index),
        6 => prop_oneof![4 => Just(0_u32), 1 => any::<u32>()].prop_map(Act::Notify),
        3 => (0x8000..0x9000_u64, prop::collection::vec(0..12_u8, 1..48)).prop_map(|(at, b)| Act::Bytes(at, b)),
        2 => (0..0x110_u64, any::<u32>(), 0..4_usize).prop_map(|(at, v, w)| Act::Register(at, v, w)),
        1 => (0..0x1000_u64, 0..4_usize).prop_map(|(at, w)| Act::Read(at, w)),
        1 => Just(Act::Restart),
    ]
}

const WIDTHS: [Width; 4] = [Width::B1, Width::B2, Width::B4, Width::B8];

impl<D: VirtioDevice> Driver<D> {
    fn apply(&mut self, act: &Act) {
        self.apply_to(0, act);
    }

    /// Does this with the rings of `queue`.
    fn apply_to(&mut self, queue: u16, act: &Act) {
        let at_ring = ring(queue.into());
        match act {
            Act::Descriptor(index, at, length, flags, next) => {
                self.descriptor(at_ring, *index, *at, *length, *flags, *next);
            }
            Act::Announce(head) => self.announce(queue, *head),
            Act::Index(index) => {
                self.next[usize::from(queue)].1 = *index;
                assert!(self.ram.write_u16(Gpa(at_ring + 0x402), *index));
            }
            Act::Notify(0) => self.notify(queue),
            Act::Notify(any) => self.set(register::QUEUE_NOTIFY, *any),
            Act::Bytes(at, bytes) => self.write(*at, bytes),
            Act::Register(at, value, width) => {
                self.face.mmio_write(VcpuId(0), *at & !3, WIDTHS[*width], (*value).into());
            }
            Act::Read(at, width) => {
                let _any = self.face.mmio_read(VcpuId(0), *at, WIDTHS[*width]);
            }
            Act::Restart => self.start_over(),
        }
    }
}

/// Counts what is printed.
#[derive(Clone, Default)]
struct Printed(Arc<AtomicU64>);

impl ConsoleSink for Printed {
    fn transmit(&mut self, bytes: &[u8]) {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Bytes that are nowhere in a test's RAM.
struct Marks;
const MARK: u8 = 0xc7;

impl EntropySource for Marks {
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        bytes.fill(MARK);
        Ok(())
    }
}

proptest! {
    #[test]
    fn any_driver_leaves_a_console_that_goes_on(acts in prop::collection::vec((0..2_u16, act()), 0..120)) {
        let printed = Printed::default();
        let mut driver = Driver::started(Console::new(Box::new(printed.clone())));
        let count = || printed.0.load(Ordering::Relaxed);
        for (queue, act) in &acts {
            let taken = driver.face.act(console::RECEIVE, |console| console.receive(&[1; 60]));
            prop_assert!(taken <= 60);
            let before = count();
            driver.apply_to(*queue, act);
            prop_assert!(count() - before <= 64 * console::MOST, "one notification printed more");
            let device = driver.face.transport().device().saved();
            prop_assert!(device.backlog.len() <= Console::BACKLOG && device.backlog.iter().all(|byte| *byte == 1));
        }
        driver.start_over();
        let before = count();
        driver.offer(console::TRANSMIT, &[(0x8000, 300, READ)]);
        driver.notify(console::TRANSMIT);
        prop_assert_eq!(count() - before, 300);
        // What waited comes first, and then what comes.
        let waits = driver.face.transport().device().saved().backlog.len();
        driver.offer(console::RECEIVE, &[(0x8000, 8192, WRITE)]);
        driver.notify(console::RECEIVE);
        if waits == 0 {
            driver.face.act(console::RECEIVE, |console| console.receive(&[1; 10]));
        }
        let received = if waits == 0 { 10 } else { waits };
        prop_assert_eq!(driver.used(console::RECEIVE), [(0, received as u32)]);
        prop_assert_eq!(driver.bytes(0x8000, received), vec![1; received]);
    }

    #[test]
    fn any_driver_leaves_a_source_of_random_bytes_that_goes_on(acts in prop::collection::vec(act(), 0..120)) {
        let mut driver = Driver::started(Entropy::new(Box::new(Marks)));
        acts.iter().for_each(|act| driver.apply(act));
        driver.start_over();
        driver.write(0x8000, &[0; 64]);
        driver.offer(0, &[(0x8000, 40, WRITE)]);
        driver.notify(0);
        prop_assert_eq!(driver.used(0), [(0, 40)]);
        prop_assert_eq!(driver.bytes(0x8000, 41), [vec![MARK; 40], vec![0]].concat());
    }

    /// Whatever buffers there are: each comes back, no more is filled than a request may ask for, and nothing but what the
    /// device may write.
    #[test]
    fn random_bytes_go_where_they_may(
        buffers in prop::collection::vec(
            prop::collection::vec((0x8000..0x1_0000_u64, length(), any::<bool>()), 1..3),
            1..8,
        ),
    ) {
        let mut driver = Driver::started(Entropy::new(Box::new(Marks)));
        let mut may = vec![false; RAM as usize];
        for pieces in &buffers {
            let (read, write): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.2);
            let write: Vec<_> = write.into_iter().map(|&(at, length, _)| (at, length.min(0x1000), WRITE)).collect();
            for &(at, length, _) in &write {
                may[at as usize..at as usize + length as usize].fill(true);
            }
            let read: Vec<_> = read.into_iter().map(|&(at, length, _)| (at, length, READ)).collect();
            driver.offer(0, &[read, write].concat());
            driver.notify(0);
        }
        let used = driver.used(0);
        prop_assert_eq!(used.len(), buffers.len());
        prop_assert!(used.iter().all(|&(_, filled)| filled <= 4096));
        let ram = driver.bytes(0x8000, RAM as usize - 0x8000);
        prop_assert!(ram.iter().zip(&may[0x8000..]).all(|(byte, may)| *may || *byte != MARK));
    }

    #[test]
    fn any_driver_leaves_a_queue_that_goes_on(acts in prop::collection::vec(act(), 0..120)) {
        let mut driver = Driver::started(Sink::default());
        for act in &acts {
            let before = driver.face.transport().device().seen.len();
            driver.apply(act);
            let taken = driver.face.transport().device().seen.len() - before;
            prop_assert!(taken <= 64, "{taken} chains for one notification");
            // What was saved is a state that can be taken on.
            let saved = driver.face.saved();
            Driver::new(Sink::default()).face.restore(&saved).unwrap();
        }
        driver.start_over();
        driver.offer(0, &[(0x8000, 5, READ), (0x9000, 6, WRITE)]);
        driver.notify(0);
        prop_assert_eq!(driver.face.transport().device().seen.last(), Some(&(5, 6)));
    }

    #[test]
    fn any_driver_leaves_a_disk_that_goes_on(acts in prop::collection::vec(act(), 0..120)) {
        let mut driver = Driver::started(Block::new(Box::new(Memory::new(64 << 10)), "disk"));
        acts.iter().for_each(|act| driver.apply(act));
        driver.start_over();
        driver.write(0x8000, &[0; 16]);
        driver.write(0x9000, &[0xff; 513]);
        driver.offer(0, &[(0x8000, 16, READ), (0x9000, 513, WRITE)]);
        driver.notify(0);
        prop_assert_eq!(driver.used(0), [(0, 513)]);
        prop_assert_eq!(driver.bytes(0x9200, 1), [0]);
    }

    #[test]
    fn any_driver_leaves_a_network_card_that_goes_on(acts in prop::collection::vec(act(), 0..120)) {
        struct Nowhere;
        impl FrameSink for Nowhere {
            fn send(&mut self, _: &[u8]) {}
        }
        let mut driver = Driver::started(Net::new([2; 6], Box::new(Nowhere)));
        for act in &acts {
            driver.face.act(net::RECEIVE, |net| net.receive(&[1; 60]));
            driver.apply(act);
        }
        driver.start_over();
        driver.offer(net::RECEIVE, &[(0x8000, 100, WRITE)]);
        driver.face.act(net::RECEIVE, |net| net.receive(&[1; 60]));
        prop_assert_eq!(driver.used(net::RECEIVE), [(0, 72)]);
    }

    /// Whatever the request: if its last byte can be written, it tells the outcome.
    #[test]
    fn every_request_has_an_outcome(
        header in prop::collection::vec(any::<u8>(), 0..20),
        kind in 0..12_u8,
        buffers in prop::collection::vec((address(), length(), any::<bool>()), 0..10),
    ) {
        let mut driver = Driver::started(Block::new(Box::new(Memory::new(64 << 10)), "disk"));
        let mut bytes = header.clone();
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        driver.write(0x8000, &bytes);
        // Where nothing else lies.
        let outcome = 0x3_0000;
        driver.write(outcome, &[0xff]);
        let mut all = vec![(0x8000, bytes.len() as u32, READ)];
        // Buffers that would overwrite the rings make another test.
        let buffers = buffers.into_iter().filter(|&(at, ..)| !(0x1000..0x2000).contains(&at));
        let (read, write): (Vec<_>, Vec<_>) = buffers.partition(|b| b.2);
        all.extend(read.iter().map(|&(at, length, _)| (at, length, READ)));
        all.extend(write.iter().map(|&(at, length, _)| (at, length.min(0x1_0000), WRITE)));
        all.push((outcome, 1, WRITE));
        driver.offer(0, &all);
        driver.notify(0);
        prop_assert_eq!(driver.used_index(0), 1);
        prop_assert!(driver.bytes(outcome, 1)[0] <= 2);
        prop_assert!(!driver.needs_reset());
    }
}
