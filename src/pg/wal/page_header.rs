//! The header at the beginning of each WAL page, short or long.
//!
//! It says where the page belongs. The server makes segments ahead of use by renaming old ones, so a page with a
//! sound header is WAL of its place only if its address says so, too.

use serde::{Deserialize, Serialize};

use super::name::is_valid_segment_size;
use crate::pg::bytes::{u16_at, u32_at, u64_at};
use crate::pg::{Lsn, MajorVersion, SystemIdentifier, TimelineId};

/// The WAL page magic of each major version (PostgreSQL: `XLOG_PAGE_MAGIC` in `xlog_internal.h`).
const PAGE_MAGICS: [(u16, MajorVersion); 7] = [
    (0xD106, MajorVersion(13)),
    (0xD10D, MajorVersion(14)),
    (0xD110, MajorVersion(15)),
    (0xD113, MajorVersion(16)),
    (0xD116, MajorVersion(17)),
    (0xD118, MajorVersion(18)),
    (0xD122, MajorVersion(19)),
];

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES_RECORD: u16 = 0x0001;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record of which the rest belonged here was lost in a crash, and is
/// given up.
const GIVES_UP_RECORD: u16 = 0x0008;
/// `XLP_LONG_HEADER`: the header has the fields that tell the cluster and its sizes.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_ALL_FLAGS`, the union of those of 13 to 19.
const ALL_FLAGS: u16 = 0x000F;

/// The size of the header of all other pages: 20 bytes, aligned.
pub(super) const SHORT_HEADER_SIZE_BYTES: usize = 24;

/// The size of the long header, with which every WAL segment begins.
pub const LONG_HEADER_SIZE_BYTES: usize = 40;

/// The long page header at the beginning of a WAL segment.
///
/// The server makes segments ahead of use by renaming old ones, so a sound header may still carry the
/// timeline and address of the segment that the file once was: it holds WAL of its name only if
/// `page_address` equals [`WalFileName::start_lsn`](super::WalFileName::start_lsn).
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

/// What the WAL of one cluster has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalGeometry {
    /// The major version that writes it.
    pub major: MajorVersion,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The size of a segment.
    pub segment_size_bytes: u32,
    /// The size of a page.
    pub block_size_bytes: u32,
}

impl From<&WalPageHeader> for WalGeometry {
    fn from(header: &WalPageHeader) -> Self {
        Self {
            major: header.major_version,
            system_identifier: header.system_identifier,
            segment_size_bytes: header.segment_size_bytes,
            block_size_bytes: header.block_size_bytes,
        }
    }
}

impl WalGeometry {
    /// Whether these bytes begin the WAL page of this address.
    pub fn is_page_at(&self, address: Lsn, page: &[u8]) -> bool {
        PageStart::parse(page, address, self).is_ok()
    }
}

/// The header of any WAL page of a cluster that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageStart {
    /// The timeline of the first record on the page.
    pub(super) timeline: TimelineId,
    /// The size of the header.
    pub(super) size_bytes: usize,
    /// How many bytes are still to come of a record begun earlier, if the page begins with some.
    pub(super) continued_bytes: Option<u32>,
    /// Whether a record begun earlier ends without its rest.
    pub(super) gives_up_record: bool,
}

impl PageStart {
    /// Reads the header of the page at `address`, or says what is wrong with it.
    ///
    /// Source: xlogreader.c, `XLogReaderValidatePageHeader()`.
    pub(super) fn parse(page: &[u8], address: Lsn, geometry: &WalGeometry) -> Result<Self, String> {
        let cut = || "it is cut short".to_owned();
        let magic = u16_at(page, 0).ok_or_else(cut)?;
        if !major_version_of(magic).is_ok_and(|major| major == geometry.major) {
            return Err(format!("magic number {magic:04X}"));
        }
        let flags = u16_at(page, 2).ok_or_else(cut)?;
        let found = Lsn(u64_at(page, 8).ok_or_else(cut)?);
        if found != address {
            return Err(format!("it is the page of {found}"));
        }
        let is_first = address.0.is_multiple_of(u64::from(geometry.segment_size_bytes));
        let is_long = flags & LONG_HEADER != 0;
        if flags & !ALL_FLAGS != 0 || is_first != is_long {
            return Err(format!("flags {flags:04X}"));
        }
        if is_long {
            let header = WalPageHeader::parse(page).map_err(|error| error.to_string())?;
            if WalGeometry::from(&header) != *geometry {
                return Err(format!("it is of cluster {}", header.system_identifier));
            }
        }
        let continued_bytes = u32_at(page, 16).ok_or_else(cut)?;
        Ok(Self {
            timeline: TimelineId(u32_at(page, 4).ok_or_else(cut)?),
            size_bytes: if is_long { LONG_HEADER_SIZE_BYTES } else { SHORT_HEADER_SIZE_BYTES },
            continued_bytes: (flags & CONTINUES_RECORD != 0).then_some(continued_bytes),
            gives_up_record: flags & GIVES_UP_RECORD != 0,
        })
    }
}

/// Says whether WAL pages may have this size: a power of two from 1 to 64 KiB (PostgreSQL: configure's
/// `--with-wal-blocksize`).
pub(in crate::pg) fn is_valid_block_size(size_bytes: u32) -> bool {
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
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, rest: [u8; 38]) {
            let _ = WalPageHeader::parse(&bytes);
            let _ = WalPageHeader::parse(&[&[0x10, 0xD1], rest.as_slice()].concat());
        }
    }
}
