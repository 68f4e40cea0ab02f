//! Processes of servers that nobody is known to have started: those that outlived their postmaster, and those of a
//! server that a person's script left behind.
//!
//! The former hold the lock of its cluster, and most notice its death within moments. Some do not: one that computes, and one
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

/// A process of a server, found by what it works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerProcessIn {
    /// Its process id.
    pub pid: i32,
    /// Whether it is called as a program is, and not what a postmaster calls its children.
    pub is_postmaster: bool,
}

/// Returns the processes of servers that work in a directory, whoever started them, and whatever its `postmaster.pid`
/// says, as far as they can be seen from here.
///
/// Each process of a server has its data directory as its working directory (miscinit.c, `ChangeToDataDir()`).
///
/// # Errors
/// When the directory is not there, or there is no `/proc`.
pub fn server_processes_in(directory: &Path) -> io::Result<Vec<ServerProcessIn>> {
    let directory = std::fs::metadata(directory)?;
    let works_in_it = |pid: i32| {
        let home = std::fs::metadata(format!("/proc/{pid}/cwd"));
        home.is_ok_and(|home| (home.dev(), home.ino()) == (directory.dev(), directory.ino()))
    };
    let is_server = |pid: i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        matches!(name.trim_end(), "postgres" | "postmaster")
    };
    let found = |pid: i32| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ServerProcessIn { pid, is_postmaster: !title.starts_with(TITLE) }
    };
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| is_server(*pid) && works_in_it(*pid) && is_alive(*pid)).map(found).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may hold anything; state and parent follow it.
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
