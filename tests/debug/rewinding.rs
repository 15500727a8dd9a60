//! Going back to a snapshot in memory, from a mode that does not do the same twice, and on from there in emu.
use super::*;

/// Modes and what makes their time the host's.
fn by_the_hosts_time() -> impl Iterator<Item = (Mode, &'static [&'static str])> {
    modes().into_iter().map(|mode| (mode, if mode == Mode::Emu { &["--host-clock"][..] } else { &[] }))
}

/// A session that is asked one command after the other.
struct Talk {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Talk {
    fn new(mode: Mode, arguments: &[&str]) -> Self {
        let mut command = debugger(mode, &[&["--json"], arguments, &["hello"]].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }

    /// Asks a command that is done.
    fn tell(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// The sentence why a command is not done.
    fn refused(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], false, "{answer}");
        answer["text"].as_str().unwrap().to_owned()
    }

    /// The general registers.
    fn values(&mut self) -> Vec<Value> {
        let registers = self.tell("registers");
        registers["data"]["general"].as_array().unwrap().iter().map(|r| r["value"].clone()).collect()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

#[test]
fn a_guest_of_each_mode_is_rewound_and_then_goes_forwards_and_back_in_emu() {
    const END: &str = "the guest switched off with status 0";
    for (mode, clock) in by_the_hosts_time() {
        let mut talk = Talk::new(mode, clock);
        talk.tell("break workload_main");
        talk.tell("continue");
        let kept = talk.tell("snapshot");
        // On a slow host others were kept on the way, and more will be.
        let number = kept["data"]["snapshots"].as_array().unwrap().len();
        assert!(number >= 2 && kept["data"]["bytes"].as_u64().unwrap() > 0, "{kept}");
        // One that is asked for at the same time takes its place: the guest was changed.
        talk.tell("set $rbx = 0x1234");
        assert_eq!(talk.tell("snapshot")["data"]["snapshots"].as_array().unwrap().len(), number);
        let taken = talk.values();
        talk.tell("delete");
        assert_eq!(talk.tell("continue")["data"]["why"], END, "{mode}");
        assert!(talk.refused("reverse-step").contains("'rewind'"), "{mode}");
        assert_eq!(
            talk.refused("rewind 99"),
            "there is no snapshot 99; 'info snapshots' lists them",
            "{mode}"
        );
        let there = talk.tell(&format!("rewind {number}"));
        assert_eq!(there["data"]["symbol"], "workload_main", "{mode}");
        assert_eq!(talk.values(), taken, "{mode}");
        assert_eq!(talk.tell("mode")["data"]["mode"], "emu");
        talk.tell("step 3");
        assert_eq!(talk.tell("reverse-step 3")["data"]["stopped"], "done");
        assert_eq!(talk.values(), taken, "{mode}");
        assert_eq!(talk.tell("continue")["data"]["why"], END, "{mode}");
        talk.tell("reverse-step");
        assert!(talk.refused("rewind").contains("any of its instructions"), "{mode}");
        talk.tell("restart");
        assert_eq!(talk.tell("mode")["data"]["mode"], mode.name());
        assert_eq!(talk.tell("continue")["data"]["why"], END, "{mode}");
        assert_eq!(
            talk.tell("rewind 1")["data"]["symbol"],
            "pvh_start",
            "{mode}: from its end to its beginning"
        );
    }
}

#[test]
fn snapshots_are_kept_as_the_guest_goes_on_and_a_guest_that_goes_back_by_itself_needs_none() {
    for (mode, clock) in by_the_hosts_time() {
        // More than are kept.
        let steps = "step\nsnapshot\n".repeat(12);
        let script = format!("break workload_main\ncontinue\n{steps}");
        let all = answers_with(mode, "hello", &script, clock);
        let last = all.last().unwrap();
        let kept = last["data"]["snapshots"].as_array().unwrap();
        assert!(kept.len() == 8, "{mode}: {all:#?}");
        let times: Vec<_> = kept.iter().map(|one| one["guest_ns"].as_u64().unwrap()).collect();
        assert!(times.is_sorted(), "{mode}: {times:?}");
    }
    let all = answers(Mode::Emu, "hello", "rewind\nsnapshot\ninfo snapshots");
    assert!(all.iter().all(|answer| answer["ok"] == false), "{all:#?}");
    assert!(all[0]["text"].as_str().unwrap().contains("reverse-step"), "{all:#?}");
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let all = answers_with(Mode::Pv, "hello", "rewind", &["--disk", disk.path().to_str().unwrap()]);
    assert!(all[0]["text"].as_str().unwrap().contains("it can write its disk"), "{all:#?}");
}
