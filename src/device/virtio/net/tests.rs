use super::*;
use crate::device::virtio::tests::{Driver, READ, WRITE};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl FrameSink for Wire {
    fn send(&mut self, frame: &[u8]) {
        self.0.lock().unwrap().push(frame.to_vec());
    }
}

impl Wire {
    fn all(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn driver() -> (Driver<Net>, Wire) {
    let wire = Wire::default();
    (Driver::started(Net::new(MAC, Box::new(wire.clone()))), wire)
}

fn receive(driver: &mut Driver<Net>, frame: &[u8]) -> bool {
    driver.face.act(RECEIVE, |net| net.receive(frame))
}

#[test]
fn frames_go_out_without_their_header() {
    let (mut driver, wire) = driver();
    assert_eq!((driver.get(0x100), driver.get(0x104)), (0x1200_5452, 0x5634));
    driver.write(0x8000, &[[0; 12].as_slice(), &[7; 60]].concat());
    driver.offer(TRANSMIT, &[(0x8000, 12, READ), (0x800c, 60, READ)]);
    driver.notify(TRANSMIT);
    assert_eq!(wire.all(), [vec![7; 60]]);
    assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
    for (at, length) in
        [(0x8000, 12 + 13), (0x8000, 12 + 1519), (0x8000, u32::MAX), (u64::MAX - 5, 70), (0x8000, 0)]
    {
        driver.offer(TRANSMIT, &[(at, length, READ)]);
        driver.notify(TRANSMIT);
        assert!(wire.all().is_empty(), "{length} bytes at {at:#x}");
    }
    assert!(!driver.needs_reset());
    driver.offer(TRANSMIT, &[(0x8000, 12 + 1518, READ)]);
    driver.notify(TRANSMIT);
    assert_eq!(wire.all()[0].len(), 1518);
}

#[test]
fn frames_come_in_when_there_is_a_buffer() {
    let (mut driver, _) = driver();
    assert!(receive(&mut driver, &[1; 60]) && receive(&mut driver, &[2; 1518]));
    assert!(!receive(&mut driver, &[3; 13]) && !receive(&mut driver, &[3; 1519]), "no frames");
    driver.offer(RECEIVE, &[(0x8000, 1530, WRITE)]);
    driver.notify(RECEIVE);
    assert!(driver.interrupted());
    assert_eq!(driver.used(RECEIVE), [(0, 72)]);
    assert_eq!(driver.bytes(0x8000, 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
    // One that does not fit is lost, and one that meets no RAM.
    driver.offer(RECEIVE, &[(0x8000, 100, WRITE)]);
    driver.offer(RECEIVE, &[(u64::MAX - 100, 1530, WRITE)]);
    driver.notify(RECEIVE);
    assert!(receive(&mut driver, &[4; 60]));
    assert_eq!(driver.used(RECEIVE)[1..], [(1, 0), (2, 0)]);
    let taken = (0..1000).filter(|_| receive(&mut driver, &[5; 100])).count();
    assert_eq!(taken, Net::BACKLOG);
    let saved = driver.face.transport().device().saved();
    let (mut other, _) = self::driver();
    other.face.act(RECEIVE, |net| net.restore(&saved)).unwrap();
    assert_eq!(other.face.transport().device().saved(), saved);
    for backlog in [vec![vec![0; 5]], vec![vec![0; 60]; Net::BACKLOG + 1]] {
        assert!(other.face.act(RECEIVE, |net| net.restore(&SavedNet { mac: MAC, backlog })).is_err());
    }
}

proptest! {
    /// Whatever buffers there are: each comes back, memory beside those for the device to write stays as it is, and only
    /// frames come out.
    #[test]
    fn any_buffers_do(
        buffers in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0x8000..0xf000_u64, prop_oneof![0..1600_u32, any::<u32>()]), 1..4)),
            1..12,
        ),
        frames in prop::collection::vec(14..1519_usize, 0..12),
    ) {
        let (mut driver, wire) = driver();
        for length in &frames {
            prop_assert!(receive(&mut driver, &vec![0xaa; *length]));
        }
        driver.write(0x1_8000, &[0x55; 0x100]);
        let mut offered = [0, 0];
        for (transmit, pieces) in &buffers {
            let (queue, flag) = if *transmit { (TRANSMIT, READ) } else { (RECEIVE, WRITE) };
            let pieces: Vec<_> = pieces.iter().map(|&(at, length)| (at, length.min(0x9000), flag)).collect();
            driver.offer(queue, &pieces);
            driver.notify(queue);
            offered[usize::from(queue)] += 1;
        }
        prop_assert!(!driver.needs_reset());
        prop_assert_eq!(driver.used(TRANSMIT).len(), offered[1]);
        prop_assert_eq!(driver.used(RECEIVE).len(), frames.len().min(offered[0]));
        prop_assert_eq!(driver.bytes(0x1_8000, 0x100), vec![0x55; 0x100]);
        prop_assert!(wire.all().iter().all(|frame| FRAME.contains(&frame.len())));
    }
}
