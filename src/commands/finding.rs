//! Which backup a person means by a name.

use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::plan::selection::latest;
use pgbox::plan::{BackupName, BackupSummary};

/// Which backup a person means.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// The one of this name.
    Named(BackupName),
    /// The newest good one.
    Latest,
}

/// The word for the newest good backup.
const LATEST: &str = "latest";

/// Reads the argument `NAME`; `None` where the command was given none.
pub(super) fn backup_named(arguments: &ArgMatches) -> Result<Option<Wanted>, Failure> {
    let Ok(Some(name)) = arguments.try_get_one::<String>("name") else { return Ok(None) };
    if name == LATEST {
        return Ok(Some(Wanted::Latest));
    }
    let parsed: Result<BackupName, _> = name.parse();
    parsed.map(|name| Some(Wanted::Named(name))).map_err(|error| {
        Failure::new(Kind::NoSuchBackup, error.to_string())
            .hint("`backup-postgresql list` shows the names; `latest` is the newest good one")
    })
}

/// Finds it in the repository.
///
/// # Errors
/// [`Kind::NoSuchBackup`].
pub(super) fn find(tools: &Tools, wanted: Wanted) -> anyhow::Result<BackupSummary> {
    let place = tools.settings.backup_directory.display();
    let none = |message: String| Err(Failure::new(Kind::NoSuchBackup, message).into());
    match (tools.repository()?, wanted) {
        (Some(repository), Wanted::Named(name)) => Ok(repository.find(name)?),
        (Some(repository), Wanted::Latest) => match latest(&repository.backups()?) {
            Some(newest) => Ok(newest.clone()),
            None => none(format!("there is no backup in '{place}' that can be restored from")),
        },
        (None, Wanted::Named(name)) => none(format!("there is no backup {name}: '{place}' has none at all")),
        (None, Wanted::Latest) => none(format!("there are no backups in '{place}'")),
    }
}
