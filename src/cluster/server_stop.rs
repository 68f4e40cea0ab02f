//! Stopping a server within a bounded time: a fast shutdown, then an immediate one, and SIGKILL as the last.
//!
//! A process that is stopped, or hangs, answers no signal of its postmaster, and a fast shutdown waits for it for ever. No
//! committed row is lost by an immediate shutdown or by SIGKILL: the next start replays the WAL. After either the cluster
//! must not be sealed.

use crate::format::duration;
use crate::progress::Progress;
use crate::sys::{
    HeldProcess, ServerProcess, Signal, continue_stopped_processes, held_server_processes, signal_server,
    wait_until_gone,
};
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// How a server was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By a fast shutdown: its control file says "shut down".
    Fast,
    /// By an immediate one, since the fast one took too long; the next start replays its WAL.
    Immediate,
    /// By SIGKILL, since it did not react to an immediate shutdown; the next start replays its WAL.
    Killed,
}

/// A server that is to be stopped.
#[derive(Clone, Copy, Debug)]
pub struct Stopping<'a> {
    /// Its postmaster.
    pub pid: i32,
    /// Its data directory; only processes that work in it are ever killed.
    pub data_directory: &'a Path,
    /// How long a fast and an immediate shutdown may take together.
    pub patience: Duration,
}

/// How much of the patience is kept for the immediate shutdown.
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server that is not needed any more may take for an immediate shutdown: after 5 s its postmaster kills its
/// children by itself (postmaster.c, `SIGKILL_CHILDREN_AFTER_SECS`).
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGKILL: one that waits for a disk ends only when the disk answers.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often what is left is killed: a postmaster may start a process in the moment before it dies.
const KILL_ROUNDS: usize = 3;
/// How many processes a message names.
const SHOWN_PROCESSES: usize = 5;

/// Stops a server. Each step after the fast shutdown is reported.
///
/// # Errors
/// When a process outlives even SIGKILL, or may not be signalled.
pub fn stop(stopping: &Stopping<'_>, progress: &dyn Progress) -> io::Result<Stopped> {
    let Stopping { pid, data_directory, patience } = *stopping;
    let immediate_patience = IMMEDIATE_PATIENCE.min(patience / 2);
    let fast_patience = patience.saturating_sub(immediate_patience);
    if !signal_server(pid, Signal::INT)? {
        return Ok(Stopped::Fast);
    }
    continue_stopped(data_directory, progress);
    if wait_until_gone(pid, fast_patience)? {
        return Ok(Stopped::Fast);
    }
    progress.note(&format!(
        "the fast shutdown did not finish within {}, {}: shutting the server down immediately",
        duration(fast_patience),
        waiting_for(data_directory)
    ));
    shut_down_immediately(&Stopping { patience: immediate_patience, ..*stopping }, progress)
}

/// Ends a server that this process started and whose cluster is not needed as it is. It is waited for, too.
///
/// # Errors
/// Those of [`stop`].
pub fn end(
    process: &mut ServerProcess,
    data_directory: &Path,
    progress: &dyn Progress,
) -> io::Result<ExitStatus> {
    if let Some(status) = process.try_wait()? {
        return Ok(status);
    }
    let pid = i32::try_from(process.pid()).map_err(io::Error::other)?;
    shut_down_immediately(&Stopping { pid, data_directory, patience: END_PATIENCE }, progress)?;
    process.wait()
}

fn shut_down_immediately(stopping: &Stopping<'_>, progress: &dyn Progress) -> io::Result<Stopped> {
    let Stopping { pid, data_directory, patience } = *stopping;
    if !signal_server(pid, Signal::QUIT)? {
        return Ok(Stopped::Immediate);
    }
    continue_stopped(data_directory, progress);
    if wait_until_gone(pid, patience)? {
        return Ok(Stopped::Immediate);
    }
    progress.note(&format!(
        "the immediate shutdown did not finish within {}, {}: killing what is left of the server",
        duration(patience),
        waiting_for(data_directory)
    ));
    kill(pid, data_directory)?;
    Ok(Stopped::Killed)
}

/// Kills the processes that work in the data directory, and no others.
fn kill(pid: i32, data_directory: &Path) -> io::Result<()> {
    for _ in 0..KILL_ROUNDS {
        let left = held_server_processes(data_directory)?;
        for process in &left {
            process.signal(Signal::KILL)?;
        }
        for process in &left {
            if !process.has_ended_within(KILL_PATIENCE)? {
                let text =
                    format!("{} did not end, not even by SIGKILL; it may wait for a disk", process.name());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        if left.is_empty() {
            break;
        }
    }
    if wait_until_gone(pid, KILL_PATIENCE)? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} did not end")))
}

/// Lets stopped processes go on, so that they hear of the shutdown. Where they cannot be looked at, the shutdown goes on
/// without it.
fn continue_stopped(data_directory: &Path, progress: &dyn Progress) {
    for name in continue_stopped_processes(data_directory).unwrap_or_default() {
        progress.note(&format!("{name} of the server was stopped by a signal; continued it (SIGCONT)"));
    }
}

/// Names the processes that a shutdown waits for.
fn waiting_for(data_directory: &Path) -> String {
    let left = held_server_processes(data_directory).unwrap_or_default();
    let names: Vec<String> = left.iter().take(SHOWN_PROCESSES).map(HeldProcess::name).collect();
    match left.len().saturating_sub(names.len()) {
        _ if names.is_empty() => "and its processes cannot be seen from here".to_owned(),
        0 => format!("still there: {}", names.join(", ")),
        more => format!("still there: {} and {more} more", names.join(", ")),
    }
}
