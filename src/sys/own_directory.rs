//! What pgbox keeps of its own inside a data directory, which may be written while a server runs.

use super::directory::Directory;
use super::read_root::ReadRoot;
use super::write_root::OWN_DIRECTORY;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

/// The `.pgbox` directory of a data directory, and nothing outside it.
#[derive(Debug)]
pub struct OwnDirectory {
    directory: Directory,
    reader: ReadRoot,
}

impl Deref for OwnDirectory {
    type Target = ReadRoot;
    fn deref(&self) -> &ReadRoot {
        &self.reader
    }
}

impl OwnDirectory {
    /// Opens it. It is there once anything was done to the data directory.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let directory = Directory::open(&data_directory.join(OWN_DIRECTORY))?;
        let reader = ReadRoot::from_directory(directory.try_clone()?);
        Ok(Self { directory, reader })
    }

    /// The text of one of its files; `None` where the file, the directory or the data directory is not there.
    ///
    /// # Errors
    /// What keeps it from being read, and a file that is larger than `limit_bytes`.
    pub fn read(data_directory: &Path, name: &str, limit_bytes: u64) -> io::Result<Option<String>> {
        match ReadRoot::open(data_directory) {
            Ok(root) => root.read_text(Path::new(OWN_DIRECTORY).join(name), limit_bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file so that after a power cut it has either its old content or the new, whole.
    pub fn write_durably(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.directory.write_durably(path.as_ref(), bytes, 0o600)
    }

    /// Appends a line to a file and syncs it.
    pub fn append_line(&self, path: impl AsRef<Path>, line: &str) -> io::Result<()> {
        let mut file = self.directory.append_file(path.as_ref(), 0o600)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    }

    /// Makes the names at its top durable.
    pub fn sync(&self) -> io::Result<()> {
        self.directory.sync_directory(Path::new("."))
    }

    /// Renames an entry; the change is durable within the directory that it is in.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.directory.rename(from, to)?;
        self.directory
            .sync_directory(to.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))
    }

    /// Removes a file or a directory with all that is in it, if it is there.
    pub fn discard(&self, path: impl AsRef<Path>) -> io::Result<()> {
        match self.directory.facts(path.as_ref())? {
            None => Ok(()),
            Some(facts) if facts.kind == super::EntryKind::Directory => {
                self.directory.remove_tree(path.as_ref())
            }
            Some(_) => self.directory.remove_file_if_there(path.as_ref()),
        }
    }
}
