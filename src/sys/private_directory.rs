//! A directory for a socket that nobody else may reach.

use super::server_process::is_alive;
use super::socket::{Listening, listening};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where they are made.
const PARENTS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// What their names begin with; the process that made one, and a number, follow.
const PREFIX: &str = ".pgbox-";
/// How old one is at the least that is taken for left behind by its age: in a directory that containers share, the process
/// that made it cannot be seen from each of them.
const LEAST_AGE: Duration = Duration::from_mins(10);

/// A new directory with a short path and mode 0700, removed with all that is in it when dropped.
///
/// A Unix socket's path has at most 107 bytes, so it cannot be below a data directory of any length.
#[derive(Debug)]
pub struct PrivateDirectory {
    path: PathBuf,
}

impl PrivateDirectory {
    /// Makes one, where PostgreSQL keeps its sockets if that may be written, else for temporary files.
    pub fn new() -> io::Result<Self> {
        let mut answer = io::Error::from(io::ErrorKind::NotFound);
        for parent in PARENTS {
            let number = u64::from(std::process::id()) << 32
                | u64::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos()));
            let path = Path::new(parent).join(format!("{PREFIX}{number:x}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) => answer = error,
            }
        }
        Err(answer)
    }

    /// Writes a file in it, for nobody else to read.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a private directory that a killed process left, with what is in it. Returns whether it was one, and nobody
/// listens on a socket in it.
///
/// # Errors
/// When it could not be looked at or removed.
pub fn remove_left_behind(path: &Path) -> io::Result<bool> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_in_place = PARENTS.iter().any(|parent| path.parent() == Some(Path::new(parent)));
    if !is_in_place || !name.starts_with(PREFIX) {
        return Ok(false);
    }
    let facts = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        facts => facts?,
    };
    if !facts.is_dir() || facts.uid() != rustix::process::geteuid().as_raw() || facts.mode() & 0o777 != 0o700
    {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() && listening(&entry.path())? == Listening::Yes {
            return Ok(false);
        }
    }
    fs::remove_dir_all(path)?;
    Ok(true)
}

/// Removes the private directories whose makers are gone. What cannot be removed stays for the next time.
pub fn remove_all_left_behind() {
    let entries =
        PARENTS.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().filter_map(Result::ok);
    for path in entries.map(|entry| entry.path()).filter(|path| is_abandoned(path)) {
        let _ = remove_left_behind(&path);
    }
}

fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix(PREFIX).and_then(|number| u64::from_str_radix(number, 16).ok());
    let maker = number.and_then(|number| i32::try_from(number >> 32).ok());
    let modified = fs::symlink_metadata(path).and_then(|facts| facts.modified());
    let age = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
    maker.is_some_and(|maker| !is_alive(maker)) && age >= LEAST_AGE
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What cannot be removed is an empty directory in a place for such; there is nobody to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}
