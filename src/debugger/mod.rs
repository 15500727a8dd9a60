//! Stops a guest, shows what it is made of, and moves it on by instructions: the same commands in every mode.
//!
//! A [`Session`] takes commands and gives text (and the same as data); it knows no terminal, so that a prompt, a
//! screen and a remote protocol can all stand before it. Commands are parsed into types ([`command`]), addresses are
//! expressions ([`expression`]), and what is shown is made by [`view`]s: plain data that can be printed or serialised.
//! Looking changes nothing: page tables are walked without setting bits, and device memory is never read.
pub mod breakpoints;
mod catalogue;
mod catching;
pub mod command;
pub mod condition;
mod cpus;
mod culprit;
mod devices;
mod error;
pub mod events;
pub mod expression;
pub mod gdb;
mod inspection;
mod lens;
pub mod memory;
mod motion;
mod moving;
mod printed;
pub mod registers;
mod reverse;
mod rewinding;
pub mod session;
pub mod symbols;
mod timeline;
mod translations;
pub mod tui;
pub mod typing;
pub mod unwind;
pub mod view;
mod watching;
pub mod watchpoints;
mod writer;

pub use error::DebuggerError;
pub use printed::Printed;
pub use rewinding::CountedBuilder;
pub use session::{Reply, Session, SessionParts};
