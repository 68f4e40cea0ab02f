//! Processes of a server that are signalled by a descriptor, so that no signal reaches whoever has their number next.

use super::orphans::{ServerProcessIn, server_processes_in};
use super::server_process::ended_within;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// A process of a server, held by a descriptor.
#[derive(Debug)]
pub struct HeldProcess {
    process: ServerProcessIn,
    pidfd: OwnedFd,
}

/// Returns the processes of servers that work in a directory, the postmaster first.
///
/// # Errors
/// Those of [`server_processes_in`].
pub fn held_server_processes(directory: &Path) -> io::Result<Vec<HeldProcess>> {
    let mut held: Vec<HeldProcess> =
        server_processes_in(directory)?.into_iter().filter_map(HeldProcess::open).collect();
    // A number that passed to another process before it was held is not in the second list, unless the other process is
    // of this server, too.
    let still = server_processes_in(directory)?;
    held.retain(|held| still.iter().any(|process| process.pid == held.pid()));
    held.sort_by_key(|held| !held.process.is_postmaster);
    Ok(held)
}

/// Lets every stopped process of a server go on (`SIGCONT`), and returns their names.
///
/// # Errors
/// When one may not be signalled, and those of [`server_processes_in`].
pub fn continue_stopped_processes(directory: &Path) -> io::Result<Vec<String>> {
    let stopped = held_server_processes(directory)?.into_iter().filter(HeldProcess::is_stopped);
    stopped.map(|process| process.signal(Signal::CONT).map(|()| process.name())).collect()
}

impl HeldProcess {
    fn open(process: ServerProcessIn) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { process, pidfd })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// What a person knows it by: `process 12 (checkpointer)`.
    pub fn name(&self) -> String {
        let title = std::fs::read_to_string(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        let title = title.replace('\0', " ");
        let what = match title.trim().strip_prefix("postgres: ") {
            Some(title) => title.to_owned(),
            None => "postmaster".to_owned(),
        };
        format!("process {} ({})", self.pid(), what.trim())
    }

    /// Whether a signal, such as SIGSTOP, stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Sends it a signal. That it has ended is no error.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, or the time is over. Returns whether it has.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn has_ended_within(&self, timeout: Duration) -> io::Result<bool> {
        ended_within(&self.pidfd, timeout)
    }
}
