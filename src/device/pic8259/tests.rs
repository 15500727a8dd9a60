use super::*;
use proptest::prelude::*;

const M0: Port = Port(0x20);
const M1: Port = Port(0x21);
const S0: Port = Port(0xa0);
const S1: Port = Port(0xa1);

/// The usual set-up: vectors 0x20 and 0x28, nothing masked, ICW4 as given.
fn ready_with(icw4: u8) -> PicPair {
    let mut pic = PicPair::default();
    for (command, data, base, icw3) in [(M0, M1, 0x20, 4), (S0, S1, 0x28, 2)] {
        pic.write(command, 0x11);
        pic.write(data, base);
        pic.write(data, icw3);
        pic.write(data, icw4);
        pic.write(data, 0);
    }
    pic
}

fn ready() -> PicPair {
    ready_with(1)
}

fn pulse(pic: &mut PicPair, line: u8) {
    pic.set_line(line, true);
    pic.set_line(line, false);
}

fn read_isr(pic: &mut PicPair, command: Port) -> u8 {
    pic.write(command, 0x0b);
    pic.read(command)
}

#[test]
fn unprogrammed_chips_stay_silent() {
    let mut pic = PicPair::default();
    (0..16).for_each(|line| pulse(&mut pic, line));
    assert!(!pic.output());
}

#[test]
fn an_interrupt_is_in_service_until_its_eoi() {
    let mut pic = ready();
    pulse(&mut pic, 4);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x24);
    assert!(!pic.output());
    assert_eq!(read_isr(&mut pic, M0), 0x10);
    pulse(&mut pic, 4);
    assert!(!pic.output(), "its own level is in service");
    pic.write(M0, 0x20);
    assert!(pic.output());
}

#[test]
fn lower_numbers_come_first_and_interrupt_higher_ones() {
    let mut pic = ready();
    pulse(&mut pic, 6);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x23);
    assert!(!pic.output());
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pic.write(M0, 0x20);
    assert_eq!(read_isr(&mut pic, M0), 0x08, "the non-specific EOI ends the highest");
    pic.write(M0, 0x60 | 3);
    assert_eq!(pic.acknowledge(), 0x26);
}

#[test]
fn the_slave_passes_through_input_two_of_the_master() {
    let mut pic = ready();
    pulse(&mut pic, 12);
    pulse(&mut pic, 8);
    assert_eq!(pic.acknowledge(), 0x28);
    assert_eq!((read_isr(&mut pic, M0), read_isr(&mut pic, S0)), (4, 1));
    pic.write(M0, 0x20);
    assert!(!pic.output(), "the slave still serves IR0");
    pic.write(S0, 0x20);
    assert_eq!(pic.acknowledge(), 0x2c);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    for (icw4, expected) in [(0x01, false), (0x11, true)] {
        let mut pic = ready_with(icw4);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x2c);
        pulse(&mut pic, 9);
        assert_eq!(pic.output(), expected, "ICW4 {icw4:#x}");
    }
}

#[test]
fn automatic_eoi_leaves_nothing_in_service_and_loses_nothing() {
    let mut pic = ready_with(3);
    pulse(&mut pic, 9);
    pulse(&mut pic, 10);
    assert_eq!(pic.acknowledge(), 0x29);
    assert_eq!(pic.acknowledge(), 0x2a);
    assert!(!pic.output());
}

#[test]
fn rotation_makes_the_ended_level_the_lowest() {
    let mut pic = ready();
    pulse(&mut pic, 4);
    pic.acknowledge();
    pic.write(M0, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x25);
    pic.write(M0, 0xe0 | 5);
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x26);
    pic.write(M0, 0x20);
    pic.write(M0, 0xc0 | 3);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x24, "IR3 was made the lowest, so IR4 is the highest");
}

#[test]
fn rotation_in_automatic_eoi() {
    let mut pic = ready_with(3);
    pic.write(M0, 0x80);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pulse(&mut pic, 1);
    pulse(&mut pic, 7);
    assert_eq!(pic.acknowledge(), 0x27);
}

#[test]
fn special_mask_mode_lets_lower_levels_through() {
    let mut pic = ready();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(!pic.output());
    pic.write(M1, 0x02);
    pic.write(M0, 0x68);
    assert_eq!(pic.acknowledge(), 0x26);
    pic.write(M0, 0x20);
    assert_eq!(read_isr(&mut pic, M0), 0x02, "the masked level is not ended by a non-specific EOI");
    pic.write(M0, 0x48);
    pic.write(M0, 0x20);
    assert_eq!(read_isr(&mut pic, M0), 0);
}

#[test]
fn a_poll_acknowledges() {
    let mut pic = ready();
    pic.write(M0, 0x0c);
    assert_eq!(pic.read(M0), 0);
    pulse(&mut pic, 5);
    pic.write(M0, 0x0c);
    assert_eq!(pic.read(M1), 0x85);
    assert_eq!(read_isr(&mut pic, M0), 0x20);
    pulse(&mut pic, 11);
    pic.write(S0, 0x0c);
    assert_eq!(pic.read(S0), 0x83);
    assert_eq!(read_isr(&mut pic, S0), 0x08);
}

#[test]
fn level_triggered_requests_follow_the_pin() {
    let mut pic = ready();
    pic.write(Port(0x4d0), 0xff);
    pic.write(Port(0x4d1), 0xff);
    assert_eq!((pic.read(Port(0x4d0)), pic.read(Port(0x4d1))), (0xf8, 0xde));
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x25);
    pic.write(M0, 0x20);
    assert!(pic.output(), "the pin is still high");
    pic.set_line(5, false);
    assert!(!pic.output());
}

#[test]
fn a_request_that_vanished_is_spurious() {
    let mut pic = ready();
    pic.write(Port(0x4d1), 0x02);
    pic.set_line(9, true);
    pic.set_line(9, false);
    assert_eq!(pic.acknowledge(), 0x2f, "the master latched the cascade");
    assert_eq!((read_isr(&mut pic, M0), read_isr(&mut pic, S0)), (4, 0));
    pic.write(M0, 0x20);
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(read_isr(&mut pic, M0), 0);
}

#[test]
fn masked_edges_are_remembered() {
    let mut pic = ready();
    pic.write(M1, 0xff);
    pulse(&mut pic, 4);
    assert!(!pic.output());
    assert_eq!(pic.read(M1), 0xff);
    pic.write(M0, 0x0a);
    assert_eq!(pic.read(M0), 0x10);
    pic.write(M1, 0xef);
    assert!(pic.output());
}

#[test]
fn initialization_demands_a_new_edge() {
    let mut pic = ready();
    pic.set_line(4, true);
    pic.write(M0, 0x13);
    pic.write(M1, 0x40);
    pic.write(M1, 1);
    assert!(!pic.output());
    pic.set_line(4, true);
    assert!(!pic.output());
    pic.set_line(4, false);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x44);
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, bool),
    Read(u16),
    Write(u16, u8),
    Acknowledge,
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop::sample::select(vec![0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x22, 0x4d2]);
    prop_oneof![
        (0..20_u8, any::<bool>()).prop_map(|(l, v)| Step::Line(l, v)),
        port.clone().prop_map(Step::Read),
        (port, any::<u8>()).prop_map(|(p, v)| Step::Write(p, v)),
        Just(Step::Acknowledge),
    ]
}

fn apply(pic: &mut PicPair, step: &Step) -> u8 {
    match *step {
        Step::Line(line, level) => {
            pic.set_line(line, level);
            0
        }
        Step::Read(port) => pic.read(Port(port)),
        Step::Write(port, value) => {
            pic.write(Port(port), value);
            0
        }
        Step::Acknowledge => pic.acknowledge(),
    }
}

proptest! {
    #[test]
    fn a_restored_pair_behaves_like_the_saved_one(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let mut pic = PicPair::default();
        for s in &before {
            apply(&mut pic, s);
        }
        let bytes = postcard::to_allocvec(&pic.saved()).unwrap();
        let mut restored = PicPair::restored(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        prop_assert_eq!(&restored, &pic);
        for s in &after {
            prop_assert_eq!(apply(&mut pic, s), apply(&mut restored, s));
            prop_assert_eq!(pic.output(), restored.output());
        }
    }

    #[test]
    fn an_acknowledge_lowers_the_output_or_raises_the_priority(steps in prop::collection::vec(step(), 0..60)) {
        // Without automatic EOI, acknowledging alone must come to an end: nothing interrupts itself.
        let mut pic = PicPair::default();
        for s in &steps {
            apply(&mut pic, s);
        }
        if !pic.master.auto_eoi && !pic.slave.auto_eoi {
            let mut most = 0;
            while pic.output() && most < 32 {
                pic.acknowledge();
                most += 1;
            }
            prop_assert!(most <= 24 || pic.master.special_fully_nested || pic.master.special_mask);
        }
    }
}
