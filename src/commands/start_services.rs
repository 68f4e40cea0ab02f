//! `start-services`: the first process of the container.

use clap::{Arg, ArgMatches, Command, value_parser};
use pgbox::services::{self, Level, Options};
use pgbox::settings::Settings;
use pgbox::ui::Ui;
use std::ffi::OsString;

const LONG_ABOUT: &str = "Starts PostgreSQL and the other services, runs a command beside them, and stops all of it cleanly.

It is meant to be the ENTRYPOINT of a container. SIGTERM and SIGINT stop PostgreSQL fast and end the container; \
SIGHUP reloads PostgreSQL; SIGUSR1 tries again to start it. A server that dies is started again. If it cannot be \
started, the container stays up, so that a person can get in.";

/// The command line.
pub(super) fn command() -> Command {
    let words = Arg::new("command")
        .value_name("COMMAND")
        .num_args(0..)
        .trailing_var_arg(true)
        .value_parser(value_parser!(OsString))
        .help("The command to run beside the services, with its arguments; its exit status becomes ours");
    Command::new("start-services")
        .about("Starts PostgreSQL and the other services, and runs a command beside them")
        .long_about(LONG_ABOUT)
        .arg(words)
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    let say = |level: Level, text: &str| match level {
        Level::Info => ui.info(text),
        Level::Warning => ui.warn(text),
        Level::Error => ui.error(text),
        Level::Hint => ui.hint(text),
    };
    let command = matches.get_many::<OsString>("command").unwrap_or_default().cloned().collect();
    services::run(settings, &Options { flags: Settings::given_flags(matches), command, say: &say })
}
