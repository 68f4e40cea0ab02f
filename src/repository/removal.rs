//! Removing backups, and what nothing refers to any more. What is little referred to, `repack` sees to.
//!
//! A backup leaves the list in one rename, which is made durable before anything of it is deleted. Packs are
//! deleted whole here, and only when the table of every backup that is left could be read: a pack that seems unused may
//! otherwise belong to the one that could not.

use super::document::DOCUMENT_FILE;
use super::error::{RepositoryError, attempting};
use super::index::{list_packs, open_pack};
use super::pack::{PACK_SUFFIX, PACKS, TEMPORARY_SUFFIX, pack_path, read_index};
use super::pins::PIN_SUFFIX;
use super::reader::read_table;
use super::table::{EntryContent, TABLE_FILE};
use super::verdict::VERDICT_FILE;
use super::{ChunkSet, ExclusiveLock, Repository};
use crate::plan::{BackupFormat, BackupName};
use crate::sys::{Entry, EntryKind, step_point};

/// What the directory of a backup is called while it is being deleted.
const REMOVED_PREFIX: &str = "removed_";
/// A part of the names under which `sys` writes durably.
pub(super) const DURABLE_TEMPORARY: &str = ".pgbox-";

/// What a sweep deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// Packs that no backup referred to.
    pub removed_packs: usize,
    /// Packs of which less than half was needed, and that gave way to new ones.
    pub repacked_packs: usize,
    /// What they held that nobody needed.
    pub freed_bytes: u64,
    /// Why packs of which little is needed were left, where there was no room to write new ones.
    pub not_repacked_because: Option<String>,
    /// Unfinished or half-deleted backups.
    pub removed_directories: usize,
    /// Why no packs were looked at, where a backup could not be read.
    pub packs_kept_because: Option<String>,
}

impl Repository {
    /// Removes a backup. Its packs stay until [`Repository::sweep`].
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`] when there is none of that name.
    pub fn remove(&self, _lock: &ExclusiveLock, name: BackupName) -> Result<(), RepositoryError> {
        let directory = name.to_string();
        let path = self.root().path().join(&directory);
        if self.root().facts(&directory).map_err(attempting("read", &path))?.is_none() {
            return Err(self.no_such_backup(name));
        }
        let removed = format!("{REMOVED_PREFIX}{directory}");
        self.root()
            .remove_tree(&removed)
            .and_then(|()| self.root().rename(&directory, &removed))
            .and_then(|()| self.root().sync_directory("."))
            .inspect(|()| step_point("a backup off the list"))
            .and_then(|()| self.root().remove_tree(&removed))
            .inspect(|()| step_point("a backup removed"))
            .map_err(attempting("remove", &path))
    }

    /// Deletes what is left of unfinished and removed backups, and every pack that no backup refers to; of packs that
    /// backups refer to little, what is needed moves to new ones.
    pub fn sweep(&self, _lock: &ExclusiveLock) -> Result<SweepReport, RepositoryError> {
        let mut report = SweepReport::default();
        self.sweep_directories(&mut report)?;
        self.sweep_temporary_packs()?;
        match self.referenced_chunks()? {
            Ok(referenced) => {
                self.sweep_packs(&referenced, &mut report)?;
                self.repack(&referenced, &mut report)?;
            }
            Err(reason) => report.packs_kept_because = Some(reason),
        }
        Ok(report)
    }

    fn sweep_directories(&self, report: &mut SweepReport) -> Result<(), RepositoryError> {
        for entry in self.list_directory(".")? {
            let path = self.root().path().join(&entry.name);
            // What somebody else put there and closed is none of ours, and no reason to stop.
            if entry.facts.kind == EntryKind::Directory
                && self.maker_not_believed(&entry.facts).is_some()
                && self.root().entries(&entry.name).is_err()
            {
                continue;
            }
            if entry.facts.kind == EntryKind::File
                && (entry.name.contains(DURABLE_TEMPORARY) || self.is_pin_of_nothing(&entry.name)?)
            {
                self.root().remove_file(&entry.name).map_err(attempting("remove", &path))?;
            } else if self.is_left_over(&entry)? {
                self.root().remove_tree(&entry.name).map_err(attempting("remove", &path))?;
                report.removed_directories += 1;
                step_point("a left-over removed");
            } else if entry.facts.kind == EntryKind::Directory && entry.name.parse::<BackupName>().is_ok() {
                self.sweep_unfinished_verdicts(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Whether a file is the pin of a backup that a person removed.
    fn is_pin_of_nothing(&self, file: &str) -> Result<bool, RepositoryError> {
        let name = file.strip_suffix(PIN_SUFFIX).filter(|name| name.parse::<BackupName>().is_ok());
        Ok(match name {
            Some(name) => !self.exists(name)?,
            None => false,
        })
    }

    /// What a verification that was killed left under a temporary name.
    fn sweep_unfinished_verdicts(&self, directory: &str) -> Result<(), RepositoryError> {
        let is_left_over = |entry: &&Entry| {
            entry.facts.kind == EntryKind::File
                && entry.name.starts_with(VERDICT_FILE)
                && entry.name.contains(DURABLE_TEMPORARY)
        };
        for entry in self.list_directory(directory)?.iter().filter(is_left_over) {
            let path = format!("{directory}/{}", entry.name);
            self.root().remove_file(&path).map_err(attempting("remove", self.root().path().join(&path)))?;
        }
        Ok(())
    }

    /// Whether a directory is what a cut-short removal or backup of ours left. One that holds anything else, such
    /// as a copy that a script did not finish, is not ours to delete.
    fn is_left_over(&self, entry: &Entry) -> Result<bool, RepositoryError> {
        if entry.facts.kind != EntryKind::Directory {
            return Ok(false);
        }
        let removed_name = entry.name.strip_prefix(REMOVED_PREFIX);
        if removed_name.is_some_and(|name| name.parse::<BackupName>().is_ok()) {
            return Ok(true);
        }
        if entry.name.parse::<BackupName>().is_err() {
            return Ok(false);
        }
        let is_ours = |entry: &Entry| entry.name == TABLE_FILE || entry.name.contains(DURABLE_TEMPORARY);
        let entries = self.list_directory(&entry.name)?;
        Ok(entries.iter().all(|entry| entry.name != DOCUMENT_FILE && is_ours(entry)))
    }

    fn sweep_temporary_packs(&self) -> Result<(), RepositoryError> {
        if self.root().facts(PACKS).map_err(attempting("read", self.root().path().join(PACKS)))?.is_none() {
            return Ok(());
        }
        for entry in self.list_directory(PACKS)? {
            if entry.name.ends_with(TEMPORARY_SUFFIX) && !entry.name.ends_with(PACK_SUFFIX) {
                let path = format!("{PACKS}/{}", entry.name);
                self.root()
                    .remove_file(&path)
                    .map_err(attempting("remove", self.root().path().join(&path)))?;
            }
        }
        Ok(())
    }

    /// The chunks of all backups, or why they are not known.
    fn referenced_chunks(&self) -> Result<Result<ChunkSet, String>, RepositoryError> {
        let mut referenced = self.chunk_set();
        for summary in self.backups()?.iter().filter(|summary| summary.format == BackupFormat::Chunked) {
            let table = match read_table(self.root(), self.encryption(), summary.name) {
                Ok(table) => table,
                Err(error) => {
                    return Ok(Err(format!("the backup {} could not be read: {error}", summary.name)));
                }
            };
            for entry in &table.entries {
                if let EntryContent::File { chunks, .. } = &entry.content {
                    referenced.extend(&chunks.load()?);
                }
            }
        }
        referenced.compact();
        Ok(Ok(referenced))
    }

    fn sweep_packs(&self, referenced: &ChunkSet, report: &mut SweepReport) -> Result<(), RepositoryError> {
        for id in list_packs(self.root())? {
            let file = open_pack(self.root(), &id)?;
            // What a pack with a damaged index holds is not known, and may be all that is left of something.
            let Ok(index) = read_index(&file, self.encryption()) else { continue };
            if referenced.has_any_of(&index.entries)? {
                continue;
            }
            let path = self.root().path().join(pack_path(&id));
            let size_bytes = file.metadata().map_err(attempting("read", &path))?.len();
            self.root().remove_file(pack_path(&id)).map_err(attempting("remove", &path))?;
            report.removed_packs += 1;
            report.freed_bytes += size_bytes;
            step_point("a pack swept");
        }
        Ok(())
    }

    fn list_directory(&self, path: &str) -> Result<Vec<Entry>, RepositoryError> {
        self.root().entries(path).map_err(attempting("list", self.root().path().join(path)))
    }
}
