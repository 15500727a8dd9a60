//! The guest in `docs/pv-abi.md`: assembled as it stands there, and run with every engine.
use crate::program::trivisor;
use std::process::Command;
use trivisor::engine::{Interface, Pair};
use trivisor::machine;

#[test]
fn the_guest_of_the_documentation_makes_its_hypercalls_with_every_engine() {
    let text = include_str!("../../docs/pv-abi.md");
    let (_, code) = text.split_once("```asm\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (source, guest) = (dir.path().join("guest.S"), dir.path().join("guest"));
    std::fs::write(&source, code).unwrap();
    let words = text.lines().find_map(|line| line.strip_prefix("`cc ")).unwrap();
    let (words, _) = words.split_once(" -o guest").unwrap();
    let status =
        Command::new("cc").args(words.split(' ')).arg("-o").arg(&guest).arg(&source).status().unwrap();
    assert!(status.success());
    for pair in Pair::all() {
        if let Err(error) = machine::availability(pair) {
            println!("skipped: {error}");
            continue;
        }
        let (engine, interface) = (pair.engine.name(), pair.interface.name());
        let told = trivisor(&["run", guest.to_str().unwrap(), "--engine", engine, "--interface", interface]);
        if pair.interface == Interface::Pv {
            assert_eq!((told.status, &*told.out), (Some(0), "Hello by hypercall.\n"), "{pair}: {told:?}");
        } else {
            assert_eq!((told.status, &*told.out), (Some(1), ""), "{pair}: {told:?}");
        }
    }
}
