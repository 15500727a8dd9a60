use super::*;
use proptest::prelude::*;
use std::sync::Mutex;

/// Remembers how each line was driven.
#[derive(Default)]
struct Lines(Mutex<Vec<(u8, bool)>>);

impl IrqSink for Lines {
    fn set_line(&self, line: u8, level: bool) {
        self.0.lock().unwrap().push((line, level));
    }
}

const CPU: VcpuId = VcpuId(0);

fn device() -> (TestDevice, Arc<Lines>, Arc<GuestRam>) {
    let lines = Arc::new(Lines::default());
    let ram = Arc::new(GuestRam::new(0x4000).unwrap());
    (TestDevice::new(lines.clone(), Arc::clone(&ram)), lines, ram)
}

#[test]
fn ports_drive_lines() {
    let (mut device, lines, _) = device();
    device.port_write(Port(0x2000 + 14), Width::B1, 1);
    device.port_write(Port(0x2000 + 14), Width::B1, 0);
    device.port_write(Port(0x2017), Width::B1, 0x80);
    device.port_write(Port(0x2003), Width::B4, 1);
    assert_eq!(*lines.0.lock().unwrap(), [(14, true), (14, false), (23, true), (3, true)]);
    assert_eq!(device.port_read(Port(0x200e), Width::B1), 0xff);
}

#[test]
fn the_register_takes_any_width_at_both_its_places() {
    let (mut device, ..) = device();
    device.port_write(Port(0xe0), Width::B4, 0x8765_4321);
    device.port_write(Port(0xe1), Width::B1, 0xaa);
    device.port_write(Port(0xea), Width::B2, 0xbbcc);
    assert_eq!(device.port_read(Port(0xe0), Width::B4), 0xbbcc_aa21);
    assert_eq!(device.port_read(Port(0xe8), Width::B2), 0xaa21);
    // What reaches over the end of the register finds nothing there.
    device.port_write(Port(0xe3), Width::B4, 0x1111_1199);
    assert_eq!(device.port_read(Port(0xe3), Width::B2), 0xff99);
    assert_eq!(device.port_read(Port(0xe4), Width::B4), u32::MAX);
}

#[test]
fn a_page_that_is_given_up_keeps_what_is_in_it() {
    let (mut device, _, ram) = device();
    ram.write(Gpa(0x1ffe), &[1, 2, 3, 4]).unwrap();
    device.port_write(Port(0xe4), Width::B4, 0x1ffe);
    device.port_write(Port(0xe4), Width::B4, 0x2000);
    device.port_write(Port(0xe4), Width::B4, 0xfee0_0000);
    let mut bytes = [0; 4];
    ram.read(Gpa(0x1ffe), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
}

#[test]
fn memory_is_bytes() {
    let (mut device, ..) = device();
    device.mmio_write(CPU, 3, Width::B8, 0x0807_0605_0403_0201);
    device.mmio_write(CPU, 5, Width::B2, 0xbbaa);
    assert_eq!(device.mmio_read(CPU, 0, Width::B8), 0x05bb_aa02_0100_0000);
    device.mmio_write(CPU, TEST_MEMORY_SIZE as u64 - 1, Width::B8, 0x7777);
    assert_eq!(device.mmio_read(CPU, TEST_MEMORY_SIZE as u64 - 1, Width::B4), 0xffff_ff77);
    device.mmio_write(CPU, u64::MAX, Width::B8, 1);
    assert_eq!(device.mmio_read(CPU, u64::MAX, Width::B8), u64::MAX);
}

#[test]
fn a_state_with_other_memory_is_refused() {
    let (mut device, ..) = device();
    let mut saved = device.saved();
    saved.memory.pop();
    assert!(device.restore(&saved).is_err());
}

proptest! {
    #[test]
    fn any_accesses_leave_a_device_whose_copy_goes_on_alike(
        accesses in prop::collection::vec(
            (
                prop_oneof![0xdf_u16..0xed, 0x1fff_u16..0x2019],
                prop_oneof![0_u64..0x20, 0xfff0_u64..0x1_0010, any::<u64>()],
                prop::sample::select(vec![Width::B1, Width::B2, Width::B4, Width::B8]),
                any::<u64>(),
            ),
            0..60,
        ),
    ) {
        let (mut one, lines, ram) = device();
        for &(port, offset, width, value) in &accesses {
            one.port_write(Port(port), width, value as u32);
            one.mmio_write(CPU, offset, width, value & width.mask());
        }
        let (mut other, ..) = device();
        other.restore(&one.saved()).unwrap();
        prop_assert_eq!(one.saved(), other.saved());
        for (port, offset, width, _) in accesses {
            prop_assert_eq!(one.port_read(Port(port), width), other.port_read(Port(port), width));
            prop_assert_eq!(one.mmio_read(CPU, offset, width), other.mmio_read(CPU, offset, width));
        }
        prop_assert!(lines.0.lock().unwrap().iter().all(|(line, _)| *line < 24));
        prop_assert_eq!(ram.size(), 0x4000);
    }
}
