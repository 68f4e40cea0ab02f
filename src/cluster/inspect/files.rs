//! Owners and modes, which no PostgreSQL tool looks at before the server trips over them.

use super::Expectations;
use super::Inspection;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::{ReadRoot, misowned_entries};
use std::io;
use std::path::Path;

/// Opens a directory below the root, following a symlink to elsewhere (an external `pg_wal`, a tablespace).
pub(crate) fn follow(root: &ReadRoot, name: &str) -> io::Result<ReadRoot> {
    match root.read_link(name) {
        Ok(target) if target.is_absolute() => ReadRoot::open(&target),
        Ok(target) => ReadRoot::open(&root.path().join(target)),
        Err(_) => root.subroot(name),
    }
}

impl Inspection<'_> {
    /// Checks who owns the entries, and that nobody else may enter.
    pub(super) fn check_files(&mut self, names: &[String], expectations: &Expectations) {
        self.check_mode();
        let mut misowned = Vec::new();
        for name in names.iter().filter(|name| *name != "lost+found") {
            misowned.extend(misowned_entries(&self.root.path().join(name), expectations.server_uid, 1000));
        }
        let own_owner = self.root.own_facts().map_or(expectations.server_uid, |facts| facts.uid);
        if own_owner != expectations.server_uid {
            misowned.insert(0, self.root.path().to_path_buf());
        }
        let Some(first) = misowned.first() else { return };
        let place = first.strip_prefix(self.root.path()).unwrap_or(first);
        let place = if place == Path::new("") { ".".into() } else { place.display().to_string() };
        let evidence = format!(
            "{} of its entries do not belong to user {}, as whom the server runs",
            misowned.len(),
            expectations.server_uid
        );
        let remedy = Remedy::SetOwner(expectations.server_uid);
        self.report_with(Finding {
            code: "owner-wrong",
            severity: Severity::Warning,
            place,
            evidence,
            remedy,
        });
    }

    /// The server accepts 0700 and 0750 and nothing else (miscinit.c, `checkDataDir()`).
    fn check_mode(&mut self) {
        let Ok(facts) = self.root.own_facts() else { return };
        if facts.mode & 0o027 == 0 && facts.mode & 0o700 == 0o700 {
            return;
        }
        let evidence = format!("its mode is {:04o}, and the server accepts 0700 or 0750", facts.mode);
        let remedy = Remedy::SetMode(0o700);
        let severity = Severity::Warning;
        self.report_with(Finding { code: "mode-wrong", severity, place: ".".into(), evidence, remedy });
    }
}
