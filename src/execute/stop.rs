//! Stopping a server because a person, or a restore, wants it down.

use super::Tools;
use crate::cluster::inspect::running_server as running_in;
use crate::cluster::server::{self, Stopped};
use crate::error::{Failure, Kind};
use crate::sys::{OperationLock, ReadRoot, set_stop_marker};
use anyhow::Context;
use std::io;
use std::time::Duration;

/// How long a fast shutdown may take before it becomes an immediate one: it writes out every changed page.
const PATIENCE: Duration = Duration::from_mins(2);

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
    let Some(pid) = running_server(tools)? else { return Ok(None) };
    set_stop_marker(path).with_context(|| format!("note in '{}' that it is stopped", path.display()))?;
    stop_process(tools, pid).map(Some)
}

/// Stops the server for as long as the caller works: whoever holds the operation lock is left alone by the
/// supervisor, and if it is killed, the supervisor brings the server back. `None`: none ran.
///
/// # Errors
/// [`Kind::Failed`] when it does not end.
pub fn stop_meanwhile(tools: &Tools, _operation: &OperationLock) -> anyhow::Result<Option<Stopped>> {
    let Some(pid) = running_server(tools)? else { return Ok(None) };
    stop_process(tools, pid).map(Some)
}

fn stop_process(tools: &Tools, pid: i32) -> anyhow::Result<Stopped> {
    tools.progress.begin("stopping the server", None);
    let stopped = server::stop(pid, PATIENCE).map_err(|error| {
        Failure::new(Kind::Failed, format!("could not stop the server: {error}"))
            .hint("see its log for what it waits for")
    });
    tools.progress.end();
    stopped.map_err(Into::into)
}
