//! A stretch of WAL on one timeline, such as the one that makes a hot backup consistent.

use super::name::{WalFileName, WalFileNameError};
use crate::pg::{Lsn, TimelineId};

/// The WAL from one position to another, on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends: the first byte that does not belong to it.
    pub stop: Lsn,
    first: WalFileName,
    last: WalFileName,
}

impl WalRange {
    /// The stretch between two positions, in a cluster with segments of that size.
    ///
    /// # Errors
    /// [`WalFileNameError::SegmentSize`].
    pub fn new(
        start: Lsn,
        stop: Lsn,
        timeline: TimelineId,
        segment_size_bytes: u32,
    ) -> Result<Self, WalFileNameError> {
        let first = WalFileName::containing(start, timeline, segment_size_bytes)?;
        // An end on a segment boundary belongs to the segment before it.
        let end = Lsn(stop.0.saturating_sub(1).max(start.0));
        let last = WalFileName::containing(end, timeline, segment_size_bytes)?;
        Ok(Self { start, stop, first, last })
    }

    /// The segment that it begins in.
    pub fn first_segment(&self) -> WalFileName {
        self.first
    }

    /// The segment that it ends in.
    pub fn last_segment(&self) -> WalFileName {
        self.last
    }

    /// The segment that holds the byte at a position, in the range or not.
    pub fn segment_at(&self, lsn: Lsn) -> WalFileName {
        self.first.numbered(lsn.0 / u64::from(self.first.segment_size_bytes()))
    }

    /// Every segment of it, in order.
    pub fn segments(&self) -> impl Iterator<Item = WalFileName> + use<> {
        let last = self.last.segment_number;
        std::iter::successors(Some(self.first), |segment| segment.next())
            .take_while(move |segment| segment.segment_number <= last)
    }

    /// Whether a segment is one of it.
    pub fn has_segment(&self, segment: WalFileName) -> bool {
        (self.first..=self.last).contains(&segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, stop: u64) -> WalRange {
        WalRange::new(Lsn(start), Lsn(stop), TimelineId(2), 1 << 20).unwrap()
    }

    fn names(range: WalRange) -> Vec<String> {
        range.segments().map(|segment| segment.to_string()).collect()
    }

    #[test]
    fn an_end_on_a_boundary_belongs_to_the_segment_before_it() {
        let expected = ["000000020000000000000001", "000000020000000000000002"];
        assert_eq!(names(range(0x10_0028, 0x30_0000)), expected);
        assert_eq!(names(range(0x10_0028, 0x20_0001)), expected);
        assert_eq!(names(range(0x10_0028, 0x20_0000)), expected[..1]);
    }

    #[test]
    fn a_stretch_of_nothing_is_in_one_segment() {
        assert_eq!(names(range(0x10_0000, 0x10_0000)), ["000000020000000000000001"]);
        assert_eq!(names(range(0, 0)).len(), 1);
    }

    #[test]
    fn only_segments_of_its_timeline_and_between_its_ends_are_its_own() {
        let range = range(0x10_0028, 0x30_0000);
        let has = |name: &str| range.has_segment(WalFileName::parse(name, 1 << 20).unwrap());
        assert!(has("000000020000000000000001") && has("000000020000000000000002"));
        assert!(!has("000000020000000000000000") && !has("000000020000000000000003"));
        assert!(!has("000000010000000000000001") && !has("000000030000000000000001"));
    }
}
