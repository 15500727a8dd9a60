//! `trivisor debug` as people and scripts use it: the built binary, real guests, every mode that this host has.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "debug/cpus.rs"]
mod cpus;
#[path = "debug/devices.rs"]
mod devices;
#[path = "debug/lens.rs"]
mod lens;
#[path = "debug/rewinding.rs"]
mod rewinding;
mod small_guests;
#[path = "debug/translations.rs"]
mod translations;
#[path = "debug/watching.rs"]
mod watching;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use trivisor::engine::Mode;
use trivisor::machine;

fn debugger(mode: Mode, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trivisor"));
    command.args(["debug", "--mode", mode.name(), "--timeout", "60s"]).args(arguments);
    command
}

/// Runs a script; the answers to its commands as JSON.
fn answers(mode: Mode, guest: &str, script: &str) -> Vec<Value> {
    answers_with(mode, guest, script, &[])
}

fn answers_with(mode: Mode, guest: &str, script: &str, arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    std::fs::write(&file, script).unwrap();
    let path = file.to_str().unwrap();
    let all = [&["--json", "--batch", "-x", path], arguments, &[guest]].concat();
    let output = debugger(mode, &all).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode}: {:?}\n{text}\n{errors}", output.status);
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let asked = script.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(answers.len(), asked, "{mode}: one object for each command\n{text}");
    answers
}

/// The modes in which a guest can be stepped here; says why others are left out.
fn modes() -> Vec<Mode> {
    let able = |mode: &Mode| {
        if let Err(error) = machine::availability(*mode) {
            println!("skipped in {mode}: {error}");
            return false;
        }
        let answer = &answers(*mode, "hello", "mode")[0];
        let debug = answer["data"]["debug"] == true;
        if !debug {
            println!("skipped in {mode}: {}", answer["text"]);
        }
        debug
    };
    let modes: Vec<Mode> = Mode::ALL.into_iter().filter(able).collect();
    assert!(modes.contains(&Mode::Emu), "emu needs nothing of the host");
    modes
}

fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

fn register<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let general = answer["data"]["general"].as_array().unwrap();
    general.iter().find(|r| r["name"] == name).unwrap()
}

#[test]
fn a_guest_is_stopped_examined_stepped_and_run_to_its_end() {
    let script = "break workload_main\ncontinue\nregisters\ndisassemble workload_main 4\nstep 3\nregisters\n\
                  walk $rsp\nbacktrace\ntrace on\nfinish\ninfo break\nstats\ncontinue\ntrace show 4096\nstep";
    for mode in modes() {
        let all = answers(mode, "hello", script);
        let [
            set,
            met,
            first,
            code,
            stepped,
            second,
            walk,
            callers,
            _,
            left,
            points,
            stats,
            end,
            trace,
            after,
        ] = all.as_slice()
        else {
            panic!("{mode}: {all:?}");
        };
        for answer in &all[..14] {
            assert_eq!(answer["ok"], true, "{mode}: {answer}");
        }
        let start = number(&set["data"]["at"]);
        assert_eq!(met["data"]["stopped"], "breakpoint", "{mode}: {met}");
        assert_eq!(met["data"]["breakpoints"][0], 1, "{mode}: {met}");
        assert_eq!(met["data"]["symbol"], "workload_main", "{mode}: {met}");
        assert_eq!(number(&register(first, "rip")["value"]), start, "{mode}");

        // Four instructions one behind the other; three steps through straight code reach the fourth.
        let lines = code["data"]["lines"].as_array().unwrap();
        assert_eq!(lines.len(), 4, "{mode}: {code}");
        assert_eq!(
            (&lines[0]["label"], &lines[0]["next"]),
            (&"workload_main".into(), &true.into()),
            "{mode}"
        );
        for pair in lines.windows(2) {
            let length = pair[0]["bytes"].as_str().unwrap().len() as u64 / 2;
            assert_eq!(number(&pair[0]["address"]) + length, number(&pair[1]["address"]), "{mode}: {code}");
        }
        assert_eq!(stepped["data"]["stopped"], "done", "{mode}: {stepped}");
        assert_eq!(stepped["data"]["address"], lines[3]["address"], "{mode}: {stepped}");
        assert_eq!(register(second, "rip")["value"], lines[3]["address"], "{mode}");
        assert_eq!(register(second, "rip")["changed"], true, "{mode}");
        assert_eq!(register(second, "r15")["changed"], false, "{mode}");

        // The guests' stack lies in a 2 MiB page of data, mapped to itself.
        let rsp = number(&register(second, "rsp")["value"]);
        assert_eq!(number(&walk["data"]["physical"]), rsp, "{mode}: {walk}");
        assert_eq!(walk["data"]["steps"][0]["table"], "PML4", "{mode}: {walk}");
        assert_eq!(walk["data"]["steps"].as_array().unwrap().len(), 3, "{mode}: {walk}");
        let outcome = walk["data"]["outcome"].as_str().unwrap();
        assert!(outcome.contains("2 MiB page: writable, not executable"), "{mode}: {outcome}");

        let frames = callers["data"]["frames"].as_array().unwrap();
        let caller = frames[1]["symbol"].as_str().unwrap();
        assert!(caller.starts_with("guest_start+"), "{mode}: {callers}");
        assert_eq!(left["data"]["stopped"], "done", "{mode}: {left}");
        assert_eq!(left["data"]["address"], frames[1]["rip"], "{mode}: finish leads to the caller\n{left}");
        assert_eq!(points["data"]["breakpoints"][0]["hits"], 1, "{mode}: {points}");
        let rows = stats["data"]["rows"].as_array().unwrap();
        assert!(
            rows.iter().any(|r| r["cause"] == "port-io" && r["count"].as_u64() > Some(0)),
            "{mode}: {stats}"
        );

        assert_eq!(end["data"]["why"], "the guest switched off with status 0", "{mode}: {end}");
        let printed: String = all.iter().filter_map(|a| a["console"].as_str()).collect();
        assert!(printed.contains("Hello from a guest: 64-bit, ring 0, paging on."), "{mode}: {printed}");
        let written: String = trace["data"]["lines"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["kind"] == "port-write" && line["at"] == "0x3f8")
            .map(|line| char::from(u8::try_from(number(&line["value"])).unwrap()))
            .collect();
        assert!(written.contains("Hello from a guest"), "{mode}: {written}");
        assert_eq!(after["ok"], false, "{mode}: {after}");
        assert!(after["text"].as_str().unwrap().contains("'restart' starts it again"), "{mode}: {after}");
        println!("{mode}: done");
    }
}

#[test]
fn calls_are_stepped_over_and_the_guest_starts_again() {
    let script = "until guest_start\nnext 8\nbreak guest::succeed\ncontinue\nset $rcx = 0x1234\nprint $rcx+1\n\
                  idt\ngdt\nregisters control\nrestart\ncontinue\ndelete 1\ncontinue";
    for mode in modes() {
        let all = answers(mode, "hello", script);
        for answer in &all {
            assert_eq!(answer["ok"], true, "{mode}: {answer}");
        }
        let symbol = |answer: &Value| answer["data"]["symbol"].as_str().unwrap_or_default().to_owned();
        assert_eq!(symbol(&all[0]), "guest_start", "{mode}: {}", all[0]);
        assert!(symbol(&all[1]).starts_with("guest_start+"), "{mode}: {}", all[1]);
        assert_eq!(symbol(&all[3]), "guest::succeed", "{mode}: {}", all[3]);
        assert_eq!(all[5]["data"]["value"], "0x1235", "{mode}");
        let gates = all[6]["text"].as_str().unwrap();
        assert!(gates.contains("#PF: 0x8:0x") && gates.contains("64-bit interrupt gate"), "{mode}: {gates}");
        let segments = all[7]["text"].as_str().unwrap();
        assert!(
            segments.contains("64-bit TSS, busy") && segments.contains("64-bit, ring 3"),
            "{mode}: {segments}"
        );
        let control = all[8]["text"].as_str().unwrap();
        assert!(control.contains("LME LMA NXE") && control.contains("PAE"), "{mode}: {control}");
        assert_eq!(symbol(&all[10]), "guest::succeed", "{mode}: breakpoints stay\n{}", all[10]);
        assert_eq!(all[12]["data"]["stopped"], "ended", "{mode}: {}", all[12]);
    }
}

#[test]
fn each_instruction_that_leaves_the_guest_is_traced_to_its_place() {
    // The first port that is written after the start of guest_start is written by a stepped instruction.
    let script = "until guest_start\ntrace on\nstep 40\ntrace show 1";
    for mode in modes() {
        let all = answers(mode, "hello", script);
        let line = &all[3]["data"]["lines"][0];
        assert!(line["symbol"].as_str().is_some_and(|s| s.starts_with("guest_start+")), "{mode}: {}", all[3]);
    }
}

#[test]
fn mistakes_are_answered_and_do_not_end_the_session() {
    let script = "x\nfrobnicate\nbreak nowhere\nbreak 0x\nwalk 0x8000000000000000\nx/4xg 0\nx/9999999xg 0\n\
                  memory phys 0xfee00000 16\ndelete 7\nregisters xmm99\nset $cr0 = 0\nstep 0\n\
                  break 0xffff800000000000\ndelete\nprint 1";
    let all = answers(Mode::Emu, "hello", script);
    let text = |n: usize| all[n]["text"].as_str().unwrap();
    let wrong: Vec<usize> = (0..all.len()).filter(|&n| all[n]["ok"] == false).collect();
    assert_eq!(wrong, [0, 1, 2, 3, 6, 8, 9, 10, 11], "{all:?}");
    for &n in &wrong {
        assert!(!text(n).contains('\n') && !text(n).is_empty(), "one sentence: {}", text(n));
    }
    assert!(text(2).contains("no symbol named 'nowhere'"), "{}", text(2));
    // The guest has not switched paging on, so that the address is beyond RAM; device memory is not read.
    assert!(text(4).contains("paging is off"), "{}", text(4));
    assert!(text(7).contains("?? ?? ??"), "{}", text(7));
    assert_eq!(all[14]["data"]["value"], "0x1");
}

#[test]
fn the_prompt_reads_standard_input_and_repeats() {
    let mut child = debugger(Mode::Emu, &["hello"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = b"step\n\n\nx/2i $rip\n\nhelp x\ncontinue\nquit\nstep\n";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    // No prompt and no echo where nobody types: the place before the first step and after each of three.
    assert_eq!(text.matches("=> 0x2").count(), 4 + 1, "{text}");
    assert!(text.starts_with("=> 0x200000 <pvh_start>: cli\n"), "{text}");
    assert!(!text.contains("(trivisor)"), "{text}");
    assert!(text.contains("example: x/8xg $rsp"), "{text}");
    let hello = text.find("Hello from a guest").unwrap();
    assert!(hello < text.find("the guest switched off").unwrap(), "{text}");
}

/// A session that is spoken to line by line.
struct Talk {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Talk {
    fn with(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn say(&mut self, line: &str) {
        let mut input = self.child.stdin.as_ref().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[test]
fn ctrl_c_brings_the_prompt_back_from_a_guest_that_never_ends() {
    for mode in Mode::ALL {
        if let Err(error) = machine::availability(mode) {
            println!("skipped in {mode}: {error}");
            continue;
        }
        let mut talk = Talk::with(debugger(mode, &["--json", "spin"]));
        // The answer says that the session stands, so that the signal finds its handler in place.
        talk.say("print 1");
        assert_eq!(talk.hear()["ok"], true);
        talk.say("continue");
        // Ctrl-C before the guest runs would be seen too, only not tested.
        std::thread::sleep(Duration::from_millis(300));
        let process = talk.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
        let answer = talk.hear();
        assert_eq!(answer["data"]["stopped"], "interrupted", "{mode}: {answer}");
        talk.say("registers");
        assert_eq!(talk.hear()["ok"], true, "{mode}");
        talk.say("quit");
        assert!(talk.child.wait().unwrap().success(), "{mode}");
    }
}

#[test]
fn a_time_limit_and_a_crash_come_back_to_the_prompt() {
    let arguments = ["--json", "--batch", "--command", "continue", "--command", "registers"];
    let run = |more: &[&str]| {
        let output = debugger(Mode::Emu, &arguments).args(more).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_trivisor"));
    command.args(["debug", "--timeout", "200ms", "spin"]).args(arguments);
    let output = command.output().unwrap();
    let first = String::from_utf8(output.stdout).unwrap().lines().next().unwrap().to_owned();
    let answer: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(answer["data"]["stopped"], "timeout", "{answer}");
    let crash = run(&["triple_fault"]);
    assert!(crash[0]["text"].as_str().unwrap().contains("triple fault"), "{crash:?}");
    assert_eq!(crash[1]["ok"], true, "the state after the crash can be looked at");
}

#[test]
fn a_script_that_cannot_be_read_is_one_sentence() {
    let output = debugger(Mode::Emu, &["-x", "/nonexistent/script", "hello"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("trivisor: cannot read /nonexistent/script: "), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn what_pv_patched_is_listed_and_marked_in_the_code() {
    if !modes().contains(&Mode::Pv) {
        return;
    }
    let all = answers(
        Mode::Pv,
        "hello",
        "sites\ncontinue\nsites count\ndisassemble guest_start 14\nx/2i guest_start",
    );
    let [none, _, sites, code, examined] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(none["data"]["sites"].as_array().map(Vec::len), Some(0), "{none}");
    let rows = sites["data"]["sites"].as_array().unwrap();
    assert!(
        rows.iter().any(|row| row["patch"] == "hypercall" && row["count"].as_u64() > Some(40)),
        "{sites}"
    );
    assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row["count"].as_u64())), "{sites}");
    // The serial port is set up first: each OUT has a row, and the address of the row is marked.
    let lines: Vec<_> =
        code["data"]["lines"].as_array().unwrap().iter().filter(|l| !l["patch"].is_null()).collect();
    assert!(!lines.is_empty(), "{code}");
    for line in lines {
        let row = rows.iter().find(|row| row["address"] == line["address"]);
        match row {
            Some(row) => {
                assert_eq!(
                    (&line["patch"]["patch"], &line["patch"]["count"]),
                    (&row["patch"], &row["count"])
                );
                let mark = format!("; pv: {}, {}×", row["patch"].as_str().unwrap(), row["count"]);
                assert!(code["text"].as_str().unwrap().contains(&mark), "{code}");
            }
            None => assert_eq!(line["patch"]["patch"], "carried", "{line}"),
        }
    }
    assert_eq!(examined["ok"], true, "{examined}");
    let elsewhere = answers(Mode::Emu, "hello", "sites");
    assert!(elsewhere[0]["text"].as_str().unwrap().contains("mode emu patches nothing"), "{elsewhere:?}");
}

#[test]
fn a_snapshot_is_saved_and_gone_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a snapshot");
    let file = file.to_str().unwrap();
    for mode in modes() {
        let script = format!(
            "restore {file}\nsave\nbreak workload_main\ncontinue\nsave {file}\nprint $rsp\ndelete\ncontinue\n\
             restore {file}\nprint $rsp\ncontinue\nrestore /dev/null\nsave /nonexistent/file"
        );
        let all = answers(mode, "hello", &script);
        let [none, nameless, _, _, saved, then, _, ended, back, again, ended_again, other, nowhere] =
            all.as_slice()
        else {
            panic!("{all:?}")
        };
        let text = |answer: &serde_json::Value| answer["text"].as_str().unwrap().to_owned();
        assert!(text(none).starts_with("cannot read the snapshot "), "{mode}: {none}");
        assert_eq!(
            (&nameless["ok"], &saved["ok"]),
            (&false.into(), &true.into()),
            "{mode}: {nameless} {saved}"
        );
        assert!(saved["data"]["pages"].as_u64().unwrap() > 0, "{mode}: {saved}");
        assert!(text(back).starts_with("the guest is where the snapshot was taken"), "{mode}: {back}");
        assert_eq!(text(then), text(again), "{mode}");
        assert_eq!(text(ended), text(ended_again), "{mode}");
        assert!(text(other).ends_with("is no snapshot of trivisor"), "{mode}: {other}");
        assert!(
            text(nowhere).starts_with("cannot write the snapshot /nonexistent/file: "),
            "{mode}: {nowhere}"
        );
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn the_guest_goes_on_in_another_mode_with_its_breakpoints_and_registers() {
    let modes = modes();
    let find = |name: &str| *modes.iter().find(|mode| mode.name() == name).unwrap();
    for (from, to) in [("emu", "pv"), ("pv", "kvm"), ("kvm", "emu"), ("pv", "emu"), ("kvm", "pv")] {
        if !modes.iter().any(|mode| mode.name() == from) || !modes.iter().any(|mode| mode.name() == to) {
            continue;
        }
        let script = format!(
            "break guest_start\nbreak workload_main\ncontinue\nregisters\nmode {to}\nregisters\nmode\nmode {to}\n\
             continue\nstep 2\nmode {from}\ncontinue\ninfo break\nmode {to}"
        );
        let common: &[&str] = if from == "emu" { &["--common-cpu", "--host-clock"] } else { &[] };
        let all = answers_with(find(from), "hello", &script, common);
        let what = format!("{from} to {to}: {all:#?}");
        assert_eq!(all[2]["data"]["symbol"], "guest_start", "{what}");
        assert_eq!((&all[4]["ok"], &all[4]["data"]["mode"]), (&true.into(), &to.into()), "{what}");
        assert!(all[4]["data"]["took_us"].as_f64().unwrap() > 0.0, "{what}");
        assert_eq!(all[3]["data"]["general"], all[5]["data"]["general"], "{what}");
        assert_eq!(all[6]["data"]["mode"], to, "{what}");
        assert!(all[7]["text"].as_str().unwrap().contains("already"), "{what}");
        assert_eq!(all[8]["data"]["symbol"], "workload_main", "{what}");
        assert_eq!(all[9]["data"]["stopped"], "done", "{what}");
        assert_eq!(all[10]["data"]["mode"], from, "{what}");
        assert_eq!(all[11]["data"]["why"], "the guest switched off with status 0", "{what}");
        let hits: Vec<_> = (0..2).map(|i| &all[12]["data"]["breakpoints"][i]["hits"]).collect();
        assert_eq!(hits, [1, 1], "{what}");
        assert_eq!(all[13]["ok"], false, "{what}");
        let printed: String = all.iter().filter_map(|a| a["console"].as_str()).collect();
        assert_eq!(printed.matches("Hello from a guest").count(), 1, "{what}");
    }
    if modes.len() > 1 {
        let refused = &answers(find("emu"), "hello", "mode kvm")[0];
        assert_eq!(refused["ok"], false, "{refused}");
        assert!(
            refused["text"].as_str().unwrap().starts_with("the guest cannot go on in kvm: "),
            "{refused}"
        );
    }
}

#[test]
fn a_condition_lets_the_guest_pass_until_it_is_true() {
    for mode in modes() {
        // Each character that is printed goes out at one instruction.
        let all = answers(
            mode,
            "hello",
            "catch device uart16550\nbreak workload_main\ncontinue\ndelete 1\nbreak workload_main if $rip == 0\n\
             break guest_start\ninfo break\nbreak workload_main if $rsp != 0 && byte[$rip] == byte[workload_main]\n\
             restart\ncontinue\ncontinue\ninfo break\nbreak workload_main if qword[0x7fffffffffff]\nrestart\ncontinue\n\
             continue",
        );
        let what = format!("{mode}: {all:#?}");
        // The guest sets its console up first.
        assert_eq!(all[2]["data"]["stopped"], "caught", "{what}");
        assert!(all[6]["text"].as_str().unwrap().contains(" if $rip == 0x0, hits: 0"), "{what}");
        assert_eq!(all[9]["data"]["symbol"], "guest_start", "{what}");
        assert_eq!(all[10]["data"]["breakpoints"], serde_json::json!([2, 5]), "{what}");
        let hits: Vec<_> = (0..4).map(|i| all[11]["data"]["breakpoints"][i]["hits"].as_u64()).collect();
        assert_eq!(hits, [Some(1), Some(0), Some(1), Some(1)], "{what}");
        // One that has no value stops, too.
        assert_eq!(all[15]["data"]["breakpoints"], serde_json::json!([2, 5, 6]), "{what}");
    }
}

#[test]
fn events_of_the_guest_stop_it_in_every_mode() {
    for mode in modes() {
        let caught = |guest: &str, words: &str, kind: &str| {
            let all =
                answers(mode, guest, &format!("catch {words}\ncontinue\ncontinue\ninfo break\nregisters"));
            let what = format!("{mode}, catch {words}: {all:#?}");
            for answer in &all[1..3] {
                assert_eq!(answer["data"]["stopped"], "caught", "{what}");
                assert!(answer["data"]["event"].as_str().unwrap().starts_with(kind), "{what}");
                assert_eq!(answer["data"]["catchpoints"], serde_json::json!([1]), "{what}");
            }
            assert_eq!(all[3]["data"]["catchpoints"][0]["hits"], 2, "{what}");
            all
        };
        let all = caught("hello", "exit port-write 0x3f8", "port-write: out 0x3f8 (COM1), 0x");
        // It stands right behind the instruction: OUT is one byte long, or two.
        let script = "catch exit port-write 0x3f8\ncontinue\nx/2xb $rip - 2";
        let bytes = answers(mode, "hello", script);
        let text = bytes[2]["text"].as_str().unwrap();
        assert!(text.contains("0xee") || text.contains("0xe6"), "{mode}: {text}\n{all:?}");
        caught("hello", "device uart16550", "port-");
        caught("page_fault", "exception 14", "exception: ");
        caught("timer_interrupt", "interrupt", "interrupt: ");
        caught("cr3_write", "cr-write 3", "cr-write: cr3 = 0x");
        caught("control_registers", "cr-write", "cr-write: cr");
        caught("hlt_wake", "exit halt", "halt: ");
        caught("mmio_read", "exit mmio", "mmio-");
        let wrong = answers(mode, "hello", "catch device nothing\ncatch rain\ncatch exit rain\ncontinue");
        assert!(wrong[0]["text"].as_str().unwrap().contains("there are "), "{mode}: {wrong:?}");
        assert!(wrong[..3].iter().all(|answer| answer["ok"] == false), "{mode}: {wrong:?}");
        assert_eq!(wrong[3]["data"]["stopped"], "ended", "{mode}: {wrong:?}");
        println!("{mode}: done");
    }
}

#[test]
fn a_deleted_catchpoint_and_steps_over_events() {
    for mode in modes() {
        let all =
            answers(mode, "hello", "catch exit port\nstep 1000000\nstep\ninfo break\ndelete 1\ncontinue");
        let what = format!("{mode}: {all:#?}");
        assert_eq!(all[1]["data"]["stopped"], "caught", "{what}");
        assert!(["done", "caught"].contains(&all[2]["data"]["stopped"].as_str().unwrap()), "{what}");
        assert_eq!(all[5]["data"]["stopped"], "ended", "{what}");
    }
}
