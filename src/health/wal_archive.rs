//! Whether WAL reaches the archive, up to where, and whether every moment since the newest backup can be reached.

use super::Check;
use crate::cluster::{control_file, wal_gap};
use crate::error::hint_of;
use crate::execute::Tools;
use crate::execute::archiving::waiting_bytes;
use crate::execute::branching::archive_conflict;
use crate::format;
use crate::pg::SystemIdentifier;
use crate::pg::wal::{WalFileName, is_segment_name};
use crate::plan::archive::first_missing;
use crate::plan::{BackupKind, BackupSummary};
use crate::repository::{ArchivedFile, Repository};
use crate::sys::ReadRoot;
use anyhow::Context;
use chrono::{DateTime, Utc};

const NAME: &str = "wal-archive";
const CLOSE_IT: &str = "`backup-postgresql create` closes the gap";

/// Checks the archive of the present cluster.
pub(super) fn check(tools: &Tools, now: DateTime<Utc>, checks: &mut Vec<Check>) {
    if !tools.settings.wal_archive {
        return checks.push(Check::ok(NAME, "off, by WAL_ARCHIVE"));
    }
    // That there is no cluster is told by another check.
    let Ok(data) = ReadRoot::open(&tools.settings.data_directory) else { return };
    checks.push(match verdict(tools, &data, now) {
        Ok(check) => check,
        Err(error) => {
            let remedy = hint_of(&error).unwrap_or_else(|| "see to the backup directory".to_owned());
            Check::warning(NAME, format!("{error:#}"), remedy)
        }
    });
}

fn verdict(tools: &Tools, data: &ReadRoot, now: DateTime<Utc>) -> anyhow::Result<Check> {
    if let Some(gap) = wal_gap::read(data.path()).context("read the note of a gap in the WAL archive")? {
        let summary = format!(
            "{} of WAL given up since {}, from {} to {}: {}",
            format::counted(usize::try_from(gap.count)?, "file"),
            format::time(gap.since),
            gap.first,
            gap.last,
            gap.reason
        );
        return Ok(Check::issue(NAME, summary, CLOSE_IT));
    }
    let Some(repository) = tools.repository()? else {
        return Ok(Check::ok(NAME, "nothing is archived yet"));
    };
    if let Some(conflict) = archive_conflict(repository, data)? {
        let summary = format!(
            "WAL of another history of this cluster has the names of its own, which cannot be archived: {conflict}"
        );
        let remedy = "`maintenance restart` lets it take a timeline of its own";
        return Ok(Check::issue(NAME, summary, remedy));
    }
    let control = control_file::read(data).context("read the control file")?;
    let cluster = control.system_identifier;
    if let Some(missing) = missing_after_backup(repository, cluster)? {
        let summary = format!("{missing} is not in the archive, so that moments after it cannot be reached");
        return Ok(Check::issue(NAME, summary, "`backup-postgresql create --force` closes the gap"));
    }
    let waiting = waiting_bytes(data)?;
    let summary = match newest(repository, cluster)? {
        None => "nothing is archived yet".to_owned(),
        Some(file) => archived_until(&file, control.wal_segment_size, now),
    };
    let summary = format!("{summary}, {} waiting", format::bytes(waiting));
    if waiting > tools.settings.wal_queue_limit_bytes / 2 {
        let remedy = "the server's log tells why archiving fails";
        return Ok(Check::warning(NAME, summary, remedy));
    }
    Ok(Check::ok(NAME, summary))
}

fn missing_after_backup(
    repository: &Repository,
    cluster: SystemIdentifier,
) -> anyhow::Result<Option<WalFileName>> {
    let backups = repository.backups().context("list the backups")?;
    let is_point = |backup: &&BackupSummary| {
        backup.name.kind() == BackupKind::Backup
            && backup.is_good()
            && backup.system_identifier == Some(cluster)
    };
    let Some(newest) = backups.iter().find(is_point) else { return Ok(None) };
    let Some(size) = newest.wal_segment_size_bytes else { return Ok(None) };
    Ok(first_missing(newest, &repository.wal_archive(cluster).view(size)?))
}

/// The segment that was archived last.
fn newest(repository: &Repository, cluster: SystemIdentifier) -> anyhow::Result<Option<ArchivedFile>> {
    let files = repository.wal_archive(cluster).files()?;
    Ok(files.into_iter().filter(|file| is_segment_name(&file.name)).max_by_key(|file| file.archived_ns))
}

fn archived_until(file: &ArchivedFile, segment_size_bytes: u32, now: DateTime<Utc>) -> String {
    let segment = WalFileName::parse(&file.name, segment_size_bytes).ok();
    let end =
        segment.and_then(WalFileName::next).map_or_else(String::new, |next| format!(" {}", next.start_lsn()));
    let age = now - DateTime::from_timestamp_nanos(file.archived_ns);
    format!("archived until{end} ({}, {} min ago)", file.name, age.num_minutes())
}
