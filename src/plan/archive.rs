//! What becomes of WAL: when archiving is given up for the server's sake, and which archived files are let go. Pure.

use serde::Serialize;

use super::backups::{BackupFormat, BackupKind, BackupSummary};
use super::order::sort_newest_first;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// The archived WAL of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveView {
    /// Whole segments, by timeline and position.
    pub segments: Vec<WalFileName>,
    /// The ancestors of each timeline whose history file is there, oldest first.
    pub histories: Vec<(TimelineId, Vec<Ancestor>)>,
    /// The timeline of the segment that was archived last.
    pub latest: Option<TimelineId>,
}

impl ArchiveView {
    /// The ancestors of a timeline, where its history file is there.
    pub fn history(&self, timeline: TimelineId) -> Option<&[Ancestor]> {
        let found = self.histories.iter().find(|(of, _)| *of == timeline);
        found.map(|(_, ancestors)| ancestors.as_slice())
    }
}

/// What to do with a file that could not be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueVerdict {
    /// Keep it, and try again.
    Wait,
    /// Give it up: what waits would fill the server's disk before long.
    GiveUp,
}

/// Decides whether the server can go on waiting for its archive.
///
/// A full disk stops the server; a gap in the archive only costs the way back to a moment, until the next backup. So
/// never more waits than the limit, nor than half of what is still free.
pub fn queue_verdict(waiting_bytes: u64, limit_bytes: u64, available_bytes: u64) -> QueueVerdict {
    if waiting_bytes > limit_bytes.min(available_bytes / 2) {
        QueueVerdict::GiveUp
    } else {
        QueueVerdict::Wait
    }
}

/// Returns the segments that end at `end` or before, and that the server has noted neither as waiting for the archive nor
/// as archived. `statuses` are the names in `archive_status`.
pub fn unqueued_before(end: Lsn, segments: &[WalFileName], statuses: &[String]) -> Vec<WalFileName> {
    let is_whole = |segment: &WalFileName| segment.next().is_some_and(|next| next.start_lsn() <= end);
    let is_unknown = |segment: &WalFileName| !has_status(&segment.to_string(), statuses);
    segments.iter().filter(|segment| is_whole(segment) && is_unknown(segment)).copied().collect()
}

/// Says whether the server has noted a file of `pg_wal` as waiting for the archive or as archived (xlogarchive.c,
/// `XLogArchiveIsReadyOrDone()`).
pub fn has_status(name: &str, statuses: &[String]) -> bool {
    let is_of_file = |status: &&str| matches!(status.strip_prefix(name), Some(".ready" | ".done"));
    statuses.iter().map(String::as_str).any(|status| is_of_file(&status))
}

/// The first segment that is missing after a backup, though a later one was archived: what comes after it cannot be
/// reached from this backup. `None` while the archive goes on from it without a gap.
pub fn first_missing(backup: &BackupSummary, view: &ArchiveView) -> Option<WalFileName> {
    let mut expected = backup.last_segment()?.next()?;
    let of_timeline = |segment: &&WalFileName| segment.timeline == expected.timeline && **segment >= expected;
    let later: Vec<WalFileName> = view.segments.iter().filter(of_timeline).copied().collect();
    for segment in later {
        if segment != expected {
            return Some(expected);
        }
        expected = expected.next()?;
    }
    None
}

/// An archived file, as far as letting it go is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The name that PostgreSQL gave it.
    pub name: String,
    /// What it takes in the archive.
    pub stored_bytes: u64,
    /// When it was archived, nanoseconds since the epoch.
    pub archived_ns: i64,
}

/// Archived files of one cluster that are let go for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalRemoval {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Their names, in order.
    pub names: Vec<String>,
    /// What they take.
    pub stored_bytes: u64,
    /// Why.
    pub reason: String,
}

/// What is known when archived WAL is let go.
#[derive(Clone, Copy, Debug)]
pub struct WalRetention<'a> {
    /// The backups that stay.
    pub kept: &'a [&'a BackupSummary],
    /// The cluster that is served now.
    pub current: Option<SystemIdentifier>,
    /// How much all archived WAL may take; `None` is as much as it takes.
    pub limit_bytes: Option<u64>,
}

impl WalRetention<'_> {
    /// Decides which archived files are let go: those that no backup that is kept needs, then, while there is more
    /// than the limit, the oldest, but none that the newest good backup needs to reach the present.
    pub fn decide(&self, clusters: &[(SystemIdentifier, Vec<Archived>)]) -> Vec<WalRemoval> {
        let mut removals = Vec::new();
        let mut left = Vec::new();
        for (cluster, files) in clusters {
            let (needed, unneeded): (Vec<&Archived>, Vec<&Archived>) =
                files.iter().partition(|file| self.is_needed(*cluster, file));
            removals.extend(removal(*cluster, &unneeded, "no backup that is kept needs it"));
            left.extend(needed.into_iter().map(|file| (*cluster, file)));
        }
        removals.extend(self.over_the_limit(&mut left));
        removals
    }

    fn over_the_limit(&self, left: &mut [(SystemIdentifier, &Archived)]) -> Vec<WalRemoval> {
        let Some(limit) = self.limit_bytes else { return Vec::new() };
        let mut total: u64 = left.iter().map(|(_, file)| file.stored_bytes).sum();
        left.sort_by_key(|(_, file)| (file.archived_ns, file.name.clone()));
        let mut removals: Vec<(SystemIdentifier, Vec<&Archived>)> = Vec::new();
        for (cluster, file) in left.iter() {
            if total <= limit {
                break;
            }
            if self.is_lifeline(*cluster, file) {
                continue;
            }
            total = total.saturating_sub(file.stored_bytes);
            match removals.iter_mut().find(|(of, _)| of == cluster) {
                Some((_, files)) => files.push(file),
                None => removals.push((*cluster, vec![file])),
            }
        }
        removals
            .iter()
            .filter_map(|(cluster, files)| {
                removal(*cluster, files, "the archive is over WAL_ARCHIVE_LIMIT, and these are the oldest")
            })
            .collect()
    }

    /// Whether a backup that is kept may need a file. One that cannot be read, and may be of any cluster, keeps all.
    fn is_needed(&self, cluster: SystemIdentifier, file: &Archived) -> bool {
        // A plain copy needs no archived WAL.
        let may_be_of_any = |backup: &&BackupSummary| {
            backup.system_identifier.is_none() && backup.format == BackupFormat::Chunked
        };
        if self.kept.iter().any(may_be_of_any) {
            return true;
        }
        let mut of_cluster = self.kept.iter().filter(|backup| is_of(backup, cluster)).peekable();
        // Before the first backup of a cluster there is nothing to hold a file against.
        if of_cluster.peek().is_none() {
            return self.current == Some(cluster);
        }
        of_cluster.any(|backup| follows(backup, file))
    }

    /// Whether the newest good backup of the cluster needs a file to reach the present.
    fn is_lifeline(&self, cluster: SystemIdentifier, file: &Archived) -> bool {
        let is_good = |backup: &&&BackupSummary| is_of(backup, cluster) && backup.is_good();
        let mut good: Vec<&BackupSummary> = self.kept.iter().filter(is_good).copied().collect();
        sort_newest_first(&mut good);
        good.first().is_none_or(|newest| follows(newest, file))
    }
}

fn is_of(backup: &BackupSummary, cluster: SystemIdentifier) -> bool {
    backup.name.kind() == BackupKind::Backup && backup.system_identifier == Some(cluster)
}

/// Whether a file holds, or tells of, WAL that can come after a backup. A history file is small, and without it a
/// timeline cannot be followed.
fn follows(backup: &BackupSummary, file: &Archived) -> bool {
    let (Some(last), Some(name)) = (backup.last_segment(), file.name.get(..24)) else { return true };
    let Ok(segment) = WalFileName::parse(name, last.segment_size_bytes()) else { return true };
    let is_later = segment.timeline == last.timeline && segment.segment_number > last.segment_number;
    is_later || segment.timeline > last.timeline
}

fn removal(cluster: SystemIdentifier, files: &[&Archived], reason: &str) -> Option<WalRemoval> {
    if files.is_empty() {
        return None;
    }
    let mut names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    names.sort();
    let stored_bytes = files.iter().map(|file| file.stored_bytes).sum();
    Some(WalRemoval { system_identifier: cluster, names, stored_bytes, reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    const CLUSTER: SystemIdentifier = SystemIdentifier(7);
    const SEGMENT: u64 = 16 << 20;

    /// A backup that holds the segments up to `last`.
    fn backup(day: u32, timeline: u32, last: u64) -> BackupSummary {
        let name = format!("data_202601{day:02}_120000").parse().unwrap();
        BackupSummary {
            system_identifier: Some(CLUSTER),
            timeline: Some(TimelineId(timeline)),
            stop_lsn: Some(Lsn((last + 1) * SEGMENT)),
            wal_segment_size_bytes: Some(16 << 20),
            ..BackupSummary::unknown(name, BackupFormat::Chunked)
        }
    }

    fn segment(timeline: u32, number: u64) -> WalFileName {
        WalFileName::containing(Lsn(number * SEGMENT), TimelineId(timeline), 16 << 20).unwrap()
    }

    fn archived(name: &impl ToString, order: i64) -> Archived {
        Archived { name: name.to_string(), stored_bytes: 10, archived_ns: order }
    }

    fn removed(retention: &WalRetention, files: Vec<Archived>) -> Vec<String> {
        retention.decide(&[(CLUSTER, files)]).into_iter().flat_map(|removal| removal.names).collect()
    }

    #[test]
    fn the_queue_never_grows_past_its_limit_nor_past_half_of_what_is_free() {
        const GIB: u64 = 1 << 30;
        assert_eq!(queue_verdict(GIB, GIB, 100 * GIB), QueueVerdict::Wait);
        assert_eq!(queue_verdict(GIB + 1, GIB, 100 * GIB), QueueVerdict::GiveUp);
        assert_eq!(queue_verdict(GIB / 2, GIB, GIB), QueueVerdict::Wait);
        assert_eq!(queue_verdict(GIB / 2 + 1, GIB, GIB), QueueVerdict::GiveUp);
        assert_eq!(queue_verdict(1, GIB, 0), QueueVerdict::GiveUp);
    }

    #[test]
    fn a_gap_is_a_segment_that_is_missing_before_one_that_is_there() {
        let backup = backup(1, 1, 3);
        let view = |numbers: &[u64]| ArchiveView {
            segments: numbers.iter().map(|number| segment(1, *number)).collect(),
            ..ArchiveView::default()
        };
        assert_eq!(first_missing(&backup, &view(&[])), None);
        assert_eq!(first_missing(&backup, &view(&[2, 3, 4, 5])), None);
        assert_eq!(first_missing(&backup, &view(&[4, 6])), Some(segment(1, 5)));
        assert_eq!(first_missing(&backup, &view(&[5])), Some(segment(1, 4)));
    }

    #[test]
    fn what_comes_before_every_kept_backup_is_let_go_and_the_rest_stays() {
        let (older, newer) = (backup(1, 1, 3), backup(2, 1, 6));
        let kept = [&newer, &older];
        let retention = WalRetention { kept: &kept, current: Some(CLUSTER), limit_bytes: None };
        let files: Vec<Archived> =
            (1..9).zip(0..).map(|(n, order)| archived(&segment(1, n), order)).collect();

        let expected: Vec<String> = (1..=3).map(|number| segment(1, number).to_string()).collect();
        assert_eq!(removed(&retention, files), expected);
    }

    #[test]
    fn a_kept_backup_that_cannot_be_read_keeps_all_wal_for_it_may_be_of_any_cluster() {
        let readable = backup(2, 1, 6);
        let unreadable = BackupSummary { system_identifier: None, ..backup(1, 1, 3) };
        let plain_copy = BackupSummary { format: BackupFormat::ScriptCopy, ..unreadable.clone() };
        let files = || vec![archived(&segment(1, 2), 0)];
        let removed_beside = |other| {
            let kept = [&readable, other];
            removed(&WalRetention { kept: &kept, current: Some(CLUSTER), limit_bytes: None }, files()).len()
        };

        assert_eq!(removed_beside(&unreadable), 0);
        assert_eq!(removed_beside(&plain_copy), 1);
    }

    #[test]
    fn a_branch_that_was_left_goes_with_its_backups_and_histories_stay() {
        let after_restore = backup(3, 2, 6);
        let kept = [&after_restore];
        let retention = WalRetention { kept: &kept, current: Some(CLUSTER), limit_bytes: None };
        let files = vec![
            archived(&segment(1, 7), 0),
            archived(&"00000002.history", 1),
            archived(&segment(2, 7), 2),
            archived(&segment(3, 5), 3),
        ];
        assert_eq!(removed(&retention, files), [segment(1, 7).to_string()]);
    }

    #[test]
    fn over_the_limit_the_oldest_go_but_never_what_the_newest_good_backup_needs() {
        let (older, newer) = (backup(1, 1, 1), backup(2, 1, 4));
        let kept = [&newer, &older];
        let files: Vec<Archived> =
            (2..8).zip(0..).map(|(n, order)| archived(&segment(1, n), order)).collect();
        let removed_at = |limit| {
            let retention = WalRetention { kept: &kept, current: Some(CLUSTER), limit_bytes: Some(limit) };
            removed(&retention, files.clone()).len()
        };
        assert_eq!(removed_at(60), 0);
        assert_eq!(removed_at(45), 2);
        assert_eq!(removed_at(0), 3);
    }

    #[test]
    fn before_the_first_backup_the_wal_of_the_present_cluster_stays_and_that_of_a_lost_one_goes() {
        let files = || vec![archived(&segment(1, 2), 0)];
        let retention = |current| WalRetention { kept: &[], current, limit_bytes: Some(0) };
        assert!(removed(&retention(Some(CLUSTER)), files()).is_empty());
        assert_eq!(removed(&retention(Some(SystemIdentifier(8))), files()).len(), 1);
    }
}
