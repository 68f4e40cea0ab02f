//! The names of WAL files.
//!
//! The segment size belongs to the cluster (`initdb --wal-segsize`): it comes from the control file or the
//! segment's own header, never from a constant.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::pg::{Lsn, TimelineId};

/// The length of a segment's name: three numbers of eight hexadecimal digits.
const SEGMENT_NAME_LENGTH: usize = 24;

/// Says whether a WAL segment may have this size: a power of two from 1 MiB to 1 GiB.
///
/// PostgreSQL: `IsValidWalSegSize()` in `xlog_internal.h`.
pub fn is_valid_segment_size(size_bytes: u32) -> bool {
    size_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&size_bytes)
}

/// Says whether a file of this name is a WAL segment: 24 hexadecimal digits, in upper case.
pub fn is_segment_name(name: &str) -> bool {
    name.len() == SEGMENT_NAME_LENGTH && is_upper_hexadecimal(name)
}

/// Says whether a file of this name is a WAL segment that may lack its end, as kept after a promotion.
pub fn is_partial_segment_name(name: &str) -> bool {
    name.strip_suffix(".partial").is_some_and(is_segment_name)
}

/// Says whether a file of this name is a timeline history file, such as `00000002.history`.
pub fn is_history_file(name: &str) -> bool {
    name.strip_suffix(".history")
        .is_some_and(|timeline| timeline.len() == 8 && is_upper_hexadecimal(timeline))
}

/// The timeline that the name of a segment or of a history file tells of.
pub fn timeline_of_file(name: &str) -> Option<TimelineId> {
    let is_of_timeline = is_history_file(name) || is_segment_name(name);
    u32::from_str_radix(name.get(..8).filter(|_| is_of_timeline)?, 16).ok().map(TimelineId)
}

/// Says whether a file of this name is a backup history file, such as
/// `000000010000000000000002.00000028.backup`.
pub fn is_backup_history_file(name: &str) -> bool {
    let parts = name.strip_suffix(".backup").and_then(|name| name.split_once('.'));
    parts.is_some_and(|(segment, offset)| {
        is_segment_name(segment) && offset.len() == 8 && is_upper_hexadecimal(offset)
    })
}

fn is_upper_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// The name of a WAL segment. Names of one cluster sort by timeline, then by position.
///
/// The number of a segment can only be told from its name, and the other way round, with the segment size, so
/// that size is part of the value. In JSON it is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalFileName {
    /// The timeline on which the segment was written.
    pub timeline: TimelineId,
    /// The number of the segment, counted from LSN 0/0.
    pub segment_number: u64,
    segment_size_bytes: u32,
}

/// Why there is no WAL segment of a name or position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalFileNameError {
    /// No cluster has WAL segments of this size.
    #[error("no WAL segment can have a size of {0} bytes: it must be a power of two from 1 MiB to 1 GiB")]
    SegmentSize(u32),
    /// The name is none of a WAL segment.
    #[error("{0:?} is not the name of a WAL segment")]
    NotASegment(String),
    /// The name's last number is too great for the segment size, so that the size or the name is wrong.
    #[error("{name:?} is not the name of a WAL segment of {segment_size_bytes} bytes")]
    OtherSegmentSize {
        /// The name as given.
        name: String,
        /// The size for which it was read.
        segment_size_bytes: u32,
    },
}

impl WalFileName {
    /// Reads the name of a WAL segment in a cluster with segments of that size.
    ///
    /// # Errors
    /// [`WalFileNameError`], of any kind.
    pub fn parse(name: &str, segment_size_bytes: u32) -> Result<Self, WalFileNameError> {
        if !is_valid_segment_size(segment_size_bytes) {
            return Err(WalFileNameError::SegmentSize(segment_size_bytes));
        }
        let [timeline, high, low] =
            split_name(name).ok_or_else(|| WalFileNameError::NotASegment(name.to_owned()))?;
        let per_high = segments_per_high_part(segment_size_bytes);
        if u64::from(low) >= per_high {
            return Err(WalFileNameError::OtherSegmentSize { name: name.to_owned(), segment_size_bytes });
        }
        Ok(Self {
            timeline: TimelineId(timeline),
            segment_number: u64::from(high) * per_high + u64::from(low),
            segment_size_bytes,
        })
    }

    /// Returns the segment that holds the byte at `lsn`.
    ///
    /// For the *end* of a record or of the WAL, ask for the byte before it: an end on a segment boundary
    /// belongs to the previous segment, and the next one may not exist.
    ///
    /// # Errors
    /// [`WalFileNameError::SegmentSize`].
    pub fn containing(
        lsn: Lsn,
        timeline: TimelineId,
        segment_size_bytes: u32,
    ) -> Result<Self, WalFileNameError> {
        if !is_valid_segment_size(segment_size_bytes) {
            return Err(WalFileNameError::SegmentSize(segment_size_bytes));
        }
        let segment_number = lsn.0 / u64::from(segment_size_bytes);
        Ok(Self { timeline, segment_number, segment_size_bytes })
    }

    /// Returns the segment after this one on the same timeline, or `None` at the very end of the LSN space,
    /// which only a forged name can reach.
    pub fn next(self) -> Option<Self> {
        let segment_number = self.segment_number.checked_add(1)?;
        segment_number.checked_mul(u64::from(self.segment_size_bytes))?;
        Some(Self { segment_number, ..self })
    }

    /// Returns the segment of that number on the same timeline.
    #[must_use]
    pub fn numbered(self, segment_number: u64) -> Self {
        Self { segment_number, ..self }
    }

    /// Returns the segment of the same number on another timeline.
    #[must_use]
    pub fn on(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }

    /// Returns the LSN of the segment's first byte.
    pub fn start_lsn(self) -> Lsn {
        Lsn(self.segment_number.saturating_mul(u64::from(self.segment_size_bytes)))
    }

    /// Returns the size that the segment file must have.
    pub fn segment_size_bytes(self) -> u32 {
        self.segment_size_bytes
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_high = segments_per_high_part(self.segment_size_bytes);
        let (high, low) = (self.segment_number / per_high, self.segment_number % per_high);
        write!(formatter, "{:08X}{high:08X}{low:08X}", self.timeline.0)
    }
}

impl Serialize for WalFileName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Splits a segment's name into its three numbers.
fn split_name(name: &str) -> Option<[u32; 3]> {
    if !is_segment_name(name) {
        return None;
    }
    let number = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    Some([number(0..8)?, number(8..16)?, number(16..24)?])
}

/// Returns how many segments share the second number of their names, which is the high half of their LSNs.
fn segments_per_high_part(segment_size_bytes: u32) -> u64 {
    (1 << 32) / u64::from(segment_size_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn a_segment_is_named_after_its_timeline_and_position() {
        let name = WalFileName::containing(Lsn(0x0300_0028), TimelineId(1), 16 * MIB).unwrap();

        assert_eq!(name.to_string(), "000000010000000000000003");
        assert_eq!(name.start_lsn(), Lsn(0x0300_0000));
        assert_eq!(name.segment_size_bytes(), 16 * MIB);
    }

    #[test]
    fn the_last_number_of_a_name_wraps_according_to_the_segment_size() {
        let lsn = Lsn(0x2_8000_0000);
        let name_at = |size| WalFileName::containing(lsn, TimelineId(7), size).unwrap().to_string();

        assert_eq!(name_at(MIB), "000000070000000200000800");
        assert_eq!(name_at(16 * MIB), "000000070000000200000080");
        assert_eq!(name_at(1024 * MIB), "000000070000000200000002");
    }

    #[test]
    fn the_next_segment_carries_into_the_high_part() {
        let name = WalFileName::parse("0000000100000000000000FF", 16 * MIB).unwrap();

        assert_eq!(name.next().unwrap().to_string(), "000000010000000100000000");
    }

    #[test]
    fn there_is_no_segment_after_the_last() {
        let name = WalFileName::parse("FFFFFFFFFFFFFFFF000000FF", 16 * MIB).unwrap();

        assert_eq!(name.next(), None);
        assert_eq!(name.start_lsn(), Lsn(0xFFFF_FFFF_FF00_0000));
    }

    #[test]
    fn a_name_that_does_not_fit_the_segment_size_is_refused() {
        let name = "000000010000000000000100";

        assert!(WalFileName::parse(name, MIB).is_ok());
        assert_eq!(
            WalFileName::parse(name, 16 * MIB),
            Err(WalFileNameError::OtherSegmentSize { name: name.to_owned(), segment_size_bytes: 16 * MIB })
        );
    }

    #[test]
    fn an_impossible_segment_size_is_refused() {
        for size in [0, 1, MIB - 1, MIB + 1, 3 * MIB, MIB / 2, 2048 * MIB, u32::MAX] {
            let error = WalFileNameError::SegmentSize(size);
            assert_eq!(WalFileName::parse("000000010000000000000001", size), Err(error.clone()));
            assert_eq!(WalFileName::containing(Lsn(1), TimelineId(1), size), Err(error));
        }
    }

    #[test]
    fn each_kind_of_wal_file_is_known_by_its_name() {
        let names = [
            "000000010000000000000002",
            "000000010000000000000002.partial",
            "00000002.history",
            "000000010000000000000002.00000028.backup",
            "archive_status",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "0000000100000000000000020",
            "0000002.history",
            "000000010000000000000002.backup",
            "000000010000000000000002.0000002.backup",
            "",
        ];
        let matching = |predicate: fn(&str) -> bool| -> Vec<usize> {
            (0..names.len()).filter(|index| predicate(names[*index])).collect()
        };

        assert_eq!(matching(is_segment_name), [0]);
        assert_eq!(matching(is_partial_segment_name), [1]);
        assert_eq!(matching(is_history_file), [2]);
        assert_eq!(matching(is_backup_history_file), [3]);
    }

    proptest! {
        #[test]
        fn every_name_survives_parsing(timeline: u32, position: u64, exponent in 20..=30_u32) {
            let segment_size = 1 << exponent;
            let name = WalFileName::containing(Lsn(position), TimelineId(timeline), segment_size).unwrap();

            prop_assert_eq!(WalFileName::parse(&name.to_string(), segment_size), Ok(name));
            prop_assert!(name.start_lsn() <= Lsn(position));
            prop_assert!(position - name.start_lsn().0 < u64::from(segment_size));
        }

        #[test]
        fn arbitrary_names_never_panic(name: String, hexadecimal in "[0-9A-F]{24}", size: u32) {
            for name in [name, hexadecimal] {
                let _ = WalFileName::parse(&name, size);
                let _ = WalFileName::parse(&name, 16 * MIB).map(|name| (name.next(), name.start_lsn()));
                let _ = (is_history_file(&name), is_backup_history_file(&name));
            }
        }
    }
}
