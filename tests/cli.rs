//! The built program as a stranger meets it: what goes wrong is told in one sentence, with the right exit status, and
//! leaves nothing half-written.
//!
//! `program` starts and watches the binary; `images` makes guests byte by byte.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

#[path = "cli/abi_example.rs"]
mod abi_example;
mod available;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/guests.rs"]
mod guests;
#[path = "cli/host.rs"]
mod host;
#[path = "cli/images.rs"]
mod images;
#[path = "cli/labs.rs"]
mod labs;
#[path = "cli/linux.rs"]
mod linux;
#[path = "cli/lockstep.rs"]
mod lockstep;
#[path = "cli/pairs.rs"]
mod pairs;
#[path = "cli/program.rs"]
mod program;
#[path = "cli/resume.rs"]
mod resume;
#[path = "cli/sites.rs"]
mod sites;
#[path = "cli/snapshots.rs"]
mod snapshots;
#[path = "cli/switching.rs"]
mod switching;
#[path = "cli/words.rs"]
mod words;
