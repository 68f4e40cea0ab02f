//! Files of the data directory that a link leads to another disk for, such as those of a `pg_wal` of its own.
//!
//! The handle of the data directory reaches nothing outside it, on purpose, and no rename reaches another disk. What is
//! there is opened by the place that the link names.

use crate::cluster::inspect::follow;
use crate::sys::{ReadRoot, StoreRoot};
use std::io;
use std::path::Path;

/// A file that is reached through a link.
pub(super) struct Elsewhere {
    /// The directory that it is in.
    pub(super) directory: StoreRoot,
    /// Its name there.
    pub(super) name: String,
}

impl Elsewhere {
    /// Where a file below the data directory really is, if a link leads to it. `None`: it is where its name says.
    ///
    /// # Errors
    /// When what the link names cannot be opened.
    pub(super) fn of(root: &ReadRoot, place: &str) -> io::Result<Option<Self>> {
        let Some((directory, name)) = place.rsplit_once('/') else { return Ok(None) };
        let top = directory.split('/').next().unwrap_or(directory);
        if root.read_link(top).is_err() {
            return Ok(None);
        }
        let directory = StoreRoot::open(follow(root, directory)?.path())?;
        Ok(Some(Self { directory, name: name.to_owned() }))
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        Ok(self.directory.facts(&self.name)?.is_some())
    }
}

/// Says whether an entry of the data directory is there, be it behind a link.
///
/// # Errors
/// When that cannot be seen.
pub(super) fn is_there(root: &ReadRoot, place: &str) -> io::Result<bool> {
    match Elsewhere::of(root, place)? {
        Some(elsewhere) => elsewhere.is_there(),
        None => Ok(root.facts(place)?.is_some()),
    }
}

/// The directory of an entry.
pub(super) fn parent_of(place: &str) -> &Path {
    let parent = Path::new(place).parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}
