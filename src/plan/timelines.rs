//! Timelines, and which WAL of which of them leads from one place to another. Pure.

use std::collections::HashSet;

use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, TimelineId};

/// The timelines that lead to one, each with the place at which it begins, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    legs: Vec<(TimelineId, Lsn)>,
}

impl History {
    /// The history of a timeline with these ancestors, oldest first.
    pub fn new(timeline: TimelineId, ancestors: &[Ancestor]) -> Self {
        let timelines = ancestors.iter().map(|ancestor| ancestor.timeline).chain([timeline]);
        let begins = [Lsn(0)].into_iter().chain(ancestors.iter().map(|ancestor| ancestor.switch_point));
        Self { legs: timelines.zip(begins).collect() }
    }

    /// The timeline that it leads to.
    pub fn timeline(&self) -> TimelineId {
        self.legs.last().map_or(TimelineId(1), |(timeline, _)| *timeline)
    }

    /// Where the timeline that it leads to begins.
    pub fn begin(&self) -> Lsn {
        self.legs.last().map_or(Lsn(0), |(_, begin)| *begin)
    }

    /// Whether a timeline's WAL up to a place is part of it.
    pub fn has(&self, timeline: TimelineId, to: Lsn) -> bool {
        let Some(position) = self.legs.iter().position(|(leg, _)| *leg == timeline) else { return false };
        self.legs.get(position + 1).is_none_or(|(_, end)| to <= *end)
    }

    /// The timeline whose file of a segment is read: the newest that has begun there. Its first segment begins with a
    /// copy of what its parent had (xlogrecovery.c, `XLogFileReadAnyTLI()`).
    pub fn timeline_of(&self, segment: WalFileName) -> TimelineId {
        let size = u64::from(segment.segment_size_bytes());
        let has_begun = |(_, begin): &&(TimelineId, Lsn)| begin.0 / size <= segment.segment_number;
        self.legs.iter().rev().find(has_begun).map_or(TimelineId(1), |(timeline, _)| *timeline)
    }

    /// Where two histories part: up to there they are the same.
    pub fn parts_from(&self, other: &Self) -> Lsn {
        let end =
            |legs: &[(TimelineId, Lsn)], index: usize| legs.get(index).map_or(Lsn(u64::MAX), |leg| leg.1);
        let same = self.legs.iter().zip(&other.legs).take_while(|(ours, theirs)| ours == theirs).count();
        end(&self.legs, same).min(end(&other.legs, same))
    }

    /// The file of the segment that comes after one. `None` behind the last that can be.
    pub fn next_of(&self, segment: WalFileName) -> Option<WalFileName> {
        segment.next().map(|next| next.on(self.timeline_of(next)))
    }

    /// Which of these segments follow one, without a gap.
    pub fn follow(&self, last: WalFileName, segments: &[WalFileName]) -> Vec<WalFileName> {
        let there: HashSet<WalFileName> = segments.iter().copied().collect();
        let next = |segment: &WalFileName| self.next_of(*segment).filter(|next| there.contains(next));
        std::iter::successors(next(&last), next).collect()
    }
}
