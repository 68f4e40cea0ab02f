//! The names of WAL files, and the header at the beginning of a WAL segment.
//!
//! WAL records are not read here. The segment size belongs to the cluster (`initdb --wal-segsize`): it comes
//! from the control file or the segment's own header, never from a constant.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::bytes::{u16_at, u32_at, u64_at};
use super::{Lsn, MajorVersion, SystemIdentifier, TimelineId};

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

/// The WAL page magic of each major version (PostgreSQL: `XLOG_PAGE_MAGIC` in `xlog_internal.h`).
const PAGE_MAGICS: [(u16, MajorVersion); 6] = [
    (0xD106, MajorVersion(13)),
    (0xD10D, MajorVersion(14)),
    (0xD110, MajorVersion(15)),
    (0xD113, MajorVersion(16)),
    (0xD116, MajorVersion(17)),
    (0xD118, MajorVersion(18)),
];

/// `XLP_LONG_HEADER`: the header has the fields that tell the cluster and its sizes.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_ALL_FLAGS`, the union of those of 13 to 18.
const ALL_FLAGS: u16 = 0x000F;

/// The size of the long header, with which every WAL segment begins.
pub const LONG_HEADER_SIZE_BYTES: usize = 40;

/// The long page header at the beginning of a WAL segment.
///
/// The server makes segments ahead of use by renaming old ones, so a sound header may still carry the
/// timeline and address of the segment that the file once was: it holds WAL of its name only if
/// `page_address` equals [`WalFileName::start_lsn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WalPageHeader {
    /// The major version that wrote the page.
    pub major_version: MajorVersion,
    /// The timeline of the first record on the page.
    pub timeline: TimelineId,
    /// The LSN of the page.
    pub page_address: Lsn,
    /// The cluster that wrote the segment.
    pub system_identifier: SystemIdentifier,
    /// The size of the cluster's WAL segments.
    pub segment_size_bytes: u32,
    /// The size of the cluster's WAL pages.
    pub block_size_bytes: u32,
    /// How many bytes of a record begun on the previous page follow the header.
    pub continued_record_bytes: u32,
}

/// Why the beginning of a file is not that of a WAL segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalPageHeaderError {
    /// There are fewer bytes than a header has.
    #[error("WAL page header is too short: {size_bytes} bytes, expected {LONG_HEADER_SIZE_BYTES}")]
    TooShort {
        /// How many bytes there are.
        size_bytes: usize,
    },
    /// The page is of no version that we know, or no WAL. A file of zeros, such as one that was reserved but
    /// not yet written, has magic 0.
    #[error("unknown WAL page magic {0:04X}")]
    UnknownMagic(u16),
    /// The flags are none of the first page of a segment.
    #[error("WAL page flags {0:04X} are not those of a segment's first page")]
    UnexpectedFlags(u16),
    /// A number is outside what any server writes.
    #[error("implausible {field} in WAL page header: {value}")]
    Implausible {
        /// The name of the number.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl WalPageHeader {
    /// Reads the header from the first bytes of a WAL segment.
    ///
    /// # Errors
    /// [`WalPageHeaderError`], of any kind; the server would reject the page as well
    /// (`XLogReaderValidatePageHeader()` in xlogreader.c).
    pub fn parse(bytes: &[u8]) -> Result<Self, WalPageHeaderError> {
        let too_short = || WalPageHeaderError::TooShort { size_bytes: bytes.len() };
        if bytes.len() < LONG_HEADER_SIZE_BYTES {
            return Err(too_short());
        }
        let magic = u16_at(bytes, 0).ok_or_else(too_short)?;
        let header = Self {
            major_version: major_version_of(magic)?,
            timeline: TimelineId(u32_at(bytes, 4).ok_or_else(too_short)?),
            page_address: Lsn(u64_at(bytes, 8).ok_or_else(too_short)?),
            continued_record_bytes: u32_at(bytes, 16).ok_or_else(too_short)?,
            system_identifier: SystemIdentifier(u64_at(bytes, 24).ok_or_else(too_short)?),
            segment_size_bytes: u32_at(bytes, 32).ok_or_else(too_short)?,
            block_size_bytes: u32_at(bytes, 36).ok_or_else(too_short)?,
        };
        check_flags(u16_at(bytes, 2).ok_or_else(too_short)?)?;
        header.check_numbers()?;
        Ok(header)
    }

    fn check_numbers(&self) -> Result<(), WalPageHeaderError> {
        let implausible = |field, value| Err(WalPageHeaderError::Implausible { field, value });
        let segment_size = self.segment_size_bytes;
        if !is_valid_segment_size(segment_size) {
            return implausible("segment size", u64::from(segment_size));
        }
        if !is_valid_block_size(self.block_size_bytes) {
            return implausible("block size", u64::from(self.block_size_bytes));
        }
        if !self.page_address.0.is_multiple_of(u64::from(segment_size)) {
            return implausible("page address", self.page_address.0);
        }
        Ok(())
    }
}

/// Says whether WAL pages may have this size: a power of two from 1 to 64 KiB (PostgreSQL: configure's
/// `--with-wal-blocksize`).
pub(super) fn is_valid_block_size(size_bytes: u32) -> bool {
    size_bytes.is_power_of_two() && (1 << 10..=1 << 16).contains(&size_bytes)
}

fn major_version_of(magic: u16) -> Result<MajorVersion, WalPageHeaderError> {
    let known = PAGE_MAGICS.iter().find(|(known, _)| *known == magic);
    known.map(|(_, major)| *major).ok_or(WalPageHeaderError::UnknownMagic(magic))
}

/// Checks that the flags are known ones and include that of a long header.
fn check_flags(flags: u16) -> Result<(), WalPageHeaderError> {
    if flags & !ALL_FLAGS != 0 || flags & LONG_HEADER == 0 {
        return Err(WalPageHeaderError::UnexpectedFlags(flags));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1 << 20;

    /// The beginning of a segment of 16 MiB that a PostgreSQL 15 server wrote at LSN 0/3000000.
    const HEADER: [u8; LONG_HEADER_SIZE_BYTES] = [
        0x10, 0xD1, 0x06, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x63, 0x46, 0x59, 0x1C, 0xE1, 0x48, 0x00, 0x6B, 0x00, 0x00,
        0x00, 0x01, 0x00, 0x20, 0x00, 0x00,
    ];

    fn header_with(offset: usize, bytes: &[u8]) -> [u8; LONG_HEADER_SIZE_BYTES] {
        let mut header = HEADER;
        header[offset..offset + bytes.len()].copy_from_slice(bytes);
        header
    }

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

    #[test]
    fn a_real_header_is_read() {
        let expected = WalPageHeader {
            major_version: MajorVersion(15),
            timeline: TimelineId(1),
            page_address: Lsn(0x0300_0000),
            system_identifier: SystemIdentifier(7_710_242_693_738_743_395),
            segment_size_bytes: 16 * MIB,
            block_size_bytes: 8192,
            continued_record_bytes: 0,
        };

        assert_eq!(WalPageHeader::parse(&HEADER), Ok(expected));
    }

    #[test]
    fn every_truncation_of_a_header_is_too_short() {
        for size_bytes in 0..HEADER.len() {
            let error = WalPageHeaderError::TooShort { size_bytes };
            assert_eq!(WalPageHeader::parse(&HEADER[..size_bytes]), Err(error));
        }
    }

    #[test]
    fn a_segment_of_zeros_has_no_known_magic() {
        assert_eq!(WalPageHeader::parse(&[0; 8192]), Err(WalPageHeaderError::UnknownMagic(0)));
    }

    #[test]
    fn a_page_that_cannot_begin_a_segment_is_refused() {
        let short_header = header_with(2, &[0x01, 0]);
        let unknown_flag = header_with(2, &[0x12, 0]);

        assert_eq!(WalPageHeader::parse(&short_header), Err(WalPageHeaderError::UnexpectedFlags(1)));
        assert_eq!(WalPageHeader::parse(&unknown_flag), Err(WalPageHeaderError::UnexpectedFlags(0x12)));
    }

    #[test]
    fn implausible_numbers_are_refused() {
        for (offset, field) in [(32, "segment size"), (36, "block size"), (8, "page address")] {
            let header = header_with(offset, &[1, 0, 0, 0]);
            let error = WalPageHeader::parse(&header).unwrap_err();
            assert_eq!(error, WalPageHeaderError::Implausible { field, value: 1 });
        }
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

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, rest: [u8; 38]) {
            let _ = WalPageHeader::parse(&bytes);
            let _ = WalPageHeader::parse(&[&[0x10, 0xD1], rest.as_slice()].concat());
        }
    }
}
