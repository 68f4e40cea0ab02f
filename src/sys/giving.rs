//! Gives directories and files to another user, and sets modes: the only code that does either.
//!
//! Root works in directories that others may write to, and whoever may write to one can exchange what a name means at
//! any moment. So nothing here acts on a path. A directory is held open, each name in it is opened as a handle without
//! following a link, that handle is looked at, and the change goes to that very handle; a directory is descended into by
//! its handle. What is changed has to be a directory or a regular file with no other name, on the file system of the
//! directory where the walk began, and root's or a former server user's: a link that was planted, a hard link to
//! somebody's file or a mount in between lead nowhere.
//!
//! The refused alternative, a walk by path that does not follow links, is won by a rename between its look and its change.

use super::directory::{EntryKind, FileFacts, facts_of_stat, names_in};
use super::identity::Identity;
use super::name::path_of;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (namei.h, `MAXSYMLINKS`).
const MOST_LINKS: usize = 40;
/// As many refusals as are kept; a person needs the first ones.
const MOST_REFUSALS: usize = 1000;
/// A handle that serves to look and to descend, and opens nothing.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why an entry was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It belongs to a user whose files are not ours to give.
    Foreign {
        /// Who that is.
        uid: u32,
    },
    /// The file has another name elsewhere, perhaps somebody's.
    HasOtherName,
    /// It is on another file system than the directory that it is in.
    OtherFileSystem,
    /// The directory holds files of others, and the server's user may not write to it.
    NotOnlyOurs,
    /// The file system did not let it be changed (root squash, a read-only mount).
    Denied,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign { uid } => write!(formatter, "it belongs to user {uid}"),
            Self::HasOtherName => formatter.write_str("the file has another name elsewhere (a hard link)"),
            Self::OtherFileSystem => formatter.write_str("it is on another file system"),
            Self::NotOnlyOurs => formatter.write_str("it holds files of others"),
            Self::Denied => formatter.write_str("the file system does not let its owner be changed"),
        }
    }
}

/// What was given, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnershipReport {
    /// Entries that now have the right owner.
    pub changed_count: usize,
    /// Entries that were wanted and kept their owner, and why.
    pub refused: Vec<(PathBuf, Refusal)>,
}

/// Who gets what.
#[derive(Clone, Copy, Debug)]
pub struct Giving<'a> {
    /// The new owner.
    pub owner: &'a Identity,
    /// Whose entries are given besides root's: a former server user's.
    pub former: Option<u32>,
}

impl Giving<'_> {
    fn is_known(self, uid: u32) -> bool {
        uid == 0 || uid == self.owner.uid || Some(uid) == self.former
    }
}

/// A directory held open, whatever becomes of its name.
#[derive(Debug)]
pub struct HeldDirectory {
    handle: OwnedFd,
    path: PathBuf,
}

impl AsFd for HeldDirectory {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl HeldDirectory {
    /// Opens a directory. For root, a link on the way counts only if it is root's own: nobody else decides where root
    /// acts.
    ///
    /// # Errors
    /// Of kind `NotFound` where there is none, `PermissionDenied` for a link that is another user's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (handle, _) = walk_to(path)?;
        match FileType::from_raw_mode(fstat(&handle)?.st_mode) {
            FileType::Directory => Ok(Self { handle, path: path.to_path_buf() }),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// What it is and whose.
    pub fn facts(&self) -> io::Result<FileFacts> {
        Ok(facts_of_stat(&fstat(&self.handle)?))
    }

    /// The names in it, in no order.
    pub fn names(&self) -> io::Result<Vec<String>> {
        names_in(&listable(&self.handle)?)
    }

    /// What an entry is, a link not followed; `None` where there is none.
    pub fn facts_of(&self, name: &str) -> io::Result<Option<FileFacts>> {
        match openat(&self.handle, &*path_of(Path::new(name)), HANDLE, Mode::empty()) {
            Ok(handle) => Ok(Some(facts_of_stat(&fstat(&handle)?))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the directory itself, and nothing in it.
    pub fn give(&self, owner: &Identity) -> io::Result<()> {
        if self.facts()?.uid == owner.uid { Ok(()) } else { set_owner(&self.handle, owner) }
    }

    /// Makes an empty file of `owner`'s in it, unless something has that name.
    pub fn make_file(&self, name: &str, mode: u32, owner: &Identity) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.handle, name, flags, Mode::from_raw_mode(mode & 0o600)) {
            Ok(file) => set_mode(&file, mode).and_then(|()| set_owner(&file, owner)),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says whether a user may make files in it, by its mode.
    pub fn is_writable_by(&self, user: &Identity) -> io::Result<bool> {
        let facts = self.facts()?;
        let bits = match facts.uid {
            uid if uid == user.uid => 0o300,
            _ if user.groups().contains(&facts.gid) => 0o030,
            _ => 0o003,
        };
        Ok(facts.mode & bits == bits)
    }

    /// Takes away what its mode has over `mode`, where it is `owner`'s and everybody may write to it.
    pub fn close_to_others(&self, mode: u32, owner: &Identity) -> io::Result<()> {
        let facts = self.facts()?;
        if facts.uid == owner.uid && facts.mode & 0o002 != 0 { self.set_mode(mode) } else { Ok(()) }
    }

    /// Sets its mode.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        set_mode(&self.handle, mode)
    }

    /// Gives those entries below that `is_wanted`, by their path below it, as a text, and their facts.
    ///
    /// Links, sockets and the like keep their owners, and nothing is looked for in a directory that is a stranger's.
    /// Killed half-way, the rest is given the next time.
    ///
    /// # Errors
    /// When a directory cannot be listed. What cannot be given is in the report.
    pub fn give_below(
        &self,
        giving: Giving<'_>,
        is_wanted: &dyn Fn(&str, &FileFacts) -> bool,
    ) -> io::Result<OwnershipReport> {
        let device = fstat(&self.handle)?.st_dev;
        let mut walk =
            Walk { giving, is_wanted, device, root: &self.path, report: OwnershipReport::default() };
        walk.descend(&self.handle, "")?;
        Ok(walk.report)
    }
}

struct Walk<'a> {
    giving: Giving<'a>,
    is_wanted: &'a dyn Fn(&str, &FileFacts) -> bool,
    device: u64,
    root: &'a Path,
    report: OwnershipReport,
}

impl Walk<'_> {
    fn descend(&mut self, directory: &OwnedFd, below: &str) -> io::Result<()> {
        let mut names = names_in(&listable(directory)?)?;
        names.sort_unstable();
        for name in names {
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            match openat(directory, &*path_of(Path::new(&name)), HANDLE, Mode::empty()) {
                Ok(handle) => self.look_at(&handle, &path)?,
                // It has vanished meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn look_at(&mut self, handle: &OwnedFd, path: &str) -> io::Result<()> {
        let stat = fstat(handle)?;
        let facts = facts_of_stat(&stat);
        let is_directory = facts.kind == EntryKind::Directory;
        if !is_directory && facts.kind != EntryKind::File {
            return Ok(());
        }
        let refusal = self.refusal(&stat, &facts);
        if facts.uid != self.giving.owner.uid && (self.is_wanted)(path, &facts) {
            self.give(handle, path, refusal);
        }
        if is_directory && refusal.is_none() { self.descend(handle, path) } else { Ok(()) }
    }

    fn give(&mut self, handle: &OwnedFd, path: &str, refusal: Option<Refusal>) {
        let refusal = match refusal {
            Some(refusal) => Some(refusal),
            None => set_owner(handle, self.giving.owner).err().map(|_| Refusal::Denied),
        };
        match refusal {
            None => self.report.changed_count += 1,
            Some(refusal) if self.report.refused.len() < MOST_REFUSALS => {
                self.report.refused.push((self.root.join(path_of(Path::new(path))), refusal));
            }
            Some(_) => {}
        }
    }

    /// Says why an entry is none to be given, nor a directory to look for such in.
    fn refusal(&self, stat: &Stat, facts: &FileFacts) -> Option<Refusal> {
        if stat.st_dev != self.device {
            return Some(Refusal::OtherFileSystem);
        }
        if !self.giving.is_known(facts.uid) {
            return Some(Refusal::Foreign { uid: facts.uid });
        }
        (facts.kind == EntryKind::File && stat.st_nlink != 1).then_some(Refusal::HasOtherName)
    }
}

/// Gives what a handle holds to a user.
pub(super) fn set_owner(handle: impl AsFd, owner: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(handle, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Sets the mode of the directory or the file that a handle or an open descriptor holds.
pub(super) fn set_mode(held: impl AsFd, mode: u32) -> io::Result<()> {
    let held = held.as_fd();
    match rustix::fs::fchmod(held, Mode::from_raw_mode(mode)) {
        // A handle has no such call of its own. The kernel's name for it leads to what it holds, never by a path.
        Err(Errno::BADF) if FileType::from_raw_mode(fstat(held)?.st_mode) != FileType::Symlink => {
            let name = format!("/proc/self/fd/{}", held.as_raw_fd());
            Ok(rustix::fs::chmod(name, Mode::from_raw_mode(mode))?)
        }
        Err(Errno::BADF) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a link")),
        result => Ok(result?),
    }
}

/// Opens what a handle holds so that it can be listed.
fn listable(directory: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Returns the path without links of what a path leads to. For root, a link on the way counts only if it is root's own.
///
/// # Errors
/// As [`HeldDirectory::open`].
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    Ok(walk_to(path)?.1)
}

/// Walks a path name by name to what it leads to, and the path without links that it is at.
fn walk_to(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let mut names = names_of(&std::path::absolute(path)?);
    let (mut here, mut place) = (root_directory()?, PathBuf::from("/"));
    let mut link_count = 0;
    while let Some(name) = names.pop_front() {
        let next = openat(&here, name.as_os_str(), HANDLE, Mode::empty())?;
        // Not by what `fstat` says: that asks the file system, and a mount whose server is gone does not answer.
        let target = match readlinkat(&next, "", Vec::new()) {
            Ok(target) => PathBuf::from(OsStr::from_bytes(target.as_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => {
                // Of what is no directory, the kernel says so at the next name.
                here = next;
                match name.to_str() {
                    Some("..") => _ = place.pop(),
                    _ => place.push(name),
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        link_count += 1;
        ensure_trusted(&next, &name)?;
        if link_count > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            (here, place) = (root_directory()?, PathBuf::from("/"));
        }
        let mut further = names_of(&target);
        further.append(&mut names);
        names = further;
    }
    Ok((here, place))
}

/// Makes sure that root follows a link only if it is root's own.
fn ensure_trusted(link: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stat = fstat(link)?;
    // One of root's under another name may have been put there by anybody.
    if stat.st_uid == 0 && stat.st_nlink == 1 {
        return Ok(());
    }
    let (name, uid) = (name.display(), stat.st_uid);
    let text = format!("'{name}' is a link of user {uid}, and root follows no links but its own");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn root_directory() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn names_of(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests;
