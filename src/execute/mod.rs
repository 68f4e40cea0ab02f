//! Carries plans out. Nothing here decides; nothing here prints.

pub mod archiving;
mod attempt;
pub mod backup;
mod backup_wal;
pub mod cleanup;
mod configuration;
pub mod ensure;
pub mod export;
mod from_backup;
mod healing;
pub mod import;
mod in_place;
mod init_scripts;
mod initialise;
mod made_tablespace;
pub mod point_in_time;
mod private_recovery;
mod private_server;
pub mod recover;
mod recovery_sync;
mod release;
mod repairs;
mod replay;
mod replay_unlogged;
pub mod restore;
pub mod restore_files;
mod restored_layout;
mod restored_wal;
mod salvage;
pub mod set_aside;
mod single_user;
mod staging;
pub mod start;
pub mod stop;
pub mod takeover;
pub mod verify;

use crate::cluster::binaries::Installation;
use crate::cluster::server::{SocketInUse, StartError};
use crate::error::{Failure, Kind, hint_of_cause};
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError};
use crate::settings::Settings;
use std::error::Error;
use std::path::{Path, PathBuf};

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

impl Tools<'_> {
    /// The repository; `None` where there is none.
    ///
    /// # Errors
    /// When there is one that could not be opened: that is not the same as having no backups.
    pub fn repository(&self) -> anyhow::Result<Option<&Repository>> {
        match self.backups {
            Backups::None => Ok(None),
            Backups::Open(repository) => Ok(Some(repository)),
            Backups::Unusable(failure) => Err(failure.clone().into()),
        }
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.settings.log_directory.join("postgresql.log")
    }
}

/// A failed start as a person reads it, with the last lines of the server's log and what to do.
pub(crate) fn start_failure(error: StartError, action: &str) -> anyhow::Error {
    let hint = match &error {
        StartError::PortInUse(port) => {
            format!("stop what listens on port {port}, or choose another with PGPORT (0: any that is free)")
        }
        StartError::SocketInUse(in_use) => hint_of_socket(in_use),
        StartError::NoProgress { .. } => "raise STARTUP_TIMEOUT if the machine is very slow".to_owned(),
        StartError::Process(_) | StartError::Io(_) => {
            return anyhow::Error::new(error).context(action.to_owned());
        }
        StartError::Ended { .. } => {
            "see the server's log above for the cause; `maintenance health` tells more".to_owned()
        }
    };
    let kind = match error {
        StartError::Ended { .. } | StartError::NoProgress { .. } => Kind::ServerFailed,
        _ => Kind::Failed,
    };
    let message = format!("could not {action}: {error}{}", shown_log(error.log()));
    Failure::new(kind, message).hint(hint).into()
}

fn hint_of_socket(in_use: &SocketInUse) -> String {
    match in_use {
        SocketInUse::Held { .. } => {
            "stop that server, or choose another port with PGPORT (0: any that is free). Nothing was changed."
        }
        SocketInUse::Stuck { .. } => {
            "remove that lock file, or let the server's user write in its directory. Nothing was changed."
        }
    }
    .to_owned()
}

/// The last lines of the server's log, as the end of a message.
fn shown_log(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("\nthe last lines of the server's log:\n    {}", lines.join("\n    "))
}
