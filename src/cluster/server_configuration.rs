//! The configuration that a server is given where it does not take the owner's: a copy without the lines it refuses.

use super::binaries::Installation;
use super::usable_configuration::{MAIN_FILE, RefusedLine, Search, search};
use crate::progress::Progress;
use crate::sys::{ProcessError, ReadRoot, WriteRoot};
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The copy that the served cluster runs with, below the data directory. It stays while that server runs, which reads it
/// again at each reload.
const COPY: &str = ".pgbox/usable-postgresql.conf";
/// The same for a server that only we reach.
const PRIVATE_COPY: &str = ".pgbox/usable-private.conf";

/// Whether a cluster was started with a copy of its configuration.
pub fn is_substituted(root: &ReadRoot) -> bool {
    root.facts(COPY).is_ok_and(|facts| facts.is_some())
}

/// Returns the arguments that give a server of a directory below the claimed root a configuration that it takes; none
/// where it takes the owner's, and where none was found: then it says itself what it refuses.
///
/// # Errors
/// When the copy could not be written or removed.
pub fn arguments(
    root: &WriteRoot,
    data_directory: &Path,
    programs: &Installation,
    progress: &dyn Progress,
) -> io::Result<Vec<OsString>> {
    let copy = if data_directory == root.path() { COPY } else { PRIVATE_COPY };
    if !matches!(programs.configured("hba_file", data_directory), Err(ProcessError::Failed { .. })) {
        root.discard(copy)?;
        return Ok(Vec::new());
    }
    let Ok(Search::Found { text, left_out }) = search(programs, data_directory) else {
        root.discard(copy)?;
        return Ok(Vec::new());
    };
    let content = [header(&left_out).as_bytes(), &text].concat();
    // On a full disk, the copy of the last start serves as well.
    let is_there = root.read_bounded(copy, content.len() as u64).is_ok_and(|present| present == content);
    if !is_there {
        root.write_durably(copy, &content, 0o600)?;
    }
    for line in &left_out {
        progress.note(&format!("left out of the configuration: {line}"));
    }
    let mut setting = OsString::from("config_file=");
    setting.push(root.path().join(copy));
    Ok(vec!["-c".into(), setting])
}

fn header(left_out: &[RefusedLine]) -> String {
    let mut text = format!(
        "# A copy of {MAIN_FILE} and what it takes in, made by pgbox: the server refuses lines of it.\n\
         # Change {MAIN_FILE}, and not this copy, which is made again at each start. Left out:\n"
    );
    for line in left_out {
        text.push_str(&format!("#   {line}\n").replace('\r', " "));
    }
    text
}
