//! A `backup_label` that no server can read, which keeps every server from starting.
//!
//! What wrote it was no backup: each writes its label whole (xlogbackup.c, `build_backup_content()`). But it may be
//! what is left of one, in a restored backup, and to start that without its label corrupts it silently. So it is moved
//! only where the control file proves that this is no restored backup.

use super::Inspection;
use super::wal::WalDirectory;
use crate::cluster::standby::{RECOVERY_SIGNAL, STANDBY_SIGNAL, is_own_signal};
use crate::pg::backup_label::{BackupLabel, BackupMethod, BackupOrigin};
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::tablespace_map::{self, MappedTablespace, TABLESPACE_MAP};
use crate::pg::wal::{WalFault, WalFileName};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::EntryKind;
use std::io;

const LABEL: &str = "backup_label";
const LIMIT_BYTES: u64 = 64 * 1024;

/// What has a server take WAL from elsewhere than its own `pg_wal`.
const FROM_ELSEWHERE: [&str; 3] = [LABEL, "recovery.signal", "standby.signal"];

impl Inspection<'_> {
    /// Whether all WAL that a start would replay is in `pg_wal`: it is no standby, no restored backup, and not on its way
    /// to a point in time.
    pub(super) fn takes_no_wal_from_elsewhere(&self) -> bool {
        FROM_ELSEWHERE.iter().all(|name| matches!(self.root.facts(name), Ok(None)))
    }

    /// Checks that the label, if there is one, can be read.
    pub(super) fn check_backup_label(&mut self) {
        let evidence = match self.root.read_text(LABEL, LIMIT_BYTES) {
            Ok(None) => return,
            Ok(Some(text)) => match BackupLabel::parse(&text) {
                Ok(label) => {
                    self.check_tablespace_map();
                    return self.check_wal_of_backup(&label);
                }
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
            Err(error) => return self.report_unreadable(LABEL, &error),
        };
        let finding = Finding::new("backup-label-garbage", Severity::Warning, LABEL, evidence);
        self.report_with(if self.was_stopped_cleanly() {
            let evidence = format!(
                "{}; the server had stopped cleanly, which no backup of a running server says of itself",
                finding.evidence
            );
            Finding { evidence, ..finding.with_remedy(Remedy::SetAsideFile) }
        } else {
            let hint = "if this is a restored backup, put the label of that backup in its place, or restore it again; \
                        only if it is none, move the file out of the data directory";
            Finding { severity: Severity::Error, ..finding.with_remedy(Remedy::SeeToIt(hint.to_owned())) }
        });
    }

    /// Checks the map of tablespaces, which the server reads only where there is a label. Without the right links it would
    /// put the tablespaces of a backup nowhere, or over those of another cluster.
    fn check_tablespace_map(&mut self) {
        let fault = match self.root.read_bounded(TABLESPACE_MAP, tablespace_map::LIMIT_BYTES) {
            Ok(bytes) => match tablespace_map::parse(&bytes) {
                Ok(tablespaces) => match self.blocked_link(&tablespaces) {
                    None => return,
                    Some(place) => {
                        format!("the link '{place}' is to be made, and something else has its name")
                    }
                },
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
            Err(error) => return self.report_unreadable(TABLESPACE_MAP, &error),
        };
        let finding = Finding::new("tablespace-map-unusable", Severity::Error, TABLESPACE_MAP, fault);
        let words = "if this is a restored backup, put the tablespace_map of that backup in its place, or restore it again; \
                     the server makes the links of its tablespaces by it, and does not start with this one";
        self.report_with(finding.with_remedy(Remedy::SeeToIt(words.to_owned())));
    }

    /// The first link of a map that cannot be made: the server replaces a link or a directory there, and nothing else
    /// (tablespace.c, `remove_tablespace_symlink()`).
    fn blocked_link(&self, tablespaces: &[MappedTablespace]) -> Option<String> {
        let places = tablespaces.iter().map(|tablespace| format!("pg_tblspc/{}", tablespace.oid));
        let is_blocked = |place: &String| matches!(self.root.facts(place), Ok(Some(facts)) if facts.kind == EntryKind::File);
        places.into_iter().find(is_blocked)
    }

    /// Checks that the WAL that a base backup needs is there: from its redo point to its end. A server that lacks the first
    /// of it advises to remove the label, which corrupts a base backup silently (xlogrecovery.c, `InitWalRecovery()`).
    fn check_wal_of_backup(&mut self, label: &BackupLabel) {
        // With a signal file, what is lacking comes from an archive or a primary; with one of ours it is in pg_wal.
        let is_there = |name: &str| !matches!(self.root.facts(name), Ok(None));
        let comes_from_elsewhere =
            is_there(STANDBY_SIGNAL) || (is_there(RECOVERY_SIGNAL) && !is_own_signal(self.root));
        let Some(control) = self.control.clone().filter(|_| !comes_from_elsewhere) else { return };
        let Some(lacking) = self.lacking_wal(label, &control) else { return };
        let place = format!("pg_wal/{lacking}");
        if self.was_stopped_cleanly() {
            let evidence = format!(
                "the WAL that it asks for is not there ({lacking}), and the server had stopped cleanly, which no backup of a \
                 running server says of itself"
            );
            let finding = Finding::new("backup-label-stale", Severity::Warning, LABEL, evidence);
            return self.report_with(finding.with_remedy(Remedy::SetAsideFile));
        }
        let evidence =
            "this is a base backup, and it needs this WAL segment to be consistent, and those that follow";
        let words = format!(
            "put '{lacking}' and the segments after it into pg_wal, from where the WAL of this backup is kept; or set \
             restore_command and make recovery.signal. Leave backup_label in place: without it the cluster would be \
             corrupt, and nothing would show it"
        );
        let finding = Finding::new("backup-wal-missing", Severity::Error, place, evidence);
        self.report_with(finding.with_remedy(Remedy::FetchBackupWal(words)));
    }

    /// The first segment that is not there of those that a base backup needs; `None` where all are.
    fn lacking_wal(&self, label: &BackupLabel, control: &ControlFile) -> Option<WalFileName> {
        let segment = |lsn| WalFileName::containing(lsn, label.start_timeline, control.wal_segment_size).ok();
        let wal = WalDirectory::of_cluster(self.root, control)?;
        for lsn in [label.start_wal_location, label.checkpoint_location] {
            if !wal.has(lsn) {
                return segment(lsn);
            }
        }
        // A backup of a standby ends where the control file says; one by `pg_start_backup()` need not say its end.
        let says_its_end = label.backup_method == Some(BackupMethod::Streamed)
            && label.backup_from != Some(BackupOrigin::Standby);
        if !says_its_end {
            return None;
        }
        let mut reader = wal.reader_at(label.start_wal_location);
        loop {
            match reader.next_record() {
                Ok(record) if record.ended_backup() == Some(label.start_wal_location) => return None,
                Ok(_) => {}
                Err(WalFault::SegmentMissing(lsn)) => return segment(lsn),
                // Where the WAL breaks off otherwise, a segment that could be fetched would not help.
                Err(_) => return None,
            }
        }
    }

    /// Whether the control file on the disk is that of a server that stopped. A base backup has the one of a server
    /// that runs, be it a primary or a standby (xlog.c, `UpdateControlFile()` when each starts).
    fn was_stopped_cleanly(&self) -> bool {
        let control = self.control.as_ref().filter(|_| !self.is_control_rebuilt);
        control.is_some_and(|control| control.state == ClusterState::ShutDown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ReadRoot;

    const CONTROL: &[u8] = include_bytes!("../../../tests/fixtures/postgres/15/pg_control");

    fn found(label: &str, state: ClusterState) -> Option<Remedy> {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join(LABEL), label).unwrap();
        let root = ReadRoot::open(data.path()).unwrap();
        let mut inspection = Inspection::of(&root);
        inspection.control = Some(ControlFile { state, ..ControlFile::parse(CONTROL).unwrap() });
        inspection.check_backup_label();
        inspection.findings.pop().map(|finding| finding.remedy)
    }

    #[test]
    fn a_label_that_no_server_reads_is_moved_after_a_clean_stop_and_else_left_to_a_person() {
        for garbage in ["", "half a la", "START WAL LOCATION: 0/2000028"] {
            assert_eq!(found(garbage, ClusterState::ShutDown), Some(Remedy::SetAsideFile), "{garbage}");
            for state in [ClusterState::InProduction, ClusterState::InArchiveRecovery] {
                assert!(matches!(found(garbage, state), Some(Remedy::SeeToIt(_))), "{garbage}");
            }
        }
    }

    #[test]
    fn a_label_that_a_server_reads_is_left_alone_where_there_is_no_wal_to_look_at() {
        let label =
            "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n";
        assert_eq!(found(label, ClusterState::ShutDown), None);
        assert_eq!(found(label, ClusterState::InProduction), None);
    }
}
