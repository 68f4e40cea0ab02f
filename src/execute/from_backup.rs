//! Building a cluster in staging from a backup and the WAL that survived.

use super::Tools;
use super::restore_files::restore_files;
use super::staging::{STAGING, clear_staging, staged};
use super::start::RECOVERY_SIGNAL;
use crate::cluster::inspect::follow;
use crate::pg::{TimelineId, timeline_history, wal};
use crate::plan::recovery::Replay;
use crate::plan::{BackupName, BackupSummary};
use crate::repository::{Repository, RepositoryError, SharedLock};
use crate::sys::{ReadRoot, WriteRoot};
use anyhow::Context;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a backup at work is waited for.
const READING_PATIENCE: Duration = Duration::from_mins(2);

/// Stands in for the history file of a timeline that is known to exist and whose own file is gone.
const PLACEHOLDER: &[u8] = b"# pgbox: this timeline exists in another branch of this cluster's history\n";

/// Builds the cluster of a backup in the staging directory, whole and on disk.
///
/// # Errors
/// What could not be read or written; the staging directory is discarded by whoever comes next.
pub(super) fn build_from_backup(
    tools: &Tools,
    root: &WriteRoot,
    name: BackupName,
    replay: &Replay,
) -> anyhow::Result<()> {
    let repository = tools.repository()?.context("find the repository")?;
    clear_staging(root)?;
    let _reading = begin_reading(tools, repository)?;
    let reader = repository.reader(name)?;
    let restored = restore_files(&reader, root, Path::new(STAGING), tools.progress)
        .with_context(|| format!("restore {name}"))?;
    for tablespace in &restored.tablespaces {
        tools.progress.note(&tablespace.to_string());
    }
    let present = follow(root, "pg_wal").ok();
    copy_surviving_wal(root, present.as_ref(), replay).context("copy the WAL that survived")?;
    let backups = repository.backups().context("list the backups")?;
    keep_timelines_apart(root, present.as_ref(), reader.summary(), &backups)?;
    let target = replay.timeline.map(|timeline| timeline.0.to_string()).unwrap_or_default();
    root.write_durably(staged(RECOVERY_SIGNAL), target.as_bytes(), 0o600)
        .context("ask for a timeline of its own")?;
    root.sync_file_system().context("write the restored cluster to disk")
}

/// Keeps a cleanup from removing what is being read. A backup at work is waited for; its server is down, so that
/// it is about to fail.
fn begin_reading(tools: &Tools, repository: &Repository) -> anyhow::Result<SharedLock> {
    let deadline = Instant::now() + READING_PATIENCE;
    loop {
        match repository.lock_shared("restoring") {
            Err(RepositoryError::Locked(holder)) if Instant::now() < deadline => {
                let holder = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
                tools.progress.note(&format!("waiting for {holder} to leave the repository"));
                // The kernel has no wait with a deadline for a lock.
                std::thread::sleep(Duration::from_secs(1));
            }
            result => return result.context("lock the repository"),
        }
    }
}

/// Copies segments of the present `pg_wal` beside those of the backup. They are copied, not moved: until the
/// new cluster has served, the old one must be able to come back whole.
fn copy_surviving_wal(root: &WriteRoot, present: Option<&ReadRoot>, replay: &Replay) -> anyhow::Result<()> {
    for segment in &replay.segments {
        let present = present.context("open the present pg_wal")?;
        copy_unless_there(root, present, &segment.to_string())?;
    }
    Ok(())
}

fn copy_unless_there(root: &WriteRoot, from: &ReadRoot, name: &str) -> anyhow::Result<()> {
    let target = staged("pg_wal").join(name);
    if root.facts(&target)?.is_some() {
        return Ok(());
    }
    let mut source = from.open_file(name)?;
    let mut copy = root.create_file(&target, 0o600)?;
    io::copy(&mut source, &mut copy).with_context(|| format!("copy '{name}'"))?;
    Ok(())
}

/// Sees to it that the restored cluster takes a timeline number that no branch of its history has used.
///
/// The server takes the first number without a history file (timeline.c, `findNewestTimeLine()`), so every
/// number up to the highest that is known gets one.
fn keep_timelines_apart(
    root: &WriteRoot,
    present: Option<&ReadRoot>,
    backup: &BackupSummary,
    backups: &[BackupSummary],
) -> anyhow::Result<()> {
    let names = match present {
        Some(present) => present.entries(".").context("list the present pg_wal")?,
        None => Vec::new(),
    };
    let mut highest = 1;
    for entry in &names {
        let timeline = entry.name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if wal::is_history_file(&entry.name) || wal::is_segment_name(&entry.name) {
            highest = highest.max(timeline.unwrap_or_default());
        }
        if let (true, Some(present)) = (wal::is_history_file(&entry.name), present) {
            copy_unless_there(root, present, &entry.name).context("copy a timeline's history")?;
        }
    }
    let same_cluster = |other: &&BackupSummary| other.system_identifier == backup.system_identifier;
    let of_backups = backups.iter().filter(same_cluster).filter_map(|other| other.timeline);
    highest = of_backups.map(|timeline| timeline.0).fold(highest, u32::max);
    for number in 2..=highest {
        let target = staged("pg_wal").join(timeline_history::file_name(TimelineId(number)));
        if root.facts(&target)?.is_none() {
            root.write_durably(&target, PLACEHOLDER, 0o600).context("reserve a timeline")?;
        }
    }
    Ok(())
}
