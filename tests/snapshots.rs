//! Snapshots of every mode restored in every mode, and files that are no snapshots.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

mod available;
#[path = "snapshots/guest.rs"]
mod guest;

use available::modes;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use trivisor::bench::marks::{self, End};
use trivisor::bench::workload;
use trivisor::clock::ClockSource;
use trivisor::engine::{Engine, Mode, VcpuId};
use trivisor::loader::Image;
use trivisor::machine::{self, Capture, Limits, Machine, MachineSpec, Stop};
use trivisor::snapshot::{self, Snapshot};
use trivisor::{abi, arch};

const CPU: VcpuId = VcpuId(0);
const HANGS: Duration = Duration::from_secs(120);

fn paused(after: Duration) -> Limits {
    Limits { timeout: Some(HANGS), pause_after: Some(after), ..Limits::default() }
}

fn to_the_end() -> Limits {
    Limits { timeout: Some(HANGS), ..Limits::default() }
}

/// Opens a snapshot and builds its machine in `mode`.
fn restore(file: &Path, mode: Mode, console: &Capture) -> Machine {
    let snapshot = Snapshot::open(file).unwrap();
    let mut spec = MachineSpec::new(mode);
    spec.take_shape(snapshot.shape());
    let built = snapshot.build(&spec, None, Box::new(console.clone()));
    built.unwrap_or_else(|error| panic!("in {mode}: {error}"))
}

/// What stands in the machine of [`guest`] when it waits to be let go.
fn check_waiting(machine: &Machine, what: &str) {
    let platform = machine.platform();
    assert!(platform.interrupt_pending(CPU), "{what}: an interrupt is pending");
    let now = platform.clock().now();
    assert!(platform.timers().next_deadline().is_some_and(|at| at > now), "{what}: a timer is armed");
    let received = machine.pc().uart().lock().saved().received;
    let bytes: Vec<u8> = received.iter().map(|(byte, _)| *byte).collect();
    assert_eq!(bytes, guest::TYPED, "{what}: what is in the FIFO");
}

#[test]
fn all_pairs_of_modes_with_a_timer_armed_an_interrupt_pending_and_a_fifo_half_full() {
    let modes = modes();
    let folder = tempfile::tempdir().unwrap();
    for from in &modes {
        let console = Capture::new(1000);
        let mut machine = guest::machine(*from, Box::new(console.clone()));
        for _ in 0..100 {
            assert_eq!(machine.run(&paused(Duration::from_millis(20))).unwrap(), Stop::Paused, "{from}");
            if guest::waits(&machine) {
                break;
            }
        }
        assert_eq!(machine.pc().console_input().receive(guest::TYPED), guest::TYPED.len());
        assert_eq!(machine.run(&paused(Duration::from_millis(30))).unwrap(), Stop::Paused, "{from}");
        check_waiting(&machine, &format!("{from}"));
        let file = folder.path().join(from.name());
        let written = snapshot::save(&mut machine, &file).unwrap();
        assert!(written.pages < 40, "{from}: RAM is sparse, {} pages were written", written.pages);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written stays");
        let state = machine.state().unwrap();
        // The one that was saved goes on, too.
        guest::let_go(&machine);
        assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{from}: {}", console.text());
        assert_eq!(console.text(), guest::PRINTS, "{from}");
        for to in &modes {
            let console = Capture::new(1000);
            let mut machine = restore(&file, *to, &console);
            let what = format!("{from} to {to}");
            check_waiting(&machine, &what);
            assert_eq!(machine.state().unwrap(), state, "{what}");
            guest::let_go(&machine);
            assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{what}: {}", console.text());
            assert_eq!(console.text(), guest::PRINTS, "{what}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}

/// Not those that calibrate a timer by the TSC, which jumps when a machine is moved.
#[test]
fn workloads_go_on_in_another_mode_with_the_right_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    for name in ["crc32", "page_fault", "nbody", "syscall"] {
        let workload = workload::find(name).unwrap();
        let image = Image::parse(workload.image).unwrap();
        let spec = |mode| {
            let mut spec = MachineSpec::new(mode);
            spec.command_line = format!("{}=20000 {}=2000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
            spec
        };
        let sums = |text: &str| {
            let transcript = marks::parse(text.as_bytes());
            assert_eq!((&transcript.errors, &transcript.end), (&vec![], &Some(End::Ok)), "{name}:\n{text}");
            let sum = |r: &marks::Mark| (r.metric_at_ring(), r.checksum);
            transcript.results.iter().map(sum).collect::<std::collections::BTreeMap<_, _>>()
        };
        let console = Capture::new(1 << 20);
        let mut whole = Machine::build(&spec(Mode::Emu), &image, Box::new(console.clone())).unwrap();
        assert_eq!(whole.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{name}");
        let expected = sums(&console.text());
        for from in modes() {
            for to in modes() {
                let console = Capture::new(1 << 20);
                let mut machine = Machine::build(&spec(from), &image, Box::new(console.clone())).unwrap();
                let mut moves = 0;
                let stop = loop {
                    let limits = if moves < 4 { paused(Duration::from_millis(2)) } else { to_the_end() };
                    match machine.run(&limits).unwrap() {
                        Stop::Paused => {}
                        stop => break stop,
                    }
                    moves += 1;
                    snapshot::save(&mut machine, &file).unwrap();
                    machine = restore(&file, if moves % 2 == 1 { to } else { from }, &console);
                };
                let text = console.text();
                assert_eq!(stop, Stop::PowerOff(1), "{name} from {from} to {to}:\n{text}");
                assert!(moves > 0, "{name} from {from} to {to} ended before it was moved");
                assert_eq!(sums(&text), expected, "{name} from {from} to {to}");
            }
        }
    }
}

/// A snapshot of the guest that waits, in emu with time counted.
fn waiting(folder: &TempDir) -> (Machine, std::path::PathBuf) {
    let mut spec = guest::spec(Mode::Emu);
    spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
    let mut machine = guest::machine_of(&spec, Box::new(Capture::new(1000)));
    assert_eq!(machine.run(&paused(Duration::from_millis(30))).unwrap(), Stop::Paused);
    assert!(guest::waits(&machine));
    assert_eq!(machine.pc().console_input().receive(guest::TYPED), guest::TYPED.len());
    let file = folder.path().join("snapshot");
    snapshot::save(&mut machine, &file).unwrap();
    (machine, file)
}

/// All that can be seen of a machine.
fn seen(machine: &mut Machine) -> (machine::SavedMachine, Vec<u8>) {
    let mut ram = vec![0; machine.platform().ram().size() as usize];
    machine.platform().ram().read(arch::Gpa(0), &mut ram).unwrap();
    (machine.save().unwrap(), ram)
}

#[test]
fn a_machine_goes_back_to_its_snapshot_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, file) = waiting(&folder);
    let then = seen(&mut machine);
    guest::let_go(&machine);
    assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1));
    let at_end = seen(&mut machine);
    for _ in 0..2 {
        Snapshot::open(&file).unwrap().put_into(&mut machine).unwrap();
        assert!(seen(&mut machine) == then, "it is where it was");
        guest::let_go(&machine);
        assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1));
        assert!(seen(&mut machine) == at_end, "and goes the same way");
    }
}

#[test]
fn files_that_are_cut_off_or_damaged_are_refused_and_nothing_is_half_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, file) = waiting(&folder);
    guest::let_go(&machine);
    machine.run(&paused(Duration::from_micros(50))).unwrap();
    let before = seen(&mut machine);
    let good = std::fs::read(&file).unwrap();
    let bad = folder.path().join("bad");
    let mut refused = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).unwrap();
        let refusal = Snapshot::open(&bad).and_then(|snapshot| snapshot.put_into(&mut machine)).unwrap_err();
        assert!(seen(&mut machine) == before, "{what}");
        let sentence = refusal.to_string();
        assert!(!sentence.contains('\n') && sentence.len() < 300, "{sentence}");
        sentence
    };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for i in 0..60 {
        let length = if i < 20 { i * 7 } else { next(good.len()) };
        let sentence = refused(&good[..length], "cut off");
        assert!(sentence.contains("cut off") || sentence.contains("no snapshot"), "{sentence}");
    }
    for i in 0..300 {
        let at = if i < 100 { next(200) } else { next(good.len()) };
        let mut bytes = good.clone();
        bytes[at] ^= 1 << next(8);
        refused(&bytes, "a bit is wrong");
    }
    let longer = [&good[..], b"x"].concat();
    refused(&longer, "longer");
    let mut newer = good.clone();
    newer[8] = 3;
    assert!(refused(&newer, "newer").ends_with("has version 3; this trivisor reads version 2"));
    assert!(refused(b"\x7fELF, for example, and some more", "other").ends_with("is no snapshot of trivisor"));
}

/// A file that someone changed on purpose, with checksums that are right.
#[test]
fn states_that_were_edited_are_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, file) = waiting(&folder);
    let good = std::fs::read(&file).unwrap();
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // The fourth section of the header is the state.
    let entry = 32 + 24 * 3;
    let (offset, length) = (u64_at(&good, entry + 8) as usize, u64_at(&good, entry + 16) as usize);
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let bad = folder.path().join("bad");
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            bytes[offset + next(length)] = next(256) as u8;
        }
        let checksum = crc32fast::hash(&bytes[offset..offset + length]);
        bytes[entry + 4..entry + 8].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(&bad, bytes).unwrap();
        let before = machine.save().unwrap();
        match Snapshot::open(&bad).and_then(|snapshot| snapshot.put_into(&mut machine)) {
            Err(_) => {
                assert!(machine.save().unwrap() == before, "refused, and changed");
                refused += 1;
            }
            Ok(()) => {
                let limits =
                    Limits { timeout: Some(Duration::from_millis(20)), ..paused(Duration::from_micros(200)) };
                let _whatever = machine.run(&limits);
                taken += 1;
            }
        }
    }
    assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
    Snapshot::open(&file).unwrap().put_into(&mut machine).unwrap();
    guest::let_go(&machine);
    assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1));
}

#[test]
fn a_machine_of_another_shape_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = waiting(&folder);
    let snapshot = Snapshot::open(&file).unwrap();
    let refused = |change: fn(&mut MachineSpec)| {
        let mut spec = MachineSpec::new(Mode::Emu);
        spec.take_shape(snapshot.shape());
        change(&mut spec);
        snapshot.build(&spec, None, Box::new(Capture::new(0))).unwrap_err().to_string()
    };
    let other = |rest: &str| format!("the snapshot cannot be restored: it is of another machine: {rest}");
    assert_eq!(refused(|s| s.memory = 64 << 20), other("it has 32 MiB of RAM, and this one 64 MiB"));
    assert_eq!(refused(|s| s.cpus = 2), other("it has 1 CPUs, and this one 2"));
    assert_eq!(refused(|s| s.entropy = true), other("it has no entropy device, and this one does"));
    let sentence = refused(|_| ());
    assert!(sentence.contains("time-stamp counter"), "time was counted, and now is not: {sentence}");
}

/// A guest that ran by the host's clock goes on with time counted, and repeats exactly.
#[test]
fn what_ran_fast_goes_on_deterministically() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    for from in modes() {
        let mut machine = guest::machine(from, Box::new(Capture::new(1000)));
        while !guest::waits(&machine) {
            machine.run(&paused(Duration::from_millis(20))).unwrap();
        }
        assert_eq!(machine.pc().console_input().receive(guest::TYPED), guest::TYPED.len());
        machine.run(&paused(Duration::from_millis(30))).unwrap();
        snapshot::save(&mut machine, &file).unwrap();
        let run = || {
            let snapshot = Snapshot::open(&file).unwrap();
            let mut spec = MachineSpec::new(Mode::Emu);
            spec.take_shape(snapshot.shape());
            spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
            let console = Capture::new(1000);
            let mut machine = snapshot.build(&spec, None, Box::new(console.clone())).unwrap();
            guest::let_go(&machine);
            assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{from}");
            assert_eq!(console.text(), guest::PRINTS, "{from}");
            seen(&mut machine)
        };
        assert!(run() == run(), "{from}: two runs differ");
        assert_eq!(machine.pair().engine == Engine::Emu, from == Mode::Emu);
    }
}
