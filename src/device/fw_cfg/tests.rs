use super::*;
use proptest::prelude::*;

const RAM: u64 = 64 << 10;

fn device() -> FwCfg {
    let mut device = FwCfg::new(Arc::new(GuestRam::new(RAM).unwrap()));
    device.add_file("etc/one", vec![1, 2, 3]);
    device.add_file("etc/a-name-that-is-longer-than-the-directory-of-files-has-room-for", vec![9; 5000]);
    device
}

impl FwCfg {
    fn item(&mut self, key: u16, length: usize) -> Vec<u8> {
        self.port_write(Port(0x510), Width::B2, key.into());
        (0..length).map(|_| self.port_read(Port(0x511), Width::B1) as u8).collect()
    }

    /// Puts a description at 0x100 and starts the transfer; the outcome.
    fn dma(&mut self, control: u32, length: u32, to: u64) -> u32 {
        let mut description = control.to_be_bytes().to_vec();
        description.extend(length.to_be_bytes());
        description.extend(to.to_be_bytes());
        self.ram.write(Gpa(0x100), &description).unwrap();
        self.port_write(Port(0x514), Width::B4, 0);
        self.port_write(Port(0x518), Width::B4, 0x100_u32.swap_bytes());
        let mut outcome = [0; 4];
        self.ram.read(Gpa(0x100), &mut outcome).unwrap();
        u32::from_be_bytes(outcome)
    }
}

#[test]
fn items_are_read_from_their_beginning_and_end_in_zeros() {
    let mut device = device();
    assert_eq!(device.item(0, 6), b"QEMU\0\0");
    assert_eq!(device.item(1, 4), [3, 0, 0, 0]);
    assert_eq!(device.item(3, 8), RAM.to_le_bytes());
    assert_eq!(device.item(0x20, 4), [1, 2, 3, 0]);
    assert_eq!(device.item(0x4000, 2), [0, 0]);
    let directory = device.item(0x19, 4 + 2 * 64);
    assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0x20, 0, 0]);
    assert_eq!(&directory[12..20], b"etc/one\0");
    assert_eq!(directory[4 + 64..][..6], [0, 0, 0x13, 0x88, 0, 0x21]);
    assert_eq!(directory[4 + 127], 0, "a name ends in a zero");
    assert_eq!(device.port_read(Port(0x514), Width::B4), u32::from_le_bytes(*b"QEMU"));
    assert_eq!(device.port_read(Port(0x518), Width::B4), u32::from_le_bytes(*b" CFG"));
}

#[test]
fn transfers_select_skip_and_read() {
    let mut device = device();
    assert_eq!(device.dma(0x20 << 16 | 8 | 2, 5, 0x1000), 0);
    assert_eq!(device.dma(0x21 << 16 | 8 | 4, 4999, 0), 0);
    assert_eq!(device.dma(2, 3, 0x1005), 0);
    let mut bytes = [0xff; 8];
    device.ram.read(Gpa(0x1000), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 0, 0, 9, 0, 0]);
}

#[test]
fn transfers_that_cannot_be_are_errors() {
    let mut device = device();
    assert_eq!(device.dma(0x20 << 16 | 8 | 2, 5, RAM - 4), 1);
    assert_eq!(device.dma(2, 5, u64::MAX), 1);
    assert_eq!(device.dma(2, u32::MAX, 0x1000), 1, "4 GiB");
    assert_eq!(device.dma(0x10, 5, 0x1000), 1, "a write");
    device.port_write(Port(0x514), Width::B4, u32::MAX);
    device.port_write(Port(0x518), Width::B4, u32::MAX);
    assert_eq!(device.item(0, 4), b"QEMU");
}

proptest! {
    #[test]
    fn any_accesses_do_and_states_round_trip(
        steps in prop::collection::vec((0x50e..0x51e_u16, 0..3_usize, any::<Option<u32>>()), 0..100),
        description in prop::array::uniform16(any::<u8>()),
    ) {
        let (mut device, mut other) = (device(), device());
        device.ram.write(Gpa(0x100), &description).unwrap();
        for (port, width, value) in steps {
            let width = [Width::B1, Width::B2, Width::B4][width];
            match value {
                Some(value) => {
                    let value = if port == 0x518 { 0x100_u32.swap_bytes() } else { value };
                    device.port_write(Port(port), width, value & width.mask() as u32);
                }
                None => {
                    device.port_read(Port(port), width);
                }
            }
            other.restore(&postcard::from_bytes(&postcard::to_allocvec(&device.saved()).unwrap()).unwrap());
            prop_assert_eq!(other.state, device.state);
        }
        prop_assert_eq!(device.item(0, 4), b"QEMU");
    }
}
