//! What only root can do before privileges are dropped: make directories and set their owners.

use super::directory::{EntryKind, FileFacts, nanoseconds};
use super::identity::Identity;
use super::name::text_of;
use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, chownat, fchmod, fstat, openat, renameat_with,
};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
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
/// A directory that exists keeps its owner and mode. One that is made is `owner`'s from the first moment that it is there:
/// whoever else comes at the same time, or after a crash, finds none or the finished one. Returns whether it was made.
pub fn ensure_directory(path: &Path, mode: u32, owner: Option<&Identity>) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => return Ok(false),
        // One that cannot be looked at may be there all the same, as where the mount on it has died.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        ensure_directory(parent, 0o755, None)?;
    }
    let beside = name_beside(path)?;
    let placed = make_directory(&beside, mode, owner).and_then(|()| put_in_place(&beside, path));
    match placed {
        Ok(()) => Ok(true),
        Err(error) => {
            // Best effort: it is empty, and the error says more.
            let _ = fs::remove_dir(&beside);
            if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() { Ok(false) } else { Err(error) }
        }
    }
}

/// A name of our own in the same directory.
fn name_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    Ok(path.with_file_name(format!(".{}.pgbox-{pid}-{count}", name.to_string_lossy())))
}

fn make_directory(path: &Path, mode: u32, owner: Option<&Identity>) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    owner.map_or(Ok(()), |owner| set_owner(path, owner))
}

/// Renames a directory to a name that nothing may have. Some file systems cannot promise that; there a plain rename
/// does no harm either, since it replaces nothing but an empty directory.
fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            result => result,
        },
        result => Ok(result?),
    }
}

/// Gives one entry to `owner`; a symlink itself, not what it points to.
pub fn set_owner(path: &Path, owner: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Takes away what a directory's mode has over `mode`, if others than its owner and its group may write to it, and it is
/// `owner`'s. A link is not followed. Returns whether it was changed.
pub fn close_directory(path: &Path, mode: u32, owner: &Identity) -> io::Result<bool> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    let facts = fstat(&directory)?;
    let present = Mode::from_raw_mode(facts.st_mode);
    if facts.st_uid != owner.uid || !present.contains(Mode::WOTH) {
        return Ok(false);
    }
    fchmod(&directory, Mode::from_raw_mode(mode))?;
    Ok(true)
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

/// Gives those entries of a tree to `owner` that `is_wanted`, by their path below it, as a text, and their facts. Otherwise as
/// [`fix_ownership`].
pub fn give_entries(
    path: &Path,
    owner: &Identity,
    is_wanted: impl Fn(&str, &FileFacts) -> bool,
) -> io::Result<OwnershipReport> {
    let mut report = OwnershipReport::default();
    for entry in WalkDir::new(path) {
        let entry = entry.map_err(io::Error::other)?;
        let facts = facts_of_file(&entry.metadata().map_err(io::Error::other)?);
        let below = entry.path().strip_prefix(path).unwrap_or(entry.path());
        if !is_wanted(&text_of(below.as_os_str().as_encoded_bytes()), &facts) {
            continue;
        }
        match set_owner(entry.path(), owner) {
            Ok(()) => report.changed_count += 1,
            Err(_) => report.refused.push(entry.into_path()),
        }
    }
    Ok(report)
}

pub(super) fn facts_of_file(metadata: &fs::Metadata) -> FileFacts {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Special,
    };
    let modified_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
    let changed_ns = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
    let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    FileFacts { kind, size_bytes: metadata.len(), mode, uid, gid, modified_ns, changed_ns }
}

/// Whether this process may make files in a directory.
pub fn is_writable_directory(path: &Path) -> bool {
    path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether this process may run a program.
pub fn is_runnable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user_of;
    use std::sync::Barrier;

    #[test]
    fn of_many_who_make_a_directory_at_once_none_sees_it_before_it_is_the_owners() {
        let directory = tempfile::tempdir().unwrap();
        let ours = fs::metadata(directory.path()).unwrap().uid();
        // Only root can give it to somebody else.
        let owner = user_of(if ours == 0 { 65_534 } else { ours });
        for round in 0..200 {
            let path = directory.path().join(format!("{round}/data"));
            let barrier = Barrier::new(4);
            let make = || {
                barrier.wait();
                let made = ensure_directory(&path, 0o700, Some(&owner)).unwrap();
                let facts = fs::metadata(&path).unwrap();
                assert_eq!((facts.uid(), facts.mode() & 0o777), (owner.uid, 0o700));
                usize::from(made)
            };
            let made_count: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(made_count, 1);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left behind");
        }
    }
}
