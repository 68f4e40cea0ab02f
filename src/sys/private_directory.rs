//! A directory for a socket that nobody else may reach.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
        for parent in ["/var/run/postgresql", "/tmp"] {
            let number = u64::from(std::process::id()) << 32
                | u64::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos()));
            let path = Path::new(parent).join(format!(".pgbox-{number:x}"));
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

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What cannot be removed is an empty directory in a place for such; there is nobody to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}
