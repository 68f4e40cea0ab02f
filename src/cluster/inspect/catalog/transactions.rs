//! The status of transactions, looked up in the files of `pg_xact`, `pg_twophase` and `pg_multixact`.
//!
//! Most rows say by their own hint bits whether they count; each file is read when the first row asks for it, once.

use crate::cluster::inspect::follow;
use crate::pg::control_file::ControlFile;
use crate::pg::heap::{MultixactUnreadable, TransactionStatus, Transactions};
use crate::pg::slru::{self, MultixactLayout, SlruSegment};
use crate::sys::ReadRoot;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// More members than any multixact of a catalog row has: a number beyond it is garbage.
const MOST_MEMBERS: u64 = 10_000;

/// A file once read; `None` where it could not be.
type Segment = Option<Arc<Vec<u8>>>;

/// The status files of one cluster.
pub(in crate::cluster::inspect) struct StoredTransactions<'a> {
    root: &'a ReadRoot,
    prepared: BTreeSet<u32>,
    next_multi: Option<(u32, u64)>,
    layout: MultixactLayout,
    segments: Mutex<HashMap<(&'static str, SlruSegment), Segment>>,
}

impl<'a> StoredTransactions<'a> {
    /// Those below a data directory.
    pub(in crate::cluster::inspect) fn new(root: &'a ReadRoot, control: Option<&ControlFile>) -> Self {
        let entries = follow(root, "pg_twophase").and_then(|directory| directory.entries("."));
        let names = entries.unwrap_or_default().into_iter().map(|entry| entry.name);
        // Eight digits, from 17 on sixteen, the epoch first.
        let xid = |name: String| u64::from_str_radix(&name, 16).ok().map(super::certainty::low_half);
        Self {
            root,
            prepared: names.filter_map(xid).collect(),
            next_multi: control.map(|control| (control.next_multi, control.next_multi_offset)),
            layout: control.map_or(MultixactLayout::Narrow, |control| MultixactLayout::of(control.major)),
            segments: Mutex::default(),
        }
    }

    fn segment(&self, directory: &'static str, segment: SlruSegment) -> Segment {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            let place = format!("{directory}/{segment}");
            self.root.read_bounded(place, slru::SEGMENT_BYTES).ok().map(Arc::new)
        };
        segments.entry((directory, segment)).or_insert_with(read).clone()
    }

    /// The first member of a multixact, and the first of the next.
    fn members(&self, multixact: u32) -> Option<(u64, u64)> {
        let first = |multixact| {
            let segment = self.segment("pg_multixact/offsets", self.layout.offset_segment(multixact))?;
            self.layout.first_member(&segment, multixact)
        };
        let next = multixact.wrapping_add(1).max(1);
        let end = match self.next_multi {
            Some((next_multi, next_offset)) if next_multi == next => next_offset,
            _ => first(next)?,
        };
        Some((first(multixact)?, end))
    }
}

impl StoredTransactions<'_> {
    /// Whether a multixact surely has no member that changed a row: its place is blank, or its members can all be read
    /// and only lock.
    pub(in crate::cluster::inspect) fn has_no_updater(&self, multixact: u32) -> bool {
        let is_blank = self.members(multixact).is_some_and(|(first, _)| first == 0);
        is_blank || self.updater(multixact) == Ok(None)
    }
}

impl Transactions for StoredTransactions<'_> {
    fn status(&self, xid: u32) -> TransactionStatus {
        if self.prepared.contains(&xid) {
            return TransactionStatus::Prepared;
        }
        let segment = self.segment("pg_xact", slru::transaction_segment(xid));
        let status = segment.and_then(|segment| slru::transaction_status(&segment, xid));
        status.unwrap_or(TransactionStatus::Unknown)
    }

    fn updater(&self, multixact: u32) -> Result<Option<u32>, MultixactUnreadable> {
        let (first, end) = self.members(multixact).ok_or(MultixactUnreadable)?;
        let count = self.layout.members_between(first, end);
        if first == 0 || count > MOST_MEMBERS {
            return Err(MultixactUnreadable);
        }
        for step in 0..count {
            let member = self.layout.member_after(first, step);
            let segment = self.segment("pg_multixact/members", self.layout.member_segment(member));
            let found = segment.and_then(|segment| slru::updating_member(&segment, member));
            if let Some(xid) = found.ok_or(MultixactUnreadable)? {
                return Ok(Some(xid));
            }
        }
        Ok(None)
    }
}
