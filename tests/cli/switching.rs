//! Moving a guest between modes, on the command line.
use crate::program::trivisor;
use serde_json::Value;
use trivisor::engine::Mode;
use trivisor::machine;

const GUEST: [&str; 3] = ["--append", "budget_us=60000", "crc32"];

#[test]
fn a_guest_is_switched_on_its_way_and_the_costs_are_told() {
    if machine::availability(Mode::Pv).is_err() {
        eprintln!("skipped: there is no mode pv here");
        return;
    }
    let run = |more: &[&str]| trivisor(&[&["run"], more, &GUEST].concat());
    let end = run(&["--switch-at", "30ms=emu,10ms=pv"]);
    assert!(end.out.ends_with("@trivisor end status=ok\n"), "{}\n{}", end.out, end.err);
    let lines: Vec<_> = end.err.lines().collect();
    assert_eq!(lines[0], "moves between modes: 2", "{}", end.err);
    for (line, way) in lines[1..].iter().zip(["emu to pv  1: median ", "pv to emu  1: median "]) {
        assert!(line.trim_start().starts_with(way) && line.contains("ms, worst "), "{}", end.err);
    }
    assert_eq!(lines.len(), 3, "{}", end.err);

    let end = run(&["--switch-every", "5ms", "--switch-among", "emu,pv", "--json"]);
    let told: Value = serde_json::from_str(end.err.trim_end()).unwrap();
    let moves = told["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 2, "{told}");
    for direction in moves {
        assert!(direction["count"].as_u64() > Some(1), "{told}");
        let (median, worst) = (direction["median_us"].as_f64(), direction["worst_us"].as_f64());
        assert!(Some(0.0) < median && median <= worst, "{told}");
    }
    assert_eq!((&told["refused"], &told["stop"]), (&Value::Array(vec![]), &"PowerOff(1)".into()), "{told}");
    assert!(told["counts"]["host-exit"].as_u64() > Some(0), "{told}");

    // It cannot, and goes on.
    let end = run(&["--switch-at", "1ms=pv", "--cpus", "2"]);
    assert!(end.out.ends_with("@trivisor end status=ok\n"), "{}", end.out);
    assert!(
        end.err.contains("the guest cannot go on in pv: ") && end.err.contains("refused once"),
        "{}",
        end.err
    );
}

#[test]
fn mistakes_are_one_sentence() {
    let run = |more: &[&str]| trivisor(&[&["run"], more, &["hello"]].concat());
    run(&["--switch-at", "10ms"]).one_sentence(2, &["--switch-at", "50ms=kvm"]);
    run(&["--switch-at", "10ms=xen"]).one_sentence(2, &["'xen' is no mode"]);
    run(&["--switch-at", "never=emu"]).one_sentence(2, &["not a duration"]);
    run(&["--switch-among", "emu"]).one_sentence(2, &["--switch-every"]);
    run(&["--switch-every", "1ms", "--switch-at", "1ms=emu"]).one_sentence(2, &["--switch-at"]);
    run(&["--switch-every", "1ms", "--deterministic"]).one_sentence(2, &["--deterministic"]);
    run(&["--switch-at", "1ms=pv", "--protection-keys"]).one_sentence(2, &["--protection-keys"]);
}
