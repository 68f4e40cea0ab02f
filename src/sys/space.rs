//! How full a file system is.

use std::io;
use std::path::Path;

/// Space on the file system that holds a directory, as an unprivileged user sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DiskSpace {
    /// Size of the file system in bytes, less what is kept for root.
    pub total_bytes: u64,
    /// What can still be written.
    pub available_bytes: u64,
}

impl DiskSpace {
    /// Used part in whole percent, rounded up like `df`.
    pub fn used_percent(&self) -> u64 {
        let used = self.total_bytes.saturating_sub(self.available_bytes);
        if self.total_bytes == 0 { 0 } else { used.saturating_mul(100).div_ceil(self.total_bytes) }
    }
}

/// Asks the file system that holds `path`.
///
/// `statvfs` rather than a list of disks: in a container a bind mount names no disk of its own.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let facts = rustix::fs::statvfs(path)?;
    let kept_for_root = facts.f_bfree.saturating_sub(facts.f_bavail);
    Ok(DiskSpace {
        total_bytes: facts.f_blocks.saturating_sub(kept_for_root).saturating_mul(facts.f_frsize),
        available_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
    })
}
