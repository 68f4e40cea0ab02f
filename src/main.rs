//! The `pgbox` binary: finds out under which name it was called, and runs that.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "unit tests make files by hand"))]

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(commands::run(std::env::args_os()))
}
