//! The files of prepared transactions, and their directory.
//!
//! A file that is lost takes its transaction with it, which the server does not notice: its locks are gone, its rows are
//! those of an aborted one, and its coordinator's COMMIT PREPARED fails. Without the directory the server does not
//! start (twophase.c, `restoreTwoPhaseData()`). So the directory is only made empty where nothing was in it:
//!
//! - `max_prepared_transactions` was 0 when the server last ran (xlog.c, `XLogReportParameters()` writes it before
//!   anybody can connect, and no server starts that has more transactions than that);
//! - the seal of the last stop has no file in it;
//! - `pg_xact` has the end of every transaction, but for those that began since the oldest WAL that is kept, which has
//!   no record of their being prepared. A prepared transaction has no end in `pg_xact`, nor is it older than what
//!   VACUUM leaves there, and every checkpoint writes `pg_xact` down.
//!
//! What the WAL still has the record of is made again from it, byte for byte. All else only a backup brings back.

use super::catalog::low_half;
use super::wal::{PreparedInWal, WalDirectory, find_checkpoint_at};
use super::{Inspection, follow};
use crate::pg::MajorVersion;
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::slru;
use crate::pg::two_phase::{self, PreparedTransaction, TWO_PHASE_DIRECTORY};
use crate::plan::{FileContent, Finding, Remedy, Severity};
use crate::sys::ReadRoot;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// More transactions without an end than this are not looked up one by one in the WAL.
const MOST_CANDIDATES: usize = 1 << 20;
/// The first number that a transaction can have (PostgreSQL: `FirstNormalTransactionId`).
const FIRST_XID: u32 = 3;

/// The transactions that must have a file.
enum Expected {
    /// Those, and no others.
    Exactly(BTreeSet<u32>),
    /// None but some of those.
    AmongThose(BTreeSet<u32>),
    /// That is not known.
    Unknown,
}

/// What is there.
struct Found {
    /// Whether the directory is.
    has_directory: bool,
    /// The transactions that have a file.
    present: BTreeSet<u32>,
    /// Those whose file no server takes, and why.
    damaged: BTreeMap<u32, String>,
}

impl Inspection<'_> {
    /// Checks that every prepared transaction has its file, and that the server will take it.
    pub(super) fn check_prepared_transactions(&mut self) {
        let (Some(control), Some(major)) = (self.control.clone(), self.major) else {
            return self.check_directory_alone();
        };
        let found = match self.find_two_phase_files(&control, major) {
            Ok(found) => found,
            Err((place, error)) => return self.report_unreadable(place, &error),
        };
        let can_have_any = control.max_prepared_transactions > 0 || self.is_control_rebuilt;
        if !found.has_directory && !can_have_any {
            return self.report_empty("max_prepared_transactions was 0, so that nothing was in it");
        }
        // A server at work makes and removes them.
        if self.is_in_use || (!can_have_any && found.damaged.is_empty()) {
            return;
        }
        let expected = self.expected_transactions(&control, major);
        self.judge_prepared(&control, major, &found, &expected);
    }

    /// Without a control file nothing is known of what was in it, and the cluster is replaced for other reasons.
    fn check_directory_alone(&mut self) {
        if let Err(error) = follow(self.root, TWO_PHASE_DIRECTORY)
            && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        {
            self.report_undecided("what was in it is not known without a control file");
        }
    }

    fn find_two_phase_files(
        &self,
        control: &ControlFile,
        major: MajorVersion,
    ) -> Result<Found, (String, io::Error)> {
        let mut found = Found { has_directory: true, present: BTreeSet::new(), damaged: BTreeMap::new() };
        let directory = match follow(self.root, TWO_PHASE_DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                found.has_directory = false;
                return Ok(found);
            }
            Err(error) => return Err((TWO_PHASE_DIRECTORY.to_owned(), error)),
        };
        let entries = directory.entries(".").map_err(|error| (TWO_PHASE_DIRECTORY.to_owned(), error))?;
        for entry in entries {
            let Some(xid) = two_phase::transaction_of(&entry.name, major) else { continue };
            // The server removes such a file without reading it (twophase.c, `ProcessTwoPhaseBuffer()`).
            if self.has_ended(xid) || !precedes(xid, control) {
                continue;
            }
            found.present.insert(xid);
            match directory.read_bounded(&entry.name, two_phase::LIMIT_BYTES) {
                Ok(bytes) => {
                    if let Err(error) = PreparedTransaction::of_file(&bytes, xid, major) {
                        found.damaged.insert(xid, error.to_string());
                    }
                }
                // It ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((format!("{TWO_PHASE_DIRECTORY}/{}", entry.name), error)),
            }
        }
        Ok(found)
    }

    /// Whether `pg_xact` has its end.
    fn has_ended(&self, xid: u32) -> bool {
        let place = format!("pg_xact/{}", slru::transaction_segment(xid));
        let Ok(segment) = self.root.read_bounded(place, slru::SEGMENT_BYTES) else { return false };
        slru::transactions_without_end(&segment, xid..=xid).next().is_none()
    }

    fn expected_transactions(&self, control: &ControlFile, major: MajorVersion) -> Expected {
        if self.is_clean()
            && let Some(sealed) = self.sealed_transactions(major)
        {
            return Expected::Exactly(sealed);
        }
        let is_primary = matches!(
            control.state,
            ClusterState::ShutDown | ClusterState::ShuttingDown | ClusterState::InProduction
        );
        if !is_primary || !self.takes_no_wal_from_elsewhere() {
            return Expected::Unknown;
        }
        let oldest_active = || {
            let wal = WalDirectory::of_cluster(self.root, control)?;
            find_checkpoint_at(&wal, control.checkpoint)?.checkpoint.oldest_active_xid()
        };
        let first = oldest_active().unwrap_or(control.oldest_xid).max(FIRST_XID);
        match transactions_without_end(self.root, first, low_half(control.next_xid)) {
            Some(candidates) => Expected::AmongThose(candidates),
            None => Expected::Unknown,
        }
    }

    /// Those whose files were there when the server stopped. `None` where no seal says so.
    fn sealed_transactions(&self, major: MajorVersion) -> Option<BTreeSet<u32>> {
        let seal = self.seal()?;
        let sealed = seal.directories.iter().find(|sealed| sealed.path == TWO_PHASE_DIRECTORY)?;
        Some(sealed.files.iter().filter_map(|file| two_phase::transaction_of(&file.name, major)).collect())
    }

    fn judge_prepared(
        &mut self,
        control: &ControlFile,
        major: MajorVersion,
        found: &Found,
        expected: &Expected,
    ) {
        let wanted = match expected {
            Expected::Exactly(wanted) | Expected::AmongThose(wanted) => wanted.clone(),
            Expected::Unknown => BTreeSet::new(),
        };
        let mut lost: BTreeSet<u32> = wanted.difference(&found.present).copied().collect();
        lost.extend(found.damaged.keys());
        let in_wal = match WalDirectory::of_cluster(self.root, control) {
            Some(wal) if !lost.is_empty() => PreparedInWal::read(&wal, control.redo, &lost),
            _ => PreparedInWal::default(),
        };
        if !found.has_directory {
            let is_empty_but_for_those = match expected {
                Expected::Exactly(_) => true,
                Expected::AmongThose(candidates) => in_wal.undecided(candidates, control.next_xid) == 0,
                Expected::Unknown => false,
            };
            if !is_empty_but_for_those {
                return self.report_undecided(
                    "which transactions were prepared cannot be told from the WAL that is kept",
                );
            }
            self.report_empty(if in_wal.states.is_empty() && wanted_exactly(expected).is_empty() {
                "no transaction was prepared when the server last wrote down what it had"
            } else {
                "the files in it are known"
            });
        }
        let named = wanted_exactly(expected);
        for xid in lost {
            let state = in_wal.states.get(&xid).map(Vec::as_slice);
            let damage = found.damaged.get(&xid);
            if state.is_some() || damage.is_some() || named.contains(&xid) {
                let name = two_phase::file_name(xid, control.next_xid, major);
                self.report_lost_transaction(&name, damage, state, major);
            }
        }
    }

    fn report_lost_transaction(
        &mut self,
        name: &str,
        damage: Option<&String>,
        state: Option<&[u8]>,
        major: MajorVersion,
    ) {
        let (code, evidence) = match damage {
            Some(damage) => ("prepared-transaction-damaged", damage.clone()),
            None => (
                "prepared-transaction-missing",
                "a transaction is prepared, and its file is not there".to_owned(),
            ),
        };
        let place = format!("{TWO_PHASE_DIRECTORY}/{name}");
        let content = state.and_then(|state| {
            let transaction = PreparedTransaction::of_state(state, major)?;
            let description =
                format!("made from the WAL record that prepared '{}'", transaction.name.escape_debug());
            Some(FileContent { description, bytes: two_phase::file_of_state(state)? })
        });
        let finding = Finding::new(code, Severity::Error, place.clone(), evidence);
        self.report_with(match content {
            Some(content) => finding.with_content(content),
            None => finding.with_remedy(Remedy::RestoreOrSeeToIt(format!(
                "no backup brings the transaction back: its rows and locks would be lost. To give it up, remove \
                 '{place}' if it is there, together with '.pgbox/seal', and run this again"
            ))),
        });
    }

    fn report_empty(&mut self, why: &str) {
        let evidence = format!("the directory is not there; {why}");
        let finding = Finding::new("directory-missing", Severity::Warning, TWO_PHASE_DIRECTORY, evidence);
        self.report_with(finding.with_remedy(Remedy::RecreateDirectory));
    }

    fn report_undecided(&mut self, why: &str) {
        let evidence = format!("the directory is not there, and with it every prepared transaction; {why}");
        let finding = Finding::new("directory-missing", Severity::Error, TWO_PHASE_DIRECTORY, evidence);
        self.report_with(finding.with_remedy(Remedy::RestoreOrSeeToIt(format!(
            "no backup has all the WAL since: transactions that were prepared, if there were any, would be rolled back. \
             If there were none, or to give them up, make the directory as the server's user (`mkdir -m 700 \
             '{}/{TWO_PHASE_DIRECTORY}'`), and run this again",
            self.root.path().display()
        ))));
    }
}

fn wanted_exactly(expected: &Expected) -> BTreeSet<u32> {
    match expected {
        Expected::Exactly(wanted) => wanted.clone(),
        Expected::AmongThose(_) | Expected::Unknown => BTreeSet::new(),
    }
}

/// Whether the last checkpoint knew of the transaction.
fn precedes(xid: u32, control: &ControlFile) -> bool {
    low_half(control.next_xid).wrapping_sub(xid).wrapping_sub(1) < u32::MAX / 2
}

/// The transactions from `first` up to but not including `end` of which `pg_xact` has no end; `None` where a part of it
/// cannot be read, or where there are too many.
fn transactions_without_end(root: &ReadRoot, first: u32, end: u32) -> Option<BTreeSet<u32>> {
    let directory = follow(root, "pg_xact").ok()?;
    let mut without_end = BTreeSet::new();
    let mut from = first;
    while from != end {
        let name = slru::transaction_segment(from).to_string();
        let segment = directory.read_bounded(name, slru::SEGMENT_BYTES).ok()?;
        let last = slru::last_transaction_of_segment(from);
        // The numbers begin again after the last.
        let until = if end > from { last.min(end - 1) } else { last };
        without_end.extend(slru::transactions_without_end(&segment, from..=until));
        if without_end.len() > MOST_CANDIDATES {
            return None;
        }
        from = until.checked_add(1).unwrap_or(FIRST_XID);
    }
    Some(without_end)
}
