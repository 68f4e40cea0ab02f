//! Sees to it that a cluster that was changed in place takes a timeline number that no branch of its history has used.
//!
//! As for one that is built in staging (`from_backup`), every number up to the highest that is known gets a history file.
//! What was in `pg_wal` is read from what was stored of it: by now it is not there any more.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::from_backup::PLACEHOLDER;
use crate::pg::{TimelineId, timeline_history, wal};
use crate::plan::BackupSummary;
use crate::repository::{BackupReader, Repository, RepositoryError, WalArchive};
use crate::sys::WriteRoot;

/// Where a file from the archive is until it is proven.
const INCOMING: &str = ".pgbox/incoming-wal";
/// A history file has a line for each timeline.
const MOST_HISTORY_BYTES: u64 = 1 << 20;

/// Puts the history files in place. `former` is what was stored of the cluster that was there; `None` where it cannot be
/// read any more, and only the archive knows its timelines.
pub(super) fn keep_apart(
    root: &WriteRoot,
    repository: &Repository,
    backup: &BackupSummary,
    former: Option<&BackupReader>,
) -> anyhow::Result<()> {
    let archive = backup.system_identifier.map(|cluster| repository.wal_archive(cluster));
    for number in 2..=highest(repository, backup, archive.as_ref(), former)? {
        let name = timeline_history::file_name(TimelineId(number));
        let path = Path::new("pg_wal").join(&name);
        if root.facts(&path)?.is_some() {
            continue;
        }
        let stored =
            former.map(|former| former.read_file(&format!("pg_wal/{name}"), MOST_HISTORY_BYTES)).transpose();
        if let Some(text) = stored.context("read a timeline's history")?.flatten() {
            root.write_durably(&path, &text, 0o600).context("restore a timeline's history")?;
        } else if !fetch(root, archive.as_ref(), &name)? {
            root.write_durably(&path, PLACEHOLDER, 0o600).context("reserve a timeline")?;
        }
    }
    Ok(())
}

/// The highest timeline that is known of the cluster.
fn highest(
    repository: &Repository,
    backup: &BackupSummary,
    archive: Option<&WalArchive>,
    former: Option<&BackupReader>,
) -> anyhow::Result<u32> {
    let backups = repository.backups().context("list the backups")?;
    let same_cluster = |other: &&BackupSummary| other.system_identifier == backup.system_identifier;
    let of_backups = backups.iter().filter(same_cluster).filter_map(|other| other.timeline);
    let of_archive = archive.map(WalArchive::timelines).transpose().context("list the archived timelines")?;
    let of_former = former.map_or(&[][..], BackupReader::entries).iter().filter_map(|entry| {
        let name = entry.path.as_str().strip_prefix("pg_wal/")?;
        let is_of_timeline = wal::is_history_file(name) || wal::is_segment_name(name);
        let digits = name.get(..8).filter(|_| is_of_timeline)?;
        u32::from_str_radix(digits, 16).ok().map(TimelineId)
    });
    let known = of_backups.chain(of_archive.into_iter().flatten()).chain(of_former);
    Ok(known.map(|timeline| timeline.0).fold(1, u32::max))
}

/// Takes a history file from the archive, and notes for the server that it is archived. `false`: it is not there.
fn fetch(root: &WriteRoot, archive: Option<&WalArchive>, name: &str) -> anyhow::Result<bool> {
    let Some(archive) = archive else { return Ok(false) };
    let incoming = PathBuf::from(INCOMING);
    root.discard(&incoming).context("make room for archived WAL")?;
    let mut file = root.create_file(&incoming, 0o600).context("make room for archived WAL")?;
    let is_whole = match archive.fetch(name, &mut file) {
        Err(RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. }) => false,
        result => result.with_context(|| format!("fetch '{name}' from the archive"))?,
    };
    if !is_whole {
        root.discard(&incoming).context("remove what was not needed")?;
        return Ok(false);
    }
    file.sync_all()
        .and_then(|()| root.rename(&incoming, Path::new("pg_wal").join(name)))
        .and_then(|()| root.sync_directory("pg_wal"))
        .with_context(|| format!("put '{name}' in place"))?;
    let status = "pg_wal/archive_status";
    root.create_directory(status, 0o700).context("make the directory of what is archived")?;
    root.create_file(format!("{status}/{name}.done"), 0o600).context("note that a history is archived")?;
    Ok(true)
}
