//! Whether a cluster is still what its newest good backup holds.
//!
//! Asked after the backup's checkpoint, when everything that was committed is in the files. What cannot be told by size
//! and time is read and compared by its hashes, since a restart rewrites some files with the content that they had.

use std::collections::HashSet;
use std::io;

use anyhow::Context;
use rayon::prelude::*;

use super::copying::read_up_to;
use super::former::{Comparison, Former};
use super::listing::{Item, Listing};
use crate::pg::control_file::{CONTROL_FILE, ControlFile};
use crate::progress::Progress;
use crate::repository::{BackupReader, BackupWriter, CHUNK_SIZE_BYTES, ChunkList, EntryContent, TableEntry};

/// Whether the listed files are those of a former backup.
pub(super) fn is_unchanged(
    former: &Former,
    listing: &Listing,
    control: &ControlFile,
) -> anyhow::Result<bool> {
    let baseline = former.baseline();
    // The next object identifier is not compared: a clean restart sets it back to what was really used.
    if (baseline.next_xid, baseline.next_multi) != (control.next_xid, control.next_multi) {
        return Ok(false);
    }
    let is_lasting = |path: &&str| !is_volatile(path);
    let present: Vec<&Item> = listing.items.iter().filter(|item| is_lasting(&item.path.as_str())).collect();
    let paths: HashSet<&str> = present.iter().map(|item| item.path.as_str()).collect();
    if former.paths().filter(is_lasting).any(|path| !paths.contains(path)) {
        return Ok(false);
    }
    let mut doubtful = Vec::new();
    for item in present {
        match former.compare(item) {
            Comparison::Same => {}
            Comparison::Different => return Ok(false),
            Comparison::Doubtful(chunks) => doubtful.push((item, chunks)),
        }
    }
    let has_content = |(item, chunks): &(&Item, &ChunkList)| has_same_content(former, listing, item, chunks);
    doubtful.par_iter().map(has_content).try_reduce(|| true, |left, right| Ok(left && right))
}

/// Whether the repository still has all of a backup, as far as its packs are there and were not found damaged. If it has
/// not, a new backup stores again what the cluster has.
pub(super) fn is_all_stored(
    newest: &BackupReader,
    writer: &BackupWriter<'_>,
    progress: &dyn Progress,
) -> bool {
    let is_stored = |entry: &TableEntry| match &entry.content {
        // A list that cannot be read back says nothing.
        EntryContent::File { chunks, .. } => {
            chunks.load().is_ok_and(|chunks| chunks.iter().all(|chunk| writer.has_chunk(chunk)))
        }
        _ => true,
    };
    let is_all_stored = newest.entries().par_iter().all(is_stored);
    if !is_all_stored {
        let name = newest.summary().name;
        progress
            .note(&format!("nothing changed since {name}, and not all of it is in the repository any more"));
    }
    is_all_stored
}

fn has_same_content(
    former: &Former,
    listing: &Listing,
    item: &Item,
    chunks: &ChunkList,
) -> anyhow::Result<bool> {
    let file = match listing.open(item) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("open '{}'", item.path)),
    };
    let mut buffer = Vec::new();
    for (chunk, offset) in chunks.load()?.iter().zip((0..).step_by(CHUNK_SIZE_BYTES)) {
        read_up_to(&file, offset, item.facts.size_bytes, &mut buffer)
            .with_context(|| format!("read '{}'", item.path))?;
        if former.chunk_id(&buffer) != *chunk {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a path changes without any change to the data: by a checkpoint, a restart, or the backup itself.
fn is_volatile(path: &str) -> bool {
    const FILES: [&str; 6] = [
        CONTROL_FILE,
        "pg_logical/replorigin_checkpoint",
        "current_logfiles",
        "backup_label",
        "tablespace_map",
        "logfile",
    ];
    const DIRECTORIES: [&str; 4] = ["pg_stat/", "pg_wal/", "log/", "pg_log/"];
    FILES.contains(&path)
        || DIRECTORIES.iter().any(|directory| path.starts_with(directory))
        || (!path.contains('/')
            && std::path::Path::new(path).extension().is_some_and(|suffix| suffix == "log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_by_itself_is_volatile() {
        for path in
            ["global/pg_control", "pg_stat/pgstat.stat", "pg_wal/000000010000000000000001", "server.log"]
        {
            assert!(is_volatile(path), "{path}");
        }
        for path in ["pg_wal", "base/5/16384", "pg_xact/0000", "postgresql.conf", "pg_stats", "base/x.log"] {
            assert!(!is_volatile(path), "{path}");
        }
    }
}
