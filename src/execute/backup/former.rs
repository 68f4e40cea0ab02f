//! What the newest good backup of a cluster holds, for the next one: which files are still what they were.
//!
//! A file of the same size and modification time is the same, unless that time is so near to the former listing, or so
//! far ahead of it, that it may have changed again unnoticed; and unless anything about the file changed since that
//! listing: whoever puts a file in its place, or sets the time back, cannot set that back (inode(7), ctime). A copy of the
//! cluster, or one that was given to another user, is read once, therefore. After a checkpoint everything that was committed is in the
//! files, and whatever writes a file sets its time. A lost or turned-back clock makes times lie ahead, and is met by the
//! same rule: what lies ahead is read. A restore begins a timeline of its own, and after one everything is read.
//!
//! The refused alternative was the LSN of each page: hint bits and forks without WAL change pages and not their LSN, and
//! every page would have to be read for it.

use std::collections::HashMap;

use anyhow::Context;

use super::listing::{Item, ItemKind};
use crate::pg::control_file::ControlFile;
use crate::plan::{BackupFormat, BackupKind, BackupSummary};
use crate::repository::{BackupReader, Baseline, ChunkId, ChunkList, EntryContent, Repository, TableEntry};
use crate::sys::FileFacts;

/// Modification times are only as fine as the kernel's clock ticks, and of some file systems as whole seconds.
const DOUBTFUL_NS: i64 = 2_000_000_000;

/// The files of a former backup, by path.
#[derive(Debug)]
pub(in crate::execute) struct Former<'a> {
    backup: &'a BackupReader,
    baseline: Baseline,
    entries: HashMap<&'a str, &'a TableEntry>,
}

/// What can be said of a listed file without reading it.
pub(super) enum Comparison<'a> {
    /// It is the file of the former backup.
    Same,
    /// It is another, or was not there.
    Different,
    /// Only its content tells: these are the former one's chunks.
    Doubtful(&'a ChunkList),
}

/// Opens the newest good backup of a cluster; `None` when there is none, or it cannot be read.
pub(in crate::execute) fn newest_comparable(
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

impl<'a> Former<'a> {
    /// The files of `backup`; `None` where its times say nothing about the cluster as it is now, which has been
    /// restored since, or where it was made without a listing to compare with.
    pub(in crate::execute) fn of(backup: &'a BackupReader, control: &ControlFile) -> Option<Self> {
        if backup.summary().timeline != Some(control.timeline) {
            return None;
        }
        let baseline = backup.header().baseline?;
        let entries = backup.entries().iter().map(|entry| (entry.path.as_str(), entry)).collect();
        Some(Self { backup, baseline, entries })
    }

    /// What was known of the cluster when the former backup was made.
    pub(super) fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// The name that a piece of a file has as a chunk.
    pub(super) fn chunk_id(&self, raw: &[u8]) -> ChunkId {
        self.backup.chunk_id(raw)
    }

    /// The paths of all its entries.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Compares a listed entry with the former one of the same path.
    pub(super) fn compare(&self, item: &Item) -> Comparison<'a> {
        let Some(entry) = self.entries.get(item.path.as_str()).copied() else { return Comparison::Different };
        match (&entry.content, &item.kind) {
            (EntryContent::File { size_bytes, chunks }, ItemKind::File) => {
                if *size_bytes != item.facts.size_bytes {
                    return Comparison::Different;
                }
                if self.is_unchanged_since(entry, &item.facts) {
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

    /// The former entry of a file that needs not be read.
    pub(super) fn unchanged_file(&self, item: &Item) -> Option<&'a TableEntry> {
        if item.kind != ItemKind::File {
            return None;
        }
        self.unchanged(item.path.as_str(), &item.facts)
    }

    /// The former entry of a file at `path` that is still what it was, going by its size and time.
    pub(in crate::execute) fn unchanged(&self, path: &str, facts: &FileFacts) -> Option<&'a TableEntry> {
        let entry = self.entries.get(path).copied()?;
        let EntryContent::File { size_bytes, .. } = &entry.content else { return None };
        let is_same = *size_bytes == facts.size_bytes && self.is_unchanged_since(entry, facts);
        is_same.then_some(entry)
    }

    fn is_unchanged_since(&self, entry: &TableEntry, facts: &FileFacts) -> bool {
        let is_settled = entry.modified_ns < self.baseline.listed_at_ns.saturating_sub(DOUBTFUL_NS);
        is_settled && entry.modified_ns == facts.modified_ns && facts.changed_ns < self.baseline.listed_at_ns
    }
}
