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

    /// Whether a segment's file may hold WAL of this history: its timeline had begun by then, and had not been left before
    /// the segment begins (xlogrecovery.c, `XLogFileReadAnyTLI()`).
    pub fn may_read(&self, segment: WalFileName) -> bool {
        let Some(position) = self.legs.iter().position(|(leg, _)| *leg == segment.timeline) else {
            return false;
        };
        let size = u64::from(segment.segment_size_bytes());
        let has_begun =
            self.legs.get(position).is_some_and(|(_, begin)| begin.0 / size <= segment.segment_number);
        let is_left = self.legs.get(position + 1).is_some_and(|(_, end)| end.0 <= segment.start_lsn().0);
        has_begun && !is_left
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SEGMENT: u64 = 16 << 20;

    /// Timeline 2 left timeline 1 at the middle, or the end, of segment 5; timeline 3 left timeline 2 in segment 7.
    #[rstest]
    #[case::before_the_fork(96, 1, 4, true)]
    #[case::the_segment_of_the_fork(96, 1, 5, true)]
    #[case::what_was_written_after_the_fork(96, 1, 6, false)]
    #[case::the_segment_that_ends_at_the_fork(0, 1, 4, true)]
    #[case::the_segment_that_begins_at_the_fork(0, 1, 5, false)]
    #[case::the_first_of_the_child(96, 2, 5, true)]
    #[case::the_child_before_it_began(96, 2, 4, false)]
    #[case::the_child_after_it_was_left(96, 2, 8, false)]
    #[case::the_last_timeline(96, 3, 90, true)]
    #[case::a_timeline_of_another_branch(96, 4, 5, false)]
    fn an_ancestor_is_read_up_to_where_it_was_left(
        #[case] offset: u64,
        #[case] timeline: u32,
        #[case] number: u64,
        #[case] expected: bool,
    ) {
        let ancestor = |timeline, lsn| Ancestor { timeline: TimelineId(timeline), switch_point: Lsn(lsn) };
        let ancestors = [ancestor(1, 5 * SEGMENT + offset), ancestor(2, 7 * SEGMENT + 8)];
        let history = History::new(TimelineId(3), &ancestors);
        let segment = WalFileName::containing(Lsn(number * SEGMENT), TimelineId(timeline), 16 << 20).unwrap();
        assert_eq!(history.may_read(segment), expected);
    }
}
