//! A file that a person asked for, anywhere: whole under its name, or not there.

use super::directory::Directory;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is given up.
    Keep,
    /// The new one takes its place.
    Replace,
}

/// A file that is being written under a temporary name beside its own. Dropped unpublished, it is removed.
///
/// After a kill the temporary file stays, and never counts; whoever writes to the same name next removes it. A lock
/// tells it from one that is being written.
#[derive(Debug)]
pub struct OutputFile {
    directory: Directory,
    temporary: PathBuf,
    name: PathBuf,
    file: File,
    is_published: bool,
}

impl OutputFile {
    /// Begins a file that only its owner may read.
    ///
    /// # Errors
    /// Of kind `InvalidInput` for a path without a file name.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = Directory::open(parent.unwrap_or(Path::new(".")))?;
        let prefix = format!(".{}.pgbox-", name.to_string_lossy());
        remove_abandoned(&directory, &prefix);
        let temporary = PathBuf::from(format!("{prefix}{}.tmp", std::process::id()));
        let file = directory.create_file(&temporary, 0o600)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { directory, temporary, name: PathBuf::from(name), file, is_published: false })
    }

    /// Where its content goes.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name. When this returns, it is on disk.
    ///
    /// # Errors
    /// Of kind `AlreadyExists` when there is such a file, and it is to be kept.
    pub fn publish(mut self, existing: Existing) -> io::Result<()> {
        self.file.sync_all()?;
        match existing {
            Existing::Keep => self.directory.rename_to_new(&self.temporary, &self.name)?,
            Existing::Replace => self.directory.rename(&self.temporary, &self.name)?,
        }
        self.is_published = true;
        self.directory.sync_directory(Path::new("."))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.is_published {
            // Best effort: its name says what it was, and the next one removes it.
            let _ = self.directory.remove_file_if_there(&self.temporary);
        }
    }
}

/// Removes what killed writers left. Best effort: a directory that cannot be listed can still be written to.
fn remove_abandoned(directory: &Directory, prefix: &str) {
    let Ok(entries) = directory.entries(Path::new("."), super::Threads::One) else { return };
    let is_temporary =
        |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.strip_suffix(".tmp").is_some());
    for entry in entries.iter().filter(|entry| is_temporary(&entry.name)) {
        let Ok(file) = directory.open_file(Path::new(&entry.name)) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = directory.remove_file_if_there(Path::new(&entry.name));
        }
    }
}

/// The standard output as a file, without the line buffer that text goes through.
pub fn standard_output() -> io::Result<File> {
    Ok(File::from(rustix::io::dup(rustix::stdio::stdout())?))
}

/// The standard input as a file.
pub fn standard_input() -> io::Result<File> {
    Ok(File::from(rustix::io::dup(rustix::stdio::stdin())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_has_the_name_until_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar");
        let output = OutputFile::create(&path).unwrap();
        output.file().write_all(b"half").unwrap();
        assert!(!path.exists());

        drop(output);
        assert!(names(directory.path()).is_empty());

        let output = OutputFile::create(&path).unwrap();
        output.file().write_all(b"whole").unwrap();
        output.publish(Existing::Keep).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["bundle.tar"]);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_kept_unless_it_is_to_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar");
        let output = OutputFile::create(&path).unwrap();
        std::fs::write(&path, "theirs").unwrap();

        let error = output.publish(Existing::Keep).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        assert_eq!(names(directory.path()), ["bundle.tar"]);
        OutputFile::create(&path).unwrap().publish(Existing::Replace).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_another_writes_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar");
        std::fs::write(directory.path().join(".bundle.tar.pgbox-1.tmp"), "left").unwrap();
        let other = File::create(directory.path().join(".bundle.tar.pgbox-2.tmp")).unwrap();
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();

        OutputFile::create(&path).unwrap().publish(Existing::Keep).unwrap();

        assert_eq!(names(directory.path()), [".bundle.tar.pgbox-2.tmp", "bundle.tar"]);
    }
}
