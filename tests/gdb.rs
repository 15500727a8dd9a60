//! Stock `gdb` drives guests in every mode; and what a connection without manners does to the server.
//!
//! Without `gdb` the tests that need it say that they skip.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod available;
#[path = "gdb/code_sizes.rs"]
mod code_sizes;
#[path = "gdb/cpus.rs"]
mod cpus;
mod small_guests;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};
use trivisor::engine::Mode;

/// A `trivisor debug --gdb`, which is killed at the end.
struct Server {
    child: Child,
    at: SocketAddr,
    _said: BufReader<ChildStderr>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trivisor"))
            .args(["debug", "--gdb=0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let at = line.trim_end().trim_end_matches('\'').rsplit(' ').next().unwrap();
        let at = at.parse::<SocketAddr>().unwrap();
        Self { child, at, _said: said }
    }

    fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Peer(stream)
    }

    /// A connection that is let in, as soon as the one before it is gone.
    fn next(&self) -> Peer {
        let start = Instant::now();
        loop {
            let mut next = self.connect();
            let mut one = [0];
            let asked = next.0.write_all(b"+$?#3f");
            if asked.is_ok() && next.0.read(&mut one).is_ok_and(|n| n == 1) {
                assert!(next.receive().starts_with(['S', 'T']));
                return next;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "nobody is let in any more");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the program ends by itself, well.
    fn ends_well(mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The other end of a connection, which speaks the protocol by hand.
struct Peer(TcpStream);

impl Peer {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    /// The next packet.
    fn receive(&mut self) -> String {
        let mut byte = || {
            let mut one = [0];
            self.0.read_exact(&mut one).unwrap();
            one[0]
        };
        while byte() != b'$' {}
        let text = std::iter::repeat_with(&mut byte).take_while(|&b| b != b'#').map(char::from).collect();
        let _sum = [byte(), byte()];
        self.0.write_all(b"+").unwrap();
        text
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Whether the other side has closed.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// A guest of the file `name` that loops: JMP to itself.
fn endless(folder: &std::path::Path) -> String {
    let path = folder.join("endless");
    std::fs::write(&path, [0xeb, 0xfe]).unwrap();
    path.to_str().unwrap().to_owned()
}

fn modes() -> Vec<&'static str> {
    available::modes().into_iter().map(Mode::name).collect()
}

/// What gdb says to these commands after it has connected to a server of `hello` in `mode`.
fn gdb(mode: &str, commands: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let elf = folder.path().join("hello.elf");
    std::fs::write(&elf, trivisor::bench::workload::find("hello").unwrap().image).unwrap();
    let server = Server::start(&["--mode", mode, "hello"]);
    let said = gdb_at(&server, commands, &[elf.to_str().unwrap()]);
    drop(server);
    said
}

/// What gdb says to these commands after it has connected to `server`.
fn gdb_at(server: &Server, commands: &[&str], files: &[&str]) -> Option<String> {
    let mut command = Command::new("gdb");
    command.args(["-q", "-batch", "-nx", "-ex", "set confirm off", "-ex", "set pagination off"]);
    command.arg("-ex").arg(format!("target remote {}", server.at));
    for line in commands {
        command.args(["-ex", line]);
    }
    command.args(files).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: gdb cannot be run: {error}");
            return None;
        }
    };
    // What 'monitor' is answered goes to standard error.
    let pipes: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let readers = pipes.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _read = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    });
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(readers.map(|reader| reader.join().unwrap()).concat())
}

#[test]
fn stock_gdb_stops_steps_and_changes_a_guest_in_every_mode() {
    for mode in modes() {
        let Some(said) = gdb(
            mode,
            &[
                "break workload_main",
                "continue",
                "backtrace 2",
                "set $here = $rip",
                "stepi",
                "print $rip > $here && $rip < $here + 16",
                // Registers and memory take values.
                "set $rbx = 0x1234567",
                "print/x $rbx",
                "set {long}($rsp - 512) = 77",
                "print {long}($rsp - 512)",
                "print $cs == 8",
                // Memory that is not there is an error of the one command.
                "x/1xb 0xffff800000000000",
                "delete",
                "kill",
            ],
        ) else {
            return;
        };
        for word in
            ["Breakpoint 1, 0x", "#1  0x", "in guest_start", "$1 = 1", "$2 = 0x1234567", "$3 = 77", "$4 = 1"]
        {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
    }
}

#[test]
fn stock_gdb_watches_memory_and_sees_the_guests_end_in_every_mode() {
    for mode in modes() {
        let Some(said) = gdb(
            mode,
            &[
                "break workload_main",
                "continue",
                // By gdb's own steps: the second instruction stores zero to the stack.
                "set can-use-hw-watchpoints 0",
                "stepi",
                "set {long}($rsp + 0x140) = 5",
                "watch *(long *)($rsp + 0x140)",
                "continue",
                "delete",
                "continue",
            ],
        ) else {
            return;
        };
        for word in ["Old value = 5", "New value = 0", "exited normally"] {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
    }
}

#[test]
fn stock_gdb_lets_the_target_watch_in_every_mode() {
    for mode in modes() {
        let Some(said) = gdb(
            mode,
            &[
                "break workload_main",
                "continue",
                "stepi 2",
                // A watch over what a register leads to would be gdb's own stepping.
                "set $top = $rsp",
                "watch *(long *)($top - 8)",
                // More than the CPU has registers for.
                "watch *(char (*)[65])($top + 0x1000)",
                "continue",
                "print $rip != (long)&workload_main",
                "delete 2",
                "awatch *(int *)$top",
                "continue",
                "delete 4",
                "rwatch *(int *)$top",
                "continue",
                "delete",
                "continue",
            ],
        ) else {
            return;
        };
        for word in [
            "Hardware watchpoint 2: *(long *)($top - 8)",
            "Old value = 0",
            "New value = 2",
            "$1 = 1",
            "Hardware access (read/write) watchpoint 4",
            "Hardware read watchpoint 5",
            "exited normally",
        ] {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
        assert_eq!(said.matches("\nValue = ").count(), 2, "{mode}: {said}");
    }
}

#[test]
fn stock_gdb_moves_a_guest_to_another_mode_and_catches_its_events() {
    let modes = modes();
    for (from, to) in [("pv", "kvm"), ("kvm", "emu"), ("pv", "emu"), ("kvm", "pv")] {
        if !modes.contains(&from) || !modes.contains(&to) {
            continue;
        }
        let move_there = format!("monitor mode {to}");
        let Some(said) = gdb(
            from,
            &[
                "break workload_main",
                &move_there,
                "continue",
                "monitor mode",
                "delete",
                "monitor catch exit port-write 0x3f8",
                "continue",
                "monitor info break",
                "monitor chips",
                "monitor device uart16550",
                "monitor tlb $rip",
                "monitor trace costs",
                "monitor delete",
                "continue",
            ],
        ) else {
            return;
        };
        let moved = format!("the guest goes on in {to}; the move took ");
        let there = format!("{to}: ");
        for word in [
            moved.as_str(),
            there.as_str(),
            "Breakpoint 1, 0x",
            "Program received signal SIGTRAP",
            "catch exit port-write 0x3f8, hits: 1",
            "\npic8259 master\n",
            "\nuart16550\n  RBR ",
            ": 4-level paging, CR3 = ",
            "no events are kept",
            "exited normally",
        ] {
            assert!(said.contains(word), "{from} to {to}: no '{word}' in:\n{said}");
        }
    }
}

#[test]
fn stock_gdb_goes_back_where_the_mode_can_and_says_so_where_it_cannot() {
    for mode in modes() {
        let goes_back = mode == "emu";
        let mut commands = vec!["break workload_main", "continue", "backtrace 2", "set $slot = $rsp - 8"];
        if goes_back {
            // The second instruction, and later ones, store to the stack.
            commands.extend([
                "stepi 2",
                "reverse-stepi",
                "x/i $rip",
                "watch *(long *)$slot",
                "continue",
                "set $new = *(long *)$slot",
                "reverse-continue",
                "print *(long *)$slot != $new",
                "delete 2",
                "reverse-continue",
                "finish",
                "reverse-continue",
                "print (long)$rip == (long)&workload_main",
                "delete",
                "reverse-continue",
            ]);
        } else {
            commands.push("reverse-continue");
        }
        let Some(said) = gdb(mode, &commands) else { return };
        let words: &[&str] = if goes_back {
            &[
                "Breakpoint 1, 0x",
                "in guest_start",
                "Hardware watchpoint 2: *(long *)$slot",
                "Old value = ",
                "$1 = 1",
                "No more reverse-execution history",
            ]
        } else {
            &["Breakpoint 1, 0x", "does not support this command"]
        };
        for word in words {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
        if goes_back {
            assert_eq!(said.matches("Old value = ").count(), 2, "there and back: {said}");
            assert!(said.contains("$2 = 1"), "{said}");
            assert_eq!(said.matches("in guest_start ()").count(), 2, "the caller, and finished: {said}");
        }
    }
}

#[test]
fn a_running_guest_stops_when_gdb_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let image = endless(folder.path());
    for mode in modes() {
        // Flat code is entered in 32-bit mode, which pv executes by the interpreter.
        let server = Server::start(&["--mode", mode, "--flat", &image]);
        let mut peer = server.connect();
        assert!(peer.ask("?").starts_with(['S', 'T']), "{mode}");
        peer.send("c");
        std::thread::sleep(Duration::from_millis(100));
        peer.0.write_all(&[3]).unwrap();
        assert!(matches!(peer.receive().get(1..3), Some("02")), "{mode}: SIGINT");
        let registers = peer.ask("g");
        // Runs of one digit are packed.
        assert!(registers.len() > 40 && !registers.starts_with('E'), "{mode}: {registers}");
    }
}

#[test]
fn a_connection_without_manners_leaves_the_guest_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--flat", &endless(folder.path())]);
    let mut stranger = server.connect();
    // It may be shown the door in the middle of it.
    let _heard = stranger.0.write_all(b"\x00GET / HTTP/1.1\r\n\r\n$#$?#00$mffffffffffffffffff,1#ff");
    drop(stranger);
    let mut peer = server.next();
    assert!(server.connect().is_closed(), "one at a time");
    // Gone in the middle of a packet, the guest running.
    peer.send("c");
    peer.0.write_all(b"$m10").unwrap();
    drop(peer);
    let mut next = server.next();
    // A breakpoint where nothing is mapped is no one's problem; addresses of all sizes are answered.
    assert_eq!(next.ask("Z0,deadbeef0000,1"), "OK");
    assert!(next.ask("mffffffffffffffff,8").starts_with('E'));
    assert!(!next.ask("m0,ffff").starts_with('E'));
    assert_eq!(next.ask("z0,deadbeef0000,1"), "OK");
}

#[test]
fn a_guest_goes_on_without_a_gdb_that_has_detached() {
    let server = Server::start(&["hello"]);
    let mut peer = server.connect();
    assert!(peer.ask("?").starts_with(['S', 'T']));
    assert_eq!(peer.ask("D"), "OK");
    assert!(server.ends_well());
}

#[test]
fn gdbs_ctrl_c_stops_a_search_in_the_past() {
    let folder = tempfile::tempdir().unwrap();
    let image = endless(folder.path());
    let server = Server::start(&["--flat", &image]);
    let mut peer = server.connect();
    assert!(peer.ask("?").starts_with(['S', 'T']));
    // A past that takes a while to search.
    peer.send("c");
    std::thread::sleep(Duration::from_secs(4));
    peer.0.write_all(&[3]).unwrap();
    assert_eq!(peer.receive().get(1..3), Some("02"));
    let here = peer.ask("g");
    // Met nowhere.
    assert_eq!(peer.ask("Z0,123456,1"), "OK");
    peer.send("bc");
    std::thread::sleep(Duration::from_millis(30));
    let called = Instant::now();
    peer.0.write_all(&[3]).unwrap();
    let stopped = peer.receive();
    assert_eq!(stopped.get(1..3), Some("02"), "{stopped}");
    assert!(called.elapsed() < Duration::from_secs(3), "{:?}", called.elapsed());
    assert_eq!(peer.ask("g"), here, "where it was");
    // The conversation goes on.
    assert_eq!(peer.ask("z0,123456,1"), "OK");
}
