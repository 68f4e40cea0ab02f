//! The repository: a directory of backups, each complete to the eye and incremental underneath.
//!
//! ```text
//! repository.json             format version, id, chunk size, and the wrapped key of an encrypted one
//! lock                        held while backups are written or removed, shared while they are read
//! data_20261120_114010/       one backup: files.zst (what it holds) and backup.json (what it is; written last);
//!                             verification.json (the newest verdict on it, if it was ever verified)
//! data_20261120_114010.pin    that it is not to be removed, if a person said so
//! packs/ab/ab….pack           the chunks of all backups, each once
//! scrub.json                  how far all this was read back, and what was found; scrub.lock while it is
//! wal/SYSTEM/TIMELINE/…       archived WAL files, each under its name and the hash of its content
//! ```
//! A backup counts once its `backup.json` is there, needs no other backup, and is never changed. Everything that is
//! read is checked by its hash. The refused alternative was a chain of increments: one lost link would lose all that
//! follow. With a key, all that has content is encrypted (module `encryption`). Decisions (which backup to restore, which
//! to remove) are made in `plan`; this module knows no policy.
//!
//! A terabyte has eight million chunks. What is known of them is in memory up to a limit, and beyond it in files without a
//! name: the index and sets of chunks (module `record_set`), and the lists of tables (module `chunk_list`).

mod chunk;
mod chunk_list;
mod document;
mod encryption;
mod error;
mod frame;
mod identity;
mod index;
mod pack;
mod pack_reader;
mod pack_writer;
mod pins;
mod reader;
mod record_set;
mod removal;
mod repack;
mod scan;
mod script_copy;
mod scrub;
mod shared;
mod stream;
mod table;
mod verdict;
mod wal;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest, ParseDigestError};
pub use chunk_list::ChunkList;
pub use encryption::EncryptionHeader;
pub use error::RepositoryError;
pub use identity::RepositoryIdentity;
pub use reader::{BackupReader, FileReader};
pub use removal::SweepReport;
pub use scan::{ChunkFault, ChunkSet, FaultyChunk, PackScan};
pub use scrub::{ReadingBack, ScrubLock, TrustedChunks};
pub use stream::ChunkStream;
pub use table::{Baseline, EntryContent, TableEntry, TableHeader, TablePath, TablePathError};
pub use wal::{ArchivedFile, Archiving, WalArchive};
pub use writer::BackupWriter;

use crate::plan::order::sort_newest_first;
use crate::plan::{BackupFormat, BackupName, BackupSummary, Condition, Pin, Verification};
use crate::sys::{
    EntryKind, FileFacts, FileLock, Identity, LockMode, StoreRoot, ensure_directory, user_of, within,
};
use document::{DOCUMENT_FILE, DocumentError};
use encryption::{BackupKey, Encryption};
use error::{attempting, lock_error};
use script_copy::Makers;
use writer::free_name;

const LOCK_FILE: &str = "lock";

/// A directory of backups.
#[derive(Debug)]
pub struct Repository {
    root: StoreRoot,
    identity: Option<RepositoryIdentity>,
    encryption: Encryption,
    /// Whether a question was left without an answer: then nothing more is asked.
    is_silent: Arc<AtomicBool>,
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
    /// `key_file` is where the key of an encrypted one is; a repository that is not encrypted is opened without.
    ///
    /// # Errors
    /// [`RepositoryError::UnknownFormat`] for one that a newer version made, [`RepositoryError::Damaged`] when
    /// `repository.json` cannot be understood, and those that are [about the key](RepositoryError::is_about_key).
    pub fn open(path: &Path, key_file: Option<&Path>) -> Result<Option<Self>, RepositoryError> {
        let key = key_file.map(BackupKey::read).transpose()?;
        let Some(root) = open_root(path)? else { return Ok(None) };
        if let Some(identity) = identity::read(&root)? {
            let encryption = identity.unlock(path, key.as_ref())?;
            return Ok(Some(Self { root, identity: Some(identity), encryption, is_silent: Arc::default() }));
        }
        if backup_directories(&root)?.is_empty() {
            return Ok(None);
        }
        ensure_nothing_plain(&root, key.as_ref())?;
        Ok(Some(Self { root, identity: None, encryption: Encryption::None, is_silent: Arc::default() }))
    }

    /// Opens a repository for who can do without it, and waits for it no longer than `patience`.
    ///
    /// # Errors
    /// [`RepositoryError::NoAnswer`], and those of [`Repository::open`].
    pub fn open_within(
        patience: Duration,
        path: &Path,
        key_file: Option<&Path>,
    ) -> Result<Option<Self>, RepositoryError> {
        let (place, key_file) = (path.to_path_buf(), key_file.map(Path::to_path_buf));
        let opened = within(patience, move || Self::open(&place, key_file.as_deref()));
        opened.map_err(|answer| RepositoryError::NoAnswer { path: path.to_path_buf(), answer })?
    }

    /// Asks the repository something, and waits for the answer no longer than `patience`. The question must change
    /// nothing: left without an answer, it ends with this process.
    ///
    /// # Errors
    /// [`RepositoryError::NoAnswer`]; then the repository [is silent](Self::is_silent).
    pub fn answer_within<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let path = self.root.path().to_path_buf();
        let root = self.root.try_clone().map_err(attempting("open", &path))?;
        let asked = Self {
            root,
            identity: self.identity.clone(),
            encryption: self.encryption.clone(),
            is_silent: Arc::clone(&self.is_silent),
        };
        within(patience, move || question(&asked)).map_err(|answer| {
            self.is_silent.store(true, Ordering::Relaxed);
            RepositoryError::NoAnswer { path, answer }
        })
    }

    /// Whether a question was left without an answer, so that nothing more should be asked.
    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Opens a repository, and makes it first where there is none, encrypted if there is a key. Backups of the old
    /// scripts stay as they are.
    ///
    /// # Errors
    /// As [`Repository::open`]. Backups of the old scripts are not encrypted, so that a directory with such takes no key.
    pub fn open_or_create(path: &Path, key_file: Option<&Path>) -> Result<Self, RepositoryError> {
        let key = key_file.map(BackupKey::read).transpose()?;
        // One that is there and does not answer is not to be made.
        let root = match open_root(path)? {
            Some(root) => root,
            None => ensure_directory(path, 0o700, None)
                .and_then(|_| StoreRoot::open(path))
                .map_err(attempting("create directory", path))?,
        };
        if let Some(identity) = identity::read(&root)? {
            let encryption = identity.unlock(path, key.as_ref())?;
            return Ok(Self { root, identity: Some(identity), encryption, is_silent: Arc::default() });
        }
        ensure_nothing_plain(&root, key.as_ref())?;
        // Another process that makes it at this moment, such as the server's archiving, is done before long.
        let lock_path = root.path().join(LOCK_FILE);
        let waited = root.wait_for_lock(LOCK_FILE, "making the repository");
        let lock = ExclusiveLock { _file: waited.map_err(|error| lock_error(&lock_path, error))? };
        let (identity, encryption) = match identity::read(&root)? {
            Some(identity) => {
                let encryption = identity.unlock(path, key.as_ref())?;
                (identity, encryption)
            }
            None => identity::create(&root, &lock, key.as_ref())?,
        };
        Ok(Self { root, identity: Some(identity), encryption, is_silent: Arc::default() })
    }

    /// Whether what is in a directory is an encrypted repository.
    ///
    /// # Errors
    /// When its `repository.json` cannot be read.
    pub fn is_encrypted(path: &Path) -> Result<bool, RepositoryError> {
        let Some(root) = open_root(path)? else { return Ok(false) };
        Ok(identity::read(&root)?.is_some_and(|identity| identity.encryption.is_some()))
    }

    /// What can be seen of an encrypted repository without its key: that there are backups, and when they were made.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn visible_without_key(path: &Path) -> Result<Vec<BackupSummary>, RepositoryError> {
        let Some(root) = open_root(path)? else { return Ok(Vec::new()) };
        let reason = "it is encrypted".to_owned();
        let is_there = |path: String| {
            let facts = root.facts(&path).map_err(attempting("read", root.path().join(&path)));
            facts.map(|facts| facts.is_some())
        };
        let mut summaries = Vec::new();
        for name in backup_directories(&root)? {
            let mut summary = unreadable(name, reason.clone());
            if is_there(format!("{name}/{}", verdict::VERDICT_FILE))? {
                summary.verification = Verification::Unreadable { reason: reason.clone() };
            }
            if is_there(format!("{name}{}", pins::PIN_SUFFIX))? {
                summary.pin = Some(Pin { pinned_at: None, note: Some(reason.clone()) });
            }
            summaries.push(summary);
        }
        sort_newest_first(&mut summaries);
        Ok(summaries)
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

    /// What is wrong with `repository.json` or its copy, where the other one serves. The next backup mends it.
    pub fn identity_problem(&self) -> Option<String> {
        identity::problem(&self.root)
    }

    fn root(&self) -> &StoreRoot {
        &self.root
    }

    fn encryption(&self) -> &Encryption {
        &self.encryption
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
        sort_newest_first(&mut summaries);
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
        BackupReader::open(&self.root, &self.encryption, self.find(name)?)
    }

    /// Reads the table of a backup, checked by its hash.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when `backup.json` or the table is not what was written; another one when they
    /// could not be read.
    pub fn entries(&self, name: BackupName) -> Result<Vec<TableEntry>, RepositoryError> {
        Ok(reader::read_table(&self.root, &self.encryption, name)?.entries)
    }

    /// Begins a backup that is called `name`, or by the next name of the same second when that is taken. It holds
    /// the repository's lock until it is finished or dropped.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] while another process reads or writes.
    pub fn begin(&self, name: BackupName) -> Result<BackupWriter<'_>, RepositoryError> {
        let lock = self.lock_exclusively("writing a backup")?;
        identity::mend(&self.root, &lock)?;
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
        backup_directories(&self.root)
    }

    fn no_such_backup(&self, name: BackupName) -> RepositoryError {
        let newest = self.backups().ok().and_then(|backups| backups.first().map(|newest| newest.name));
        RepositoryError::NoSuchBackup { name, newest }
    }

    /// What is known of a plain copy. In an encrypted repository there is none: whoever can write to the disk, and has
    /// no key, may have put it there.
    fn summarise_copy(&self, name: BackupName, directory: &str) -> BackupSummary {
        if self.encryption.is_none() {
            return script_copy::summarise(&self.root, name, directory);
        }
        unreadable(name, "it is a plain copy, which nothing in an encrypted repository is".to_owned())
    }

    /// What is known of one directory; `None` when it is no finished backup.
    fn summarise(&self, name: BackupName) -> Result<Option<BackupSummary>, RepositoryError> {
        let summary = self.summarise_unpinned(name)?;
        Ok(summary
            .map(|summary| BackupSummary { pin: pins::read(&self.root, &self.encryption, name), ..summary }))
    }

    /// Says to whom a directory belongs that neither root nor the server's user made, nor who owns the repository: whoever may
    /// write to the directory of the backups may put there what looks like one.
    fn maker_not_believed(&self, facts: &FileFacts) -> Option<String> {
        let makers = Makers::of(&self.root);
        let reason = makers.owner_not_believed(facts)?;
        let of_repository = self.root.own_facts().is_ok_and(|own| own.uid == facts.uid);
        (!of_repository).then_some(reason)
    }

    fn summarise_unpinned(&self, name: BackupName) -> Result<Option<BackupSummary>, RepositoryError> {
        let directory = name.to_string();
        let facts =
            self.root.facts(&directory).map_err(attempting("read", self.root.path().join(&directory)))?;
        if let Some(reason) = facts.and_then(|facts| self.maker_not_believed(&facts)) {
            // A plain copy has no chunks that would have to be kept; what cannot be looked into may have.
            let copy = script_copy::find_data_directory(&self.root, name);
            let is_plain = matches!(copy, Ok(Some(_))) && !self.exists(&format!("{name}/{DOCUMENT_FILE}"))?;
            let format = if is_plain { BackupFormat::ScriptCopy } else { BackupFormat::Chunked };
            return Ok(Some(BackupSummary { format, ..unreadable(name, reason) }));
        }
        let path = format!("{name}/{DOCUMENT_FILE}");
        match self.root.read_bounded(&path, document::MAXIMUM_SIZE_BYTES) {
            Ok(mut bytes) => {
                let verification = verdict::read(&self.root, &self.encryption, name);
                let document = document::open(&self.encryption, &path, &mut bytes);
                Ok(Some(BackupSummary { verification, ..summary_of(name, document) }))
            }
            // Only a backup that was finished once has a verdict.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.has_verdict(name)? => {
                Ok(Some(unreadable(name, format!("{DOCUMENT_FILE} is gone"))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let copy = script_copy::find_data_directory(&self.root, name)?;
                Ok(copy.map(|directory| self.summarise_copy(name, &directory)))
            }
            Err(error) => Ok(Some(unreadable(name, format!("{DOCUMENT_FILE} could not be read: {error}")))),
        }
    }
}

fn open_root(path: &Path) -> Result<Option<StoreRoot>, RepositoryError> {
    match StoreRoot::open(path) {
        Ok(root) => Ok(Some(root)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(attempting("open directory", path)(error)),
    }
}

fn backup_directories(root: &StoreRoot) -> Result<Vec<BackupName>, RepositoryError> {
    let entries = root.entries(".").map_err(attempting("list", root.path()))?;
    let directories = entries.iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
    Ok(directories.filter_map(|entry| entry.name.parse().ok()).collect())
}

/// Whoever sets a key takes all that is in the directory for encrypted.
fn ensure_nothing_plain(root: &StoreRoot, key: Option<&BackupKey>) -> Result<(), RepositoryError> {
    if key.is_some() && !backup_directories(root)?.is_empty() {
        return Err(RepositoryError::NotEncrypted { path: root.path().to_path_buf() });
    }
    Ok(())
}

fn summary_of(name: BackupName, document: Result<(BackupSummary, Digest), DocumentError>) -> BackupSummary {
    match document {
        // The directory's name counts: a person may have renamed it.
        Ok((summary, _)) => BackupSummary { name, ..summary },
        Err(error) => unreadable(name, format!("{DOCUMENT_FILE} is damaged: {error}")),
    }
}

fn unreadable(name: BackupName, reason: String) -> BackupSummary {
    let condition = Condition::Unreadable { reason };
    BackupSummary { condition, ..BackupSummary::unknown(name, BackupFormat::Chunked) }
}

/// Whether a lock file could not be made because the directory, or the whole mount, is not to be written.
fn is_about_writing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_gave_no_answer_is_silent_from_then_on() {
        let place = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(&place.path().join("backups"), None).unwrap();
        let count = |asked: &Repository| asked.backups().unwrap().len();
        assert_eq!(repository.answer_within(Duration::from_mins(1), count).unwrap(), 0);
        assert!(!repository.is_silent());
        let (never, silent) = std::sync::mpsc::channel::<()>();

        let asked = repository.answer_within(Duration::from_millis(10), move |_| silent.recv().is_ok());

        assert!(matches!(asked, Err(RepositoryError::NoAnswer { .. })));
        assert!(repository.is_silent());
        drop(never);
    }
}
