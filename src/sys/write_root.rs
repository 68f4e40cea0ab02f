//! Leave to change a data directory: a capability that only [`WriteRoot::claim`] can make.
//!
//! Two locks live in `<PGDATA>/.pgbox/`. `lock` is the cluster's: whoever changes the directory holds it, and
//! a server is started with its descriptor inherited, so it is held exactly as long as anything can write
//! here, across containers. `operation.lock` puts commands in single file while they decide and act; it is
//! what the other fifteen of sixteen `init-postgresql` wait on, since the cluster's lock does not become free
//! when the winner succeeds.

use super::copy::{Copied, copy_content};
use super::directory::{Directory, set_modified};
use super::lock::{FileLock, Holder, LockError, LockMode, read_holder};
use super::read_root::ReadRoot;
use super::server_process::is_postmaster_of;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// What pgbox keeps inside the data directory: locks, journal, staging, what was set aside, history.
pub const OWN_DIRECTORY: &str = ".pgbox";
/// The cluster's lock, below the data directory.
pub const DATA_LOCK: &str = ".pgbox/lock";
/// A note of the last server that was started in the data directory.
const SERVER_NOTE: &str = ".pgbox/server";
/// The lock that puts commands in single file.
pub const OPERATION_LOCK: &str = ".pgbox/operation.lock";

/// Why a data directory was not given for writing. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else has the lock: a server, or a command at work, perhaps in another container.
    #[error("it is in use by {}", .0.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    Locked(Option<Holder>),
    /// A server that was started by other means runs in it.
    #[error("a server is using it (postmaster.pid names live process {0})")]
    ServerAlive(i32),
    /// It is not the cluster that the plan was made for.
    #[error("it holds the cluster {found}, and the plan was made for {expected}")]
    OtherCluster {
        /// The system identifier that the plan was made for.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<LockError> for ClaimError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held(holder) => Self::Locked(holder),
            LockError::Io(error) => Self::Io(error),
        }
    }
}

/// The right to be the one command at work on a data directory.
#[derive(Debug)]
pub struct OperationLock {
    _lock: FileLock,
}

impl OperationLock {
    /// Takes the lock, or says who has it.
    pub fn take(data_directory: &Path, activity: &str) -> Result<Self, LockError> {
        let directory = open_with_own_directory(data_directory)?;
        let lock = FileLock::acquire(&directory, Path::new(OPERATION_LOCK), LockMode::Exclusive, activity)?;
        Ok(Self { _lock: lock })
    }

    /// Waits until the lock is free, and takes it.
    pub fn wait(data_directory: &Path, activity: &str) -> Result<Self, LockError> {
        let directory = open_with_own_directory(data_directory)?;
        Ok(Self { _lock: FileLock::wait(&directory, Path::new(OPERATION_LOCK), activity)? })
    }

    /// Tells whether a command is at work, without taking or making anything.
    pub fn is_held(data_directory: &Path) -> io::Result<bool> {
        let directory = Directory::open(data_directory)?;
        let lock = Path::new(OPERATION_LOCK);
        Ok(directory.facts(lock)?.is_some() && !FileLock::probe(&directory, lock)?)
    }
}

/// A data directory that this process alone may change, for as long as the value lives.
#[derive(Debug)]
pub struct WriteRoot {
    directory: Directory,
    reader: ReadRoot,
    lock: FileLock,
}

impl Deref for WriteRoot {
    type Target = ReadRoot;
    fn deref(&self) -> &ReadRoot {
        &self.reader
    }
}

impl WriteRoot {
    /// Takes the cluster's lock and with it leave to write.
    ///
    /// `expected_identifier` is the system identifier that the caller's plan believes in, `None` where the
    /// control file is missing or unreadable. The directory must exist; `.pgbox` is made in it.
    ///
    /// # Errors
    /// [`ClaimError::Locked`] and [`ClaimError::ServerAlive`] while anything uses the cluster,
    /// [`ClaimError::OtherCluster`] if it was exchanged since the plan was made.
    pub fn claim(path: &Path, expected_identifier: Option<u64>, activity: &str) -> Result<Self, ClaimError> {
        let directory = open_with_own_directory(path)?;
        let lock = FileLock::acquire(&directory, Path::new(DATA_LOCK), LockMode::Exclusive, activity)?;
        if let Some(pid) = postmaster_pid(&directory)
            && is_postmaster_of(pid, path)
        {
            return Err(ClaimError::ServerAlive(pid));
        }
        if let (Some(expected), Some(found)) = (expected_identifier, system_identifier(&directory))
            && expected != found
        {
            return Err(ClaimError::OtherCluster { expected, found });
        }
        let reader = ReadRoot::from_directory(directory.try_clone()?);
        Ok(Self { directory, reader, lock })
    }

    /// Tells who holds the cluster's lock of `path`, without taking or making anything. `None`: it is free.
    pub fn lock_holder(path: &Path) -> io::Result<Option<Option<Holder>>> {
        let directory = Directory::open(path)?;
        if directory.facts(Path::new(DATA_LOCK))?.is_none() {
            return Ok(None);
        }
        match FileLock::probe(&directory, Path::new(DATA_LOCK)) {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(read_holder(&directory, Path::new(DATA_LOCK)))),
            Err(error) => Err(error),
        }
    }

    pub(super) fn lock(&self) -> &FileLock {
        &self.lock
    }

    /// Writes into the lock file that from now on the server holds it.
    pub(super) fn note_server(&self, pid: u32) {
        let holder = Holder { pid, ..Holder::myself("a PostgreSQL server") };
        FileLock::note(&self.directory, Path::new(DATA_LOCK), &holder);
        // The next command writes its own name into the lock; this stays until the next server.
        FileLock::note(&self.directory, Path::new(SERVER_NOTE), &holder);
    }

    /// The servers that pgbox noted when it started them, so that what they left can be told from what others left.
    pub fn servers_noted(root: &ReadRoot) -> Vec<Holder> {
        let notes =
            [SERVER_NOTE, DATA_LOCK].into_iter().filter_map(|path| root.read_bounded(path, 4096).ok());
        notes.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect()
    }

    /// A descriptor of the cluster's lock, to be the standard input of a program that changes the cluster:
    /// the lock then outlives us if we are killed while it works.
    pub fn lock_descriptor(&self) -> io::Result<File> {
        self.lock.descriptor_for_child()
    }

    /// Writes a file so that after a power cut it has either its old content or the new, whole: temporary
    /// name, sync, rename, sync of the directory.
    pub fn write_durably(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.directory.write_durably(path.as_ref(), bytes, mode)
    }

    /// Creates a file that must not exist yet; the caller syncs it.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        self.directory.create_file(path.as_ref(), mode)
    }

    /// Opens a file that is there to change parts of it; the caller syncs it. Whoever does so must have it whole
    /// elsewhere.
    pub fn open_to_change(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.directory.open_to_change(path.as_ref())
    }

    /// Cuts an open file, or makes it longer by zeros.
    pub fn set_size(file: &File, size_bytes: u64) -> io::Result<()> {
        file.set_len(size_bytes)
    }

    /// Copies an open file to a new one: its blocks are shared where the file system can, and what cannot be read
    /// of it becomes zeros. The caller syncs it, if it must last.
    ///
    /// # Errors
    /// When the new file cannot be made or written.
    pub fn copy_file(&self, from: &File, to: impl AsRef<Path>, mode: u32) -> io::Result<Copied> {
        copy_content(from, &self.directory.create_file(to.as_ref(), mode)?)
    }

    /// Creates a directory with exactly `mode`; one that is there is left as it is.
    pub fn create_directory(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.directory.create_directory(path.as_ref(), mode)
    }

    /// Creates a directory and those above it that are missing.
    pub fn create_directories(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.directory.create_directories(path.as_ref(), mode)
    }

    /// Notes files of `pg_wal` as waiting for the archive, as the server does (xlogarchive.c, `XLogArchiveNotify()`). A
    /// link to another disk is followed.
    pub fn queue_for_archive(&self, names: &[String]) -> io::Result<()> {
        let linked = self.reader.read_link("pg_wal").map(|target| self.path().join(target));
        let wal = match linked {
            Ok(target) => Directory::open(&target)?,
            Err(_) => self.directory.subdirectory(Path::new("pg_wal"))?,
        };
        let statuses = wal.subdirectory(Path::new("archive_status"))?;
        for name in names {
            match statuses.create_file(Path::new(&format!("{name}.ready")), 0o600) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        statuses.sync_directory(Path::new("."))
    }

    /// Moves an entry within the directory; a file that has the new name is replaced. Not yet durable: the
    /// caller syncs both directories.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.directory.rename(from.as_ref(), to.as_ref())
    }

    /// Removes something of ours, below `.pgbox`, with all that is in it. There is no way to remove anything
    /// else: what is PostgreSQL's is set aside by [`WriteRoot::rename`].
    pub fn discard(&self, path: impl AsRef<Path>) -> io::Result<()> {
        ensure_own(path.as_ref())?;
        match self.directory.facts(path.as_ref())? {
            None => Ok(()),
            Some(facts) if facts.kind == super::EntryKind::Directory => {
                self.directory.remove_tree(path.as_ref())
            }
            Some(_) => self.directory.remove_file_if_there(path.as_ref()),
        }
    }

    /// Sets the modification time of an open file, nanoseconds since the epoch.
    pub fn set_modified(file: &File, modified_ns: i64) -> io::Result<()> {
        set_modified(file, modified_ns)
    }

    /// Makes a symbolic link; `target` is stored as it is.
    pub fn create_symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.create_symlink(target.as_ref(), path.as_ref())
    }

    /// Sets the permission bits of an entry.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.directory.set_mode(path.as_ref(), mode)
    }

    /// Sets the permission bits of the data directory itself.
    pub fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        self.directory.set_own_mode(mode)
    }

    /// Makes the names in a directory durable; `"."` is the root.
    pub fn sync_directory(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.sync_directory(path.as_ref())
    }

    /// Syncs a file or a directory.
    pub fn sync_entry(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.directory.sync_entry(path.as_ref())
    }

    /// Writes everything below the directory to disk, of this file system.
    pub fn sync_file_system(&self) -> io::Result<()> {
        self.directory.sync_file_system()
    }
}

fn ensure_own(path: &Path) -> io::Result<()> {
    let mut components = path.components();
    let is_own = components.next().is_some_and(|first| first.as_os_str() == OWN_DIRECTORY);
    if is_own && components.next().is_some() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("'{}' is not below {OWN_DIRECTORY}", path.display()),
    ))
}

fn open_with_own_directory(path: &Path) -> io::Result<Directory> {
    let directory = Directory::open(path)?;
    directory.create_directory(Path::new(OWN_DIRECTORY), 0o700)?;
    Ok(directory)
}

/// Line 1 of `postmaster.pid`, negative for a single-user server. Parsed here, in the one line that matters,
/// because the fence must not depend on what it guards.
fn postmaster_pid(directory: &Directory) -> Option<i32> {
    let bytes = directory.read_bounded(Path::new("postmaster.pid"), 4096).ok()?;
    let pid: i32 = String::from_utf8_lossy(&bytes).lines().next()?.trim().parse().ok()?;
    pid.checked_abs()
}

/// The first eight bytes of the control file (`ControlFileData.system_identifier`, `catalog/pg_control.h`).
fn system_identifier(directory: &Directory) -> Option<u64> {
    let mut bytes = [0; 8];
    directory.open_file(&PathBuf::from("global/pg_control")).ok()?.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
