//! Where time goes, in every mode: the accounts hold what a guest did, and no more time than there was.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod available;

use available::modes;
use std::time::{Duration, Instant};
use trivisor::bench::marks;
use trivisor::bench::workload;
use trivisor::engine::{Account, Engine, Interface, Mode, Pair, Ticks, time_of};
use trivisor::loader::Image;
use trivisor::machine::{BOOT_CPU, Capture, EmuEngine, Limits, Machine, MachineSpec, Stop};

/// A run of a workload, with times kept or not.
struct Ran {
    /// Of the whole run.
    all: Ticks,
    /// Of the regions that the guest reports.
    timed: Ticks,
    /// Ticks that the guest itself measured in them.
    measured: u64,
    wall: Duration,
}

fn run(name: &str, spec: &MachineSpec) -> Ran {
    let mut spec = spec.clone();
    spec.command_line = format!("budget_us=2000 tsc_khz={}", trivisor::sys::tsc::frequency() / 1000);
    let image = Image::parse(workload::find(name).unwrap().image).unwrap();
    let console = Capture::new(1 << 20);
    let mut machine = Machine::build(&spec, &image, Box::new(console.clone())).unwrap();
    let begun = Instant::now();
    let stop = machine.run(&Limits { timeout: Some(Duration::from_secs(120)), ..Limits::default() }).unwrap();
    let wall = begun.elapsed();
    assert!(matches!(stop, Stop::PowerOff(_)), "{name} in {}: {stop:?}", spec.pair);
    let results = marks::parse(console.text().as_bytes()).results;
    Ran {
        all: machine.platform().counters(BOOT_CPU).ledger().read(),
        timed: machine.pc().timed_counts().kept().unwrap().ticks,
        measured: results.iter().map(|result| result.cycles).sum(),
        wall,
    }
}

fn kept(pair: impl Into<Pair>) -> MachineSpec {
    MachineSpec { keeps_times: true, ..MachineSpec::new(pair) }
}

fn sum(ticks: &Ticks) -> u64 {
    ticks.iter().sum()
}

#[test]
fn every_mode_has_the_time_of_what_a_guest_did_on_its_account() {
    use Account::{Device, Dispatch, GuestException, Hypercall, Idle, Interrupt, PageTableSync, PortIo};
    for mode in modes() {
        // Elsewhere the host's kernel, or the guest's process, sees to it unseen.
        let (emu, pv, kvm) = (mode == Mode::Emu, mode == Mode::Pv, mode == Mode::Kvm);
        for (name, accounts) in [
            ("port_out", vec![(Device, true), (PortIo, emu || kvm), (Hypercall, pv)]),
            ("page_fault", vec![(GuestException, emu || pv), (PageTableSync, pv), (Account::Translate, emu)]),
            ("hlt_wake", vec![(Idle, true), (Interrupt, emu || pv || kvm), (Device, true)]),
        ] {
            let ran = run(name, &kept(mode));
            for account in accounts.into_iter().chain([(Account::Guest, true)]) {
                let (account, holds) = account;
                let ticks = ran.all[account as usize];
                assert!(!holds || ticks > 0, "{name} in {mode}: nothing on {}", account.name());
            }
            // What the guest times lies within its marks, and those within the run.
            assert!(ran.measured <= sum(&ran.timed), "{name} in {mode}: {} {:?}", ran.measured, ran.timed);
            for (part, all) in ran.timed.iter().zip(&ran.all) {
                assert!(part <= all, "{name} in {mode}: {:?} {:?}", ran.timed, ran.all);
            }
            // The two clocks of the host may differ by a little.
            assert!(time_of(sum(&ran.all)) <= ran.wall + ran.wall / 1000, "{name} in {mode}");
            assert!(ran.all[Dispatch as usize] < sum(&ran.all));
        }
    }
}

#[test]
fn an_interpreter_has_guest_code_devices_and_page_walks() {
    let spec = MachineSpec { emulator: EmuEngine::Single, ..kept(Mode::Emu) };
    let ran = run("port_out", &spec);
    for account in [Account::Guest, Account::Device, Account::SoftMmuFill, Account::Translate] {
        assert!(ran.all[account as usize] > 0, "nothing on {}", account.name());
    }
    assert_eq!(ran.all[Account::PortIo as usize], 0, "it does not leave guest code for a port");
}

#[test]
fn hypercalls_of_the_guest_are_on_their_account() {
    for mode in modes() {
        let pair = Pair { interface: Interface::Pv, ..mode.pair() };
        let ran = run("hypercall_null", &kept(pair));
        let answered_in_its_process = pair.engine == Engine::Direct;
        assert!(answered_in_its_process || ran.timed[Account::Hypercall as usize] > 0, "{pair}");
    }
}

#[test]
fn nothing_is_kept_where_nobody_asks() {
    for mode in modes() {
        assert_eq!(sum(&run("port_out", &MachineSpec::new(mode)).all), 0, "{mode}");
    }
}
