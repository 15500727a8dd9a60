use super::*;
use crate::device::virtio::spec::mmio as register;

#[test]
fn a_device_tells_who_it_is() {
    let mut driver = Driver::new(Sink::default());
    assert_eq!(driver.get(0), u32::from_le_bytes(*b"virt"));
    assert_eq!([driver.get(4), driver.get(8)], [2, 42]);
    assert_eq!(driver.face.mmio_read(VcpuId(0), 0, Width::B2), 0, "registers are read as a whole");
    assert_eq!(driver.face.mmio_read(VcpuId(0), 2, Width::B4), 0);
    assert_eq!(driver.face.mmio_read(VcpuId(0), 0x101, Width::B2), 0x0302, "the configuration in any width");
    assert_eq!(driver.face.mmio_read(VcpuId(0), 0x13c, Width::B8), 0x403f_3e3d, "and zero behind it");
    assert_eq!(driver.face.mmio_read(VcpuId(0), 0xff8, Width::B8), 0);
    assert_eq!(driver.get(0xb0), u32::MAX, "no shared memory");
}

#[test]
fn features_are_settled_once() {
    let mut driver = Driver::new(Sink::default());
    driver.negotiate(u64::MAX);
    assert_eq!(driver.get(register::STATUS), 11);
    assert_eq!(driver.face.transport().device().features, 1 << 3 | 1 << 28 | 1 << 32);
    driver.set(register::DRIVER_FEATURES, 0);
    driver.set(register::STATUS, 11);
    assert_eq!(driver.face.transport().device().features, 1 << 3 | 1 << 28 | 1 << 32);
    for (wanted, why) in [(0, "no version"), (1 << 28, "still none")] {
        driver.negotiate(wanted);
        assert_eq!(driver.get(register::STATUS), 3, "{why}");
        driver.set(register::STATUS, 7);
        assert_eq!(driver.get(register::STATUS), 3, "not ready without features");
    }
    driver.set(register::STATUS, 0);
    for (half, value) in [(1, 1), (0, 1)] {
        driver.set(register::DRIVER_FEATURES_SELECT, half);
        driver.set(register::DRIVER_FEATURES, value);
    }
    driver.set(register::STATUS, 11);
    assert_eq!(driver.get(register::STATUS), 3, "a feature that was not offered");
    driver.set(register::STATUS, 0);
    for (half, value) in [(1, 1), (2, 1)] {
        driver.set(register::DRIVER_FEATURES_SELECT, half);
        driver.set(register::DRIVER_FEATURES, value);
    }
    driver.set(register::STATUS, 11);
    assert_eq!(driver.get(register::STATUS), 3, "one that nobody has");
}

#[test]
fn a_queue_is_the_driver_s_until_it_is_handed_over() {
    let mut driver = Driver::new(Sink::default());
    driver.set(register::QUEUE_SELECT, 1);
    assert_eq!((driver.get(register::QUEUE_SIZE_MAX), driver.get(register::QUEUE_READY)), (16, 0));
    driver.place(1, 16, [0x1000, 0x1400, 0x1800]);
    assert_eq!(driver.get(register::QUEUE_READY), 0, "before the features are settled");
    driver.negotiate(u64::MAX);
    driver.place(1, 8, [0x1000, 0x1400, 0x1800]);
    assert_eq!(driver.get(register::QUEUE_READY), 1);
    let before = driver.face.saved();
    driver.set(register::QUEUE_SIZE, 16);
    driver.set(register::QUEUE_DESCRIPTORS_LOW, 0x2000);
    assert_eq!(driver.face.saved(), before);
    driver.set(register::QUEUE_READY, 0);
    assert_eq!(driver.get(register::QUEUE_READY), 0);
    for nobody in [2, 0xffff, 0x1_0001, u32::MAX] {
        driver.place(nobody, 8, [0x1000, 0x1400, 0x1800]);
        assert_eq!((driver.get(register::QUEUE_SIZE_MAX), driver.get(register::QUEUE_READY)), (0, 0));
    }
}

#[test]
fn nothing_is_taken_before_the_driver_is_ready() {
    let mut driver = Driver::new(Sink::default());
    driver.negotiate(u64::MAX);
    driver.place(0, RING.into(), [0, 0x400, 0x800].map(|at| ring(0) + at));
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    assert_eq!(driver.used_index(0), 0);
    driver.set(register::STATUS, 15);
    driver.notify(7);
    driver.notify(0);
    assert_eq!((driver.used_index(0), driver.interrupted()), (1, true));
    driver.set(register::STATUS, 0x80 | 15);
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    assert_eq!(driver.used_index(0), 1, "the driver has given up");
}

#[test]
fn a_reset_forgets_everything() {
    let mut driver = Driver::new(Sink::default());
    let fresh = driver.face.saved();
    driver.start(u64::MAX);
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    assert_ne!(driver.face.saved(), fresh);
    driver.set(register::STATUS, 0x100);
    assert_eq!(driver.get(register::STATUS), 15, "bits that do not exist are no reset");
    driver.set(register::STATUS, 0);
    assert_eq!(driver.face.saved(), fresh);
    assert!(!driver.interrupted(), "the line is down");
}

#[test]
fn a_saved_device_goes_on_where_it_was() {
    let mut driver = Driver::started(Sink::default());
    driver.offer(0, &[(0x8000, 1, READ)]);
    driver.notify(0);
    let bytes = postcard::to_allocvec(&driver.face.saved()).unwrap();
    let mut other = Driver::new(Sink::default());
    let mut ram = vec![0; RAM as usize];
    driver.ram.read(Gpa(0), &mut ram).unwrap();
    other.write(0, &ram);
    other.next = driver.next.clone();
    other.face.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
    assert_eq!(other.face.transport().device().features, driver.face.transport().device().features);
    assert!(other.interrupted());
    other.offer(0, &[(0x8000, 2, READ), (0x8000, 3, WRITE)]);
    other.notify(0);
    assert_eq!(other.used(0), [(0, 0), (1, 0)]);
    assert_eq!(other.face.transport().device().seen, [(2, 3)]);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let driver = Driver::started(Sink::default());
    let good = driver.face.saved();
    type Change = fn(&mut SavedTransport);
    let changes: [(&str, Change); 7] = [
        ("status", |s| s.status |= 0x20),
        ("isr", |s| s.isr = 4),
        ("queues", |s| s.queues.truncate(1)),
        ("size", |s| s.queues[0].size = 0),
        ("too large", |s| s.queues[1].size = 32),
        ("version", |s| s.driver_features = 0),
        ("not offered", |s| s.driver_features |= 1),
    ];
    for (what, change) in changes {
        let mut other = Driver::new(Sink::default());
        let (before, mut bad) = (other.face.saved(), good.clone());
        change(&mut bad);
        assert!(other.face.restore(&bad).is_err(), "{what}");
        assert_eq!(other.face.saved(), before, "{what}");
        other.face.restore(&good).unwrap();
    }
}
