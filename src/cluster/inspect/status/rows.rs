//! What the rows themselves say of their transactions, held against the status files.
//!
//! A server notes on a row that its transaction committed once it has seen that in `pg_xact`, and only when the commit
//! is on the disk (`heapam_visibility.c`, `SetHintBits()`). So no row can say so of a transaction whose status is
//! another. And a row that was updated while others held locks on it has a multixact with the updater among its members.

use super::files::{Known, OFFSETS, StatusFiles, TRANSACTIONS};
use super::{MULTIXACT_WRONG, STATUS_WRONG};
use crate::cluster::inspect::catalog::StoredTransactions;
use crate::format::count;
use crate::pg::control_file::ControlFile;
use crate::pg::heap::{self, Tuple};
use crate::pg::slru::{self, ABORTED, IN_PROGRESS, SlruSegment};
use crate::plan::{Finding, Severity};
use crate::sys::ReadRoot;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The most segments of `pg_xact` that are held in memory, the newest: 128 MiB, for 500 million transactions.
const MOST_SEGMENTS: u64 = 512;

/// The status of all transactions that rows can have.
pub(in crate::cluster::inspect) struct RowHints<'a> {
    known: Known,
    segments: HashMap<SlruSegment, Vec<u8>>,
    stored: StoredTransactions<'a>,
    to_be_replayed: ToBeReplayed,
}

/// What replay will write into the status files, so that they need not have it yet.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct ToBeReplayed {
    pub(super) xids: HashSet<u32>,
    pub(super) multixacts: HashSet<u32>,
}

/// How many rows contradict a file, and the first transaction or multixact of which one does.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct RowTally {
    by_segment: BTreeMap<SlruSegment, (u64, u32)>,
    /// How many rows, the first multixact, and the file that has its place.
    multixacts: Option<(u64, u32, SlruSegment)>,
}

impl RowTally {
    pub(in crate::cluster::inspect) fn plus(mut self, other: Self) -> Self {
        for (segment, (rows, xid)) in other.by_segment {
            self.by_segment.entry(segment).or_insert((0, xid)).0 += rows;
        }
        self.multixacts = match (self.multixacts, other.multixacts) {
            (Some((left, first, place)), Some((right, ..))) => Some((left + right, first, place)),
            (left, right) => left.or(right),
        };
        self
    }

    /// One finding for each file that rows contradict.
    pub(in crate::cluster::inspect) fn findings(&self) -> Vec<Finding> {
        let of_transactions = self.by_segment.iter().map(|(segment, (rows, xid))| {
            let evidence = format!(
                "notes on rows say that transactions committed which by this file did not: {} of them, the first is \
                 transaction {xid}",
                count(*rows)
            );
            Finding::new(STATUS_WRONG, Severity::Error, format!("{TRANSACTIONS}/{segment}"), evidence)
        });
        let of_multixacts = self.multixacts.map(|(rows, multixact, segment)| {
            let evidence = format!(
                "updated rows have a multixact without the transaction that updated them: {} of them, the first has \
                 multixact {multixact}",
                count(rows)
            );
            Finding::new(MULTIXACT_WRONG, Severity::Error, format!("{OFFSETS}/{segment}"), evidence)
        });
        of_transactions.chain(of_multixacts).collect()
    }
}

impl<'a> RowHints<'a> {
    /// Reads the status files.
    pub(in crate::cluster::inspect) fn read(
        root: &'a ReadRoot,
        control: &ControlFile,
        to_be_replayed: ToBeReplayed,
    ) -> Self {
        let known = Known::of(control);
        let mut files = StatusFiles::new(root);
        let mut segments = HashMap::new();
        for segment in known.newest_segments(MOST_SEGMENTS) {
            if let Some(bytes) = files.take_segment(TRANSACTIONS, segment) {
                segments.insert(segment, bytes);
            }
        }
        Self { known, segments, stored: StoredTransactions::new(root, Some(control)), to_be_replayed }
    }

    /// Adds what the rows of a heap page contradict.
    pub(in crate::cluster::inspect) fn look_at(&self, page: &[u8], tally: &mut RowTally) {
        for tuple in heap::tuples(page) {
            for xid in tuple.noted_committed().filter(|xid| self.did_not_commit(*xid)) {
                tally.by_segment.entry(slru::transaction_segment(xid)).or_insert((0, xid)).0 += 1;
            }
            if let Some(multixact) = self.multixact_without_updater(&tuple) {
                let segment = self.known.layout.offset_segment(multixact);
                tally.multixacts.get_or_insert((0, multixact, segment)).0 += 1;
            }
        }
    }

    fn did_not_commit(&self, xid: u32) -> bool {
        let segment = self.segments.get(&slru::transaction_segment(xid));
        let status = segment.and_then(|segment| slru::status_bits(segment, xid));
        matches!(status, Some(IN_PROGRESS | ABORTED))
            && self.known.has_xid(xid)
            && !self.to_be_replayed.xids.contains(&xid)
    }

    fn multixact_without_updater(&self, tuple: &Tuple<'_>) -> Option<u32> {
        let is_known = |multixact: &u32| {
            self.known.has_multixact(*multixact) && !self.to_be_replayed.multixacts.contains(multixact)
        };
        let multixact = tuple.updating_multixact().filter(is_known)?;
        self.stored.has_no_updater(multixact).then_some(multixact)
    }
}
