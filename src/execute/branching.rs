//! Whether the data directory was put back to an earlier state, and how its cluster takes a timeline of its own then.
//!
//! The server does it as at the end of any recovery: with `recovery.signal` it ends on the first timeline that has no
//! history file (timeline.c, `findNewestTimeLine()`), so that every number that is known gets one before. Killed at any
//! moment, the next start finds the signal, which names us, and goes on.

use super::Tools;
use super::backup::listing::{Listing, Rules};
use super::compared_wal::{compare_pages, geometry_of};
use super::replay::{SPARE_BYTES, copy_cluster};
use super::replay_unlogged::{has_unlogged_rows, put_back_unlogged};
use super::restored_wal::PLACEHOLDER;
use super::staging::{STAGING, clear_staging, staged};
use super::start::{RECOVERY_SIGNAL, RecoverySignal, Start};
use crate::cluster::control_file;
use crate::cluster::inspect::follow;
use crate::cluster::inspect::wal::WalDirectory;
use crate::cluster::standby::STANDBY_SIGNAL;
use crate::execute::private_recovery::recover_copy_with;
use crate::pg::control_file::{CONTROL_FILE, ClusterState};
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, timeline_history, wal};
use crate::plan::ancestry::{Comparison, exact_end};
use crate::plan::branching::{BranchWay, GoneBack, backup_ahead, may_branch};
use crate::plan::recovery_target::RecoveryTarget;
use crate::plan::{BackupSummary, Diagnosis};
use crate::repository::{Repository, RepositoryError, WalArchive};
use crate::sys::{ReadRoot, StoreRoot, WriteRoot, disk_space, step_point};
use anyhow::Context;
use std::path::Path;

/// Files with which a server takes its WAL from elsewhere: it is none that goes on from its own.
const NOT_ITS_OWN_MASTER: [&str; 3] = ["backup_label", STANDBY_SIGNAL, RECOVERY_SIGNAL];
/// A history file has a line for each timeline.
const MOST_HISTORY_BYTES: u64 = 1 << 20;

/// Looks whether the repository knows a later state of the diagnosed cluster's timeline than its own.
///
/// # Errors
/// When the repository, or the cluster, cannot be read.
pub(super) fn look_back(repository: &Repository, diagnosis: &Diagnosis) -> anyhow::Result<Option<GoneBack>> {
    let Some(end) = exact_end(diagnosis).filter(|_| may_branch(diagnosis)) else { return Ok(None) };
    let root = ReadRoot::open(&diagnosis.data_directory).context("open the data directory")?;
    let is_there = |name: &&'static str| !matches!(root.facts(name), Ok(None));
    if NOT_ITS_OWN_MASTER.iter().any(is_there) {
        return Ok(None);
    }
    let Some(evidence) = evidence(repository, &root, diagnosis, end)? else { return Ok(None) };
    Ok(Some(GoneBack { evidence, way: way(&root)? }))
}

fn evidence(
    repository: &Repository,
    root: &ReadRoot,
    diagnosis: &Diagnosis,
    end: Lsn,
) -> anyhow::Result<Option<String>> {
    let backups = repository.backups().context("list the backups")?;
    if let Some(ahead) = backup_ahead(&backups, diagnosis, end) {
        let stop = ahead.stop_lsn.unwrap_or_default();
        return Ok(Some(format!("{} was made of it at {stop}, and its WAL ends at {end}", ahead.name)));
    }
    let identity = &diagnosis.identity;
    let (Some(cluster), Some(timeline)) = (identity.system_identifier, identity.timeline) else {
        return Ok(None);
    };
    let Ok((_, control)) = control_file::read_at(root, CONTROL_FILE) else { return Ok(None) };
    let present = WalFileName::containing(end, timeline, control.wal_segment_size).context("name the end")?;
    let wal = follow(root, "pg_wal").context("open pg_wal")?;
    archived_otherwise(&repository.wal_archive(cluster), &wal, present, end)
}

/// Looks whether WAL of another history has the names that a cluster in use gives to its own, so that this cannot be
/// archived. It can only branch off when it is started again. A standby never has to.
///
/// # Errors
/// When the archive, or the cluster, cannot be read.
pub fn archive_conflict(repository: &Repository, root: &ReadRoot) -> anyhow::Result<Option<String>> {
    let (_, control) = control_file::read_served(root).context("read the control file")?;
    // What a standby, or a server that recovers, writes is its primary's WAL, which that archives before it arrives here.
    let recovers =
        matches!(control.state, ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery);
    if recovers || [STANDBY_SIGNAL, RECOVERY_SIGNAL].iter().any(|name| !matches!(root.facts(name), Ok(None)))
    {
        return Ok(None);
    }
    let archive = repository.wal_archive(control.system_identifier);
    let at = WalFileName::containing(control.checkpoint, control.timeline, control.wal_segment_size)?;
    // Before pg_wal is listed: the server may go on to the next segment, and archive this one, at any moment.
    let archived = archive.segments_of(at).context("list the archived WAL")?;
    let wal = WalDirectory::of_cluster(root, &control).context("list pg_wal")?;
    let newest = wal.segments.iter().rfind(|segment| segment.timeline == control.timeline);
    if let (Some(ahead), Some(newest)) = (archived.last(), newest)
        && ahead.segment_number > newest.segment_number
    {
        return Ok(Some(format!("'{ahead}' is archived already, and its own WAL is in '{newest}'")));
    }
    let directory = follow(root, "pg_wal").context("open pg_wal")?;
    let is_waiting = |segment: &WalFileName| {
        segment.timeline == control.timeline
            && matches!(directory.facts(format!("archive_status/{segment}.ready")), Ok(Some(_)))
    };
    let Some(waiting) = wal.segments.iter().find(|segment| is_waiting(segment)) else { return Ok(None) };
    let name = waiting.to_string();
    let Ok(mut file) = directory.open_file(&name) else { return Ok(None) };
    let is_other = archive.is_content(&name, &mut file).context("compare archived WAL")? == Some(false);
    Ok(is_other.then(|| format!("'{name}' is archived already, with another content")))
}

/// What of a timeline is archived that is not the WAL in `pg_wal`, which ends at `end` in a segment.
fn archived_otherwise(
    archive: &WalArchive,
    wal: &ReadRoot,
    present: WalFileName,
    end: Lsn,
) -> anyhow::Result<Option<String>> {
    let archived = archive.segments_of(present).context("list the archived WAL")?;
    for segment in archived.iter().rev() {
        let is_ahead = segment.segment_number > present.segment_number;
        let name = segment.to_string();
        match compare_archived(archive, wal, *segment)? {
            // What comes before WAL that is equal is equal, too.
            Some(Comparison::Same) => return Ok(None),
            Some(Comparison::Differs) if !is_ahead && *segment != present => {
                return Ok(Some(format!("'{name}' is archived with another content than it has in pg_wal")));
            }
            _ if is_ahead => {
                return Ok(Some(format!("'{name}' is archived already, and its WAL ends at {end}")));
            }
            Some(_) if *segment == present => {
                return Ok(Some(format!("'{name}' is archived already, and its WAL ends at {end}")));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// What a segment in `pg_wal` is beside the archived one; `None` where it is not in `pg_wal`.
fn compare_archived(
    archive: &WalArchive,
    wal: &ReadRoot,
    segment: WalFileName,
) -> anyhow::Result<Option<Comparison>> {
    let name = segment.to_string();
    let mut file = match wal.open_file(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open '{name}'")),
    };
    if archive.is_content(&name, &mut file).context("compare archived WAL")? == Some(true) {
        return Ok(Some(Comparison::Same));
    }
    let Some(geometry) = geometry_of(&file) else { return Ok(Some(Comparison::Unknown)) };
    let ours = wal.read_bounded(&name, u64::from(segment.segment_size_bytes())).context("read WAL")?;
    let mut theirs = Vec::new();
    match archive.fetch(&name, &mut theirs) {
        Ok(_) => {
            let found = compare_pages(segment.start_lsn(), &ours, &theirs, &geometry);
            Ok(Some(found.unwrap_or(Comparison::Unknown)))
        }
        Err(RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. }) => {
            Ok(Some(Comparison::Unknown))
        }
        Err(error) => Err(error).context("read archived WAL"),
    }
}

/// A recovery begins unlogged relations anew; after a clean stop they hold rows.
fn way(root: &ReadRoot) -> anyhow::Result<BranchWay> {
    let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    if control.state != ClusterState::ShutDown {
        return Ok(BranchWay::InPlace);
    }
    let listing = Listing::read(root, Rules::Cold).context("list the cluster")?;
    if !has_unlogged_rows(&listing) {
        return Ok(BranchWay::InPlace);
    }
    let needed_bytes = listing.size_bytes().saturating_add(SPARE_BYTES);
    let available_bytes = disk_space(root.path()).context("see how much room there is")?.available_bytes;
    Ok(if available_bytes >= needed_bytes { BranchWay::OnCopy } else { BranchWay::NoRoom })
}

/// Makes the next start of the cluster in place end on a timeline of its own.
///
/// # Errors
/// What could not be written: the cluster is as it was, then, but for history files of timelines that exist elsewhere.
pub(super) fn branch_in_place(tools: &Tools, root: &WriteRoot) -> anyhow::Result<()> {
    let wal = root.path().join("pg_wal");
    reserve_timelines(tools, root, &wal)?;
    step_point("timelines reserved");
    root.write_durably(RECOVERY_SIGNAL, &signal()?, 0o600).context("ask for a timeline of its own")
}

/// Builds a copy of the cluster in staging that has taken a timeline of its own, cleanly stopped and on disk, with the
/// rows of unlogged tables.
pub(super) fn build_branched(tools: &Tools, root: &WriteRoot) -> anyhow::Result<Vec<String>> {
    let listing = Listing::read(root, Rules::Cold).context("list the cluster")?;
    if let Some(unreadable) = listing.unreadable.first() {
        anyhow::bail!("could not read all of the cluster: {unreadable}");
    }
    clear_staging(root)?;
    copy_cluster(tools, root, &listing)?;
    let staging = root.path().join(STAGING);
    reserve_timelines(tools, root, &staging.join("pg_wal"))?;
    root.write_durably(staged(RECOVERY_SIGNAL), &signal()?, 0o600)
        .context("ask for a timeline of its own")?;
    let start = Start::of_replacement(&ReadRoot::open(&staging)?).context("read where recovery is to end")?;
    recover_copy_with(tools, root, &staging, start.settings())?;
    step_point("branched off on a copy");
    put_back_unlogged(root, &listing)?;
    root.sync_file_system().context("write the copy to disk")?;
    Ok(vec!["took a timeline of its own, on a copy".to_owned()])
}

fn signal() -> anyhow::Result<Vec<u8>> {
    let signal = RecoverySignal { timeline: None, target: Some(RecoveryTarget::END) };
    serde_json::to_vec(&signal).context("ask for a timeline of its own")
}

/// Puts a history file into `pg_wal` for every timeline that is known of the cluster.
fn reserve_timelines(tools: &Tools, root: &WriteRoot, wal: &Path) -> anyhow::Result<()> {
    let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    let repository = tools.repository()?.context("find the repository")?;
    let archive = repository.wal_archive(control.system_identifier);
    let directory = StoreRoot::open(wal).context("open pg_wal")?;
    let present = directory.names(".").context("list pg_wal")?;
    let highest = highest_timeline(repository, &archive, control.system_identifier, &present)?;
    for number in 2..=highest {
        let name = timeline_history::file_name(TimelineId(number));
        if present.contains(&name) {
            continue;
        }
        let mut text = Vec::new();
        let is_archived = match archive.fetch(&name, &mut text) {
            Err(RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. }) => false,
            fetched => fetched.with_context(|| format!("fetch '{name}' from the archive"))?,
        };
        let is_usable = is_archived && text.len() as u64 <= MOST_HISTORY_BYTES;
        let text = if is_usable { text.as_slice() } else { PLACEHOLDER };
        directory.write_durably(&name, text).context("reserve a timeline")?;
    }
    Ok(())
}

fn highest_timeline(
    repository: &Repository,
    archive: &WalArchive,
    cluster: SystemIdentifier,
    present: &[String],
) -> anyhow::Result<u32> {
    let backups = repository.backups().context("list the backups")?;
    let is_of = |backup: &&BackupSummary| backup.system_identifier == Some(cluster);
    let of_backups = backups.iter().filter(is_of).filter_map(|backup| backup.timeline);
    let of_archive = archive.timelines().context("list the archived timelines")?;
    let known = of_backups.chain(of_archive).map(|timeline| timeline.0).fold(1, u32::max);
    let of_present = present.iter().filter_map(|name| wal::timeline_of_file(name)).map(|timeline| timeline.0);
    Ok(of_present.fold(known, u32::max))
}
