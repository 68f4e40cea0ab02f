//! A directory that may be read, and nothing else.

use super::directory::{Directory, Entry, FileFacts, Threads};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A directory held open for reading. It has no way to change what it sees.
#[derive(Debug)]
pub struct ReadRoot {
    directory: Directory,
}

impl ReadRoot {
    /// Opens an existing directory; a symlink to one is followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { directory: Directory::open(path)? })
    }

    pub(super) fn from_directory(directory: Directory) -> Self {
        Self { directory }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Opens a file below the root for reading.
    pub fn open_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.directory.open_file(path.as_ref())
    }

    /// Reads a file of at most `limit_bytes`; a larger one is an error of kind `FileTooLarge`.
    pub fn read_bounded(&self, path: impl AsRef<Path>, limit_bytes: u64) -> io::Result<Vec<u8>> {
        self.directory.read_bounded(path.as_ref(), limit_bytes)
    }

    /// Reads a small text file, or `None` when it is not there.
    pub fn read_text(&self, path: impl AsRef<Path>, limit_bytes: u64) -> io::Result<Option<String>> {
        match self.read_bounded(path, limit_bytes) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The facts of one entry, a symlink not followed; `None` when there is none.
    pub fn facts(&self, path: impl AsRef<Path>) -> io::Result<Option<FileFacts>> {
        self.directory.facts(path.as_ref())
    }

    /// The facts of the root itself.
    pub fn own_facts(&self) -> io::Result<FileFacts> {
        self.directory.own_facts()
    }

    /// The entries of a directory in name order; `"."` is the root.
    pub fn entries(&self, path: impl AsRef<Path>) -> io::Result<Vec<Entry>> {
        self.entries_on(path, Threads::One)
    }

    /// The names in a directory, in no order, without a look at what they name; `"."` is the root.
    pub fn names(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        self.directory.names(path.as_ref())
    }

    /// [`ReadRoot::entries`] of a directory that may have very many.
    pub fn entries_on(&self, path: impl AsRef<Path>, threads: Threads) -> io::Result<Vec<Entry>> {
        self.directory.entries(path.as_ref(), threads)
    }

    /// What a symlink holds, absolute or not.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        self.directory.read_link(path.as_ref())
    }

    /// Opens a directory below the root as a root of its own.
    pub fn subroot(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { directory: self.directory.subdirectory(path.as_ref())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_on_all_processors_is_that_on_one() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..1500 {
            std::fs::write(directory.path().join(number.to_string()), vec![0; number % 7]).unwrap();
        }
        let root = ReadRoot::open(directory.path()).unwrap();

        let one = root.entries_on(".", Threads::One).unwrap();

        assert_eq!(one.len(), 1500);
        assert!(one.is_sorted_by_key(|entry| entry.name.clone()));
        assert_eq!(one, root.entries_on(".", Threads::All).unwrap());
    }
}
