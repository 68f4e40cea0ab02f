//! What only root can do before privileges are dropped: make directories and set their owners.

use super::directory::names_in;
use super::giving::{HeldDirectory, set_mode, set_owner};
use super::identity::Identity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    Access, AtFlags, Mode, OFlags, RenameFlags, fstat, mkdirat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a directory with all above it, if it is missing, and gives what was made to `owner`.
///
/// A directory that exists keeps its owner and mode. One that is made is `owner`'s from the first moment that it is there:
/// whoever else comes at the same time, or after a crash, finds none or the finished one. Returns whether it was made.
pub fn ensure_directory(path: &Path, mode: u32, owner: Option<&Identity>) -> io::Result<bool> {
    match HeldDirectory::open(path) {
        Ok(_) => return Ok(false),
        // One that cannot be looked at may be there all the same, as where the mount on it has died.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound) => return Err(error),
        Err(_) => {}
    }
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure_directory(above, 0o755, None)?;
    let parent = HeldDirectory::open(above)?;
    let beside = name_beside(name);
    let placed =
        make_directory(&parent, &beside, mode, owner).and_then(|()| put_in_place(&parent, &beside, name));
    match placed {
        Ok(()) => Ok(true),
        Err(error) => {
            // Best effort: it is empty, and the error says more.
            let _ = unlinkat(&parent, beside.as_str(), AtFlags::REMOVEDIR);
            let is_there = error.kind() == io::ErrorKind::AlreadyExists && HeldDirectory::open(path).is_ok();
            if is_there { Ok(false) } else { Err(error) }
        }
    }
}

/// A name of our own in the same directory.
fn name_beside(name: &OsStr) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!(".{}.pgbox-{pid}-{count}", name.to_string_lossy())
}

/// Makes a directory of this mode and owner, by the descriptor of what was made.
///
/// Whoever may write to the directory above can put another in its place before it is opened, so that only an empty one
/// of ours is given.
fn make_directory(parent: &HeldDirectory, name: &str, mode: u32, owner: Option<&Identity>) -> io::Result<()> {
    mkdirat(parent, name, Mode::from_raw_mode(mode & 0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = openat(parent, name, flags, Mode::empty())?;
    let is_ours = owner.is_none() || fstat(&directory)?.st_uid == rustix::process::geteuid().as_raw();
    if !is_ours || !names_in(&directory)?.is_empty() {
        return Err(io::Error::other("somebody put another directory in the place of the new one"));
    }
    set_mode(&directory, mode)?;
    owner.map_or(Ok(()), |owner| set_owner(&directory, owner))
}

/// Renames a directory to a name that nothing may have. Some file systems cannot promise that; there a plain rename
/// does no harm either, since it replaces nothing but an empty directory.
fn put_in_place(parent: impl AsFd, from: &str, to: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::renameat(parent, from, parent, to) {
            Err(Errno::NOTEMPTY) => Err(io::ErrorKind::AlreadyExists.into()),
            result => Ok(result?),
        },
        result => Ok(result?),
    }
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
    use std::fs;
    use std::os::unix::fs::MetadataExt;
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
