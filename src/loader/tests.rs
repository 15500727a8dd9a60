use super::*;
use proptest::prelude::*;

/// A small but whole PVH executable: one code segment at 2 MiB.
fn image() -> Vec<u8> {
    let mut b = vec![0_u8; 0x200];
    b[..4].copy_from_slice(b"\x7fELF");
    b[4..7].copy_from_slice(&[2, 1, 1]);
    b[16..18].copy_from_slice(&2_u16.to_le_bytes());
    b[18..20].copy_from_slice(&62_u16.to_le_bytes());
    b[20..24].copy_from_slice(&1_u32.to_le_bytes());
    b[24..32].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    b[32..40].copy_from_slice(&64_u64.to_le_bytes());
    b[52..54].copy_from_slice(&64_u16.to_le_bytes());
    b[54..56].copy_from_slice(&56_u16.to_le_bytes());
    b[56..58].copy_from_slice(&2_u16.to_le_bytes());
    let mut program = |at: usize, kind: u32, flags: u32, offset: u64, address: u64, size: u64| {
        b[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        b[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
        for (i, v) in [offset, address, address, size, size, 4].into_iter().enumerate() {
            b[at + 8 + 8 * i..at + 16 + 8 * i].copy_from_slice(&v.to_le_bytes());
        }
    };
    program(64, 1, 5, 0x100, 0x20_0000, 0x10);
    program(120, 4, 4, 0xc0, 0, 20);
    b[0xc0..0xc4].copy_from_slice(&4_u32.to_le_bytes());
    b[0xc4..0xc8].copy_from_slice(&4_u32.to_le_bytes());
    b[0xc8..0xcc].copy_from_slice(&18_u32.to_le_bytes());
    b[0xcc..0xd0].copy_from_slice(b"Xen\0");
    b[0xd0..0xd4].copy_from_slice(&0x20_0004_u32.to_le_bytes());
    b[0x100..0x110].copy_from_slice(&[0x90; 16]);
    b
}

fn patched(at: usize, bytes: &[u8]) -> LoadError {
    let mut damaged = image();
    damaged[at..at + bytes.len()].copy_from_slice(bytes);
    Image::parse(&damaged).unwrap_err()
}

#[test]
fn a_pvh_image_is_loaded_and_entered_at_its_note() {
    let image = Image::parse(&image()).unwrap();
    let ram = GuestRam::new(4 << 20).unwrap();
    let state = image.load(&ram, "budget_us=7", false).unwrap();
    assert_eq!(state.rip, 0x20_0004);
    let mut code = [0; 17];
    ram.read(Gpa(0x20_0000), &mut code).unwrap();
    assert_eq!(code[..], [&[0x90; 16][..], &[0]].concat());
    let mut magic = [0; 4];
    ram.read(Gpa(state.gpr[3]), &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), 0x336e_c578);
    let mut text = [0; 12];
    ram.read(layout::PVH_START_INFO.offset(0x400), &mut text).unwrap();
    assert_eq!(&text, b"budget_us=7\0");
}

#[test]
fn each_kind_of_bad_image_has_its_own_sentence() {
    assert_eq!(Image::parse(b"#!/bin/sh\n").unwrap_err(), LoadError::NotElf);
    assert_eq!(Image::parse(b"").unwrap_err(), LoadError::NotElf);
    assert!(
        matches!(patched(18, &183_u16.to_le_bytes()), LoadError::OtherMachine(m) if m.contains("AArch64"))
    );
    assert!(matches!(patched(4, &[1]), LoadError::OtherMachine(_)));
    assert!(matches!(patched(16, &3_u16.to_le_bytes()), LoadError::NotExecutable(_)));
    assert_eq!(patched(0xc8, &17_u32.to_le_bytes()), LoadError::NoPvhNote);
    assert!(matches!(patched(0xd0, &0x30_0000_u32.to_le_bytes()), LoadError::Damaged(_)));
    for cut in [5, 17, 63, 100, 0x105] {
        assert!(matches!(Image::parse(&image()[..cut]), Err(LoadError::Damaged(_))), "cut at {cut}");
    }
    assert_eq!(Image::flat(vec![]).unwrap_err(), LoadError::Empty);
}

/// The small executable without its note, linked as Linux's kernel is.
fn vmlinux() -> Vec<u8> {
    let mut image = image();
    image[0xc8..0xcc].copy_from_slice(&17_u32.to_le_bytes());
    // The entry is a physical address, the addresses that the code has are not.
    image[24..32].copy_from_slice(&0x20_0008_u64.to_le_bytes());
    image[64 + 16..64 + 24].copy_from_slice(&0xffff_ffff_8020_0000_u64.to_le_bytes());
    image
}

#[test]
fn a_vmlinux_without_a_note_is_entered_by_linuxs_protocol() {
    let image = Image::parse(&vmlinux()).unwrap().with_initrd(vec![7; 100]).unwrap();
    assert!(image.is_linux());
    let ram = GuestRam::new(4 << 20).unwrap();
    let state = image.load(&ram, "quiet", true).unwrap();
    assert!(state.is_64bit_code());
    assert_eq!((state.rip, state.gpr[6]), (0x20_0008, layout::LINUX_BOOT_PARAMS.0));
    let read = |at: usize, size: usize| {
        let mut bytes = vec![0; size];
        ram.read(layout::LINUX_BOOT_PARAMS.offset(at as u64), &mut bytes).unwrap();
        bytes
    };
    let word = |at| u64::from(u32::from_le_bytes(read(at, 4).try_into().unwrap()));
    assert_eq!((read(0x202, 4), read(0x1fe, 2)), (b"HdrS".to_vec(), vec![0x55, 0xaa]));
    assert_eq!((word(0x218), word(0x21c), read(6, 2)), ((4 << 20) - 4096, 100, vec![3, 80]));
    let mut line = [0; 6];
    ram.read(Gpa(word(0x228)), &mut line).unwrap();
    assert_eq!(&line, b"quiet\0");
    assert_ne!(read(0x1e8, 1), [0], "a map of memory");
    assert!(matches!(image.load(&ram, &"x".repeat(2048), false), Err(LoadError::CommandLine(2048, 2047))));
    // One whose entry is not in it, and a program that is linked low.
    let mut astray = vmlinux();
    astray[24..32].copy_from_slice(&0x30_0000_u64.to_le_bytes());
    assert_eq!(Image::parse(&astray).unwrap_err(), LoadError::NoPvhNote);
}

#[test]
fn an_image_must_fit_into_ram() {
    let image = Image::parse(&image()).unwrap();
    let small = GuestRam::new(2 << 20).unwrap();
    assert!(matches!(image.load(&small, "", false), Err(LoadError::DoesNotFit { .. })));
    let tiny = GuestRam::new(4096).unwrap();
    assert!(matches!(image.load(&tiny, "", false), Err(LoadError::DoesNotFit { .. })));
    let ram = GuestRam::new(4 << 20).unwrap();
    assert!(matches!(image.load(&ram, &"x".repeat(5000), false), Err(LoadError::CommandLine(5000, _))));
    let low = Image::parse(&{
        let mut low = super::tests::image();
        for at in [64 + 16, 64 + 24] {
            low[at..at + 8].copy_from_slice(&0x5000_u64.to_le_bytes());
        }
        low[0xd0..0xd4].copy_from_slice(&0x5004_u32.to_le_bytes());
        low
    })
    .unwrap();
    assert!(matches!(low.load(&ram, "", false), Err(LoadError::DoesNotFit { .. })));
}

#[test]
fn a_misfit_says_what_helps() {
    let told = |start, end, high| LoadError::DoesNotFit { start, end, low: 0x10_0000, high }.to_string();
    assert_eq!(
        told(0x20_0000, 0x20_43c8, 0x10_0000),
        "the image needs 3 MiB, but the guest has 1 MiB of RAM; give it at least --memory 3M"
    );
    assert!(told(0x5000, 0x6000, 1 << 30).ends_with("link it higher"));
    // More RAM would not help: it would lie above the devices.
    assert!(told(0x20_0000, u64::MAX, 1 << 30).ends_with("make it smaller"));
}

proptest! {
    #[test]
    fn damaged_images_never_panic(changes in proptest::collection::vec((0_usize..0x200, any::<u8>()), 0..12), cut in 0_usize..=0x200) {
        let mut bytes = image();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        if let Ok(image) = Image::parse(&bytes) {
            let ram = GuestRam::new(4 << 20).unwrap();
            let _either_way = image.load(&ram, "", false);
        }
    }
}

#[test]
fn firmware_lies_below_1_mib_and_starts_at_the_reset_vector() {
    let mut bytes = vec![0; 256 << 10];
    bytes[128 << 10] = 0xaa;
    bytes[(256 << 10) - 16] = 0xea;
    let image = Image::firmware(bytes).unwrap();
    assert_eq!(image.rom().map(<[u8]>::len), Some(256 << 10));
    let ram = GuestRam::new(1 << 20).unwrap();
    let state = image.load(&ram, "", false).unwrap();
    assert_eq!((state.rip, state.segments[1].base), (0xfff0, 0xffff_0000));
    let mut byte = [0];
    ram.read(Gpa(0xe_0000), &mut byte).unwrap();
    assert_eq!(byte, [0xaa]);
    ram.read(Gpa(0xf_fff0), &mut byte).unwrap();
    assert_eq!(byte, [0xea]);
    let small = GuestRam::new(512 << 10).unwrap();
    assert!(matches!(image.load(&small, "", false), Err(LoadError::DoesNotFit { .. })));
    for size in [0, 1, 1000, 100 << 10, 16 << 20] {
        assert_eq!(Image::firmware(vec![0; size]).unwrap_err(), LoadError::FirmwareSize(size as u64));
    }
    let small = Image::firmware(vec![1; 64 << 10]).unwrap();
    assert_eq!(small.segments()[0].gpa, Gpa(0xf_0000));
}
