//! A lost control file, made anew from the WAL: only where that is certain to be the one that was lost.
//!
//! `facts/corruption.md` §5 has the rule and its proof. A control file that is wrong would make the server replay from the
//! wrong place, which is silent corruption: whatever is not as it must be is a refusal.

use super::checkpoints::FoundCheckpoint;
use super::{WalDirectory, chain};
use crate::cluster::inspect::Inspection;
use crate::cluster::inspect::sample::{PageSample, sample_pages};
use crate::pg::Lsn;
use crate::pg::control_file::{self, ClusterState, ControlFile, Ingredients};
use crate::pg::wal::{Parameters, WalEvent, WalFileName};
use crate::plan::FileContent;

/// Files of a cluster whose control file cannot be told from its own WAL.
const NOT_ITS_OWN_MASTER: [&str; 4] = ["backup_label", "recovery.signal", "standby.signal", "tablespace_map"];

impl Inspection<'_> {
    /// The control file that the cluster must have had, or why that cannot be known.
    pub(in crate::cluster::inspect) fn rebuilt_control_file(
        &self,
    ) -> Result<(ControlFile, FileContent), String> {
        if self.has_any(&NOT_ITS_OWN_MASTER) {
            return Err("the cluster is a standby or comes from a backup".to_owned());
        }
        let wal = WalDirectory::without_control_file(self.root).ok_or("pg_wal has no WAL")?;
        if let Some(major) = self.major
            && major != wal.geometry.major
        {
            return Err(format!(
                "PG_VERSION names version {major}, and the WAL is of {}",
                wal.geometry.major
            ));
        }
        let last = last_checkpoint(&wal)?;
        let tail = Tail::read(&wal, &last)?;
        let pages = sample_pages(self.root);
        let has_checksums = judge_pages(&pages, tail.end)?;
        // A server that was started and killed before it wrote any WAL has left its pid file; it may have changed
        // unlogged relations.
        let stopped = tail.ends_with_shutdown && !self.has_any(&["postmaster.pid"]);
        let bytes = control_file::rebuild(&Ingredients {
            geometry: wal.geometry,
            checkpoint_lsn: last.lsn,
            checkpoint: &last.checkpoint,
            state: if stopped { ClusterState::ShutDown } else { ClusterState::InProduction },
            parameters: tail.parameters,
            has_checksums,
            nonce: pages.digest,
        });
        let bytes = bytes.ok_or("the version of the WAL is unknown")?;
        let control = ControlFile::parse(&bytes).map_err(|error| error.to_string())?;
        let description = format!("rebuilt from the checkpoint at {}", last.lsn);
        Ok((control, FileContent { description, bytes }))
    }
}

/// The last checkpoint on the newest timeline.
fn last_checkpoint(wal: &WalDirectory) -> Result<FoundCheckpoint, String> {
    let newest = wal.newest().ok_or("pg_wal has no WAL")?;
    let mut segment = Some(newest);
    while let Some(searched) = segment {
        if let Some(found) =
            last_checkpoint_in(wal, searched.start_lsn(), searched.next().map(WalFileName::start_lsn))
        {
            if found.checkpoint.timeline() != newest.timeline {
                return Err(format!("timeline {} has no checkpoint yet", newest.timeline));
            }
            return Ok(found);
        }
        segment = searched.start_lsn().0.checked_sub(1).and_then(|before| wal.segment_of(Lsn(before)));
    }
    Err("pg_wal has no whole checkpoint record".to_owned())
}

fn last_checkpoint_in(wal: &WalDirectory, from: Lsn, to: Option<Lsn>) -> Option<FoundCheckpoint> {
    let mut reader = wal.reader_from_page(from).ok()?;
    let mut found = None;
    while let Ok(record) = reader.next_record() {
        if to.is_some_and(|to| record.start >= to) {
            break;
        }
        if let Some(WalEvent::Checkpoint(checkpoint)) = record.event() {
            found = Some(FoundCheckpoint { lsn: record.start, end: record.end, checkpoint });
        }
    }
    found
}

/// What the WAL says from the redo point to its end.
struct Tail {
    end: Lsn,
    ends_with_shutdown: bool,
    parameters: Parameters,
}

impl Tail {
    fn read(wal: &WalDirectory, last: &FoundCheckpoint) -> Result<Self, String> {
        let redo = last.checkpoint.redo();
        if !wal.has(redo) {
            return Err(format!("the WAL from {redo} on, which its replay needs, is not there"));
        }
        let mut parameters = parameters_before(wal, redo);
        let mut reader = wal.reader_at(redo);
        let fault = loop {
            match reader.next_record() {
                Ok(record) => match record.event() {
                    Some(WalEvent::ParameterChange(changed)) => parameters = changed,
                    Some(WalEvent::EndOfRecovery { .. }) => {
                        return Err("the timeline changes after it".to_owned());
                    }
                    _ => {}
                },
                Err(fault) => break fault,
            }
        };
        let end = reader.end().filter(|end| *end >= last.end);
        let end = end.ok_or_else(|| format!("its replay cannot reach the checkpoint itself: {fault}"))?;
        if let Some(beyond) = chain::wal_beyond(wal, &fault) {
            return Err(format!("the WAL breaks off before {beyond}: {fault}"));
        }
        if let Some(level) = last.checkpoint.wal_level(wal.geometry.major) {
            parameters.wal_level = level;
        }
        let ends_with_shutdown = last.checkpoint.is_shutdown && end == last.end;
        Ok(Self { end, ends_with_shutdown, parameters })
    }
}

/// The settings that the WAL before the redo point tells, else PostgreSQL's defaults; they only matter to a standby.
///
/// Whether transactions could be prepared is not known then, and a control file that says they could not would prove
/// that a lost `pg_twophase` was empty. The server writes down what holds when it starts.
fn parameters_before(wal: &WalDirectory, redo: Lsn) -> Parameters {
    let defaults = Parameters::defaults(wal.geometry.major);
    let mut parameters = Parameters { max_prepared_transactions: 1, ..defaults };
    let reader = wal.oldest_before(redo).and_then(|oldest| wal.reader_from(oldest).ok());
    let Some(mut reader) = reader else { return parameters };
    while let Ok(record) = reader.next_record() {
        if record.start >= redo {
            break;
        }
        if let Some(WalEvent::ParameterChange(changed)) = record.event() {
            parameters = changed;
        }
    }
    parameters
}

/// Whether the pages carry checksums; an error where that is unsure, or where they are newer than the WAL.
fn judge_pages(pages: &PageSample, end: Lsn) -> Result<bool, String> {
    if pages.of_another_size > 0 {
        return Err("its pages are not of 8 KiB".to_owned());
    }
    if pages.newest > end {
        return Err(format!("a page was changed at {}, and the WAL ends at {end}", pages.newest));
    }
    // The server never stores a checksum of 0 where checksums are on, and one that fits by chance is rare.
    match (pages.checksums_fitting, pages.checksums_zero, pages.checksums_wrong) {
        (0, 1.., _) => Ok(false),
        (fitting @ 1.., 0, wrong) if wrong * 20 < fitting => Ok(true),
        (fitting, zero, wrong) => Err(format!(
            "whether it had checksums is unsure: of the pages looked at they fit in {fitting}, are missing in {zero} and \
             wrong in {wrong}"
        )),
    }
}
