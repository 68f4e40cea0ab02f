//! Carries plans out. Nothing here decides; nothing here prints.

pub mod backup;
pub mod cleanup;
pub mod ensure;
mod from_backup;
mod init_scripts;
mod initialise;
pub mod recover;
pub mod restore;
pub mod restore_files;
pub mod set_aside;
pub mod start;
pub mod stop;
pub mod takeover;

use crate::cluster::binaries::Installation;
use crate::cluster::server::StartError;
use crate::error::{Failure, Kind};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::settings::Settings;
use std::path::PathBuf;

/// What carrying out a plan needs besides the plan.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Everything that a person can set.
    pub settings: &'a Settings,
    /// The PostgreSQL programs to use.
    pub installation: &'a Installation,
    /// The backups, if there are any.
    pub repository: Option<&'a Repository>,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

impl Tools<'_> {
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
        StartError::NoProgress { .. } => "raise STARTUP_TIMEOUT if the machine is very slow".to_owned(),
        StartError::Process(_) | StartError::Io(_) => {
            return anyhow::Error::new(error).context(action.to_owned());
        }
        StartError::Ended { .. } => {
            "see the server's log above for the cause; `maintenance health` tells more".to_owned()
        }
    };
    let message = format!("could not {action}: {error}{}", shown_log(error.log()));
    Failure::new(Kind::Failed, message).hint(hint).into()
}

/// The last lines of the server's log, as the end of a message.
fn shown_log(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("\nthe last lines of the server's log:\n    {}", lines.join("\n    "))
}
