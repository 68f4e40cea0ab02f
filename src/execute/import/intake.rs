//! What is let in: every name judged, every file cut into chunks and stored, nothing believed yet.
//!
//! What comes from elsewhere may be forged. No name leads out of the data directory, nothing lies below a link, and
//! no name comes twice; whatever tries is refused, and with it the whole import.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};

use anyhow::Context;
use rayon::prelude::*;

use super::links;
use crate::error::{Failure, Kind};
use crate::pg::backup_manifest::MANIFEST_FILE;
use crate::pg::layout::{BackupRule, backup_rule};
use crate::pg::wal::{is_history_file, is_segment_name};
use crate::progress::Progress;
use crate::repository::{
    BackupWriter, CHUNK_SIZE_BYTES, ChunkId, ChunkStream, EntryContent, RepositoryError, TableEntry,
    TablePath,
};
use crate::sys::scratch_file;

/// What is read before all cores store it.
const BATCH_SIZE_BYTES: usize = 32 * CHUNK_SIZE_BYTES;
/// A manifest has some 150 bytes a file. What is larger is not even put aside.
const LARGEST_MANIFEST_BYTES: u64 = 1024 * 1024 * 1024;
/// What a manifest has besides its files, and the most that it has of a file besides its path, which may be written as
/// hexadecimal digits.
const MANIFEST_FRAME_BYTES: u64 = 64 * 1024;
const MANIFEST_FILE_BYTES: u64 = 512;
/// A line for each tablespace.
const LARGEST_MAP_BYTES: u64 = 1024 * 1024;
const TABLESPACE_MAP: &str = "tablespace_map";
const TABLESPACES: &str = "pg_tblspc/";
/// What a server of the source would make of a link that a person placed there.
const TABLESPACE_MODE: u32 = 0o700;

/// The failure of an import that will not be, for a reason.
pub(super) fn refused(reason: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Refused, format!("cannot import it: {reason}")).hint("nothing was imported")
}

/// An entry that was found.
pub(super) struct Found {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) modified_ns: i64,
}

/// What was let in so far.
pub(super) struct Intake<'a> {
    writer: &'a BackupWriter<'a>,
    progress: &'a dyn Progress,
    seen: HashSet<String>,
    entries: Vec<TableEntry>,
    /// Until all files are known, it is on disk: an archive of a megabyte may hold a gigabyte of it.
    manifest: Option<File>,
    /// What `tablespace_map` says: numbers, and where each tablespace was.
    tablespaces: BTreeMap<String, String>,
}

/// All that was let in.
pub(super) struct Taken {
    pub(super) entries: Vec<TableEntry>,
    pub(super) manifest: Option<Vec<u8>>,
    /// The numbers of the tablespaces that `tablespace_map` names.
    pub(super) tablespaces: Vec<String>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(writer: &'a BackupWriter<'a>, progress: &'a dyn Progress) -> Self {
        let (seen, tablespaces) = (HashSet::new(), BTreeMap::new());
        Self { writer, progress, seen, entries: Vec::new(), manifest: None, tablespaces }
    }

    /// Judges what only all of it together shows.
    pub(super) fn finish(mut self) -> anyhow::Result<Taken> {
        if let Some((path, target)) = links::first_that_leads_outside(&self.entries) {
            let reason = format!("'{path}' is a symbolic link that leads out of it, to '{target}'");
            return Err(refused(reason).into());
        }
        let manifest = self.manifest.take().map(|file| self.read_manifest(file)).transpose()?;
        Ok(Taken { entries: self.entries, manifest, tablespaces: self.tablespaces.into_keys().collect() })
    }

    /// Reads the manifest, which is no longer than its files make it.
    fn read_manifest(&self, mut file: File) -> anyhow::Result<Vec<u8>> {
        let of_file = |path: &String| 2 * path.len() as u64 + MANIFEST_FILE_BYTES;
        let largest_bytes = MANIFEST_FRAME_BYTES + self.seen.iter().map(of_file).sum::<u64>();
        let size_bytes = file.metadata().context("read the manifest")?.len();
        if size_bytes > largest_bytes {
            return Err(refused("its backup_manifest has more than the files that are in it").into());
        }
        let mut bytes = Vec::new();
        file.rewind().context("read the manifest")?;
        file.take(largest_bytes).read_to_end(&mut bytes).context("read the manifest")?;
        Ok(bytes)
    }

    pub(super) fn add_directory(&mut self, found: &Found) -> anyhow::Result<()> {
        let path = self.admit(found)?;
        if rule(&found.path) == BackupRule::Skip {
            return Ok(());
        }
        self.push(path, found, EntryContent::Directory);
        Ok(())
    }

    /// A link to a tablespace may lead anywhere: it becomes a directory. Any other must stay in the tree.
    pub(super) fn add_link(&mut self, found: Found, target: String) -> anyhow::Result<()> {
        let path = self.admit(&found)?;
        let is_tablespace = found.path.strip_prefix(TABLESPACES).is_some_and(is_number);
        if is_tablespace {
            let found = Found { mode: TABLESPACE_MODE, ..found };
            self.push(path, &found, EntryContent::Tablespace { target });
            return Ok(());
        }
        if links::leads_outside(&found.path, &target, &BTreeMap::new()) {
            let reason = format!("'{}' is a symbolic link that leads out of it, to '{target}'", found.path);
            return Err(refused(reason).into());
        }
        if rule(&found.path) == BackupRule::Copy {
            self.push(path, &found, EntryContent::Symlink { target });
        }
        Ok(())
    }

    pub(super) fn add_file(
        &mut self,
        found: &Found,
        size_bytes: u64,
        content: &mut dyn Read,
    ) -> anyhow::Result<()> {
        let path = self.admit(found)?;
        if found.path == MANIFEST_FILE {
            return self.take_manifest(size_bytes, content);
        }
        if rule(&found.path) != BackupRule::Copy {
            return Ok(());
        }
        let chunks = if found.path == TABLESPACE_MAP {
            let text = self.take_tablespace_map(content)?;
            self.store(size_bytes, &mut text.as_bytes())
        } else {
            self.store(size_bytes, content)
        };
        let chunks = self.writer.keep(chunks.with_context(|| format!("import '{path}'"))?);
        self.push(path, found, EntryContent::File { size_bytes, chunks });
        Ok(())
    }

    /// Makes room for the archive of a tablespace, whose link archives leave to `tablespace_map`.
    pub(super) fn add_tablespace(&mut self, number: &str) -> anyhow::Result<()> {
        let path = format!("{TABLESPACES}{number}");
        if self.seen.contains(&path) {
            return Ok(());
        }
        let target = self.tablespaces.get(number).cloned();
        let target =
            target.ok_or_else(|| refused(format!("no tablespace {number} is in its tablespace_map")))?;
        self.add_link(Found { path, mode: TABLESPACE_MODE, modified_ns: 0 }, target)
    }

    /// Reads lines of a number and a path, with a backslash before line ends in it (xlogrecovery.c,
    /// `read_tablespace_map()`).
    fn take_tablespace_map(&mut self, content: &mut dyn Read) -> anyhow::Result<String> {
        let mut text = String::new();
        content.take(LARGEST_MAP_BYTES).read_to_string(&mut text).context("read the tablespace_map")?;
        for line in text.lines() {
            let (number, path) = line
                .split_once(' ')
                .filter(|(number, _)| is_number(number))
                .ok_or_else(|| refused("its tablespace_map makes no sense"))?;
            self.tablespaces.insert(number.to_owned(), path.replace("\\\\", "\\"));
        }
        Ok(text)
    }

    /// Takes a manifest that lies beside archives.
    pub(super) fn take_manifest(&mut self, size_bytes: u64, content: &mut dyn Read) -> anyhow::Result<()> {
        if size_bytes > LARGEST_MANIFEST_BYTES {
            return Err(refused("its backup_manifest is larger than 1 GiB").into());
        }
        let mut file = scratch_file(&std::env::temp_dir()).context("put the manifest aside")?;
        io::copy(&mut content.take(size_bytes), &mut file).context("read the manifest")?;
        self.manifest = Some(file);
        Ok(())
    }

    /// Judges a name, whatever is to become of the entry.
    fn admit(&mut self, found: &Found) -> anyhow::Result<TablePath> {
        let path = TablePath::try_from(found.path.clone()).map_err(refused)?;
        if !self.seen.insert(found.path.clone()) {
            return Err(refused(format!("'{path}' is in it twice")).into());
        }
        Ok(path)
    }

    fn push(&mut self, path: TablePath, found: &Found, content: EntryContent) {
        self.entries.push(TableEntry { path, mode: found.mode, modified_ns: found.modified_ns, content });
    }

    fn store(&self, size_bytes: u64, content: &mut dyn Read) -> anyhow::Result<Vec<ChunkId>> {
        let mut content = content.take(size_bytes);
        let stream = ChunkStream::default();
        let (mut chunks, mut batch) = (Vec::new(), Vec::new());
        let mut left_bytes = size_bytes;
        while left_bytes > 0 {
            batch.clear();
            (&mut content).take(BATCH_SIZE_BYTES as u64).read_to_end(&mut batch).context("read it")?;
            if batch.is_empty() {
                return Err(refused("it ends before its end").into());
            }
            left_bytes = left_bytes.saturating_sub(batch.len() as u64);
            let stored: Vec<ChunkId> = batch
                .par_chunks(CHUNK_SIZE_BYTES)
                .map(|chunk| self.writer.store_chunk(&stream, chunk))
                .collect::<Result<_, RepositoryError>>()?;
            chunks.extend(stored);
            self.progress.advance(batch.len() as u64);
        }
        Ok(chunks)
    }
}

/// Whether a text is the number of a tablespace.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What is kept: what a backup keeps, and what makes it one.
fn rule(path: &str) -> BackupRule {
    let is_wal = |name: &str| is_segment_name(name) || is_history_file(name);
    let is_needed =
        matches!(path, "backup_label" | "tablespace_map") || path.strip_prefix("pg_wal/").is_some_and(is_wal);
    if is_needed { BackupRule::Copy } else { backup_rule(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_backup_is_kept_and_what_a_server_left_is_not() {
        for path in ["backup_label", "tablespace_map", "pg_wal/000000010000000000000002", "base/5/16384"] {
            assert_eq!(rule(path), BackupRule::Copy, "{path}");
        }
        for path in
            ["postmaster.pid", "standby.signal", "pg_wal/xlogtemp.12", ".pgbox/lock", "pg_notify/0000"]
        {
            assert_eq!(rule(path), BackupRule::Skip, "{path}");
        }
    }
}
