//! Where the status of a transaction and the members of a multixact stand in their files.
//!
//! These files have no checksums and no headers: pages of plain numbers, 32 to a file, the file named by its number
//! in hexadecimal digits. Sources: clog.c, multixact.c, slru.c. Nothing here opens a file.

use super::bytes::{u8_at, u32_at};
use super::heap::TransactionStatus;
use std::ops::RangeInclusive;

/// The size of a page.
pub const PAGE_BYTES: u64 = 8192;
/// The pages of a file (PostgreSQL: `SLRU_PAGES_PER_SEGMENT`).
pub const PAGES_PER_SEGMENT: u64 = 32;
/// The size of a file that is full.
pub const SEGMENT_BYTES: u64 = PAGE_BYTES * PAGES_PER_SEGMENT;

/// Two bits a transaction.
const TRANSACTIONS_PER_SEGMENT: u32 = 4 * 8192 * 32;
/// Four bytes a multixact.
const MULTIXACTS_PER_SEGMENT: u32 = 8192 / 4 * 32;
/// Four flag bytes and four transactions a group; what is left of a page is unused.
const MEMBERS_PER_GROUP: u64 = 4;
const GROUP_BYTES: u64 = 20;
const GROUPS_PER_PAGE: u64 = PAGE_BYTES / GROUP_BYTES;
const MEMBERS_PER_PAGE: u64 = GROUPS_PER_PAGE * MEMBERS_PER_GROUP;
const MEMBERS_PER_SEGMENT: u64 = MEMBERS_PER_PAGE * PAGES_PER_SEGMENT;
/// From here on a member changed the row, below it only locked it (PostgreSQL: `ISUPDATE_from_mxstatus()`).
const FIRST_UPDATING_STATUS: u8 = 4;

/// A number of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlruSegment(pub u32);

impl std::fmt::Display for SlruSegment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:04X}", self.0)
    }
}

impl SlruSegment {
    /// Reads the name of a segment file.
    pub fn parse(name: &str) -> Option<Self> {
        let number = Self(u32::from_str_radix(name, 16).ok()?);
        (number.to_string() == name).then_some(number)
    }
}

/// The file in `pg_xact` that has the status of a transaction.
pub fn transaction_segment(xid: u32) -> SlruSegment {
    SlruSegment(xid / TRANSACTIONS_PER_SEGMENT)
}

/// The number of files in `pg_xact` before the numbers begin again.
pub const TRANSACTION_SEGMENTS: u32 = u32::MAX / TRANSACTIONS_PER_SEGMENT + 1;
/// The number of files in `pg_multixact/offsets` before the numbers begin again.
pub const OFFSET_SEGMENTS: u32 = u32::MAX / MULTIXACTS_PER_SEGMENT + 1;
/// The number of files in `pg_multixact/members` before the numbers begin again.
#[expect(clippy::cast_possible_truncation, reason = "it is 82041")]
pub const MEMBER_SEGMENTS: u32 = (u32::MAX as u64 / MEMBERS_PER_SEGMENT + 1) as u32;

/// The size that a file in `pg_xact` must have to hold the status of this transaction, its newest.
pub fn transaction_segment_bytes(xid: u32) -> u64 {
    let page = u64::from(xid % TRANSACTIONS_PER_SEGMENT) / (4 * PAGE_BYTES);
    (page + 1) * PAGE_BYTES
}

/// Reads the status of a transaction from its segment file; `None` where the file is too short for it.
///
/// Offline nobody runs: what is in progress, or a sub-transaction whose parent did not commit, is aborted.
pub fn transaction_status(segment: &[u8], xid: u32) -> Option<TransactionStatus> {
    let index = xid % TRANSACTIONS_PER_SEGMENT;
    let byte = u8_at(segment, usize::try_from(index / 4).ok()?)?;
    let status = (byte >> ((index % 4) * 2)) & 3;
    Some(if status == 1 { TransactionStatus::Committed } else { TransactionStatus::Aborted })
}

/// The transactions of a segment file, among these, of which no end was noted: such as run, were prepared, or were cut
/// short by a crash. Those that the file is too short for are among them.
pub fn transactions_without_end(segment: &[u8], xids: RangeInclusive<u32>) -> impl Iterator<Item = u32> {
    let status = |xid: u32| {
        let index = xid % TRANSACTIONS_PER_SEGMENT;
        let byte = usize::try_from(index / 4).ok().and_then(|at| u8_at(segment, at)).unwrap_or_default();
        (byte >> ((index % 4) * 2)) & 3
    };
    xids.filter(move |xid| status(*xid) == 0)
}

/// The last transaction of the segment file that has this transaction.
pub fn last_transaction_of_segment(xid: u32) -> u32 {
    xid | (TRANSACTIONS_PER_SEGMENT - 1)
}

/// The file in `pg_multixact/offsets` that has the place of a multixact's members.
pub fn offset_segment(multixact: u32) -> SlruSegment {
    SlruSegment(multixact / MULTIXACTS_PER_SEGMENT)
}

/// Reads the number of a multixact's first member from its segment file; `None` where the file is too short.
pub fn first_member(segment: &[u8], multixact: u32) -> Option<u32> {
    u32_at(segment, usize::try_from(multixact % MULTIXACTS_PER_SEGMENT).ok()? * 4)
}

/// The file in `pg_multixact/members` that has a member.
pub fn member_segment(member: u32) -> SlruSegment {
    SlruSegment(u32::try_from(u64::from(member) / MEMBERS_PER_SEGMENT).unwrap_or_default())
}

/// Reads a member from its segment file: its transaction, if it changed the row. `None` where the file is too short.
pub fn updating_member(segment: &[u8], member: u32) -> Option<Option<u32>> {
    let within = u64::from(member) % MEMBERS_PER_SEGMENT;
    let (page, in_page) = (within / MEMBERS_PER_PAGE, within % MEMBERS_PER_PAGE);
    let group = usize::try_from(page * PAGE_BYTES + in_page / MEMBERS_PER_GROUP * GROUP_BYTES).ok()?;
    let in_group = usize::try_from(in_page % MEMBERS_PER_GROUP).ok()?;
    let status = u8_at(segment, group + in_group)?;
    let xid = u32_at(segment, group + 4 + in_group * 4)?;
    Some((status >= FIRST_UPDATING_STATUS).then_some(xid))
}

/// The files from the first to the last, both included, where the numbers begin again after `count`.
pub fn segments_between(
    first: SlruSegment,
    last: SlruSegment,
    count: u32,
) -> impl Iterator<Item = SlruSegment> {
    let (first, last) = (first.0 % count, last.0 % count);
    let distance = if last >= first { last - first } else { count - first + last };
    (0..=distance).map(move |step| SlruSegment((first + step) % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_without_an_end_are_those_with_no_bits() {
        // Four a byte, the lowest bits first: 0 and 2 have none, nor have those beyond the end.
        let segment = [0b1000_0100];
        assert_eq!(transactions_without_end(&segment, 0..=5).collect::<Vec<_>>(), [0, 2, 4, 5]);
        assert_eq!(transactions_without_end(&segment, 1..=1).next(), None);
        assert_eq!(last_transaction_of_segment(3), 1_048_575);
        assert_eq!(last_transaction_of_segment(u32::MAX), u32::MAX);
    }
    use crate::pg::fixtures::{MAJORS, read};
    use proptest::prelude::*;

    #[test]
    fn the_transactions_of_initdb_are_committed_in_every_fixture() {
        for major in MAJORS {
            let segment = read(major, "pg_xact_0000");
            assert_eq!(transaction_status(&segment, 3), Some(TransactionStatus::Committed), "{major}");
        }
    }

    #[test]
    fn the_files_are_named_as_the_server_names_them() {
        assert_eq!(transaction_segment(1_048_575).to_string(), "0000");
        assert_eq!(transaction_segment(u32::MAX).to_string(), "0FFF");
        assert_eq!(offset_segment(65_536).to_string(), "0001");
        assert_eq!(member_segment(52_352).to_string(), "0001");
        assert_eq!(member_segment(u32::MAX).to_string(), "14078");
        assert_eq!(SlruSegment::parse("14078"), Some(SlruSegment(0x14078)));
        assert_eq!(SlruSegment::parse("14"), None);
        assert_eq!(SlruSegment::parse("000a"), None);
        assert_eq!((TRANSACTION_SEGMENTS, OFFSET_SEGMENTS, MEMBER_SEGMENTS), (4096, 65_536, 82_041));
    }

    #[test]
    fn a_file_grows_by_a_page_every_32768_transactions() {
        assert_eq!(transaction_segment_bytes(3), 8192);
        assert_eq!(transaction_segment_bytes(32_768), 16_384);
        assert_eq!(transaction_segment_bytes(1_048_575), SEGMENT_BYTES);
    }

    #[test]
    fn the_numbers_begin_again() {
        let numbers = |first, last| {
            segments_between(SlruSegment(first), SlruSegment(last), 4096)
                .map(|segment| segment.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(4094, 1), [4094, 4095, 0, 1]);
        assert_eq!(numbers(7, 7), [7]);
    }

    proptest! {
        #[test]
        fn arbitrary_segments_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..20_000), number: u32,
        ) {
            transaction_status(&bytes, number);
            first_member(&bytes, number);
            updating_member(&bytes, number);
            let _ = SlruSegment::parse(&format!("{number:X}"));
        }
    }
}
