//! The `pgbox` binary: finds out under which name it was called, and runs that.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(commands::run(std::env::args_os()))
}
