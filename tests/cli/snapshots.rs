//! Snapshots on the command line: there and back, and what goes wrong.
use crate::program::trivisor;

#[test]
fn a_guest_goes_on_from_its_snapshot_and_mistakes_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, cut, late) = (path("snapshot"), path("cut"), path("late"));
    trivisor(&["run", "--save", &file, "--save-after", "3ms", "--append", "budget_us=20000", "crc32"]).well();
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["snapshot"], "nothing half-written stays");
    let end = trivisor(&["run", "--restore", &file]);
    end.well();
    assert!(end.out.ends_with("@trivisor end status=ok\n"), "{}", end.out);

    std::fs::write(&cut, &std::fs::read(&file).unwrap()[..5000]).unwrap();
    let restore = |more: &[&str]| trivisor(&[&["run", "--restore"], more].concat());
    restore(&[&cut]).one_sentence(1, &[&cut, "cut off", "5000 bytes"]);
    restore(&[&late]).one_sentence(1, &["cannot read", &late]);
    restore(&["/"]).one_sentence(1, &["/ is no snapshot"]);
    restore(&[&file, "--disk", &file]).one_sentence(1, &["another machine", "0 virtio disks", "--disk"]);
    restore(&[&file, "--net", &format!("pcap={late}")]).one_sentence(1, &["another machine", "network card"]);
    restore(&[&file, "--memory", "64M"]).one_sentence(2, &["--restore", "--memory"]);
    restore(&[&file, "--screen"]).one_sentence(2, &["--screen", "no screen"]);
    trivisor(&["run", "--save", &late, "hello"]).one_sentence(2, &["--save-after"]);
    trivisor(&["run", "--save-after", "1s", "hello"]).one_sentence(2, &["--save"]);
    let too_late = trivisor(&["run", "--save", &late, "--save-after", "1m", "hello"]);
    too_late.one_sentence(1, &["hello", "ended before --save-after", "no snapshot"]);
    trivisor(&[
        "run",
        "--save",
        "/nonexistent/s",
        "--save-after",
        "1ms",
        "--append",
        "budget_us=20000",
        "crc32",
    ])
    .one_sentence(1, &["cannot write the snapshot /nonexistent/s"]);
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2 + usize::from(std::path::Path::new(&late).exists()), "{left:?}");
}
