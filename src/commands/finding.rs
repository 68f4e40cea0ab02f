//! Which backup a person means by a name.

use clap::ArgMatches;
use pgbox::cluster::control_file;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::decide;
use pgbox::pg::SystemIdentifier;
use pgbox::plan::selection::{NoLatest, latest};
use pgbox::plan::{BackupName, BackupSummary};
use pgbox::sys::ReadRoot;

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

/// The cluster in the data directory, if there is one, and anything in it tells which.
fn present_cluster(tools: &Tools) -> Option<SystemIdentifier> {
    let root = ReadRoot::open(&tools.settings.data_directory).ok()?;
    let control = control_file::read(&root).map(|control| control.system_identifier);
    control.ok().or_else(|| decide::diagnose(tools).ok()?.identity.system_identifier)
}

fn no_latest(tools: &Tools, reason: &NoLatest) -> Failure {
    let place = tools.settings.backup_directory.display();
    let (message, hint) = match reason {
        NoLatest::None => {
            let message = format!("there is no backup in '{place}' that can be restored from");
            return Failure::new(Kind::NoSuchBackup, message)
                .hint("a plain copy is only restored by its name: `backup-postgresql list` shows them");
        }
        NoLatest::OfOthers => (
            format!("there is no backup of the present cluster in '{place}' that can be restored from"),
            "those of other clusters are only restored by name: `backup-postgresql list` shows them",
        ),
        NoLatest::OfSeveral(clusters) => {
            let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
            (
                format!(
                    "the backups in '{place}' are of several clusters ({}), and no data directory tells which is meant",
                    clusters.join(", ")
                ),
                "name one: `backup-postgresql list` shows them",
            )
        }
    };
    Failure::new(Kind::NoSuchBackup, message).hint(hint)
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
        (Some(repository), Wanted::Latest) => {
            let backups = repository.backups()?;
            latest(&backups, present_cluster(tools))
                .cloned()
                .map_err(|reason| no_latest(tools, &reason).into())
        }
        (None, Wanted::Named(name)) => none(format!("there is no backup {name}: '{place}' has none at all")),
        (None, Wanted::Latest) => none(format!("there are no backups in '{place}'")),
    }
}
