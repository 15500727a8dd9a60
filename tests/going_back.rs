//! Snapshots in memory: a machine goes back to any of them, in any order, and goes the same way from there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;
use trivisor::abi;
use trivisor::arch::{Gpa, Gva};
use trivisor::bench::workload;
use trivisor::clock::ClockSource;
use trivisor::engine::Mode;
use trivisor::loader::Image;
use trivisor::machine::{self, Capture, Limits, Machine, MachineSpec, SavedMachine, Stop};
use trivisor::snapshot::{Memory, Series};

const STEPS: usize = 8;

const COUNTED: ClockSource = ClockSource::Counted { nanos_per_instruction: 1 };

fn machine(mode: Mode, clock: ClockSource) -> Machine {
    machine_of("quicksort", mode, clock)
}

fn machine_of(workload: &str, mode: Mode, clock: ClockSource) -> Machine {
    let mut spec = MachineSpec::new(mode);
    spec.clock = clock;
    spec.command_line = format!("{}=60000000 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    let image = Image::parse(workload::find(workload).unwrap().image).unwrap();
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
    let mut machine = machine(Mode::Emu, COUNTED);
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
    let mut machine = machine_of("quicksort", Mode::Emu, COUNTED);
    let mut series = Series::new(&machine);
    go_on(&mut machine);
    let first = series.take(&mut machine).unwrap();
    let (mut taken, mut copied) = (Duration::ZERO, 0);
    for _ in 0..STEPS {
        go_on(&mut machine);
        let start = std::time::Instant::now();
        copied += series.take(&mut machine).unwrap().copied();
        taken += start.elapsed();
    }
    let start = std::time::Instant::now();
    series.put_back(&mut machine, &first).unwrap();
    println!(
        "in a series: {} µs and {} KiB of copies each, {} µs to go back",
        taken.as_micros() / STEPS as u128,
        copied / STEPS as u64 / 1024,
        start.elapsed().as_micros()
    );
}

fn position(machine: &Machine) -> u64 {
    machine.platform().progress().position()
}

fn run_to(machine: &mut Machine, until: u64, goes_on: bool) -> Stop {
    let timeout = Some(Duration::from_secs(60));
    machine.run(&Limits { timeout, until: Some(until), goes_on, ..Limits::default() }).unwrap()
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn a_position_is_the_same_moment_however_it_is_reached() {
    for workload in ["timer_interrupt", "hlt_wake", "forkwait", "rep_movs", "console", "page_fault"] {
        // A mark on the way, and the end, in one go.
        let (mark, end) = (900_000, 1_400_000);
        let mut whole = machine_of(workload, Mode::Emu, COUNTED);
        assert_eq!(run_to(&mut whole, mark, false), Stop::Position, "{workload}");
        let halfway = seen(&mut whole);
        assert_eq!(run_to(&mut whole, end, true), Stop::Position, "{workload}");
        let last = seen(&mut whole);
        let mut cut = machine_of(workload, Mode::Emu, COUNTED);
        let mut dice = Dice(0x1234_5678_9abc_def1);
        while position(&cut) < mark {
            let here = position(&cut);
            match dice.below(4) {
                0 => (0..dice.below(300).min(mark - here)).for_each(|_| {
                    assert_eq!(cut.step().unwrap(), Stop::Stepped);
                }),
                1 => {
                    // Breakpoints where the guest is now, and around.
                    let rip = cut.state().unwrap().rip;
                    let at: Vec<_> =
                        (0..4).map(|_| Gva(rip.wrapping_add(dice.below(48)).wrapping_sub(16))).collect();
                    cut.set_breakpoints(&at).unwrap();
                    for _ in 0..dice.below(20) {
                        let until = (here + 40_000).min(mark);
                        match run_to(&mut cut, until, false) {
                            Stop::Position => break,
                            Stop::Breakpoint(met) => assert!(at.contains(&met)),
                            stop => panic!("{workload}: {stop:?}"),
                        }
                    }
                    cut.set_breakpoints(&[]).unwrap();
                }
                _ => {
                    let until = (here + dice.below(50_000)).min(mark);
                    assert_eq!(run_to(&mut cut, until, true), Stop::Position);
                    assert_eq!(position(&cut), until);
                }
            }
        }
        assert!(seen(&mut cut) == halfway, "{workload}: at the mark");
        assert_eq!(run_to(&mut cut, end, true), Stop::Position);
        assert!(seen(&mut cut) == last, "{workload}: at the end");
    }
}

#[test]
fn a_series_of_snapshots_is_what_comparing_all_of_memory_gives() {
    let mut machine = machine_of("forkwait", Mode::Emu, COUNTED);
    let mut series = Series::new(&machine);
    if !series.is_watched() {
        println!("this host does not tell what was written: all is compared");
    }
    let mut moments = vec![];
    for number in 0..STEPS as u64 {
        assert_eq!(run_to(&mut machine, (number + 1) * 200_000, true), Stop::Position);
        let taken = series.take(&mut machine).unwrap();
        let compared = Memory::take(&mut machine, None).unwrap();
        // Each page, of either.
        compared.put_back(&mut machine).unwrap();
        moments.push((position(&machine), taken, seen(&mut machine)));
    }
    let mut dice = Dice(0xfeed_5eed);
    for turn in 0..30 {
        let number = dice.below(STEPS as u64) as usize;
        let (at, memory, (state, ram)) = &moments[number];
        series.put_back(&mut machine, memory).unwrap();
        machine.platform().progress().set_position(*at);
        let (back, back_ram) = seen(&mut machine);
        assert!(back == *state && back_ram == *ram, "turn {turn}, moment {number}");
        if turn % 2 == 0 {
            let until = at + dice.below(150_000);
            assert_eq!(run_to(&mut machine, until, true), Stop::Position);
            if turn % 4 == 0 {
                let extra = series.take(&mut machine).unwrap();
                let now = seen(&mut machine);
                moments[number] = (until, extra, now);
            }
        }
    }
}
