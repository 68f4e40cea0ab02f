//! Changes the files of a data directory into those of a backup, writing only what differs.
//!
//! The control file goes first and comes last, so that no server can start in between; PostgreSQL refuses a directory
//! without one. Chunks that differ are written into the present files, since a relation of which a few rows changed is one
//! file of up to a gigabyte: to write it anew beside would take as long, and as much room, as a full restore. Whatever
//! ends this in the middle leaves files that are neither the one nor the other; whoever comes next compares every one
//! of them by its content, so that it does not matter how far this got. No time of modification is set: what was
//! written is new, and a later look at sizes and times must not take it for something older.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rayon::prelude::*;

use super::present::{self, PresentEntry};
use super::target::{Goal, Target, Wanted};
use crate::cluster::seal;
use crate::execute::backup::copying::read_up_to;
use crate::execute::backup::worker_pool;
use crate::execute::restored_layout::AUTO_CONFIGURATION;
use crate::pg::control_file::{self, CONTROL_FILE};
use crate::plan::delta::Amount;
use crate::progress::Progress;
use crate::repository::{
    BackupReader, CHUNK_SIZE_BYTES, ChunkId, ChunkList, EntryContent, FileReader, TableEntry,
};
use crate::sys::{EntryKind, FileFacts, WriteRoot, step_point};

/// Where the control file is while the others are changed, for a person who wants to look at it.
pub(super) const FORMER_CONTROL_FILE: &str = ".pgbox/former_pg_control";
/// Where what is to be removed is moved first: only what is pgbox's own can be removed.
const REMOVED: &str = ".pgbox/removed";
/// More than so many files are faster put on disk with the whole file system.
const MOST_SYNCED_ONE_BY_ONE: usize = 512;
/// How many chunks of a large file one thread compares before others may take over.
const CHUNKS_PER_PART: usize = 32;

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rewritten {
    /// Files of which anything was written, and how much.
    pub(super) written: Amount,
    /// All files, and their size.
    pub(super) whole: Amount,
    /// Entries that the backup does not have, directories counted as one.
    pub(super) removed_count: u64,
}

/// A data directory that is being changed.
pub(super) struct Rewriting<'a> {
    pub(super) root: &'a WriteRoot,
    pub(super) target: Target<'a>,
    /// What the present files hold: what was stored of them a moment ago. `None`: they are read.
    pub(super) known: Option<&'a BackupReader>,
    pub(super) progress: &'a dyn Progress,
    pub(super) durability: Durability,
    /// The files that were written, and the directories in which names came or went.
    touched: Mutex<BTreeSet<PathBuf>>,
}

/// What has to be put on disk before the control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// What is written now: all else is there since the server stopped cleanly. To sync the whole file system would be
    /// to wait for whatever others write to it.
    Written,
    /// Everything: a run that was cut short, or a server that crashed, may have left files that are not on disk yet.
    Everything,
}

impl<'a> Rewriting<'a> {
    pub(super) fn new(
        root: &'a WriteRoot,
        target: Target<'a>,
        known: Option<&'a BackupReader>,
        progress: &'a dyn Progress,
        durability: Durability,
    ) -> Self {
        Self { root, target, known, progress, durability, touched: Mutex::default() }
    }

    /// Has a file or a directory put on disk with the others.
    pub(super) fn note_touched(&self, path: &Path) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf());
    }

    /// Names came to the directory of `path`, or went.
    fn note_directory_of(&self, path: &str) {
        let directory = Path::new(path).parent().filter(|directory| *directory != Path::new(""));
        self.note_touched(directory.unwrap_or(Path::new(".")));
    }

    /// Puts all that was written on disk.
    pub(super) fn put_on_disk(&self) -> anyhow::Result<()> {
        self.sync_touched()?;
        step_point("the files on disk");
        Ok(())
    }

    fn sync_touched(&self) -> anyhow::Result<()> {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durability == Durability::Everything || touched.len() > MOST_SYNCED_ONE_BY_ONE {
            return self.root.sync_file_system().context("write the changed files to disk");
        }
        // A directory that was removed itself has its name in one that is here, too.
        let sync = |path: &PathBuf| match self.root.sync_entry(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.with_context(|| format!("write '{}' to disk", path.display())),
        };
        worker_pool(None)?.install(|| touched.par_iter().try_for_each(sync))
    }

    /// Changes everything but the control file, and puts it on disk as far as the file system can be asked to. The
    /// caller adds what the first start needs, and then calls [`Rewriting::put_on_disk`] and
    /// [`Rewriting::write_control_file`].
    ///
    /// # Errors
    /// The file that failed and why; [`crate::repository::RepositoryError::Damaged`] in the chain when the backup is
    /// not what was stored.
    pub(super) fn change_files(&self) -> anyhow::Result<Rewritten> {
        self.take_control_file_away()?;
        let wanted = self.target.wanted();
        let removed_count = self.remove_all_but(&wanted)?;
        let present = present::list(self.root)?;
        let facts: HashMap<&str, &FileFacts> =
            present.iter().map(|entry| (entry.path.as_str(), &entry.facts)).collect();
        self.make_directories_and_links(&wanted, &facts)?;
        let files = Files {
            rewriting: self,
            facts: &facts,
            known: self.known_chunks(),
            has_begun: AtomicBool::new(false),
        };
        let rewritten = files.write_all(&wanted)?;
        if let (Goal::Restored, Some(text)) = (self.target.goal, self.target.layout().auto_configuration()?) {
            self.root
                .write_durably(AUTO_CONFIGURATION, &text, 0o600)
                .with_context(|| format!("restore '{AUTO_CONFIGURATION}'"))?;
        }
        step_point("the files written");
        Ok(Rewritten { removed_count, ..rewritten })
    }

    /// Puts the control file in place, once all else is on disk and the journal says so: from now on a server can start.
    pub(super) fn write_control_file(&self) -> anyhow::Result<()> {
        let reader = self.target.reader;
        let name = reader.summary().name;
        let entry = reader.entry(CONTROL_FILE).with_context(|| format!("find the control file in {name}"))?;
        let bytes = reader
            .read_file(CONTROL_FILE, control_file::FILE_SIZE_BYTES as u64)?
            .with_context(|| format!("read the control file in {name}"))?;
        let mode = self.target.layout().mode(entry);
        self.root.write_durably(CONTROL_FILE, &bytes, mode).context("put the control file in place")?;
        self.root.discard(FORMER_CONTROL_FILE).context("remove the former control file")?;
        step_point("the control file in place");
        Ok(())
    }

    fn take_control_file_away(&self) -> anyhow::Result<()> {
        let root = self.root;
        // It would be of other files.
        seal::remove(root).context("remove the seal of the last stop")?;
        if root.facts(CONTROL_FILE)?.is_some() {
            root.rename(CONTROL_FILE, FORMER_CONTROL_FILE).context("take the control file away")?;
            root.sync_directory("global").context("take the control file away")?;
        }
        step_point("the control file taken away");
        Ok(())
    }

    /// Removes what is not to be there, or is to be something else. All of it is in the repository.
    fn remove_all_but(&self, wanted: &BTreeMap<&str, Wanted>) -> anyhow::Result<u64> {
        let root = self.root;
        root.discard(REMOVED).context("remove what an interrupted run had moved away")?;
        root.create_directory(REMOVED, 0o700).context("make room for what is removed")?;
        let mut removed_count = 0;
        let mut last: Option<String> = None;
        for entry in present::list(root)? {
            let is_in_last = last.as_ref().is_some_and(|last| Path::new(&entry.path).starts_with(last));
            if is_in_last || is_kept(&entry, wanted, root)? {
                continue;
            }
            root.rename(&entry.path, Path::new(REMOVED).join(removed_count.to_string()))
                .with_context(|| format!("remove '{}'", entry.path))?;
            self.note_directory_of(&entry.path);
            removed_count += 1;
            last = Some(entry.path);
        }
        step_point("what is not in it moved away");
        root.discard(REMOVED).context("remove what is not in the backup")?;
        step_point("what is not in it removed");
        Ok(removed_count)
    }

    fn make_directories_and_links(
        &self,
        wanted: &BTreeMap<&str, Wanted>,
        facts: &HashMap<&str, &FileFacts>,
    ) -> anyhow::Result<()> {
        let root = self.root;
        root.set_own_mode(self.target.layout().directory_mode())
            .context("set the mode of the data directory")?;
        for (path, wanted) in wanted {
            if !facts.contains_key(path) {
                self.note_directory_of(path);
            }
            match (wanted, facts.get(path)) {
                (Wanted::Directory { mode }, Some(present)) if present.mode != *mode => {
                    root.set_mode(path, *mode)
                }
                (Wanted::Directory { mode }, None) => root.create_directory(path, *mode),
                (Wanted::Symlink { target }, None) => root.create_symlink(target, path),
                _ => Ok(()),
            }
            .with_context(|| format!("restore '{path}'"))?;
        }
        Ok(())
    }

    /// The chunks of the present files, by path.
    fn known_chunks(&self) -> HashMap<&str, (u64, &ChunkList)> {
        let entries = self.known.map_or(&[][..], BackupReader::entries);
        entries
            .iter()
            .filter_map(|entry| match &entry.content {
                EntryContent::File { size_bytes, chunks } => {
                    Some((entry.path.as_str(), (*size_bytes, chunks)))
                }
                _ => None,
            })
            .collect()
    }
}

/// Whether an entry is of the kind that is wanted in its place, so that at most its content has to change.
fn is_kept(entry: &PresentEntry, wanted: &BTreeMap<&str, Wanted>, root: &WriteRoot) -> anyhow::Result<bool> {
    Ok(match (wanted.get(entry.path.as_str()), entry.facts.kind) {
        (Some(Wanted::File { .. }), EntryKind::File)
        | (Some(Wanted::Directory { .. }), EntryKind::Directory) => true,
        (Some(Wanted::Symlink { target }), EntryKind::Symlink) => {
            let present =
                root.read_link(&entry.path).with_context(|| format!("read the link '{}'", entry.path))?;
            present == PathBuf::from(target)
        }
        _ => false,
    })
}

/// The files of a target, being written.
struct Files<'a> {
    rewriting: &'a Rewriting<'a>,
    facts: &'a HashMap<&'a str, &'a FileFacts>,
    known: HashMap<&'a str, (u64, &'a ChunkList)>,
    /// Whether any file was written.
    has_begun: AtomicBool,
}

/// A file that is to be there.
#[derive(Clone, Copy)]
struct WantedFile<'a> {
    entry: &'a TableEntry,
    size_bytes: u64,
    chunks: &'a ChunkList,
}

/// What is known of the present content.
enum Content<'a> {
    /// There is none.
    Absent,
    /// These are its chunks.
    Known(Cow<'a, [ChunkId]>),
    /// It has to be read.
    Unknown { size_bytes: u64 },
}

impl Files<'_> {
    fn write_all(&self, wanted: &BTreeMap<&str, Wanted>) -> anyhow::Result<Rewritten> {
        let files: Vec<WantedFile> = wanted
            .values()
            .filter_map(|wanted| match wanted {
                Wanted::File { entry, size_bytes, chunks } => {
                    Some(WantedFile { entry, size_bytes: *size_bytes, chunks })
                }
                _ => None,
            })
            .collect();
        self.cut(&files)?;
        let total_bytes = files.iter().map(|file| file.size_bytes).sum();
        self.rewriting.progress.begin("changing files", Some(total_bytes));
        let write =
            |file: &WantedFile| self.write(*file).with_context(|| format!("restore '{}'", file.entry.path));
        let written = worker_pool(None).and_then(|pool| {
            pool.install(|| files.par_iter().map(write).collect::<anyhow::Result<Vec<u64>>>())
        });
        self.rewriting.progress.end();
        let mut rewritten = Rewritten::default();
        for (file, written_bytes) in files.iter().zip(written?) {
            rewritten.whole.add(file.size_bytes);
            if written_bytes > 0 {
                rewritten.written.add(written_bytes);
            }
        }
        Ok(rewritten)
    }

    /// Cuts the files that are too long, so that their room is free before others grow.
    fn cut(&self, files: &[WantedFile]) -> anyhow::Result<()> {
        for file in files {
            let path = file.entry.path.as_str();
            if self.facts.get(path).is_some_and(|facts| facts.size_bytes > file.size_bytes) {
                let open = self.open(file.entry)?;
                self.rewriting.note_touched(Path::new(path));
                WriteRoot::set_size(&open, file.size_bytes).with_context(|| format!("cut '{path}'"))?;
            }
        }
        Ok(())
    }

    /// Makes one file what it is to be. Returns how many bytes were written.
    fn write(&self, wanted: WantedFile) -> anyhow::Result<u64> {
        let (path, layout) = (wanted.entry.path.as_str(), self.rewriting.target.layout());
        let mode = layout.mode(wanted.entry);
        let facts = self.facts.get(path).copied();
        if facts.is_some_and(|facts| facts.mode != mode) {
            self.rewriting.root.set_mode(path, mode)?;
        }
        let content = self.content_of(path, facts)?;
        let chunks = wanted.chunks.load()?;
        if let Content::Known(known) = &content
            && *known == chunks
        {
            self.rewriting.progress.advance(wanted.size_bytes);
            return Ok(0);
        }
        let file = match &content {
            Content::Absent => self.rewriting.root.create_file(path, mode)?,
            Content::Known(_) | Content::Unknown { .. } => self.open(wanted.entry)?,
        };
        self.rewriting.note_touched(Path::new(path));
        let written_bytes = self.write_chunks((wanted, &chunks), &file, &content)?;
        if written_bytes > 0 && !self.has_begun.swap(true, Ordering::Relaxed) {
            step_point("a file written");
        }
        Ok(written_bytes)
    }

    fn open(&self, entry: &TableEntry) -> anyhow::Result<File> {
        let open = self.rewriting.root.open_to_change(entry.path.as_str());
        open.with_context(|| format!("open '{}' to change it", entry.path))
    }

    fn content_of(&self, path: &str, facts: Option<&FileFacts>) -> anyhow::Result<Content<'_>> {
        let Some(facts) = facts else { return Ok(Content::Absent) };
        Ok(match self.known.get(path) {
            Some((size_bytes, chunks)) if *size_bytes == facts.size_bytes => Content::Known(chunks.load()?),
            _ => Content::Unknown { size_bytes: facts.size_bytes },
        })
    }

    fn write_chunks(
        &self,
        (wanted, chunks): (WantedFile, &[ChunkId]),
        file: &File,
        content: &Content,
    ) -> anyhow::Result<u64> {
        let from = self.rewriting.target.reader.open_file(wanted.entry)?;
        let written = AtomicU64::new(0);
        let chunks = chunks.par_iter().enumerate().with_min_len(CHUNKS_PER_PART);
        chunks.try_for_each_init(Vec::new, |buffer, (number, chunk)| {
            let offset = number as u64 * CHUNK_SIZE_BYTES as u64;
            let is_there = match content {
                Content::Absent => false,
                Content::Known(known) => known.get(number) == Some(chunk),
                Content::Unknown { size_bytes } => {
                    let end = wanted.size_bytes.min(*size_bytes);
                    read_up_to(file, offset, end, buffer).context("read what is there")?;
                    self.rewriting.target.reader.chunk_id(buffer) == *chunk
                }
            };
            if !is_there {
                write_chunk(&from, number, file, buffer)?;
                written.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            }
            let size_bytes = wanted.size_bytes.saturating_sub(offset).min(CHUNK_SIZE_BYTES as u64);
            self.rewriting.progress.advance(size_bytes);
            anyhow::Ok(())
        })?;
        Ok(written.into_inner())
    }
}

fn write_chunk(from: &FileReader, number: usize, file: &File, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    from.read_piece(number, buffer)?;
    Ok(file.write_all_at(buffer, number as u64 * CHUNK_SIZE_BYTES as u64)?)
}
