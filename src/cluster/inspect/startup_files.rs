//! Small files that only the startup process reads, each of which keeps a server from starting when it is damaged: the
//! state of replication slots, how far subscriptions had come, and the history of the timeline. Those of prepared
//! transactions have a check of their own. `pg_logical/snapshots` is not among them: a start looks at the names there,
//! never into the files (snapbuild.c, `CheckPointSnapBuild()`).

use super::{Inspection, follow};
use crate::pg::replication_origin::{self, ORIGIN_FILE};
use crate::pg::replication_slot::{self, SLOT_DIRECTORY, SlotState};
use crate::pg::{TimelineId, timeline_history};
use crate::plan::slots::{LogicalSlot, Slot};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::EntryKind;
use std::io;

/// A history file has a line for each timeline.
const HISTORY_LIMIT_BYTES: u64 = 1 << 20;

impl Inspection<'_> {
    /// Checks them, where no server is about to change them.
    pub(super) fn check_startup_files(&mut self) {
        if self.is_in_use {
            return;
        }
        self.check_slots();
        self.check_origins();
        self.check_history();
    }

    /// A slot that cannot be read is lost, and nothing else with it: what reads from it has to begin again.
    fn check_slots(&mut self) {
        let Some(major) = self.major else { return };
        let Ok(directory) = follow(self.root, SLOT_DIRECTORY) else { return };
        let entries = directory.entries(".").unwrap_or_default();
        // The server removes those that end so, which are half made or half removed.
        let is_slot =
            |name: &str, kind: EntryKind| kind == EntryKind::Directory && name.strip_suffix(".tmp").is_none();
        for entry in entries.iter().filter(|entry| is_slot(&entry.name, entry.facts.kind)) {
            let state = format!("{}/state", entry.name);
            let fault = match directory.read_bounded(&state, replication_slot::LIMIT_BYTES) {
                Ok(bytes) => match replication_slot::check(&bytes, major) {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => "it has no state file".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
                Err(error) => {
                    self.report_unreadable(format!("{SLOT_DIRECTORY}/{state}"), &error);
                    continue;
                }
            };
            let evidence = format!(
                "{fault}, with which no server starts; the replication slot is lost: what reads from it must be set up \
                 again"
            );
            let place = format!("{SLOT_DIRECTORY}/{}", entry.name);
            let finding = Finding::new("replication-slot-damaged", Severity::Warning, place, evidence);
            self.report_with(finding.with_remedy(Remedy::SetAsideFile));
        }
    }

    /// The slots whose state can be read. The server replaces a state file by another one at once (slot.c,
    /// `SaveSlotToPath()`), so that they can be read while it runs.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let Some((major, directory)) = self.major.zip(follow(self.root, SLOT_DIRECTORY).ok()) else {
            return Vec::new();
        };
        let mut names = directory.names(".").unwrap_or_default();
        names.sort();
        let read = |name: &String| {
            let bytes =
                directory.read_bounded(format!("{name}/state"), replication_slot::LIMIT_BYTES).ok()?;
            replication_slot::read(&bytes, major).ok()
        };
        let slot = |state: SlotState| {
            let logical = state.database.map(|oid| LogicalSlot {
                plugin: state.plugin,
                database: self.database_name(oid).unwrap_or_else(|| oid.to_string()),
            });
            Slot { name: state.name, logical }
        };
        names.iter().filter(|name| name.strip_suffix(".tmp").is_none()).filter_map(read).map(slot).collect()
    }

    fn database_name(&self, oid: u32) -> Option<String> {
        let databases = &self.catalog.as_ref()?.databases;
        databases.iter().find(|database| database.oid.0 == oid).map(|database| database.name.clone())
    }

    fn check_origins(&mut self) {
        let fault = match self.root.read_bounded(ORIGIN_FILE, replication_origin::LIMIT_BYTES) {
            Ok(bytes) => match replication_origin::count(&bytes) {
                Ok(_) => return,
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
            // The server writes none where it may have no slots; with its directory it is reported there.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return;
            }
            Err(error) => return self.report_unreadable(ORIGIN_FILE, &error),
        };
        let code = "replication-origins-damaged";
        self.report_with(if self.has_no_origins() {
            let evidence = format!("{fault}; no subscription needs it");
            Finding::new(code, Severity::Warning, ORIGIN_FILE, evidence).with_remedy(Remedy::SetAsideFile)
        } else {
            let words = format!(
                "no backup has all the WAL since: subscriptions would be sent again what they had. To go on all the same, \
                 move '{}/{ORIGIN_FILE}' out of the data directory, and run this again",
                self.root.path().display()
            );
            Finding::new(code, Severity::Error, ORIGIN_FILE, fault).with_remedy(Remedy::RestoreOrSeeToIt(words))
        });
    }

    /// The history of the timeline that the control file names is read by every start (xlogrecovery.c,
    /// `InitWalRecovery()`). Where it is not there, the timeline is taken to have no ancestors.
    fn check_history(&mut self) {
        let Some(control) = self.control.as_ref().filter(|control| control.timeline > TimelineId(1)) else {
            return;
        };
        let timeline = control.timeline;
        let name = timeline_history::file_name(timeline);
        let Ok(directory) = follow(self.root, "pg_wal") else { return };
        let fault = match directory.read_text(&name, HISTORY_LIMIT_BYTES) {
            Ok(None) => return,
            Ok(Some(text)) => match timeline_history::check(&text, timeline) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => error.to_string(),
            Err(error) => return self.report_unreadable(format!("pg_wal/{name}"), &error),
        };
        let evidence = format!("{fault}, with which no server starts");
        let place = format!("pg_wal/{name}");
        let finding = Finding::new("timeline-history-damaged", Severity::Warning, place, evidence);
        self.report_with(finding.with_remedy(Remedy::TakeFromArchive));
    }
}
