//! What a backup's files become when a server is to run on them, in a directory or in a bundle.
//!
//! Tablespaces become directories inside the data directory, so that nothing outside is overwritten and whoever
//! moves the whole moves them, too; what belonged to the former server is left out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::BackupFormat;
use crate::repository::{BackupReader, EntryContent, RepositoryError, TableEntry};

/// Where the server keeps what `ALTER SYSTEM` set; it is read after all other configuration.
pub(super) const AUTO_CONFIGURATION: &str = "postgresql.auto.conf";
pub(super) const MAXIMUM_CONFIGURATION_SIZE_BYTES: u64 = 1024 * 1024;
/// Recovery from a backup refuses a tablespace that is a directory in `pg_tblspc`, unless this is on (PostgreSQL:
/// `CheckTablespaceDirectory()` in xlogrecovery.c).
const IN_PLACE_SETTING: &str = "allow_in_place_tablespaces";

/// A tablespace that was outside the data directory, and is inside it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredTablespace {
    /// Where it is now, below the data directory.
    pub path: String,
    /// Where it was.
    pub former: String,
}

impl fmt::Display for RestoredTablespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, former } = self;
        write!(formatter, "the tablespace that was in '{former}' is now in the data directory, as '{path}'")
    }
}

/// The text of a `postgresql.auto.conf`, with the setting without which a cluster with tablespaces inside the data
/// directory would not recover.
pub(super) fn with_tablespaces_in_place(mut text: Vec<u8>) -> Vec<u8> {
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("{IN_PLACE_SETTING} = 'on'\n").as_bytes());
    text
}

/// A backup as a server is to find it.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) reader: &'a BackupReader,
}

impl Layout<'_> {
    /// A former server's `postmaster.pid` would keep a new one from starting; a `tablespace_map` would make it link
    /// tablespaces that are directories now.
    pub(super) fn is_wanted(self, entry: &TableEntry) -> bool {
        match entry.path.as_str() {
            "postmaster.pid" | "postmaster.opts" => false,
            "tablespace_map" => self.tablespaces().is_empty(),
            AUTO_CONFIGURATION => !self.has_in_place_tablespaces(),
            _ => true,
        }
    }

    pub(super) fn tablespaces(self) -> Vec<RestoredTablespace> {
        let tablespace = |entry: &TableEntry| match &entry.content {
            EntryContent::Tablespace { target } => {
                Some(RestoredTablespace { path: entry.path.to_string(), former: target.clone() })
            }
            _ => None,
        };
        self.reader.entries().iter().filter_map(tablespace).collect()
    }

    /// Whether there will be directories in `pg_tblspc`, because the links became such, or the cluster had them.
    fn has_in_place_tablespaces(self) -> bool {
        let is_tablespace =
            |entry: &TableEntry| entry.path.parent() == Some("pg_tblspc") && entry.is_directory();
        self.reader.entries().iter().any(is_tablespace)
    }

    /// What `ALTER SYSTEM` had set, and with it the setting without which the server would not start; `None` where
    /// the backup's own file will do.
    pub(super) fn auto_configuration(self) -> Result<Option<Vec<u8>>, RepositoryError> {
        if !self.has_in_place_tablespaces() {
            return Ok(None);
        }
        let former = self.reader.read_file(AUTO_CONFIGURATION, MAXIMUM_CONFIGURATION_SIZE_BYTES)?;
        Ok(Some(with_tablespaces_in_place(former.unwrap_or_default())))
    }

    /// The mode of the data directory. The server takes no other modes (PostgreSQL: `checkDataDir()` in
    /// postmaster.c).
    pub(super) fn directory_mode(self) -> u32 {
        if self.reader.header().directory_mode == 0o750 { 0o750 } else { 0o700 }
    }

    /// The scripts copied with whatever modes `cp` made, which a server may refuse.
    pub(super) fn mode(self, entry: &TableEntry) -> u32 {
        let is_script_copy = self.reader.summary().format == BackupFormat::ScriptCopy;
        match (entry.is_directory(), is_script_copy) {
            (true, true) => 0o700,
            (false, true) => 0o600,
            // Without these bits, nothing could be written into it.
            (true, false) => entry.mode & 0o777 | 0o700,
            (false, false) => entry.mode & 0o777,
        }
    }
}
