//! Snapshots in memory: a machine goes back to any of them, in any order, and goes the same way from there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;
use trivisor::abi;
use trivisor::arch::Gpa;
use trivisor::bench::workload;
use trivisor::clock::ClockSource;
use trivisor::engine::Mode;
use trivisor::loader::Image;
use trivisor::machine::{self, Capture, Limits, Machine, MachineSpec, SavedMachine, Stop};
use trivisor::snapshot::Memory;

const STEPS: usize = 8;

fn machine(mode: Mode, clock: ClockSource) -> Machine {
    let mut spec = MachineSpec::new(mode);
    spec.clock = clock;
    spec.command_line = format!("{}=60000000 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    let image = Image::parse(workload::find("quicksort").unwrap().image).unwrap();
    Machine::build(&spec, &image, Box::new(Capture::new(1 << 20))).unwrap()
}

fn go_on(machine: &mut Machine) {
    let limits = Limits {
        timeout: Some(Duration::from_secs(60)),
        pause_after: Some(Duration::from_millis(1)),
        ..Limits::default()
    };
    assert_eq!(machine.run(&limits).unwrap(), Stop::Paused);
}

fn seen(machine: &mut Machine) -> (SavedMachine, Vec<u8>) {
    let mut ram = vec![0; machine.platform().ram().size() as usize];
    machine.platform().ram().read(Gpa(0), &mut ram).unwrap();
    (machine.save().unwrap(), ram)
}

#[test]
fn a_machine_goes_back_to_any_moment_and_the_same_way_from_there() {
    let mut machine = machine(Mode::Emu, ClockSource::Counted { nanos_per_instruction: 1 });
    let (mut moments, mut snapshots) = (vec![], Vec::<Memory>::new());
    for _ in 0..STEPS {
        go_on(&mut machine);
        snapshots.push(Memory::take(&mut machine, snapshots.last()).unwrap());
        moments.push(seen(&mut machine));
    }
    let first = snapshots[0].copied();
    assert!(first > 0, "something was copied");
    assert!(snapshots[1..].iter().all(|snapshot| snapshot.copied() < first), "unchanged pages are shared");
    for number in [7, 0, 3, 2, 6, 0] {
        snapshots[number].put_back(&mut machine).unwrap();
        assert!(seen(&mut machine) == moments[number], "at moment {number}");
        for moment in moments.iter().skip(number + 1).take(2) {
            go_on(&mut machine);
            assert!(seen(&mut machine) == *moment, "from moment {number} on");
        }
    }
    // Those of before are as they were, whatever was dropped meanwhile.
    drop(snapshots.split_off(4));
    snapshots.remove(0);
    snapshots[0].put_back(&mut machine).unwrap();
    assert!(seen(&mut machine) == moments[1]);
}

#[test]
fn every_mode_goes_back() {
    for mode in Mode::ALL {
        if let Err(error) = machine::availability(mode) {
            println!("skipped: {error}");
            continue;
        }
        let mut machine = machine(mode, ClockSource::Real);
        go_on(&mut machine);
        let snapshot = Memory::take(&mut machine, None).unwrap();
        let (state, ram) = seen(&mut machine);
        for _ in 0..3 {
            // On a busy host a millisecond may pass without an instruction.
            let moved = (0..100).any(|_| {
                go_on(&mut machine);
                seen(&mut machine).1 != ram
            });
            assert!(moved, "{mode} does nothing");
            snapshot.put_back(&mut machine).unwrap();
            let (back, back_ram) = seen(&mut machine);
            assert!(back_ram == ram && back.cpus == state.cpus, "{mode} is not where it was");
        }
    }
}

/// Not a test of speed, which nobody promises on a busy host: it prints what was measured.
#[test]
fn what_snapshots_in_memory_take_is_told() {
    let mut machine = machine(Mode::Emu, ClockSource::Real);
    go_on(&mut machine);
    let mut last = Memory::take(&mut machine, None).unwrap();
    let (mut taken, mut copied) = (Duration::ZERO, 0);
    for _ in 0..STEPS {
        go_on(&mut machine);
        let start = std::time::Instant::now();
        last = Memory::take(&mut machine, Some(&last)).unwrap();
        taken += start.elapsed();
        copied += last.copied();
    }
    println!(
        "{} µs and {} KiB of copies each",
        taken.as_micros() / STEPS as u128,
        copied / STEPS as u64 / 1024
    );
    assert!(copied > 0);
}
