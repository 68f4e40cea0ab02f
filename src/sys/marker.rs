//! The mark that a person stopped the server and wants it to stay stopped, and what keeps a server from stopping.

use super::directory::{Directory, EntryKind};
use super::write_root::OWN_DIRECTORY;
use std::io;
use std::path::Path;

const STOP_MARKER: &str = ".pgbox/stopped";

/// Whether a person stopped the server of this data directory.
pub fn has_stop_marker(data_directory: &Path) -> bool {
    Directory::open(data_directory)
        .and_then(|directory| directory.facts(Path::new(STOP_MARKER)))
        .is_ok_and(|facts| facts.is_some())
}

/// Marks that a person stops the server of this data directory.
pub fn set_stop_marker(data_directory: &Path) -> io::Result<()> {
    let directory = Directory::open(data_directory)?;
    directory.create_directory(Path::new(OWN_DIRECTORY), 0o700)?;
    directory.write_durably(Path::new(STOP_MARKER), b"", 0o600)
}

/// Removes the mark, if there is one.
pub fn clear_stop_marker(data_directory: &Path) -> io::Result<()> {
    match Directory::open(data_directory) {
        Ok(directory) => directory.remove_file_if_there(Path::new(STOP_MARKER)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a FIFO, a socket or a device that has the name of a file of the server's, which would wait for it without end.
pub fn remove_what_is_no_file(data_directory: &Path, name: &str) -> io::Result<()> {
    let directory = Directory::open(data_directory)?;
    match directory.facts(Path::new(name))? {
        Some(facts) if facts.kind == EntryKind::Special => directory.remove_file_if_there(Path::new(name)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_set_seen_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        clear_stop_marker(directory.path()).unwrap();
        assert!(!has_stop_marker(directory.path()));

        set_stop_marker(directory.path()).unwrap();
        assert!(has_stop_marker(directory.path()));

        clear_stop_marker(directory.path()).unwrap();
        assert!(!has_stop_marker(directory.path()));
        clear_stop_marker(&directory.path().join("absent")).unwrap();
    }
}
