//! The one long-lived child: a postmaster, started so that it outlives us and keeps the cluster's lock.
//!
//! The lock's descriptor becomes the postmaster's standard input. That is the only descriptor that reaches
//! it, without a moment in which another child could inherit it too, and it is open for reading only.
//! `pg_ctl` is not used to start: it puts a shell and `/dev/null` in between.

use super::process::ProcessError;
use super::regular::open_log;
use super::secrets::{PASSWORD_VARIABLES, give_back_core_limit};
use super::step_point::OWN_VARIABLES;
use super::wait::ChangeWatch;
use super::write_root::WriteRoot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How to start a server.
#[derive(Debug)]
pub struct ServerSpec {
    /// The `postgres` program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that it gets besides those of this process.
    pub environment: Vec<(&'static str, OsString)>,
    /// The file that its standard output and error are appended to.
    pub log_file: PathBuf,
}

/// A server that this process started.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    pidfd: OwnedFd,
}

/// A server that only has to be started.
pub struct PreparedServer<'a> {
    command: Command,
    program: &'a Path,
    root: &'a WriteRoot,
}

impl PreparedServer<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// [`ProcessError`]; no server was started then.
    pub fn start(mut self) -> Result<ServerProcess, ProcessError> {
        let failed = |reason: io::Error| start_error(self.program, reason);
        let child = self.command.spawn().map_err(failed)?;
        give_back_core_limit(pid_of(&child));
        let pidfd = pidfd_open(pid_of(&child), PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        self.root.note_server(child.id());
        Ok(ServerProcess { child, pidfd })
    }
}

fn start_error(program: &Path, reason: io::Error) -> ProcessError {
    match reason.kind() {
        io::ErrorKind::NotFound if !program.exists() => ProcessError::Missing(program.to_path_buf()),
        _ => ProcessError::Io { program: program.to_path_buf(), reason },
    }
}

impl ServerProcess {
    /// Prepares a server that holds the lock of `root` for as long as it, or any process of it, lives: all that can be
    /// refused is done before it is started.
    ///
    /// # Errors
    /// [`ProcessError`]; its log file may have been made.
    pub fn prepare<'a>(
        spec: &'a ServerSpec,
        root: &'a WriteRoot,
    ) -> Result<PreparedServer<'a>, ProcessError> {
        let failed = |reason: io::Error| start_error(&spec.program, reason);
        if !spec.program.exists() {
            return Err(ProcessError::Missing(spec.program.clone()));
        }
        let log = open_log(&spec.log_file, 0o640).map_err(|error| {
            let text = format!("could not open its log file '{}': {error}", spec.log_file.display());
            failed(io::Error::new(error.kind(), text))
        })?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .current_dir("/")
            .stdin(root.lock().descriptor_for_child().map_err(failed)?)
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .envs(spec.environment.iter().map(|(name, value)| (*name, value)))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("PGPORT")
            .env_remove("PGDATA")
            .env_remove("PGPASSWORD")
            .process_group(0);
        for variable in OWN_VARIABLES.iter().chain(&PASSWORD_VARIABLES) {
            command.env_remove(variable);
        }
        Ok(PreparedServer { command, program: &spec.program, root })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until the watched directory changes, the server ends, or the time is over, whichever is first.
    pub fn wait_for_change(&self, watch: &ChangeWatch, timeout: Duration) -> io::Result<()> {
        watch.wait(Some(self.pidfd.as_fd()), timeout)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(pid_of(&self.child), signal)?)
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn to_pid(pid: i32) -> Option<Pid> {
    Pid::from_raw(pid).filter(|_| pid > 0)
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let Some(process) = to_pid(pid) else { return false };
    match test_kill_process(process) {
        Ok(()) => !is_zombie(pid),
        Err(error) => error == rustix::io::Errno::PERM,
    }
}

fn is_zombie(pid: i32) -> bool {
    // The state follows the command name, which is in parentheses and may hold anything.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| text.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z')))
        .unwrap_or(false)
}

/// What a process is, as far as it can be seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProcessKind {
    /// There is none of that number.
    Gone,
    /// It is one of PostgreSQL's server processes, or may be.
    Postgres,
    /// It is another program, by its name.
    Other(String),
    /// It may not be looked at.
    Hidden,
}

/// Returns what a process is, by its name and its program.
///
/// The kernel's name of a process is that of its program: a server's title does not change it (`ps_status.c`). A wrapper
/// such as an emulator shows as another program; then the name counts.
pub(super) fn process_kind(pid: i32) -> ProcessKind {
    // Whole names: `init-postgresql` is one of ours.
    const NAMES: [&str; 3] = ["postgres", "postmaster", "edb-postgres"];
    if !is_alive(pid) {
        return ProcessKind::Gone;
    }
    let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { return ProcessKind::Hidden };
    let name = name.trim_end().to_owned();
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if NAMES.iter().any(|known| name == *known || program == *known) {
        return ProcessKind::Postgres;
    }
    ProcessKind::Other(name)
}

/// Whether a live process is a PostgreSQL server of this data directory.
///
/// A postmaster's working directory is its data directory (miscinit.c, `ChangeToDataDir()`). Another program may have
/// its working directory there, too, and after a container is started again its number may be the dead server's. Where
/// the process may not be looked at, one of that name counts: refusing is the safe mistake.
pub fn is_postmaster_of(pid: i32, data_directory: &Path) -> bool {
    if u32::try_from(pid) == Ok(std::process::id()) {
        return false;
    }
    let kind = process_kind(pid);
    if !matches!(kind, ProcessKind::Postgres | ProcessKind::Hidden) {
        return false;
    }
    let home = std::fs::metadata(format!("/proc/{pid}/cwd"));
    match (home, std::fs::metadata(data_directory)) {
        (Ok(home), Ok(data)) => home.dev() == data.dev() && home.ino() == data.ino(),
        (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => kind == ProcessKind::Postgres,
        _ => false,
    }
}

/// Sends a signal to a server that somebody else started. `false`: there was no such process.
pub fn signal_server(pid: i32, signal: Signal) -> io::Result<bool> {
    let Some(process) = to_pid(pid) else { return Ok(false) };
    match kill_process(process, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a process has ended, or the time is over. Returns whether it has.
pub fn wait_until_gone(pid: i32, timeout: Duration) -> io::Result<bool> {
    let Some(process) = to_pid(pid) else { return Ok(true) };
    let pidfd = match pidfd_open(process, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    ended_within(&pidfd, timeout)
}

/// Waits until the process of a descriptor has ended, or the time is over. Returns whether it has.
pub(super) fn ended_within(pidfd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
