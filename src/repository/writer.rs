//! Writing a backup: chunks from many threads, then the table, then `backup.json`.
//!
//! Until the last step nothing refers to what was written. A writer that is dropped takes its unfinished pack with
//! it; packs that it closed stay, so that the next attempt finds their chunks, unless the disk was full or it was
//! discarded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::chunk::{ChunkId, Digest};
use super::chunk_list::{ChunkList, ChunkLists};
use super::document::{self, DOCUMENT_FILE};
use super::encryption::{Encryption, PieceWriter, Place};
use super::error::{RepositoryError, attempting};
use super::index::ChunkIndex;
use super::pack::{PackId, pack_path};
use super::pack_writer::PackWriter;
use super::reader::BackupReader;
use super::record_set::RecordSet;
use super::removal::DURABLE_TEMPORARY;
use super::shared::locked;
use super::stream::ChunkStream;
use super::table::{TABLE_FILE, Table, TableEntry, TableHeader};
use super::{ExclusiveLock, Repository};
use crate::plan::{BackupFormat, BackupName, BackupSummary};
use crate::sys::{StoreRoot, step_point};

/// A backup that is being written. It holds the repository's lock.
#[derive(Debug)]
pub struct BackupWriter<'r> {
    root: &'r StoreRoot,
    encryption: &'r Encryption,
    name: BackupName,
    index: ChunkIndex,
    /// Packs that a verification found damaged: what is in them is stored anew.
    distrusted: HashSet<PackId>,
    new_chunks: Mutex<RecordSet<{ size_of::<ChunkId>() }>>,
    lists: ChunkLists,
    packs: PackWriter<'r>,
    stored_bytes: AtomicU64,
    /// Whether the packs that were closed go, too, if the backup is not finished.
    takes_packs_along: AtomicBool,
    has_directory: bool,
    is_finished: bool,
    _lock: ExclusiveLock,
}

/// The name, or the next of the same second that no directory has.
pub(super) fn free_name(root: &StoreRoot, name: BackupName) -> Result<BackupName, RepositoryError> {
    let mut name = name;
    loop {
        let path = name.to_string();
        let facts = root.facts(&path).map_err(attempting("read", root.path().join(&path)))?;
        if facts.is_none() {
            return Ok(name);
        }
        name = name
            .next_of_same_second()
            .ok_or_else(|| RepositoryError::damaged(format!("there is no free name after {path}")))?;
    }
}

impl<'r> BackupWriter<'r> {
    pub(super) fn begin(
        repository: &'r Repository,
        name: BackupName,
        lock: ExclusiveLock,
    ) -> Result<Self, RepositoryError> {
        Ok(Self {
            root: repository.root(),
            encryption: repository.encryption(),
            name,
            index: ChunkIndex::load(repository.root(), repository.encryption())?,
            distrusted: repository.damaged_packs()?,
            new_chunks: Mutex::new(RecordSet::new(repository.path())),
            lists: ChunkLists::new(repository.path()),
            packs: PackWriter::new(repository.root(), repository.encryption()),
            stored_bytes: AtomicU64::new(0),
            takes_packs_along: AtomicBool::new(false),
            has_directory: false,
            is_finished: false,
            _lock: lock,
        })
    }

    /// The name that the backup will have.
    pub fn name(&self) -> BackupName {
        self.name
    }

    /// Calls the backup by another name, or by the next of the same second when that is taken.
    ///
    /// # Errors
    /// [`RepositoryError::Io`], and [`RepositoryError::Damaged`] when no name of that second is free.
    pub fn rename(&mut self, name: BackupName) -> Result<(), RepositoryError> {
        if name != self.name {
            self.name = free_name(self.root, name)?;
        }
        Ok(())
    }

    /// Makes what was stored so far readable, for a check before the backup is finished.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when the entries make no table.
    pub fn read_back(
        &self,
        header: TableHeader,
        entries: Vec<TableEntry>,
    ) -> Result<BackupReader, RepositoryError> {
        self.noting_full(self.packs.close())?;
        let table = Table::new(header, entries)
            .map_err(|error| RepositoryError::damaged(format!("its files make no backup: {error}")))?;
        let summary = BackupSummary {
            size_bytes: table.size_bytes(),
            ..BackupSummary::unknown(self.name, BackupFormat::Chunked)
        };
        BackupReader::of_table(self.root, self.encryption, summary, table)
    }

    /// What was added to the repository so far, compressed.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Whether the repository had a chunk when this backup was begun. Where that cannot be told, it is stored again.
    pub fn has_chunk(&self, chunk: &ChunkId) -> bool {
        self.index.contains_outside(chunk, &self.distrusted).unwrap_or(false)
    }

    /// Keeps the chunks of a file for the table.
    pub fn keep(&self, chunks: Vec<ChunkId>) -> ChunkList {
        self.lists.keep(chunks.into())
    }

    /// Stores a chunk of a file, unless the repository has it. May be called from many threads; all chunks of a file
    /// belong into one stream.
    ///
    /// # Errors
    /// [`RepositoryError::Full`] and [`RepositoryError::Io`]; the backup cannot be finished then.
    pub fn store_chunk(&self, stream: &ChunkStream, raw: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = self.encryption.chunk_id(raw);
        if self.has_chunk(&id) || !self.is_first(&id) {
            return Ok(id);
        }
        let stored_bytes = self.noting_full(self.packs.append(stream, id, raw))?;
        self.stored_bytes.fetch_add(stored_bytes, Ordering::Relaxed);
        Ok(id)
    }

    /// Whoever adds the name stores the chunk: a second thread with the same one has nothing left to do. Where it cannot
    /// be told whether it was added, it is stored again.
    fn is_first(&self, id: &ChunkId) -> bool {
        let mut new_chunks = locked(&self.new_chunks);
        let is_first = !new_chunks.contains(&id.0).unwrap_or(false);
        if is_first {
            new_chunks.insert(id.0);
        }
        is_first
    }

    fn noting_full<T>(&self, result: Result<T, RepositoryError>) -> Result<T, RepositoryError> {
        if result.as_ref().is_err_and(RepositoryError::is_full) {
            self.takes_packs_along.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Gives the backup up, with all that was stored for it: nobody will try the same again.
    pub fn discard(self) {
        self.takes_packs_along.store(true, Ordering::Relaxed);
    }

    /// Makes the backup count. When this returns, it is on disk, whole.
    ///
    /// Name, format and stored size of `summary` are set here; so are size and count of the files.
    pub fn finish(
        mut self,
        header: TableHeader,
        entries: Vec<TableEntry>,
        summary: BackupSummary,
    ) -> Result<BackupSummary, RepositoryError> {
        let table = Table::new(header, entries).map_err(|error| {
            RepositoryError::damaged(format!("the file table of {} is wrong: {error}", self.name))
        })?;
        let written = self.write_everything(&table, summary);
        let summary = self.noting_full(written)?;
        self.is_finished = true;
        Ok(summary)
    }

    fn write_everything(
        &mut self,
        table: &Table,
        summary: BackupSummary,
    ) -> Result<BackupSummary, RepositoryError> {
        self.packs.close()?;
        let directory = self.name.to_string();
        let directory_path = self.root.path().join(&directory);
        self.has_directory = true;
        self.root
            .create_directories(&directory)
            .and_then(|()| self.root.sync_directory("."))
            .map_err(attempting("create directory", &directory_path))?;
        let (table_bytes, table_hash) = self.write_table(&format!("{directory}/{TABLE_FILE}"), table)?;
        step_point("the file table written");
        let summary = BackupSummary {
            name: self.name,
            stored_bytes: self.stored_bytes() + table_bytes,
            size_bytes: table.size_bytes(),
            file_count: table.entries.iter().filter(|entry| entry.is_file()).count() as u64,
            ..summary
        };
        let document = document::encode(&summary, table_hash).map_err(|error| {
            RepositoryError::damaged(format!("backup.json could not be written: {error}"))
        })?;
        self.write_file(&format!("{directory}/{DOCUMENT_FILE}"), document)?;
        step_point("backup.json written");
        Ok(summary)
    }

    /// Writes the table, piece by piece. When this returns its size and its hash, it is on disk, under its name.
    fn write_table(&self, path: &str, table: &Table) -> Result<(u64, Digest), RepositoryError> {
        let temporary = format!("{path}{DURABLE_TEMPORARY}{}.tmp", std::process::id());
        let written = self.root.create_file(&temporary).and_then(|file| {
            let file = Hashed { file, hasher: blake3::Hasher::new(), size_bytes: 0 };
            let pieces = PieceWriter::new(self.encryption, path, file);
            let Hashed { file, hasher, size_bytes } = table.encode(pieces)?.finish()?;
            file.sync_all()?;
            self.root.rename(&temporary, path)?;
            self.root.sync_directory(self.name.to_string())?;
            Ok((size_bytes, hasher.finalize().into()))
        });
        written.map_err(attempting("write", self.root.path().join(path)))
    }

    /// Writes a file of the backup, sealed if there is a key.
    fn write_file(&self, path: &str, content: Vec<u8>) -> Result<(), RepositoryError> {
        let stored = self.encryption.seal(Place::File(path), content);
        let written = stored.and_then(|stored| self.root.write_durably(path, &stored));
        written.map_err(attempting("write", self.root.path().join(path)))
    }
}

/// A file whose bytes are hashed while they are written.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BackupWriter<'_> {
    /// Best effort: an unfinished backup harms nothing, and a sweep removes what this could not.
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        if self.has_directory {
            let _ = self.root.remove_tree(self.name.to_string());
        }
        if self.takes_packs_along.load(Ordering::Relaxed) {
            for pack in self.packs.closed() {
                let _ = self.root.remove_file(pack_path(&pack));
            }
        }
    }
}
