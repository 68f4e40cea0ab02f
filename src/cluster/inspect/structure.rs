//! Directories, configuration files, the pid file, and the WAL and transaction status that replay needs.

use super::{Inspection, Looked};
use crate::pg::layout;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::pg::wal::{self, WalFileName, WalPageHeader};
use crate::plan::{Finding, Remedy, Severity};
use std::io::{self, Read};

impl Inspection<'_> {
    /// Checks for every directory that initdb makes.
    pub(super) fn check_structure(&mut self) {
        let Some(major) = self.major else { return };
        for directory in layout::required_directories(major) {
            match super::files::follow(self.root, directory) {
                Ok(_) => continue,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => {
                    self.report_unreadable(directory, &error);
                    continue;
                }
            }
            let can_be_made_anew = layout::recreatable_empty_directories(major).any(|name| name == directory);
            let (severity, remedy) = if can_be_made_anew {
                (Severity::Warning, Remedy::RecreateDirectory)
            } else {
                (Severity::Error, Remedy::Replace)
            };
            let evidence = "the directory is not there".to_owned();
            self.report_with(Finding {
                code: "directory-missing",
                severity,
                place: directory.into(),
                evidence,
                remedy,
            });
        }
        self.check_configuration();
        self.check_transaction_status();
    }

    fn check_configuration(&mut self) {
        for name in ["postgresql.conf", "pg_hba.conf"] {
            if matches!(self.facts(name), Looked::Missing) {
                self.report("configuration-missing", Severity::Error, name, "it is not there");
            }
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
        let severity = Severity::Warning;
        let remedy = Remedy::SetAsideFile;
        self.report_with(Finding { code, severity, place: "postmaster.pid".into(), evidence, remedy });
    }

    /// The `pg_xact` segment that holds the newest transaction must be there (clog.c, 32768 statuses a page,
    /// 32 pages a segment).
    fn check_transaction_status(&mut self) {
        const TRANSACTIONS_PER_SEGMENT: u32 = 32_768 * 32;
        let Some(control) = &self.control else { return };
        let newest = u32::try_from(control.next_xid & 0xFFFF_FFFF).unwrap_or_default().saturating_sub(1);
        let place = format!("pg_xact/{:04X}", newest / TRANSACTIONS_PER_SEGMENT);
        if matches!(self.facts(&place), Looked::Missing) {
            self.report(
                "transaction-status-missing",
                Severity::Error,
                place,
                "the segment of the newest transaction is not there",
            );
        }
    }

    /// Checks that the segment recovery begins with is there, and lists those that are whole.
    pub(super) fn check_wal(&mut self) -> Vec<WalFileName> {
        let segments = self.whole_segments();
        let Some(control) = &self.control else { return segments };
        if matches!(self.root.facts("backup_label"), Ok(Some(_))) {
            return segments;
        }
        let needed = WalFileName::containing(control.redo, control.timeline, control.wal_segment_size);
        // After a promotion the same segment may still be there under its former timeline only, or as `.partial`
        // (xlog.c, `CleanupAfterArchiveRecovery()`); the server knows what to make of that.
        let has = |needed: &WalFileName| {
            segments.iter().any(|segment| segment.segment_number == needed.segment_number)
                || matches!(self.root.facts(format!("pg_wal/{needed}.partial")), Ok(Some(_)))
        };
        if let Ok(needed) = needed
            && !has(&needed)
        {
            let evidence = format!("the last checkpoint's replay begins in it, at {}", control.redo);
            self.report("wal-segment-missing", Severity::Error, format!("pg_wal/{needed}"), evidence);
        }
        segments
    }

    /// Segments in `pg_wal` of full size whose first page says that they are what their name says. Recycled
    /// ones, which still hold old pages, are not among them.
    fn whole_segments(&self) -> Vec<WalFileName> {
        let Some(size) = self
            .control
            .as_ref()
            .map(|control| control.wal_segment_size)
            .or_else(|| self.sampled_segment_size())
        else {
            return Vec::new();
        };
        let directory = super::files::follow(self.root, "pg_wal");
        let Ok(directory) = directory else { return Vec::new() };
        let entries = directory.entries(".").unwrap_or_default();
        let of_full_size = entries.iter().filter(|entry| entry.facts.size_bytes == u64::from(size));
        of_full_size
            .filter_map(|entry| {
                let name = WalFileName::parse(&entry.name, size).ok()?;
                let header = read_first_header(&directory, &entry.name)?;
                let is_own = self
                    .control
                    .as_ref()
                    .is_none_or(|control| header.system_identifier == control.system_identifier);
                (header.page_address == name.start_lsn() && is_own).then_some(name)
            })
            .collect()
    }

    /// The segment size by the first segment's own header, when the control file cannot say.
    fn sampled_segment_size(&self) -> Option<u32> {
        let directory = super::files::follow(self.root, "pg_wal").ok()?;
        let entries = directory.entries(".").ok()?;
        let first = entries.iter().find(|entry| wal::is_segment_name(&entry.name))?;
        Some(read_first_header(&directory, &first.name)?.segment_size_bytes)
    }
}

fn read_first_header(directory: &crate::sys::ReadRoot, name: &str) -> Option<WalPageHeader> {
    let mut bytes = [0; wal::LONG_HEADER_SIZE_BYTES];
    directory.open_file(name).ok()?.read_exact(&mut bytes).ok()?;
    WalPageHeader::parse(&bytes).ok()
}
