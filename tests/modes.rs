//! Every guest with every pair of engine and interface that the host has: it ends well, and its checksums are the same
//! everywhere; where some go wrong by the nature of the pair, exactly those do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::time::Duration;
use trivisor::abi;
use trivisor::bench::fingerprint::EMULATED_SUPERVISOR;
use trivisor::bench::marks::{self, End};
use trivisor::bench::measure::ScratchDisk;
use trivisor::bench::native;
use trivisor::bench::workload::{self, DiskBus, Kind, Workload};
use trivisor::clock::ClockSource;
use trivisor::engine::{Engine, Interface, Mode, Pair};
use trivisor::loader::Image;
use trivisor::machine::{
    self, Capture, DiskSpec, EmuEngine, Limits, Machine, MachineSpec, Stop, Technique, Without,
};

/// Far beyond what any mode needs: a guest that runs into it hangs.
const HANGS: Duration = Duration::from_secs(120);
const KEEP: usize = 1 << 20;

/// One way to run a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    pair: Pair,
    emulator: EmuEngine,
}

impl Way {
    fn spec(self) -> MachineSpec {
        MachineSpec { emulator: self.emulator, ..MachineSpec::new(self.pair) }
    }

    /// Whether the guest runs natively as it is, and some of its instructions go wrong.
    fn is_unpatched(self) -> bool {
        self.pair.engine == Engine::Direct && self.pair.interface == Interface::None
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pair.engine {
            Engine::Emu => write!(f, "{} ({})", self.pair, self.emulator.name()),
            _ => write!(f, "{}", self.pair),
        }
    }
}

/// The ways of this host with their labels: every pair of engine and interface that can be, that of emu on both engines.
/// Why the others are left out is printed.
fn ways() -> Vec<(Way, String)> {
    let mut ways = Vec::new();
    for pair in Pair::all() {
        match machine::availability(pair) {
            Ok(caps) => {
                let both =
                    if pair.engine == Engine::Emu { &EmuEngine::ALL[..] } else { &[EmuEngine::Translator] };
                ways.extend(both.iter().map(|&emulator| (Way { pair, emulator }, caps.label.clone())));
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
    assert!(ways.iter().any(|(way, _)| way.pair.engine == Engine::Emu), "emu needs nothing from the host");
    ways
}

/// What a host's KVM gets wrong and no monitor can mend, by label: `docs/decisions/kvm-01-pvm.md`.
fn gap(way: Way, label: &str, workload: &str) -> Option<&'static str> {
    match workload {
        "int80" if way.pair.engine == Engine::Kvm && label.starts_with(EMULATED_SUPERVISOR) => {
            Some("this KVM does not enter ring 0 by INT n from ring 3")
        }
        _ => None,
    }
}

/// Whether a workload measures less than it could, because it wants hypercalls that are not offered.
fn is_absent(way: Way, workload: &str) -> bool {
    matches!(workload, "hypercall_null" | "map_batch" | "clock_read") && way.pair.interface != Interface::Pv
}

/// Why a workload does other work than it should where it runs natively as it is.
fn diverges(way: Way, workload: &str) -> Option<&'static str> {
    match workload {
        _ if !way.is_unpatched() => None,
        "pushf_popf" => Some("POPF leaves IF alone, and PUSHF shows the host's"),
        "cli_sti" => Some("PUSHF, by which it looks what CLI and STI did, shows the host's IF"),
        "lidt" => Some("SIDT, by which it looks what LIDT did, does not show the guest's table"),
        _ => None,
    }
}

fn boot(workload: &Workload, way: Way, limit: Duration) -> (Stop, Vec<u8>) {
    boot_machine(workload, way.spec(), limit)
}

fn boot_machine(workload: &Workload, mut spec: MachineSpec, limit: Duration) -> (Stop, Vec<u8>) {
    let image = Image::parse(workload.image).unwrap();
    let pair = spec.pair;
    spec.command_line = format!("{}=2000 {}=2000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    let disk = ScratchDisk::of(workload).unwrap();
    if let Some(disk) = &disk {
        disk.plug(&mut spec);
    }
    let console = Capture::new(KEEP);
    let mut machine = Machine::build(&spec, &image, Box::new(console.clone())).unwrap();
    let limits = Limits { timeout: Some(limit), interruptible: false, ..Limits::default() };
    let stop = machine.run(&limits).unwrap_or_else(|error| panic!("{} in {pair}: {error}", workload.name));
    (stop, console.text().into_bytes())
}

fn of_kind(kinds: &[Kind]) -> impl Iterator<Item = &'static Workload> {
    workload::all().iter().filter(move |w| kinds.contains(&w.kind))
}

#[test]
fn every_workload_ends_well_with_the_same_checksums_in_every_pair() {
    let ways = ways();
    let mut ran = 0;
    for workload in of_kind(&[Kind::Nano, Kind::Task, Kind::Sweep, Kind::Demo]) {
        // Of those that measure all, and of those that do not.
        let mut first: [Option<(Way, BTreeMap<String, u64>)>; 2] = [None, None];
        for (way, label) in &ways {
            let way = *way;
            if let Some(reason) = gap(way, label, workload.name) {
                println!("skipped: {} in {way}: {reason}", workload.name);
                continue;
            }
            let (stop, console) = boot(workload, way, HANGS);
            let text = String::from_utf8_lossy(&console);
            assert_eq!(stop, Stop::PowerOff(1), "{} in {way}:\n{text}", workload.name);
            let transcript = marks::parse(&console);
            assert_eq!(transcript.errors, [], "{} in {way}", workload.name);
            if workload.kind != Kind::Demo {
                if is_absent(way, workload.name) {
                    assert!(
                        matches!(transcript.end, Some(End::Absent(_))),
                        "{} in {way}:\n{text}",
                        workload.name
                    );
                    println!("{} in {way}: {text}", workload.name);
                } else {
                    assert_eq!(transcript.end, Some(End::Ok), "{} in {way}:\n{text}", workload.name);
                    assert!(!transcript.results.is_empty(), "{} in {way} measured nothing", workload.name);
                }
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
            if let Some(reason) = diverges(way, workload.name) {
                let (other, expected) = first[0].as_ref().unwrap();
                assert_ne!(
                    &sums, expected,
                    "{} in {way} agrees with {other}, although {reason}",
                    workload.name
                );
                println!("{} in {way} diverges, as it must: {reason}", workload.name);
                continue;
            }
            let [group, others] = if is_absent(way, workload.name) { [1, 0] } else { [0, 1] };
            match &first[group] {
                None => {
                    let known =
                        first[others].iter().flat_map(|(other, known)| known.iter().map(move |k| (other, k)));
                    for (other, (metric, sum)) in known {
                        assert!(
                            sums.get(metric).is_none_or(|s| s == sum),
                            "{metric} in {way} against {other}"
                        );
                    }
                    first[group] = Some((way, sums));
                }
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
fn guests_leave_a_disk_alone_that_is_no_scratch_disk_and_end_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("somebody's.img");
    let content: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for workload in workload::all().iter().filter(|w| w.disk.is_some()) {
        for with_disk in [true, false] {
            std::fs::write(&path, &content).unwrap();
            let mut spec = MachineSpec::new(Mode::Emu);
            if with_disk {
                let disk = DiskSpec { image: path.clone(), read_only: false, overlay: None };
                (spec.disks, spec.ide_disks) = match workload.disk {
                    Some(DiskBus::Virtio) => (vec![disk], vec![]),
                    _ => (vec![], vec![disk]),
                };
            }
            let image = Image::parse(workload.image).unwrap();
            let console = Capture::new(KEEP);
            let mut machine = Machine::build(&spec, &image, Box::new(console.clone())).unwrap();
            let limits = Limits { timeout: Some(HANGS), ..Limits::default() };
            assert_eq!(machine.run(&limits).unwrap(), Stop::PowerOff(1), "{}", workload.name);
            drop(machine);
            let transcript = marks::parse(console.text().as_bytes());
            let words = if with_disk { "may overwrite" } else { "there is no" };
            let ended = matches!(&transcript.end, Some(End::Absent(why)) if why.contains(words));
            assert!(ended && transcript.results.is_empty(), "{}: {transcript:?}", workload.name);
            assert!(std::fs::read(&path).unwrap() == content, "{} has written", workload.name);
        }
    }
}

/// The lines of `sensitive` that are not right.
fn wrong(console: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let lines = text.lines().filter_map(|line| line.split_once(": wrong"));
    lines.map(|(name, _)| name.to_owned()).collect()
}

/// What goes wrong on every x86-64 Linux host, because the instruction does not fault in ring 3 and shows, or acts on,
/// what the host has there. Where it does fault, as CPUID may, it is emulated.
const BREAKS: [&str; 23] = [
    "pushfq",
    "popfq that clears IF",
    "popfq that sets IF",
    "sgdt",
    "sidt",
    "sldt",
    "str",
    "smsw",
    "lar",
    "lsl",
    "verr",
    "verw",
    "mov from cs",
    "push fs",
    "mov to fs",
    "pop fs",
    "lfs",
    "jmp far",
    "call far",
    "retf to ring 3",
    "iretq to ring 3",
    "rdtscp",
    "xgetbv",
];

/// Whether Linux can make CPUID fault in this CPU (arch_prctl, ARCH_SET_CPUID).
fn cpuid_can_fault() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    info.lines()
        .any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "cpuid_fault"))
}

#[test]
fn sensitive_instructions_go_wrong_where_the_guest_runs_natively_as_it_is_and_nowhere_else() {
    let workload = workload::find("sensitive").unwrap();
    for (way, label) in ways() {
        let (stop, console) = boot(workload, way, HANGS);
        let text = String::from_utf8_lossy(&console);
        assert_eq!(stop, Stop::PowerOff(1), "{way}:\n{text}");
        let mut expected: Vec<&str> = Vec::new();
        if way.is_unpatched() {
            expected.extend(BREAKS);
            if !cpuid_can_fault() {
                expected.insert(BREAKS.len() - 2, "cpuid");
            }
        } else if way.pair.engine == Engine::Kvm && label.starts_with(EMULATED_SUPERVISOR) {
            // Where SYSCALL is finished for ring 3, one of ring 0 ends at the stand-in for LSTAR.
            if label.contains("SYSCALL by rescue") {
                expected.push("syscall");
            }
            // This KVM knows no TSC_AUX.
            expected.push("rdtscp");
        }
        assert_eq!(wrong(&console), expected, "{way}:\n{text}");
        let (right, total) = (text.matches(": right").count(), 34);
        assert_eq!(right, total - expected.len(), "{way}:\n{text}");
    }
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
