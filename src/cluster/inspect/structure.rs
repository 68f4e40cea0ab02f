//! Directories, the pid file, and the WAL and transaction status that replay needs.

use super::Inspection;
use crate::pg::layout;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::pg::two_phase::TWO_PHASE_DIRECTORY;
use crate::pg::wal;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::EntryKind;
use std::io;

impl Inspection<'_> {
    /// Checks for every directory that initdb makes.
    pub(super) fn check_structure(&mut self) {
        let Some(major) = self.major else { return };
        let wal_is_out_of_reach = self.check_wal_link();
        for directory in layout::required_directories(major) {
            let has_own_check = directory == TWO_PHASE_DIRECTORY;
            if has_own_check || (wal_is_out_of_reach && directory.starts_with("pg_wal")) {
                continue;
            }
            match super::files::follow(self.root, directory) {
                Ok(_) => continue,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => {
                    self.report_unreadable(directory, &error);
                    continue;
                }
            }
            self.report_with(self.missing_directory(directory, major));
        }
        self.check_prepared_transactions();
        self.check_transaction_status();
        self.check_tablespace_links();
    }

    /// Reports a `pg_wal` that leads to where no WAL is: most likely on a disk that is not mounted, where the WAL is whole.
    /// A new WAL, or a cluster without it, would lose what only that WAL holds.
    fn check_wal_link(&mut self) -> bool {
        let Ok(target) = self.root.read_link("pg_wal") else { return false };
        let evidence = match super::files::follow(self.root, "pg_wal").and_then(|wal| wal.entries(".")) {
            Ok(entries) if entries.iter().any(|entry| wal::is_segment_name(&entry.name)) => return false,
            Ok(_) => "which has no WAL in it",
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                "which is not there"
            }
            Err(error) => {
                self.report_unreadable("pg_wal", &error);
                return true;
            }
        };
        let evidence = format!("it is a link to '{}', {evidence}", target.display());
        let finding = Finding::new("wal-out-of-reach", Severity::Error, "pg_wal", evidence);
        self.report_with(finding.with_remedy(Remedy::LinkWal));
        true
    }

    /// Whether no WAL is needed. Once its directory is there again, the next inspection finds the last checkpoint's
    /// segment missing, and says what is to be done about that. A link that leads nowhere may be a disk that is not
    /// mounted, with WAL that nobody may miss.
    pub(super) fn can_begin_wal_anew(&self) -> bool {
        let is_done = self.control.as_ref().is_some_and(|control| control.redo == control.checkpoint);
        self.is_clean() && is_done && matches!(self.root.facts("pg_wal"), Ok(None))
    }

    /// Files among the links to tablespaces, such as a `.gitkeep`: the server takes each entry for a tablespace, and does
    /// not start when it has a crash to recover from (reinit.c, `ResetUnloggedRelations()`).
    fn check_tablespace_links(&mut self) {
        let entries = self.root.entries("pg_tblspc").unwrap_or_default();
        for entry in entries.iter().filter(|entry| entry.facts.kind == EntryKind::File) {
            let place = format!("pg_tblspc/{}", entry.name);
            let evidence = "it is a file, where the server expects nothing but tablespaces";
            let finding = Finding::new("foreign-file", Severity::Error, place, evidence);
            self.report_with(finding.with_remedy(Remedy::SetAsideFile));
        }
    }

    /// A pid file that the server would trip over for ever: it clears neither an empty nor a garbled one, and
    /// in a new PID namespace the pid of a dead server may be anybody's (miscinit.c, `CreateLockFile()`).
    pub(super) fn check_pid_file(&mut self) {
        let text = match self.root.read_text("postmaster.pid", 4096) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(error) => return self.report_unreadable("postmaster.pid", &error),
        };
        let (code, evidence) = match PostmasterPid::parse(&text) {
            Ok(_) if super::presence::running_server(self.root).is_some() => return,
            Ok(lock_file) => {
                ("pid-file-stale", format!("process {} is no server of this directory", lock_file.pid))
            }
            Err(error) => ("pid-file-garbage", error.to_string()),
        };
        let finding = Finding::new(code, Severity::Warning, "postmaster.pid", evidence);
        self.report_with(finding.with_remedy(Remedy::SetAsideFile));
    }
}
