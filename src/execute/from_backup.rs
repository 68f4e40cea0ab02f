//! Building a cluster in staging from a backup and the WAL that follows it: what survived in `pg_wal`, and what was
//! archived.
//!
//! The segments are laid out before the first start, and no others: a server that fetched them one by one would go on
//! along a branch that a restore has left.

use super::Tools;
use super::restore_files::restore_files;
use super::staging::{STAGING, clear_staging, ensure_room, staged};
use super::start::{RECOVERY_SIGNAL, RecoverySignal};
use crate::cluster::inspect::follow;
use crate::pg::{TimelineId, timeline_history, wal};
use crate::plan::recovery::Replay;
use crate::plan::{BackupName, BackupSummary};
use crate::repository::{Repository, RepositoryError, SharedLock, WalArchive};
use crate::sys::{ReadRoot, WriteRoot};
use anyhow::{Context, ensure};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a backup at work is waited for.
const READING_PATIENCE: Duration = Duration::from_mins(2);

/// Where a file from the archive is until it is proven.
const INCOMING: &str = ".pgbox/incoming-wal";

/// Stands in for the history file of a timeline that is known to exist and whose own file is gone.
pub(super) const PLACEHOLDER: &[u8] =
    b"# pgbox: this timeline exists in another branch of this cluster's history\n";

/// Builds the cluster of a backup in the staging directory, whole and on disk. Returns how many segments of WAL after
/// those of the backup are there to be replayed.
///
/// # Errors
/// What could not be read or written; the staging directory is discarded by whoever comes next.
pub(super) fn build_from_backup(
    tools: &Tools,
    root: &WriteRoot,
    name: BackupName,
    replay: &Replay,
) -> anyhow::Result<usize> {
    let present = follow(root, "pg_wal").ok();
    build_beside(tools, root, name, replay, present.as_ref())
}

/// The same, where the `pg_wal` of the present cluster is `present`.
pub(super) fn build_beside(
    tools: &Tools,
    root: &WriteRoot,
    name: BackupName,
    replay: &Replay,
    present: Option<&ReadRoot>,
) -> anyhow::Result<usize> {
    let repository = tools.repository()?.context("find the repository")?;
    clear_staging(root)?;
    let _reading = begin_reading(tools, repository)?;
    let reader = repository.reader(name)?;
    let restored = restore_files(&reader, root, Path::new(STAGING), tools.progress)
        .with_context(|| format!("restore {name}"))?;
    for tablespace in &restored.tablespaces {
        tools.progress.note(&tablespace.to_string());
    }
    let archive = reader.summary().system_identifier.map(|cluster| repository.wal_archive(cluster));
    let wal = Wal { present, archive: archive.as_ref(), tools };
    let segments = wal.lay_out(root, replay).context("lay out the WAL that follows it")?;
    let backups = repository.backups().context("list the backups")?;
    keep_timelines_apart(root, &wal, reader.summary(), &backups)?;
    let signal = RecoverySignal { timeline: replay.timeline, target: replay.target.clone() };
    let signal = serde_json::to_vec(&signal).context("ask for a timeline of its own")?;
    root.write_durably(staged(RECOVERY_SIGNAL), &signal, 0o600).context("ask for a timeline of its own")?;
    root.sync_file_system().context("write the restored cluster to disk")?;
    Ok(segments)
}

/// Keeps a cleanup from removing what is being read. A backup at work is waited for; its server is down, so that
/// it is about to fail.
pub(super) fn begin_reading(tools: &Tools, repository: &Repository) -> anyhow::Result<SharedLock> {
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

/// Where WAL that follows a backup may be.
struct Wal<'a> {
    present: Option<&'a ReadRoot>,
    archive: Option<&'a WalArchive<'a>>,
    tools: &'a Tools<'a>,
}

impl Wal<'_> {
    /// Puts segments beside those of the backup. Those of the present `pg_wal` are copied, not moved: until the new
    /// cluster has served, the old one must be able to come back whole. Returns how many there are.
    ///
    /// Where one is damaged in the archive and nowhere else, the WAL ends for this backup, and for every other before
    /// it: that is told, and what comes before is replayed.
    fn lay_out(&self, root: &WriteRoot, replay: &Replay) -> anyhow::Result<usize> {
        let sizes = replay.segments.iter().map(|segment| u64::from(segment.segment_size_bytes()));
        ensure_room(root.path(), sizes.sum(), "lay out the WAL that follows the backup")?;
        for (count, segment) in replay.segments.iter().enumerate() {
            let name = segment.to_string();
            // What is archived is proven by its hash.
            if self.fetch(root, &name)? {
                continue;
            }
            let survives = |wal: &&ReadRoot| matches!(wal.facts(&name), Ok(Some(_)));
            let Some(present) = self.present.filter(survives) else {
                let lost = format!(
                    "'{name}' cannot be had: what was committed from {} on is lost",
                    segment.start_lsn()
                );
                // A person who named a place is not to find another.
                ensure!(replay.target.is_none(), "{lost}");
                self.tools.progress.note(&lost);
                return Ok(count);
            };
            copy_unless_there(root, present, &name)?;
        }
        Ok(replay.segments.len())
    }

    /// Takes a file from the archive, and notes for the server that it is archived. `false`: it has to come from
    /// elsewhere.
    fn fetch(&self, root: &WriteRoot, name: &str) -> anyhow::Result<bool> {
        let Some(archive) = self.archive else { return Ok(false) };
        let target = staged("pg_wal").join(name);
        if root.facts(&target)?.is_some() {
            return Ok(true);
        }
        let incoming = Path::new(INCOMING);
        root.discard(incoming).context("make room for archived WAL")?;
        let mut file = root.create_file(incoming, 0o600).context("make room for archived WAL")?;
        let is_whole = match archive.fetch(name, &mut file) {
            Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })) => {
                self.tools.progress.note(&format!("{error}; the one in pg_wal is taken, if there is one"));
                false
            }
            result => result.with_context(|| format!("fetch '{name}' from the archive"))?,
        };
        if !is_whole {
            root.discard(incoming).context("remove what was not needed")?;
            return Ok(false);
        }
        root.rename(incoming, &target).with_context(|| format!("put '{name}' in place"))?;
        let status = staged("pg_wal/archive_status");
        root.create_directory(&status, 0o700).context("make the directory of what is archived")?;
        root.create_file(status.join(format!("{name}.done")), 0o600)
            .context("note that a segment is archived")?;
        Ok(true)
    }
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
    wal: &Wal,
    backup: &BackupSummary,
    backups: &[BackupSummary],
) -> anyhow::Result<()> {
    let names = match wal.present {
        Some(present) => present.entries(".").context("list the present pg_wal")?,
        None => Vec::new(),
    };
    let mut highest = 1;
    for entry in &names {
        let timeline = entry.name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if wal::is_history_file(&entry.name) || wal::is_segment_name(&entry.name) {
            highest = highest.max(timeline.unwrap_or_default());
        }
        if let (true, Some(present)) = (wal::is_history_file(&entry.name), wal.present) {
            copy_unless_there(root, present, &entry.name).context("copy a timeline's history")?;
        }
    }
    let same_cluster = |other: &&BackupSummary| other.system_identifier == backup.system_identifier;
    let of_backups = backups.iter().filter(same_cluster).filter_map(|other| other.timeline);
    let archived =
        wal.archive.map(WalArchive::timelines).transpose().context("list the archived timelines")?;
    let of_archive = archived.into_iter().flatten();
    highest = of_backups.chain(of_archive).map(|timeline| timeline.0).fold(highest, u32::max);
    for number in 2..=highest {
        let name = timeline_history::file_name(TimelineId(number));
        let target = staged("pg_wal").join(&name);
        if root.facts(&target)?.is_none() && !wal.fetch(root, &name)? {
            root.write_durably(&target, PLACEHOLDER, 0o600).context("reserve a timeline")?;
        }
    }
    Ok(())
}
