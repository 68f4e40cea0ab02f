//! The last start that failed, noted for who looks at a server that does not run.

use crate::sys::OwnDirectory;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const NAME: &str = "start-failure.json";
const LIMIT_BYTES: u64 = 64 * 1024;

/// A start that failed, and after which none worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// When.
    pub time: DateTime<Utc>,
    /// Why, in one line.
    pub message: String,
}

impl LastFailure {
    /// Returns the note of a data directory; `None` where there is none, or none that can be read.
    pub fn read(data_directory: &Path) -> Option<Self> {
        let text = OwnDirectory::read(data_directory, NAME, LIMIT_BYTES).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// Writes the note. In a directory that pgbox never worked in, nothing is written.
    pub fn note(&self, data_directory: &Path) -> io::Result<()> {
        let own = match OwnDirectory::open(data_directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            own => own?,
        };
        own.write_durably(NAME, &serde_json::to_vec(self)?)
    }

    /// Removes the note, if there is one.
    pub fn clear(data_directory: &Path) -> io::Result<()> {
        match OwnDirectory::open(data_directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            own => own?.discard(NAME),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_noted_read_and_cleared_and_no_directory_is_made_for_it() {
        let data = tempfile::tempdir().unwrap();
        let failure = LastFailure { time: DateTime::UNIX_EPOCH, message: "no key".into() };
        failure.note(data.path()).unwrap();
        LastFailure::clear(data.path()).unwrap();
        assert_eq!(LastFailure::read(data.path()), None);
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);

        std::fs::create_dir(data.path().join(".pgbox")).unwrap();
        failure.note(data.path()).unwrap();
        assert_eq!(LastFailure::read(data.path()), Some(failure));

        LastFailure::clear(data.path()).unwrap();
        assert_eq!(LastFailure::read(data.path()), None);
    }
}
