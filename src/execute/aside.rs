//! Single files that are moved or copied out of the way before something else takes their name, below `.pgbox/aside`.
//!
//! What is there is never overwritten: a second file of the same name gets a number. The refused alternative, one place
//! for each name, lost the first file, which may have been the last whole copy of something, when another one broke in
//! the same way. The one exception is `postmaster.pid`: it says nothing but which process there was, and every kill leaves
//! another one.

use super::linked::{Elsewhere, is_there, parent_of};
use crate::cluster::inspect::ASIDE_DIRECTORY;
use crate::sys::{EntryKind, WriteRoot};
use anyhow::Context;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file that is not worth keeping twice.
const NOT_KEPT_TWICE: &str = "postmaster.pid";
/// What is compared at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Moves an entry out of the way, and returns where it is now. After a crash it is in one of the two places.
///
/// # Errors
/// When it cannot be moved; it is where it was then.
pub(super) fn set_aside_file(root: &WriteRoot, place: &str) -> anyhow::Result<PathBuf> {
    let moved = || -> io::Result<PathBuf> {
        root.create_directories(ASIDE_DIRECTORY, 0o700)?;
        let target = match Elsewhere::of(root, place)? {
            Some(elsewhere) => return move_from_elsewhere(root, &elsewhere, place),
            None => move_aside(root, place)?,
        };
        root.sync_directory(ASIDE_DIRECTORY)?;
        root.sync_directory(parent_of(place))?;
        Ok(target)
    };
    moved().with_context(|| format!("set '{place}' aside"))
}

/// Moves an entry out of the way, and returns where it is now. The directory of what is set aside must be there; the caller
/// syncs it, and then the directory that the entry was in.
pub(super) fn move_aside(root: &WriteRoot, place: &str) -> io::Result<PathBuf> {
    let target = place_aside(root, place)?;
    root.rename(place, &target)?;
    Ok(target)
}

/// Another disk: a rename cannot reach it, so the file is copied, and removed once the copy is on the disk.
fn move_from_elsewhere(root: &WriteRoot, elsewhere: &Elsewhere, place: &str) -> io::Result<PathBuf> {
    let target = free_place(root, &place_of(place))?;
    copy_durably(root, elsewhere.directory.open_file(&elsewhere.name)?, &target)?;
    root.sync_directory(ASIDE_DIRECTORY)?;
    elsewhere.directory.remove_file(&elsewhere.name)?;
    elsewhere.directory.sync_directory(".")?;
    Ok(target)
}

/// Copies a file aside, so that its name is never without a file while it is replaced. `None`: it is not there.
///
/// # Errors
/// When it cannot be read, or the copy cannot be written.
pub(super) fn keep_copy(root: &WriteRoot, place: &str) -> anyhow::Result<Option<PathBuf>> {
    let kept = || -> io::Result<Option<PathBuf>> {
        if !is_there(root, place)? {
            return Ok(None);
        }
        root.create_directories(ASIDE_DIRECTORY, 0o700)?;
        let elsewhere = Elsewhere::of(root, place)?;
        let open = || match &elsewhere {
            Some(elsewhere) => elsewhere.directory.open_file(&elsewhere.name),
            None => root.open_file(place),
        };
        let kept = keep_content(root, open, &place_of(place))?;
        root.sync_directory(ASIDE_DIRECTORY)?;
        Ok(Some(kept))
    };
    kept().with_context(|| format!("keep a copy of '{place}'"))
}

/// Copies a file below `.pgbox/aside`, to a name or to that name with a number. One that is kept already, with the same
/// content, is not copied again. The caller syncs the directory.
///
/// # Errors
/// When it cannot be read, or the copy cannot be written.
pub(super) fn keep_content(
    root: &WriteRoot,
    open: impl Fn() -> io::Result<File>,
    wanted: &Path,
) -> io::Result<PathBuf> {
    for candidate in numbered(wanted) {
        match root.facts(&candidate)? {
            None => {
                copy_durably(root, open()?, &candidate)?;
                return Ok(candidate);
            }
            Some(facts) if facts.kind == EntryKind::File => {
                if is_same_content(open()?, root.open_file(&candidate)?)? {
                    return Ok(candidate);
                }
            }
            Some(_) => {}
        }
    }
    Err(io::Error::other("there is no free name"))
}

/// Where an entry would be kept, if nothing of its name were.
fn place_of(place: &str) -> PathBuf {
    Path::new(ASIDE_DIRECTORY).join(place.replace('/', "_"))
}

/// Where an entry is moved.
fn place_aside(root: &WriteRoot, place: &str) -> io::Result<PathBuf> {
    let wanted = place_of(place);
    let is_file = |path: &Path| -> io::Result<bool> {
        Ok(root.facts(path)?.is_none_or(|facts| facts.kind == EntryKind::File))
    };
    if place == NOT_KEPT_TWICE && is_file(place.as_ref())? && is_file(&wanted)? {
        return Ok(wanted);
    }
    free_place(root, &wanted)
}

fn free_place(root: &WriteRoot, wanted: &Path) -> io::Result<PathBuf> {
    for candidate in numbered(wanted) {
        if root.facts(&candidate)?.is_none() {
            return Ok(candidate);
        }
    }
    Err(io::Error::other("there is no free name"))
}

/// A name, and then the same with 2, 3 and so on.
fn numbered(wanted: &Path) -> impl Iterator<Item = PathBuf> {
    let numbered = |number: u32| {
        let mut name = wanted.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    std::iter::once(wanted.to_owned()).chain((2..=u32::MAX).map(numbered))
}

fn is_same_content(mut left: File, mut right: File) -> io::Result<bool> {
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let count = left.read(&mut ours)?;
        let (Some(ours), Some(theirs)) = (ours.get(..count), theirs.get_mut(..count)) else {
            return Ok(false);
        };
        if count == 0 {
            return Ok(true);
        }
        match right.read_exact(theirs) {
            Ok(()) if ours == theirs => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Copies a file to a name that is free.
fn copy_durably(root: &WriteRoot, mut file: File, target: &Path) -> io::Result<()> {
    let mut copy = root.create_file(target, 0o600)?;
    io::copy(&mut file, &mut copy)?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "global/file";

    fn with_root(test: impl FnOnce(&WriteRoot)) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("global")).unwrap();
        let root = WriteRoot::claim(directory.path(), None, "testing").unwrap();
        test(&root);
    }

    fn write(root: &WriteRoot, content: &str) {
        std::fs::write(root.path().join(PLACE), content).unwrap();
    }

    fn names(root: &WriteRoot) -> Vec<String> {
        let mut names = root.names(ASIDE_DIRECTORY).unwrap();
        names.sort();
        names
    }

    fn kept(root: &WriteRoot) -> Vec<String> {
        let read =
            |name: &String| root.read_text(Path::new(ASIDE_DIRECTORY).join(name), 100).unwrap().unwrap();
        names(root).iter().map(|name| format!("{name}: {}", read(name))).collect()
    }

    #[test]
    fn what_is_set_aside_again_gets_a_number_and_the_first_stays() {
        with_root(|root| {
            for content in ["first", "second", "second"] {
                write(root, content);
                set_aside_file(root, PLACE).unwrap();
                assert!(root.facts(PLACE).unwrap().is_none());
            }
            assert_eq!(kept(root), ["global_file: first", "global_file-2: second", "global_file-3: second"]);
        });
    }

    #[test]
    fn a_copy_is_kept_once_for_each_content() {
        with_root(|root| {
            for content in ["first", "other", "first", "other", "longer"] {
                write(root, content);
                keep_copy(root, PLACE).unwrap();
            }
            assert_eq!(kept(root), ["global_file: first", "global_file-2: other", "global_file-3: longer"]);
        });
    }

    #[test]
    fn a_directory_that_was_set_aside_is_not_in_the_way() {
        with_root(|root| {
            for _ in 0..2 {
                std::fs::create_dir(root.path().join(PLACE)).unwrap();
                set_aside_file(root, PLACE).unwrap();
            }
            write(root, "file");
            keep_copy(root, PLACE).unwrap();
            assert_eq!(names(root), ["global_file", "global_file-2", "global_file-3"]);
        });
    }

    #[test]
    fn the_pid_files_of_killed_servers_do_not_pile_up() {
        with_root(|root| {
            for content in ["7", "8"] {
                std::fs::write(root.path().join(NOT_KEPT_TWICE), content).unwrap();
                set_aside_file(root, NOT_KEPT_TWICE).unwrap();
            }
            assert_eq!(kept(root), ["postmaster.pid: 8"]);
        });
    }
}
