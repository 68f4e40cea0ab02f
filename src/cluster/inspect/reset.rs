//! Whether somebody ran `pg_resetwal` on the cluster.
//!
//! It writes one segment, whose first record is a checkpoint that no record comes before (`pg_resetwal.c`,
//! `WriteEmptyXLOG()`), and a control file that names it. What was committed and not on the disk is lost, no archive has
//! what leads to that record, and with `-x` the files of `pg_xact` need not reach as far as the numbers do: the server
//! makes the page of the next number itself when it is the first of it (clog.c, `ExtendCLOG()`), and never asks for one
//! that no transaction had.

use super::Inspection;
use super::wal::WalDirectory;
use crate::cluster::{wal_gap, wal_reset};
use crate::pg::Lsn;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::SlruSegment;
use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalFileName};
use crate::plan::wal_reset::WalReset;
use crate::plan::{Finding, Severity};
use std::collections::BTreeMap;

/// What is known of a `pg_resetwal`.
#[derive(Debug)]
pub(super) struct Reset {
    /// Its traces, those that were noted before among them.
    pub(super) traces: WalReset,
    /// Whether the cluster has not been started since.
    is_new: bool,
}

impl Inspection<'_> {
    /// Looks for the traces, or the note of them; reports those that nobody noted yet.
    pub(super) fn check_reset(&mut self) {
        let Some(control) = self.control.clone().filter(|_| !self.is_in_use) else { return };
        let cluster = control.system_identifier;
        let noted = wal_reset::read(self.root).filter(|noted| noted.system_identifier == cluster);
        let is_new = self.begins_with_checkpoint(&control);
        let short = noted.as_ref().map(|noted| noted.short.clone()).unwrap_or_default();
        let first = noted.as_ref().and_then(|noted| noted.first.clone());
        self.reset = if is_new {
            let traces =
                WalReset { system_identifier: cluster, checkpoint: control.checkpoint, short, first };
            Some(Reset { traces, is_new })
        } else {
            noted.clone().map(|traces| Reset { traces, is_new })
        };
        let is_noted = noted.is_some_and(|noted| noted.checkpoint == control.checkpoint);
        if is_new && !is_noted && !self.is_gap_noted(&control) {
            self.report_reset(&control);
        }
    }

    /// Whether a file of `pg_xact` has the size that a `pg_resetwal` left it with; what is new of that is remembered.
    pub(super) fn is_short_by_reset(&mut self, segment: SlruSegment, size_bytes: u64) -> bool {
        let Some(Reset { traces, is_new }) = &mut self.reset else { return false };
        let name = segment.to_string();
        if *is_new {
            traces.short.insert(name, size_bytes);
            return true;
        }
        traces.short.get(&name) == Some(&size_bytes)
    }

    /// The traces that are to be noted before the cluster is started: the start wipes them out.
    pub(super) fn traces_to_note(&self) -> Option<WalReset> {
        let Reset { traces, is_new } = self.reset.as_ref()?;
        (*is_new && wal_reset::read(self.root).as_ref() != Some(traces)).then(|| traces.clone())
    }

    /// Whether the WAL begins with the last checkpoint. Only initdb writes such WAL, too, in the first segment that there
    /// is (xlog.c, `BootStrapXLOG()`).
    fn begins_with_checkpoint(&self, control: &ControlFile) -> bool {
        let size_bytes = u64::from(control.wal_segment_size);
        let is_first = control.checkpoint.0 % size_bytes == LONG_HEADER_SIZE_BYTES as u64;
        if !is_first || control.checkpoint.0 / size_bytes < 2 || control.redo != control.checkpoint {
            return false;
        }
        let Some(wal) = WalDirectory::of_cluster(self.root, control) else { return false };
        let mut reader = wal.reader_at(control.checkpoint);
        reader.next_record().is_ok_and(|record| record.header.previous == Lsn(0))
    }

    /// Whether the hole before the last checkpoint is noted, as by a repair of ours.
    fn is_gap_noted(&self, control: &ControlFile) -> bool {
        let size_bytes = u64::from(control.wal_segment_size);
        let gap = wal_gap::read(self.root.path()).ok().flatten();
        gap.is_some_and(|gap| gap.end.0 / size_bytes == control.checkpoint.0 / size_bytes)
    }

    fn report_reset(&mut self, control: &ControlFile) {
        let segment = WalFileName::containing(control.checkpoint, control.timeline, control.wal_segment_size);
        let Ok(segment) = segment else { return };
        let evidence = format!(
            "pg_resetwal was run: the WAL begins at {}, and nothing leads to it. What was committed and not on the disk by \
             then is lost, and tables and indexes may contradict one another: `maintenance check --deep` reads them. The \
             archive has a hole before it, which the next backup closes",
            control.checkpoint
        );
        self.report_with(Finding::new("reset-wal", Severity::Warning, format!("pg_wal/{segment}"), evidence));
    }

    /// The file of `pg_xact` before which none is missed: the first that was there when `pg_resetwal` was run. `None`: all
    /// are needed.
    pub(super) fn first_by_reset(
        &mut self,
        needed: impl Iterator<Item = SlruSegment>,
        sizes: &BTreeMap<SlruSegment, u64>,
    ) -> Option<SlruSegment> {
        let Reset { traces, is_new } = self.reset.as_mut()?;
        let mut needed = needed;
        if *is_new {
            let first = needed.find(|segment| sizes.contains_key(segment));
            traces.first = first.map(|segment| segment.to_string());
            return first;
        }
        needed.find(|segment| traces.first.as_deref() == Some(segment.to_string().as_str()))
    }
}
