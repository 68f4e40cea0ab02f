//! Queues WAL for the archive that no server has queued.
//!
//! A server queues a segment when it has filled it (xlog.c, `XLogWrite()`), and only while it archives. What a private
//! server wrote, or one that somebody started without archiving, is queued by nobody before the server wants to remove
//! it (xlogarchive.c, `XLogArchiveCheckDone()`), which may be hundreds of megabytes later. Until then the archive has a
//! hole, and what was archived after the hole cannot be reached. So before a server that archives is started, each whole
//! segment without a status file gets one. The archiver takes files in the order of their names (pgarch.c,
//! `pgarch_readyXlog()`), so that nothing newer is archived before them.
//!
//! The archive is only asked about segments of earlier timelines, which another branch may have archived under the same
//! names. The server queues all others again without harm: what the archive has already counts as done.

use super::Tools;
use super::start::Start;
use crate::cluster::control_file;
use crate::cluster::inspect::follow;
use crate::cluster::inspect::wal::{WalDirectory, find_end};
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, TimelineId, timeline_history};
use crate::plan::archive::{has_status, unqueued_before};
use crate::sys::{ReadRoot, WriteRoot};
use anyhow::Context;
use std::collections::HashSet;

/// Names that let a server take WAL from elsewhere: where its WAL ends is not known before it has recovered.
const RECOVERS_FROM_ELSEWHERE: [&str; 3] = ["backup_label", "recovery.signal", "standby.signal"];

/// Queues what a stopped cluster has of its own history whole, and no server has queued.
///
/// It is called before a server that archives is started. A crash leaves some of it queued; the next start queues the
/// rest.
///
/// # Errors
/// When `pg_wal` cannot be read or written. Nothing but status files was added.
pub(super) fn queue_unqueued(tools: &Tools, root: &WriteRoot, start: &Start) -> anyhow::Result<()> {
    let names = match start {
        Start::AsItIs => unqueued(tools, root)?,
        Start::FirstAfterRestore { timeline, .. } => unqueued_of_restored(tools, root, *timeline)?,
    };
    if names.is_empty() {
        return Ok(());
    }
    root.queue_for_archive(&names).context("note which WAL is to be archived")
}

/// The names of the files to be queued of a cluster that goes on where it stopped.
fn unqueued(tools: &Tools, root: &ReadRoot) -> anyhow::Result<Vec<String>> {
    for name in RECOVERS_FROM_ELSEWHERE {
        if root.facts(name).with_context(|| format!("look for '{name}'"))?.is_some() {
            return Ok(Vec::new());
        }
    }
    let control = control_file::read(root).context("read the control file")?;
    let Some(wal) = WalDirectory::of_cluster(root, &control) else { return Ok(Vec::new()) };
    let statuses = statuses(root)?;
    let mut names = Vec::new();
    let history = timeline_history::file_name(control.timeline);
    if wal.has_file(&history) && !has_status(&history, &statuses) {
        names.push(history);
    }
    // Which segments were filled, only the records tell; they are read only where there is something to be queued.
    let (newest, whole) = (wal.newest().map(WalFileName::start_lsn), wal.whole_segments());
    if unqueued_before(newest.unwrap_or_default(), &whole, &statuses).is_empty() {
        return Ok(names);
    }
    let Some(end) = end_of_wal(&wal, &control) else { return Ok(names) };
    let segments = unqueued_before(end, &whole, &statuses).into_iter();
    let (own, former): (Vec<_>, Vec<_>) = segments.partition(|segment| segment.timeline == control.timeline);
    names.extend(own.iter().map(ToString::to_string));
    names.extend(missing_in_archive(tools, &control, &former));
    Ok(names)
}

/// The names of the segments that a restored cluster has beyond what was archived: they survived in the former `pg_wal`.
///
/// The server ends on another timeline, so that it changes none of them. The last one may not be full; the server keeps
/// it as `.partial` (xlog.c, `CleanupAfterArchiveRecovery()`).
fn unqueued_of_restored(
    tools: &Tools,
    root: &ReadRoot,
    timeline: Option<TimelineId>,
) -> anyhow::Result<Vec<String>> {
    let mut control = control_file::read(root).context("read the control file")?;
    control.timeline = timeline.unwrap_or(control.timeline);
    let Some(wal) = WalDirectory::of_cluster(root, &control) else { return Ok(Vec::new()) };
    let newest = wal.newest().map(WalFileName::start_lsn).unwrap_or_default();
    let segments = unqueued_before(newest, &wal.whole_segments(), &statuses(root)?);
    Ok(missing_in_archive(tools, &control, &segments))
}

fn statuses(root: &ReadRoot) -> anyhow::Result<Vec<String>> {
    let wal = follow(root, "pg_wal").context("open the WAL")?;
    wal.names("archive_status").context("list what waits for the archive")
}

/// Where the WAL ends that a server will go on from; `None` where that is not known.
fn end_of_wal(wal: &WalDirectory, control: &ControlFile) -> Option<Lsn> {
    match control.state {
        ClusterState::ShutDown => Some(control.checkpoint),
        ClusterState::ShuttingDown | ClusterState::InCrashRecovery | ClusterState::InProduction => {
            find_end(wal, control.redo)
        }
        _ => None,
    }
}

/// The segments whose names the archive does not have; none where the archive cannot be asked.
fn missing_in_archive(tools: &Tools, control: &ControlFile, segments: &[WalFileName]) -> Vec<String> {
    let names = segments.iter().map(ToString::to_string);
    let Some(repository) = tools.repository().ok().flatten().filter(|_| !segments.is_empty()) else {
        return Vec::new();
    };
    let Ok(archived) = repository.wal_archive(control.system_identifier).files() else { return Vec::new() };
    let archived: HashSet<String> = archived.into_iter().map(|file| file.name).collect();
    names.filter(|name| !archived.contains(name)).collect()
}
