//! Where the status of a transaction and the members of a multixact stand in their files.
//!
//! These files have no checksums and no headers: pages of plain numbers, 32 to a file, the file named by its number
//! in hexadecimal digits. Sources: clog.c, multixact.c, slru.c. Nothing here opens a file.

use super::MajorVersion;
use super::bytes::{u8_at, u32_at, u64_at};
use super::heap::TransactionStatus;
use std::ops::{Range, RangeInclusive};

/// The size of a page.
pub const PAGE_BYTES: u64 = 8192;
/// The pages of a file (PostgreSQL: `SLRU_PAGES_PER_SEGMENT`).
pub const PAGES_PER_SEGMENT: u64 = 32;
/// The size of a file that is full.
pub const SEGMENT_BYTES: u64 = PAGE_BYTES * PAGES_PER_SEGMENT;

/// Two bits a transaction.
const TRANSACTIONS_PER_SEGMENT: u32 = 4 * 8192 * 32;
/// Four flag bytes and four transactions a group; what is left of a page is unused.
const MEMBERS_PER_GROUP: u64 = 4;
const GROUP_BYTES: u64 = 20;
const GROUPS_PER_PAGE: u64 = PAGE_BYTES / GROUP_BYTES;
const MEMBERS_PER_PAGE: u64 = GROUPS_PER_PAGE * MEMBERS_PER_GROUP;
const MEMBERS_PER_SEGMENT: u64 = MEMBERS_PER_PAGE * PAGES_PER_SEGMENT;
/// From here on a member changed the row, below it only locked it (PostgreSQL: `ISUPDATE_from_mxstatus()`).
const FIRST_UPDATING_STATUS: u8 = 4;

/// A segment file of one of these directories, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlruSegment {
    /// The number.
    pub number: u64,
    digits: usize,
}

/// The digits of a name, at least.
const SHORT_NAME_DIGITS: usize = 4;
/// The digits of a name where numbers may be large (PostgreSQL: `SlruFileName()`, `long_segment_names`).
const LONG_NAME_DIGITS: usize = 15;

impl std::fmt::Display for SlruSegment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:0digits$X}", self.number, digits = self.digits)
    }
}

impl SlruSegment {
    /// Names a segment file by its number, in a directory with short names.
    pub fn short(number: u64) -> Self {
        Self { number, digits: SHORT_NAME_DIGITS }
    }

    fn long(number: u64) -> Self {
        Self { number, digits: LONG_NAME_DIGITS }
    }

    /// Reads the name of a segment file.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = if name.len() == LONG_NAME_DIGITS { LONG_NAME_DIGITS } else { SHORT_NAME_DIGITS };
        let segment = Self { number: u64::from_str_radix(name, 16).ok()?, digits };
        (segment.to_string() == name).then_some(segment)
    }
}

/// The file in `pg_xact` that has the status of a transaction.
pub fn transaction_segment(xid: u32) -> SlruSegment {
    SlruSegment::short(u64::from(xid / TRANSACTIONS_PER_SEGMENT))
}

/// The number of files in `pg_xact` before the numbers begin again.
pub const TRANSACTION_SEGMENTS: u64 = (u32::MAX / TRANSACTIONS_PER_SEGMENT + 1) as u64;

/// The size that a file in `pg_xact` must have to hold the status of this transaction, its newest.
pub fn transaction_segment_bytes(xid: u32) -> u64 {
    let page = u64::from(xid % TRANSACTIONS_PER_SEGMENT) / (4 * PAGE_BYTES);
    (page + 1) * PAGE_BYTES
}

/// The two bits of a transaction that did not end, or that the end of a server cut short.
pub const IN_PROGRESS: u8 = 0;
/// The two bits of a transaction that committed.
pub const COMMITTED: u8 = 1;
/// The two bits of a transaction that was rolled back.
pub const ABORTED: u8 = 2;

/// Reads the status of a transaction from its segment file; `None` where the file is too short for it.
///
/// Offline nobody runs: what is in progress, or a sub-transaction whose parent did not commit, is aborted.
pub fn transaction_status(segment: &[u8], xid: u32) -> Option<TransactionStatus> {
    let status = status_bits(segment, xid)?;
    Some(if status == COMMITTED { TransactionStatus::Committed } else { TransactionStatus::Aborted })
}

/// Reads the two bits of a transaction from its segment file; `None` where the file is too short.
pub fn status_bits(segment: &[u8], xid: u32) -> Option<u8> {
    let (index, shift) = status_place(xid)?;
    Some((u8_at(segment, index)? >> shift) & 3)
}

/// Writes the two bits of a transaction into its segment file, as far as that reaches.
pub fn put_status_bits(segment: &mut [u8], xid: u32, status: u8) {
    let place = status_place(xid).and_then(|(index, shift)| Some((segment.get_mut(index)?, shift)));
    if let Some((byte, shift)) = place {
        *byte = (*byte & !(3 << shift)) | ((status & 3) << shift);
    }
}

/// Returns the byte of its segment file that has the status of a transaction.
pub fn status_byte(xid: u32) -> usize {
    usize::try_from(xid % TRANSACTIONS_PER_SEGMENT / 4).unwrap_or_default()
}

/// The byte of a transaction in its segment file, and where in it its two bits begin.
fn status_place(xid: u32) -> Option<(usize, u32)> {
    let index = xid % TRANSACTIONS_PER_SEGMENT;
    Some((usize::try_from(index / 4).ok()?, index % 4 * 2))
}

/// Returns the transactions whose status is on a page, by its segment file and its number in it.
pub fn transactions_of_page(segment: SlruSegment, page: u32) -> RangeInclusive<u32> {
    const PER_PAGE: u32 = 4 * 8192;
    let first = u32::try_from(segment.number % TRANSACTION_SEGMENTS).unwrap_or_default();
    let first = first.wrapping_mul(TRANSACTIONS_PER_SEGMENT).wrapping_add(page.wrapping_mul(PER_PAGE));
    first..=first.saturating_add(PER_PAGE - 1)
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

/// How a major version lays its multixacts out: 19 made the offsets 64 bits wide, so that they never begin again
/// (multixact.c, `MultiXactOffset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultixactLayout {
    /// Offsets of 32 bits, until 18.
    Narrow,
    /// Offsets of 64 bits, since 19.
    Wide,
}

impl MultixactLayout {
    /// Returns the layout of a major version.
    pub fn of(major: MajorVersion) -> Self {
        if major.0 < 19 { Self::Narrow } else { Self::Wide }
    }

    fn offset_bytes(self) -> u32 {
        match self {
            Self::Narrow => 4,
            Self::Wide => 8,
        }
    }

    /// Returns how many multixacts a file in `pg_multixact/offsets` has.
    pub fn multixacts_per_segment(self) -> u32 {
        8192 / self.offset_bytes() * 32
    }

    /// Returns the file in `pg_multixact/offsets` that has the place of a multixact's members.
    pub fn offset_segment(self, multixact: u32) -> SlruSegment {
        SlruSegment::short(u64::from(multixact / self.multixacts_per_segment()))
    }

    /// Reads the number of a multixact's first member from its segment file; `None` where the file is too short.
    pub fn first_member(self, segment: &[u8], multixact: u32) -> Option<u64> {
        let index = usize::try_from(multixact % self.multixacts_per_segment()).ok()?;
        match self {
            Self::Narrow => u32_at(segment, index * 4).map(u64::from),
            Self::Wide => u64_at(segment, index * 8),
        }
    }

    /// Returns the byte of its segment file where the number of a multixact's first member begins.
    pub fn offset_byte(self, multixact: u32) -> usize {
        let bytes = u64::from(multixact % self.multixacts_per_segment()) * u64::from(self.offset_bytes());
        usize::try_from(bytes).unwrap_or_default()
    }

    /// Writes the number of a multixact's first member into its segment file, as far as that reaches.
    pub fn put_first_member(self, segment: &mut [u8], multixact: u32, first_member: u64) {
        let index = usize::try_from(multixact % self.multixacts_per_segment()).unwrap_or(usize::MAX / 8);
        let bytes = first_member.to_le_bytes();
        let size = usize::try_from(self.offset_bytes()).unwrap_or_default();
        let place = segment.get_mut(index * size..).and_then(|rest| rest.get_mut(..size));
        if let (Some(place), Some(bytes)) = (place, bytes.get(..size)) {
            place.copy_from_slice(bytes);
        }
    }

    /// Returns the file in `pg_multixact/members` that has a member.
    pub fn member_segment(self, member: u64) -> SlruSegment {
        self.member_file()(member / MEMBERS_PER_SEGMENT)
    }

    /// Returns how the files in `pg_multixact/members` are named by their numbers.
    pub fn member_file(self) -> fn(u64) -> SlruSegment {
        match self {
            Self::Narrow => SlruSegment::short,
            Self::Wide => SlruSegment::long,
        }
    }

    /// Returns the member after another one by some steps.
    pub fn member_after(self, member: u64, steps: u64) -> u64 {
        match self {
            Self::Narrow => member.wrapping_add(steps) & u64::from(u32::MAX),
            Self::Wide => member.wrapping_add(steps),
        }
    }

    /// Returns how many members there are from one to another.
    pub fn members_between(self, first: u64, end: u64) -> u64 {
        match self {
            Self::Narrow => end.wrapping_sub(first) & u64::from(u32::MAX),
            Self::Wide => end.wrapping_sub(first),
        }
    }

    /// Returns the number of files in `pg_multixact/offsets` before the numbers begin again.
    pub fn offset_segments(self) -> u64 {
        u64::from(u32::MAX / self.multixacts_per_segment()) + 1
    }

    /// Returns the number of files in `pg_multixact/members` before the numbers begin again.
    pub fn member_segments(self) -> u64 {
        let most = match self {
            Self::Narrow => u64::from(u32::MAX),
            Self::Wide => u64::MAX,
        };
        most / MEMBERS_PER_SEGMENT + 1
    }
}

/// Reads a member from its segment file: its transaction, if it changed the row. `None` where the file is too short.
pub fn updating_member(segment: &[u8], member: u64) -> Option<Option<u32>> {
    let (xid, status) = member_at(segment, member)?;
    Some((status >= FIRST_UPDATING_STATUS).then_some(xid))
}

/// Reads the transaction and the status of a member from its segment file; `None` where the file is too short.
pub fn member_at(segment: &[u8], member: u64) -> Option<(u32, u8)> {
    let (status, xid) = member_place(member)?;
    Some((u32_at(segment, xid)?, u8_at(segment, status)?))
}

/// Returns the members that a segment file has a place for.
pub fn members_of(segment: SlruSegment) -> Range<u64> {
    let first = segment.number.saturating_mul(MEMBERS_PER_SEGMENT);
    first..first.saturating_add(MEMBERS_PER_SEGMENT)
}

/// Returns the number of a member's page in its segment file.
pub fn page_of_member(member: u64) -> usize {
    usize::try_from(member % MEMBERS_PER_SEGMENT / MEMBERS_PER_PAGE).unwrap_or_default()
}

/// Writes a member into its segment file, as far as that reaches.
pub fn put_member(segment: &mut [u8], member: u64, xid: u32, status: u8) {
    let Some((status_at, xid_at)) = member_place(member) else { return };
    if let Some(place) = segment.get_mut(xid_at..).and_then(<[u8]>::first_chunk_mut) {
        *place = xid.to_le_bytes();
    }
    if let Some(place) = segment.get_mut(status_at) {
        *place = status;
    }
}

/// Where in its segment file the status and the transaction of a member are.
fn member_place(member: u64) -> Option<(usize, usize)> {
    let within = member % MEMBERS_PER_SEGMENT;
    let (page, in_page) = (within / MEMBERS_PER_PAGE, within % MEMBERS_PER_PAGE);
    let group = usize::try_from(page * PAGE_BYTES + in_page / MEMBERS_PER_GROUP * GROUP_BYTES).ok()?;
    let in_group = usize::try_from(in_page % MEMBERS_PER_GROUP).ok()?;
    Some((group + in_group, group + 4 + in_group * 4))
}

/// The files from the first to the last, both included, where the numbers begin again after `count`.
pub fn segments_between(
    first: SlruSegment,
    last: SlruSegment,
    count: u64,
) -> impl DoubleEndedIterator<Item = SlruSegment> {
    let (begin, end) = (first.number % count, last.number % count);
    let distance = if end >= begin { end - begin } else { count - begin + end };
    (0..=distance).map(move |step| SlruSegment { number: (begin + step) % count, ..first })
}

#[cfg(test)]
mod tests {
    use super::MultixactLayout::{Narrow, Wide};
    use super::*;
    use crate::pg::fixtures::{MAJORS, read};
    use proptest::prelude::*;

    #[test]
    fn transactions_without_an_end_are_those_with_no_bits() {
        // Four a byte, the lowest bits first: 0 and 2 have none, nor have those beyond the end.
        let segment = [0b1000_0100];
        assert_eq!(transactions_without_end(&segment, 0..=5).collect::<Vec<_>>(), [0, 2, 4, 5]);
        assert_eq!(transactions_without_end(&segment, 1..=1).next(), None);
        assert_eq!(last_transaction_of_segment(3), 1_048_575);
        assert_eq!(last_transaction_of_segment(u32::MAX), u32::MAX);
    }

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
        assert_eq!(Narrow.offset_segment(65_536).to_string(), "0001");
        assert_eq!(Narrow.member_segment(52_352).to_string(), "0001");
        assert_eq!(Narrow.member_segment(u64::from(u32::MAX)).to_string(), "14078");
        assert_eq!(Wide.offset_segment(65_536).to_string(), "0002");
        assert_eq!(Wide.member_segment(52_352).to_string(), "000000000000001");
        assert_eq!(SlruSegment::parse("14078"), Some(SlruSegment::short(0x14078)));
        assert_eq!(SlruSegment::parse("000000000000001"), Some(Wide.member_segment(52_352)));
        assert_eq!(SlruSegment::parse("14"), None);
        assert_eq!(SlruSegment::parse("000a"), None);
        assert_eq!(
            (TRANSACTION_SEGMENTS, Narrow.offset_segments(), Narrow.member_segments()),
            (4096, 65_536, 82_041)
        );
        assert_eq!(Wide.offset_segments(), 131_072);
    }

    #[test]
    fn a_file_grows_by_a_page_every_32768_transactions() {
        assert_eq!(transaction_segment_bytes(3), 8192);
        assert_eq!(transaction_segment_bytes(32_768), 16_384);
        assert_eq!(transaction_segment_bytes(1_048_575), SEGMENT_BYTES);
    }

    #[test]
    fn members_are_counted_across_the_point_where_narrow_numbers_begin_again() {
        assert_eq!(Narrow.member_after(u64::from(u32::MAX), 2), 1);
        assert_eq!(Narrow.members_between(u64::from(u32::MAX), 1), 2);
        assert_eq!(Wide.member_after(u64::from(u32::MAX), 2), (1 << 32) + 1);
        assert_eq!(Wide.members_between(1, 1 << 40), (1 << 40) - 1);
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_changes() {
        let mut status = vec![0; 8192];
        put_status_bits(&mut status, 1_048_576 + 9, ABORTED);
        put_status_bits(&mut status, 10, COMMITTED);
        put_status_bits(&mut status, 40_000, COMMITTED);
        let read: Vec<_> = [8, 9, 10, 11].map(|xid| status_bits(&status, xid)).into();
        assert_eq!(read, [Some(IN_PROGRESS), Some(ABORTED), Some(COMMITTED), Some(IN_PROGRESS)]);
        assert_eq!(status_bits(&status, 40_000), None);

        let mut members = vec![0; 8192];
        put_member(&mut members, 5, 4711, 4);
        let read: Vec<_> = [4, 5, 6].map(|member| member_at(&members, member)).into();
        assert_eq!(read, [Some((0, 0)), Some((4711, 4)), Some((0, 0))]);
        assert_eq!(updating_member(&members, 5), Some(Some(4711)));

        for layout in [Narrow, Wide] {
            let mut offsets = vec![0; 8192];
            layout.put_first_member(&mut offsets, layout.multixacts_per_segment() + 7, 9);
            layout.put_first_member(&mut offsets, 5000, 9);
            let read = [6, 7, 8].map(|multixact| layout.first_member(&offsets, multixact));
            assert_eq!(read, [Some(0), Some(9), Some(0)]);
        }
    }

    #[test]
    fn a_page_has_the_status_of_32768_transactions() {
        assert_eq!(transactions_of_page(SlruSegment::short(0), 1), 32_768..=65_535);
        assert_eq!(transactions_of_page(SlruSegment::short(4095), 31), 4_294_934_528..=u32::MAX);
    }

    #[test]
    fn the_numbers_begin_again() {
        let numbers = |first, last| {
            segments_between(SlruSegment::short(first), SlruSegment::short(last), 4096)
                .map(|segment| segment.number)
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
            for layout in [Narrow, Wide] {
                layout.first_member(&bytes, number);
            }
            updating_member(&bytes, u64::from(number));
            let _ = SlruSegment::parse(&format!("{number:X}"));
        }
    }
}
