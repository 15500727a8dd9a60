//! trivisor runs one x86-64 guest three ways — by emulation, by paravirtualization and with hardware assistance — on
//! one set of devices, and measures the difference.
//!
//! The rooms, from the bottom up; `tests/architecture.rs` holds who may import whom:
//!
//! | room | what it is |
//! |---|---|
//! | [`abi`] | what a guest sees of us |
//! | [`arch`] | facts of the x86 architecture |
//! | [`sys`] | Linux, wrapped thinly |
//! | [`mem`], [`clock`], [`bus`] | RAM, time, and the way to devices |
//! | [`device`] | the models of the chips, written once for all modes |
//! | [`host`] | the other end of devices: consoles, disk images |
//! | [`engine`] | the contract that every mode fulfils |
//! | [`hwassist`] | the `kvm` mode |
//! | [`pv`] | the `pv` mode: the guest patched and run natively at ring 3, in a sandbox |
//! | [`loader`], [`machine`] | an image into RAM, and a whole machine around it |
//! | [`bench`] | workloads, runs, measurements, figures and the page |
//! | [`emulator`] | the `emu` mode: the translator, the interpreter that it is checked against |
//! | [`cli`] | the command line |
//! | [`snapshot`] | a whole machine in a file, and out of it again |
//! | [`debugger`] | stops a guest and shows what it is made of |
pub mod abi;
pub mod arch;
pub mod bench;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod debugger;
pub mod device;
pub mod emulator;
pub mod engine;
pub mod host;
pub mod hwassist;
pub mod loader;
pub mod machine;
pub mod mem;
pub mod pv;
pub mod snapshot;
pub mod sys;
