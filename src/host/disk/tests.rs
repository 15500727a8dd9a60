use super::overlay::BLOCK;
use super::*;
use proptest::prelude::*;
use std::fs;
use tempfile::TempDir;

/// A folder with an image of so many bytes, sector by sector numbered.
fn image(size: usize) -> (TempDir, DiskSpec) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    fs::write(&image, (0..size).map(|i| (i / 512) as u8).collect::<Vec<_>>()).unwrap();
    (folder, DiskSpec { image, read_only: false, overlay: None })
}

fn with_overlay(size: usize) -> (TempDir, DiskSpec) {
    let (folder, mut spec) = image(size);
    spec.overlay = Some(folder.path().join("changes.cow"));
    (folder, spec)
}

fn opened(spec: &DiskSpec) -> Box<dyn DiskStore> {
    open(spec, &Failures::default()).unwrap()
}

fn refused(spec: &DiskSpec) -> String {
    match open(spec, &Failures::default()) {
        Ok(_) => panic!("was opened"),
        Err(error) => error.to_string(),
    }
}

fn read(disk: &mut dyn DiskStore, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    disk.read(at, &mut bytes).unwrap();
    bytes
}

#[test]
fn an_image_is_read_and_written_in_place() {
    let (_folder, spec) = image(4096 + 100);
    let mut disk = opened(&spec);
    assert_eq!((disk.size(), disk.is_read_only()), (4096, false), "whole sectors");
    assert_eq!(read(&mut *disk, 1000, 100), [vec![1; 24], vec![2; 76]].concat());
    disk.write(4000, &[9; 96]).unwrap();
    disk.flush().unwrap();
    let bytes = fs::read(&spec.image).unwrap();
    assert_eq!((bytes.len(), &bytes[3998..4001], bytes[4096]), (4196, &[7, 7, 9][..], 8));
}

#[test]
fn an_image_that_shrinks_is_an_error_for_the_guest() {
    let (_folder, spec) = image(8192);
    let failures = Failures::default();
    let mut disk = open(&spec, &failures).unwrap();
    let file = OpenOptions::new().write(true).open(&spec.image).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(failures.first(), None);
    assert!(disk.read(4000, &mut [0; 200]).is_err());
    assert!(disk.write(8000, &[1; 100]).is_err());
    assert_eq!(fs::metadata(&spec.image).unwrap().len(), 4096, "it was not made longer again");
    disk.write(0, &[5; 100]).unwrap();
    assert_eq!((disk.size(), read(&mut *disk, 0, 1)), (8192, vec![5]));
    assert!(failures.first().unwrap().contains("disk.img could not be read"), "{failures:?}");
}

#[test]
fn files_that_are_no_disks() {
    let (folder, mut spec) = image(511);
    assert!(refused(&spec).ends_with("is shorter than one sector of 512 bytes, and so no disk image"));
    spec.image = folder.path().to_owned();
    assert!(refused(&spec).contains("is a directory"));
    spec.image = folder.path().join("nothing");
    assert!(refused(&spec).starts_with("cannot open the disk image"));
    spec.image = "/dev/null".into();
    assert!(refused(&spec).contains("neither a file nor a block device"));
}

#[test]
fn one_machine_writes_or_several_read() {
    let (_folder, spec) = image(4096);
    let readers = DiskSpec { read_only: true, ..spec.clone() };
    let writer = opened(&spec);
    assert!(refused(&spec).contains("is in use by another machine"));
    assert!(refused(&readers).contains("is being written by another machine"));
    drop(writer);
    let (one, other) = (opened(&readers), opened(&readers));
    assert!(one.is_read_only() && other.is_read_only());
    assert!(refused(&spec).contains("in use"));
}

#[test]
fn a_read_only_image_need_not_be_writable() {
    let (_folder, mut spec) = image(4096);
    let mut permissions = fs::metadata(&spec.image).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&spec.image, permissions).unwrap();
    spec.read_only = true;
    let mut disk = opened(&spec);
    assert_eq!(read(&mut *disk, 512, 1), [1]);
    disk.flush().unwrap();
}

#[test]
fn an_overlay_takes_the_writes_and_the_image_stays() {
    let (_folder, spec) = with_overlay(5 * 4096 + 512);
    let before = fs::read(&spec.image).unwrap();
    let mut disk = opened(&spec);
    disk.write(BLOCK + 512, &[0xaa; 512]).unwrap();
    disk.write(5 * BLOCK, &[0xbb; 512]).unwrap();
    disk.flush().unwrap();
    drop(disk);
    for _ in 0..2 {
        let mut again = opened(&spec);
        let mut expected = before.clone();
        expected[4096 + 512..][..512].fill(0xaa);
        expected[5 * 4096..].fill(0xbb);
        assert_eq!(read(&mut *again, 0, expected.len()), expected);
    }
    assert_eq!(fs::read(&spec.image).unwrap(), before);
}

#[test]
fn an_overlay_belongs_to_one_image() {
    let (folder, spec) = with_overlay(8192);
    let overlay = spec.overlay.clone().unwrap();
    drop(opened(&spec));
    let in_use = opened(&spec);
    assert!(refused(&spec).contains("is in use by another machine"));
    drop(in_use);
    let longer = DiskSpec { image: folder.path().join("longer"), ..spec.clone() };
    fs::write(&longer.image, vec![0; 16384]).unwrap();
    assert!(refused(&longer).contains("is the overlay of another image"));
    let same_size = DiskSpec { image: folder.path().join("same"), ..spec.clone() };
    fs::write(&same_size.image, vec![0; 8192]).unwrap();
    assert!(refused(&same_size).contains("before it was changed"));
    let whole = fs::read(&overlay).unwrap();
    fs::write(&overlay, &whole[..5000]).unwrap();
    assert!(refused(&spec).contains("is an overlay that was cut off"));
    fs::write(&overlay, b"my only copy of something").unwrap();
    assert!(refused(&spec).contains("is no overlay"));
    assert_eq!(fs::read(&overlay).unwrap(), b"my only copy of something");
    let mut newer = whole.clone();
    newer[8] = 2;
    fs::write(&overlay, newer).unwrap();
    assert!(refused(&spec).contains("another version"));
    fs::write(&overlay, b"").unwrap();
    assert_eq!(opened(&spec).size(), 8192, "an empty file is a new overlay");
}

#[test]
fn a_read_only_overlay_shows_what_was_written() {
    let (_folder, mut spec) = with_overlay(8192);
    opened(&spec).write(0, &[7; 512]).unwrap();
    spec.read_only = true;
    let mut disk = opened(&spec);
    assert!(disk.is_read_only());
    assert_eq!(read(&mut *disk, 511, 2), [7, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn an_overlay_is_like_a_disk(
        size in 1..200_usize,
        writes in prop::collection::vec((0..200_usize, 1..40_usize, any::<u8>(), any::<bool>()), 0..30),
    ) {
        let (_folder, spec) = with_overlay(size * 512);
        let mut model = fs::read(&spec.image).unwrap();
        let before = model.clone();
        let mut disk = opened(&spec);
        for (at, length, value, reopen) in writes {
            let at = at % size;
            let range = at * 512..(at + length).min(size) * 512;
            model[range.clone()].fill(value);
            disk.write(range.start as u64, &model[range]).unwrap();
            if reopen {
                drop(disk);
                disk = opened(&spec);
            }
            let whole = read(&mut *disk, 0, size * 512);
            prop_assert!(whole == model);
        }
        prop_assert!(fs::read(&spec.image).unwrap() == before);
    }
}
