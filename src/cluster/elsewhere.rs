//! Looks for a server that uses a data directory and cannot be seen from here: one that pgbox did not start, in another
//! container or PID namespace.
//!
//! What is found is judged in [`crate::plan::elsewhere`]. This module only reads.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::cluster::inspect::is_share;
use crate::cluster::own_settings::OwnSettings;
use crate::cluster::session::ServerAddress;
use crate::pg::layout::RelationFile;
use crate::pg::postmaster_pid::{PostmasterPid, ServerStatus};
use crate::pg::wal::is_segment_name;
use crate::plan::elsewhere::{Named, Signs, Writer, open_file, server_elsewhere as judge};
use crate::sys::{self, ReadRoot, WriteRoot, find_writer, mount_of};

/// Files that no server ever opens for writing; the first that is there shows whether leases work here.
const CONTROLS: [&str; 3] = ["PG_VERSION", "pg_hba.conf", "postgresql.conf"];
/// How many of the WAL segments that changed last are asked for: the server writes to the newest, and may just have
/// turned from one to the next.
const MOST_SEGMENTS: usize = 4;
/// How long a server may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How far apart a server's own start time and our note of it may be.
const START_TOLERANCE_SECONDS: i64 = 5;

/// Returns who uses the directory without being seen from here; `None` where nobody does. The caller has found that
/// nobody holds its lock, and that `postmaster.pid` names no server that can be seen.
pub(crate) fn server_elsewhere(root: &ReadRoot) -> Option<String> {
    let pid_file = read_pid_file(root);
    let named = named(root, pid_file.as_ref());
    let writer = find_writer_in(root);
    // Only what has to be known is looked for: the kernel's word, or a pid file that names no stranger, settles it.
    let is_open = matches!(named, Named::Other { .. }) && !matches!(writer, Writer::Somebody(_));
    let keeps_files_open = is_open && keeps_files_open(root, pid_file.as_ref());
    let is_open = is_open && !(keeps_files_open && writer == Writer::Nobody);
    let signs = Signs {
        writer,
        keeps_files_open,
        named,
        answers_at: pid_file.filter(|_| is_open).and_then(|pid_file| answering_address(&pid_file)),
        rest: if is_open { rest(root) } else { None },
    };
    judge(&signs)
}

/// Returns who has files of the cluster open for writing; `None` where nobody has, or nobody knows. The caller holds the
/// lock and writes to none of them.
pub(crate) fn writer_elsewhere(root: &ReadRoot) -> Option<String> {
    match find_writer_in(root) {
        Writer::Somebody(path) => Some(open_file(&path)),
        Writer::Nobody | Writer::Unknown(_) => None,
    }
}

/// The server opens every relation file for reading and writing, whatever it does with it (md.c, `mdopenfork()`). Its
/// launchers read `pg_database`, which is `global/1262`, at their start, and keep it open.
fn find_writer_in(root: &ReadRoot) -> Writer {
    let names = root.names("global").unwrap_or_default();
    let is_relation = |name: &&String| RelationFile::parse(name).is_some();
    let mut files: Vec<PathBuf> =
        names.iter().filter(is_relation).map(|name| PathBuf::from("global").join(name)).collect();
    // Those that tell most come first.
    files.sort_by_key(|file| !file.ends_with("1262"));
    files.extend(newest_segments(root));
    let control = CONTROLS.into_iter().find(|path| matches!(root.facts(path), Ok(Some(_))));
    match find_writer(root.path(), control.unwrap_or_default().as_ref(), &files) {
        // Each kernel knows of its own processes alone.
        sys::Writer::Nobody if is_on_share(root) => {
            Writer::Unknown("other machines may use the same files".to_owned())
        }
        sys::Writer::Nobody => Writer::Nobody,
        sys::Writer::Somebody(path) => Writer::Somebody(path),
        sys::Writer::Unknown(reason) => Writer::Unknown(reason),
    }
}

fn is_on_share(root: &ReadRoot) -> bool {
    mount_of(root.path()).is_ok_and(|mount| is_share(&mount.kind))
}

fn newest_segments(root: &ReadRoot) -> impl Iterator<Item = PathBuf> {
    let mut entries = root.entries("pg_wal").unwrap_or_default();
    entries.retain(|entry| is_segment_name(&entry.name));
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.facts.modified_ns));
    entries.into_iter().take(MOST_SEGMENTS).map(|entry| PathBuf::from("pg_wal").join(entry.name))
}

fn read_pid_file(root: &ReadRoot) -> Option<PostmasterPid> {
    PostmasterPid::parse(&root.read_text("postmaster.pid", 4096).ok()??).ok()
}

fn named(root: &ReadRoot, pid_file: Option<&PostmasterPid>) -> Named {
    // A server writes how far it is before it does anything (postmaster.c, `PostmasterMain()`); a single-user backend
    // never does.
    match pid_file.filter(|pid_file| pid_file.status.is_some()) {
        None => Named::Nothing,
        Some(pid_file) if is_ours(root, pid_file) => Named::Ours,
        Some(pid_file) => Named::Other { pid: pid_file.pid },
    }
}

/// Whether pgbox started that server. The number alone may be another's, in another container.
fn is_ours(root: &ReadRoot, pid_file: &PostmasterPid) -> bool {
    let Some(started) = pid_file.start_time else { return false };
    WriteRoot::servers_noted(root).iter().any(|note| {
        let is_same_time = chrono::DateTime::parse_from_rfc3339(&note.since)
            .is_ok_and(|noted| noted.timestamp().abs_diff(started) <= START_TOLERANCE_SECONDS.unsigned_abs());
        i64::from(note.pid) == i64::from(pid_file.pid) && is_same_time
    })
}

/// Whether a server of this configuration has a file open even when it has nothing to do: the launchers of autovacuum and
/// of logical replication do, on a primary that takes connections. Either may be turned off, in a file or on the command
/// line; what is not known counts as off.
fn keeps_files_open(root: &ReadRoot, pid_file: Option<&PostmasterPid>) -> bool {
    const LAUNCHERS: [&str; 5] = [
        "autovacuum",
        "track_counts",
        "max_logical_replication_workers",
        "max_worker_processes",
        "config_file",
    ];
    let is_ready = pid_file.is_none_or(|pid_file| pid_file.status == Some(ServerStatus::Ready));
    let is_standby = !matches!(root.facts("standby.signal"), Ok(None));
    let command_line = root.read_text("postmaster.opts", 1 << 16).ok().flatten().unwrap_or_default();
    let Ok(settings) = OwnSettings::read(root) else { return false };
    let sets = |name: &str| settings.get(name).is_some() || command_line.contains(name);
    is_ready && !is_standby && !settings.takes_in_others && !LAUNCHERS.iter().any(|name| sets(name))
}

/// The address in a pid file at which something takes connections.
fn answering_address(pid_file: &PostmasterPid) -> Option<String> {
    let address = ServerAddress::from_pid_file(pid_file)?;
    if let Some(directory) = &address.socket_directory {
        let socket = directory.join(format!(".s.PGSQL.{}", address.port));
        if UnixStream::connect(&socket).is_ok() {
            return Some(socket.display().to_string());
        }
    }
    let host = address.listen_address.filter(|host| host != "*").unwrap_or_else(|| "localhost".to_owned());
    let found = (host.as_str(), address.port).to_socket_addrs().ok()?;
    found
        .into_iter()
        .find(|found| TcpStream::connect_timeout(found, ANSWER_PATIENCE).is_ok())
        .map(|found| found.to_string())
}

/// How long ago anything changed that a server that works would change.
fn rest(root: &ReadRoot) -> Option<Duration> {
    let mut changed: Vec<i64> = ["global/pg_control", "postmaster.pid"]
        .into_iter()
        .filter_map(|path| Some(root.facts(path).ok()??.modified_ns))
        .collect();
    for directory in ["pg_wal", "global", "pg_stat_tmp"] {
        changed
            .extend(root.entries(directory).unwrap_or_default().iter().map(|entry| entry.facts.modified_ns));
    }
    let newest = u64::try_from(changed.into_iter().max()?).ok()?;
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_nanos(newest)).ok()
}
