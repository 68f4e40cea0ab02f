//! A backup directory: written by one process at a time, under its own lock.

use super::directory::{Directory, set_modified};
use super::lock::{FileLock, LockError, LockMode};
use super::read_root::ReadRoot;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A directory that holds backups, open for reading and writing.
#[derive(Debug)]
pub struct StoreRoot {
    directory: Directory,
    reader: ReadRoot,
}

impl Deref for StoreRoot {
    type Target = ReadRoot;
    fn deref(&self) -> &ReadRoot {
        &self.reader
    }
}

impl StoreRoot {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = Directory::open(path)?;
        let reader = ReadRoot::from_directory(directory.try_clone()?);
        Ok(Self { directory, reader })
    }

    /// Opens the same directory again, wherever it has gone meanwhile.
    pub fn try_clone(&self) -> io::Result<Self> {
        let directory = self.directory.try_clone()?;
        let reader = ReadRoot::from_directory(directory.try_clone()?);
        Ok(Self { directory, reader })
    }

    /// Takes a lock in the directory; it is kept until the value is dropped or the process ends.
    pub fn lock(
        &self,
        path: impl AsRef<Path>,
        mode: LockMode,
        activity: &str,
    ) -> Result<FileLock, LockError> {
        FileLock::acquire(&self.directory, path.as_ref(), mode, activity)
    }

    /// Waits for a lock in the directory, and takes it alone.
    pub fn wait_for_lock(&self, path: impl AsRef<Path>, activity: &str) -> Result<FileLock, LockError> {
        FileLock::wait(&self.directory, path.as_ref(), activity)
    }

    /// Writes a file so that after a power cut it has either its old content or the new, whole.
    pub fn write_durably(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.directory.write_durably(path.as_ref(), bytes, 0o600)
    }

    /// Creates a file that must not exist yet; the caller syncs it.
    pub fn create_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.directory.create_file(path.as_ref(), 0o600)
    }

    /// Creates a directory and those above it that are missing.
    pub fn create_directories(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.create_directories(path.as_ref(), 0o700)
    }

    /// Moves an entry within the directory; a file that has the new name is replaced.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.directory.rename(from.as_ref(), to.as_ref())
    }

    /// Removes a file, if it is there.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.remove_file_if_there(path.as_ref())
    }

    /// Removes a directory and all below it; symlinks are removed, never followed.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.remove_tree(path.as_ref())
    }

    /// Makes the names in a directory durable; `"."` is the root.
    pub fn sync_directory(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.sync_directory(path.as_ref())
    }

    /// Writes everything below the directory to disk, of this file system.
    pub fn sync_file_system(&self) -> io::Result<()> {
        self.directory.sync_file_system()
    }

    /// Sets the modification time of an open file, nanoseconds since the epoch.
    pub fn set_modified(file: &File, modified_ns: i64) -> io::Result<()> {
        set_modified(file, modified_ns)
    }
}
