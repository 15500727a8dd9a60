//! The child as the host sees it: its limits, its CPUs, its end.
#![expect(unsafe_code, reason = "a process that ignores a signal")]
use super::tests::Bench;
use super::*;
use crate::pv::layout::RAM_FD;
use crate::sys::affinity;

/// A line of a file in /proc about the child, without its name.
fn proc(child: &Child, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", child.pid())).unwrap();
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line[name.len()..].trim_start_matches(':').trim().to_owned()
}

fn halting() -> Bench {
    Bench::new(|a| a.hlt().unwrap())
}

#[test]
fn mappings_without_bound_are_refused_with_a_reason_and_the_child_goes_on() {
    let mut b = halting();
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let at = 0x10_0000_0000;
    b.child.request(libc::SYS_mmap, [at, 64 << 30, 3, flags, RAM_FD.into(), 0]).unwrap();
    let error = b.child.flush().unwrap_err().to_string();
    assert!(error.contains("more memory than its process is allowed"), "{error}");
    // In pieces it is the same.
    let piece = 256 << 20;
    let pieces = (0..64).take_while(|i| {
        b.child.request(libc::SYS_mmap, [at + i * piece, piece, 3, flags, RAM_FD.into(), 0]).unwrap();
        b.child.flush().is_ok()
    });
    let mapped = pieces.count() as u64 * piece;
    assert!(mapped > 0 && mapped <= address_space(b.ram.size()), "{mapped:#x}");
    b.child.request(libc::SYS_munmap, [at, 64 << 30, 0, 0, 0, 0]).unwrap();
    b.child.flush().unwrap();
    assert!(matches!(b.go().unwrap(), Report::Trap(_)));
}

#[test]
fn a_request_that_the_host_refuses_is_an_error() {
    let mut b = halting();
    b.child.request(libc::SYS_munmap, [1, 4096, 0, 0, 0, 0]).unwrap();
    let error = b.child.flush().unwrap_err().to_string();
    assert!(error.contains("refused a mapping"), "{error}");
}

#[test]
fn the_host_allows_the_child_little() {
    let b = halting();
    let limit = |name| proc(&b.child, "limits", name).split_whitespace().next().unwrap().to_owned();
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max processes"), "0");
    assert_eq!(limit("Max open files"), "6");
    assert_eq!(limit("Max address space"), address_space(b.ram.size()).to_string());
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    assert_eq!(proc(&b.child, "oom_score_adj", ""), (own + 100).min(1000).to_string());
}

#[test]
fn the_child_is_kept_off_the_engines_cpu() {
    std::thread::spawn(|| {
        let cpus = affinity::allowed().unwrap();
        if cpus.len() < 2 {
            return;
        }
        let mut b = halting();
        for &cpu in &cpus[..2] {
            affinity::pin(&[cpu]).unwrap();
            b.child.settle();
            let list = proc(&b.child, "status", "Cpus_allowed_list");
            let allowed = list.split(',').flat_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                first.parse::<usize>().unwrap()..=last.parse().unwrap()
            });
            let expected: Vec<usize> = cpus.iter().copied().filter(|&other| other != cpu).collect();
            assert_eq!(allowed.collect::<Vec<_>>(), expected);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_killed_child_is_noticed_and_the_reason_is_told() {
    let mut b = halting();
    b.child.process.signal(libc::SIGKILL);
    let error = b.go().unwrap_err().to_string();
    assert!(error.contains("SIGKILL"), "{error}");
}

/// Asks the next test, in a process of its own, to do its work.
const ALONE: &str = "TRIVISOR_TEST_IGNORES_SIGCHLD";

#[test]
fn a_program_that_ignores_sigchld_can_have_a_child() {
    if std::env::var_os(ALONE).is_none() {
        let name = "pv::child::host_tests::a_program_that_ignores_sigchld_can_have_a_child";
        let me = std::env::current_exe().unwrap();
        let output = std::process::Command::new(me).args(["--exact", name]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    // SAFETY: this process runs this test only.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut b = halting();
    assert!(matches!(b.go().unwrap(), Report::Trap(_)));
    b.child.process.signal(libc::SIGKILL);
    let error = b.go().unwrap_err().to_string();
    assert!(error.contains("did not keep the reason"), "{error}");
    let (b, pid) = (halting(), b.child.pid());
    let second = b.child.pid();
    drop(b);
    assert!([pid, second].iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}
