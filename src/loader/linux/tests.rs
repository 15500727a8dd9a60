use super::super::Image;
use super::*;
use crate::arch::Gva;
use crate::arch::paging::{self, PagingMode};
use crate::arch::state::gpr::RSI;
use proptest::prelude::*;

/// A bzImage of protocol 2.15 with one setup sector and 0x400 bytes of kernel, which say where they lie in the file.
fn image() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(field::SETUP_SECTS, &[1]);
    put(field::SYSSIZE, &0x40_u32.to_le_bytes());
    put(field::BOOT_FLAG, &[0x55, 0xaa]);
    put(field::JUMP_OFFSET, &[0x66]);
    put(field::MAGIC, b"HdrS");
    put(field::VERSION, &0x20f_u16.to_le_bytes());
    put(field::LOADFLAGS, &[LOADED_HIGH]);
    put(field::INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
    put(field::XLOADFLAGS, &XLF_KERNEL_64.to_le_bytes());
    put(field::CMDLINE_SIZE, &100_u32.to_le_bytes());
    put(field::PREF_ADDRESS, &0x20_0000_u64.to_le_bytes());
    put(field::INIT_SIZE, &0x10_0000_u32.to_le_bytes());
    file.extend((0..0x100_u32).flat_map(|i| (0x400 + 4 * i).to_le_bytes()));
    file
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = image();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn read_u32(ram: &GuestRam, at: u64) -> u32 {
    let mut bytes = [0; 4];
    ram.read(Gpa(at), &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn a_kernel_is_entered_in_long_mode_with_its_parameters() {
    let ram = GuestRam::new(4 << 20).unwrap();
    let image = Image::parse(&image()).unwrap().with_initrd(vec![0xab; 5000]).unwrap();
    let state = image.load(&ram, "console=ttyS0", false).unwrap();
    assert!(state.is_64bit_code() && state.cpl() == 0);
    assert_eq!(read_u32(&ram, state.rip), 0x600, "0x200 bytes into the kernel");
    let params = state.gpr[RSI];
    assert_eq!(read_u32(&ram, params + 0x202), u32::from_le_bytes(*b"HdrS"));
    let (disk, size) = (read_u32(&ram, params + 0x218), read_u32(&ram, params + 0x21c));
    assert_eq!((disk, size), ((4 << 20) - 8192, 5000));
    assert_eq!(read_u32(&ram, u64::from(disk) + 4996), 0xabab_abab);
    let mut text = [0; 14];
    ram.read(Gpa(read_u32(&ram, params + 0x228).into()), &mut text).unwrap();
    assert_eq!(&text, b"console=ttyS0\0");
    let entries = usize::from(read_u32(&ram, params + 0x1e8) as u8);
    assert_eq!(entries, memory_map::regions(&ram).len());
    // What is executed and what it is told of is mapped to itself.
    for at in [state.rip, params, disk.into(), 0xffff_fff8] {
        let levels = paging::look(&ram, &PagingMode::of(&state), Gva(at));
        assert_eq!(levels.last().unwrap().entry & !0x1f_ffff, at & !0x1f_ffff);
    }
}

#[test]
fn a_kernel_without_64_bit_entry_is_entered_in_32_bit_mode() {
    let ram = GuestRam::new(4 << 20).unwrap();
    let image = Image::parse(&patched(field::XLOADFLAGS, &[0, 0])).unwrap();
    let state = image.load(&ram, "", false).unwrap();
    assert_eq!((state.rip, state.code_bits()), (layout::IMAGE_START.0, 32));
    assert!(!state.cr0.contains(crate::arch::Cr0::PG));
}

#[test]
fn each_kind_of_bad_kernel_has_its_own_sentence() {
    let error = |file: &[u8]| Image::parse(file).unwrap_err();
    assert!(matches!(error(&image()[..0x250]), LoadError::Damaged(_)));
    assert!(matches!(error(&image()[..0x7f0]), LoadError::Damaged(why) if why.contains("ends after")));
    assert!(Image::parse(&image()[..0x7f1]).is_ok(), "the size is rounded up");
    assert!(matches!(error(&patched(field::JUMP_OFFSET, &[4])), LoadError::Damaged(_)));
    let old = error(&patched(field::VERSION, &0x204_u16.to_le_bytes()));
    assert_eq!(old, LoadError::OldKernel { major: 2, minor: 4 });
    assert!(matches!(error(&patched(field::LOADFLAGS, &[0])), LoadError::OldKernel { .. }));
    assert_eq!(error(&patched(field::MAGIC, b"Hdr?")), LoadError::NotElf);
}

#[test]
fn what_has_no_room_is_refused() {
    let load = |file: &[u8], initrd: usize, mib: u64, line: &str| {
        let image = Image::parse(file).unwrap().with_initrd(vec![1; initrd]).unwrap();
        image.load(&GuestRam::new(mib << 20).unwrap(), line, false).unwrap_err()
    };
    assert!(
        matches!(load(&image(), 1, 2, ""), LoadError::DoesNotFit { .. }),
        "it unpacks itself up to 3 MiB"
    );
    let told = load(&image(), 2 << 20, 4, "");
    assert!(matches!(told, LoadError::InitrdDoesNotFit { kernel_end: 0x30_0000, .. }));
    assert!(told.to_string().ends_with("give the guest at least --memory 6M"), "{told}");
    let near = patched(field::INITRD_ADDR_MAX, &0x30_0fff_u32.to_le_bytes());
    assert!(matches!(load(&near, 4097, 64, ""), LoadError::InitrdDoesNotFit { end: 0x30_1000, .. }));
    let huge = patched(field::PREF_ADDRESS, &u64::MAX.to_le_bytes());
    assert!(matches!(load(&huge, 1, 64, ""), LoadError::DoesNotFit { .. }));
    assert_eq!(load(&image(), 1, 64, &"x".repeat(101)), LoadError::CommandLine(101, 100));
    assert_eq!(Image::parse(&image()).unwrap().with_initrd(vec![]).unwrap_err(), LoadError::EmptyInitrd);
    assert_eq!(Image::flat(vec![1]).unwrap().with_initrd(vec![1]).unwrap_err(), LoadError::NoInitrd);
}

proptest! {
    #[test]
    fn damaged_kernels_never_panic(
        changes in proptest::collection::vec((0x1f1_usize..0x264, any::<u8>()), 0..8),
        cut in 0_usize..=0x800,
        initrd in 1_usize..9000,
    ) {
        let mut file = image();
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(cut);
        if let Ok(image) = Image::parse(&file).and_then(|image| image.with_initrd(vec![1; initrd])) {
            let _either_way = image.load(&GuestRam::new(4 << 20).unwrap(), "", false);
        }
    }
}
