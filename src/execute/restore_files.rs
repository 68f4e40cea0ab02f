//! Writes the files of a backup into a directory, in parallel, every chunk verified.
//!
//! What comes out is a data directory that a server can be started on, and nothing else (`restored_layout`). Which
//! backup it is and what becomes of the present data is decided elsewhere.

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rayon::prelude::*;

use super::made_tablespace::MadeTablespace;
use super::restored_layout::{AUTO_CONFIGURATION, Layout};
use crate::progress::Progress;
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, EntryContent, TableEntry};
use crate::sys::WriteRoot;

/// How many pieces of a large file one thread writes before others may take over.
const PIECES_PER_PART: usize = 32;

pub use super::restored_layout::RestoredTablespace;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredFiles {
    /// How many files.
    pub file_count: u64,
    /// Their size.
    pub size_bytes: u64,
    /// The tablespaces that were outside the data directory, and are inside it now.
    pub tablespaces: Vec<RestoredTablespace>,
}

/// Writes the files of a backup below `into`, a path within `root` that must not hold any of them yet. When this
/// returns, they are on disk.
///
/// # Errors
/// The file that failed and why; [`crate::repository::RepositoryError::Damaged`] in the chain when the backup is not
/// what was stored. What was written until then stays, for the caller to discard.
pub fn restore_files(
    reader: &BackupReader,
    root: &WriteRoot,
    into: &Path,
    progress: &dyn Progress,
) -> anyhow::Result<RestoredFiles> {
    let has_tablespaces = !Layout { reader }.tablespaces().is_empty();
    let made = if has_tablespaces { MadeTablespace::in_backup(reader)? } else { Vec::new() };
    for made in &made {
        progress.note(&made.to_string());
    }
    let restore = Restore { reader, root, into, progress, made };
    let is_copied = |entry: &&TableEntry| entry.is_file() && restore.is_wanted(entry);
    let files: Vec<&TableEntry> = reader.entries().iter().filter(is_copied).collect();
    let size_bytes = files.iter().map(|entry| entry.size_bytes()).sum();
    progress.begin("restoring files", Some(size_bytes));
    let written = restore
        .write_directories()
        .and_then(|()| restore.write_files(&files))
        .and_then(|()| restore.allow_in_place_tablespaces());
    progress.end();
    written?;
    root.sync_file_system().context("write the restored files to disk")?;
    let mut tablespaces = restore.layout().tablespaces();
    tablespaces.retain(|tablespace| !restore.is_replayed(&tablespace.path));
    Ok(RestoredFiles { file_count: files.len() as u64, size_bytes, tablespaces })
}

struct Restore<'a> {
    reader: &'a BackupReader,
    root: &'a WriteRoot,
    into: &'a Path,
    progress: &'a dyn Progress,
    /// What replay makes.
    made: Vec<MadeTablespace>,
}

impl Restore<'_> {
    fn is_wanted(&self, entry: &TableEntry) -> bool {
        self.layout().is_wanted(entry) && !self.is_replayed(entry.path.as_str())
    }

    fn is_replayed(&self, path: &str) -> bool {
        self.made.iter().any(|made| made.has(path))
    }

    fn layout(&self) -> Layout<'_> {
        Layout { reader: self.reader }
    }

    /// Writes what `ALTER SYSTEM` had set, and with it the setting without which the server would not start.
    fn allow_in_place_tablespaces(&self) -> anyhow::Result<()> {
        let Some(text) = self.layout().auto_configuration()? else { return Ok(()) };
        self.root
            .write_durably(self.into.join(AUTO_CONFIGURATION), &text, 0o600)
            .with_context(|| format!("restore '{AUTO_CONFIGURATION}'"))
    }

    fn write_directories(&self) -> anyhow::Result<()> {
        let mode = self.layout().directory_mode();
        self.root.create_directories(self.into, 0o700).context("make the directory to restore into")?;
        self.root.set_mode(self.into, mode).context("make the directory to restore into")?;
        for entry in self.reader.entries().iter().filter(|entry| !self.is_replayed(entry.path.as_str())) {
            let path = self.into.join(&entry.path);
            match &entry.content {
                EntryContent::Directory | EntryContent::Tablespace { .. } => {
                    self.root.create_directory(&path, self.layout().mode(entry))
                }
                EntryContent::Symlink { target } => self.root.create_symlink(target, &path),
                EntryContent::File { .. } => Ok(()),
            }
            .with_context(|| format!("restore '{}'", entry.path))?;
        }
        Ok(())
    }

    fn write_files(&self, files: &[&TableEntry]) -> anyhow::Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("start worker threads")?;
        let write =
            |entry: &&TableEntry| self.write_file(entry).with_context(|| format!("restore '{}'", entry.path));
        pool.install(|| files.par_iter().try_for_each(write))
    }

    fn write_file(&self, entry: &TableEntry) -> anyhow::Result<()> {
        let from = self.reader.open_file(entry)?;
        let file = self.root.create_file(self.into.join(&entry.path), self.layout().mode(entry))?;
        (0..from.piece_count()).into_par_iter().with_min_len(PIECES_PER_PART).try_for_each_init(
            Vec::new,
            |piece, number| {
                from.read_piece(number, piece)?;
                file.write_all_at(piece, number as u64 * CHUNK_SIZE_BYTES as u64)?;
                self.progress.advance(piece.len() as u64);
                anyhow::Ok(())
            },
        )?;
        // Last, since writing sets it.
        Ok(WriteRoot::set_modified(&file, entry.modified_ns)?)
    }
}
