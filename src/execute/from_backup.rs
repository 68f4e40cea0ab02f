//! Building a cluster in staging from a backup and the WAL that follows it: what survived in `pg_wal`, and what was
//! archived.
//!
//! The segments are laid out before the first start, and no others: a server that fetched them one by one would go on
//! along a branch that a restore has left.

use super::Tools;
use super::compared_wal::{Own, leads_to_present, own_of};
use super::restore_files::restore_files;
use super::restored_wal::{FormerWal, RestoredWal};
use super::staging::{STAGING, clear_staging, ensure_room, staged};
use super::start::{RECOVERY_SIGNAL, RecoverySignal};
use crate::cluster::inspect::follow;
use crate::pg::wal::WalFileName;
use crate::plan::BackupName;
use crate::plan::recovery::Replay;
use crate::repository::{Repository, RepositoryError, SharedLock};
use crate::sys::{ReadRoot, WriteRoot};
use anyhow::{Context, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a backup at work is waited for.
const READING_PATIENCE: Duration = Duration::from_mins(2);

/// The WAL after that of a backup, laid out to be replayed.
#[derive(Debug)]
pub(super) struct LaidOut {
    /// How many segments there are.
    pub(super) count: usize,
    /// The first of the wanted segments that could be taken from nowhere.
    pub(super) missing: Option<WalFileName>,
}

/// Builds the cluster of a backup in the staging directory, whole and on disk. Returns which WAL after that of
/// the backup is there to be replayed.
///
/// # Errors
/// What could not be read or written; the staging directory is discarded by whoever comes next.
pub(super) fn build_from_backup(
    tools: &Tools,
    root: &WriteRoot,
    name: BackupName,
    replay: &Replay,
) -> anyhow::Result<LaidOut> {
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
) -> anyhow::Result<LaidOut> {
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
    let wal = RestoredWal { tools, root, directory: staged("pg_wal"), archive: archive.as_ref() };
    let laid_out = lay_out(&wal, present, replay).context("lay out the WAL that follows it")?;
    let backups = repository.backups().context("list the backups")?;
    let former = present.map_or(FormerWal::Unknown, FormerWal::Present);
    wal.keep_timelines_apart(former, reader.summary(), &backups)?;
    let signal = RecoverySignal { timeline: replay.timeline, target: replay.target.clone() };
    let signal = serde_json::to_vec(&signal).context("ask for a timeline of its own")?;
    root.write_durably(staged(RECOVERY_SIGNAL), &signal, 0o600).context("ask for a timeline of its own")?;
    root.sync_file_system().context("write the restored cluster to disk")?;
    Ok(laid_out)
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

/// Puts segments beside those of the backup. Those of the present `pg_wal` are copied, not moved: until the new
/// cluster has served, the old one must be able to come back whole.
///
/// Where one is damaged in the archive and nowhere else, the WAL ends for this backup, and for every other before
/// it: that is reported, and what comes before is replayed.
fn lay_out(wal: &RestoredWal, present: Option<&ReadRoot>, replay: &Replay) -> anyhow::Result<LaidOut> {
    let sizes = replay.segments.iter().map(|segment| u64::from(segment.segment_size_bytes()));
    ensure_room(wal.root.path(), sizes.sum(), "lay out the WAL that follows the backup")?;
    // A person may want another history than the present one.
    let is_on_present_way = |present: &ReadRoot| {
        let last = replay.segments.last().map(|segment| segment.timeline);
        replay.target.is_none() || last.is_some_and(|last| leads_to_present(present, last))
    };
    let preferred = present.filter(|present| is_on_present_way(present));
    for (count, segment) in replay.segments.iter().enumerate() {
        let name = segment.to_string();
        if let Some(present) = preferred.filter(|present| is_of_present(wal, present, *segment)) {
            wal.tools.progress.note(&format!(
                "the archived '{name}' is of another history of this cluster; the one in pg_wal is taken"
            ));
            wal.copy(present, &name)?;
            continue;
        }
        // What is archived is proven by its hash.
        if wal.fetch(&name)? {
            continue;
        }
        let survives = |present: &&ReadRoot| matches!(present.facts(&name), Ok(Some(_)));
        let Some(present) = present.filter(survives) else {
            let lost =
                format!("WAL segment '{name}' is missing: commits after {} are lost", segment.start_lsn());
            // A person who named a place is not to find another.
            ensure!(replay.target.is_none(), "{lost}");
            wal.tools.progress.note(&lost);
            return Ok(LaidOut { count, missing: Some(*segment) });
        };
        wal.copy(present, &name)?;
    }
    Ok(LaidOut { count: replay.segments.len(), missing: None })
}

/// Whether a segment is archived with another content than in the present `pg_wal`, and the one there is the present
/// cluster's own.
fn is_of_present(wal: &RestoredWal, present: &ReadRoot, segment: WalFileName) -> bool {
    let name = segment.to_string();
    let read = || -> anyhow::Result<bool> {
        let Some(archive) = wal.archive else { return Ok(false) };
        let mut file = present.open_file(&name)?;
        if archive.is_content(&name, &mut file)? != Some(false) {
            return Ok(false);
        }
        let ours = present.read_bounded(&name, u64::from(segment.segment_size_bytes()))?;
        let mut archived = Vec::new();
        Ok(archive.fetch(&name, &mut archived)? && own_of(segment, &ours, &archived) == Own::Present)
    };
    // What cannot be read of either is told when it is fetched.
    read().unwrap_or(false)
}
