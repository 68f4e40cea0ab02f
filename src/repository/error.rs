//! What can go wrong with a repository, each with what was attempted and where.

use crate::format::bytes;
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::BackupName;
use crate::sys::{Holder, LockError, disk_space};

/// Why the repository did not do what was asked. Nothing that it held before was changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no backup of that name.
    #[error("there is no backup {name}{}", .newest.map_or_else(String::new, |newest| format!(" (the newest is {newest})")))]
    NoSuchBackup {
        /// The name that was asked for.
        name: BackupName,
        /// The newest backup that there is.
        newest: Option<BackupName>,
    },
    /// What was stored is not what was found.
    #[error("{what}")]
    Damaged {
        /// What is damaged, and how that was noticed.
        what: String,
    },
    /// The WAL archive has a file of this name with other content.
    #[error("the archive has another '{name}' already, with other content")]
    OtherContent {
        /// The name of the WAL file.
        name: String,
    },
    /// Another process is at work in the repository.
    #[error("the repository is in use by {}", .0.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    Locked(Option<Holder>),
    /// The repository was made by a program that knows more than this one.
    #[error("the repository '{}' has format {found}, and this version of pgbox knows format {known}", .path.display())]
    UnknownFormat {
        /// Where it is.
        path: PathBuf,
        /// The format that its `repository.json` names.
        found: u32,
        /// The format that is known here.
        known: u32,
    },
    /// The file system is full.
    #[error("could not {action} '{}': the file system is full, {} free", .path.display(), bytes(*.available_bytes))]
    Full {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What can still be written.
        available_bytes: u64,
    },
    /// The file system said no.
    #[error("could not {action} '{}'", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl RepositoryError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// Whether it failed for want of space.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Says what was attempted on which path when the file system said no.
pub(super) fn attempting(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(io::Error) -> RepositoryError {
    move |source| {
        let path = path.as_ref().to_path_buf();
        if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return RepositoryError::Io { action, path, source };
        }
        let directory = path.ancestors().find(|ancestor| ancestor.is_dir());
        let space = directory.and_then(|directory| disk_space(directory).ok());
        RepositoryError::Full {
            action,
            path,
            available_bytes: space.map_or(0, |space| space.available_bytes),
        }
    }
}

pub(super) fn lock_error(path: &Path, error: LockError) -> RepositoryError {
    match error {
        LockError::Held(holder) => RepositoryError::Locked(holder),
        LockError::Io(source) => attempting("lock", path)(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_says_what_is_left() {
        let error = attempting("write", "/tmp/no such file")(io::ErrorKind::StorageFull.into());
        assert!(error.is_full());
        assert!(
            error.to_string().starts_with("could not write '/tmp/no such file': the file system is full, ")
        );
    }
}
