//! Arguments that more than one command has, worded once.

use clap::{Arg, ArgAction, ArgMatches, Command};
use pgbox::settings::parse_time;

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag without a value.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    flag(name, help)
}

/// `--json`, for the command and all its subcommands.
pub(super) fn json() -> Arg {
    flag("json", "Report as JSON on standard output").global(true)
}

/// `--dry-run`.
pub(super) fn dry_run() -> Arg {
    flag("dry-run", "Show what would be done, and change nothing")
}

/// `--yes`.
pub(super) fn yes() -> Arg {
    flag("yes", "Go on without asking")
}

/// `--note TEXT`.
pub(super) fn note() -> Arg {
    Arg::new("note").long("note").value_name("TEXT").help("A note to keep with the backup")
}

/// `--force` of a backup.
pub(super) fn even_if_unchanged() -> Arg {
    flag("force", "Make a backup even if nothing changed since the newest")
}

/// `--full-read` of a backup.
pub(super) fn full_read() -> Arg {
    flag("full-read", "Read and check every file, even those that did not change since the newest")
}

/// `--timeout TIME`.
pub(super) fn timeout(help: &'static str) -> Arg {
    Arg::new("timeout").long("timeout").value_name("TIME").value_parser(parse_time).help(help)
}

/// `NAME`, of a backup.
pub(super) fn backup_name() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .help("The backup's name, as `list` shows it; `latest` is the newest good one")
}

/// A subcommand.
pub(super) fn subcommand(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about)
}

/// Whether a flag was given; `false` too where the command has no such flag.
pub(super) fn is_given(matches: &ArgMatches, name: &str) -> bool {
    matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

/// Whether a report is to be JSON.
pub(super) fn is_json(matches: &ArgMatches) -> bool {
    is_given(matches, "json")
}
