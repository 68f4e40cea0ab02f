//! Whether a cluster is still what its newest good backup holds.
//!
//! Asked after the backup's checkpoint, when everything that was committed is in the files. A file of the same size
//! and modification time is the same, unless that time is so near to the former listing that it may have changed
//! again unnoticed; every other file is read and compared by its hashes, since a restart rewrites some files with the
//! content that they had.

use std::collections::HashMap;
use std::io;

use anyhow::Context;
use rayon::prelude::*;

use super::copying::read_up_to;
use super::listing::{Item, ItemKind, Listing};
use crate::pg::control_file::ControlFile;
use crate::plan::{BackupFormat, BackupKind, BackupSummary};
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, ChunkId, EntryContent, Repository, TableEntry};

/// Modification times are only as fine as the kernel's clock ticks, and of some file systems as whole seconds.
const DOUBTFUL_NS: i64 = 2_000_000_000;

/// Opens the newest good backup of a cluster; `None` when there is none, or it cannot be read.
pub(super) fn newest_comparable(
    repository: &Repository,
    control: &ControlFile,
) -> anyhow::Result<Option<BackupReader>> {
    let is_of_cluster = |backup: &&BackupSummary| {
        backup.name.kind() == BackupKind::Backup
            && backup.format == BackupFormat::Chunked
            && backup.is_good()
            && backup.system_identifier == Some(control.system_identifier)
    };
    let backups = repository.backups().context("list the backups")?;
    // A backup whose table is damaged is no reason not to make a new one; on the contrary.
    Ok(backups.iter().find(is_of_cluster).and_then(|newest| repository.reader(newest.name).ok()))
}

/// Whether the listed files are those of `backup`.
pub(super) fn is_unchanged(
    backup: &BackupReader,
    listing: &Listing,
    control: &ControlFile,
) -> anyhow::Result<bool> {
    let Some(baseline) = backup.header().baseline else { return Ok(false) };
    // The next object identifier is not compared: a clean restart sets it back to what was really used.
    if (baseline.next_xid, baseline.next_multi) != (control.next_xid, control.next_multi)
        || backup.summary().timeline != Some(control.timeline)
    {
        return Ok(false);
    }
    let former: HashMap<&str, &TableEntry> = backup
        .entries()
        .iter()
        .map(|entry| (entry.path.as_str(), entry))
        .filter(|(path, _)| !is_volatile(path))
        .collect();
    let present: Vec<&Item> = listing.items.iter().filter(|item| !is_volatile(item.path.as_str())).collect();
    if former.len() != present.len() {
        return Ok(false);
    }
    let mut doubtful = Vec::new();
    for item in present {
        let Some(entry) = former.get(item.path.as_str()) else { return Ok(false) };
        match compare(entry, item, baseline.listed_at_ns) {
            Comparison::Same => {}
            Comparison::Different => return Ok(false),
            Comparison::Doubtful(chunks) => doubtful.push((item, chunks)),
        }
    }
    let has_content = |(item, chunks): &(&Item, &[ChunkId])| has_same_content(listing, item, chunks);
    doubtful.par_iter().map(has_content).try_reduce(|| true, |left, right| Ok(left && right))
}

enum Comparison<'a> {
    Same,
    Different,
    Doubtful(&'a [ChunkId]),
}

fn compare<'a>(entry: &'a TableEntry, item: &Item, listed_at_ns: i64) -> Comparison<'a> {
    match (&entry.content, &item.kind) {
        (EntryContent::File { size_bytes, chunks }, ItemKind::File) => {
            if *size_bytes != item.facts.size_bytes {
                return Comparison::Different;
            }
            let is_settled = entry.modified_ns < listed_at_ns.saturating_sub(DOUBTFUL_NS);
            if is_settled && entry.modified_ns == item.facts.modified_ns {
                return Comparison::Same;
            }
            Comparison::Doubtful(chunks)
        }
        (EntryContent::Directory, ItemKind::Directory) => Comparison::Same,
        (EntryContent::Symlink { target: former }, ItemKind::Symlink { target })
        | (EntryContent::Tablespace { target: former }, ItemKind::Tablespace { target })
            if former == target =>
        {
            Comparison::Same
        }
        _ => Comparison::Different,
    }
}

fn has_same_content(listing: &Listing, item: &Item, chunks: &[ChunkId]) -> anyhow::Result<bool> {
    let file = match listing.open(item) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("open '{}'", item.path)),
    };
    let mut buffer = Vec::new();
    for (chunk, offset) in chunks.iter().zip((0..).step_by(CHUNK_SIZE_BYTES)) {
        read_up_to(&file, offset, item.facts.size_bytes, &mut buffer)
            .with_context(|| format!("read '{}'", item.path))?;
        if ChunkId::of(&buffer) != *chunk {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a path changes without any change to the data: by a checkpoint, a restart, or the backup itself.
fn is_volatile(path: &str) -> bool {
    const FILES: [&str; 6] = [
        super::CONTROL_FILE,
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
