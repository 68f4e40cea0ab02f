//! One directory, held open, and everything that may be done below it. Private to `sys`: the public roots
//! decide who may call the half that writes.
//!
//! cap-std resolves every path beneath the handle: no `..`, no absolute symlink, no escape. Its handles are
//! `O_PATH`, so a directory is synced through a fresh `open(".")`.
//!
//! Every name that leaves here, and every path that comes in, is a text that stands for bytes (`name`).

use super::giving::set_mode;
use super::name::{path_of, text_of};
use super::regular::{CAREFUL, checked};
use super::whole_sync::is_sound_for;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt, OpenOptions, OpenOptionsExt};
use rayon::prelude::*;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, Stat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How many bytes of names are asked for at once.
const LISTING_BUFFER_SIZE_BYTES: usize = 64 * 1024;
/// How many entries one thread looks at before another may take over: fewer are faster looked at than handed over.
const NAMES_AT_ONCE: usize = 256;

/// On how many threads a directory is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The caller's, without another being started: a process that still has privileges to drop must have but one.
    One,
    /// As many as there are processors.
    All,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, not followed.
    Symlink,
    /// A socket, fifo or device.
    Special,
}

/// What `stat` says of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content, nanoseconds since the epoch. Anybody who may write may set it back.
    pub modified_ns: i64,
    /// Last change of anything about it, its name and its owner among it, nanoseconds since the epoch. Nobody can set it.
    pub changed_ns: i64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without a path, as a text (see [`super::path_of`]).
    pub name: String,
    /// What it is.
    pub facts: FileFacts,
}

/// A directory held open.
#[derive(Debug)]
pub(super) struct Directory {
    dir: Dir,
    path: PathBuf,
}

fn facts_of(metadata: &cap_std::fs::Metadata) -> FileFacts {
    let kind = if metadata.is_file() {
        EntryKind::File
    } else if metadata.is_dir() {
        EntryKind::Directory
    } else if metadata.is_symlink() {
        EntryKind::Symlink
    } else {
        EntryKind::Special
    };
    FileFacts {
        kind,
        size_bytes: metadata.len(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    }
}

pub(super) fn facts_of_stat(stat: &Stat) -> FileFacts {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Special,
    };
    FileFacts {
        kind,
        size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ns: nanoseconds(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        changed_ns: nanoseconds(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default()),
    }
}

/// A time in nanoseconds since the epoch.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

pub(super) fn names_in(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut buffer = vec![MaybeUninit::uninit(); LISTING_BUFFER_SIZE_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        names.push(text_of(name.to_bytes()));
    }
    Ok(names)
}

/// One entry; `None` where it has vanished.
fn entry_in(directory: &OwnedFd, name: String) -> Option<io::Result<Entry>> {
    match rustix::fs::statat(directory, &*path_of(Path::new(&name)), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(Ok(Entry { facts: facts_of_stat(&stat), name })),
        Err(rustix::io::Errno::NOENT) => None,
        Err(error) => Some(Err(error.into())),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: Dir::open_ambient_dir(path, ambient_authority())?, path: path.to_path_buf() })
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { dir: self.dir.try_clone()?, path: self.path.clone() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file for reading. A link to another file below this directory is followed: what somebody put here
    /// may be read here.
    pub(super) fn open_file(&self, path: &Path) -> io::Result<File> {
        self.open_regular(path, OpenOptions::new().read(true), OFlags::empty())
    }

    /// Opens a regular file without waiting for anybody (`regular`).
    fn open_regular(&self, path: &Path, options: &mut OpenOptions, more: OFlags) -> io::Result<File> {
        let flags = (CAREFUL | more).bits();
        options.custom_flags(flags.cast_signed());
        let bytes = path_of(path);
        checked(&self.path.join(path), || Ok(self.dir.open_with(&bytes, options)?.into_std()))
    }

    /// Opens a regular file to be written to, which is not reached through a link.
    fn open_own(&self, path: &Path, options: &mut OpenOptions) -> io::Result<File> {
        self.open_regular(path, options, OFlags::NOFOLLOW)
    }

    pub(super) fn read_bounded(&self, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit_bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("'{}' is larger than {limit_bytes} bytes", path.display()),
            ));
        }
        Ok(bytes)
    }

    /// The facts of one entry, a symlink not followed; `None` when there is none.
    pub(super) fn facts(&self, path: &Path) -> io::Result<Option<FileFacts>> {
        match self.dir.symlink_metadata(path_of(path)) {
            Ok(metadata) => Ok(Some(facts_of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn own_facts(&self) -> io::Result<FileFacts> {
        Ok(facts_of(&self.dir.dir_metadata()?))
    }

    /// The entries of a directory in name order. One that vanishes while it is listed is left out.
    ///
    /// A cluster has a hundred thousand of them, so the kernel is asked directly: cap-std's own listing takes half as
    /// long again. The directory itself is opened through cap-std, and a name that the kernel lists is no path.
    pub(super) fn entries(&self, path: &Path, threads: Threads) -> io::Result<Vec<Entry>> {
        let directory = self.dir.open_dir(path_of(path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty())?;
        let mut names = names_in(&directory)?;
        // Files that were made one after the other lie together: asked for in this order, a cold disk seeks less.
        names.sort_unstable();
        match threads {
            Threads::One => names.into_iter().filter_map(|name| entry_in(&directory, name)).collect(),
            Threads::All => {
                let names = names.into_par_iter().with_min_len(NAMES_AT_ONCE);
                names.filter_map(|name| entry_in(&directory, name)).collect()
            }
        }
    }

    /// The names in a directory, in no order, without a look at what they name.
    pub(super) fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let directory = self.dir.open_dir(path_of(path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        names_in(&rustix::fs::openat(&directory, ".", flags, Mode::empty())?)
    }

    pub(super) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.dir.read_link_contents(path_of(path))
    }

    pub(super) fn subdirectory(&self, path: &Path) -> io::Result<Self> {
        let path = path_of(path);
        Ok(Self { dir: self.dir.open_dir(&path)?, path: self.path.join(path) })
    }

    // ---- the half that writes; reachable only through a root that was given leave to ----

    /// Creates a directory with exactly `mode`; one that is there is left as it is.
    pub(super) fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.mode(mode);
        match self.dir.create_dir_with(path_of(path), &builder) {
            Ok(()) => self.set_mode(path, mode),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.dir.is_dir(path_of(path)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a directory and those above it that are missing, each with `mode`.
    pub(super) fn create_directories(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut prefix = PathBuf::new();
        for component in path.components() {
            prefix.push(component);
            self.create_directory(&prefix, mode)?;
        }
        Ok(())
    }

    /// Creates a file that must not exist yet.
    pub(super) fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = self.open_own(path, options.write(true).read(true).create_new(true).mode(mode))?;
        // The umask of whoever started us must not decide who can read a cluster.
        set_mode(&file, mode)?;
        Ok(file)
    }

    /// Opens a file that is there for reading and writing.
    pub(super) fn open_to_change(&self, path: &Path) -> io::Result<File> {
        self.open_own(path, OpenOptions::new().read(true).write(true))
    }

    /// Opens a file for appending, creating it if need be.
    pub(super) fn append_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        self.open_own(path, OpenOptions::new().append(true).create(true).mode(mode))
    }

    /// Opens a file to hold a lock on, creating it empty if need be. It is open for reading only, so that a
    /// process that inherits the descriptor cannot change the file.
    pub(super) fn open_lock_file(&self, path: &Path) -> io::Result<File> {
        let mut create = OpenOptions::new();
        let created = self.open_own(path, create.write(true).create(true).truncate(false).mode(0o600));
        // Another user's lock file, or one on a read-only mount, can still be locked if it can be read.
        let opened = self.open_own(path, OpenOptions::new().read(true));
        opened.map_err(|error| created.err().unwrap_or(error))
    }

    /// Replaces the content of a file in place, without durability: for notes on which no data rest. What was there is
    /// written over and not cut first, so that a full disk has room for it.
    pub(super) fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = self.open_own(path, options.write(true).create(true).truncate(false).mode(0o600))?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)
    }

    /// Writes a file so that after a power cut it has either its old content or the new, whole.
    ///
    /// The bytes go to a temporary name in the same directory, are synced, renamed over the target, and the
    /// directory is synced. When this returns, the new content is on disk.
    pub(super) fn write_durably(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".pgbox-{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        self.remove_file_if_there(&temporary)?;
        let written = self.create_file(&temporary, mode).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written.and_then(|()| self.rename(&temporary, path)) {
            // Best effort: the error that matters is the first one, and the name says what the file was.
            let _ = self.remove_file_if_there(&temporary);
            return Err(error);
        }
        self.sync_directory(parent_of(path))
    }

    pub(super) fn create_symlink(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.dir.symlink_contents(path_of(target), path_of(path))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.dir.rename(path_of(from), &self.dir, path_of(to))
    }

    /// Renames, unless there is an entry of the new name: that is an error of kind `AlreadyExists`.
    pub(super) fn rename_to_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(
            &self.dir,
            &*path_of(from),
            &self.dir,
            &*path_of(to),
            RenameFlags::NOREPLACE,
        ) {
            // A file system that cannot do it in one step; between these two, another may take the name.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if self.facts(to)?.is_none() => {
                self.rename(from, to)
            }
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            result => Ok(result?),
        }
    }

    pub(super) fn remove_file_if_there(&self, path: &Path) -> io::Result<()> {
        match self.dir.remove_file(path_of(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a directory and all below it; symlinks are removed, never followed.
    pub(super) fn remove_tree(&self, path: &Path) -> io::Result<()> {
        match self.dir.remove_dir_all(path_of(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets the mode of a directory or a file, not of what a link points to.
    pub(super) fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        set_mode(&self.held(path)?, mode)
    }

    /// A handle of what has this name, not of what a link points to. It may neither be read nor written.
    fn held(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags((OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed());
        Ok(self.dir.open_with(path_of(path), &options)?.into_std())
    }

    pub(super) fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        self.set_mode(Path::new("."), mode)
    }

    pub(super) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags((OFlags::DIRECTORY | CAREFUL).bits().cast_signed());
        self.dir.open_with(path_of(path), &options)?.sync_all()
    }

    /// Syncs a file or a directory.
    pub(super) fn sync_entry(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(CAREFUL.bits().cast_signed());
        self.dir.open_with(path_of(path), &options)?.sync_all()
    }

    /// Writes everything below this directory to disk: all of its file system in one call where that does it, else
    /// file by file.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        let here = self.dir.open(".")?;
        if is_sound_for(&here)? {
            return Ok(rustix::fs::syncfs(&here)?);
        }
        self.sync_tree(Path::new("."))
    }

    /// Syncs every file and directory below a path; links are not followed. A file that we may not read is none that we
    /// wrote.
    fn sync_tree(&self, path: &Path) -> io::Result<()> {
        for entry in self.entries(path, Threads::One)? {
            let place = path.join(&entry.name);
            match entry.facts.kind {
                EntryKind::Directory => self.sync_tree(&place)?,
                EntryKind::File => match self.open_file(&place) {
                    Ok(file) => file.sync_all()?,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    Err(error) => return Err(error),
                },
                EntryKind::Symlink | EntryKind::Special => {}
            }
        }
        self.sync_directory(path)
    }
}

/// Sets the modification time of an open file.
pub(super) fn set_modified(file: &File, modified_ns: i64) -> io::Result<()> {
    let time = match u64::try_from(modified_ns) {
        Ok(after) => UNIX_EPOCH + Duration::from_nanos(after),
        Err(_) => UNIX_EPOCH - Duration::from_nanos(modified_ns.unsigned_abs()),
    };
    file.set_modified(time)
}
