use super::*;
use crate::device::virtio::queue::MOST_INDIRECT;

/// Where an indirect table is.
const TABLE: u64 = 0x2_0000;

fn started() -> Driver<Sink> {
    Driver::started(Sink::default())
}

fn seen(driver: &Driver<Sink>) -> &[(u64, u64)] {
    &driver.face.transport().device().seen
}

/// Announces `head`, and expects the device to stop for this reason and to start again after a reset.
fn breaks(mut driver: Driver<Sink>, head: u16, why: Broken) {
    driver.announce(0, head);
    driver.notify(0);
    assert_eq!(driver.face.transport().broken(), Some(why));
    assert!(driver.needs_reset() && driver.interrupted());
    let done = driver.used_index(0);
    driver.notify(0);
    assert_eq!(driver.used_index(0), done, "it has stopped");
    assert!(driver.needs_reset());
    driver.next[0] = (0, 0);
    driver.write(ring(0) + 0x400, &[0; 0x800]);
    driver.start(u64::MAX);
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    assert_eq!((driver.used_index(0), driver.needs_reset()), (1, false));
}

#[test]
fn chains_are_given_back_in_order_round_and_round() {
    let mut driver = started();
    for turn in 0..70_000_u32 {
        let head = driver.offer(0, &[(0x8000, 1 + turn % 7, READ), (0x9000, 2, WRITE)]);
        if turn % 5 == 0 {
            driver.notify(0);
            let last = driver.used_index(0).wrapping_sub(1) % RING;
            let entry = driver.bytes(ring(0) + 0x804 + 8 * u64::from(last), 8);
            assert_eq!(entry, [head as u8, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    driver.notify(0);
    assert_eq!(driver.used_index(0), (70_000_u32 & 0xffff) as u16);
    assert!(seen(&driver).iter().enumerate().all(|(i, &s)| s == (1 + i as u64 % 7, 2)));
}

#[test]
fn interrupts_come_if_they_are_wanted() {
    let mut driver = started();
    driver.notify(0);
    assert!(!driver.interrupted(), "nothing was done");
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.ram.write_u16(Gpa(ring(0) + 0x400), 1);
    driver.notify(0);
    assert_eq!((driver.used_index(0), driver.interrupted()), (1, false));
    driver.ram.write_u16(Gpa(ring(0) + 0x400), 0);
    driver.notify(0);
    assert!(!driver.interrupted(), "the driver looked for itself");
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    assert!(driver.interrupted());
}

#[test]
fn queues_that_cannot_be_stop_the_device() {
    let good = [0x1000, 0x1400, 0x1800];
    let with = |i: usize, at: u64| {
        let mut places = good;
        places[i] = at;
        places
    };
    let cases = [
        (0, good, Broken::Size),
        (3, good, Broken::Size),
        (128, good, Broken::Size),
        (0x1_0010, good, Broken::Size),
        (16, with(0, 0x1008), Broken::Place),
        (16, with(1, 0x1401), Broken::Place),
        (16, with(2, 0x1802), Broken::Place),
        (16, with(0, RAM - 0xf0), Broken::Place),
        (16, with(1, RAM - 0x22), Broken::Place),
        (16, with(2, RAM - 0x80), Broken::Place),
        (16, with(0, u64::MAX - 0xf), Broken::Place),
        (16, with(2, 1 << 63), Broken::Place),
    ];
    for (size, places, why) in cases {
        let mut driver = Driver::new(Sink::default());
        driver.negotiate(u64::MAX);
        driver.place(0, size, places);
        assert_eq!(driver.face.transport().broken(), Some(why), "{size} {places:x?}");
        assert!(driver.needs_reset());
        driver.place(0, 16, good);
        assert_eq!(driver.get(register::QUEUE_READY), 0, "only a reset helps");
        driver.start(u64::MAX);
        assert!(!driver.needs_reset());
    }
    let mut driver = Driver::new(Sink::default());
    driver.negotiate(u64::MAX);
    driver.place(0, 16, [RAM - 0x100, RAM - 0x124, RAM - 0x1a8]);
    assert_eq!(driver.get(register::QUEUE_READY), 1, "at the very end of RAM");
}

#[test]
fn indices_and_descriptors_that_do_not_exist() {
    let driver = started();
    driver.ram.write_u16(Gpa(ring(0) + 0x402), RING + 1);
    let mut jumped = driver;
    jumped.notify(0);
    assert_eq!(jumped.face.transport().broken(), Some(Broken::Index));
    breaks(started(), RING, Broken::NoDescriptor);
    breaks(started(), u16::MAX, Broken::NoDescriptor);
    let driver = started();
    driver.descriptor(ring(0), 0, 0x8000, 1, NEXT, RING);
    breaks(driver, 0, Broken::NoDescriptor);
}

#[test]
fn loops_end() {
    let driver = started();
    driver.descriptor(ring(0), 3, 0x8000, 1, NEXT, 3);
    breaks(driver, 3, Broken::TooLong);
    let driver = started();
    (0..RING).for_each(|i| driver.descriptor(ring(0), i, 0x8000, 1, NEXT, (i + 1) % RING));
    breaks(driver, 5, Broken::TooLong);
    let driver = started();
    driver.descriptor(ring(0), 0, TABLE, 32, INDIRECT, 0);
    driver.descriptor(TABLE, 0, 0x8000, 1, NEXT, 1);
    driver.descriptor(TABLE, 1, 0x8000, 1, NEXT, 0);
    breaks(driver, 0, Broken::TooLong);
}

#[test]
fn the_longest_chains_that_may_be() {
    let mut driver = started();
    driver.offer(0, &[(0x8000, 3, READ); RING as usize]);
    driver.notify(0);
    assert_eq!(seen(&driver), [(48, 0)]);
    let most = MOST_INDIRECT as u16;
    (0..most).for_each(|i| driver.descriptor(TABLE, i, 0x8000, u32::MAX, WRITE | NEXT, i + 1));
    driver.descriptor(TABLE, most - 1, 0x8000, u32::MAX, WRITE, 0);
    driver.offer(0, &[(0x8000, 3, READ), (TABLE, 65536 * 16, INDIRECT)]);
    driver.notify(0);
    assert_eq!(seen(&driver)[1], (3, 1024 * u64::from(u32::MAX)));
    driver.descriptor(TABLE, most - 1, 0x8000, 1, WRITE | NEXT, most);
    driver.descriptor(TABLE, most, 0x8000, 1, WRITE, 0);
    driver.descriptor(ring(0), 0, TABLE, 65536 * 16, INDIRECT, 0);
    breaks(driver, 0, Broken::TooLong);
}

#[test]
fn indirect_tables_that_may_not_be() {
    for (length, flags) in [(0, INDIRECT), (17, INDIRECT), (15, INDIRECT), (32, INDIRECT | NEXT)] {
        let driver = started();
        driver.descriptor(ring(0), 0, TABLE, length, flags, 1);
        breaks(driver, 0, Broken::Indirect);
    }
    let driver = started();
    driver.descriptor(ring(0), 0, ring(0), 256, INDIRECT, 0);
    breaks(driver, 0, Broken::Indirect);
    let driver = started();
    driver.descriptor(ring(0), 0, TABLE, 32, INDIRECT, 0);
    driver.descriptor(TABLE, 0, TABLE, 32, INDIRECT, 0);
    breaks(driver, 0, Broken::Indirect);
    let mut old = Driver::new(Sink::default());
    old.start(1 << 32);
    old.offer(0, &[(TABLE, 32, INDIRECT)]);
    old.notify(0);
    assert_eq!(old.face.transport().broken(), Some(Broken::Indirect), "not negotiated");
    for table in [RAM, RAM - 8, u64::MAX - 15, u64::MAX] {
        let driver = started();
        driver.descriptor(ring(0), 0, table, 32, INDIRECT, 0);
        breaks(driver, 0, Broken::NoDescriptor);
    }
    let driver = started();
    driver.descriptor(ring(0), 0, RAM - 16, 0xffff_fff0, INDIRECT, 0);
    driver.descriptor(RAM - 16, 0, 0x8000, 1, NEXT, 1);
    breaks(driver, 0, Broken::NoDescriptor);
}

#[test]
fn what_the_device_reads_comes_first() {
    let driver = started();
    driver.descriptor(ring(0), 0, 0x8000, 0, WRITE | NEXT, 1);
    driver.descriptor(ring(0), 1, 0x8000, 1, READ, 0);
    breaks(driver, 0, Broken::Order);
}

#[test]
fn used_entries_over_code_are_noticed() {
    let mut driver = started();
    let ring = driver.ram.offset(Gpa(ring(0) + 0x804), 8).unwrap();
    driver.ram.code().mark(ring, 8);
    driver.offer(0, &[(0x8000, 1, READ)]);
    let before = driver.ram.code().cursor();
    driver.notify(0);
    assert!(driver.ram.code().cursor() > before);
}
