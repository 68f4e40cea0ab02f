//! Which backups a cluster can come back from, in which order, and how far WAL that survives carries on. Pure.

use super::ancestry::{Ancestry, ancestry};
use super::archive::ArchiveView;
use super::backups::{BackupFormat, BackupKind, BackupName, BackupSummary, Condition};
use super::diagnosis::{ClusterIdentity, Diagnosis};
use super::order::sort_newest_first;
use super::recovery::{Circumstances, Replay, Source};
use super::timelines::History;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{SystemIdentifier, TimelineId};

/// The backups that fit a cluster, the best first: those of its own history before those of a branch that a
/// restore left, good ones before those with damaged pages, newer ones before older ones. One of another cluster
/// never fits, nor one that cannot be read or was found damaged by a verification. Plain copies come last, whatever their
/// time: nothing proves what is in them, or when they were made.
pub fn newest_first<'a>(
    backups: &'a [BackupSummary],
    identity: Option<&ClusterIdentity>,
) -> Vec<&'a BackupSummary> {
    let fits = |backup: &&BackupSummary| {
        let Some(identity) = identity else { return true };
        let same =
            |ours: Option<u64>, theirs: Option<u64>| ours.is_none() || theirs.is_none() || ours == theirs;
        same(
            identity.system_identifier.map(|identifier| identifier.0),
            backup.system_identifier.map(|identifier| identifier.0),
        ) && same(
            identity.major_version.map(|version| u64::from(version.0)),
            backup.major_version.map(|version| u64::from(version.0)),
        )
    };
    let mut usable: Vec<&BackupSummary> = backups
        .iter()
        .filter(|backup| backup.name.kind() == BackupKind::Backup && backup.is_usable())
        .filter(fits)
        .collect();
    let is_of_history =
        |backup: &BackupSummary| identity.is_none_or(|identity| is_on_branch(backup, identity));
    sort_newest_first(&mut usable);
    usable.sort_by_key(|backup| {
        std::cmp::Reverse((is_chunked(backup), is_of_history(backup), backup.is_good()))
    });
    usable
}

fn is_chunked(backup: &BackupSummary) -> bool {
    backup.format == BackupFormat::Chunked
}

/// The backups that are shown to be of the diagnosed cluster's past, the best first: those that may be taken without
/// asking a person.
pub fn past_of<'a>(diagnosis: &Diagnosis, circumstances: &Circumstances<'a>) -> Vec<&'a BackupSummary> {
    let is_proven =
        |backup: &&BackupSummary| ancestry(backup, diagnosis, &circumstances.compared) == Ancestry::Proven;
    newest_first(circumstances.backups, Some(&diagnosis.identity)).into_iter().filter(is_proven).collect()
}

/// The backups that may be of the diagnosed cluster, and are not shown to be of its past, with what is known of each:
/// only a person can say whether one of them is wanted.
pub fn for_a_person<'a>(
    diagnosis: &Diagnosis,
    circumstances: &Circumstances<'a>,
) -> Vec<(&'a BackupSummary, Ancestry)> {
    let judged = |backup: &'a BackupSummary| (backup, ancestry(backup, diagnosis, &circumstances.compared));
    newest_first(circumstances.backups, Some(&diagnosis.identity))
        .into_iter()
        .map(judged)
        .filter(|(_, found)| matches!(found, Ancestry::OtherBranch(_) | Ancestry::Unknown(_)))
        .collect()
}

/// Whether a backup is of the history that led to the present cluster. After a restore, later backups of the
/// timeline that was left are of a branch that a person turned away from.
fn is_on_branch(backup: &BackupSummary, identity: &ClusterIdentity) -> bool {
    let Some(((timeline, stop), present)) = backup.timeline.zip(backup.stop_lsn).zip(identity.timeline)
    else {
        return true;
    };
    timeline == present || History::new(present, &identity.ancestors).has(timeline, stop)
}

/// A name that neither the repository nor the data directory has yet.
pub fn free_name(kind: BackupKind, diagnosis: &Diagnosis, circumstances: &Circumstances) -> BackupName {
    let is_taken = |name: &BackupName| {
        diagnosis.set_aside.contains(name) || circumstances.backups.iter().any(|backup| backup.name == *name)
    };
    let mut name = BackupName::new(kind, circumstances.now);
    while is_taken(&name)
        && let Some(next) = name.next_of_same_second()
    {
        name = next;
    }
    name
}

/// A backup of a cluster that is there and is not restored from, and why: it cannot be read, or a verification found it
/// damaged.
pub(super) fn unreadable(backup: &BackupSummary) -> Option<(&BackupSummary, &str)> {
    if backup.name.kind() != BackupKind::Backup {
        return None;
    }
    if let Condition::Unreadable { reason } = &backup.condition {
        return Some((backup, reason));
    }
    let damage = backup.verification.verdict()?.damage.first()?;
    Some((backup, &damage.problem))
}

/// Why no backup is the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLatest {
    /// None can be restored from, but for plain copies, which are only restored by name.
    None,
    /// There are some, and none of the present cluster.
    OfOthers,
    /// It is not known which cluster is the present one, and they are of several.
    OfSeveral(Vec<SystemIdentifier>),
}

/// Returns the backup that `latest` means: of the present cluster the newest good one, else the newest that can be restored
/// from. Where there is no cluster, as on a new machine, it is that of the one cluster that has backups.
///
/// # Errors
/// [`NoLatest`]: only a person can say which one is meant.
pub fn latest(
    backups: &[BackupSummary],
    present: Option<SystemIdentifier>,
) -> Result<&BackupSummary, NoLatest> {
    let usable: Vec<&BackupSummary> =
        newest_first(backups, None).into_iter().filter(|backup| is_chunked(backup)).collect();
    let mut clusters: Vec<SystemIdentifier> =
        usable.iter().filter_map(|backup| backup.system_identifier).collect();
    clusters.sort_unstable();
    clusters.dedup();
    match (present, clusters.as_slice()) {
        (None, [_, _, ..]) => Err(NoLatest::OfSeveral(clusters)),
        (None, _) => usable.first().copied().ok_or(NoLatest::None),
        (Some(_), _) => {
            let of_present = usable.iter().find(|backup| backup.system_identifier == present);
            let reason = if usable.is_empty() { NoLatest::None } else { NoLatest::OfOthers };
            of_present.copied().ok_or(reason)
        }
    }
}

/// A backup as a source, with the WAL that follows it: what survives in `pg_wal`, and what was archived.
pub fn source_of(backup: &BackupSummary, diagnosis: &Diagnosis, archives: &Archives) -> Source {
    let surviving = &diagnosis.wal_segments;
    let archive = archives.iter().find(|(cluster, _)| backup.system_identifier == Some(*cluster));
    let replay = match archive {
        None => surviving_replay(backup, surviving, &diagnosis.identity),
        Some((_, view)) => archived_replay(backup, surviving, &diagnosis.identity, view),
    };
    Source::Backup { name: backup.name, replay }
}

/// The archived WAL of each cluster.
type Archives = [(SystemIdentifier, ArchiveView)];

/// Which segments continue a backup, be they in `pg_wal` or archived.
///
/// Where nothing in the data directory tells on which timeline the cluster was, it is the one that was archived last,
/// if it came from the backup. Only what survives in `pg_wal` proves that the WAL ends where it ends.
pub fn archived_replay(
    backup: &BackupSummary,
    surviving: &[WalFileName],
    identity: &ClusterIdentity,
    view: &ArchiveView,
) -> Replay {
    let mut identity = identity.clone();
    if identity.timeline.is_none() {
        identity.timeline = view.latest.filter(|latest| leads_to(backup, *latest, view));
    }
    if identity.ancestors.is_empty() {
        let ancestors = identity.timeline.and_then(|timeline| view.history(timeline));
        identity.ancestors = ancestors.map(<[Ancestor]>::to_vec).unwrap_or_default();
    }
    let mut segments = [surviving, &view.segments].concat();
    segments.sort_unstable();
    segments.dedup();
    let replay = surviving_replay(backup, &segments, &identity);
    Replay { reaches_the_end: replay.reaches_the_end && !surviving.is_empty(), ..replay }
}

/// Whether a timeline goes on from where a backup ends, by its history file.
fn leads_to(backup: &BackupSummary, timeline: TimelineId, view: &ArchiveView) -> bool {
    let Some((of_backup, stop)) = backup.timeline.zip(backup.stop_lsn) else { return false };
    let history = |ancestors: &[Ancestor]| History::new(timeline, ancestors);
    timeline == of_backup || view.history(timeline).is_some_and(|found| history(found).has(of_backup, stop))
}

/// Which of the surviving segments continue a backup.
///
/// They must follow its last one without a gap, on its own timeline and on those that the present cluster came
/// by since. A backup ends with a switch to a new segment, so a cluster that wrote nothing since has no later
/// segment, and nothing is lost then either.
pub fn surviving_replay(
    backup: &BackupSummary,
    segments: &[WalFileName],
    identity: &ClusterIdentity,
) -> Replay {
    let Some(((stop, timeline), own_last)) = backup.stop_lsn.zip(backup.timeline).zip(backup.last_segment())
    else {
        return Replay::default();
    };
    let present = identity.timeline.unwrap_or(timeline);
    let history = History::new(present, &identity.ancestors);
    if segments.is_empty() || !history.has(timeline, stop) {
        return Replay::default();
    }
    let chain = history.follow(own_last, segments);
    let highest = segments
        .iter()
        .filter(|segment| segment.timeline == present)
        .map(|segment| segment.segment_number)
        .max();
    let reached = chain.last().map_or(own_last.segment_number, |segment| segment.segment_number);
    let begins_at_backup = !chain.is_empty() || segments.contains(&own_last);
    let segment_size_bytes = u64::from(own_last.segment_size_bytes());
    let checkpoint_is_reached = identity.redo.is_none_or(|redo| redo.0 / segment_size_bytes <= reached);
    let reaches_the_end =
        begins_at_backup && checkpoint_is_reached && highest.is_none_or(|highest| highest <= reached);
    let timeline = chain.last().map(|segment| segment.timeline).filter(|last| *last != timeline);
    Replay { segments: chain, timeline, reaches_the_end, target: None }
}
