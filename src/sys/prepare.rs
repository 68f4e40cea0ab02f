//! What only root can do before privileges are dropped: make directories and set their owners.

use super::identity::Identity;
use rustix::fs::{Access, AtFlags, CWD, Gid, Uid, chownat};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What [`fix_ownership`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnershipReport {
    /// Entries that now have the right owner.
    pub changed_count: usize,
    /// Entries that the file system would not let us change (root squash, a read-only mount).
    pub refused: Vec<PathBuf>,
}

/// Makes a directory with all above it, if it is missing, and gives what was made to `owner`.
///
/// A directory that exists keeps its owner and mode. Returns whether it was made.
pub fn ensure_directory(path: &Path, mode: u32, owner: Option<&Identity>) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        ensure_directory(parent, 0o755, None)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(false),
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if let Some(owner) = owner {
        set_owner(path, owner)?;
    }
    Ok(true)
}

/// Gives one entry to `owner`; a symlink itself, not what it points to.
pub fn set_owner(path: &Path, owner: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The entries of a tree that do not belong to `uid`, the root included; at most `limit` of them.
pub fn misowned_entries(path: &Path, uid: u32, limit: usize) -> Vec<PathBuf> {
    WalkDir::new(path)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.metadata().is_ok_and(|facts| facts.uid() != uid))
        .map(walkdir::DirEntry::into_path)
        .take(limit)
        .collect()
}

/// Gives every entry of a tree to `owner`, symlinks themselves and not what they point to.
///
/// Killed half-way, the rest is done the next time. What the file system refuses is reported, not fatal: on a
/// share with root squash the files may be usable all the same.
pub fn fix_ownership(path: &Path, owner: &Identity) -> io::Result<OwnershipReport> {
    let mut report = OwnershipReport::default();
    for entry in WalkDir::new(path) {
        let entry = entry.map_err(io::Error::other)?;
        if entry.metadata().map_err(io::Error::other)?.uid() == owner.uid {
            continue;
        }
        match set_owner(entry.path(), owner) {
            Ok(()) => report.changed_count += 1,
            Err(_) => report.refused.push(entry.into_path()),
        }
    }
    Ok(report)
}

/// Whether this process may make files in a directory.
pub fn is_writable_directory(path: &Path) -> bool {
    path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether this process may run a program.
pub fn is_runnable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}
