//! What records say of the end of transactions and of new multixacts: all that `pg_xact` and `pg_multixact` hold.
//!
//! Sources: xactdesc.c, `ParseCommitRecord()` and `ParseAbortRecord()`; xact.h; multixact.h.

use super::record::WalRecord;
use crate::pg::MajorVersion;
use crate::pg::bytes::{u32_at, u64_at};
use crate::pg::slru::MultixactLayout;

const TRANSACTION: u8 = 1;
const MULTIXACT: u8 = 6;
const MULTIXACT_CREATE: u8 = 0x20;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It committed, and with it its subtransactions.
    Committed,
    /// It was rolled back.
    Aborted,
}

/// The end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// The transaction and its subtransactions.
    pub xids: Vec<u32>,
}

/// A multixact and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultixactCreated {
    /// Its number.
    pub multixact: u32,
    /// The number of its first member.
    pub first_member: u64,
    /// The transaction and the status of each member.
    pub members: Vec<(u32, u8)>,
}

impl WalRecord<'_> {
    /// Returns the transactions that end with the record; `None` for another kind of record.
    pub fn ended_transactions(&self) -> Option<TransactionEnd> {
        if self.header.resource_manager != TRANSACTION {
            return None;
        }
        let (outcome, is_prepared) = match self.header.info & 0x70 {
            0x00 => (Outcome::Committed, false),
            0x20 => (Outcome::Aborted, false),
            0x30 => (Outcome::Committed, true),
            0x40 => (Outcome::Aborted, true),
            _ => return None,
        };
        let parts = EndParts::parse(self.body()?.main_data, self.header.info)?;
        let xid = if is_prepared { parts.prepared_xid(outcome, self.major)? } else { self.header.xid };
        let mut xids = parts.subtransactions;
        xids.insert(0, xid);
        Some(TransactionEnd { outcome, xids })
    }

    /// Returns the multixact that the record makes; `None` for another kind of record.
    pub fn multixact_created(&self) -> Option<MultixactCreated> {
        if !self.is(MULTIXACT, MULTIXACT_CREATE) {
            return None;
        }
        let data = self.body()?.main_data;
        // `xl_multixact_create`: an offset of 64 bits is aligned.
        let (first_member, count_at) = match MultixactLayout::of(self.major) {
            MultixactLayout::Narrow => (u64::from(u32_at(data, 4)?), 8),
            MultixactLayout::Wide => (u64_at(data, 8)?, 16),
        };
        let count = usize::try_from(u32_at(data, count_at)?).ok()?;
        let members = data.get(count_at + 4..)?.get(..count.checked_mul(8)?)?;
        let member = |bytes: &[u8]| Some((u32_at(bytes, 0)?, u8::try_from(u32_at(bytes, 4)?).ok()?));
        Some(MultixactCreated {
            multixact: u32_at(data, 0)?,
            first_member,
            members: members.chunks_exact(8).map(member).collect::<Option<_>>()?,
        })
    }
}

/// The parts of a commit or abort record up to its subtransactions.
struct EndParts<'a> {
    data: &'a [u8],
    info: u32,
    subtransactions: Vec<u32>,
    /// Where what follows the subtransactions begins.
    rest: usize,
}

impl<'a> EndParts<'a> {
    const HAS_INFO: u8 = 0x80;
    const HAS_DATABASE: u32 = 1;
    const HAS_SUBTRANSACTIONS: u32 = 2;
    const HAS_RELATIONS: u32 = 4;
    const HAS_INVALIDATIONS: u32 = 8;
    const HAS_PREPARED_XID: u32 = 16;
    const HAS_DROPPED_STATISTICS: u32 = 256;

    fn parse(data: &'a [u8], record_info: u8) -> Option<Self> {
        if record_info & Self::HAS_INFO == 0 {
            return Some(Self { data, info: 0, subtransactions: Vec::new(), rest: 8 });
        }
        let info = u32_at(data, 8)?;
        let mut rest = if info & Self::HAS_DATABASE == 0 { 12 } else { 20 };
        let mut subtransactions = Vec::new();
        if info & Self::HAS_SUBTRANSACTIONS != 0 {
            let end = after_list(data, rest, 4)?;
            let xids = data.get(rest.checked_add(4)?..end)?.chunks_exact(4);
            subtransactions = xids.filter_map(|bytes| u32_at(bytes, 0)).collect();
            rest = end;
        }
        Some(Self { data, info, subtransactions, rest })
    }

    /// The transaction whose two-phase commit or rollback it is: the record itself is another transaction's.
    fn prepared_xid(&self, outcome: Outcome, major: MajorVersion) -> Option<u32> {
        let has = |flag: u32| self.info & flag != 0;
        let mut at = self.rest;
        if has(Self::HAS_RELATIONS) {
            at = after_list(self.data, at, 12)?;
        }
        if has(Self::HAS_DROPPED_STATISTICS) && major.0 >= 15 {
            at = after_list(self.data, at, if major.0 < 18 { 12 } else { 16 })?;
        }
        if has(Self::HAS_INVALIDATIONS) && outcome == Outcome::Committed {
            at = after_list(self.data, at, 16)?;
        }
        has(Self::HAS_PREPARED_XID).then(|| u32_at(self.data, at)).flatten()
    }
}

/// Where a list ends that begins with the count of its elements.
fn after_list(data: &[u8], offset: usize, element_bytes: usize) -> Option<usize> {
    let count = usize::try_from(u32_at(data, offset)?).ok()?;
    offset.checked_add(4)?.checked_add(count.checked_mul(element_bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal::{RecordHeader, WalRecord};
    use crate::pg::{Lsn, TimelineId};
    use proptest::prelude::*;

    /// A record of transaction 700, with this main data.
    fn with_record<T>(
        major: u32,
        (resource_manager, info): (u8, u8),
        data: &[u8],
        read: impl Fn(WalRecord<'_>) -> T,
    ) -> T {
        let size = u32::try_from(data.len()).unwrap();
        let bytes = [&[0; 24][..], &[254], &size.to_le_bytes(), data].concat();
        let header = RecordHeader {
            total_bytes: u32::try_from(bytes.len()).unwrap(),
            xid: 700,
            previous: Lsn(0),
            info,
            resource_manager,
            crc: 0,
        };
        read(WalRecord {
            start: Lsn(8),
            end: Lsn(16),
            timeline: TimelineId(1),
            header,
            bytes: &bytes,
            major: MajorVersion(major),
        })
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn end(major: u32, info: u8, data: &[u8]) -> Option<(Outcome, Vec<u32>)> {
        let found = with_record(major, (TRANSACTION, info), data, |record| record.ended_transactions());
        found.map(|end| (end.outcome, end.xids))
    }

    #[test]
    fn a_commit_and_a_rollback_are_of_the_records_own_transaction() {
        let time = [0; 8];
        assert_eq!(end(15, 0x00, &time), Some((Outcome::Committed, vec![700])));
        assert_eq!(end(15, 0x20, &time), Some((Outcome::Aborted, vec![700])));
        // A prepared transaction has not ended; and what names the top transaction of another is no end at all.
        assert_eq!((end(15, 0x10, &time), end(15, 0x50, &time)), (None, None));
    }

    #[test]
    fn subtransactions_end_with_their_transaction() {
        let info = EndParts::HAS_DATABASE | EndParts::HAS_SUBTRANSACTIONS;
        let data = [vec![0; 8], numbers(&[info, 5, 1663, 2, 701, 702])].concat();
        assert_eq!(end(15, 0x80, &data), Some((Outcome::Committed, vec![700, 701, 702])));
    }

    #[test]
    fn a_prepared_transaction_is_found_behind_all_else_in_every_version() {
        let info = EndParts::HAS_RELATIONS
            | EndParts::HAS_DROPPED_STATISTICS
            | EndParts::HAS_INVALIDATIONS
            | EndParts::HAS_PREPARED_XID;
        for (major, statistics) in [(14, 0), (15, 3), (17, 3), (18, 4)] {
            let mut data = [vec![0; 8], numbers(&[info, 1, 1663, 5, 16384])].concat();
            if statistics > 0 {
                data.extend(numbers(&[1]));
                data.extend(numbers(&vec![9; statistics]));
            }
            data.extend(numbers(&[1, 9, 9, 9, 9, 690]));
            assert_eq!(end(major, 0xB0, &data), Some((Outcome::Committed, vec![690])), "{major}");
        }
    }

    #[test]
    fn a_multixact_is_read_with_its_members() {
        let data = numbers(&[7, 21, 2, 700, 0, 701, 4]);
        let created =
            with_record(15, (MULTIXACT, MULTIXACT_CREATE), &data, |record| record.multixact_created());
        let members = vec![(700, 0), (701, 4)];
        let expected = MultixactCreated { multixact: 7, first_member: 21, members };
        assert_eq!(created, Some(expected.clone()));

        let data = numbers(&[7, 0, 21, 1, 2, 700, 0, 701, 4]);
        let wide = with_record(19, (MULTIXACT, MULTIXACT_CREATE), &data, |record| record.multixact_created());
        assert_eq!(wide, Some(MultixactCreated { first_member: (1 << 32) + 21, ..expected }));
    }

    proptest! {
        #[test]
        fn arbitrary_data_is_read_without_a_panic(
            data in proptest::collection::vec(any::<u8>(), 0..200), manager in 0_u8..8, info: u8,
        ) {
            with_record(16, (manager, info), &data, |record| {
                record.ended_transactions();
                record.multixact_created();
            });
        }
    }
}
