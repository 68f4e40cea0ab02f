//! Restoring in tests.

use std::path::{Path, PathBuf};

use pgbox::execute::restore_files::{RestoredFiles, restore_files};
use pgbox::plan::BackupName;
use pgbox::progress::Silent;
use pgbox::repository::Repository;
use pgbox::sys::WriteRoot;
use tempfile::TempDir;

use super::server::{Server, directory, give_to_server};

/// A backup restored into a directory of its own.
pub(crate) struct Restored {
    pub(crate) report: RestoredFiles,
    directory: TempDir,
}

impl Restored {
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("new")
    }

    /// A server on what was restored.
    pub(crate) fn start(self) -> Server {
        give_to_server(self.directory.path());
        Server::start(self.data(), Some(self.directory))
    }
}

pub(crate) fn try_restore(repository: &Repository, name: BackupName) -> anyhow::Result<Restored> {
    let directory = directory();
    let root = WriteRoot::claim(directory.path(), None, "a test").unwrap();
    let reader = repository.reader(name)?;
    let report = restore_files(&reader, &root, Path::new("new"), &Silent)?;
    Ok(Restored { report, directory })
}

#[track_caller]
pub(crate) fn restore(repository: &Repository, name: BackupName) -> Restored {
    try_restore(repository, name).unwrap()
}
