//! Which cluster it is: `PG_VERSION` and the control file, each of which vouches for the other.
//!
//! A control file with a sound CRC was written by a server and names its version beyond doubt; `PG_VERSION` is a text of
//! three bytes that anything can change. So the control file decides, and only where there is none does `PG_VERSION`.

use super::Inspection;
use super::wal::WalDirectory;
use crate::cluster::{lineage, seal};
use crate::pg::control_file::{CONTROL_FILE, ControlFile, ControlFileError};
use crate::pg::{MajorVersion, SystemIdentifier, version};
use crate::plan::{FileContent, Finding, Remedy, Severity};
use std::io;

const VERSION_FILE: &str = "PG_VERSION";

impl Inspection<'_> {
    /// Checks both, and sets what the rest of the inspection goes by.
    pub(super) fn check_identity(&mut self) {
        let version_fault = self.read_version();
        self.check_control_file();
        let made_by = self.control.as_ref().map(ControlFile::major_version);
        let version_fault = match (version_fault, self.major, made_by) {
            (None, Some(major), Some(made_by)) if major != made_by => {
                let evidence =
                    format!("it names version {major}, and the control file is of version {made_by}");
                Some(("version-file-wrong", evidence))
            }
            (fault, ..) => fault,
        };
        self.major = made_by.or(self.major);
        let Some((code, evidence)) = version_fault else { return };
        let finding = Finding::new(code, Severity::Error, VERSION_FILE, evidence);
        self.report_with(match made_by {
            Some(major) => finding.with_content(version_file(major)),
            None => finding,
        });
    }

    /// Which cluster it is by what else knows it, where there is no control file to tell: the headers of the WAL in
    /// `pg_wal`, the seal of the last stop, the list of its backups. `None` where nothing does, or two contradict each
    /// other.
    pub(super) fn witnessed_identifier(&self) -> Option<SystemIdentifier> {
        let of_wal = WalDirectory::without_control_file(self.root).map(|wal| wal.geometry.system_identifier);
        let of_seal = seal::sealed_identifier(self.root);
        let of_lineage = lineage::read(self.root).system_identifier;
        let mut witnesses = [of_wal, of_seal, of_lineage].into_iter().flatten();
        let first = witnesses.next()?;
        witnesses.all(|other| other == first).then_some(first)
    }

    /// Reads `PG_VERSION`, and returns what is wrong with it.
    fn read_version(&mut self) -> Option<(&'static str, String)> {
        match self.root.read_text(VERSION_FILE, 64) {
            Ok(Some(text)) => match version::parse(&text) {
                Ok(major) => {
                    self.major = Some(major);
                    None
                }
                Err(error) => Some(("version-file-garbage", error.to_string())),
            },
            Ok(None) => Some(("version-file-missing", "it is not there".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Some(("version-file-garbage", error.to_string()))
            }
            Err(error) => {
                self.report_unreadable(VERSION_FILE, &error);
                None
            }
        }
    }

    fn check_control_file(&mut self) {
        let (code, evidence) = match self.root.read_bounded(CONTROL_FILE, 64 * 1024) {
            Ok(bytes) => match ControlFile::parse(&bytes) {
                Ok(control) => {
                    self.control = Some(control);
                    return;
                }
                Err(ControlFileError::UnknownVersion { control, catalog }) => {
                    self.unknown_version = Some((control, catalog));
                    return;
                }
                Err(error) => ("control-file-damaged", error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ("control-file-missing", "it is not there".to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                ("control-file-damaged", error.to_string())
            }
            Err(error) => return self.report_unreadable(CONTROL_FILE, &error),
        };
        let finding = Finding::new(code, Severity::Error, CONTROL_FILE, evidence);
        match self.rebuilt_control_file() {
            Ok((control, content)) => {
                // With its directory the shared catalogs are gone, too: what was worked out is worth knowing, not writing.
                let has_directory = self.root.entries("global").is_ok();
                self.report_with(if has_directory { finding.with_content(content) } else { finding });
                self.take_rebuilt(control);
            }
            Err(reason) => {
                let evidence = format!("{}; it cannot be rebuilt: {reason}", finding.evidence);
                self.report_with(Finding { evidence, ..finding });
            }
        }
    }

    /// Goes on as though the rebuilt control file were there.
    pub(super) fn take_rebuilt(&mut self, control: ControlFile) {
        self.is_control_rebuilt = true;
        self.control = Some(control);
    }
}

impl Finding {
    /// The same finding, which writing the file anew puts right without loss.
    pub(super) fn with_content(self, content: FileContent) -> Self {
        Self { severity: Severity::Warning, ..self }.with_remedy(Remedy::WriteFile(content))
    }
}

/// What initdb and CREATE DATABASE write into `PG_VERSION`.
pub(super) fn version_file(major: MajorVersion) -> FileContent {
    FileContent { description: format!("version {major}"), bytes: format!("{major}\n").into_bytes() }
}
