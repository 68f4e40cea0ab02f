//! What a first process (PID 1) needs of the kernel: children of its own and orphans of others, reaped.

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, set_child_subreaper, wait, waitpid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A child to start, which is who we are. It gets a process group of its own, so that a signal reaches all of it.
#[derive(Clone, Debug)]
pub struct Supervised {
    /// The program.
    pub program: PathBuf,
    /// What it is called with as `argv[0]`.
    pub name: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Whether it keeps our standard input, our standard output and our process group, as a person's command needs. What
    /// any other prints goes to standard error.
    pub keeps_terminal: bool,
    /// Variables set for it.
    pub environment: Vec<(String, String)>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// The exit status that a shell would report: the status itself, or 128 + the signal.
    pub fn exit_status(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128_i32.saturating_add(signal),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "status {status}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// How a process that was waited for ended.
pub(super) fn ended_of(status: std::process::ExitStatus) -> Option<Ended> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Some(Ended::Status(code)),
        (None, Some(signal)) => Some(Ended::Signal(signal)),
        (None, None) => None,
    }
}

/// Makes orphaned descendants our children, so that a supervisor that is not PID 1 can reap them.
pub fn become_subreaper() -> io::Result<()> {
    let myself = rustix::process::getpid();
    Ok(set_child_subreaper(Some(myself))?)
}

/// Whether this process is PID 1 of its namespace.
pub fn is_first_process() -> bool {
    rustix::process::getpid().as_raw_nonzero().get() == 1
}

/// Starts a child and returns its process id. It is reaped by [`reap_one`], never waited for otherwise.
pub fn spawn_supervised(spec: &Supervised) -> io::Result<i32> {
    let mut command = Command::new(&spec.program);
    command.arg0(&spec.name).args(&spec.arguments);
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if !spec.keeps_terminal {
        // Standard output is the command's alone: `docker run IMAGE echo hello` prints `hello`.
        command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    }
    let child = command.spawn()?;
    Ok(Pid::from_child(&child).as_raw_nonzero().get())
}

/// Reaps one child that has ended, ours or adopted, without waiting. `None`: there is none now.
pub fn reap_one() -> io::Result<Option<(i32, Ended)>> {
    match wait(WaitOptions::NOHANG) {
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Ok(Some((pid, status))) => {
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Status(code),
                (None, Some(signal)) => Ended::Signal(signal),
                (None, None) => return Ok(None),
            };
            Ok(Some((pid.as_raw_nonzero().get(), ended)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reaps one process that has ended, if it is a child of ours.
pub fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) {
        // Somebody else's child is somebody else's to reap.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Sends a signal to a child's whole process group. `false`: it was gone.
pub fn signal_group(pid: i32, signal: Signal) -> io::Result<bool> {
    let Some(group) = Pid::from_raw(pid).filter(|_| pid > 1) else { return Ok(false) };
    match kill_process_group(group, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Our children, started or adopted, that run a program of this name.
pub fn children_named(name: &str) -> Vec<i32> {
    let myself = rustix::process::getpid().as_raw_nonzero();
    let children =
        std::fs::read_to_string(format!("/proc/{myself}/task/{myself}/children")).unwrap_or_default();
    let has_name = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim_end() == name)
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(has_name).collect()
}

/// Whether one of a process's arguments is a path below a directory. Its command line may be read by anybody,
/// unlike its working directory, which root in a container without `CAP_SYS_PTRACE` may not look at.
pub fn has_argument_below(pid: i32, directory: &Path) -> bool {
    has_path(pid, |argument| argument != directory && argument.starts_with(directory))
}

/// Whether one of a process's arguments is this very path.
pub fn has_argument(pid: i32, path: &Path) -> bool {
    has_path(pid, |argument| argument == path)
}

fn has_path(pid: i32, is_meant: impl Fn(&Path) -> bool) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0).map(|argument| Path::new(OsStr::from_bytes(argument)));
    arguments.any(is_meant)
}
