//! Offline inspection of a data directory: reads only, starts nothing, stops at no finding.
//!
//! It is valid in every state that a cluster can be left in. Where the state makes a rule unsure (the server
//! was killed, so that replay may still make or remove a file), the finding is a warning, never an error: a
//! false alarm would send a whole cluster back to its last backup. `facts/corruption.md` §2 has the rules.

mod databases;
mod files;
mod maps;
mod presence;
mod structure;

pub(crate) use files::follow;
pub(crate) use presence::running_server;

use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::timeline_history::{self, Ancestor};
use crate::pg::wal::WalFileName;
use crate::pg::{MajorVersion, TimelineId, layout, version};
use crate::plan::diagnosis::ClusterIdentity;
use crate::plan::{ClusterCondition, Diagnosis, Finding, Journal, Presence, Remedy, Severity};
use crate::sys::{EntryKind, FileFacts, ReadRoot};
use std::io;
use std::path::{Path, PathBuf};

/// What the caller knows that the directory cannot.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// The major version that was asked for.
    pub wanted_version: Option<MajorVersion>,
    /// The major versions whose programs are installed.
    pub installed_versions: Vec<MajorVersion>,
    /// Who the server will run as.
    pub server_uid: u32,
}

/// The journal of a replacement under way, below the data directory.
pub const JOURNAL_FILE: &str = ".pgbox/journal.json";
/// Where clusters that were set aside wait to be taken into the repository.
pub const ASIDE_DIRECTORY: &str = ".pgbox/aside";

/// A look at one data directory, with the findings so far.
pub(super) struct Inspection<'a> {
    root: &'a ReadRoot,
    control: Option<ControlFile>,
    major: Option<MajorVersion>,
    findings: Vec<Finding>,
}

impl Inspection<'_> {
    fn report(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: impl Into<String>,
        evidence: impl Into<String>,
    ) {
        let remedy = if severity == Severity::Error { Remedy::Replace } else { Remedy::Nothing };
        self.report_with(Finding { code, severity, place: place.into(), evidence: evidence.into(), remedy });
    }

    /// Something that could not be looked at. That is no proof of damage, whatever the reason, so nothing may
    /// be replaced on account of it.
    fn report_unreadable(&mut self, place: impl Into<String>, error: &io::Error) {
        let finding = Finding {
            code: "unreadable",
            severity: Severity::Error,
            place: place.into(),
            evidence: format!("it could not be read: {error}"),
            remedy: Remedy::MakeReadable,
        };
        self.report_with(finding);
    }

    /// The facts of an entry, or `None` where there is none; what cannot be looked at is reported.
    fn facts(&mut self, place: &str) -> Looked {
        match self.root.facts(place) {
            Ok(Some(facts)) => Looked::There(facts),
            Ok(None) => Looked::Missing,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Looked::Missing,
            Err(error) => {
                self.report_unreadable(place, &error);
                Looked::Unknown
            }
        }
    }

    fn report_with(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether every file is as the last checkpoint left it, with nothing to replay.
    fn is_clean(&self) -> bool {
        let stopped = self.control.as_ref().is_some_and(|control| control.state == ClusterState::ShutDown);
        stopped && matches!(self.root.facts("backup_label"), Ok(None))
    }

    /// An error where nothing is left to replay, a warning where replay may put it right.
    fn severity_unless_replayed(&self) -> Severity {
        if self.is_clean() { Severity::Error } else { Severity::Warning }
    }
}

/// What a look at one entry came to.
enum Looked {
    There(FileFacts),
    Missing,
    Unknown,
}

/// Inspects a data directory.
///
/// # Errors
/// Only where the directory itself cannot be read; whatever is wrong inside it is a finding.
pub fn inspect(data_directory: &Path, expectations: &Expectations) -> io::Result<Diagnosis> {
    let root = match ReadRoot::open(data_directory) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(blank(data_directory, ClusterCondition::Absent, Presence::Free));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let examples = vec!["it is a file".to_owned()];
            return Ok(blank(data_directory, ClusterCondition::NotPostgres { examples }, Presence::Free));
        }
        Err(error) => return Err(error),
    };
    let presence = presence::presence(&root)?;
    let names: Vec<String> = root.entries(".")?.into_iter().map(|entry| entry.name).collect();
    let journal = read_journal(&root)?;
    if layout::is_effectively_empty(&names) && journal.is_none() {
        let mut diagnosis = blank(data_directory, ClusterCondition::Empty, presence);
        diagnosis.set_aside = set_aside(&root);
        return Ok(diagnosis);
    }
    if !layout::looks_like_postgres(&names) && journal.is_none() {
        let is_foreign = |name: &&String| !layout::NAMES_ALLOWED_IN_EMPTY_DIRECTORY.contains(&name.as_str());
        let examples = names.iter().filter(is_foreign).take(3).cloned().collect();
        return Ok(blank(data_directory, ClusterCondition::NotPostgres { examples }, presence));
    }
    let mut diagnosis = inspect_cluster(&root, &names, expectations, &presence);
    diagnosis.presence = presence;
    diagnosis.journal = journal;
    diagnosis.set_aside = set_aside(&root);
    Ok(diagnosis)
}

fn blank(data_directory: &Path, condition: ClusterCondition, presence: Presence) -> Diagnosis {
    Diagnosis {
        data_directory: data_directory.to_path_buf(),
        condition,
        presence,
        identity: ClusterIdentity::default(),
        findings: Vec::new(),
        journal: None,
        set_aside: Vec::new(),
        wal_segments: Vec::new(),
    }
}

fn inspect_cluster(
    root: &ReadRoot,
    names: &[String],
    expectations: &Expectations,
    presence: &Presence,
) -> Diagnosis {
    let mut inspection = Inspection { root, control: None, major: None, findings: Vec::new() };
    inspection.check_version();
    inspection.check_control_file();
    inspection.check_structure();
    // The pid of a server in another container means nothing here; that it holds the lock does.
    if *presence == Presence::Free {
        inspection.check_pid_file();
    }
    inspection.check_maps();
    inspection.check_databases();
    inspection.check_tablespaces();
    inspection.check_files(names, expectations);
    let wal_segments = inspection.check_wal();
    let identity = inspection.identity();
    let condition = inspection.condition(names, expectations, &wal_segments);
    let mut findings = inspection.findings;
    findings.sort_by_key(|finding| finding.severity);
    Diagnosis {
        data_directory: PathBuf::from(root.path()),
        condition,
        presence: Presence::Free,
        identity,
        findings,
        journal: None,
        set_aside: Vec::new(),
        wal_segments,
    }
}

impl Inspection<'_> {
    fn check_version(&mut self) {
        match self.root.read_text("PG_VERSION", 64) {
            Ok(Some(text)) => match version::parse(&text) {
                Ok(major) => self.major = Some(major),
                Err(error) => {
                    self.report("version-file-garbage", Severity::Error, "PG_VERSION", error.to_string());
                }
            },
            Ok(None) => self.report("version-file-missing", Severity::Error, "PG_VERSION", "it is not there"),
            Err(error) => self.report_unreadable("PG_VERSION", &error),
        }
    }

    fn check_control_file(&mut self) {
        const PLACE: &str = "global/pg_control";
        let bytes = match self.root.read_bounded(PLACE, 64 * 1024) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.report("control-file-missing", Severity::Error, PLACE, "it is not there");
            }
            Err(error) => return self.report_unreadable(PLACE, &error),
        };
        match ControlFile::parse(&bytes) {
            Ok(control) => {
                let made_by = control.major_version();
                if self.major.is_some_and(|major| major != made_by) {
                    let evidence = format!("it is of version {made_by}, and PG_VERSION says otherwise");
                    self.report("control-file-version", Severity::Error, PLACE, evidence);
                }
                self.major.get_or_insert(made_by);
                self.control = Some(control);
            }
            Err(error) => self.report("control-file-damaged", Severity::Error, PLACE, error.to_string()),
        }
    }

    fn identity(&self) -> ClusterIdentity {
        let control = self.control.as_ref();
        ClusterIdentity {
            major_version: self.major,
            system_identifier: control.map(|control| control.system_identifier),
            control_crc: control.map(|control| control.crc),
            state: control.map(|control| control.state),
            timeline: control.map(|control| control.timeline),
            redo: control.map(|control| control.redo),
            ancestors: control.and_then(|control| self.ancestors(control.timeline)).unwrap_or_default(),
        }
    }

    /// The history of a timeline; the first one has none.
    fn ancestors(&self, timeline: TimelineId) -> Option<Vec<Ancestor>> {
        let directory = follow(self.root, "pg_wal").ok()?;
        let text = directory.read_text(timeline_history::file_name(timeline), 1 << 20).ok()??;
        timeline_history::parse(&text)
    }

    fn condition(
        &self,
        names: &[String],
        expectations: &Expectations,
        wal_segments: &[WalFileName],
    ) -> ClusterCondition {
        if let Some(found) = self.major {
            let is_wanted = expectations.wanted_version.is_none_or(|wanted| wanted == found);
            if !is_wanted || !expectations.installed_versions.contains(&found) {
                return ClusterCondition::OtherMajorVersion { found, wanted: expectations.wanted_version };
            }
        }
        let has_errors = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        if has_errors && self.is_interrupted_initdb(names) && !is_wal_of_a_server(wal_segments) {
            return ClusterCondition::InterruptedInitdb;
        }
        let has_repairs = self.findings.iter().any(|finding| finding.remedy != Remedy::Nothing);
        match (has_errors, has_repairs) {
            (true, _) => ClusterCondition::Damaged,
            (false, true) => ClusterCondition::Repairable,
            (false, false) => ClusterCondition::Sound,
        }
    }

    /// Whether an initdb was cut short here, so that making the cluster anew loses nothing.
    ///
    /// A missing relation map alone proves nothing; all of these together do: the server never ran (no
    /// `postmaster.opts`), it is no base backup, its WAL goes no further, and nothing a user made is there (`facts/corruption.md` §4).
    fn is_interrupted_initdb(&self, names: &[String]) -> bool {
        const MADE_LATER: [&str; 5] =
            ["postmaster.opts", "backup_label", "backup_label.old", "backup_manifest", "recovery.signal"];
        let never_ran = !names.iter().any(|name| MADE_LATER.contains(&name.as_str()));
        let first_user_oid = 16384;
        let next_oid_is_initial =
            self.control.as_ref().is_none_or(|control| control.next_oid.0 <= first_user_oid);
        never_ran && next_oid_is_initial && !self.has_user_made_files()
    }
}

/// Whether WAL was written that no initdb writes: on a later timeline, or further on than it ever gets. It is told
/// even where an interrupted `rm` has left little else.
fn is_wal_of_a_server(segments: &[WalFileName]) -> bool {
    // initdb begins with the second segment, and writes 8 MiB at the most (13 to 18).
    const MOST_OF_INITDB_BYTES: u64 = 16 << 20;
    let is_later = |segment: &WalFileName| {
        let first = u64::from(segment.segment_size_bytes());
        segment.timeline != TimelineId(1) || segment.start_lsn().0 >= first + MOST_OF_INITDB_BYTES
    };
    segments.iter().any(is_later)
}

fn read_journal(root: &ReadRoot) -> io::Result<Option<Journal>> {
    let Some(text) = root.read_text(JOURNAL_FILE, 64 * 1024)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{JOURNAL_FILE} cannot be understood: {error}"))
    })
}

fn set_aside(root: &ReadRoot) -> Vec<crate::plan::BackupName> {
    let entries = root.entries(ASIDE_DIRECTORY).unwrap_or_default();
    entries
        .iter()
        .filter(|entry| entry.facts.kind == EntryKind::Directory)
        .filter_map(|entry| entry.name.parse().ok())
        .collect()
}
