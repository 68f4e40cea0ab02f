//! Processes of a server that outlived their postmaster.
//!
//! They hold the lock of its cluster, and most notice its death within moments. Some do not: one that computes, and one
//! that waits for a checkpoint sleeps for up to a minute at a time without a look at the postmaster (checkpointer.c,
//! `RequestCheckpoint()`).

use super::server_process::is_alive;
use super::write_root::DATA_LOCK;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What every process of a server but its postmaster is called (`ps_status.c`, `init_ps_display()`).
const TITLE: &[u8] = b"postgres: ";

/// The processes of a dead server that hold the lock of a data directory, as far as they can be seen from here: not
/// those in another container.
///
/// A server that lives has none: the parent of each of its processes, the postmaster, holds the lock, too.
///
/// # Errors
/// When the lock is not there, or there is no `/proc`.
pub fn orphaned_server_processes(data_directory: &Path) -> io::Result<Vec<i32>> {
    let lock = std::fs::metadata(data_directory.join(DATA_LOCK))?;
    let holds_lock = |pid: i32| {
        let input = std::fs::metadata(format!("/proc/{pid}/fd/0"));
        input.is_ok_and(|input| (input.dev(), input.ino()) == (lock.dev(), lock.ino()))
    };
    let is_orphan = |pid: &i32| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.starts_with(TITLE)
            && holds_lock(*pid)
            && parent_of(*pid).is_some_and(|parent| !holds_lock(parent))
            && is_alive(*pid)
    };
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_orphan).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may hold anything; state and parent follow it.
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
