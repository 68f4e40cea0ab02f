//! The repository: a directory of backups, each complete to the eye and incremental underneath.
//!
//! ```text
//! repository.json             format version, id, chunk size
//! lock                        held while backups are written or removed, shared while they are read
//! data_20261120_114010/       one backup: files.zst (what it holds) and backup.json (what it is; written last);
//!                             verification.json (the newest verdict on it, if it was ever verified)
//! data_20261120_114010.pin    that it is not to be removed, if a person said so
//! packs/ab/ab….pack           the chunks of all backups, each once
//! wal/SYSTEM/TIMELINE/…       archived WAL files, each under its name and the hash of its content
//! ```
//! A backup counts once its `backup.json` is there, needs no other backup, and is never changed. Everything that is
//! read is checked by its hash. The refused alternative was a chain of increments: one lost link would lose all that
//! follow. Decisions (which backup to restore, which to remove) are made in `plan`; this module knows no policy.

mod chunk;
mod document;
mod error;
mod index;
mod pack;
mod pins;
mod reader;
mod removal;
mod repack;
mod scan;
mod script_copy;
mod table;
mod verdict;
mod wal;
mod writer;

use std::io::Read;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

pub use chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest, ParseDigestError};
pub use error::RepositoryError;
pub use reader::{BackupReader, FileReader};
pub use removal::SweepReport;
pub use scan::{ChunkFault, FaultyChunk, PackScan};
pub use table::{Baseline, EntryContent, TableEntry, TableHeader, TablePath, TablePathError};
pub use wal::{ArchivedFile, Archiving, WalArchive};
pub use writer::BackupWriter;

use crate::plan::{BackupFormat, BackupName, BackupSummary, Condition};
use crate::sys::{EntryKind, FileLock, Identity, LockMode, StoreRoot, ensure_directory, user_of};
use document::{DOCUMENT_FILE, DocumentError};
use error::{attempting, lock_error};
use writer::free_name;

const IDENTITY_FILE: &str = "repository.json";
const LOCK_FILE: &str = "lock";
const FORMAT: u32 = 1;

/// What `repository.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryIdentity {
    /// The format of everything in the repository.
    pub format: u32,
    /// A random number in hexadecimal, which tells this repository from others.
    pub id: String,
    /// The size of every chunk but the last of a file.
    pub chunk_size_bytes: u32,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
}

/// A directory of backups.
#[derive(Debug)]
pub struct Repository {
    root: StoreRoot,
    identity: Option<RepositoryIdentity>,
}

/// The right to change the repository, kept until it is dropped or the process ends.
#[derive(Debug)]
pub struct ExclusiveLock {
    _file: FileLock,
}

/// The promise that nothing in the repository is removed, kept until it is dropped or the process ends.
#[derive(Debug)]
pub struct SharedLock {
    /// `None` in a directory that cannot be written: nobody can remove anything from it either.
    _file: Option<FileLock>,
}

impl Repository {
    /// Opens a repository, or a directory with backups of the old scripts. `None` when there is neither.
    ///
    /// # Errors
    /// [`RepositoryError::UnknownFormat`] for one that a newer version made, [`RepositoryError::Damaged`] when
    /// `repository.json` cannot be understood.
    pub fn open(path: &Path) -> Result<Option<Self>, RepositoryError> {
        let root = match StoreRoot::open(path) {
            Ok(root) => root,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(attempting("open directory", path)(error)),
        };
        let identity = read_identity(&root)?;
        let repository = Self { root, identity };
        if repository.identity.is_none() && repository.backup_directories()?.is_empty() {
            return Ok(None);
        }
        Ok(Some(repository))
    }

    /// Opens a repository, and makes it first where there is none. Backups of the old scripts stay as they are.
    pub fn open_or_create(path: &Path) -> Result<Self, RepositoryError> {
        ensure_directory(path, 0o700, None).map_err(attempting("create directory", path))?;
        let root = StoreRoot::open(path).map_err(attempting("open directory", path))?;
        if let Some(identity) = read_identity(&root)? {
            return Ok(Self { root, identity: Some(identity) });
        }
        let repository = Self { root, identity: None };
        // Another process that makes it at this moment, such as the server's archiving, is done before long.
        let lock_path = repository.root.path().join(LOCK_FILE);
        let waited = repository.root.wait_for_lock(LOCK_FILE, "making the repository");
        let lock = ExclusiveLock { _file: waited.map_err(|error| lock_error(&lock_path, error))? };
        let identity = match read_identity(&repository.root)? {
            Some(identity) => identity,
            None => repository.write_identity(&lock)?,
        };
        Ok(Self { identity: Some(identity), ..repository })
    }

    fn write_identity(&self, _lock: &ExclusiveLock) -> Result<RepositoryIdentity, RepositoryError> {
        let path = self.root.path().join(IDENTITY_FILE);
        let identity = RepositoryIdentity {
            format: FORMAT,
            id: random_id().map_err(attempting("read", "/dev/urandom"))?,
            chunk_size_bytes: chunk::CHUNK_SIZE,
            created: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        };
        let object = serde_json::to_value(&identity).map_err(std::io::Error::other);
        let text = object.and_then(|object| document::seal(object).map_err(std::io::Error::other));
        text.and_then(|text| self.root.write_durably(IDENTITY_FILE, &text))
            .map_err(attempting("write", path))?;
        Ok(identity)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Who owns its directory.
    pub fn owner(&self) -> std::io::Result<Identity> {
        let facts = self.root.own_facts()?;
        Ok(Identity { gid: facts.gid, ..user_of(facts.uid) })
    }

    /// What `repository.json` says; `None` in a directory that only the old scripts used.
    pub fn identity(&self) -> Option<&RepositoryIdentity> {
        self.identity.as_ref()
    }

    fn root(&self) -> &StoreRoot {
        &self.root
    }

    /// Takes the right to change the repository, or says who is at work in it.
    pub fn lock_exclusively(&self, activity: &str) -> Result<ExclusiveLock, RepositoryError> {
        Ok(ExclusiveLock { _file: self.lock(LockMode::Exclusive, activity)? })
    }

    /// Keeps others from removing anything, or says who is changing it now.
    pub fn lock_shared(&self, activity: &str) -> Result<SharedLock, RepositoryError> {
        match self.lock(LockMode::Shared, activity) {
            Ok(file) => Ok(SharedLock { _file: Some(file) }),
            Err(RepositoryError::Io { source, .. }) if is_about_writing(&source) => {
                Ok(SharedLock { _file: None })
            }
            Err(error) => Err(error),
        }
    }

    fn lock(&self, mode: LockMode, activity: &str) -> Result<FileLock, RepositoryError> {
        let path = self.root.path().join(LOCK_FILE);
        self.root.lock(LOCK_FILE, mode, activity).map_err(|error| lock_error(&path, error))
    }

    /// All backups, newest first. One whose `backup.json` is damaged is listed as unreadable.
    pub fn backups(&self) -> Result<Vec<BackupSummary>, RepositoryError> {
        let mut summaries = Vec::new();
        for name in self.backup_directories()? {
            summaries.extend(self.summarise(name)?);
        }
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.age_key()));
        Ok(summaries)
    }

    /// One backup.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`] when there is none of that name, or it was never finished.
    pub fn find(&self, name: BackupName) -> Result<BackupSummary, RepositoryError> {
        let is_there = self.backup_directories()?.contains(&name);
        let summary = if is_there { self.summarise(name)? } else { None };
        summary.ok_or_else(|| self.no_such_backup(name))
    }

    /// Opens a backup for reading. The caller holds a lock for as long as it reads.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`], and [`RepositoryError::Damaged`] when its table is not what was written.
    pub fn reader(&self, name: BackupName) -> Result<BackupReader, RepositoryError> {
        BackupReader::open(&self.root, self.find(name)?)
    }

    /// Reads the table of a backup, checked by its hash.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when `backup.json` or the table is not what was written; another one when they
    /// could not be read.
    pub fn entries(&self, name: BackupName) -> Result<Vec<TableEntry>, RepositoryError> {
        Ok(reader::read_table(&self.root, name)?.entries)
    }

    /// Begins a backup that is called `name`, or by the next name of the same second when that is taken. It holds
    /// the repository's lock until it is finished or dropped.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] while another process reads or writes.
    pub fn begin(&self, name: BackupName) -> Result<BackupWriter<'_>, RepositoryError> {
        let lock = self.lock_exclusively("writing a backup")?;
        let name = free_name(&self.root, name)?;
        BackupWriter::begin(self, name, lock)
    }

    fn exists(&self, path: &str) -> Result<bool, RepositoryError> {
        let facts = self.root.facts(path).map_err(attempting("read", self.root.path().join(path)))?;
        Ok(facts.is_some())
    }

    fn has_verdict(&self, name: BackupName) -> Result<bool, RepositoryError> {
        self.exists(&format!("{name}/{}", verdict::VERDICT_FILE))
    }

    fn backup_directories(&self) -> Result<Vec<BackupName>, RepositoryError> {
        let entries = self.root.entries(".").map_err(attempting("list", self.root.path()))?;
        let directories = entries.iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
        Ok(directories.filter_map(|entry| entry.name.parse().ok()).collect())
    }

    fn no_such_backup(&self, name: BackupName) -> RepositoryError {
        let newest = self.backups().ok().and_then(|backups| backups.first().map(|newest| newest.name));
        RepositoryError::NoSuchBackup { name, newest }
    }

    /// What is known of one directory; `None` when it is no finished backup.
    fn summarise(&self, name: BackupName) -> Result<Option<BackupSummary>, RepositoryError> {
        let summary = self.summarise_unpinned(name)?;
        Ok(summary.map(|summary| BackupSummary { pin: pins::read(&self.root, name), ..summary }))
    }

    fn summarise_unpinned(&self, name: BackupName) -> Result<Option<BackupSummary>, RepositoryError> {
        let path = format!("{name}/{DOCUMENT_FILE}");
        match self.root.read_bounded(&path, document::MAXIMUM_SIZE_BYTES) {
            Ok(bytes) => {
                let verification = verdict::read(&self.root, name);
                Ok(Some(BackupSummary { verification, ..summary_of(name, &bytes) }))
            }
            // Only a backup that was finished once has a verdict.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.has_verdict(name)? => {
                Ok(Some(unreadable(name, format!("{DOCUMENT_FILE} is gone"))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let copy = script_copy::find_data_directory(&self.root, name)?;
                Ok(copy.map(|directory| script_copy::summarise(&self.root, name, &directory)))
            }
            Err(error) => Ok(Some(unreadable(name, format!("{DOCUMENT_FILE} could not be read: {error}")))),
        }
    }
}

fn summary_of(name: BackupName, document: &[u8]) -> BackupSummary {
    match document::decode(document) {
        // The directory's name counts: a person may have renamed it.
        Ok((summary, _)) => BackupSummary { name, ..summary },
        Err(error) => unreadable(name, format!("{DOCUMENT_FILE} is damaged: {error}")),
    }
}

fn unreadable(name: BackupName, reason: String) -> BackupSummary {
    let condition = Condition::Unreadable { reason };
    BackupSummary { condition, ..BackupSummary::unknown(name, BackupFormat::Chunked) }
}

fn read_identity(root: &StoreRoot) -> Result<Option<RepositoryIdentity>, RepositoryError> {
    let path = root.path().join(IDENTITY_FILE);
    let bytes = match root.read_bounded(IDENTITY_FILE, 65_536) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(attempting("read", &path)(error)),
    };
    let damaged = |error: &dyn std::fmt::Display| {
        RepositoryError::damaged(format!("'{}' is damaged: {error}", path.display()))
    };
    let object = identity_object(&bytes).map_err(|error| damaged(&error))?;
    let identity: RepositoryIdentity = serde_json::from_value(object).map_err(|error| damaged(&error))?;
    if identity.format != FORMAT || identity.chunk_size_bytes as usize != CHUNK_SIZE_BYTES {
        let path = root.path().to_path_buf();
        return Err(RepositoryError::UnknownFormat { path, found: identity.format, known: FORMAT });
    }
    Ok(Some(identity))
}

/// The fields of `repository.json`, checked by their hash. The first repositories have none, and no other field either:
/// one whose name was hit is not taken for theirs.
fn identity_object(bytes: &[u8]) -> Result<serde_json::Value, DocumentError> {
    const FIELDS_WITHOUT_HASH: usize = 4;
    let object: serde_json::Value = serde_json::from_slice(bytes)?;
    let is_first = object.as_object().is_some_and(|fields| {
        fields.len() == FIELDS_WITHOUT_HASH && !fields.contains_key(document::OWN_HASH)
    });
    if is_first { Ok(object) } else { document::unseal(bytes) }
}

/// Whether a lock file could not be made because the directory, or the whole mount, is not to be written.
fn is_about_writing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}
