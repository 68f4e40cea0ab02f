//! Carries plans out. Nothing here decides; nothing here prints.

mod access;
mod archive_queue;
pub mod archiving;
mod aside;
mod attempt;
pub mod backup;
mod backup_wal;
pub mod branching;
pub mod cleanup;
mod compared_wal;
mod configuration;
mod cut_files;
pub mod decide;
pub mod ensure;
pub mod export;
mod failed_start;
mod fetched_wal;
mod from_backup;
mod healing;
pub mod import;
mod in_place;
mod init_scripts;
mod initialise;
mod joined_wal;
mod linked;
mod made_tablespace;
mod meanwhile;
pub(crate) mod overridden;
pub mod point_in_time;
mod private_recovery;
mod private_server;
pub mod recover;
mod recovery_sync;
mod release;
mod repairs;
mod replay;
mod replay_end;
mod replay_unlogged;
pub mod restore;
pub mod restore_files;
mod restored_layout;
mod restored_wal;
mod salvage;
mod same_failure;
pub mod scrub;
pub mod set_aside;
mod single_user;
mod staging;
pub mod start;
mod status_witness;
pub mod stop;
pub mod takeover;
pub mod verify;

pub(crate) use failed_start::start_failure;

use crate::cluster::binaries::Installation;
use crate::cluster::server_configuration;
use crate::error::{Failure, Kind, hint_of_cause};
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError};
use crate::settings::Settings;
use crate::sys::WriteRoot;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What carrying out a plan needs besides the plan.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Everything that a person can set.
    pub settings: &'a Settings,
    /// The PostgreSQL programs to use.
    pub installation: &'a Installation,
    /// The backups.
    pub backups: Backups<'a>,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

/// What became of opening the repository.
#[derive(Clone, Copy)]
pub enum Backups<'a> {
    /// There is none.
    None,
    /// It is open.
    Open(&'a Repository),
    /// There is one, and it could not be opened, for this reason.
    Unusable(&'a Failure),
}

/// Why a repository could not be opened, for [`Backups::Unusable`].
pub fn unusable(path: &Path, error: &RepositoryError) -> Failure {
    let shown = path.display();
    let mut message = format!("could not open the backups in '{shown}': {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    // Whoever has the wrong key has to hear that, and not what is wrong with the disk.
    let kind = match error {
        RepositoryError::UnreadableKeyFile { .. } | RepositoryError::NoKeyInFile { .. } => Kind::Usage,
        error if error.is_about_key() => Kind::Refused,
        _ => Kind::Failed,
    };
    let hint = hint_of_cause(error);
    Failure::new(kind, message)
        .hint(hint.unwrap_or_else(|| "see to the backup directory; what is in it is not touched".to_owned()))
}

/// How long a start waits for what it only looks at in the repository: longer than a disk takes that has to spin up
/// first. A repository that hangs must not keep a sound server from starting.
pub const LOOKING_PATIENCE: Duration = Duration::from_secs(10);

const HINT_OF_SILENCE: &str =
    "see to the disk or the network that they are on; what is in them is not touched";

/// Opens the repository for a command that can do without it, which a file system that hangs must not keep waiting.
///
/// # Errors
/// Why it could not be opened, or that it did not answer within [`LOOKING_PATIENCE`].
pub fn open_for_server(settings: &Settings) -> Result<Option<Repository>, Failure> {
    let path = &settings.backup_directory;
    let opened = Repository::open_within(LOOKING_PATIENCE, path, settings.backup_key_file.as_deref());
    opened.map_err(|error| match error {
        RepositoryError::NoAnswer { .. } => {
            Failure::new(Kind::Failed, error.to_string()).hint(HINT_OF_SILENCE)
        }
        error => unusable(path, &error),
    })
}

impl Tools<'_> {
    /// The repository; `None` where there is none.
    ///
    /// # Errors
    /// When there is one that could not be opened: that is not the same as having no backups.
    pub fn repository(&self) -> anyhow::Result<Option<&Repository>> {
        match self.backups {
            Backups::None => Ok(None),
            Backups::Open(repository) if repository.is_silent() => {
                let shown = repository.path().display();
                let message = format!("the backups in '{shown}' did not answer, and are not asked again");
                Err(Failure::new(Kind::Failed, message).hint(HINT_OF_SILENCE).into())
            }
            Backups::Open(repository) => Ok(Some(repository)),
            Backups::Unusable(failure) => Err(failure.clone().into()),
        }
    }

    /// What a server of a directory at the claimed root, or below it, needs a configuration for.
    pub(crate) fn configuration_of<'a>(
        &'a self,
        root: &'a WriteRoot,
        data_directory: &'a Path,
    ) -> server_configuration::Wanted<'a> {
        server_configuration::Wanted {
            root,
            data_directory,
            programs: self.installation,
            policy: self.settings.recovery,
            progress: self.progress,
        }
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.settings.log_directory.join("postgresql.log")
    }
}
