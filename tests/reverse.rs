//! A guest goes back under the debugger, step by step, to breakpoints and to who wrote what; and forwards again the same way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use serde_json::Value;
use std::process::Command;
use trivisor::engine::Mode;
use trivisor::machine;

/// The answers to the commands of a script, and all that the guest printed meanwhile.
fn answers(guest: &[&str], script: &[&str]) -> (Vec<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trivisor"));
    command.args(["debug", "--json", "--batch", "--timeout", "100s"]).args(guest);
    for line in script {
        command.args(["--command", line]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), script.len(), "{text}");
    let printed = answers.iter().filter_map(|answer| answer["console"].as_str()).collect();
    (answers, printed)
}

fn text(answer: &Value) -> &str {
    answer["text"].as_str().unwrap()
}

/// The registers, without the marks of those that have changed.
fn registers(answer: &Value) -> String {
    assert_eq!(answer["ok"], true, "{answer}");
    text(answer).replace('*', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn each_step_back_undoes_a_step() {
    const STEPS: usize = 25;
    for (guest, before) in
        [("hello", "until workload_main"), ("timer_interrupt", "step 300000"), ("rep_movs", "step 90000")]
    {
        let mut script = vec![before];
        (0..STEPS).for_each(|_| script.extend(["registers all", "step"]));
        (0..STEPS).for_each(|_| script.extend(["reverse-step", "registers all"]));
        script.extend(["step 25", "reverse-step 25", "registers all"]);
        let (answers, _) = answers(&[guest], &script);
        let seen: Vec<String> = (0..STEPS).map(|i| registers(&answers[1 + 2 * i])).collect();
        let again: Vec<String> = (0..STEPS).map(|i| registers(&answers[2 + 2 * STEPS + 2 * i])).collect();
        assert!(seen.iter().eq(again.iter().rev()), "{guest}: {seen:#?}\n{again:#?}");
        assert_eq!(registers(&answers[answers.len() - 1]), seen[0], "{guest}");
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{guest}: each step is one");
    }
}

#[test]
fn breakpoints_are_met_in_reverse_and_what_was_printed_is_not_printed_again() {
    const HITS: usize = 12;
    // Little enough that all of it is kept.
    let guest = ["--append", "budget_us=300", "console"];
    // The first is filled in below.
    let mut script = vec!["", "break workload_main"];
    (0..HITS).for_each(|_| script.push("continue"));
    (1..HITS).for_each(|_| script.push("reverse-continue"));
    script.extend(["reverse-continue", "delete", "continue", "reverse-continue", "continue"]);
    // A place that the guest passes again and again: where it spins for the serial port, or the like.
    let (found, _) = answers(&guest, &["until workload_main", "step 3000", "print $rip"]);
    let hot = format!("break {}", found[2]["data"]["value"].as_str().unwrap());
    script[0] = &hot;
    let (answers, printed) = answers(&guest, &script);
    let places: Vec<&str> = answers[2..2 + HITS].iter().map(text).collect();
    let back: Vec<&str> = answers[2 + HITS..1 + 2 * HITS].iter().map(text).collect();
    assert!(places.iter().all(|place| place.starts_with("breakpoint")), "{places:?}");
    assert!(places[..HITS - 1].iter().eq(back.iter().rev()), "{places:#?} {back:#?}");
    let rest = &answers[1 + 2 * HITS..];
    assert!(text(&rest[0]).starts_with("this is the beginning"), "{}", rest[0]);
    assert!(text(&rest[2]).contains("status 0"), "{}", rest[2]);
    assert!(text(&rest[3]).starts_with("this is the beginning"), "{}", rest[3]);
    assert!(text(&rest[4]).contains("status 0"), "{}", rest[4]);
    let whole = Command::new(env!("CARGO_BIN_EXE_trivisor"))
        .args(["run", "--deterministic"])
        .args(guest)
        .output()
        .unwrap();
    assert_eq!(printed, String::from_utf8(whole.stdout).unwrap());
}

#[test]
fn who_wrote_is_answered_with_the_instruction() {
    let script =
        ["until workload_main", "print $rsp", "step 9", "", "step", "who-wrote 0x200000 4", "print $rip"];
    let (first, _) = answers(&["hello"], &script[..2]);
    let rsp = first[1]["data"]["value"].as_str().unwrap().to_owned();
    let asked = format!("who-wrote {rsp}");
    let mut script = script.map(str::to_owned);
    script[3] = asked;
    let script: Vec<&str> = script.iter().map(String::as_str).collect();
    let (answers, _) = answers(&["hello"], &script);
    // The return address was written by the call.
    assert!(
        text(&answers[3]).contains("wrote") && text(&answers[3]).contains("call    workload_main"),
        "{}",
        answers[3]
    );
    assert_eq!(answers[3]["data"]["found"], true);
    assert!(text(&answers[4]).contains("<workload_main>"), "{}", answers[4]);
    // The code was written by no instruction, and the guest stays where it was.
    assert_eq!(answers[5]["data"]["found"], false, "{}", answers[5]);
    assert!(text(&answers[6]).contains("<workload_main>"), "{}", answers[6]);
}

#[test]
fn what_no_store_has_changed_is_found_by_its_bytes() {
    // The accessed bit of the first entry of the page tables: the CPU's walk sets it.
    let script = [
        "until workload_main",
        "registers control",
        "print $cr3",
        "who-wrote $cr3",
        "walk $rip",
        "step",
        "walk $rip",
    ];
    let (answers, _) = answers(&["hello"], &script);
    assert!(
        text(&answers[3]).contains("changed last, by a device or through another address"),
        "{}",
        answers[3]
    );
    let accessed = |answer: &Value| {
        text(answer).lines().any(|line| line.contains("PML4[0]") && line.contains("accessed"))
    };
    assert!(!accessed(&answers[4]) && accessed(&answers[6]), "{} {}", answers[4], answers[6]);
}

#[test]
fn calls_are_stepped_over_backwards() {
    let script = ["until workload_main", "finish", "reverse-next", "step", "print $rip"];
    let (answers, _) = answers(&["hello"], &script);
    assert!(text(&answers[2]).contains("call    workload_main"), "{}", answers[2]);
    assert!(text(&answers[3]).contains("<workload_main>"), "{}", answers[3]);
}

#[test]
fn a_crash_is_gone_back_from() {
    let script = ["continue", "step", "reverse-step", "reverse-step", "step", "step"];
    let (answers, _) = answers(&["triple_fault"], &script);
    assert!(text(&answers[0]).contains("triple fault"), "{}", answers[0]);
    assert_eq!(answers[1]["ok"], false);
    assert!(answers[2]["ok"] == true && answers[3]["ok"] == true, "{}", answers[2]);
    assert!(text(&answers[4]).starts_with("=>"), "{}", answers[4]);
    assert!(text(&answers[5]).contains("triple fault"), "{}", answers[5]);
}

#[test]
fn what_cannot_go_back_says_why_and_what_to_do() {
    let script = ["step 3", "reverse-step", "reverse-continue", "who-wrote $rsp"];
    for mode in [Mode::Pv, Mode::Kvm] {
        if let Err(error) = machine::availability(mode) {
            println!("skipped: {error}");
            continue;
        }
        let (answers, _) = answers(&["--mode", mode.name(), "hello"], &script);
        assert!(text(&answers[1]).contains("'rewind'"), "{}", answers[1]);
    }
    let (refused, _) = answers(&["--host-clock", "hello"], &script);
    for answer in &refused[1..] {
        assert!(text(answer).contains("its time is the host's; 'rewind'"), "{answer}");
    }
    // A guest that somebody has changed has no past that leads there.
    let (answers, _) = answers(
        &["hello"],
        &["step 3", "set $rbx = 7", "step 2", "reverse-step 2", "print $rbx", "reverse-step"],
    );
    assert!(text(&answers[4]).contains("= 7"), "{}", answers[4]);
    assert!(text(&answers[5]).starts_with("this is the beginning"), "{}", answers[5]);
}
