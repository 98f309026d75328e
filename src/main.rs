//! The `agent` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    svid_agent::cli::main().into()
}
