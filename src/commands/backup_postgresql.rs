//! `backup-postgresql`: makes, lists, shows, restores and removes backups.

use super::arguments::{backup_name, dry_run, even_if_unchanged, json, note, subcommand, yes};
use super::privileges::{Directories, drop_privileges};
use clap::{ArgMatches, Command};
use pgbox::error::{Failure, Kind};
use pgbox::settings::Settings;
use pgbox::ui::Ui;

const RESTORE: &str = "Puts a backup in the place of the present data.

The plan is shown first. At a terminal the backup's name has to be typed; without one --yes has to be given. The \
server is stopped, the present data is set aside, and if anything fails it is put back.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("backup-postgresql")
        .about("Makes, lists, shows, restores and removes backups of the PostgreSQL cluster")
        .subcommand(
            subcommand("create", "Makes a backup while the server runs")
                .arg(note())
                .arg(even_if_unchanged())
                .arg(dry_run()),
        )
        .subcommand(subcommand("list", "Lists the backups"))
        .subcommand(subcommand("show", "Shows all that is known of one backup").arg(backup_name()))
        .subcommand(
            subcommand("restore", "Puts a backup in the place of the present data")
                .long_about(RESTORE)
                .arg(backup_name())
                .arg(yes())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand("cleanup", "Removes backups beyond MAX_BACKUPS, and says why each goes or stays")
                .arg(dry_run()),
        )
        .arg(json())
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    Err(Failure::new(Kind::Failed, "backup-postgresql is not built yet").into())
}
