//! The `trivisor` command: a thin shell around the library.
fn main() {}
