//! The note that a person stopped the server on purpose, which keeps the supervisor from starting it again.

use crate::sys::{Holder, OWN_DIRECTORY, OwnDirectory};
use std::io;
use std::path::Path;

const FILE: &str = "stopped";

/// Notes that the server is meant to stay down.
pub fn set_stopped(data_directory: &Path) -> io::Result<()> {
    let text = serde_json::to_vec(&Holder::myself("maintenance stop")).map_err(io::Error::other)?;
    OwnDirectory::open(data_directory)?.write_durably(FILE, &text)
}

/// Takes the note back.
pub fn clear_stopped(data_directory: &Path) -> io::Result<()> {
    match OwnDirectory::open(data_directory) {
        Ok(own) => own.discard(FILE),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the server is meant to stay down.
pub fn is_stopped(data_directory: &Path) -> bool {
    data_directory.join(OWN_DIRECTORY).join(FILE).exists()
}
