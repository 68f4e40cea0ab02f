//! Replaying the WAL with nobody connected, and a clean stop after it, so that an inspection can have the last word.
//!
//! In place it is a server in single-user mode, which ends with its input, so also when we are killed: one that went on
//! in the background would be taken for the one that serves, and nobody could reach it.

use super::Tools;
use super::failed_start::{replay_failure, start_failure};
use super::private_server::{PrivateServer, PrivateStart};
use super::single_user::{KEEP_ALL_WAL, run_single_user};
use crate::cluster::{control_file, seal};
use crate::error::{Failure, Kind};
use crate::pg::control_file::{CONTROL_FILE, ClusterState};
use crate::sys::{WriteRoot, step_point};
use anyhow::Context;
use std::path::Path;

/// Lets the cluster in place replay its WAL, and stops it cleanly.
///
/// No WAL is thrown away, for a restore may need it after all. A crash leaves what any start leaves: a cluster that has
/// replayed some of its WAL, and goes on with it.
///
/// # Errors
/// [`Kind::ServerFailed`] with the server's words: then replay has not put right what was found.
pub(super) fn recover_in_place(tools: &Tools, root: &WriteRoot) -> anyhow::Result<()> {
    seal::remove(root).context("remove the seal of the last stop")?;
    tools.progress.begin("replaying the WAL", None);
    let ran = run_single_user(tools, root, root.path(), "template1", &[]);
    tools.progress.end();
    step_point("replayed in place");
    let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    match ran {
        // It replays before it looks for its database; that this cannot be found is for the inspection to tell.
        _ if control.state == ClusterState::ShutDown => Ok(()),
        Ok(()) => {
            Err(Failure::new(Kind::ServerFailed, "the server replayed the WAL and did not stop cleanly")
                .into())
        }
        Err(error) => Err(replay_failure(&error)),
    }
}

/// Lets a copy of the cluster, in staging, replay its WAL, and stops it cleanly.
///
/// # Errors
/// What the server said.
pub(super) fn recover_copy(tools: &Tools, root: &WriteRoot, copy: &Path) -> anyhow::Result<()> {
    recover_copy_with(tools, root, copy, Vec::new())
}

/// The same with more settings.
pub(super) fn recover_copy_with(
    tools: &Tools,
    root: &WriteRoot,
    copy: &Path,
    mut settings: Vec<(&'static str, String)>,
) -> anyhow::Result<()> {
    // What it does must not reach an archive before it is in place.
    settings.extend([
        ("archive_mode", "off".to_owned()),
        ("autovacuum", "off".to_owned()),
        // A server that does not archive removes also WAL that waits for the archive (xlogarchive.c,
        // `XLogArchiveCheckDone()`).
        ("wal_keep_size", KEEP_ALL_WAL.to_owned()),
    ]);
    let start = PrivateStart { data_directory: copy.to_path_buf(), log_file: tools.log_file(), settings };
    tools.progress.begin("replaying the WAL on a copy", None);
    let started = PrivateServer::start(tools, root, start);
    let stopped = started
        .map_err(|error| start_failure(error, "replay the WAL on a copy"))
        .and_then(PrivateServer::stop);
    tools.progress.end();
    stopped
}
