//! A directory outside the data directory that the WAL of a new cluster goes into.
//!
//! Until that cluster is in its place, its WAL is below a name of ours. What lies beside that name is ours, too: the
//! directory was empty when the name was made. So whoever comes after a death clears it and begins again, and a directory
//! that has anything else in it, which may be the WAL of a cluster that somebody misses, is never touched.

use super::directory::Directory;
use super::read_root::ReadRoot;
use std::io;
use std::path::{Path, PathBuf};

/// Where the WAL is while its cluster is built. It stays, empty, until that is in its place.
const BUILDING: &str = ".pgbox-new";
/// What the root of a file system has.
const LOST_AND_FOUND: &str = "lost+found";

/// A directory for the WAL of a new cluster.
#[derive(Debug)]
pub struct NewWalRoot {
    directory: Directory,
}

impl NewWalRoot {
    /// Takes an existing directory that is empty, or has what an earlier new cluster left that never came into its place.
    /// `None`: it has something else.
    pub fn claim(path: &Path) -> io::Result<Option<Self>> {
        let directory = Directory::open(path)?;
        let reader = ReadRoot::from_directory(directory.try_clone()?);
        let names: Vec<String> =
            reader.names(".")?.into_iter().filter(|name| name != LOST_AND_FOUND).collect();
        let is_ours = names.iter().any(|name| name == BUILDING);
        if !is_ours && !names.is_empty() {
            return Ok(None);
        }
        // The name that makes it ours goes last.
        for name in names.iter().filter(|name| *name != BUILDING) {
            remove(&directory, name)?;
        }
        remove(&directory, BUILDING)?;
        directory.create_directory(Path::new(BUILDING), 0o700)?;
        directory.sync_directory(Path::new("."))?;
        Ok(Some(Self { directory }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the WAL of the cluster is while that is built.
    pub fn building(&self) -> PathBuf {
        self.path().join(BUILDING)
    }

    /// Moves the WAL up, once nothing writes it any more, and makes it durable.
    pub fn settle(&self) -> io::Result<()> {
        let reader = ReadRoot::from_directory(self.directory.try_clone()?);
        for name in reader.names(BUILDING)? {
            self.directory.rename(&Path::new(BUILDING).join(&name), Path::new(&name))?;
        }
        self.directory.sync_file_system()
    }

    /// Takes the name of ours away: the cluster is in its place. A directory that never had it is left as it is.
    pub fn release(path: &Path) -> io::Result<()> {
        // Only an empty directory is removed so.
        match std::fs::remove_dir(path.join(BUILDING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn remove(directory: &Directory, name: &str) -> io::Result<()> {
    match directory.facts(Path::new(name))? {
        None => Ok(()),
        Some(facts) if facts.kind == super::EntryKind::Directory => directory.remove_tree(Path::new(name)),
        Some(_) => directory.remove_file_if_there(Path::new(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_an_earlier_attempt_left_is_cleared_and_anything_else_is_not_touched() {
        let wal = tempfile::tempdir().unwrap();
        std::fs::create_dir(wal.path().join(LOST_AND_FOUND)).unwrap();
        let claimed = NewWalRoot::claim(wal.path()).unwrap().unwrap();
        std::fs::write(claimed.building().join("000000010000000000000001"), "wal").unwrap();
        std::fs::create_dir(claimed.building().join("archive_status")).unwrap();
        claimed.settle().unwrap();
        assert_eq!(
            names(wal.path()),
            [BUILDING, "000000010000000000000001", "archive_status", LOST_AND_FOUND]
        );

        NewWalRoot::claim(wal.path()).unwrap().unwrap();
        assert_eq!(names(wal.path()), [BUILDING, LOST_AND_FOUND]);

        NewWalRoot::release(wal.path()).unwrap();
        NewWalRoot::release(wal.path()).unwrap();
        std::fs::write(wal.path().join("000000010000000000000001"), "wal").unwrap();
        assert!(NewWalRoot::claim(wal.path()).unwrap().is_none());
        assert_eq!(names(wal.path()), ["000000010000000000000001", LOST_AND_FOUND]);
    }
}
