//! Guests that are moved from mode to mode while they run.
//!
//! The points are random, from a seed that a failure prints; `TRIVISOR_SEED` gives another one. `TRIVISOR_SWITCHES` says how
//! many there are in each workload (30 unless said otherwise; 100 take some two minutes).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod available;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "snapshots/guest.rs"]
mod guest;

use available::modes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use trivisor::abi;
use trivisor::arch::CpuState;
use trivisor::bench::fingerprint::EMULATED_SUPERVISOR;
use trivisor::bench::marks::{self, End};
use trivisor::bench::measure::ScratchDisk;
use trivisor::bench::workload::{self, Kind, Workload};
use trivisor::clock::ClockSource;
use trivisor::engine::{Engine, Interface, Mode, Pair, VcpuId};
use trivisor::loader::Image;
use trivisor::machine::{self, Capture, Itinerary, Journey, Limits, Machine, MachineSpec, Moves, Stop};

const HANGS: Duration = Duration::from_secs(120);

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn spec(mode: Mode, budget_us: u64) -> MachineSpec {
    let mut spec = MachineSpec::new(mode);
    spec.common_cpu = true;
    spec.command_line = format!("{}={budget_us} {}=2000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    spec
}

/// The checksums that a guest printed, and how it ended; without that, what it said.
fn sums(text: &str) -> Result<(BTreeMap<String, u64>, End), String> {
    let transcript = marks::parse(text.as_bytes());
    let sum = |r: &marks::Mark| (format!("{:?}", r.metric_at_ring()), r.checksum);
    match (transcript.errors.is_empty(), transcript.end) {
        (true, Some(end)) => Ok((transcript.results.iter().map(sum).collect(), end)),
        _ => Err(format!("it did not end well:\n{text}")),
    }
}

fn to_the_end() -> Limits {
    Limits { timeout: Some(HANGS), ..Limits::default() }
}

/// Runs a workload and moves it at random points. What it printed, and the moves.
fn switched(
    workload: &Workload,
    modes: &[Mode],
    points: u64,
    random: &mut Random,
) -> Result<(String, Moves), String> {
    let image = Image::parse(workload.image).unwrap();
    let console = Capture::new(1 << 20);
    let mut mode = modes[random.below(modes.len() as u64) as usize];
    let mut wanted = spec(mode, 4000 * points);
    let disk = ScratchDisk::of(workload).map_err(|error| error.to_string())?;
    if let Some(disk) = &disk {
        disk.plug(&mut wanted);
    }
    let built = Machine::build(&wanted, &image, Box::new(console.clone()));
    let mut machine = built.map_err(|error| error.to_string())?;
    let start = Instant::now();
    for _ in 0..points {
        let pause = Duration::from_nanos(1 + random.below(300_000));
        let limits = Limits { timeout: Some(HANGS), pause_after: Some(pause), ..Limits::default() };
        let stop = machine.run(&limits).map_err(|error| format!("in {mode}: {error}"))?;
        match stop {
            Stop::Paused => {}
            Stop::PowerOff(1) => return Ok((console.text(), machine.moves().clone())),
            stop => {
                return Err(format!("{stop:?} in {mode}, after {:?}:\n{}", machine.moves(), console.text()));
            }
        }
        let others: Vec<_> = modes.iter().copied().filter(|other| *other != mode).collect();
        let next = others[random.below(others.len() as u64) as usize];
        machine.move_to(next).map_err(|error| format!("{mode} to {next}: {error}"))?;
        mode = next;
        if start.elapsed() > HANGS {
            return Err("it does not come to its end".to_owned());
        }
    }
    let stop = machine.run(&to_the_end()).map_err(|error| format!("in {mode}: {error}"))?;
    match stop {
        Stop::PowerOff(1) => Ok((console.text(), machine.moves().clone())),
        stop => Err(format!("{stop:?} in {mode}:\n{}", console.text())),
    }
}

/// The modes in which a workload does on this host what it does elsewhere.
fn modes_of(workload: &Workload, modes: &[Mode]) -> Vec<Mode> {
    let emulated = |mode: Mode| {
        mode == Mode::Kvm
            && machine::availability(mode).is_ok_and(|caps| caps.label.starts_with(EMULATED_SUPERVISOR))
    };
    // There INT n of ring 3 is an undefined instruction (docs/decisions/kvm-01-pvm.md).
    modes.iter().copied().filter(|mode| workload.name != "int80" || !emulated(*mode)).collect()
}

#[test]
fn workloads_that_are_switched_at_random_points_end_with_the_right_checksums() {
    let (points, seed) = (number("TRIVISOR_SWITCHES", 30), number("TRIVISOR_SEED", 1));
    let only = std::env::var("TRIVISOR_ONLY").ok();
    let modes = modes();
    let (mut failures, mut all, mut short) = (vec![], Moves::default(), vec![]);
    let wanted = |w: &&Workload| w.kind != Kind::Hostile && only.as_ref().is_none_or(|only| w.name == only);
    for workload in workload::all().iter().filter(wanted) {
        let console = Capture::new(1 << 20);
        let image = Image::parse(workload.image).unwrap();
        let disk = ScratchDisk::of(workload).unwrap();
        let mut wanted = spec(Mode::Emu, 20_000);
        if let Some(disk) = &disk {
            disk.plug(&mut wanted);
        }
        let mut still = Machine::build(&wanted, &image, Box::new(console.clone())).unwrap();
        assert_eq!(still.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{}", workload.name);
        let expected = sums(&console.text()).unwrap();
        let here = modes_of(workload, &modes);
        if here.len() < 2 {
            println!("skipped: {} has one mode here", workload.name);
            continue;
        }
        let (start, mut random, mut done, mut runs) = (Instant::now(), Random(seed), 0, 0);
        // A short one is run again.
        while done < points && runs < 50 {
            runs += 1;
            let ended = switched(workload, &here, points - done, &mut random);
            let compared = ended.and_then(|(text, moves)| {
                done += moves.count() as u64;
                all.append(&moves);
                let sums = sums(&text)?;
                // How long it was measured is its own business.
                if sums == expected { Ok(()) } else { Err(format!("{sums:?} is not {expected:?}")) }
            });
            if let Err(why) = compared {
                println!("{}, run {runs}: {why}", workload.name);
                failures.push(workload.name);
                break;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{}: {done} moves in {runs} runs, {seconds:.1} s", workload.name);
        if done < points {
            short.push(workload.name);
        }
    }
    for d in all.directions() {
        println!("{} to {}: {} moves, median {:?}, worst {:?}", d.from, d.to, d.count, d.median, d.worst);
    }
    assert!(failures.is_empty(), "TRIVISOR_SEED={seed} TRIVISOR_SWITCHES={points}: {failures:?}");
    assert!(short.is_empty(), "ended before they were moved {points} times: {short:?}");
}

#[test]
fn a_guest_is_moved_with_a_timer_armed_an_interrupt_pending_and_a_fifo_half_full() {
    const CPU: VcpuId = VcpuId(0);
    let modes = modes();
    for (from, to) in modes.iter().flat_map(|from| modes.iter().map(move |to| (*from, *to))) {
        let what = format!("{from} to {to}");
        let console = Capture::new(1000);
        let mut spec = guest::spec(from);
        spec.common_cpu = true;
        let mut machine = guest::machine_of(&spec, Box::new(console.clone()));
        let a_while = Limits { pause_after: Some(Duration::from_millis(20)), ..to_the_end() };
        while !guest::waits(&machine) {
            assert_eq!(machine.run(&a_while).unwrap(), Stop::Paused, "{what}");
        }
        assert_eq!(machine.pc().console_input().receive(guest::TYPED), guest::TYPED.len());
        assert_eq!(machine.run(&a_while).unwrap(), Stop::Paused, "{what}");
        let same = |a: &CpuState, b: &CpuState| a == b;
        for (back, mode) in [(1, to), (2, from), (3, to)] {
            let state = machine.state().unwrap();
            let took = machine.move_to(mode).unwrap();
            assert_eq!((machine.pair().mode(), took.is_some()), (Some(mode), from != to), "{what}, {back}");
            assert!(same(&machine.state().unwrap(), &state), "{what}, {back}");
            assert!(machine.platform().interrupt_pending(CPU), "{what}, {back}");
        }
        assert_eq!(machine.moves().count(), if from == to { 0 } else { 3 });
        guest::let_go(&machine);
        assert_eq!(machine.run(&to_the_end()).unwrap(), Stop::PowerOff(1), "{what}: {}", console.text());
        assert_eq!(console.text(), guest::PRINTS, "{what}");
    }
}

/// Why `machine` does not go on in `to`; it goes on where it is.
fn refusal(machine: &mut Machine, to: impl Into<Pair>) -> String {
    let (from, before) = (machine.pair(), machine.state().unwrap());
    let reason = machine.move_to(to).unwrap_err().to_string();
    assert_eq!((machine.pair(), machine.moves().count()), (from, 0));
    assert!(machine.state().unwrap() == before, "{reason}");
    reason
}

#[test]
fn a_move_that_cannot_be_is_refused_and_the_guest_goes_on_where_it_is() {
    let image = Image::parse(workload::find("crc32").unwrap().image).unwrap();
    let build = |change: fn(&mut MachineSpec)| {
        let mut spec = spec(Mode::Emu, 20_000);
        change(&mut spec);
        Machine::build(&spec, &image, Box::new(Capture::new(1 << 20))).unwrap()
    };
    let mut rich = build(|spec| spec.common_cpu = false);
    let reason = refusal(&mut rich, Mode::Pv);
    assert!(reason.contains("PCID") && reason.contains("--common-cpu"), "{reason}");
    assert_eq!(rich.run(&to_the_end()).unwrap(), Stop::PowerOff(1));
    let mut counted = build(|spec| spec.clock = ClockSource::Counted { nanos_per_instruction: 1 });
    assert!(refusal(&mut counted, Mode::Pv).contains("--deterministic"));
    let mut calls = build(|spec| spec.pair = Pair { engine: Engine::Emu, interface: Interface::Pv });
    assert!(refusal(&mut calls, Mode::Pv).contains("hypercalls"));
    let mut two = build(|spec| spec.cpus = 2);
    assert!(refusal(&mut two, Mode::Pv).contains("one thread"));
    let mut plain = build(|_| ());
    let nonsense = Pair { engine: Engine::Emu, interface: Interface::Patched };
    assert!(refusal(&mut plain, nonsense).contains("nothing is left to patch"));
    if !modes().contains(&Mode::Pv) {
        return;
    }
    // Like a kernel in the upper half of the address space.
    let below = plain.state().unwrap();
    let mut above = below.clone();
    above.idtr.base = 0xffff_fe00_0000_0000;
    above.efer |= trivisor::arch::Efer::LMA | trivisor::arch::Efer::LME;
    above.cr0 |= trivisor::arch::Cr0::PG;
    plain.set_state(&above).unwrap();
    let reason = refusal(&mut plain, Mode::Pv);
    assert!(reason.contains("its IDT is where the monitor is"), "{reason}");
    plain.set_state(&below).unwrap();
    assert!(plain.move_to(Mode::Pv).unwrap().is_some());
    assert_eq!(plain.run(&to_the_end()).unwrap(), Stop::PowerOff(1));
}

#[test]
fn a_journey_goes_where_it_is_told_and_says_what_was_refused() {
    let modes = modes();
    let image = Image::parse(workload::find("sha256").unwrap().image).unwrap();
    let mut machine =
        Machine::build(&spec(Mode::Emu, 1_000_000), &image, Box::new(Capture::new(1 << 20))).unwrap();
    let now = machine.platform().clock().now();
    let pairs = modes.iter().map(|mode| mode.pair()).collect();
    let mut journey = Journey::new(Itinerary::Every(Duration::from_millis(3), pairs), now);
    let stop = machine.run_on_journey(&to_the_end(), &mut journey, &mut |refusal| panic!("{refusal:?}"));
    assert_eq!(stop.unwrap(), Stop::PowerOff(1));
    assert!(modes.len() == 1 || machine.moves().count() > 3, "{:?}", machine.moves());
    let mut spec = spec(Mode::Emu, 20_000);
    spec.common_cpu = false;
    let mut machine = Machine::build(&spec, &image, Box::new(Capture::new(1 << 20))).unwrap();
    let at = [1, 2].map(|ms| (Duration::from_millis(ms), Mode::Pv.pair()));
    let mut journey = Journey::new(Itinerary::At(at.to_vec()), machine.platform().clock().now());
    let mut told = 0;
    let stop = machine.run_on_journey(&to_the_end(), &mut journey, &mut |_| told += 1);
    assert_eq!((stop.unwrap(), told), (Stop::PowerOff(1), 1));
    assert_eq!((journey.refusals().len(), journey.refusals()[0].count), (1, 2));
}
