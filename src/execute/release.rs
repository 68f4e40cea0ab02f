//! Seeing to it that a server that has died lets go of its data directory.

use super::Tools;
use super::salvage;
use super::staging::STAGING;
use crate::cluster::inspect::running_server;
use crate::cluster::server_stop::{self, Stopping};
use crate::cluster::session::ServerAddress;
use crate::format;
use crate::sys::{ReadRoot, Signal, WriteRoot, orphaned_server_processes, remove_left_behind, signal_server};
use anyhow::Context;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long processes of a dead server may take to notice by themselves.
const NOTICE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a process may take to end when it was told to; then it is killed, as a postmaster would
/// (postmaster.c, `SIGKILL_CHILDREN_AFTER_SECS`).
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long a lock that nobody seen holds may take to be free: what the server's archiver ran may still be at work.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(5);

/// Waits for a lock whose server has died, and ends what is left of that server. Returns whether it is free now.
///
/// The caller is the one command at work here, so that a server in staging, or on the copy of a salvage, is of one that
/// was killed: it would hold the lock for ever, and nobody else would stop it. Processes that outlived their postmaster
/// get what it sends to them when one of them crashes: `SIGQUIT`, and later `SIGKILL` (postmaster.c,
/// `HandleChildCrash()`). No row is at stake: what they had committed is in the WAL, and what they had not nobody was
/// told of.
pub(super) fn wait_for_release(tools: &Tools, path: &Path) -> anyhow::Result<bool> {
    for private in [STAGING, salvage::COPY] {
        let data_directory = &path.join(private);
        let Ok(root) = ReadRoot::open(data_directory) else { continue };
        let socket_directory = ServerAddress::read(&root).and_then(|address| address.socket_directory);
        if let Some(pid) = running_server(&root) {
            let stopping = Stopping { pid, data_directory, patience: END_PATIENCE };
            server_stop::stop(&stopping, tools.progress)
                .context("stop the server that a killed command left")?;
        }
        if let Some(socket_directory) = socket_directory {
            // What cannot be removed is in nobody's way.
            let _ = remove_left_behind(&socket_directory);
        }
    }
    if is_free_within(path, NOTICE_PATIENCE)? {
        return Ok(true);
    }
    let orphans = signal_orphans(path, Signal::QUIT)?;
    if orphans > 0 {
        let what = format::counted(orphans, "backend");
        tools.progress.note(&format!("asked {what}, left over from the dead server, to end"));
        if is_free_within(path, END_PATIENCE)? {
            return Ok(true);
        }
        signal_orphans(path, Signal::KILL)?;
    }
    is_free_within(path, FOREIGN_PATIENCE)
}

fn signal_orphans(path: &Path, signal: Signal) -> anyhow::Result<usize> {
    let orphans = orphaned_server_processes(path).context("look for processes of a dead server")?;
    for pid in &orphans {
        signal_server(*pid, signal).with_context(|| format!("end process {pid} of a dead server"))?;
    }
    Ok(orphans.len())
}

fn is_free_within(path: &Path, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if WriteRoot::lock_holder(path)?.is_none() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        // The kernel has no wait with a deadline for a lock, and one without could last for ever.
        std::thread::sleep(Duration::from_millis(50));
    }
}
