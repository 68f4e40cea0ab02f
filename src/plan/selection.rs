//! Which backups a cluster can come back from, in which order, and how far WAL that survives carries on. Pure.

use super::archive::ArchiveView;
use super::backups::{BackupKind, BackupName, BackupSummary, Condition};
use super::diagnosis::{ClusterIdentity, Diagnosis};
use super::recovery::{Circumstances, Replay, Source};
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// The backups that fit a cluster, the best first: those of its own history before those of a branch that a
/// restore left, good ones before those with damaged pages, newer ones before older ones. One of another cluster
/// never fits, nor one that cannot be read or was found damaged by a verification.
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
    usable
        .sort_by_key(|backup| std::cmp::Reverse((is_of_history(backup), backup.is_good(), backup.age_key())));
    usable
}

/// Whether a backup is of the history that led to the present cluster. After a restore, later backups of the
/// timeline that was left are of a branch that a person turned away from.
fn is_on_branch(backup: &BackupSummary, identity: &ClusterIdentity) -> bool {
    let Some(((timeline, stop), present)) = backup.timeline.zip(backup.stop_lsn).zip(identity.timeline)
    else {
        return true;
    };
    let is_ancestor = |ancestor: &Ancestor| ancestor.timeline == timeline && stop <= ancestor.switch_point;
    timeline == present || identity.ancestors.iter().any(is_ancestor)
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

/// The backup that `latest` means for a restore: the newest good one, else the newest that can be restored from.
pub fn latest(backups: &[BackupSummary]) -> Option<&BackupSummary> {
    newest_first(backups, None).first().copied()
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
    let is_parent = |ancestor: &Ancestor| ancestor.timeline == of_backup && stop <= ancestor.switch_point;
    timeline == of_backup || view.history(timeline).is_some_and(|history| history.iter().any(is_parent))
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
    let Some((stop, timeline)) = backup.stop_lsn.zip(backup.timeline) else { return Replay::default() };
    let Some(first) = segments.first() else { return Replay::default() };
    let segment_of = |lsn: Lsn| WalFileName::containing(lsn, timeline, first.segment_size_bytes()).ok();
    // The end of a backup is a segment boundary, so the byte before it tells the last segment it has.
    let Some(last_of_backup) = segment_of(Lsn(stop.0.saturating_sub(1))) else { return Replay::default() };
    let number_of = |lsn: Lsn| segment_of(lsn).map_or(u64::MAX, |segment| segment.segment_number);
    let Some(route) = route(timeline, stop, identity, &number_of) else { return Replay::default() };
    let chain = leading_chain(last_of_backup, segments, &route);
    let present = route.last().map_or(timeline, |leg| leg.timeline);
    let highest = segments
        .iter()
        .filter(|segment| segment.timeline == present)
        .map(|segment| segment.segment_number)
        .max();
    let reached = chain.last().map_or(last_of_backup.segment_number, |segment| segment.segment_number);
    let begins_at_backup = !chain.is_empty() || segments.contains(&last_of_backup);
    let checkpoint_is_reached = identity.redo.is_none_or(|redo| number_of(redo) <= reached);
    let reaches_the_end =
        begins_at_backup && checkpoint_is_reached && highest.is_none_or(|highest| highest <= reached);
    let timeline = chain.last().map(|segment| segment.timeline).filter(|last| *last != timeline);
    Replay { segments: chain, timeline, reaches_the_end, target: None }
}

/// A timeline, and the number of the first segment that is read of it.
struct Leg {
    timeline: TimelineId,
    first_segment: u64,
}

/// The timelines from a backup to the present, oldest first. `None` if the present did not come from it.
///
/// A timeline's first segment is the one that holds the point at which it was forked: it begins with a copy of
/// what its parent had there (xlogrecovery.c, `XLogFileReadAnyTLI()`).
fn route(
    timeline: TimelineId,
    stop: Lsn,
    identity: &ClusterIdentity,
    number_of: &dyn Fn(Lsn) -> u64,
) -> Option<Vec<Leg>> {
    let mut route = vec![Leg { timeline, first_segment: 0 }];
    let present = identity.timeline.unwrap_or(timeline);
    if present == timeline {
        return Some(route);
    }
    let left_at = |ancestor: &Ancestor| ancestor.timeline == timeline && stop <= ancestor.switch_point;
    let position = identity.ancestors.iter().position(left_at)?;
    let forks = identity.ancestors.iter().skip(position);
    let children =
        identity.ancestors.iter().skip(position + 1).map(|ancestor| ancestor.timeline).chain([present]);
    route.extend(
        forks
            .zip(children)
            .map(|(fork, timeline)| Leg { timeline, first_segment: number_of(fork.switch_point) }),
    );
    Some(route)
}

/// The segments that follow `last` one by one, each on the newest timeline that has begun there.
fn leading_chain(last: WalFileName, segments: &[WalFileName], route: &[Leg]) -> Vec<WalFileName> {
    let mut chain = Vec::new();
    let mut next = last.next();
    while let Some(expected) = next {
        let leg = route.iter().rev().find(|leg| leg.first_segment <= expected.segment_number);
        let of_leg = |segment: &&WalFileName| {
            segment.segment_number == expected.segment_number
                && leg.is_some_and(|leg| leg.timeline == segment.timeline)
        };
        let Some(segment) = segments.iter().find(of_leg) else { break };
        chain.push(*segment);
        next = segment.next();
    }
    chain
}
