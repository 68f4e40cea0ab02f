//! The list of a cluster's own backups, in `.pgbox/lineage.json`: it goes where the volume goes, also back to a snapshot.
//!
//! It is written before a backup is finished, so that a backup which is listed in the repository is in it. One that was
//! never finished is harmless there.

use super::inspect::follow;
use crate::pg::timeline_history;
use crate::pg::{SystemIdentifier, TimelineId};
use crate::plan::ancestry::{Lineage, Mark};
use crate::plan::timelines::History;
use crate::sys::{OWN_DIRECTORY, OwnDirectory, ReadRoot};
use std::io;
use std::path::Path;

const FILE: &str = "lineage.json";
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads the list. One that is not there, or makes no sense, shows nothing.
pub(crate) fn read(root: &ReadRoot) -> Lineage {
    let text = root.read_text(Path::new(OWN_DIRECTORY).join(FILE), LIMIT_BYTES).ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Adds a backup of a cluster that is on a timeline now, durably. A directory that pgbox never had anything to do with
/// has no list.
pub(crate) fn note(
    root: &ReadRoot,
    cluster: SystemIdentifier,
    mark: Mark,
    timeline: TimelineId,
) -> io::Result<()> {
    let former = read(root);
    if former.system_identifier == Some(cluster) && former.backups.last() == Some(&mark) {
        return Ok(());
    }
    write(root, &former.with(cluster, mark, &history(root, timeline)))
}

/// Makes the list that of a cluster which was restored from a backup, and is on a timeline of its own now.
pub(crate) fn note_restored(
    root: &ReadRoot,
    cluster: SystemIdentifier,
    mark: Mark,
    timeline: TimelineId,
) -> io::Result<()> {
    write(root, &read(root).restored_from(cluster, mark, &history(root, timeline)))
}

fn history(root: &ReadRoot, timeline: TimelineId) -> History {
    let text = follow(root, "pg_wal")
        .and_then(|wal| wal.read_text(timeline_history::file_name(timeline), LIMIT_BYTES))
        .ok()
        .flatten();
    let ancestors = text.and_then(|text| timeline_history::parse(&text)).unwrap_or_default();
    History::new(timeline, &ancestors)
}

fn write(root: &ReadRoot, lineage: &Lineage) -> io::Result<()> {
    let text = serde_json::to_vec(lineage).map_err(io::Error::other)?;
    match OwnDirectory::open(root.path()) {
        Ok(own) => own.write_durably(FILE, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
