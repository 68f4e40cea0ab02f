//! Which backups a moment can be reached from, along which timelines, and by which WAL. Pure.

use serde::Serialize;

use super::backups::{BackupKind, BackupName, BackupSummary};
use super::diagnosis::Diagnosis;
use super::recovery::{Circumstances, Plan, Refusal, Replay};
use super::recovery_target::{Landing, Point, RecoveryTarget, in_words};
use super::restore::{damage_remark, replace_by};
use super::timelines::History;
use crate::pg::wal::WalFileName;
use crate::pg::{MajorVersion, SystemIdentifier, TimelineId};

/// Which of a cluster's timelines a person means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The one that the present cluster is on.
    Present,
    /// The one that was begun last.
    Latest,
    /// This one.
    Number(TimelineId),
}

/// A backup, and the WAL that leads on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The backup.
    pub backup: &'a BackupSummary,
    /// The last segment that the backup has itself.
    pub own_last: WalFileName,
    /// The segments that follow it, without a gap.
    pub segments: Vec<WalFileName>,
    /// The first that is missing, though there are later ones.
    pub missing: Option<WalFileName>,
}

impl<'a> Candidate<'a> {
    /// Follows a backup along a history. `segments` are all that there are. `None` if it is no hot backup, or none of
    /// that history.
    pub fn follow(backup: &'a BackupSummary, history: &History, segments: &[WalFileName]) -> Option<Self> {
        backup.start_lsn?;
        let (stop, timeline) = backup.stop_lsn.zip(backup.timeline)?;
        if !history.has(timeline, stop) {
            return None;
        }
        let own_last = backup.last_segment()?;
        let chain = history.follow(own_last, segments);
        let next = history.next_of(*chain.last().unwrap_or(&own_last));
        let is_later = |segment: &WalFileName| {
            next.is_some_and(|next| segment.segment_number > next.segment_number)
                && history.timeline_of(*segment) == segment.timeline
        };
        let missing = next.filter(|_| segments.iter().any(is_later));
        Some(Self { backup, own_last, segments: chain, missing })
    }
}

/// The backups of a cluster from which a target may be reached along a history, the newest first: good ones, and only
/// where there are none of these those with damaged pages.
///
/// A transaction or a name says nothing of when it was: any backup may be the one, and the WAL has to tell.
pub fn candidates<'a>(
    target: &RecoveryTarget,
    history: &History,
    cluster: SystemIdentifier,
    backups: &'a [BackupSummary],
    segments: &[WalFileName],
) -> Vec<Candidate<'a>> {
    let is_before = |backup: &BackupSummary| match &target.point {
        Point::Time(time) => backup.created_at <= *time,
        Point::Lsn(lsn) => backup.stop_lsn.is_some_and(|stop| stop <= *lsn),
        Point::End | Point::Xid(_) | Point::Name(_) => true,
    };
    let is_of = |backup: &&BackupSummary| {
        backup.name.kind() == BackupKind::Backup
            && backup.system_identifier == Some(cluster)
            && backup.is_usable()
            && is_before(backup)
    };
    let followed = backups.iter().filter(is_of);
    let mut found: Vec<Candidate> =
        followed.filter_map(|backup| Candidate::follow(backup, history, segments)).collect();
    if found.iter().any(|candidate| candidate.backup.is_good()) {
        found.retain(|candidate| candidate.backup.is_good());
    }
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.backup.stop_lsn));
    found
}

/// How a moment is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The backup that recovery begins from.
    pub backup: BackupName,
    /// What was asked for.
    pub target: RecoveryTarget,
    /// The timeline that is followed.
    pub timeline: TimelineId,
    /// Where recovery ends.
    pub landing: Landing,
    /// The segments that follow those of the backup.
    pub segments: Vec<WalFileName>,
}

impl Way {
    /// The way from a backup to a landing.
    pub fn new(candidate: &Candidate, target: RecoveryTarget, landing: Landing) -> Self {
        let is_needed = |segment: &&WalFileName| segment.start_lsn() < landing.read_to || landing.is_at_end;
        let segments: Vec<WalFileName> = candidate.segments.iter().filter(is_needed).copied().collect();
        let timeline = segments.last().unwrap_or(&candidate.own_last).timeline;
        Self { backup: candidate.backup.name, target, timeline, landing, segments }
    }

    /// What the server is to replay. At the end of all WAL there is nothing to stop at, and a server that was told to
    /// would fail for not having met it (xlogrecovery.c, `FinishWalRecovery()`).
    pub fn replay(&self) -> Replay {
        let target = if self.landing.is_at_end { RecoveryTarget::END } else { self.target.clone() };
        Replay {
            segments: self.segments.clone(),
            timeline: Some(self.timeline),
            reaches_the_end: self.landing.is_at_end,
            target: Some(target),
        }
    }

    /// How much WAL has to be laid out.
    pub fn wal_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.segment_size_bytes())).sum()
    }
}

/// Decides how to put a backup, recovered to a moment, in the place of the present data.
///
/// # Errors
/// As those of [`super::restore::restore`].
pub fn restore_to(
    backup: &BackupSummary,
    way: &Way,
    diagnosis: &Diagnosis,
    installed: MajorVersion,
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    let plan = replace_by(backup, way.replay(), diagnosis, installed, circumstances)?;
    let purpose = format!("restore {} to {}", backup.name, way.target);
    let remarks = [Some(way.end_in_words()), damage_remark(backup)].into_iter().flatten().collect();
    Ok(Plan { purpose, remarks, ..plan }.telling_of_wal(diagnosis).naming_lost_slots(diagnosis))
}

impl Way {
    /// Where recovery ends, for a person.
    pub fn end_in_words(&self) -> String {
        let Landing { lsn, last_commit, is_at_end, .. } = &self.landing;
        let end = if *is_at_end { "recovery ends with the WAL," } else { "recovery ends" };
        let commit = match last_commit {
            Some(last) => format!("the last transaction in it was committed at {}", in_words(last.time)),
            None => "no transaction was committed since the backup began".to_owned(),
        };
        format!("{end} at {lsn} of timeline {}; {commit}", self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;
    use crate::pg::timeline_history::Ancestor;
    use crate::plan::backups::BackupFormat;
    use proptest::prelude::*;

    const CLUSTER: SystemIdentifier = SystemIdentifier(7);
    const SEGMENT: u64 = 16 << 20;

    fn segment(timeline: u32, number: u64) -> WalFileName {
        WalFileName::containing(Lsn(number * SEGMENT), TimelineId(timeline), 16 << 20).unwrap()
    }

    /// A backup in one segment, in the midst of which it ends, made so many hours after the epoch.
    fn backup(timeline: u32, number: u64) -> BackupSummary {
        let name = "data_20260101_120000".parse().unwrap();
        BackupSummary {
            system_identifier: Some(CLUSTER),
            timeline: Some(TimelineId(timeline)),
            start_lsn: Some(Lsn(number * SEGMENT + 40)),
            stop_lsn: Some(Lsn(number * SEGMENT + 256)),
            wal_segment_size_bytes: Some(16 << 20),
            created_at: chrono::DateTime::from_timestamp(i64::try_from(number).unwrap() * 3600, 0).unwrap(),
            ..BackupSummary::unknown(name, BackupFormat::Chunked)
        }
    }

    fn ancestor(timeline: u32, number: u64, offset: u64) -> Ancestor {
        Ancestor { timeline: TimelineId(timeline), switch_point: Lsn(number * SEGMENT + offset) }
    }

    fn target(point: Point) -> RecoveryTarget {
        RecoveryTarget { point, is_inclusive: true }
    }

    #[test]
    fn wal_is_followed_onto_the_next_timeline_in_the_segment_in_which_it_begins() {
        let history = History::new(TimelineId(2), &[ancestor(1, 5, 96)]);
        let mut segments = vec![segment(1, 4), segment(1, 5), segment(1, 6), segment(2, 5), segment(2, 6)];
        segments.sort_unstable();
        let taken = backup(1, 3);

        let followed = Candidate::follow(&taken, &history, &segments).unwrap();

        assert_eq!(followed.segments, [segment(1, 4), segment(2, 5), segment(2, 6)]);
        assert_eq!(followed.missing, None);
        let of_first = History::new(TimelineId(1), &[]);
        let followed = Candidate::follow(&taken, &of_first, &segments).unwrap();
        assert_eq!(followed.segments, [segment(1, 4), segment(1, 5), segment(1, 6)]);
        assert_eq!(history.parts_from(&of_first), Lsn(5 * SEGMENT + 96));
    }

    #[test]
    fn a_backup_of_a_branch_that_was_left_is_no_beginning_and_a_gap_is_named() {
        let history = History::new(TimelineId(2), &[ancestor(1, 5, 96)]);
        assert_eq!(Candidate::follow(&backup(1, 5), &history, &[]), None);
        let taken = backup(1, 3);
        let followed = Candidate::follow(&taken, &history, &[segment(1, 4), segment(2, 6)]).unwrap();
        assert_eq!(followed.missing, Some(segment(2, 5)));
        // What goes on where the timeline was left is no later part of it.
        let followed = Candidate::follow(&taken, &history, &[segment(1, 4), segment(1, 6)]).unwrap();
        assert_eq!(followed.missing, None);
    }

    #[test]
    fn good_backups_come_before_those_with_damaged_pages_however_new() {
        let good = backup(1, 3);
        let mut damaged = backup(1, 4);
        damaged.damaged_pages = vec![crate::plan::DamagedPage {
            file: "base/1/1".into(),
            relation: None,
            block: crate::pg::BlockNumber(0),
            problem: String::new(),
        }];
        let history = History::new(TimelineId(1), &[]);
        let backups = [good, damaged];
        let found = candidates(&RecoveryTarget::END, &history, CLUSTER, &backups, &[]);
        assert_eq!(
            found.iter().map(|candidate| candidate.backup.stop_lsn).collect::<Vec<_>>(),
            [backups[0].stop_lsn]
        );
        let found = candidates(&RecoveryTarget::END, &history, CLUSTER, &backups[1..], &[]);
        assert_eq!(found.len(), 1);
    }

    proptest! {
        #[test]
        fn the_newest_backup_before_a_place_is_the_first_choice_and_none_is_behind_it(
            numbers in prop::collection::vec(1_u64..50, 1..12),
            place in 0_u64..60 * SEGMENT,
        ) {
            let backups: Vec<BackupSummary> = numbers.iter().map(|number| backup(1, *number)).collect();
            let history = History::new(TimelineId(1), &[]);
            let found = candidates(&target(Point::Lsn(Lsn(place))), &history, CLUSTER, &backups, &[]);
            let newest = backups.iter().filter_map(|backup| backup.stop_lsn).filter(|stop| stop.0 <= place).max();
            prop_assert_eq!(found.first().and_then(|candidate| candidate.backup.stop_lsn), newest);
            prop_assert!(found.iter().all(|candidate| candidate.backup.stop_lsn.unwrap().0 <= place));
        }

        #[test]
        fn a_chain_has_no_gap_and_ends_at_the_first_one(
            there in prop::collection::btree_set(4_u64..30, 0..26),
            fork in 4_u64..30,
        ) {
            let history = History::new(TimelineId(2), &[ancestor(1, fork, 8)]);
            let mut segments: Vec<WalFileName> =
                there.iter().map(|number| segment(if *number < fork { 1 } else { 2 }, *number)).collect();
            segments.sort_unstable();
            let taken = backup(1, 3);
            let followed = Candidate::follow(&taken, &history, &segments).unwrap();
            let first_missing = (4..31).find(|number| !there.contains(number)).unwrap();
            let expected: Vec<u64> = (4..first_missing).collect();
            let found: Vec<u64> = followed.segments.iter().map(|segment| segment.segment_number).collect();
            prop_assert_eq!(found, expected);
            let is_gap = there.iter().any(|number| *number > first_missing);
            prop_assert_eq!(followed.missing.map(|missing| missing.segment_number), is_gap.then_some(first_missing));
        }

        #[test]
        fn what_is_laid_out_reaches_the_landing_and_no_further(count in 0_u64..20, at in 0_u64..24 * SEGMENT) {
            let history = History::new(TimelineId(1), &[]);
            let segments: Vec<WalFileName> = (4..4 + count).map(|number| segment(1, number)).collect();
            let taken = backup(1, 3);
            let followed = Candidate::follow(&taken, &history, &segments).unwrap();
            let lsn = Lsn(at);
            let landing = Landing { lsn, read_to: lsn, last_commit: None, is_at_end: false };
            let way = Way::new(&followed, target(Point::Lsn(lsn)), landing);
            prop_assert!(way.segments.iter().all(|segment| segment.start_lsn() < lsn));
            let needed = segments.iter().filter(|segment| segment.start_lsn() < lsn).count();
            prop_assert_eq!(way.segments.len(), needed);
            prop_assert_eq!(way.replay().target, Some(way.target.clone()));
        }
    }
}
