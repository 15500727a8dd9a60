//! The script that measures User-mode Linux beside us, as far as it goes without a network: what it says of wrong usage
//! and missing things, and what its summary makes of rounds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// A file of the script's folder.
fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name)
}

/// An empty folder for one test.
fn empty_folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[track_caller]
fn one_sentence(output: &Output, status: i32, words: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert!(told.lines().count() == 1 && told.starts_with("uml.sh: ") && told.contains(words), "{told}");
}

#[test]
fn wrong_usage_is_told_in_a_sentence() {
    let run = |arguments: &[&str]| Command::new(peer("uml.sh")).args(arguments).output().unwrap();
    one_sentence(&run(&["--rounds", "none"]), 2, "--rounds");
    one_sentence(&run(&["--budget"]), 2, "--budget needs a value");
    one_sentence(&run(&["now"]), 2, "'now' is no option");
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    assert!(String::from_utf8(help.stdout).unwrap().contains("Usage: benches/peers/uml.sh"));
}

#[test]
fn what_is_missing_is_told_and_nothing_is_left() {
    let folder = empty_folder("missing");
    let (temporary, out) = (folder.join("temporary"), folder.join("out"));
    fs::create_dir(&temporary).unwrap();
    let run = |name: &str, value: &Path| {
        Command::new(peer("uml.sh"))
            .env("TMPDIR", &temporary)
            .args([Path::new("--trivisor"), Path::new(env!("CARGO_BIN_EXE_trivisor")), Path::new("--out")])
            .args([out.as_path(), Path::new(name), value])
            .output()
            .unwrap()
    };
    one_sentence(&run("--trivisor", &folder.join("none")), 1, "cargo build");

    let packages = folder.join("packages");
    fs::create_dir(&packages).unwrap();
    fs::write(packages.join("user-mode-linux_1_amd64.deb"), "no package").unwrap();
    let output = run("--packages", &packages);
    // Where the tools that it needs are missing it says that instead.
    let tools = ["gcc", "dpkg", "awk", "taskset", "timeout", "mktemp"];
    let path = env::var_os("PATH").unwrap();
    let is_there = |tool: &str| env::split_paths(&path).any(|folder| folder.join(tool).exists());
    let missing = tools.into_iter().find(|tool| !is_there(tool));
    one_sentence(&output, 1, missing.unwrap_or("is no Debian package"));

    assert!(!out.exists());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

/// Three rounds: User-mode Linux has 40, 12.5 and 5 times the host's system call.
const ROUNDS: &str = "\
round,who,cpus,metric,iterations,cycles,ns,load
1,native,all,syscall,1,1,100,0.5
1,uml,all,syscall,1,1,4000,0.5
1,pv,all,syscall,1,1,900,0.5
2,native,all,syscall,1,1,400,0.5
2,uml,all,syscall,1,1,5000,0.5
3,native,all,syscall,1,1,200,1.5
3,uml,all,syscall,1,1,1000,1.5
3,uml,all,forkwait,1,1,7,1.5
";

/// The summary of these rounds, and its CSV.
fn summary(test: &str, rounds: &str) -> (Output, String) {
    let folder = empty_folder(test);
    let (input, csv) = (folder.join("rounds.csv"), folder.join("summary.csv"));
    fs::write(&input, rounds).unwrap();
    let output = Command::new("awk")
        .arg("-v")
        .arg(format!("csv={}", csv.display()))
        .arg("-f")
        .arg(peer("uml.awk"))
        .arg(&input)
        .output()
        .unwrap();
    (output, fs::read_to_string(csv).unwrap())
}

#[test]
fn the_summary_has_medians_quartiles_and_ratios_within_rounds() {
    let (output, csv) = summary("rounds", ROUNDS);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let rows: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!(
        rows,
        [
            "native,all,syscall,3,200.000,150.000,300.000,100.000,400.000,1,",
            // The quotient of the medians would be 20.
            "uml,all,syscall,3,4000.000,2500.000,4500.000,1000.000,5000.000,12.5,",
            "pv,all,syscall,1,900.000,900.000,900.000,900.000,900.000,9,",
            // Nothing native beside it.
            "uml,all,forkwait,1,7.000,7.000,7.000,7.000,7.000,,",
        ]
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("200 ns [150 ns, 300 ns]") && text.contains("4 us [2.5 us, 4.5 us]"), "{text}");
}

#[test]
fn rounds_that_lack_someone_are_no_result() {
    for who in ["native", "uml", "pv"] {
        let rounds: String = ROUNDS
            .lines()
            .filter(|row| !row.contains(&format!(",{who},")))
            .map(|row| format!("{row}\n"))
            .collect();
        let (output, _) = summary(who, &rounds);
        assert_eq!(output.status.code(), Some(1), "{who}: {output:?}");
    }
}
