//! Stopping a server because a person, or a restore, wants it down.

use super::Tools;
use super::verify::clear_left_behind;
use crate::cluster::inspect::running_server as running_in;
use crate::cluster::last_failure::LastFailure;
use crate::cluster::seal;
use crate::cluster::server_stop::{self, Stopped, Stopping};
use crate::error::{Failure, Kind};
use crate::sys::{ClaimError, OperationLock, ReadRoot, WriteRoot, set_stop_marker};
use anyhow::Context;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the last process of a server may outlive its postmaster.
const LAST_PROCESS_PATIENCE: Duration = Duration::from_secs(2);

/// The process id of the server of the data directory, if one can be seen.
pub fn running_server(tools: &Tools) -> anyhow::Result<Option<i32>> {
    let path = &tools.settings.data_directory;
    match ReadRoot::open(path) {
        Ok(root) => Ok(running_in(&root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open '{}'", path.display())),
    }
}

/// Stops the server, and notes that it is meant to stay down, so that the supervisor leaves it. `None`: none ran.
///
/// # Errors
/// [`Kind::Failed`] when it does not end.
pub fn stop_for_good(tools: &Tools) -> anyhow::Result<Option<Stopped>> {
    let path = &tools.settings.data_directory;
    clear_left_behind(tools);
    let Some(pid) = running_server(tools)? else { return Ok(None) };
    set_stop_marker(path).with_context(|| format!("note in '{}' that it is stopped", path.display()))?;
    LastFailure::clear(path).context("clear the note of a failed start")?;
    let stopped = stop_process(tools, pid)?;
    // Somebody at work here is about to start it, and would find the cluster claimed.
    if let Ok(operation) = OperationLock::take(path, "sealing the cluster") {
        seal_if_clean(tools, stopped, &operation);
    }
    Ok(Some(stopped))
}

/// Stops the server for as long as the caller works: whoever holds the operation lock is left alone by the
/// supervisor, and if it is killed, the supervisor brings the server back. `None`: none ran.
///
/// # Errors
/// [`Kind::Failed`] when it does not end.
pub fn stop_meanwhile(tools: &Tools, operation: &OperationLock) -> anyhow::Result<Option<Stopped>> {
    let Some(pid) = running_server(tools)? else { return Ok(None) };
    let stopped = stop_process(tools, pid)?;
    seal_if_clean(tools, stopped, operation);
    Ok(Some(stopped))
}

/// Seals the cluster of a server that has just been stopped by somebody who could not do it, such as PID 1.
///
/// # Errors
/// When a command is at work on the cluster, or the seal could not be written. Nothing depends on it.
pub fn seal_after_stop(data_directory: &Path) -> anyhow::Result<usize> {
    let _operation = OperationLock::take(data_directory, "sealing the cluster")?;
    let root = claim_from_stopped(data_directory)?;
    Ok(seal::write(&root)?)
}

/// Seals the cluster. That it could not be is told and no failure: the seal only finds more damage than can be found
/// without.
fn seal_if_clean(tools: &Tools, stopped: Stopped, _operation: &OperationLock) {
    if stopped != Stopped::Fast {
        return;
    }
    let sealed = claim_from_stopped(&tools.settings.data_directory).map_err(anyhow::Error::from);
    match sealed.and_then(|root| Ok(seal::write(&root)?)) {
        Ok(_) => {}
        Err(error) => tools.progress.note(&format!("the stopped cluster was not sealed: {error:#}")),
    }
}

/// Takes the lock that the server held. Its last process, such as its log collector, may outlive it for a moment.
fn claim_from_stopped(data_directory: &Path) -> Result<WriteRoot, ClaimError> {
    let deadline = Instant::now() + LAST_PROCESS_PATIENCE;
    loop {
        match WriteRoot::claim(data_directory, None, "sealing the cluster") {
            Err(ClaimError::Locked(_)) if Instant::now() < deadline => {
                // The kernel has no wait with a deadline for a lock.
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn stop_process(tools: &Tools, pid: i32) -> anyhow::Result<Stopped> {
    tools.progress.begin("stopping the server", None);
    let (data_directory, patience) = (&*tools.settings.data_directory, tools.settings.command_stop_timeout);
    let stopping = Stopping { pid, data_directory, patience };
    let stopped = server_stop::stop(&stopping, tools.progress).map_err(|error| {
        Failure::new(Kind::Failed, format!("could not stop the server: {error}"))
            .hint("see its log for what it waits for")
    });
    tools.progress.end();
    stopped.map_err(Into::into)
}
