//! What shows that a data directory held a cluster that served, and which: notes of pgbox's own, which stay when the
//! cluster's files are removed one after the other.
//!
//! The mark `.pgbox/served` is written when a server is first seen to serve. The others are those of versions that did
//! not write it yet. An initdb that was cut short leaves none of them: pgbox builds a cluster in staging, and others
//! write nothing into `.pgbox`.

use super::{history, seal};
use crate::pg::SystemIdentifier;
use crate::plan::diagnosis::Served;
use crate::sys::{OwnDirectory, ReadRoot};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const MARK: &str = ".pgbox/served";
const MARK_NAME: &str = "served";
/// Notes that are only written once a server has served, the one that the last backup leaves first.
const OTHER_NOTES: [&str; 2] = [super::inspect::REPOSITORY_FILE, ".pgbox/configuration"];
const LIMIT_BYTES: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    system_identifier: SystemIdentifier,
}

/// Notes durably that a server served this cluster, unless that is noted already.
pub(crate) fn note(root: &ReadRoot, system_identifier: SystemIdentifier) -> io::Result<()> {
    let mark = Mark { system_identifier };
    if read_mark(root).as_ref() == Some(&mark) {
        return Ok(());
    }
    let text = serde_json::to_vec(&mark).map_err(io::Error::other)?;
    OwnDirectory::open(root.path())?.write_durably(MARK_NAME, &text)
}

/// Returns what shows that a cluster was served from a data directory; `None` where nothing does.
pub(super) fn find(root: &ReadRoot) -> Option<Served> {
    let by_seal = || Some((seal::SEAL_FILE, Some(seal::sealed_identifier(root)?)));
    let by_note = || OTHER_NOTES.into_iter().find(|note| is_there(root, note)).map(|note| (note, None));
    let by_history = || has_replaced(root.path()).then_some((history::PLACE, None));
    let by_mark = || Some((MARK, Some(read_mark(root)?.system_identifier)));
    // A mark that cannot be read was written all the same.
    let by_garbage = || is_there(root, MARK).then_some((MARK, None));
    let found = by_mark().or_else(by_seal).or_else(by_garbage).or_else(by_note).or_else(by_history);
    found.map(|(note, system_identifier)| Served { note: note.to_owned(), system_identifier })
}

fn read_mark(root: &ReadRoot) -> Option<Mark> {
    serde_json::from_str(&root.read_text(MARK, LIMIT_BYTES).ok()??).ok()
}

fn is_there(root: &ReadRoot, place: &str) -> bool {
    !matches!(root.facts(place), Ok(None))
}

/// Whether a cluster was put in place by pgbox once, which is recorded when it serves.
fn has_replaced(data_directory: &Path) -> bool {
    let events = history::read(data_directory).unwrap_or_default();
    events.iter().any(|event| event.restored_from.is_some() || event.set_aside.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, ReadRoot) {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(".pgbox")).unwrap();
        let root = ReadRoot::open(data.path()).unwrap();
        (data, root)
    }

    #[test]
    fn a_cluster_that_served_is_known_by_its_mark() {
        let (data, root) = directory();
        assert_eq!(find(&root), None);

        note(&root, SystemIdentifier(7)).unwrap();

        let served = Served { note: MARK.to_owned(), system_identifier: Some(SystemIdentifier(7)) };
        assert_eq!(find(&root), Some(served));
        note(&root, SystemIdentifier(8)).unwrap();
        assert_eq!(find(&root).unwrap().system_identifier, Some(SystemIdentifier(8)));
        std::fs::write(data.path().join(MARK), "half a ma").unwrap();
        assert_eq!(find(&root).unwrap().system_identifier, None);
    }

    #[test]
    fn the_notes_of_earlier_versions_show_it_too_and_locks_and_staging_do_not() {
        let (data, root) = directory();
        std::fs::create_dir(data.path().join(".pgbox/new")).unwrap();
        for name in ["lock", "operation.lock", "stopped", "history.jsonl"] {
            std::fs::write(data.path().join(".pgbox").join(name), "").unwrap();
        }
        assert_eq!(find(&root), None);

        for note in OTHER_NOTES {
            std::fs::write(data.path().join(note), "x").unwrap();
            assert_eq!(find(&root).unwrap().note, note);
            std::fs::remove_file(data.path().join(note)).unwrap();
        }
    }
}
