//! The debugger's screen: its views as panes, keys and mouse, and a command line with the prompt's commands.
//!
//! The screen ([`App`]) knows neither the terminal nor the session. Events of the terminal go in and [`Request`]s come out,
//! which [`serve`] does on the session's own thread; the [`Answer`] has a [`Picture`] of all that is to be seen, so that the
//! screen stays alive while a guest runs. Every key that does something to the guest is a line of the prompt.
mod app;
mod console;
mod draw;
mod input;
mod keys;
mod layout;
mod live;
mod log;
mod picture;
mod prompt;
mod surroundings;
#[cfg(test)]
mod tests;
mod theme;
mod worker;

pub use app::App;
pub use console::Console;
pub use live::Live;
pub use picture::{CodeWant, MemoryWant, Picture, Status, Wants, Word};
pub use theme::Theme;
pub use worker::{Answer, Request, serve};
