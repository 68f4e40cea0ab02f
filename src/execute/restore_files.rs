//! Writes the files of a backup into a directory, in parallel, every chunk verified.
//!
//! What comes out is a data directory that a server can be started on, and nothing else: tablespaces become
//! directories inside it, so that nothing outside is overwritten, and a stale `postmaster.pid` is left out. Which
//! backup it is and what becomes of the present data is decided elsewhere.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rayon::prelude::*;

use crate::plan::BackupFormat;
use crate::progress::Progress;
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, EntryContent, TableEntry};
use crate::sys::WriteRoot;

/// Where the server keeps what `ALTER SYSTEM` set; it is read after all other configuration.
pub(super) const AUTO_CONFIGURATION: &str = "postgresql.auto.conf";
pub(super) const MAXIMUM_CONFIGURATION_SIZE_BYTES: u64 = 1024 * 1024;
/// Recovery from a backup refuses a tablespace that is a directory in `pg_tblspc`, unless this is on (PostgreSQL:
/// `CheckTablespaceDirectory()` in xlogrecovery.c).
const IN_PLACE_SETTING: &str = "allow_in_place_tablespaces";

/// How many pieces of a large file one thread writes before others may take over.
const PIECES_PER_PART: usize = 32;

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

/// A tablespace that was outside the data directory, and is inside it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTablespace {
    /// Where it is now, below the data directory.
    pub path: String,
    /// Where it was.
    pub former: String,
}

impl fmt::Display for RestoredTablespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, former } = self;
        write!(formatter, "the tablespace that was in '{former}' is now in the data directory, as '{path}'")
    }
}

/// The text of a `postgresql.auto.conf`, with the setting without which a cluster with tablespaces inside the data
/// directory would not recover.
pub(super) fn with_tablespaces_in_place(mut text: Vec<u8>) -> Vec<u8> {
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("{IN_PLACE_SETTING} = 'on'\n").as_bytes());
    text
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
    let restore = Restore { reader, root, into, progress };
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
    Ok(RestoredFiles { file_count: files.len() as u64, size_bytes, tablespaces: restore.tablespaces() })
}

struct Restore<'a> {
    reader: &'a BackupReader,
    root: &'a WriteRoot,
    into: &'a Path,
    progress: &'a dyn Progress,
}

impl Restore<'_> {
    /// A former server's `postmaster.pid` would keep a new one from starting; a `tablespace_map` would make it link
    /// tablespaces that are directories now.
    fn is_wanted(&self, entry: &TableEntry) -> bool {
        match entry.path.as_str() {
            "postmaster.pid" | "postmaster.opts" => false,
            "tablespace_map" => self.tablespaces().is_empty(),
            AUTO_CONFIGURATION => !self.has_in_place_tablespaces(),
            _ => true,
        }
    }

    fn tablespaces(&self) -> Vec<RestoredTablespace> {
        let tablespace = |entry: &TableEntry| match &entry.content {
            EntryContent::Tablespace { target } => {
                Some(RestoredTablespace { path: entry.path.to_string(), former: target.clone() })
            }
            _ => None,
        };
        self.reader.entries().iter().filter_map(tablespace).collect()
    }

    /// Whether there will be directories in `pg_tblspc`, because the links became such, or the cluster had them.
    fn has_in_place_tablespaces(&self) -> bool {
        let is_tablespace =
            |entry: &TableEntry| entry.path.parent() == Some("pg_tblspc") && entry.is_directory();
        self.reader.entries().iter().any(is_tablespace)
    }

    /// Writes what `ALTER SYSTEM` had set, and with it the setting without which the server would not start.
    fn allow_in_place_tablespaces(&self) -> anyhow::Result<()> {
        if !self.has_in_place_tablespaces() {
            return Ok(());
        }
        let former = self.reader.read_file(AUTO_CONFIGURATION, MAXIMUM_CONFIGURATION_SIZE_BYTES)?;
        let text = with_tablespaces_in_place(former.unwrap_or_default());
        self.root
            .write_durably(self.into.join(AUTO_CONFIGURATION), &text, 0o600)
            .with_context(|| format!("restore '{AUTO_CONFIGURATION}'"))
    }

    /// The scripts copied with whatever modes `cp` made, which a server may refuse.
    fn mode(&self, entry: &TableEntry) -> u32 {
        let is_script_copy = self.reader.summary().format == BackupFormat::ScriptCopy;
        match (entry.is_directory(), is_script_copy) {
            (true, true) => 0o700,
            (false, true) => 0o600,
            // Without these bits, nothing could be written into it.
            (true, false) => entry.mode & 0o777 | 0o700,
            (false, false) => entry.mode & 0o777,
        }
    }

    fn write_directories(&self) -> anyhow::Result<()> {
        // The server takes no other modes (PostgreSQL: `checkDataDir()` in postmaster.c).
        let mode = if self.reader.header().directory_mode == 0o750 { 0o750 } else { 0o700 };
        self.root.create_directories(self.into, 0o700).context("make the directory to restore into")?;
        self.root.set_mode(self.into, mode).context("make the directory to restore into")?;
        for entry in self.reader.entries() {
            let path = self.into.join(&entry.path);
            match &entry.content {
                EntryContent::Directory | EntryContent::Tablespace { .. } => {
                    self.root.create_directory(&path, self.mode(entry))
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
        let file = self.root.create_file(self.into.join(&entry.path), self.mode(entry))?;
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
