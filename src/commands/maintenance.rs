//! `maintenance`: what a person needs day by day.

use super::arguments::{dry_run, even_if_unchanged, json, note, subcommand, switch};
use super::privileges::{Directories, drop_privileges};
use clap::{ArgMatches, Command};
use pgbox::error::{Failure, Kind};
use pgbox::settings::Settings;
use pgbox::ui::Ui;

const HEALTH: &str = "Checks the server, its data, disks and backups.

Exit status 1 means that there is an issue; warnings alone end with 0.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("maintenance")
        .about("Shows, checks, starts and stops PostgreSQL, and looks after its backups")
        .subcommand(subcommand("status", "Shows how the server, its data and its backups stand"))
        .subcommand(subcommand("health", "Checks the server, its data, disks and backups").long_about(HEALTH))
        .subcommand(
            subcommand("backup", "Makes a backup while the server runs")
                .arg(note())
                .arg(even_if_unchanged())
                .arg(dry_run()),
        )
        .subcommand(subcommand("list-backups", "Lists the backups"))
        .subcommand(
            subcommand("start", "Starts the server")
                .arg(switch("no-backup", "Make no backup after the start"))
                .arg(dry_run()),
        )
        .subcommand(
            subcommand(
                "stop",
                "Stops the server; it stays stopped until `start`, or until the container starts again",
            )
            .arg(dry_run()),
        )
        .subcommand(subcommand("restart", "Stops the server and starts it again").arg(dry_run()))
        .subcommand(
            subcommand("cleanup", "Removes backups beyond MAX_BACKUPS, and says why each goes or stays")
                .arg(dry_run()),
        )
        .arg(json())
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    Err(Failure::new(Kind::Failed, "maintenance is not built yet").into())
}
