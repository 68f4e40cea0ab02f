//! The sockets of servers: whether anybody listens on one, and removing what outlived its server.

use super::directory::Directory;
use super::server_process::{ProcessKind, process_kind};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A lock file holds a few lines; more is not read.
const LOCK_LIMIT_BYTES: u64 = 4096;

/// What a connection to a socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Somebody listens on it.
    Yes,
    /// It is there, and nobody listens on it.
    No,
    /// There is no such socket.
    NoSocket,
}

/// Tries whether anybody listens on a Unix socket; a name that begins with `@` is one without a file.
///
/// It never waits: a server whose queue of connections is full listens, too.
///
/// # Errors
/// When that could not be told, such as for want of permission.
pub fn listening(socket_path: &Path) -> io::Result<Listening> {
    let name = socket_path.as_os_str().as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(socket_path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INPROGRESS) => Ok(Listening::Yes),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(Listening::No),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(Listening::NoSocket),
        Err(error) => Err(error.into()),
    }
}

/// Who has a process number now, seen beside the lock file of a socket that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOwner {
    /// Nobody.
    Nobody,
    /// A process that is not PostgreSQL's, by its name.
    OtherProgram(String),
    /// A process of PostgreSQL that works in this directory, which is not the one that the lock file names.
    OtherServer(PathBuf),
    /// It may be the server that wrote the lock file.
    Unknown,
}

/// A directory that servers keep their sockets in. Only a socket and its lock file can be removed from it.
#[derive(Debug)]
pub struct SocketDirectory {
    directory: Directory,
}

impl SocketDirectory {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { directory: Directory::open(path)? })
    }

    /// Returns the text of a socket's lock file; `None` where there is none.
    pub fn read_lock(&self, port: u16) -> io::Result<Option<String>> {
        match self.directory.read_bounded(Path::new(&lock_name(port)), LOCK_LIMIT_BYTES) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns who has the process number that a socket's lock file names now.
    pub fn owner(&self, port: u16, pid: i32, data_directory: Option<&Path>) -> LockOwner {
        match process_kind(pid) {
            ProcessKind::Gone => LockOwner::Nobody,
            ProcessKind::Other(name) => LockOwner::OtherProgram(name),
            ProcessKind::Postgres => other_home(pid, data_directory),
            ProcessKind::Hidden => self.owner_hidden(port),
        }
    }

    /// A process that may not be looked at is another user's, and then not the owner of a lock file of ours.
    fn owner_hidden(&self, port: u16) -> LockOwner {
        let ours = rustix::process::geteuid().as_raw();
        match self.directory.facts(Path::new(&lock_name(port))) {
            Ok(Some(facts)) if facts.uid == ours => LockOwner::OtherProgram("another user's".to_owned()),
            _ => LockOwner::Unknown,
        }
    }

    /// Returns how long ago a socket's lock file was written; `None` where there is none.
    pub fn lock_age(&self, port: u16) -> Option<std::time::Duration> {
        let facts = self.directory.facts(Path::new(&lock_name(port))).ok()??;
        let modified_ns = u64::try_from(facts.modified_ns).ok()?;
        let modified = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(modified_ns);
        // One of the future is of another clock, and old.
        Some(modified.elapsed().unwrap_or(std::time::Duration::MAX))
    }

    /// Removes a socket and then its lock file, each if it is there. Cut short, it leaves a lock file without a socket,
    /// which is a relic as before.
    pub fn remove(&self, port: u16) -> io::Result<()> {
        self.directory.remove_file_if_there(Path::new(&socket_name(port)))?;
        self.directory.remove_file_if_there(Path::new(&lock_name(port)))
    }
}

/// A postmaster works in its data directory (miscinit.c, `ChangeToDataDir()`), and so do its children.
fn other_home(pid: i32, data_directory: Option<&Path>) -> LockOwner {
    let home = format!("/proc/{pid}/cwd");
    let (Ok(here), Ok(link)) = (std::fs::metadata(&home), std::fs::read_link(&home)) else {
        return LockOwner::Unknown;
    };
    let Some(named) = data_directory else { return LockOwner::Unknown };
    match std::fs::metadata(named) {
        Ok(named) if (named.dev(), named.ino()) == (here.dev(), here.ino()) => LockOwner::Unknown,
        Ok(_) => LockOwner::OtherServer(link),
        Err(error) if error.kind() == io::ErrorKind::NotFound => LockOwner::OtherServer(link),
        Err(_) => LockOwner::Unknown,
    }
}

/// The name of a server's socket (pqcomm.h, `UNIXSOCK_PATH`).
fn socket_name(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

fn lock_name(port: u16) -> String {
    format!(".s.PGSQL.{port}.lock")
}

/// Returns the path of a server's socket.
pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(socket_name(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_listens_refuses_or_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path(), 5432);
        assert_eq!(listening(&path).unwrap(), Listening::NoSocket);

        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(listening(&path).unwrap(), Listening::Yes);

        drop(listener);
        assert_eq!(listening(&path).unwrap(), Listening::No);
    }

    #[test]
    fn a_socket_without_a_file_is_tried_by_its_name() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("@pgbox-test-{}", std::process::id());
        assert_eq!(listening(Path::new(&name)).unwrap(), Listening::No);

        let address = std::os::unix::net::SocketAddr::from_abstract_name(name.get(1..).unwrap()).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();

        assert_eq!(listening(Path::new(&name)).unwrap(), Listening::Yes);
    }

    #[test]
    fn a_socket_and_its_lock_file_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".s.PGSQL.5432", ".s.PGSQL.5432.lock", ".s.PGSQL.5433", "other"] {
            std::fs::write(directory.path().join(name), "7\n").unwrap();
        }
        let sockets = SocketDirectory::open(directory.path()).unwrap();
        assert_eq!(sockets.read_lock(5432).unwrap().as_deref(), Some("7\n"));

        sockets.remove(5432).unwrap();

        assert_eq!(sockets.read_lock(5432).unwrap(), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        sockets.remove(5432).unwrap();
    }

    #[test]
    fn the_number_of_a_process_that_is_no_server_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = SocketDirectory::open(directory.path()).unwrap();
        let myself = i32::try_from(std::process::id()).unwrap();

        assert!(matches!(sockets.owner(5432, myself, None), LockOwner::OtherProgram(_)));
        assert!(matches!(sockets.owner(5432, 1, None), LockOwner::OtherProgram(_)));
        assert_eq!(sockets.owner(5432, 999_999_999, None), LockOwner::Nobody);
    }
}
