//! The configuration files: that they are there, and that the server would take them.
//!
//! `postgresql.conf`, what it includes and `postgresql.auto.conf` are tried by the server's own program, which reads
//! them and does nothing else (`postgres -C`). It does not read `pg_hba.conf`; that is checked by its own rules. A
//! broken file is no more than a warning: a server that runs goes on, and no row is concerned.

use super::{Expectations, Inspection, Looked};
use crate::cluster::configuration::Fingerprint;
use crate::cluster::usable_configuration::{AUTO_FILE, MAIN_FILE, Search, search};
use crate::pg::hba;
use crate::plan::{FileContent, Finding, Remedy, Severity};
use crate::sys::{EntryKind, ProcessError, RunningTool};
use std::path::PathBuf;

const HBA_FILE: &str = "pg_hba.conf";
/// What the server opens when it starts, and would wait for without end where it is a FIFO.
const FILES: [&str; 4] = [MAIN_FILE, AUTO_FILE, HBA_FILE, "pg_ident.conf"];
const HBA_LIMIT_BYTES: u64 = 16 << 20;

/// What became of trying the configuration.
pub(super) enum Trial {
    /// It was not: the programs are missing, or a server served with it before.
    NotNeeded,
    /// The server's program is reading it.
    Running(Box<RunningTool>),
    /// It could not be tried.
    Failed(ProcessError),
    /// This name has something else than a file: a program that opens it may never end.
    NoFile(&'static str),
}

impl Inspection<'_> {
    /// Has the server's program read the configuration, while the inspection goes on.
    pub(super) fn begin_configuration_trial(&self, expectations: &Expectations) -> Trial {
        // The program of another major version knows other parameters.
        let programs = expectations.programs.as_ref().filter(|programs| Some(programs.version) == self.major);
        let is_no_file = |name: &&str| matches!(self.root.facts(name), Ok(Some(facts)) if facts.kind == EntryKind::Special);
        if let Some(name) = FILES.into_iter().find(|name| is_no_file(name)) {
            return Trial::NoFile(name);
        }
        let (Some(programs), Ok(Some(_))) = (programs, self.root.facts(MAIN_FILE)) else {
            return Trial::NotNeeded;
        };
        if Fingerprint::take(self.root, programs).is_some_and(|fingerprint| fingerprint.is_noted(self.root)) {
            return Trial::NotNeeded;
        }
        match programs.asking_for("hba_file", self.root.path()).start() {
            Ok(running) => Trial::Running(Box::new(running)),
            Err(error) => Trial::Failed(error),
        }
    }

    /// Reports what the trial came to, and checks `pg_hba.conf`, wherever it is.
    pub(super) fn check_configuration(&mut self, trial: Trial, expectations: &Expectations) {
        if matches!(self.facts(MAIN_FILE), Looked::Missing) {
            self.report_missing(MAIN_FILE);
        }
        let outcome = match trial {
            Trial::NotNeeded => None,
            Trial::Running(running) => Some(running.finish()),
            Trial::Failed(error) => Some(Err(error)),
            Trial::NoFile(name) => return self.report_no_file(name),
        };
        if let (Some(Ok(_)), Some(programs)) = (&outcome, &expectations.programs) {
            self.check_libraries(programs);
        }
        let hba_file = match outcome {
            None => None,
            Some(Ok(output)) => Some(PathBuf::from(output.stdout.trim_end_matches('\n'))),
            Some(Err(ProcessError::Failed { stderr, .. })) => {
                self.report_refused(&stderr, expectations);
                None
            }
            Some(Err(error)) => {
                let evidence = format!("it could not be tried: {error}");
                self.report("configuration-unchecked", Severity::Notice, MAIN_FILE, evidence);
                None
            }
        };
        match hba_file.filter(|path| path.parent() != Some(self.root.path())) {
            Some(elsewhere) if elsewhere.is_absolute() => self.check_foreign_hba(&elsewhere),
            _ => self.check_own_hba(),
        }
    }

    /// Reports a name of the configuration that has a FIFO, a socket or a device. What it was meant to be, nobody knows here.
    fn report_no_file(&mut self, name: &str) {
        let evidence =
            "it is a FIFO, a socket or a device, not a file, and a server would wait for it without end";
        let hint = format!("move '{name}' away, and put the file there that it is to be");
        let finding = Finding::new("configuration-broken", Severity::Warning, name, evidence);
        self.report_with(finding.with_remedy(Remedy::SeeToIt(hint)));
    }

    /// Reports what the server refuses. A file that can be read stays as it is; only what is no configuration at all is
    /// damage.
    fn report_refused(&mut self, stderr: &str, expectations: &Expectations) {
        let Some(programs) = &expectations.programs else { return };
        let broken = |place: &str, evidence: String, remedy: Remedy| {
            Finding::new("configuration-broken", Severity::Warning, place, evidence).with_remedy(remedy)
        };
        match search(programs, self.root.path()) {
            Ok(Search::Found { left_out, .. }) => {
                for line in left_out {
                    self.report_with(broken(MAIN_FILE, line.to_string(), Remedy::LeaveOut));
                }
            }
            Ok(Search::InAutoFile { refused, text }) => {
                let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
                let description = "without what the server refuses, which is a comment there".to_owned();
                let content = FileContent { description, bytes: text };
                self.report_with(broken(AUTO_FILE, lines.join("; "), Remedy::WriteFile(content)));
            }
            Ok(Search::NeedsAPerson(line)) => {
                let hint = "put that line right; without it, more than a setting may be lost";
                self.report_with(broken(MAIN_FILE, line.to_string(), Remedy::SeeToIt(hint.to_owned())));
            }
            Ok(Search::NoConfiguration) => self.report_broken(file_in(stderr), &messages(stderr)),
            Ok(Search::NoLine) => {
                let hint = "put right what the server refuses in its configuration";
                self.report_with(broken(MAIN_FILE, messages(stderr), Remedy::SeeToIt(hint.to_owned())));
            }
            Err(error) => {
                let evidence = format!("{}; it could not be read: {error}", messages(stderr));
                let hint = "let the server's user read the configuration, or mount the disk that it is on";
                self.report_with(broken(MAIN_FILE, evidence, Remedy::SeeToIt(hint.to_owned())));
            }
        }
    }

    fn check_own_hba(&mut self) {
        match self.facts(HBA_FILE) {
            Looked::There => {}
            Looked::Missing => return self.report_missing(HBA_FILE),
            Looked::Unknown => return,
        }
        let Some(major) = self.major else { return };
        let content = match self.root.read_bounded(HBA_FILE, HBA_LIMIT_BYTES) {
            Ok(content) => content,
            // A link to a file elsewhere is the server's to follow.
            Err(_) if self.root.read_link(HBA_FILE).is_ok() => return,
            Err(error) => return self.report_unreadable(HBA_FILE, &error),
        };
        if let Err(error) = hba::check(&content, major) {
            self.report_broken(HBA_FILE, &error.to_string());
        }
    }

    /// One that the configuration has elsewhere, as Debian's clusters have it, is not ours to put right.
    fn check_foreign_hba(&mut self, path: &std::path::Path) {
        if path.exists() {
            return;
        }
        let evidence = format!("the configuration names '{}', which is not there", path.display());
        self.report("configuration-missing", Severity::Warning, MAIN_FILE, evidence);
    }

    fn report_missing(&mut self, name: &'static str) {
        let finding = Finding::new("configuration-missing", Severity::Error, name, "it is not there");
        self.report_with(finding.with_remedy(Remedy::RestoreConfiguration));
    }

    fn report_broken(&mut self, name: &'static str, evidence: &str) {
        let finding = Finding::new("configuration-broken", Severity::Warning, name, evidence);
        self.report_with(finding.with_remedy(Remedy::RestoreConfiguration));
    }
}

/// The file that the server's messages are about; what it includes is taken in by the main one.
fn file_in(stderr: &str) -> &'static str {
    if stderr.contains(AUTO_FILE) { AUTO_FILE } else { MAIN_FILE }
}

/// What the server said, without the times before it.
fn messages(stderr: &str) -> String {
    let words = |line: &str| {
        let levels = ["LOG:", "FATAL:", "ERROR:", "PANIC:"];
        let begin = levels.iter().find_map(|level| line.find(level).map(|place| place + level.len()));
        line.get(begin.unwrap_or(0)..).unwrap_or(line).trim().to_owned()
    };
    let lines: Vec<String> = stderr.lines().filter(|line| !line.trim().is_empty()).map(words).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_told_without_their_times() {
        let stderr = "2026-11-20 16:19:24.055 GMT [15104] LOG:  syntax error in file \"/d/postgresql.auto.conf\" line 3\n\
            2026-11-20 16:19:24.055 GMT [15104] FATAL:  configuration file \"postgresql.auto.conf\" contains errors\n";

        let expected = "syntax error in file \"/d/postgresql.auto.conf\" line 3; \
            configuration file \"postgresql.auto.conf\" contains errors";
        assert_eq!(messages(stderr), expected);
        assert_eq!(file_in(stderr), AUTO_FILE);
        assert_eq!(file_in("could not open configuration file \"/d/x.conf\""), MAIN_FILE);
    }
}
