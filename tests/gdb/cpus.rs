//! Several CPUs.
use super::*;

#[test]
fn stock_gdb_sees_each_cpu_as_a_thread() {
    use small_guests::{COUNTS, SECOND_LOOP, two_cpus};
    let folder = tempfile::tempdir().unwrap();
    let (image, first_loop) = two_cpus(folder.path());
    for mode in modes().into_iter().filter(|mode| *mode != "pv") {
        let server = Server::start(&["--mode", mode, "--flat", "--cpus", "2", &image]);
        let (second, first) = (format!("break *{SECOND_LOOP}"), format!("break *{first_loop}"));
        let count = format!("print *(int *){}", COUNTS + 8);
        let Some(said) = gdb_at(
            &server,
            &[
                "info threads",
                &second,
                "continue",
                "info threads",
                "print/x $pc",
                "delete",
                "set $steps = *(int *)0x9000",
                "stepi 6",
                "print *(int *)0x9000 == $steps",
                "thread 1",
                "print $pc >= 0x200000",
                "set scheduler-locking on",
                &count,
                "stepi 20",
                &count,
                &first,
                "continue",
                &count,
                "print/x $pc",
                "set scheduler-locking off",
                "delete",
                "watch *(int *)0x9008",
                "continue",
                "thread",
                "monitor cpus",
                "kill",
            ],
            &[],
        ) else {
            return;
        };
        for word in [
            "CPU 0 [running]",
            "CPU 1 [waits for start-up]",
            "Thread 2 hit Breakpoint 1, 0x00008004",
            "$1 = 0x8004",
            "$2 = 1",
            "$3 = 1",
            "Thread 1 hit Breakpoint 2, ",
            "Thread 2 hit Hardware watchpoint 3",
            "[Current thread is 2",
            "* 1    running",
        ] {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
        // The other one stands while the scheduler is locked.
        let counts: Vec<_> = ["$4 = ", "$5 = ", "$6 = "]
            .iter()
            .map(|name| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned())
            .collect();
        assert!(counts[0] == counts[1] && counts[1] == counts[2], "{mode}: {said}");
        assert!(said.contains(&format!("$7 = {first_loop:#x}")), "{mode}: {said}");
    }
}
