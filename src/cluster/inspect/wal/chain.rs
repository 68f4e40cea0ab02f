//! Whether the WAL that recovery needs is there and whole, from the redo point to its end.
//!
//! A server that meets a damaged record takes it for the end of the WAL, starts without a word, and has lost all that
//! followed. What tells damage from the end is what lies behind: the server begins a segment only after the one before
//! it is whole on the disk (xlog.c, `XLogWrite()`).

use super::{WalDirectory, find_checkpoint_at};
use crate::cluster::inspect::Inspection;
use crate::pg::Lsn;
use crate::pg::backup_label::BackupLabel;
use crate::pg::control_file::{CHECKPOINT_NEEDS_BACKUP_LABEL, ClusterState, ControlFile};
use crate::pg::wal::{WalFault, WalFileName};
use crate::plan::{Finding, Remedy, Severity};

/// Names that make recovery take WAL from elsewhere, too.
const ARCHIVE_RECOVERY: [&str; 2] = ["recovery.signal", "standby.signal"];

/// What the WAL of a cluster came to.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct WalState {
    /// Whole segments of this cluster, in order.
    pub(in crate::cluster::inspect) segments: Vec<WalFileName>,
    /// Where the last valid record ends.
    pub(in crate::cluster::inspect) end: Option<Lsn>,
}

impl Inspection<'_> {
    /// Checks the WAL that recovery needs, and finds its end.
    pub(in crate::cluster::inspect) fn check_wal(&mut self) -> WalState {
        let wal = match &self.control {
            Some(control) => WalDirectory::of_cluster(self.root, control),
            None => WalDirectory::without_control_file(self.root),
        };
        let Some(wal) = wal else { return WalState::default() };
        let end = self.control.clone().and_then(|control| self.check_chain(&wal, &control));
        WalState { segments: wal.segments, end }
    }

    /// Checks the WAL of a cluster whose control file is known, and returns its end.
    fn check_chain(&mut self, wal: &WalDirectory, control: &ControlFile) -> Option<Lsn> {
        if let Ok(Some(text)) = self.root.read_text("backup_label", 64 * 1024) {
            let label = BackupLabel::parse(&text).ok()?;
            return read_to_end(wal, label.start_wal_location).0;
        }
        // Such a cluster takes what it lacks from an archive or its primary; where that is, is not known here.
        if control.checkpoint == CHECKPOINT_NEEDS_BACKUP_LABEL || self.is_in_archive_recovery(control) {
            return read_to_end(wal, control.redo).0;
        }
        // What a server writes while it is read proves nothing.
        if !self.check_first_segments(wal, control) || self.is_in_use {
            return None;
        }
        let Some(found) = find_checkpoint_at(wal, control.checkpoint) else {
            self.report_lost_checkpoint(
                wal,
                control,
                "checkpoint-unreadable",
                format!("there is no whole checkpoint record at {}", control.checkpoint),
            );
            return None;
        };
        if control.state == ClusterState::ShutDown {
            self.check_nothing_follows(wal, found.end);
            return Some(found.end);
        }
        self.check_to_end(wal, control)
    }

    fn is_in_archive_recovery(&self, control: &ControlFile) -> bool {
        let is_recovering =
            matches!(control.state, ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery);
        is_recovering || self.has_any(&ARCHIVE_RECOVERY)
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !matches!(self.root.facts(name), Ok(None)))
    }

    /// Whether the segments of the redo point and of the checkpoint record are there; reports those that are not.
    fn check_first_segments(&mut self, wal: &WalDirectory, control: &ControlFile) -> bool {
        for (lsn, what) in [
            (control.redo, "the last checkpoint's replay begins in it"),
            (control.checkpoint, "the last checkpoint's record is in it"),
        ] {
            let needed = WalFileName::containing(lsn, control.timeline, control.wal_segment_size);
            let Ok(needed) = needed else { return false };
            if wal.has(lsn) {
                continue;
            }
            // After a promotion the same segment may still be there under its former timeline only, or as `.partial`
            // (xlog.c, `CleanupAfterArchiveRecovery()`); the server knows what to make of that.
            let has_same_number =
                wal.segments.iter().any(|segment| segment.segment_number == needed.segment_number);
            if !has_same_number && !wal.has_file(&format!("{needed}.partial")) {
                let evidence = format!("{what}, at {lsn}");
                self.report_lost_checkpoint(wal, control, "wal-segment-missing", evidence);
            }
            return false;
        }
        true
    }

    /// Reports that the server cannot begin where the control file says.
    ///
    /// After a clean stop nothing is left to replay, so that a new WAL loses nothing; unless later WAL shows that the
    /// control file is an old one.
    fn report_lost_checkpoint(
        &mut self,
        wal: &WalDirectory,
        control: &ControlFile,
        code: &'static str,
        evidence: String,
    ) {
        let needed = WalFileName::containing(control.checkpoint, control.timeline, control.wal_segment_size);
        let Ok(needed) = needed else { return };
        let place = format!("pg_wal/{needed}");
        let is_newest = wal.segments.iter().all(|segment| segment.start_lsn() <= control.checkpoint);
        if self.is_clean() && control.redo == control.checkpoint && is_newest {
            let evidence = format!(
                "{evidence}; the server had stopped cleanly with it, there is no later WAL, and so nothing is left to replay"
            );
            let finding = Finding::new(code, Severity::Error, place, evidence);
            return self.report_with(finding.with_remedy(Remedy::ResetWal));
        }
        self.report(code, Severity::Error, place, evidence);
    }

    /// After a clean stop nothing is written. A later record means that the control file is an old one: a start would
    /// write over that WAL, on top of data pages that are newer.
    fn check_nothing_follows(&mut self, wal: &WalDirectory, end: Lsn) {
        let mut reader = wal.reader_at(end);
        let Ok(record) = reader.next_record() else { return };
        let evidence = format!(
            "it says that the server stopped cleanly with the checkpoint that ends at {end}, and the WAL goes on at {}",
            record.start
        );
        let finding = Finding::new("control-file-stale", Severity::Error, "global/pg_control", evidence);
        match self.rebuilt_control_file() {
            Ok((control, content)) if control.checkpoint >= end => {
                let finding = Finding { severity: Severity::Warning, ..finding };
                self.report_with(finding.with_remedy(Remedy::WriteFile(content)));
                self.take_rebuilt(control);
            }
            _ => self.report_with(finding),
        }
    }

    /// Reads the WAL that recovery replays, and returns its end.
    fn check_to_end(&mut self, wal: &WalDirectory, control: &ControlFile) -> Option<Lsn> {
        for segment in wal.cut.iter().filter(|segment| wal.segment_of(segment.start_lsn()) == Some(**segment))
        {
            let evidence =
                format!("it is shorter than the {} bytes of a segment", segment.segment_size_bytes());
            self.report("wal-segment-cut", Severity::Warning, format!("pg_wal/{segment}"), evidence);
        }
        let (end, fault) = read_to_end(wal, control.redo);
        let place = wal.segment_of(fault.place()).or(wal.newest());
        let place = place.map_or("pg_wal".to_owned(), |segment| format!("pg_wal/{segment}"));
        if end.is_none_or(|end| end <= control.checkpoint) {
            let evidence = format!(
                "replay begins at {} and cannot reach the checkpoint record at {}: {fault}",
                control.redo, control.checkpoint
            );
            self.report("wal-chain-broken", Severity::Error, place, evidence);
        } else if let Some(beyond) = wal_beyond(wal, &fault) {
            let evidence = format!(
                "replay ends at {}, and WAL that was written later is there from {beyond} on: {fault}",
                end.unwrap_or_default()
            );
            self.report("wal-chain-broken", Severity::Error, place, evidence);
        } else if let Some(beyond) = page_beyond(wal, &fault) {
            let evidence = format!(
                "replay ends at {}, and a later page is there at {beyond}, as a loss of power can leave it: {fault}",
                end.unwrap_or_default()
            );
            // No backup can have a segment that was not yet full, so that nothing better is to be had.
            self.report("wal-tail-torn", Severity::Warning, place, evidence);
        }
        end
    }
}

/// Returns where the last valid record ends, from one on; `None` where there is none.
pub(crate) fn find_end(wal: &WalDirectory, from: Lsn) -> Option<Lsn> {
    read_to_end(wal, from).0
}

/// Returns how far the WAL in a `pg_wal` shows that the cluster once wrote: to the end of the last record of its newest
/// segment, or to a later page, which a loss of power can leave behind a damaged one.
pub(crate) fn find_last_known(wal: &WalDirectory) -> Option<Lsn> {
    let newest = wal.newest()?;
    let Ok(mut reader) = wal.reader_from(newest) else { return Some(newest.start_lsn()) };
    loop {
        if let Err(fault) = reader.next_record() {
            let end = reader.end().unwrap_or(newest.start_lsn());
            return Some(page_beyond(wal, &fault).map_or(end, |page| end.max(page)));
        }
    }
}

/// Reads all records from one on, and says where the last ends and why there is no other.
pub(super) fn read_to_end(wal: &WalDirectory, from: Lsn) -> (Option<Lsn>, WalFault) {
    let mut reader = wal.reader_at(from);
    loop {
        if let Err(fault) = reader.next_record() {
            return (reader.end(), fault);
        }
    }
}

/// A later segment that could not have been begun if the WAL ended at this fault.
pub(super) fn wal_beyond(wal: &WalDirectory, fault: &WalFault) -> Option<Lsn> {
    if fault.may_be_the_end() {
        return None;
    }
    let newest = wal.newest()?.start_lsn();
    let segment = u64::from(wal.geometry.segment_size_bytes);
    // The end of a record on a boundary belongs to the segment before it.
    let damaged = match fault {
        WalFault::Crc(_, end) => end.0.saturating_sub(1) / segment,
        other => other.place().0 / segment,
    };
    (newest.0 / segment > damaged).then_some(newest)
}

/// A later page of the same segment.
fn page_beyond(wal: &WalDirectory, fault: &WalFault) -> Option<Lsn> {
    if fault.may_be_the_end() {
        return None;
    }
    let block = u64::from(wal.geometry.block_size_bytes);
    let first = (fault.place().0 / block + 1) * block;
    let last = first.next_multiple_of(u64::from(wal.geometry.segment_size_bytes));
    let pages = (0..).map(|index| first + index * block).take_while(|page| *page < last);
    pages.map(Lsn).find(|page| wal.has_page(*page))
}
