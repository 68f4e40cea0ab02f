//! Staging: where a cluster is built beside the present one, seen to be sound, and taken over from.

use super::Tools;
use crate::cluster::inspect::{self, Depth, Expectations};
use crate::cluster::server_stop::{self, Stopping};
use crate::error::{Failure, Kind};
use crate::format::bytes;
use crate::plan::Diagnosis;
use crate::progress::Silent;
use crate::sys::{
    ServerProcessIn, Signal, WriteRoot, disk_space, effective_identity, server_processes_in, signal_server,
    wait_until_gone,
};
use anyhow::{Context, bail};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a cluster is built, below the data directory.
pub(super) const STAGING: &str = ".pgbox/new";
/// How long a server that was left in it may take for a fast shutdown.
const STOP_PATIENCE: Duration = Duration::from_mins(2);
/// How long a process that outlived its server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How many processes are ended at the most, so that something that starts new ones is noticed.
const MOST_SERVERS: usize = 100;

/// Where staging has what the data directory has at `path`.
pub(super) fn staged(path: impl AsRef<Path>) -> PathBuf {
    Path::new(STAGING).join(path)
}

/// Empties the staging directory and makes it again. What was in it was never in place.
///
/// A server that a script of a killed command left in it is stopped first: it would go on without its files.
pub(super) fn clear_staging(root: &WriteRoot) -> anyhow::Result<()> {
    end_servers_in_staging(root)?;
    root.discard(STAGING).context("clear the staging directory")?;
    root.create_directory(STAGING, 0o700).context("make the staging directory")
}

/// Stops every server that works in the staging directory, whoever started it.
///
/// The caller has stopped its own. A script of a person's may have restarted that one (`pg_ctl restart`): the new one has
/// no lock and no parent that we know of, and would go on in a directory that is about to be moved.
///
/// # Errors
/// When one does not end. Then nothing of staging may be moved or removed.
pub(super) fn end_servers_in_staging(root: &WriteRoot) -> anyhow::Result<()> {
    let staging = root.path().join(STAGING);
    let list = || match server_processes_in(&staging) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.context("look for a server in the staging directory"),
    };
    for _ in 0..MOST_SERVERS {
        let processes = list()?;
        let Some(first) = processes.iter().find(|process| process.is_postmaster).or(processes.first()) else {
            return Ok(());
        };
        end(*first, &staging).context("stop a server that a script left in the staging directory")?;
    }
    bail!("servers are started again and again in '{}'", staging.display())
}

/// Stops a server; a process that outlived one gets what a postmaster sends to it (postmaster.c, `HandleChildCrash()`).
fn end(process: ServerProcessIn, staging: &Path) -> io::Result<()> {
    if process.is_postmaster {
        let stopping = Stopping { pid: process.pid, data_directory: staging, patience: STOP_PATIENCE };
        return server_stop::stop(&stopping, &Silent).map(|_| ());
    }
    for signal in [Signal::QUIT, Signal::KILL] {
        if !signal_server(process.pid, signal)? || wait_until_gone(process.pid, END_PATIENCE)? {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} did not end", process.pid)))
}

/// The same inspection that a cluster in place gets, but for its configuration, which is in place already or was
/// written by initdb.
pub(super) fn inspect_staged(tools: &Tools, root: &WriteRoot, depth: Depth) -> anyhow::Result<Diagnosis> {
    let expectations = Expectations {
        wanted_version: None,
        installed_versions: vec![tools.installation.version],
        server_uid: effective_identity().uid,
        depth,
        programs: None,
    };
    inspect::inspect(&root.path().join(STAGING), &expectations).context("inspect what was built")
}

/// What is free on the disk of a directory.
pub(super) fn available_bytes(path: &Path) -> anyhow::Result<u64> {
    let space = disk_space(path).with_context(|| format!("ask how full '{}' is", path.display()))?;
    Ok(space.available_bytes)
}

/// Fails where `needed_bytes` do not fit beside the present cluster. `action` is what they are for: "restore …".
///
/// # Errors
/// [`Kind::Refused`]: want of room says nothing about what was to be done, and may pass.
pub(super) fn ensure_room(root: &Path, needed_bytes: u64, action: &str) -> anyhow::Result<()> {
    let available_bytes = available_bytes(root)?;
    let missing_bytes = needed_bytes.saturating_sub(available_bytes);
    if missing_bytes == 0 {
        return Ok(());
    }
    let message = format!(
        "could not {action}: it takes {} beside the present data, and {} are free on the disk of '{}'",
        bytes(needed_bytes),
        bytes(available_bytes),
        root.display()
    );
    let hint = format!("free {} there, then run it again. Nothing was changed.", bytes(missing_bytes));
    Err(Failure::new(Kind::Refused, message).hint(hint).into())
}
