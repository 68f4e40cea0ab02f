//! What can go wrong with a repository, each with what was attempted and where.

use crate::format::bytes;
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::BackupName;
use crate::sys::{Holder, LockError, TimedOut, disk_space};

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
    /// The repository is encrypted, and there is no key.
    #[error("the repository '{}' is encrypted, and no key is set", .path.display())]
    NoKey {
        /// Where it is.
        path: PathBuf,
    },
    /// The repository is encrypted with another key.
    #[error("the repository '{}' is encrypted with another key than the one in '{}'", .path.display(), .key_file.display())]
    WrongKey {
        /// Where it is.
        path: PathBuf,
        /// Where the key came from.
        key_file: PathBuf,
    },
    /// There is a key, and what is in the directory is not encrypted.
    #[error("a key is set, and the backups in '{}' are not encrypted", .path.display())]
    NotEncrypted {
        /// Where they are.
        path: PathBuf,
    },
    /// The key file cannot be read.
    #[error("could not read the key file '{}'", .path.display())]
    UnreadableKeyFile {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The key file holds something else. It is not shown: it may be another secret.
    #[error("the key file '{}' must hold one line of 64 hexadecimal digits, and nothing else", .path.display())]
    NoKeyInFile {
        /// Where it is.
        path: PathBuf,
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
    /// The file system that it is on did not answer in time, as a network mount whose server is gone.
    #[error("could not read the backups in '{}': {answer}", .path.display())]
    NoAnswer {
        /// Where they are.
        path: PathBuf,
        /// For how long.
        answer: TimedOut,
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

    /// Whether it is the key that is missing or wrong: then what is in the repository cannot be read, and is not gone.
    pub fn is_about_key(&self) -> bool {
        matches!(
            self,
            Self::NoKey { .. }
                | Self::WrongKey { .. }
                | Self::NotEncrypted { .. }
                | Self::UnreadableKeyFile { .. }
                | Self::NoKeyInFile { .. }
        )
    }

    /// What the person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoKey { .. } => Some(
                "set BACKUP_KEY_FILE, or --backup-key-file, to the file with its key. Nothing was changed.",
            ),
            Self::WrongKey { .. } => Some(
                "set BACKUP_KEY_FILE to the file with its key; nothing else opens it. Nothing was changed.",
            ),
            Self::NotEncrypted { .. } => Some(
                "backups are encrypted from the first on, or not at all: set BACKUP_DIR to an empty directory, or do \
                 without BACKUP_KEY_FILE. Nothing was changed.",
            ),
            Self::UnreadableKeyFile { .. } => Some(
                "BACKUP_KEY_FILE names it; it has to be there, and the server's user has to be able to read it. Nothing \
                 was changed.",
            ),
            Self::NoKeyInFile { .. } => Some(
                "`openssl rand -hex 32` prints such a key, for a new repository. Keep a copy of it in a safe place: \
                 backups cannot be read without. Nothing was changed.",
            ),
            _ => None,
        }
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
