use super::*;
use crate::arch::{Gpa, Width};
use crate::bus::PortDevice;
use crate::mem::GuestRam;
use proptest::prelude::*;

fn write(vga: &mut Vga, port: u16, value: u8) {
    vga.port_write(Port(port), Width::B1, value.into());
}

fn read(vga: &mut Vga, port: u16) -> u8 {
    vga.port_read(Port(port), Width::B1) as u8
}

/// Index and data in one access, as drivers do.
fn crtc(vga: &mut Vga, index: u8, value: u8) {
    vga.port_write(Port(0x3d4), Width::B2, u32::from(value) << 8 | u32::from(index));
}

fn print(ram: &GuestRam, cell: u64, text: &str) {
    for (i, byte) in text.bytes().enumerate() {
        ram.write(Gpa(0xb_8000 + 2 * (cell + i as u64)), &[byte, 7]).unwrap();
    }
}

#[test]
fn the_screen_begins_as_a_bios_leaves_it() {
    let (mut vga, ram) = (Vga::default(), GuestRam::new(1 << 20).unwrap());
    print(&ram, 0, "top");
    print(&ram, 80 * 24 + 78, "\x01");
    ram.write(Gpa(0xb_8000 + 2 * (80 * 24 + 79)), &[0xb3, 0x1f]).unwrap();
    let screen = vga.text(&ram).unwrap();
    let lines = screen.lines();
    assert_eq!((screen.columns, lines.len(), screen.cursor), (80, 25, Some((0, 0))));
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("top", ""));
    assert!(lines[24].ends_with("☺│"));
    assert_eq!(screen.cells[80 * 25 - 1].attribute, 0x1f);
    assert_eq!(read(&mut vga, 0x3cc) & 1, 1, "in colour");
}

#[test]
fn scrolling_and_the_cursor_follow_the_registers() {
    let (mut vga, ram) = (Vga::default(), GuestRam::new(1 << 20).unwrap());
    print(&ram, 80, "second");
    crtc(&mut vga, 0x0d, 80);
    crtc(&mut vga, 0x0f, 86);
    let screen = vga.text(&ram).unwrap();
    assert_eq!((screen.lines()[0].as_str(), screen.cursor), ("second", Some((0, 6))));
    crtc(&mut vga, 0x0a, 0x2e);
    assert_eq!(vga.text(&ram).unwrap().cursor, None);
    // Over the end of video memory it goes on at its beginning.
    crtc(&mut vga, 0x0c, 0x3f);
    crtc(&mut vga, 0x0d, 0xf0);
    print(&ram, 0, "wrapped");
    assert_eq!(&vga.text(&ram).unwrap().lines()[0][16..], "wrapped");
}

#[test]
fn eight_dots_make_fifty_rows() {
    let (mut vga, ram) = (Vga::default(), GuestRam::new(1 << 20).unwrap());
    crtc(&mut vga, 0x09, 0x47);
    assert_eq!(vga.text(&ram).unwrap().lines().len(), 50);
}

#[test]
fn the_first_registers_are_protected_and_the_attributes_flip() {
    let mut vga = Vga::default();
    crtc(&mut vga, 0x01, 39);
    crtc(&mut vga, 0x07, 0);
    assert_eq!((vga.state.crtc[1], vga.state.crtc[7]), (0x4f, 0x0f), "but for line compare");
    crtc(&mut vga, 0x11, 0x0e);
    crtc(&mut vga, 0x01, 39);
    assert_eq!(vga.state.crtc[1], 39);
    read(&mut vga, 0x3da);
    write(&mut vga, 0x3c0, 0x31);
    write(&mut vga, 0x3c0, 0x12);
    write(&mut vga, 0x3c0, 0x05);
    read(&mut vga, 0x3da);
    write(&mut vga, 0x3c0, 0x31);
    assert_eq!(read(&mut vga, 0x3c1), 0x12);
    assert_ne!(read(&mut vga, 0x3da) & 8, read(&mut vga, 0x3da) & 8, "the retrace comes and goes");
}

#[test]
fn the_monochrome_place_and_graphics() {
    let (mut vga, ram) = (Vga::default(), GuestRam::new(1 << 20).unwrap());
    assert_eq!(read(&mut vga, 0x3b5), 0xff);
    write(&mut vga, 0x3c2, 0x66);
    write(&mut vga, 0x3b4, 0x12);
    assert_eq!((read(&mut vga, 0x3b5), read(&mut vga, 0x3d5)), (0x8f, 0xff));
    write(&mut vga, 0x3ce, 6);
    write(&mut vga, 0x3cf, 0x05);
    assert_eq!(vga.text(&ram), None);
    write(&mut vga, 0x3cf, 0x0e);
    assert_eq!(vga.text(&GuestRam::new(4096).unwrap()), None, "no such memory");
}

#[test]
fn colours_are_read_back() {
    let mut vga = Vga::default();
    write(&mut vga, 0x3c8, 255);
    [1, 2, 0xff, 4].iter().for_each(|&byte| write(&mut vga, 0x3c9, byte));
    write(&mut vga, 0x3c7, 255);
    assert_eq!([0; 4].map(|_| read(&mut vga, 0x3c9)), [1, 2, 0x3f, 4], "it goes on at the first");
}

proptest! {
    #[test]
    fn any_accesses_do_and_states_round_trip(
        steps in prop::collection::vec((0x3af..0x3e1_u16, 0..3_usize, any::<Option<u32>>()), 0..200),
    ) {
        let (mut vga, mut other) = (Vga::default(), Vga::default());
        let ram = GuestRam::new(1 << 20).unwrap();
        for (port, width, value) in steps {
            let width = [Width::B1, Width::B2, Width::B4][width];
            match value {
                Some(value) => vga.port_write(Port(port), width, value & width.mask() as u32),
                None => {
                    vga.port_read(Port(port), width);
                }
            }
            if let Some(screen) = vga.text(&ram) {
                prop_assert_eq!(screen.cells.len() % screen.columns, 0);
            }
            let bytes = postcard::to_allocvec(&vga.saved()).unwrap();
            other.restore(&postcard::from_bytes(&bytes).unwrap()).unwrap();
            prop_assert_eq!(&other.state, &vga.state);
        }
    }
}
