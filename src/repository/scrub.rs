//! Reading back what is stored, a piece at a time: `scrub.json` remembers how far, and what was found.
//!
//! Nothing here takes the repository's lock, so that it never keeps a backup from being made. Packs, tables and archived
//! WAL are written once and never changed, and what a cleanup removes meanwhile is gone, which is no damage. A lock of its
//! own keeps two from reading the same.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Repository;
use super::chunk::ChunkId;
use super::document::{MAXIMUM_SIZE_BYTES, seal, unseal};
use super::encryption::Place;
use super::error::{RepositoryError, attempting, lock_error};
use super::index::{ChunkIndex, list_packs, open_pack, reading_index};
use super::pack::{PackId, pack_path};
use super::table::{EntryContent, TABLE_FILE, TableEntry};
use crate::pg::SystemIdentifier;
use crate::plan::scrub::{PACK_KEY, ReadBack, ScrubItem, ScrubState, TABLE_KEY, WAL_KEY};
use crate::plan::{BackupFormat, BackupName, BackupSummary};
use crate::sys::{FileLock, LockError, LockMode, forget_cached};

const STATE_FILE: &str = "scrub.json";
const LOCK_FILE: &str = "scrub.lock";
/// What is read at once.
const PIECE_SIZE_BYTES: usize = 1 << 20;

/// The right to be the one that reads back, kept until it is dropped or the process ends.
#[derive(Debug)]
pub struct ScrubLock {
    _file: FileLock,
}

impl Repository {
    /// Takes the right to read back; `None` where another process has it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_scrub(&self) -> Result<Option<ScrubLock>, RepositoryError> {
        match self.root().lock(LOCK_FILE, LockMode::Exclusive, "reading the repository back") {
            Ok(file) => Ok(Some(ScrubLock { _file: file })),
            Err(LockError::Held(_)) => Ok(None),
            Err(error) => Err(lock_error(&self.path().join(LOCK_FILE), error)),
        }
    }

    /// Returns how far reading back is. A state that is damaged is none: everything is read again.
    ///
    /// # Errors
    /// When the file is there and could not be read.
    pub fn scrub_state(&self) -> Result<ScrubState, RepositoryError> {
        let mut bytes = match self.root().read_bounded(STATE_FILE, MAXIMUM_SIZE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ScrubState::default()),
            Err(error) => return Err(attempting("read", self.path().join(STATE_FILE))(error)),
        };
        let opened = self.encryption().open(Place::File(STATE_FILE), &mut bytes).ok();
        let object = opened.and_then(|bytes| unseal(bytes).ok());
        Ok(object.and_then(|object| serde_json::from_value(object).ok()).unwrap_or_default())
    }

    /// Remembers how far reading back is, in the place of what was known before. After a crash there is the one or the
    /// other.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_scrub_state(&self, _lock: &ScrubLock, state: &ScrubState) -> Result<(), RepositoryError> {
        let object = serde_json::to_value(state).map_err(io::Error::other);
        object
            .and_then(|object| seal(object).map_err(io::Error::other))
            .and_then(|text| self.encryption().seal(Place::File(STATE_FILE), text))
            .and_then(|stored| self.root().write_durably(STATE_FILE, &stored))
            .map_err(attempting("write", self.path().join(STATE_FILE)))
    }

    /// Lists everything that is read back, in order. What is stored meanwhile is not in it.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn scrub_items(&self) -> Result<Vec<ScrubItem>, RepositoryError> {
        let mut items = Vec::new();
        for id in list_packs(self.root())? {
            let path = pack_path(&id);
            items.push(self.item(format!("{PACK_KEY}{id}"), &path)?);
        }
        let has_table =
            |backup: &&BackupSummary| backup.format == BackupFormat::Chunked && backup.is_complete();
        for backup in self.backups()?.iter().filter(has_table) {
            let path = format!("{}/{TABLE_FILE}", backup.name);
            items.push(self.item(format!("{TABLE_KEY}{}", backup.name), path.as_ref())?);
        }
        for cluster in self.archived_clusters()? {
            let files = self.wal_archive(cluster).files()?;
            items.extend(files.into_iter().map(|file| ScrubItem {
                key: format!("{WAL_KEY}{cluster}/{}", file.name),
                size_bytes: file.stored_bytes,
            }));
        }
        items.sort_unstable();
        items.dedup_by(|left, right| left.key == right.key);
        Ok(items)
    }

    /// What is not there is listed all the same: reading tells that it is missing.
    fn item(&self, key: String, path: &Path) -> Result<ScrubItem, RepositoryError> {
        let facts = self.root().facts(path).map_err(attempting("read", self.path().join(path)))?;
        Ok(ScrubItem { key, size_bytes: facts.map_or(0, |facts| facts.size_bytes) })
    }

    /// Returns the chunks that can be relied on: those of packs that were not found damaged.
    ///
    /// # Errors
    /// When the indexes of the packs cannot be read.
    pub fn trusted_chunks(&self) -> Result<TrustedChunks, RepositoryError> {
        let index = ChunkIndex::load(self.root(), self.encryption())?;
        Ok(TrustedChunks { index, distrusted: self.damaged_packs()? })
    }

    /// Begins to read back what was listed.
    pub fn reading_back(&self) -> ReadingBack<'_> {
        ReadingBack { repository: self, index: None }
    }
}

/// The chunks of packs that were not found damaged.
#[derive(Debug)]
pub struct TrustedChunks {
    index: ChunkIndex,
    distrusted: HashSet<PackId>,
}

impl TrustedChunks {
    /// Whether a chunk is one of them. Where that cannot be told, it is not.
    pub fn contains(&self, chunk: &ChunkId) -> bool {
        self.index.contains_outside(chunk, &self.distrusted).unwrap_or(false)
    }
}

/// Reads back what was listed, one thing after another.
#[derive(Debug)]
pub struct ReadingBack<'a> {
    repository: &'a Repository,
    /// Where all chunks are, once that is asked for.
    index: Option<ChunkIndex>,
}

impl ReadingBack<'_> {
    /// Reads something back. `pace` is called with how much was read, each time something was, and may wait.
    ///
    /// # Errors
    /// When what is needed for reading cannot be read itself, such as the indexes of the packs.
    pub fn read(&mut self, item: &ScrubItem, pace: &mut dyn FnMut(u64)) -> Result<ReadBack, RepositoryError> {
        if let Some(id) = item.key.strip_prefix(PACK_KEY).and_then(|id| id.parse().ok()) {
            return Ok(self.read_pack(&id, pace));
        }
        pace(item.size_bytes);
        if let Some(name) = item.key.strip_prefix(TABLE_KEY).and_then(|name| name.parse().ok()) {
            return self.read_table(name);
        }
        let wal = item.key.strip_prefix(WAL_KEY).and_then(|key| key.split_once('/'));
        match wal.map(|(cluster, name)| (cluster.parse(), name)) {
            Some((Ok(cluster), name)) => Ok(self.read_wal(SystemIdentifier(cluster), name)),
            _ => Ok(ReadBack::Gone),
        }
    }

    fn read_pack(&self, id: &PackId, pace: &mut dyn FnMut(u64)) -> ReadBack {
        let Repository { root, .. } = self.repository;
        let read = open_pack(root, id).and_then(|mut file| {
            hash_from_disk(&mut file, pace).map_err(attempting("read", root.path().join(pack_path(id))))
        });
        match read {
            Ok(found) if found == *id => ReadBack::Sound,
            Ok(_) => ReadBack::Damaged("its content is not what its name says".to_owned()),
            Err(error) => fault_of(error),
        }
    }

    /// Reads a table, and looks for every chunk that it names.
    fn read_table(&mut self, name: BackupName) -> Result<ReadBack, RepositoryError> {
        let entries = match self.repository.entries(name) {
            Ok(entries) => entries,
            Err(error) => {
                let is_removed = self.repository.find(name).is_err();
                return Ok(match fault_of(error) {
                    ReadBack::Gone if !is_removed => ReadBack::Damaged("its file table is gone".to_owned()),
                    fault => fault,
                });
            }
        };
        let Some(missing) = self.first_missing(&entries)? else { return Ok(ReadBack::Sound) };
        // A cleanup may have moved or removed it since the indexes were read.
        self.index = None;
        let is_missing = self.first_missing(&entries)?.is_some() && self.repository.find(name).is_ok();
        Ok(if is_missing { ReadBack::Damaged(missing) } else { ReadBack::Sound })
    }

    /// Says which chunk is in no pack. A pack that cannot be read may have any.
    fn first_missing(&mut self, entries: &[TableEntry]) -> Result<Option<String>, RepositoryError> {
        let Repository { root, encryption, .. } = self.repository;
        let index = match self.index.take() {
            Some(index) => index,
            None => ChunkIndex::load(root, encryption)?,
        };
        let index = self.index.insert(index);
        if index.damaged().iter().any(|pack| pack.is_unreadable) {
            return Ok(None);
        }
        for entry in entries {
            let EntryContent::File { chunks, .. } = &entry.content else { continue };
            for chunk in chunks.load()?.iter() {
                if index.find_all(chunk).map_err(reading_index())?.is_empty() {
                    return Ok(Some(format!("chunk {chunk} of '{}' is in no pack", entry.path)));
                }
            }
        }
        Ok(None)
    }

    fn read_wal(&self, cluster: SystemIdentifier, name: &str) -> ReadBack {
        match self.repository.wal_archive(cluster).fetch(name, &mut io::sink()) {
            Ok(true) => ReadBack::Sound,
            Ok(false) => ReadBack::Gone,
            Err(error) => fault_of(error),
        }
    }
}

/// Tells damage from what was removed meanwhile, and from a disk that does not answer.
fn fault_of(error: RepositoryError) -> ReadBack {
    match error {
        RepositoryError::Damaged { what } => ReadBack::Damaged(what),
        RepositoryError::OtherContent { .. } => ReadBack::Damaged(error.to_string()),
        RepositoryError::NoSuchBackup { .. } => ReadBack::Gone,
        RepositoryError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ReadBack::Gone,
        error => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            ReadBack::Unreadable(format!("{error}{}", cause.unwrap_or_default()))
        }
    }
}

/// Reads a file to its end. What the kernel has of it in memory says nothing about the disk, so it is dropped before, and
/// after, so that it takes the place of nothing that is needed.
fn hash_from_disk(file: &mut File, pace: &mut dyn FnMut(u64)) -> io::Result<PackId> {
    forget_cached(file);
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_SIZE_BYTES];
    loop {
        let count = match file.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
            forget_cached(file);
            return Ok(PackId::from(hasher.finalize()));
        };
        hasher.update(read);
        pace(count as u64);
    }
}
