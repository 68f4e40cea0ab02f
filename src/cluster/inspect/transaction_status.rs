//! The files of `pg_xact` and `pg_multixact` that must be there, from the oldest to the next number.
//!
//! They have no checksums; all that can be told is whether they are there and long enough. Old ones are removed at
//! once when nobody needs them any more, so that after a crash a gap at the old end proves nothing.

use super::{Inspection, follow};
use crate::cluster::inspect::catalog::low_half;
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::slru::{self, MultixactLayout, SlruSegment};
use crate::plan::{FileContent, Finding, Remedy, Severity};
use std::collections::BTreeMap;

/// The files of one directory that a range of numbers needs.
struct Needed {
    code: &'static str,
    directory: &'static str,
    first: SlruSegment,
    last: SlruSegment,
    /// After this many the numbers begin again.
    count: u64,
}

impl Inspection<'_> {
    /// Checks the status of transactions and the multixacts.
    pub(super) fn check_transaction_status(&mut self) {
        let Some(control) = self.control.clone() else { return };
        let newest = low_half(control.next_xid).saturating_sub(1);
        let transactions = Needed {
            code: "transaction-status-missing",
            directory: "pg_xact",
            first: slru::transaction_segment(control.oldest_xid),
            last: slru::transaction_segment(newest),
            count: slru::TRANSACTION_SEGMENTS,
        };
        let sizes = self.check_segments(&transactions, &control);
        let is_primary = matches!(
            control.state,
            ClusterState::ShutDown | ClusterState::ShuttingDown | ClusterState::InProduction
        );
        if let Some(sizes) = sizes
            && is_primary
            && !self.is_half_replayed(&control)
        {
            self.check_sizes(&transactions, &sizes, newest);
        }
        self.check_multixacts(&control);
    }

    fn check_multixacts(&mut self, control: &ControlFile) {
        let layout = MultixactLayout::of(control.major);
        // The first number of a file is the one that makes it (multixact.c, `TrimMultiXact()`).
        let before = control.next_multi.saturating_sub(1);
        let is_first = layout.offset_segment(control.next_multi) != layout.offset_segment(before);
        let newest = if is_first { before } else { control.next_multi };
        let offsets = Needed {
            code: "multixact-offsets-missing",
            directory: "pg_multixact/offsets",
            first: layout.offset_segment(control.oldest_multi),
            last: layout.offset_segment(newest),
            count: layout.offset_segments(),
        };
        self.check_segments(&offsets, control);
        if control.next_multi == control.oldest_multi || control.next_multi_offset < 2 {
            return;
        }
        let last = control.next_multi_offset - 1;
        let members = Needed {
            code: "multixact-members-missing",
            directory: "pg_multixact/members",
            first: layout.member_segment(self.first_member(layout, control.oldest_multi).unwrap_or(last)),
            last: layout.member_segment(last),
            count: layout.member_segments(),
        };
        self.check_segments(&members, control);
    }

    /// Where the members of a multixact begin, if that can be read.
    fn first_member(&self, layout: MultixactLayout, multixact: u32) -> Option<u64> {
        let place = format!("pg_multixact/offsets/{}", layout.offset_segment(multixact));
        let segment = self.root.read_bounded(place, slru::SEGMENT_BYTES).ok()?;
        layout.first_member(&segment, multixact).filter(|member| *member != 0)
    }

    /// Reports the files that are missing; returns the sizes of those that are there.
    fn check_segments(
        &mut self,
        needed: &Needed,
        control: &ControlFile,
    ) -> Option<BTreeMap<SlruSegment, u64>> {
        // A directory that is missing or cannot be read is reported with the other directories.
        let entries =
            follow(self.root, needed.directory).and_then(|directory| directory.entries(".")).ok()?;
        let sizes: BTreeMap<SlruSegment, u64> = entries
            .into_iter()
            .filter_map(|entry| Some((SlruSegment::parse(&entry.name)?, entry.facts.size_bytes)))
            .collect();
        let is_certain = self.is_clean() || !self.is_half_replayed(control);
        let mut was_met = self.is_clean();
        let all = || slru::segments_between(needed.first, needed.last, needed.count);
        let first = (needed.directory == "pg_xact").then(|| self.first_by_reset(all(), &sizes)).flatten();
        let never_was = |segment: &SlruSegment| {
            first.is_some_and(|first| *segment != first) && !sizes.contains_key(segment)
        };
        for segment in all().skip_while(never_was) {
            if sizes.contains_key(&segment) {
                was_met = true;
                continue;
            }
            let is_sure = is_certain && (was_met || segment == needed.last);
            let severity = if is_sure { Severity::Error } else { Severity::Warning };
            let place = format!("{}/{segment}", needed.directory);
            let evidence = format!("{} to {} are needed, and it is not there", needed.first, needed.last);
            let finding = Finding::new(needed.code, severity, place, evidence);
            self.report_with(match never_used(needed, control) {
                Some(content) if is_sure => finding.with_remedy(Remedy::WriteFile(content)),
                _ => finding,
            });
        }
        Some(sizes)
    }

    /// After a backup was taken while the server ran, the control file may be ahead of everything else.
    fn is_half_replayed(&self, control: &ControlFile) -> bool {
        let has_label = !matches!(self.root.facts("backup_label"), Ok(None));
        has_label || control.state == ClusterState::InArchiveRecovery
    }

    /// Reports the files of `pg_xact` that are shorter than the last checkpoint left them.
    fn check_sizes(&mut self, needed: &Needed, sizes: &BTreeMap<SlruSegment, u64>, newest: u32) {
        for segment in slru::segments_between(needed.first, needed.last, needed.count) {
            let is_last = segment == needed.last;
            let least = if is_last { slru::transaction_segment_bytes(newest) } else { slru::SEGMENT_BYTES };
            let Some(&size) = sizes.get(&segment) else { continue };
            if size < least && !self.is_short_by_reset(segment, size) {
                let place = format!("{}/{segment}", needed.directory);
                let evidence = format!("it has {size} bytes, and {least} are needed");
                self.report("transaction-status-short", Severity::Error, place, evidence);
            }
        }
    }
}

/// What the offsets hold as long as no multixact was ever made: one page of zeros (multixact.c,
/// `BootStrapMultiXact()`).
fn never_used(needed: &Needed, control: &ControlFile) -> Option<FileContent> {
    let is_offsets = needed.directory == "pg_multixact/offsets";
    (is_offsets && control.next_multi == 1).then(|| FileContent {
        description: "one page of zeros, as no multixact was ever made".to_owned(),
        bytes: vec![0; 8192],
    })
}
