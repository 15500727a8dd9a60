//! Every guest in every mode that the host has, in mode emu on both engines: it ends well, and its checksums are the
//! same everywhere.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::time::Duration;
use trivisor::abi;
use trivisor::bench::marks::{self, End};
use trivisor::bench::native;
use trivisor::bench::workload::{self, Kind, Workload};
use trivisor::clock::ClockSource;
use trivisor::engine::Mode;
use trivisor::loader::Image;
use trivisor::machine::{self, Capture, EmuEngine, Limits, Machine, MachineSpec, Stop, Technique, Without};

/// Far beyond what any mode needs: a guest that runs into it hangs.
const HANGS: Duration = Duration::from_secs(120);
const KEEP: usize = 1 << 20;

/// One way to run a guest.
#[derive(Clone, Copy)]
struct Way {
    mode: Mode,
    engine: EmuEngine,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.mode {
            Mode::Emu => write!(f, "{} ({})", self.mode, self.engine.name()),
            mode => write!(f, "{mode}"),
        }
    }
}

/// The ways of this host with their labels: its modes, and in mode emu each engine.
fn ways() -> Vec<(Way, String)> {
    let mut ways = Vec::new();
    for (mode, label) in modes() {
        let engines = if mode == Mode::Emu { &EmuEngine::ALL[..] } else { &[EmuEngine::Translator] };
        ways.extend(engines.iter().map(|&engine| (Way { mode, engine }, label.clone())));
    }
    ways
}

/// The modes of this host with their labels.
fn modes() -> Vec<(Mode, String)> {
    Mode::ALL
        .into_iter()
        .filter_map(|mode| match machine::availability(mode) {
            Ok(caps) => Some((mode, caps.label)),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        })
        .collect()
}

/// What a host's KVM gets wrong and no monitor can mend, by label: `docs/decisions/kvm-01-pvm.md`.
fn gap(mode: Mode, label: &str, workload: &str) -> Option<&'static str> {
    match workload {
        "syscall" | "int80" if mode == Mode::Kvm && label.starts_with("emulated supervisor") => {
            Some("this KVM does not enter ring 0 by SYSCALL or INT n from ring 3")
        }
        _ => None,
    }
}

fn boot(workload: &Workload, way: Way, limit: Duration) -> (Stop, Vec<u8>) {
    boot_machine(workload, MachineSpec { engine: way.engine, ..MachineSpec::new(way.mode) }, limit)
}

fn boot_machine(workload: &Workload, mut spec: MachineSpec, limit: Duration) -> (Stop, Vec<u8>) {
    let image = Image::parse(workload.image).unwrap();
    let mode = spec.mode;
    spec.command_line = format!("{}=2000 {}=2000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    let console = Capture::new(KEEP);
    let mut machine = Machine::build(&spec, &image, Box::new(console.clone())).unwrap();
    let limits = Limits { timeout: Some(limit), interruptible: false };
    let stop = machine.run(&limits).unwrap_or_else(|error| panic!("{} in {mode}: {error}", workload.name));
    (stop, console.text().into_bytes())
}

fn of_kind(kinds: &[Kind]) -> impl Iterator<Item = &'static Workload> {
    workload::all().iter().filter(move |w| kinds.contains(&w.kind))
}

#[test]
fn every_workload_ends_well_with_the_same_checksums_in_every_mode() {
    let ways = ways();
    assert!(ways.iter().any(|(way, _)| way.mode == Mode::Emu), "emu needs nothing from the host");
    let mut ran = 0;
    for workload in of_kind(&[Kind::Nano, Kind::Task, Kind::Demo]) {
        let mut first: Option<(Way, BTreeMap<String, u64>)> = None;
        for (way, label) in &ways {
            let way = *way;
            if let Some(reason) = gap(way.mode, label, workload.name) {
                println!("skipped: {} in {way}: {reason}", workload.name);
                continue;
            }
            let (stop, console) = boot(workload, way, HANGS);
            let text = String::from_utf8_lossy(&console);
            assert_eq!(stop, Stop::PowerOff(1), "{} in {way}:\n{text}", workload.name);
            let transcript = marks::parse(&console);
            assert_eq!(transcript.errors, [], "{} in {way}", workload.name);
            if workload.kind != Kind::Demo {
                assert_eq!(transcript.end, Some(End::Ok), "{} in {way}:\n{text}", workload.name);
                assert!(!transcript.results.is_empty(), "{} in {way} measured nothing", workload.name);
            }
            let sums: BTreeMap<_, _> =
                transcript.results.iter().map(|r| (r.metric_at_ring(), r.checksum)).collect();
            for result in &transcript.results {
                if let Some(kernel) = native::find(&result.metric) {
                    let mut scratch = native::Scratch::prepared(kernel);
                    let expected = (kernel.unit)(scratch.bytes());
                    assert_eq!(result.checksum, expected, "{} in {way} against native", result.metric);
                }
            }
            match &first {
                None => first = Some((way, sums)),
                Some((other, expected)) => {
                    assert_eq!(&sums, expected, "{} in {way} against {other}", workload.name);
                }
            }
            ran += 1;
        }
    }
    println!("{ran} runs of workloads agreed");
}

#[test]
fn workloads_give_the_same_checksums_without_each_technique_of_the_translator() {
    let sets = Technique::ALL.into_iter().map(Without::only).chain([Without::EVERYTHING]);
    let sets: Vec<_> = sets.collect();
    for name in ["crc32", "lz", "recursion", "nbody", "syscall", "page_fault", "timer_interrupt"] {
        let workload = workload::find(name).unwrap();
        let sums = |without| {
            let spec = MachineSpec { without, ..MachineSpec::new(Mode::Emu) };
            let (stop, console) = boot_machine(workload, spec, HANGS);
            assert_eq!(stop, Stop::PowerOff(1), "{name} without {without}");
            let transcript = marks::parse(&console);
            assert_eq!(
                (transcript.end, transcript.errors),
                (Some(End::Ok), vec![]),
                "{name} without {without}"
            );
            transcript.results.iter().map(|r| (r.metric_at_ring(), r.checksum)).collect::<Vec<_>>()
        };
        let expected = sums(Without::NOTHING);
        assert!(!expected.is_empty());
        for &without in &sets {
            assert_eq!(sums(without), expected, "{name} without {without}");
        }
    }
}

#[test]
fn hostile_guests_end_without_harm() {
    for (way, _) in ways() {
        for workload in of_kind(&[Kind::Hostile]) {
            let (stop, console) = boot(workload, way, Duration::from_secs(2));
            match workload.name {
                "triple_fault" => assert_eq!(stop, Stop::TripleFault, "{way}"),
                "spin" => assert_eq!(stop, Stop::Timeout, "{way}"),
                "flood" => assert!(!console.is_empty(), "{way}"),
                _ => assert_ne!(stop, Stop::Stepped, "{} in {way}", workload.name),
            }
            println!("{} in {way}: {stop:?}", workload.name);
        }
    }
}

#[test]
fn a_guest_that_sleeps_until_a_timer_interrupt_is_stepped_through_to_its_end() {
    /// Far beyond the guest's own length; a halted CPU's step costs as little as another.
    const MOST: u64 = 200_000_000;
    let image = Image::parse(workload::find("hlt_wake").unwrap().image).unwrap();
    for clock in [ClockSource::Counted { nanos_per_instruction: 1 }, ClockSource::Real] {
        let mut spec = MachineSpec::new(Mode::Emu);
        spec.clock = clock;
        spec.command_line = format!("{}=1 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
        let console = Capture::new(KEEP);
        let mut machine = Machine::build(&spec, &image, Box::new(console.clone())).unwrap();
        let end = (0..MOST).map(|_| machine.step().unwrap()).find(|stop| *stop != Stop::Stepped);
        assert_eq!(end, Some(Stop::PowerOff(1)), "{clock:?}:\n{}", console.text());
        assert_eq!(marks::parse(console.text().as_bytes()).end, Some(End::Ok), "{clock:?}");
    }
}
