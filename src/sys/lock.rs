//! Advisory locks that last exactly as long as the processes that hold them.
//!
//! `flock` belongs to the open file description: a child that inherits the descriptor keeps the lock after
//! we are gone, and the kernel drops it with the last of them, however they die. It is seen across
//! containers and PID namespaces on one kernel, which a pid file is not (`facts/corruption.md` §4).

use super::directory::Directory;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who holds a lock, as written by the holder itself; for messages only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name; inside Docker the short container id.
    pub host: String,
    /// Process id within the holder's PID namespace.
    pub pid: u32,
    /// What it was doing.
    pub activity: String,
    /// When it took the lock, RFC 3339 in UTC.
    pub since: String,
}

impl Holder {
    /// This process, now.
    pub fn myself(activity: &str) -> Self {
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            activity: activity.to_owned(),
            since: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, pid, activity, since } = self;
        write!(formatter, "{activity} (process {pid} on {host}, since {since})")
    }
}

/// Whether others may hold the same lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody else.
    Exclusive,
    /// Any number of other sharers.
    Shared,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("it is held by {}", .0.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    Held(Option<Holder>),
    /// The lock file could not be opened or locked.
    #[error("could not lock it")]
    Io(#[from] io::Error),
}

/// A lock held by this process, and by every process that it hands the descriptor to.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    is_handed_on: AtomicBool,
}

impl Drop for FileLock {
    /// Lets go at once, and not only when the last copy of the descriptor is closed: a child that another thread
    /// is just starting has one for a moment. A lock that was handed on stays with whoever has it.
    fn drop(&mut self) {
        if !self.is_handed_on.load(Ordering::Relaxed) {
            // Closing the descriptor, which follows, lets go of it in any case.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl FileLock {
    pub(super) fn acquire(
        directory: &Directory,
        path: &Path,
        mode: LockMode,
        activity: &str,
    ) -> Result<Self, LockError> {
        let file = directory.open_lock_file(path)?;
        let operation = match mode {
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
        };
        match flock(&file, operation) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(read_holder(directory, path))),
            Err(error) => return Err(LockError::Io(error.into())),
        }
        let lock = Self { file, is_handed_on: AtomicBool::new(false) };
        Self::note(directory, path, &Holder::myself(activity));
        Ok(lock)
    }

    /// Waits, signalled by the kernel, until the lock is free, and takes it exclusively.
    pub(super) fn wait(directory: &Directory, path: &Path, activity: &str) -> Result<Self, LockError> {
        let file = directory.open_lock_file(path)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(LockError::Io(error.into())),
            }
        }
        let lock = Self { file, is_handed_on: AtomicBool::new(false) };
        Self::note(directory, path, &Holder::myself(activity));
        Ok(lock)
    }

    /// Writes into the lock file who holds it. The lock is what counts; the name inside only makes a refusal
    /// readable, so a full disk or a read-only mount is no error.
    pub(super) fn note(directory: &Directory, path: &Path, holder: &Holder) {
        if let Ok(text) = serde_json::to_vec(holder) {
            let _ = directory.overwrite(path, &text);
        }
    }

    /// Whether the lock could be taken now. It is let go of again at once.
    pub(super) fn probe(directory: &Directory, path: &Path) -> io::Result<bool> {
        match flock(&directory.open_file(path)?, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor that carries the lock into a child process.
    pub(super) fn descriptor_for_child(&self) -> io::Result<File> {
        self.is_handed_on.store(true, Ordering::Relaxed);
        self.file.try_clone()
    }
}

/// Who wrote its name into a lock file last; `None` when nobody did, or it cannot be read.
pub(super) fn read_holder(directory: &Directory, path: &Path) -> Option<Holder> {
    let bytes = directory.read_bounded(path, 4096).ok()?;
    serde_json::from_slice(&bytes).ok()
}
