//! The locales that this system was found to have, so that its server's program is not asked for them at each start.
//!
//! What it lacks is never noted: it may be installed at any moment.

use super::binaries::Installation;
use super::system_print::system_print;
use crate::sys::{OwnDirectory, ReadRoot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;

const NOTE: &str = ".pgbox/locales";
const NOTE_NAME: &str = "locales";
const LIMIT_BYTES: u64 = 256 * 1024;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The system that has them.
    system: String,
    locales: BTreeSet<String>,
}

/// Returns the locales that were noted of this system; none where it is another one.
pub(super) fn noted(root: &ReadRoot, programs: &Installation) -> BTreeSet<String> {
    let text = root.read_text(NOTE, LIMIT_BYTES).ok().flatten().unwrap_or_default();
    let note = serde_json::from_str(&text).ok().filter(|note: &Note| note.system == system_print(programs));
    note.map(|note| note.locales).unwrap_or_default()
}

/// Notes locales that this system has, unless that is noted already.
///
/// # Errors
/// When the note could not be written; they are asked for again then.
pub(crate) fn note(root: &ReadRoot, programs: &Installation, found: &BTreeSet<String>) -> io::Result<()> {
    let mut locales = noted(root, programs);
    if found.is_subset(&locales) {
        return Ok(());
    }
    locales.extend(found.iter().cloned());
    let note = Note { system: system_print(programs), locales };
    OwnDirectory::open(root.path())?.write_durably(NOTE_NAME, &serde_json::to_vec(&note)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;

    #[test]
    fn what_one_system_has_says_nothing_of_another() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(".pgbox")).unwrap();
        let root = ReadRoot::open(data.path()).unwrap();
        let programs =
            |place: &str| Installation { version: MajorVersion(15), bin_directory: data.path().join(place) };
        let found = |name: &str| BTreeSet::from([name.to_owned()]);

        note(&root, &programs("one"), &found("de_DE.UTF-8")).unwrap();
        note(&root, &programs("one"), &found("en_US.UTF-8")).unwrap();

        assert_eq!(noted(&root, &programs("one")).len(), 2);
        assert!(noted(&root, &programs("other")).is_empty());
    }
}
