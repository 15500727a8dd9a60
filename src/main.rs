//! The `trivisor` command: a thin shell around the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    trivisor::cli::main()
}
