//! A command at a terminal, in a session without one, so that no server and no program that it starts has the terminal.
//!
//! Why, and why in this way, is in `sys/own_process.rs`. The command keeps the terminal's streams, so that it asks and shows
//! what it always does; this process waits for it, and passes the terminal's signals on. Where there is no terminal, as in
//! a container's services, nothing of this happens.

use super::{BINARY, Mode, Ui, base_name, report, run as run_command};
use anyhow::Context;
use pgbox::sys::{self, OwnProcess};
use std::ffi::OsString;

/// The first argument of the process that has no terminal; the whole command line follows. It is no command for people.
pub(super) const WITHOUT_TERMINAL: &str = "run-without-terminal";

/// Runs this command line in another process, which has no terminal. Returns the exit status.
pub(super) fn start(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = std::iter::once(WITHOUT_TERMINAL.into()).chain(arguments).collect();
    let ended = OwnProcess::start_without_terminal(&arguments).and_then(OwnProcess::wait);
    match ended.context("start itself again without the terminal") {
        Ok(ended) => sys::end_like(ended),
        Err(error) => report(&Ui::new(Mode::default(), BINARY), &error),
    }
}

/// Runs a command line as that other process. Returns the exit status.
pub(super) fn run(arguments: &[OsString]) -> u8 {
    match leave_terminal(arguments) {
        Ok(()) => run_command(arguments.iter().cloned()),
        Err(error) => report(&Ui::new(Mode::default(), BINARY), &error),
    }
}

fn leave_terminal(arguments: &[OsString]) -> anyhow::Result<()> {
    if let Some(name) = arguments.first() {
        sys::name_process(base_name(name).as_ref());
    }
    sys::end_with_parent().context("end together with the process at the terminal")?;
    sys::begin_session().context("leave the terminal")
}
