//! The note of what a `pg_resetwal` left, in `.pgbox/`: its traces in the WAL are gone with the next checkpoint, and what it
//! left in `pg_xact` stays.

use crate::plan::wal_reset::WalReset;
use crate::sys::{OWN_DIRECTORY, OwnDirectory, ReadRoot};
use std::io;
use std::path::Path;

const FILE: &str = "wal-reset.json";
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads the note. One that is not there, or makes no sense, says nothing.
pub(crate) fn read(root: &ReadRoot) -> Option<WalReset> {
    let text = root.read_text(Path::new(OWN_DIRECTORY).join(FILE), LIMIT_BYTES).ok()??;
    serde_json::from_str(&text).ok()
}

/// Writes the note, durably.
pub(crate) fn note(root: &ReadRoot, reset: &WalReset) -> io::Result<()> {
    let text = serde_json::to_vec(reset).map_err(io::Error::other)?;
    OwnDirectory::open(root.path())?.write_durably(FILE, &text)
}
