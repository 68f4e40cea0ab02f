//! Reading the WAL from backup after backup until the target is met.

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};

use super::scene::Scene;
use super::wal::Segments;
use super::{Prepared, Request, refused};
use crate::execute::made_tablespace::{MadeTablespace, Surroundings};
use crate::pg::Lsn;
use crate::pg::wal::{WalFault, WalFileName, WalMoment, WalReader, WalRecord};
use crate::plan::BackupSummary;
use crate::plan::point_in_time::{Candidate, TimelineChoice, Way, candidates};
use crate::plan::recovery_target::{Ended, Landing, Point, RecoveryTarget, Search, in_words};
use crate::plan::restore_outline::LostFrom;
use crate::plan::timelines::History;

/// How many segments of the present cluster are looked through for its last transaction.
const MOST_SEGMENTS_LOOKED_AT: usize = 8;

/// Finds the way to what was asked for.
pub(super) fn find(scene: &Scene, request: &Request, now: DateTime<Utc>) -> anyhow::Result<Prepared> {
    if let Point::Time(time) = &request.target.point
        && *time > now
    {
        let reason = format!("{} is in the future: it is {} now", in_words(*time), in_words(now));
        return Err(refused(reason, "`--to-end` restores to the end of all WAL"));
    }
    let choice = request.timeline.unwrap_or(TimelineChoice::Present);
    let timeline = scene.choose(choice, request.backup.as_ref());
    let history = scene.history(timeline)?;
    let found = find_along(scene, request, &history);
    if request.timeline.is_none() {
        refuse_two_meanings(scene, &request.target, &history, found.as_ref().ok())?;
    }
    let found = found?;
    let is_beside = request.is_elsewhere || scene.present.is_some();
    let surroundings = if is_beside { Surroundings::BesideCluster } else { Surroundings::Alone };
    if let Some(made) = found.tablespaces_made.iter().find(|made| made.is_harmful(surroundings)) {
        let hint = "choose a moment before it, or after a later backup; or, without a present cluster, move away what is in \
                    that directory";
        return Err(made.refusal(found.candidate.backup.name, hint));
    }
    let way = Way::new(&found.candidate, request.target.clone(), found.landing);
    let backup = found.candidate.backup.clone();
    let lost_from = lost_from(scene, &way, &history);
    Ok(Prepared { way, backup, present_commit: present_commit(scene), lost_from })
}

/// From where on nothing that the present cluster has committed is in it: where recovery ends, or where the history that
/// is followed leaves that of the present.
fn lost_from(scene: &Scene, way: &Way, history: &History) -> Option<LostFrom> {
    let Landing { lsn, last_commit, is_at_end, .. } = way.landing;
    let present = scene.present.as_ref().and_then(|present| scene.history(present.timeline?).ok());
    let parting = present.map_or(Lsn(u64::MAX), |present| present.parts_from(history));
    if parting < lsn {
        return Some(LostFrom { lsn: parting, last_commit: None, is_parting: true });
    }
    (!is_at_end).then_some(LostFrom { lsn, last_commit, is_parting: false })
}

/// A target that was met.
struct Found<'a> {
    candidate: Candidate<'a>,
    landing: Landing,
    search: Search,
    tablespaces_made: Vec<MadeTablespace>,
}

fn find_along<'a>(scene: &'a Scene, request: &'a Request, history: &History) -> anyhow::Result<Found<'a>> {
    let target = &request.target;
    let candidates = match &request.backup {
        Some(backup) => vec![named(scene, backup, history)?],
        None => candidates(target, history, scene.cluster, &scene.backups, &scene.segments),
    };
    let is_anywhere = matches!(target.point, Point::Xid(_) | Point::Name(_));
    let mut shortage = None;
    let mut newer_stop = None;
    for candidate in candidates {
        // What comes after the newer backup was looked through already.
        let until = newer_stop.filter(|_| is_anywhere);
        let read = read(scene, &candidate, target, history, until)?;
        let stop = candidate.backup.stop_lsn.unwrap_or_default();
        newer_stop = Some(stop);
        match read.landing {
            Some(landing) if landing.lsn >= stop => {
                let Read { search, tablespaces_made, .. } = read;
                return Ok(Found { candidate, landing, search, tablespaces_made });
            }
            // Met before the backup was whole: an older one may do.
            Some(_) => {}
            None => {
                shortage = shortage.or_else(|| Some(read.shortage(target, candidate.backup)));
                if !is_anywhere {
                    break;
                }
            }
        }
    }
    Err(shortage.unwrap_or_else(|| too_early(scene, request, history)))
}

fn named<'a>(scene: &Scene, backup: &'a BackupSummary, history: &History) -> anyhow::Result<Candidate<'a>> {
    Candidate::follow(backup, history, &scene.segments).ok_or_else(|| {
        let reason = match backup.timeline.zip(backup.stop_lsn) {
            Some((timeline, stop)) => format!(
                "timeline {} does not lead on from {}, which ends at {stop} of timeline {timeline}",
                history.timeline(),
                backup.name
            ),
            None => format!("{} is of a stopped cluster, and no WAL leads on from it", backup.name),
        };
        let hint =
            "leave out the name, and the backup is chosen; or choose another of `backup-postgresql list`";
        refused(reason, hint)
    })
}

fn too_early(scene: &Scene, request: &Request, history: &History) -> anyhow::Error {
    let target = &request.target;
    let all = candidates(&RecoveryTarget::END, history, scene.cluster, &scene.backups, &scene.segments);
    let oldest = request.backup.as_ref().or(all.last().map(|candidate| candidate.backup));
    let Some(oldest) = oldest else {
        let reason = format!("there is no backup from which timeline {} can be followed", history.timeline());
        return refused(
            reason,
            "`backup-postgresql list` shows the backups, and `show` the timeline of each",
        );
    };
    let ends = match (oldest.finished_at, oldest.stop_lsn) {
        (Some(time), Some(lsn)) => format!("{} (LSN {lsn})", in_words(time)),
        (_, lsn) => format!("LSN {}", lsn.unwrap_or_default()),
    };
    let reason = match &request.backup {
        Some(_) => format!("{target} is before the end of {}", oldest.name),
        None => format!("{target} is before the end of the oldest good backup, {}", oldest.name),
    };
    refused(reason, &format!("the earliest place that can be reached from it is its end, {ends}"))
}

/// What reading the WAL came to.
struct Read {
    search: Search,
    landing: Option<Landing>,
    end: Lsn,
    /// Why it ended, where that is not simply the end.
    broken: Option<String>,
    /// The tablespaces that were made.
    tablespaces_made: Vec<MadeTablespace>,
}

/// Reads the WAL of a backup, and what follows it, up to the target.
fn read(
    scene: &Scene,
    candidate: &Candidate,
    target: &RecoveryTarget,
    history: &History,
    until: Option<Lsn>,
) -> anyhow::Result<Read> {
    let backup = candidate.backup;
    let reader = scene.repository.reader(backup.name).with_context(|| format!("open {}", backup.name))?;
    let start = backup.start_lsn.unwrap_or_default();
    let last = candidate.segments.last().copied().unwrap_or(candidate.own_last);
    let end_of_chain = last.next().map(WalFileName::start_lsn);
    let source = Segments { backup: Some(&reader), until: end_of_chain, ..segments(scene, history) };
    let mut search = Search::new(target.clone());
    let mut tablespaces_made = Vec::new();
    let walked = walk(source, scene, start, &mut |record| {
        if until.is_some_and(|until| record.start >= until) {
            return Some(None);
        }
        tablespaces_made.extend(MadeTablespace::by(record));
        search.see(record.start, record.end, record.moment().as_ref()).map(Some)
    });
    let (end, fault) = match walked? {
        Walked::Stopped(Some(landing)) => {
            let end = landing.lsn;
            return Ok(Read { search, landing: Some(landing), end, broken: None, tablespaces_made });
        }
        Walked::Stopped(None) => (until.unwrap_or_default(), None),
        Walked::Ended { end, fault } => (end, Some(fault)),
    };
    let broken = fault.and_then(|fault| why_broken(&fault, candidate, last));
    let is_present = broken.is_none() && scene.is_present_end(history, last);
    let mut landing = search.at_end(end, is_present);
    if broken.is_some() && matches!(target.point, Point::End | Point::Time(_)) {
        landing = None;
    }
    Ok(Read { search, landing, end, broken, tablespaces_made })
}

/// Why the WAL ends in its midst; `None` where it simply ends.
fn why_broken(fault: &WalFault, candidate: &Candidate, last: WalFileName) -> Option<String> {
    // The end of a damaged record on a boundary belongs to the segment before it.
    let is_before_last = Lsn(fault.place().0.saturating_sub(1)) < last.start_lsn();
    if matches!(fault, WalFault::Unreadable(..)) || is_before_last {
        return Some(fault.to_string());
    }
    let missing = candidate.missing?;
    Some(format!("'{missing}' is neither archived nor in pg_wal"))
}

fn segments<'a>(scene: &'a Scene, history: &'a History) -> Segments<'a> {
    Segments {
        history,
        segment_size_bytes: scene.segment_size_bytes,
        backup: None,
        archive: &scene.archive,
        present: scene.present.as_ref().map(|present| &present.wal),
        until: None,
        loaded: None,
    }
}

enum Walked<T> {
    Stopped(T),
    Ended { end: Lsn, fault: WalFault },
}

/// Hands on record after record, from the one at `start`, until it is enough or there are no more.
fn walk<T>(
    mut source: Segments,
    scene: &Scene,
    start: Lsn,
    take: &mut dyn FnMut(&WalRecord) -> Option<T>,
) -> anyhow::Result<Walked<T>> {
    let size = u64::from(scene.segment_size_bytes);
    let geometry = source.geometry(start.0 / size).context("read the WAL")?;
    let Some(geometry) = geometry else {
        return Ok(Walked::Ended { end: start, fault: WalFault::SegmentMissing(start) });
    };
    // In the midst of a segment it is a record, and at its beginning a page.
    let begun = match start.0 % size {
        0 => WalReader::from_page(source, geometry, start),
        _ => Ok(WalReader::new(source, geometry, start)),
    };
    let mut reader = match begun {
        Ok(reader) => reader,
        Err(fault) => return Ok(Walked::Ended { end: start, fault }),
    };
    loop {
        match reader.next_record() {
            Ok(record) => {
                if let Some(taken) = take(&record) {
                    return Ok(Walked::Stopped(taken));
                }
            }
            Err(fault) => return Ok(Walked::Ended { end: reader.end().unwrap_or(start), fault }),
        }
    }
}

impl Read {
    /// Why the target cannot be reached, and what can.
    fn shortage(&self, target: &RecoveryTarget, backup: &BackupSummary) -> anyhow::Error {
        let last = self.search.last_commit();
        let until = match last {
            Some(last) => format!("LSN {}, with a last commit of {}", self.end, in_words(last.time)),
            None => format!("LSN {}", self.end),
        };
        if let Some(broken) = &self.broken {
            let reason = format!("the WAL from {} to {target} is not whole: {broken}", backup.name);
            return refused(
                reason,
                &format!("`--to-lsn {}` in place of it goes as far as there is WAL: {until}", self.end),
            );
        }
        let reason = match &target.point {
            Point::Xid(_) => format!("{target} does not end in the WAL that there is"),
            Point::Name(_) => format!("{target} is not in the WAL that there is"),
            _ => format!("{target} is behind the end of the WAL that there is"),
        };
        refused(reason, &format!("`--to-end` in place of it goes as far as there is WAL: {until}"))
    }
}

/// After a restore, a place can lie on the timeline that goes on and on the one that was left. Which one is meant only a
/// person knows.
fn refuse_two_meanings(
    scene: &Scene,
    target: &RecoveryTarget,
    history: &History,
    found: Option<&Found>,
) -> anyhow::Result<()> {
    // A time that is behind the end of one timeline is no earlier place of another.
    let is_behind = matches!(target.point, Point::Time(_)) && found.is_none();
    if target.point == Point::End || is_behind {
        return Ok(());
    }
    for timeline in scene.timelines() {
        let Ok(other) = scene.history(timeline) else { continue };
        let parting = history.parts_from(&other);
        let is_before = found.is_some_and(|found| found.landing.lsn <= parting && !found.landing.is_at_end);
        if timeline == history.timeline() || is_before || is_of_present(target, found, history, parting) {
            continue;
        }
        let from = parting.max(other.begin());
        if matches!(target.point, Point::Lsn(lsn) if lsn <= from) {
            continue;
        }
        if !is_on(scene, target, &other, from)? {
            continue;
        }
        let present = history.timeline();
        let reason = match found {
            Some(_) => format!(
                "{target} is on timeline {timeline}, which was left at {parting}, as well as on timeline {present}"
            ),
            None => format!(
                "{target} is not on timeline {present}, but on timeline {timeline}, which was left at {parting}"
            ),
        };
        let hint =
            format!("add `--timeline {timeline}` to go there, or `--timeline {present}` to stay on this one");
        return Err(refused(reason, &hint));
    }
    Ok(())
}

/// Whether a time is one at which the cluster was on the history already, after it parted from another.
fn is_of_present(target: &RecoveryTarget, found: Option<&Found>, history: &History, parting: Lsn) -> bool {
    let (Point::Time(time), Some(found)) = (&target.point, found) else { return false };
    let has_commit = found.landing.last_commit.is_some_and(|last| last.lsn > parting);
    // Its beginning is told in whole seconds, cut off.
    let had_begun = |begin: Ended| begin.time + TimeDelta::seconds(1) <= *time && begin.lsn > parting;
    has_commit || found.search.beginning_of(history.timeline()).is_some_and(had_begun)
}

/// Whether a target is on a timeline's own part, from a place on.
fn is_on(scene: &Scene, target: &RecoveryTarget, history: &History, from: Lsn) -> anyhow::Result<bool> {
    let size = u64::from(scene.segment_size_bytes);
    let first = Lsn(from.0 - from.0 % size);
    let walked = walk(segments(scene, history), scene, first, &mut |record| {
        let is_met = match (&target.point, record.moment()) {
            _ if record.start < from => false,
            // The first transaction that ended there says whether any ended before.
            (Point::Time(time), Some(WalMoment::TransactionEnd { time: ended, .. })) => {
                return Some(ended <= *time);
            }
            (Point::Lsn(lsn), _) => record.end > *lsn,
            (Point::Xid(xid), Some(WalMoment::TransactionEnd { xid: ended, .. })) => {
                *xid & u64::from(u32::MAX) == u64::from(ended)
            }
            (Point::Name(name), Some(WalMoment::RestorePoint { name: found, .. })) => *name == found,
            _ => false,
        };
        is_met.then_some(true)
    })?;
    Ok(matches!(walked, Walked::Stopped(true)))
}

/// The last transaction that the present cluster committed, as its newest WAL has it.
fn present_commit(scene: &Scene) -> Option<Ended> {
    let present = scene.present.as_ref()?;
    let timeline = present.timeline?;
    let history = scene.history(timeline).ok()?;
    let of_history = |segment: &&WalFileName| history.timeline_of(**segment) == segment.timeline;
    let newest = present.surviving.iter().rev().filter(of_history);
    newest.take(MOST_SEGMENTS_LOOKED_AT).find_map(|segment| last_commit_in(scene, &history, *segment))
}

fn last_commit_in(scene: &Scene, history: &History, segment: WalFileName) -> Option<Ended> {
    let mut search = Search::new(RecoveryTarget::END);
    let source = Segments { until: segment.next().map(WalFileName::start_lsn), ..segments(scene, history) };
    let walked = walk(source, scene, segment.start_lsn(), &mut |record| {
        search.see(record.start, record.end, record.moment().as_ref()).map(|_| ())
    });
    walked.ok().and_then(|_| search.last_commit())
}
