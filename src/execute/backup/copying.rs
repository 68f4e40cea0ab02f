//! Copies listed files into a backup, in parallel: whole files side by side, and the parts of large ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use rayon::prelude::*;

use super::former::Former;
use super::listing::{Item, ItemKind, Listing, Rules, is_somebodys};
use super::pages::PageFile;
use crate::cluster::control_file;
use crate::pg::control_file::{CONTROL_FILE, ControlFile};
use crate::pg::page::PageRules;
use crate::plan::DamagedPage;
use crate::progress::Progress;
use crate::repository::{
    BackupWriter, CHUNK_SIZE_BYTES, ChunkId, ChunkStream, EntryContent, TableEntry, TablePath,
};
use crate::sys::ReadRoot;

/// What one thread copies of a large file before others may take over.
const PART_SIZE_BYTES: u64 = 32 * CHUNK_SIZE_BYTES as u64;

/// What was copied, in no order.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) entries: Vec<TableEntry>,
    pub(super) damaged_pages: Vec<DamagedPage>,
    pub(super) unreadable: Vec<String>,
    /// What was not read, since a former backup has it.
    pub(super) reused_bytes: u64,
}

impl Copied {
    fn add(&mut self, copy: ItemCopy) {
        match copy {
            ItemCopy::Entry(entry, damaged_pages) => {
                self.entries.push(entry);
                self.damaged_pages.extend(damaged_pages);
            }
            ItemCopy::Reused(entry) => {
                self.reused_bytes += entry.size_bytes();
                self.entries.push(entry);
            }
            ItemCopy::Vanished => {}
            ItemCopy::Unreadable(what) => self.unreadable.push(what),
        }
    }
}

/// Copies the files of a listing.
#[derive(Clone, Copy)]
pub(super) struct Copier<'a> {
    pub(super) writer: &'a BackupWriter<'a>,
    pub(super) listing: &'a Listing,
    pub(super) pages: Option<PageRules>,
    /// A former backup, whose files are taken over where they are still the same.
    pub(super) known: Option<&'a Former<'a>>,
    pub(super) rules: Rules,
    pub(super) progress: &'a dyn Progress,
    pub(super) abort: &'a AtomicBool,
}

/// What became of one item.
enum ItemCopy {
    Entry(TableEntry, Vec<DamagedPage>),
    Reused(TableEntry),
    Vanished,
    Unreadable(String),
}

/// A stretch of a file, as far as it was there.
#[derive(Default)]
struct PartCopy {
    chunks: Vec<ChunkId>,
    size_bytes: u64,
    damaged_pages: Vec<DamagedPage>,
}

impl Copier<'_> {
    /// Copies everything but, from a running server, the control file, which comes last.
    pub(super) fn copy_all(&self) -> anyhow::Result<Copied> {
        let is_due = |item: &&Item| self.rules == Rules::Cold || item.path.as_str() != CONTROL_FILE;
        let entries = Vec::with_capacity(self.listing.items.len());
        let total = Mutex::new(Copied { entries, ..Copied::default() });
        self.listing.items.par_iter().filter(is_due).try_for_each(|item| {
            let copy = self.copy(item)?;
            total.lock().unwrap_or_else(PoisonError::into_inner).add(copy);
            anyhow::Ok(())
        })?;
        let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        total.unreadable.sort_unstable();
        Ok(total)
    }

    fn copy(&self, item: &Item) -> anyhow::Result<ItemCopy> {
        let content = match &item.kind {
            ItemKind::File => return self.copy_file(item),
            ItemKind::Directory => EntryContent::Directory,
            ItemKind::Symlink { target } => EntryContent::Symlink { target: target.clone() },
            ItemKind::Tablespace { target } => EntryContent::Tablespace { target: target.clone() },
        };
        Ok(ItemCopy::Entry(entry(item, content), Vec::new()))
    }

    /// The former backup's file, if it is still the same and the repository still has all of it.
    fn reuse(&self, item: &Item) -> Option<TableEntry> {
        let former = self.known?.unchanged_file(item)?;
        let EntryContent::File { chunks, .. } = &former.content else { return None };
        // One whose list cannot be read back is copied anew.
        let is_stored =
            chunks.load().is_ok_and(|chunks| chunks.iter().all(|chunk| self.writer.has_chunk(chunk)));
        if !is_stored {
            return None;
        }
        self.progress.advance(item.facts.size_bytes);
        Some(entry(item, former.content.clone()))
    }

    fn copy_file(&self, item: &Item) -> anyhow::Result<ItemCopy> {
        if let Some(entry) = self.reuse(item) {
            return Ok(ItemCopy::Reused(entry));
        }
        match self.listing.open(item) {
            Ok(file) => match self.copy_parts(&file, item) {
                Ok(copy) => Ok(copy),
                Err(error) if self.rules == Rules::Cold && is_read_error(&error) => {
                    Ok(ItemCopy::Unreadable(format!("{}: {error:#}", item.path)))
                }
                Err(error) => Err(error),
            },
            // Dropped since it was listed; the WAL says so too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ItemCopy::Vanished),
            Err(error) if self.rules == Rules::Cold || is_somebodys(item.path.as_str(), &error) => {
                Ok(ItemCopy::Unreadable(format!("{}: {error}", item.path)))
            }
            Err(error) => Err(error).with_context(|| format!("open '{}'", item.path)),
        }
    }

    /// Copies no more than was there when the file was listed: what it grew since comes from the WAL.
    fn copy_parts(&self, file: &File, item: &Item) -> anyhow::Result<ItemCopy> {
        let listed = item.facts.size_bytes;
        let stream = ChunkStream::default();
        let parts: Vec<PartCopy> = if listed <= PART_SIZE_BYTES {
            vec![self.copy_part(file, item, 0, &stream)?]
        } else {
            let part_count = listed.div_ceil(PART_SIZE_BYTES);
            let copy = |number| self.copy_part(file, item, number * PART_SIZE_BYTES, &stream);
            (0..part_count).into_par_iter().map(copy).collect::<anyhow::Result<_>>()?
        };
        let mut whole = PartCopy::default();
        for part in parts {
            whole.chunks.extend(part.chunks);
            whole.size_bytes += part.size_bytes;
            whole.damaged_pages.extend(part.damaged_pages);
            // It was cut short meanwhile. What follows is what it grew again, and that is in the WAL.
            if !whole.size_bytes.is_multiple_of(PART_SIZE_BYTES) || part.size_bytes == 0 {
                break;
            }
        }
        let chunks = self.writer.keep(whole.chunks);
        let content = EntryContent::File { size_bytes: whole.size_bytes, chunks };
        Ok(ItemCopy::Entry(entry(item, content), whole.damaged_pages))
    }

    fn copy_part(
        &self,
        file: &File,
        item: &Item,
        begin: u64,
        stream: &ChunkStream,
    ) -> anyhow::Result<PartCopy> {
        let page_file = self.pages.and_then(|rules| {
            Some(PageFile { file, path: &item.path, pages: rules.pages_of(item.path.as_str())? })
        });
        let end = item.facts.size_bytes.min(begin.saturating_add(PART_SIZE_BYTES));
        let mut part = PartCopy::default();
        let mut buffer = Vec::new();
        for offset in (begin..end).step_by(CHUNK_SIZE_BYTES) {
            if self.abort.load(Ordering::Relaxed) {
                bail!("the backup was given up");
            }
            read_up_to(file, offset, end, &mut buffer)
                .map_err(|source| ReadError(item.path.to_string(), source))?;
            if buffer.is_empty() {
                break;
            }
            if let Some(page_file) = &page_file {
                part.damaged_pages.extend(page_file.check(offset, &mut buffer));
            }
            part.chunks.push(self.writer.store_chunk(stream, &buffer)?);
            part.size_bytes += buffer.len() as u64;
            self.progress.advance(buffer.len() as u64);
            if buffer.len() < CHUNK_SIZE_BYTES {
                break;
            }
        }
        Ok(part)
    }
}

/// A file could not be read, as opposed to: the repository could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not read '{0}'")]
struct ReadError(String, #[source] io::Error);

fn is_read_error(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ReadError>().is_some()
}

/// Reads the chunk at `offset` into `buffer`, as far as the file goes and not past `end`.
pub(in crate::execute) fn read_up_to(
    file: &File,
    offset: u64,
    end: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let wanted = end.saturating_sub(offset).min(CHUNK_SIZE_BYTES as u64);
    buffer.resize(usize::try_from(wanted).unwrap_or(CHUNK_SIZE_BYTES), 0);
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

fn entry(item: &Item, content: EntryContent) -> TableEntry {
    let (mode, modified_ns) = (item.facts.mode, item.facts.modified_ns);
    TableEntry { path: item.path.clone(), mode, modified_ns, content }
}

/// Stores a file that is not in the data directory, such as the backup label.
pub(super) fn store_bytes(
    writer: &BackupWriter<'_>,
    path: TablePath,
    bytes: &[u8],
) -> anyhow::Result<TableEntry> {
    let stream = ChunkStream::default();
    let store = |chunk| writer.store_chunk(&stream, chunk);
    let chunks = bytes.chunks(CHUNK_SIZE_BYTES).map(store).collect::<Result<_, _>>()?;
    let content = EntryContent::File { size_bytes: bytes.len() as u64, chunks: writer.keep(chunks) };
    let modified_ns = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    Ok(TableEntry { path, mode: 0o600, modified_ns, content })
}

/// Copies the control file, which comes last of all files (PostgreSQL: `perform_base_backup()` in basebackup.c).
pub(super) fn copy_control_file(
    data: &ReadRoot,
    writer: &BackupWriter<'_>,
) -> anyhow::Result<(TableEntry, ControlFile)> {
    let (bytes, control) = control_file::read_served(data).context("read the control file")?;
    let entry = store_bytes(writer, CONTROL_FILE.to_owned().try_into()?, &bytes)?;
    Ok((entry, control))
}
