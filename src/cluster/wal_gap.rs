//! The note that WAL was given up instead of archived: until a newer backup, moments after it cannot be reached.
//!
//! It is kept in `.pgbox/`, since the archive may be what cannot be written.

use crate::pg::Lsn;
use crate::sys::OwnDirectory;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const FILE: &str = "wal-gap.json";
const LIMIT_BYTES: u64 = 64 * 1024;

/// WAL that is in no archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalGap {
    /// When the first file was given up.
    pub since: DateTime<Utc>,
    /// The first file that was given up.
    pub first: String,
    /// The last one.
    pub last: String,
    /// How many.
    pub count: u64,
    /// Where the WAL that was given up ends; a backup that begins there or later needs none of it.
    pub end: Lsn,
    /// Why the last one could not be archived.
    pub reason: String,
    /// Whether the archive did not even answer then, as a mount whose server is gone.
    #[serde(default)]
    pub is_unanswered: bool,
}

impl WalGap {
    /// The gap with one more file in it, which ends at `end`.
    #[must_use]
    pub fn with(former: Option<Self>, name: &str, end: Lsn, reason: &str, now: DateTime<Utc>) -> Self {
        let first = former.as_ref().map_or_else(|| name.to_owned(), |gap| gap.first.clone());
        Self {
            since: former.as_ref().map_or(now, |gap| gap.since),
            first,
            last: name.to_owned(),
            count: former.as_ref().map_or(0, |gap| gap.count) + 1,
            end: former.map_or(end, |gap| gap.end.max(end)),
            reason: reason.to_owned(),
            is_unanswered: false,
        }
    }

    /// Whether a file was given up: names of one timeline sort as their WAL does.
    pub fn covers(&self, name: &str) -> bool {
        (self.first.as_str()..=self.last.as_str()).contains(&name)
    }
}

/// The gap in the archive of a cluster, if there is one that no backup has closed.
///
/// # Errors
/// When the note is there and cannot be read, or makes no sense.
pub fn read(data_directory: &Path) -> io::Result<Option<WalGap>> {
    let Some(text) = OwnDirectory::read(data_directory, FILE, LIMIT_BYTES)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(io::Error::other)
}

/// Notes a gap, durably.
pub fn note(data_directory: &Path, gap: &WalGap) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(gap).map_err(io::Error::other)?;
    OwnDirectory::open(data_directory)?.write_durably(FILE, &text)
}

/// Takes the note away, once a backup that begins at `backup_start` is there, unless WAL was given up since.
pub fn close(data_directory: &Path, backup_start: Lsn) -> io::Result<()> {
    // A note that makes no sense is closed by a backup, too: it only ever asked for one.
    let is_open = matches!(read(data_directory), Ok(Some(gap)) if gap.end > backup_start);
    if is_open { Ok(()) } else { OwnDirectory::open(data_directory)?.discard(FILE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::OWN_DIRECTORY;

    #[test]
    fn a_gap_grows_and_is_closed_by_a_backup_that_begins_after_it_and_by_no_other() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(OWN_DIRECTORY)).unwrap();
        assert_eq!(read(data.path()).unwrap(), None);
        let now = Utc::now();
        let first = WalGap::with(None, "3", Lsn(4), "full", now);
        let gap = WalGap::with(Some(first), "4", Lsn(5), "full", now);
        assert_eq!((gap.first.as_str(), gap.last.as_str(), gap.count, gap.end), ("3", "4", 2, Lsn(5)));

        note(data.path(), &gap).unwrap();
        close(data.path(), Lsn(4)).unwrap();
        assert_eq!(read(data.path()).unwrap(), Some(gap));
        close(data.path(), Lsn(5)).unwrap();
        assert_eq!(read(data.path()).unwrap(), None);
    }
}
