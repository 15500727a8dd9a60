use super::*;
use proptest::prelude::*;

fn write_entry(chip: &mut IoApic, pin: u8, entry: u64) {
    chip.write(0, u32::from(0x11 + 2 * pin));
    chip.write(0x10, (entry >> 32) as u32);
    chip.write(0, u32::from(0x10 + 2 * pin));
    chip.write(0x10, entry as u32);
}

fn read_low(chip: &mut IoApic, pin: u8) -> u32 {
    chip.write(0, u32::from(0x10 + 2 * pin));
    chip.read(0x10)
}

#[test]
fn edges_send_once_and_are_lost_while_masked() {
    let mut chip = IoApic::default();
    chip.set_pin(4, true);
    chip.set_pin(4, false);
    write_entry(&mut chip, 4, 0x0300_0000_0000_0834);
    assert_eq!(chip.next_message(), None);
    chip.set_pin(4, true);
    chip.set_pin(4, true);
    let message = chip.next_message().unwrap();
    assert_eq!((message.vector, message.destination, message.logical, message.level), (0x34, 3, true, false));
    assert_eq!(chip.next_message(), None);
}

#[test]
fn levels_send_again_after_the_end_of_interrupt() {
    let mut chip = IoApic::default();
    write_entry(&mut chip, 9, 0x8040);
    chip.set_pin(9, true);
    assert!(chip.next_message().unwrap().level);
    assert_eq!(chip.next_message(), None);
    assert_ne!(read_low(&mut chip, 9) & 1 << 14, 0, "remote IRR");
    chip.end_of_interrupt(0x41);
    assert_eq!(chip.next_message(), None);
    chip.end_of_interrupt(0x40);
    assert!(chip.next_message().is_some());
    chip.set_pin(9, false);
    chip.end_of_interrupt(0x40);
    assert_eq!(chip.next_message(), None);
}

#[test]
fn read_only_bits_stay() {
    let mut chip = IoApic::default();
    write_entry(&mut chip, 0, u64::MAX);
    assert_eq!(read_low(&mut chip, 0), 0x1_afff);
    chip.write(0, 1);
    chip.write(0x10, 0);
    assert_eq!(chip.read(0x10), 0x17_0011);
    chip.write(0, 0x40);
    assert_eq!(chip.read(0x10), 0, "behind the table");
    chip.write(0, 0xff);
    chip.write(0x10, 1);
}

proptest! {
    #[test]
    fn any_accesses_end_and_states_round_trip(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u32>()), 0..200),
    ) {
        let mut chip = IoApic::default();
        for (a, b, value) in steps {
            match a & 3 {
                0 => chip.set_pin(a >> 2, b),
                1 => chip.write(u64::from(b) * 0x10, value),
                2 => chip.write(0, value % 0x48),
                _ => chip.end_of_interrupt(value as u8),
            }
            let sent = std::iter::from_fn(|| chip.next_message()).take(100).count();
            prop_assert!(sent <= PINS);
        }
        let bytes = postcard::to_allocvec(&chip.saved()).unwrap();
        prop_assert_eq!(IoApic::restored(&postcard::from_bytes(&bytes).unwrap()).unwrap(), chip);
    }
}
