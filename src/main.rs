//! The binary `barrow`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(barrow::cli::run(std::env::args_os().skip(1)))
}
