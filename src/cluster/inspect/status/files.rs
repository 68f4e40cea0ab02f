//! The segment files of `pg_xact` and `pg_multixact`, each read when it is first asked for.

use crate::cluster::inspect::catalog::{low_half, precedes};
use crate::cluster::inspect::follow;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::{self, MultixactLayout, SlruSegment};
use crate::sys::ReadRoot;
use std::collections::HashMap;

pub(super) const TRANSACTIONS: &str = "pg_xact";
pub(super) const OFFSETS: &str = "pg_multixact/offsets";
pub(super) const MEMBERS: &str = "pg_multixact/members";

const FIRST_NORMAL_XID: u32 = 3;

/// The numbers that the status files must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) oldest_xid: u32,
    pub(super) next_xid: u32,
    oldest_multi: u32,
    next_multi: u32,
    pub(super) layout: MultixactLayout,
}

impl Known {
    pub(super) fn of(control: &ControlFile) -> Self {
        Self {
            oldest_xid: control.oldest_xid,
            next_xid: low_half(control.next_xid),
            oldest_multi: control.oldest_multi,
            next_multi: control.next_multi,
            layout: MultixactLayout::of(control.major),
        }
    }

    /// The segments of `pg_xact` that must be there, the newest first, up to a number.
    pub(super) fn newest_segments(&self, most: u64) -> impl Iterator<Item = SlruSegment> {
        let count = slru::TRANSACTION_SEGMENTS;
        let newest = slru::transaction_segment(self.next_xid.wrapping_sub(1)).number;
        let oldest = slru::transaction_segment(self.oldest_xid).number;
        let distance = (newest + count - oldest) % count;
        let back = 0..(distance + 1).min(most);
        back.map(move |back| SlruSegment::short((newest + count - back) % count))
    }

    /// Whether the status of a transaction must still be known, and was at the last checkpoint.
    pub(super) fn has_xid(&self, xid: u32) -> bool {
        xid >= FIRST_NORMAL_XID && !precedes(xid, self.oldest_xid) && precedes(xid, self.next_xid)
    }

    /// The oldest multixact that must still be known, and the next one that will be made.
    pub(super) fn multixacts(&self) -> (u32, u32) {
        (self.oldest_multi, self.next_multi)
    }

    /// Whether a multixact must still be known. Their numbers begin again, too, but have none that are set apart.
    pub(super) fn has_multixact(&self, multixact: u32) -> bool {
        multixact.wrapping_sub(self.oldest_multi) < self.next_multi.wrapping_sub(self.oldest_multi)
    }
}

/// The files of one cluster.
pub(super) struct StatusFiles<'a> {
    root: &'a ReadRoot,
    read: HashMap<(&'static str, SlruSegment), Option<Vec<u8>>>,
}

impl<'a> StatusFiles<'a> {
    pub(super) fn new(root: &'a ReadRoot) -> Self {
        Self { root, read: HashMap::new() }
    }

    /// Returns what a file holds; `None` where it cannot be read, which other checks report.
    pub(super) fn segment(&mut self, directory: &'static str, segment: SlruSegment) -> Option<&[u8]> {
        let root = self.root;
        let read = || {
            let directory = follow(root, directory).ok()?;
            directory.read_bounded(segment.to_string(), slru::SEGMENT_BYTES).ok()
        };
        self.read.entry((directory, segment)).or_insert_with(read).as_deref()
    }

    /// Returns what a file holds, to be kept by the caller.
    pub(super) fn take_segment(&mut self, directory: &'static str, segment: SlruSegment) -> Option<Vec<u8>> {
        self.segment(directory, segment)?;
        self.read.remove(&(directory, segment)).flatten()
    }

    /// Returns the two bits of a transaction.
    pub(super) fn status_bits(&mut self, xid: u32) -> Option<u8> {
        let segment = self.segment(TRANSACTIONS, slru::transaction_segment(xid))?;
        slru::status_bits(segment, xid)
    }
}
