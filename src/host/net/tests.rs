use super::*;
use crossbeam_channel::{Receiver, unbounded};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn machine(spec: &NetSpec) -> (Network, Receiver<Vec<u8>>) {
    let (network, incoming) = Network::open(spec).unwrap();
    let (sender, frames) = unbounded();
    if let Some(incoming) = incoming {
        incoming.start(move |frame| sender.send(frame.to_vec()).is_ok()).unwrap();
    }
    (network, frames)
}

/// Sends until the frame is there: before both ends are connected it is lost.
fn pass(from: &mut Network, to: &Receiver<Vec<u8>>, frame: &[u8]) {
    loop {
        from.send(frame);
        if let Ok(there) = to.recv_timeout(Duration::from_millis(20)) {
            assert_eq!(there, frame);
            while to.recv_timeout(Duration::from_millis(20)).is_ok() {}
            return;
        }
    }
}

#[test]
fn frames_pass_both_ways_and_are_captured() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("a.pcap");
    let socket = folder.path().join("link");
    let link = Some(socket.clone());
    let (mut one, at_one) = machine(&NetSpec { link: link.clone(), capture: Some(capture.clone()) });
    let (mut other, at_other) = machine(&NetSpec { link: link.clone(), capture: None });
    pass(&mut one, &at_other, &[1; 60]);
    pass(&mut other, &at_one, &[2; 1518]);
    drop(other);
    // Another may come in its place.
    let (mut third, at_third) = machine(&NetSpec { link, capture: None });
    pass(&mut third, &at_one, &[3; 100]);
    pass(&mut one, &at_third, &[4; 14]);
    drop(one);
    assert!(!socket.exists());
    let file = fs::read(capture).unwrap();
    assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
    assert_eq!(file[20..24], [1, 0, 0, 0]);
    let (mut at, mut kinds) = (24, std::collections::BTreeSet::new());
    while at < file.len() {
        let length = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        kinds.insert((file[at + 16], length));
        at += 16 + length;
    }
    assert_eq!((at, kinds), (file.len(), [(1, 60), (2, 1518), (3, 100), (4, 14)].into()));
}

#[test]
fn a_hostile_other_end_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    let (mut network, frames) = machine(&NetSpec { link: Some(path.clone()), capture: None });
    let mut hostile = UnixStream::connect(&path).unwrap();
    hostile.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let _may_be_closed = hostile.write_all(&[0; 1 << 16]);
    let (mut good, at_good) = machine(&NetSpec { link: Some(path), capture: None });
    pass(&mut good, &frames, &[9; 64]);
    pass(&mut network, &at_good, &[8; 64]);
}

#[test]
fn what_cannot_be_opened_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("file");
    fs::write(&plain, b"mine").unwrap();
    let error = Network::open(&NetSpec { link: Some(plain.clone()), capture: None }).unwrap_err();
    assert!(error.to_string().starts_with("cannot use the network's socket"), "{error}");
    assert_eq!(fs::read(&plain).unwrap(), b"mine");
    let nowhere = folder.path().join("no/such");
    let error = Network::open(&NetSpec { link: None, capture: Some(nowhere) }).unwrap_err();
    assert!(error.to_string().starts_with("cannot write the packet capture"), "{error}");
}

#[test]
fn a_listener_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    let (network, frames) = machine(&NetSpec { link: Some(path.clone()), capture: None });
    drop(network);
    assert!(!path.exists());
    assert!(frames.recv_timeout(SOON).is_err_and(|error| error.is_disconnected()), "its threads have ended");
}
