//! The sockets that a server is about to take: what outlived another server is removed, what is in use is refused.
//!
//! What is left to PostgreSQL alone keeps a container down after it was killed: see [`crate::plan::socket_lock`].

use super::server::StartOptions;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::plan::socket_lock::{NumberHolder, SocketAnswer, SocketLock, SocketScene, SocketVerdict};
use crate::progress::Progress;
use crate::sys::{Listening, LockOwner, SocketDirectory, listening, socket_path};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For how long a lock file may be that of a server which is just starting and has not opened its socket yet.
const YOUNG: Duration = Duration::from_secs(2);
/// The pause between two looks at a young lock file: nothing tells when its server opens the socket.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that a server cannot have. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SocketInUse {
    /// A server has it, or may have it.
    #[error("the socket '{}' is in use by {holder}", .socket.display())]
    Held {
        /// The socket.
        socket: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// Its server is gone, and what that left could not be removed.
    #[error(
        "the lock file of the socket '{}' outlived its server ({reason}), and could not be removed: {error}",
        .socket.display()
    )]
    Stuck {
        /// The socket.
        socket: PathBuf,
        /// Why it belongs to no server.
        reason: String,
        /// Why it could not be removed.
        error: io::Error,
    },
}

/// Returns the directories in which a server will open its sockets: those that it is given, else those of its
/// configuration. None where that cannot be read: the server says so itself.
pub(super) fn directories_in_force(options: &StartOptions) -> Vec<PathBuf> {
    if let Some(directory) = &options.socket_directory {
        let is_set = !directory.as_os_str().is_empty();
        return is_set.then(|| directory.clone()).into_iter().collect();
    }
    let names = split_directories(options.configuration.socket_directories.as_deref().unwrap_or_default());
    // A relative name counts from the data directory, in which the server works.
    names
        .into_iter()
        .map(|name| if name.starts_with('@') { name.into() } else { options.data_directory.join(name) })
        .collect()
}

/// Splits a list of directories, each perhaps in double quotes (varlena.c, `SplitDirectoriesString()`).
fn split_directories(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        names.push(name.trim().to_owned());
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Looks at the socket of a port in every directory, and removes what outlived its server.
///
/// # Errors
/// [`SocketInUse`] for the first socket that a server cannot have.
pub(super) fn clear(directories: &[PathBuf], port: u16, progress: &dyn Progress) -> Result<(), SocketInUse> {
    directories.iter().try_for_each(|directory| clear_one(directory, port, progress))
}

fn clear_one(directory: &Path, port: u16, progress: &dyn Progress) -> Result<(), SocketInUse> {
    let socket = socket_path(directory, port);
    let is_abstract = directory.as_os_str().as_encoded_bytes().starts_with(b"@");
    let Some(sockets) = open(directory, is_abstract) else {
        return refuse_if_held(&socket, is_abstract);
    };
    loop {
        let scene = look(&sockets, &socket, port);
        let reason = match scene.verdict() {
            SocketVerdict::Free => return Ok(()),
            SocketVerdict::Held(holder) => return Err(SocketInUse::Held { socket, holder }),
            SocketVerdict::Relic(reason) => reason,
        };
        // In a directory that is shared with another container, its server may be between its lock and its socket. A
        // number that is nobody's the server itself takes for a dead one's.
        let may_be_starting = !matches!(scene.lock, SocketLock::Named { holder: NumberHolder::Nobody, .. });
        if may_be_starting && sockets.lock_age(port).is_some_and(|age| age < YOUNG) {
            std::thread::sleep(PAUSE);
            continue;
        }
        return match sockets.remove(port) {
            Ok(()) => {
                let shown = socket.display();
                progress.note(&format!(
                    "removed the socket '{shown}' of a dead server and its lock file: {reason}"
                ));
                Ok(())
            }
            Err(error) => Err(SocketInUse::Stuck { socket, reason, error }),
        };
    }
}

/// A directory that cannot be opened is the server's to complain of.
fn open(directory: &Path, is_abstract: bool) -> Option<SocketDirectory> {
    if is_abstract { None } else { SocketDirectory::open(directory).ok() }
}

/// A socket without a file has no lock file, and is gone with its server.
fn refuse_if_held(socket: &Path, is_abstract: bool) -> Result<(), SocketInUse> {
    if !is_abstract || !matches!(listening(socket), Ok(Listening::Yes)) {
        return Ok(());
    }
    let holder = "a process that left no name".to_owned();
    Err(SocketInUse::Held { socket: socket.to_path_buf(), holder })
}

fn look(sockets: &SocketDirectory, socket: &Path, port: u16) -> SocketScene {
    let answer = match listening(socket) {
        Ok(Listening::Yes) => SocketAnswer::Accepted,
        Ok(Listening::No) => SocketAnswer::Refused,
        Ok(Listening::NoSocket) => SocketAnswer::Absent,
        Err(error) => SocketAnswer::Unknown(error.to_string()),
    };
    let lock = match sockets.read_lock(port) {
        Ok(None) => SocketLock::Absent,
        Ok(Some(text)) => PostmasterPid::parse(&text)
            .map_or(SocketLock::Nameless, |named| name_holder(sockets, port, named)),
        Err(error) => SocketLock::Unreadable(error.to_string()),
    };
    SocketScene { lock, answer }
}

/// The lock file of a socket begins as `postmaster.pid` does (miscinit.c, `CreateLockFile()`).
fn name_holder(sockets: &SocketDirectory, port: u16, named: PostmasterPid) -> SocketLock {
    let home = named.data_directory.as_deref().map(Path::new);
    let holder = match sockets.owner(port, named.pid, home) {
        LockOwner::Nobody => NumberHolder::Nobody,
        LockOwner::OtherProgram(name) => NumberHolder::OtherProgram(name),
        LockOwner::OtherServer(home) => NumberHolder::OtherServer(home.display().to_string()),
        LockOwner::Unknown => NumberHolder::PossiblyOwner,
    };
    SocketLock::Named { pid: named.pid, data_directory: named.data_directory, holder }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_list_of_directories_is_split_as_the_server_does() {
        assert_eq!(split_directories("/run/a, \"/run/b, c\" ,@d"), ["/run/a", "/run/b, c", "@d"]);
        assert!(split_directories("  ").is_empty());
    }

    #[test]
    fn a_relic_in_one_of_several_directories_is_removed_and_a_live_socket_is_not() {
        let (relic, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lock = |directory: &Path| directory.join(".s.PGSQL.5432.lock");
        std::fs::write(lock(relic.path()), "999999999\n/gone\n1\n5432\n\n").unwrap();
        std::fs::write(lock(live.path()), "999999999\n/elsewhere\n1\n5432\n\n").unwrap();
        let _listener = UnixListener::bind(socket_path(live.path(), 5432)).unwrap();
        let both = [relic.path().to_path_buf(), live.path().to_path_buf()];

        let error = clear(&both, 5432, &Silent).unwrap_err();

        assert!(error.to_string().contains("the server in '/elsewhere'"), "{error}");
        assert!(!lock(relic.path()).exists() && lock(live.path()).exists());
    }
}
