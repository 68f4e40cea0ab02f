//! Processes of servers that nobody is known to have started: those that outlived their postmaster, and those of a
//! server that a person's script left behind.
//!
//! The former hold the lock of its cluster, and most notice its death within moments. Some do not: one that computes, and one
//! that waits for a checkpoint sleeps for up to a minute at a time without a look at the postmaster (checkpointer.c,
//! `RequestCheckpoint()`).

use super::server_process::is_alive;
use super::supervise::has_argument;
use super::write_root::DATA_LOCK;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What every process of a server but its postmaster is called (`ps_status.c`, `init_ps_display()`).
const TITLE: &[u8] = TITLE_TEXT.as_bytes();
const TITLE_TEXT: &str = "postgres: ";

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
/// Each process of a server has its data directory as its working directory (miscinit.c, `ChangeToDataDir()`). Root in a
/// container without `CAP_SYS_PTRACE` may not look at that; there, the command line of the postmaster tells.
///
/// # Errors
/// When the directory is not there, or there is no `/proc`.
pub fn server_processes_in(directory: &Path) -> io::Result<Vec<ServerProcessIn>> {
    let facts = std::fs::metadata(directory)?;
    let works_in_it = |pid: i32| match std::fs::metadata(format!("/proc/{pid}/cwd")) {
        Ok(home) => (home.dev(), home.ino()) == (facts.dev(), facts.ino()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            has_argument(pid, directory)
                || parent_of(pid).is_some_and(|parent| has_argument(parent, directory))
        }
        Err(_) => false,
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

/// Whether clients have sessions on the server that works in a directory, as far as the titles of its processes tell.
///
/// # Errors
/// When the processes cannot be listed.
pub fn has_client_sessions(directory: &Path) -> io::Result<bool> {
    let title = |process: &ServerProcessIn| std::fs::read(format!("/proc/{}/cmdline", process.pid));
    let processes = server_processes_in(directory)?;
    let mut titles = processes.iter().filter_map(|process| title(process).ok());
    Ok(titles.any(|title| is_client_session(&String::from_utf8_lossy(&title))))
}

/// Whether a title is that of a session that serves: `postgres: USER DATABASE HOST(PORT) ACTIVITY`, `[local]` for a
/// socket (`backend_startup.c`, `BackendInitialize()`). Before it serves, the activity is one of those below.
fn is_client_session(title: &str) -> bool {
    const NOT_SERVED_YET: [&str; 3] = ["authentication", "initializing", "startup"];
    let title = title.trim_end_matches('\0');
    let words: Vec<&str> = title.strip_prefix(TITLE_TEXT).unwrap_or_default().split_whitespace().collect();
    let is_peer = |word: &&str| *word == "[local]" || (word.contains('(') && word.ends_with(')'));
    let Some(peer) = words.iter().position(is_peer) else { return false };
    words.get(peer + 1).is_some_and(|activity| !NOT_SERVED_YET.contains(activity))
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may hold anything; state and parent follow it.
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::over_a_socket("postgres: app shop [local] idle\0\0", true)]
    #[case::over_tcp("postgres: app shop 10.0.0.7(51234) idle in transaction", true)]
    #[case::in_a_cluster_with_a_name("postgres: main: app shop ::1(51234) SELECT waiting", true)]
    #[case::a_standby("postgres: walsender rep 10.0.0.8(40000) streaming 0/3000148", true)]
    #[case::not_let_in_yet("postgres: app shop [local] authentication", false)]
    #[case::not_ready_yet("postgres: app shop 10.0.0.7(51234) startup", false)]
    #[case::a_process_of_its_own("postgres: checkpointer ", false)]
    #[case::a_worker("postgres: parallel worker for PID 4711", false)]
    #[case::the_postmaster("/usr/lib/postgresql/15/bin/postgres\0-D\0/data(1)\0", false)]
    fn a_session_of_a_client_is_known_by_its_title(#[case] title: &str, #[case] expected: bool) {
        assert_eq!(is_client_session(title), expected);
    }
}
