//! Offline inspection of a data directory: reads only, starts nothing, stops at no finding.
//!
//! It is valid in every state that a cluster can be left in. Where the state makes a rule unsure (the server
//! was killed, so that replay may still make or remove a file), the finding is a warning, never an error: a
//! false alarm would send a whole cluster back to its last backup. `facts/corruption.md` §2 has the rules.

pub(crate) mod catalog;
mod collation;
mod configuration;
mod directories;
pub mod elsewhere;
mod environment;
mod files;
mod heap_pages;
mod identity;
mod index_to_heap;
mod label;
mod libraries;
mod locales;
mod lost_files;
mod map_repair;
mod maps;
mod naming;
mod pages;
mod prepared;
mod presence;
mod reset;
mod sample;
mod seal;
mod standby;
mod startup_files;
pub(crate) mod status;
mod structure;
mod transaction_status;
mod user_files;
pub(crate) mod wal;

pub(crate) use environment::is_share;
pub(crate) use files::follow;
pub use naming::{open_databases, relation_names};
pub(crate) use presence::running_server;

use super::binaries::Installation;
use super::seal::Seal;
use super::tree::FileTree;
use super::{lineage, served};
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::relation_map::RelationMap;
use crate::pg::timeline_history::{self, Ancestor};
use crate::pg::wal::WalFileName;
use crate::pg::{MajorVersion, TimelineId, layout};
use crate::plan::diagnosis::{ClusterIdentity, Served};
use crate::plan::{ClusterCondition, Diagnosis, Extent, Finding, Journal, Presence, Remedy, Severity};
use crate::sys::{EntryKind, ReadRoot, Threads};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How far an inspection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Whose the entries are, and nothing else: what root must know before its privileges are dropped, for which it may
    /// have but one thread. Who uses the directory is looked for only where an entry has to be given away.
    Owners,
    /// Files, maps, catalogs, WAL: what is looked at before every start.
    #[default]
    Structure,
    /// The rows of the catalogs that all others are found by, too, each by its index: what is looked at when replay was
    /// to settle whether they are whole.
    Catalogs,
    /// Every data page, too, and the row of every index entry.
    Deep,
}

/// What the caller knows that the directory cannot.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// How far to look.
    pub depth: Depth,
    /// The major version that was asked for.
    pub wanted_version: Option<MajorVersion>,
    /// The major versions whose programs are installed.
    pub installed_versions: Vec<MajorVersion>,
    /// Who the server will run as.
    pub server_uid: u32,
    /// The programs that the configuration is tried with; without them only its files are looked for.
    pub programs: Option<Installation>,
}

/// The journal of a replacement under way, below the data directory.
pub const JOURNAL_FILE: &str = ".pgbox/journal.json";
/// The id of the repository that the last backup went to, below the data directory.
pub const REPOSITORY_FILE: &str = ".pgbox/repository";
/// Where clusters that were set aside wait to be taken into the repository.
pub const ASIDE_DIRECTORY: &str = ".pgbox/aside";

/// What vouches for the content of the files that say which transactions committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StatusWitness {
    /// Nothing was looked at yet, or they are known to be changed.
    #[default]
    None,
    /// The seal of the last stop: all of them are as they were.
    Seal,
    /// No seal, so that a backup may know more of them than WAL and rows do.
    Backups,
}

/// A look at one data directory, with the findings so far.
pub(super) struct Inspection<'a> {
    root: &'a ReadRoot,
    /// The control file: the one on the disk, or the one that must take its place.
    control: Option<ControlFile>,
    /// Whether the control file is not the one on the disk.
    is_control_rebuilt: bool,
    /// Relation maps that must take the place of those on the disk, by their directory.
    rebuilt_maps: BTreeMap<String, RelationMap>,
    /// Whether somebody uses the cluster now, so that what is read may change at once.
    is_in_use: bool,
    major: Option<MajorVersion>,
    /// The versions in the control file, where it is whole and pgbox knows neither.
    unknown_version: Option<(u32, u32)>,
    findings: Vec<Finding>,
    extent: Extent,
    /// What was written to since the seal.
    changed_files: Vec<String>,
    /// What is gone since the seal, of files that hold relations.
    lost_ranges: Vec<lost_files::LostRange>,
    /// That a cluster was served from the directory once.
    served: Option<Served>,
    /// The status files that are not as they were sealed, with what they held.
    changed_status: Vec<(String, seal::SealedContent)>,
    /// What vouches for the status files.
    status_witness: StatusWitness,
    /// What the catalogs have, as far as they could be read.
    catalog: Option<catalog::Catalog>,
    /// The locales of its databases that the server's program was asked for, and that this system has.
    locales: BTreeSet<String>,
    /// The seal, once it was asked for. A cluster of a million files has one of tens of megabytes.
    seal: OnceLock<Result<Option<Arc<Seal>>, String>>,
    /// What is known of a `pg_resetwal`.
    reset: Option<reset::Reset>,
}

impl<'a> Inspection<'a> {
    fn of(root: &'a ReadRoot) -> Self {
        Self {
            root,
            control: None,
            is_control_rebuilt: false,
            rebuilt_maps: BTreeMap::new(),
            is_in_use: false,
            major: None,
            unknown_version: None,
            findings: Vec::new(),
            extent: Extent::default(),
            changed_files: Vec::new(),
            lost_ranges: Vec::new(),
            served: served::find(root),
            changed_status: Vec::new(),
            status_witness: StatusWitness::default(),
            catalog: None,
            locales: BTreeSet::new(),
            seal: OnceLock::new(),
            reset: None,
        }
    }
}

impl Inspection<'_> {
    fn report(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: impl Into<String>,
        evidence: impl Into<String>,
    ) {
        self.report_with(Finding::new(code, severity, place, evidence));
    }

    /// Something that could not be looked at. That is no proof of damage, whatever the reason, so nothing may
    /// be replaced on account of it.
    fn report_unreadable(&mut self, place: impl Into<String>, error: &io::Error) {
        self.report_with(unreadable(place, error));
    }

    /// Whether an entry is there; what cannot be looked at is reported.
    fn facts(&mut self, place: &str) -> Looked {
        match self.root.facts(place) {
            Ok(Some(_)) => Looked::There,
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

/// The finding that something could not be looked at.
fn unreadable(place: impl Into<String>, error: &io::Error) -> Finding {
    let evidence = format!("it could not be read: {error}");
    let finding = Finding::new("unreadable", Severity::Error, place, evidence);
    finding.with_remedy(Remedy::MakeReadable)
}

/// What a look at one entry came to.
enum Looked {
    There,
    Missing,
    Unknown,
}

/// Which cluster a data directory holds: by its control file, else by what else knows it.
pub(crate) fn identified_cluster(root: &ReadRoot) -> Option<crate::pg::SystemIdentifier> {
    let control = super::control_file::read(root).ok().map(|control| control.system_identifier);
    control.or_else(|| Inspection::of(root).witnessed_identifier())
}

/// Inspects a data directory.
///
/// # Errors
/// Only where the directory itself cannot be read; whatever is wrong inside it is a finding.
pub fn inspect(data_directory: &Path, expectations: &Expectations) -> io::Result<Diagnosis> {
    let root = match ReadRoot::open(data_directory) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Diagnosis::blank(data_directory, ClusterCondition::Absent, Presence::Free));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let examples = vec!["it is a file".to_owned()];
            return Ok(Diagnosis::blank(
                data_directory,
                ClusterCondition::NotPostgres { examples },
                Presence::Free,
            ));
        }
        Err(error) => return Err(error),
    };
    // Who uses it takes a program to find out, and whose it is does not depend on that.
    let looks_at_owners = expectations.depth == Depth::Owners;
    let presence = if looks_at_owners { Presence::Free } else { presence::presence(&root)? };
    let names: Vec<String> = root.entries(".")?.into_iter().map(|entry| entry.name).collect();
    let journal = read_journal(&root)?;
    if layout::is_effectively_empty(&names) && journal.is_none() {
        let mut diagnosis = Diagnosis::blank(data_directory, ClusterCondition::Empty, presence);
        diagnosis.set_aside = set_aside(&root);
        diagnosis.served = served::find(&root);
        return Ok(diagnosis);
    }
    if !layout::looks_like_postgres(&names) && journal.is_none() {
        let is_foreign = |name: &&String| !layout::NAMES_ALLOWED_IN_EMPTY_DIRECTORY.contains(&name.as_str());
        let examples = names.iter().filter(is_foreign).take(3).cloned().collect();
        return Ok(Diagnosis::blank(data_directory, ClusterCondition::NotPostgres { examples }, presence));
    }
    let mut diagnosis = inspect_cluster(&root, &names, expectations, &presence);
    let must_be_given =
        diagnosis.findings.iter().any(|finding| matches!(finding.remedy, Remedy::SetOwner(_)));
    diagnosis.presence = if looks_at_owners && must_be_given { presence::presence(&root)? } else { presence };
    diagnosis.journal = journal;
    diagnosis.set_aside = set_aside(&root);
    Ok(diagnosis)
}

fn inspect_cluster(
    root: &ReadRoot,
    names: &[String],
    expectations: &Expectations,
    presence: &Presence,
) -> Diagnosis {
    let mut inspection = Inspection::of(root);
    inspection.is_in_use = *presence != Presence::Free;
    inspection.check_identity();
    let wal = if inspection.unknown_version.is_some() {
        wal::WalState::default()
    } else if expectations.depth == Depth::Owners {
        let tree = FileTree::read(root, inspection.control.as_ref(), Threads::One);
        inspection.check_files(&tree, expectations);
        wal::WalState::default()
    } else {
        inspection.check_all(expectations)
    };
    let identity = inspection.identity();
    let standby = inspection.standby_sign();
    let slots = inspection.slots();
    let wal_reset = inspection.traces_to_note();
    let condition = inspection.condition(names, expectations, &wal.segments);
    let extent = inspection.extent;
    let is_status_open = inspection.status_witness == StatusWitness::Backups;
    let mut findings = inspection.findings;
    findings.sort_by_key(|finding| finding.severity);
    Diagnosis {
        identity,
        findings,
        wal_directory: root.read_link("pg_wal").ok(),
        wal_segments: wal.segments,
        wal_end: wal.end,
        backed_up_to: backed_up_to(root),
        lineage: lineage::read(root),
        served: inspection.served,
        slots,
        wal_reset,
        standby,
        extent,
        is_status_open,
        locales: inspection.locales,
        ..Diagnosis::blank(root.path(), condition, Presence::Free)
    }
}

impl Inspection<'_> {
    fn check_all(&mut self, expectations: &Expectations) -> wal::WalState {
        // It takes longer than all the rest, so it runs beside it.
        let trial = self.begin_configuration_trial(expectations);
        let tree = FileTree::read(self.root, self.control.as_ref(), Threads::All);
        self.check_reset();
        self.check_structure();
        self.check_backup_label();
        self.check_signals();
        self.check_startup_files();
        // The pid of a server in another container means nothing here; that it holds the lock does.
        if !self.is_in_use {
            self.check_pid_file();
            self.check_disk();
        }
        self.check_file_system();
        self.check_maps();
        self.check_catalog(&tree);
        self.check_collations(expectations);
        self.check_locales(expectations);
        self.check_files(&tree, expectations);
        let wal = self.check_wal();
        self.check_seal(&tree);
        self.check_status_content(&tree);
        self.check_data(tree, wal.end, expectations.depth);
        self.consult_wal_of_lost();
        self.check_configuration(trial, expectations);
        self.check_elsewhere(expectations);
        wal
    }

    fn identity(&self) -> ClusterIdentity {
        let control = self.control.as_ref();
        let told = control.map(|control| control.system_identifier);
        ClusterIdentity {
            major_version: self.major,
            // What else knows it tells which cluster was here where its own control file does not say so any more.
            system_identifier: told.or_else(|| self.witnessed_identifier()),
            // What is not on the disk yet cannot be found unchanged there.
            control_crc: control.filter(|_| !self.is_control_rebuilt).map(|control| control.crc),
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
        if let Some((control, catalog)) = self.unknown_version {
            return ClusterCondition::UnknownVersion { major: self.major, control, catalog };
        }
        let has_errors = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        let lacks_content =
            self.findings.iter().any(|finding| matches!(finding.remedy, Remedy::WriteFile(_)));
        if (has_errors || lacks_content || self.lacks_last_database())
            && self.is_interrupted_initdb(names)
            && !is_wal_of_a_server(wal_segments)
        {
            return ClusterCondition::InterruptedInitdb;
        }
        ClusterCondition::of_findings(&self.findings)
    }

    /// Whether initdb ended before its last step, which makes the database `postgres` (initdb.c, `make_postgres()`). A
    /// person may have dropped that; then a server ran.
    fn lacks_last_database(&self) -> bool {
        let Some(catalog) = self.catalog.as_ref().filter(|_| self.control.is_some()) else { return false };
        catalog.databases.iter().all(|database| ["template0", "template1"].contains(&database.name.as_str()))
    }

    /// Whether an initdb was cut short here, so that making the cluster anew loses nothing.
    ///
    /// A missing relation map alone proves nothing; all of these together do: the server never ran (no
    /// `postmaster.opts`), it is no base backup, its WAL goes no further, and nothing a user made is there, nor named in
    /// `pg_database` (`facts/corruption.md` §4). An interrupted `rm` can leave as little, so that the notes of a cluster
    /// that served count for more than all of that.
    fn is_interrupted_initdb(&self, names: &[String]) -> bool {
        const MADE_LATER: [&str; 6] = [
            "postmaster.opts",
            "backup_label",
            "backup_label.old",
            "backup_manifest",
            "recovery.signal",
            "standby.signal",
        ];
        let never_ran = !names.iter().any(|name| MADE_LATER.contains(&name.as_str()));
        let is_initial = |database: &catalog::CatalogDatabase| database.oid.0 < maps::FIRST_NORMAL_OID;
        let has_users_database =
            self.catalog.as_ref().is_some_and(|catalog| !catalog.databases.iter().all(is_initial));
        if self.served.is_some() || has_users_database {
            return false;
        }
        let next_oid_is_initial = self.control.as_ref().is_none_or(|control| {
            // A checkpoint of a running server counts those that it has set aside for itself (xlog.c,
            // `CreateCheckPoint()`; varsup.c, `VAR_OID_PREFETCH`), and CREATE DATABASE makes one.
            let set_aside = if control.state == ClusterState::ShutDown { 0 } else { 8192 };
            control.next_oid.0 <= maps::FIRST_NORMAL_OID + set_aside
        });
        never_ran && next_oid_is_initial && !self.has_user_made_files()
    }
}

/// Whether WAL was written that no initdb writes: on a later timeline, or further on than it ever gets. It is told
/// even where an interrupted `rm` has left little else.
fn is_wal_of_a_server(segments: &[WalFileName]) -> bool {
    // initdb begins with the second segment, and writes 8 MiB at the most (13 to 19).
    const MOST_OF_INITDB_BYTES: u64 = 16 << 20;
    let is_later = |segment: &WalFileName| {
        let first = u64::from(segment.segment_size_bytes());
        segment.timeline != TimelineId(1) || segment.start_lsn().0 >= first + MOST_OF_INITDB_BYTES
    };
    segments.iter().any(is_later)
}

/// The operation that was cut short in a data directory, if one was.
pub(crate) fn read_journal(root: &ReadRoot) -> io::Result<Option<Journal>> {
    let Some(text) = root.read_text(JOURNAL_FILE, 64 * 1024)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{JOURNAL_FILE} cannot be understood: {error}"))
    })
}

/// The repository that the last backup of a cluster went to.
pub fn backed_up_to(root: &ReadRoot) -> Option<String> {
    let text = root.read_text(REPOSITORY_FILE, 256).ok()??;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

fn set_aside(root: &ReadRoot) -> Vec<crate::plan::BackupName> {
    let entries = root.entries(ASIDE_DIRECTORY).unwrap_or_default();
    entries
        .iter()
        .filter(|entry| entry.facts.kind == EntryKind::Directory)
        .filter_map(|entry| entry.name.parse().ok())
        .collect()
}
