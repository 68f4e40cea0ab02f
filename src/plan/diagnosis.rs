//! What an inspection found, as plain data: the one input of every decision about a cluster.

use super::ancestry::Lineage;
use super::backups::BackupName;
use super::slots::Slot;
use super::wal_reset::WalReset;
use crate::pg::control_file::ClusterState;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{BlockNumber, Lsn, MajorVersion, SystemIdentifier, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Everything that is known about a data directory without a server's help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Where it is.
    pub data_directory: PathBuf,
    /// The verdict over all findings.
    pub condition: ClusterCondition,
    /// Who uses it now.
    pub presence: Presence,
    /// Which cluster it is.
    pub identity: ClusterIdentity,
    /// All that was found, worst first.
    pub findings: Vec<Finding>,
    /// An operation that was cut short and must be finished before anything else.
    pub journal: Option<Journal>,
    /// What was set aside earlier and is not in the repository yet.
    pub set_aside: Vec<BackupName>,
    /// Where `pg_wal` leads to, where it is a link to a disk of its own.
    pub wal_directory: Option<PathBuf>,
    /// Whole segments in `pg_wal` that belong to this cluster, in order.
    pub wal_segments: Vec<WalFileName>,
    /// Where the last valid WAL record ends, up to which recovery would replay; `None` if that is not known.
    pub wal_end: Option<Lsn>,
    /// The repository that the last backup of the cluster went to, by its id.
    pub backed_up_to: Option<String>,
    /// The backups that are of the cluster's past, as the directory itself remembers them.
    pub lineage: Lineage,
    /// That a cluster was served from it once, by the notes that this leaves.
    pub served: Option<Served>,
    /// Its replication slots, as far as they can be read.
    pub slots: Vec<Slot>,
    /// The traces of a `pg_resetwal` that nobody noted yet.
    pub wal_reset: Option<WalReset>,
    /// What shows that it is the cluster of a standby; `None` where nothing does.
    pub standby: Option<&'static str>,
    /// How much was looked at.
    pub extent: Extent,
    /// Whether no seal proved the status of transactions, so that a backup of the cluster's past is to be asked.
    #[serde(skip)]
    pub is_status_open: bool,
    /// The locales of its databases that this system was found to have.
    #[serde(skip)]
    pub locales: BTreeSet<String>,
}

/// That a cluster was served from a data directory once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Served {
    /// The file that shows it, below the data directory.
    pub note: String,
    /// Which cluster that was, where the file says so.
    pub system_identifier: Option<SystemIdentifier>,
}

/// How much an inspection looked at, so that "nothing found" can be told from "hardly looked".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Databases of `pg_database`.
    pub databases: usize,
    /// Relations that must have files.
    pub relations: usize,
    /// Data pages whose header and checksum were verified.
    pub pages: u64,
    /// Index entries that were followed to their row.
    pub index_entries: u64,
}

/// The state of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterCondition {
    /// There is no such directory.
    Absent,
    /// Nothing is in it, or only what does not count (`lost+found`, `.gitkeep`, pgbox's own).
    Empty,
    /// An initdb that never finished; no row was ever in it.
    InterruptedInitdb,
    /// Nothing is wrong with it.
    Sound,
    /// What is wrong can be put right in place without loss.
    Repairable,
    /// Something is wrong that can't be put right in place.
    Damaged,
    /// It belongs to a major version that was not asked for, or is not installed.
    OtherMajorVersion {
        /// The version that made it.
        found: MajorVersion,
        /// The version that was asked for; `None` when none was, but `found` is not installed.
        wanted: Option<MajorVersion>,
    },
    /// It is of a version of PostgreSQL that this pgbox does not know, so that nothing can be said about it.
    UnknownVersion {
        /// The version by `PG_VERSION`, where that could be read.
        major: Option<MajorVersion>,
        /// The version of the control file's layout.
        control: u32,
        /// The version of the system catalogs.
        catalog: u32,
    },
    /// It holds something that is not PostgreSQL's.
    NotPostgres {
        /// Some of the names in it.
        examples: Vec<String>,
    },
}

impl ClusterCondition {
    /// The verdict over what was found in a cluster.
    pub fn of_findings(findings: &[Finding]) -> Self {
        let cannot_be_repaired = |finding: &Finding| {
            let needs_more = finding.remedy.is_beyond_repair()
                || finding.remedy.needs_a_person()
                || matches!(finding.remedy, Remedy::FetchBackupWal(_));
            finding.severity == Severity::Error && needs_more
        };
        if findings.iter().any(cannot_be_repaired) {
            return Self::Damaged;
        }
        if findings.iter().any(Finding::asks_for_repair) { Self::Repairable } else { Self::Sound }
    }
}

/// Who uses the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Nobody.
    Free,
    /// A server that can be seen from here.
    Running {
        /// The postmaster's process id.
        pid: i32,
    },
    /// Its lock is held, and no server is to be seen: another container, or a command at work.
    Locked {
        /// Who, as written by the holder.
        holder: Option<String>,
    },
    /// A server that pgbox did not start uses it, or may use it, and cannot be seen: in another container, or another
    /// PID namespace.
    Elsewhere {
        /// Which, and what shows it.
        server: String,
    },
}

impl Presence {
    /// Who uses the directory without being a server that can be seen from here.
    pub fn hidden_user(&self) -> Option<&str> {
        match self {
            Self::Free | Self::Running { .. } => None,
            Self::Locked { holder } => Some(holder.as_deref().unwrap_or("another process")),
            Self::Elsewhere { server } => Some(server),
        }
    }
}

/// Which cluster this is, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// From `PG_VERSION`, else from the control file.
    pub major_version: Option<MajorVersion>,
    /// From the control file.
    pub system_identifier: Option<SystemIdentifier>,
    /// Checksum of the control file, to notice that it changed since.
    pub control_crc: Option<u32>,
    /// State in the control file.
    pub state: Option<ClusterState>,
    /// Timeline of the last checkpoint.
    pub timeline: Option<TimelineId>,
    /// Where the last checkpoint's replay begins.
    pub redo: Option<Lsn>,
    /// The timelines before this one, oldest first, each with the point at which it was left.
    pub ancestors: Vec<Ancestor>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The cluster can't be served from as it is.
    Error,
    /// Unexpected; the cluster can be served from, perhaps after a repair that loses nothing.
    Warning,
    /// Worth knowing, and no reason to do anything.
    Notice,
}

/// A relation, as people and SQL name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationName {
    /// Its database; for a shared catalog any that can be connected to, by convention `template1`.
    pub database: String,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// The exact content that a file must have, worked out by an inspection that proved it.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    /// What it is, for people: `rebuilt from the checkpoint at 0/1528F98`.
    pub description: String,
    /// The content: small, a few pages at the most.
    pub bytes: Vec<u8>,
}

/// What would put a finding right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Make the directory anew, empty; PostgreSQL keeps nothing in it across a clean stop.
    RecreateDirectory,
    /// Move the file out of the way.
    SetAsideFile,
    /// Put this content in the place of the file, which is set aside.
    WriteFile(FileContent),
    /// Take the configuration file from the last backup that has it, else write a fresh one; keep the broken one.
    RestoreConfiguration,
    /// Start the server without it: a line of the configuration that it refuses. The file stays as it is.
    LeaveOut,
    /// Take the file from the WAL archive, or go on without it where that has none; the damaged one is set aside.
    TakeFromArchive,
    /// Take the WAL that a base backup needs from the archive, from this segment on. What that does not have only a person
    /// has, in these words.
    FetchBackupWal(String),
    /// Build the index anew from its table.
    Reindex(RelationName),
    /// Replay the WAL from the checkpoint record at this LSN, older than the last one, on a copy of the cluster.
    ReplayFrom(Lsn),
    /// Begin a new WAL: nothing is left to replay, and only the WAL is gone.
    ResetWal,
    /// Make the pristine template database anew from the other: nobody can have kept anything in it.
    RecreateTemplate0,
    /// Set these permission bits.
    SetMode(u32),
    /// Give the entries to this user; only root can.
    SetOwner(u32),
    /// Let the server's user read it: what cannot be looked at is not known to be damaged.
    MakeReadable,
    /// Link the tablespace to its directory again, which only a person knows.
    LinkTablespace,
    /// Mount what `pg_wal` leads to, or link it again, which only a person can.
    LinkWal,
    /// Make room on the disk, which only a person can.
    FreeSpace,
    /// What only a person can do or decide, in these words.
    SeeToIt(String),
    /// A restore of a backup that has all the WAL since, so that nothing else is lost by it. Without one it is for a
    /// person, in these words: what else is lost, and how to go on.
    RestoreOrSeeToIt(String),
    /// Nothing in place: the cluster must come from a backup, be salvaged, or be made anew.
    Replace,
    /// Nothing needs to be done.
    Nothing,
}

impl Remedy {
    /// Whether only a person can carry it out.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::MakeReadable | Self::LinkTablespace | Self::LinkWal | Self::FreeSpace | Self::SeeToIt(_)
        )
    }

    /// Whether nothing in place helps.
    pub fn is_beyond_repair(&self) -> bool {
        matches!(self, Self::Replace | Self::RestoreOrSeeToIt(_))
    }

    /// Whether it is right only if the finding is not one that replay puts right by itself.
    pub fn rests_on_finality(&self) -> bool {
        matches!(
            self,
            Self::Reindex(_)
                | Self::ResetWal
                | Self::RecreateTemplate0
                | Self::ReplayFrom(_)
                | Self::Replace
                | Self::RestoreOrSeeToIt(_)
        )
    }
}

/// One thing that an inspection found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for this sort of finding, such as `relation-file-missing`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The file or directory, below the data directory.
    pub place: String,
    /// The relation that the file belongs to, where that is known.
    pub relation: Option<RelationName>,
    /// The blocks that are bad, counted over the whole relation; none where it is not about blocks.
    pub blocks: Vec<BlockNumber>,
    /// The LSN since which no WAL record touches the relation, the WAL from there to its end being whole: a copy of
    /// its files of then is what they must be now.
    pub untouched_since: Option<Lsn>,
    /// What was expected and what is there.
    pub evidence: String,
    /// What would put it right.
    pub remedy: Remedy,
}

impl Finding {
    /// A finding about a file, for which an error needs a replacement of the cluster and all else nothing.
    pub fn new(
        code: &'static str,
        severity: Severity,
        place: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Self {
        let remedy = if severity == Severity::Error { Remedy::Replace } else { Remedy::Nothing };
        let (place, evidence) = (place.into(), evidence.into());
        Self {
            code,
            severity,
            place,
            relation: None,
            blocks: Vec::new(),
            untouched_since: None,
            evidence,
            remedy,
        }
    }

    /// The same finding with another remedy.
    #[must_use]
    pub fn with_remedy(self, remedy: Remedy) -> Self {
        Self { remedy, ..self }
    }

    /// The same finding about a relation that is known.
    #[must_use]
    pub fn of_relation(self, relation: Option<RelationName>) -> Self {
        Self { relation, ..self }
    }

    /// The same finding about these blocks.
    #[must_use]
    pub fn at_blocks(self, blocks: Vec<BlockNumber>) -> Self {
        Self { blocks, ..self }
    }

    /// Whether something is to be done about it before the server starts.
    pub fn asks_for_repair(&self) -> bool {
        match self.severity {
            _ if self.remedy == Remedy::LeaveOut => false,
            Severity::Error => self.remedy != Remedy::Nothing,
            Severity::Warning => self.remedy != Remedy::Nothing && !self.remedy.rests_on_finality(),
            Severity::Notice => false,
        }
    }

    /// Whether it is about a file that says which transactions committed, or which of them changed a row.
    pub fn is_about_transaction_status(&self) -> bool {
        ["pg_xact/", "pg_multixact/", "pg_twophase/"]
            .iter()
            .any(|directory| self.place.starts_with(directory))
    }

    /// Whether the status of transactions is there, and another than the server wrote: whatever is read by it, rows that
    /// were committed are missing, and rows that were deleted are back.
    pub fn is_wrong_status(&self) -> bool {
        const CODES: [&str; 3] = ["seal-content-changed", "transaction-status-wrong", "multixact-wrong"];
        CODES.contains(&self.code) && self.is_about_transaction_status()
    }

    /// The finding in one line.
    pub fn summary(&self) -> String {
        match &self.relation {
            Some(relation) => format!("{} of {relation} ({}): {}", self.place, self.code, self.evidence),
            None => format!("{} ({}): {}", self.place, self.code, self.evidence),
        }
    }
}

impl Diagnosis {
    /// A diagnosis with nothing found yet, of a directory of which nothing but its condition is known.
    pub fn blank(
        data_directory: impl Into<PathBuf>,
        condition: ClusterCondition,
        presence: Presence,
    ) -> Self {
        Self {
            data_directory: data_directory.into(),
            condition,
            presence,
            identity: ClusterIdentity::default(),
            findings: Vec::new(),
            journal: None,
            set_aside: Vec::new(),
            wal_directory: None,
            wal_segments: Vec::new(),
            wal_end: None,
            backed_up_to: None,
            lineage: Lineage::default(),
            served: None,
            slots: Vec::new(),
            wal_reset: None,
            standby: None,
            extent: Extent::default(),
            is_status_open: false,
            locales: BTreeSet::new(),
        }
    }

    /// Whether any finding stands in the way of serving.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// The record of a replacement under way, so that whoever comes next can finish it.
///
/// It is written before the first entry of the data directory moves and removed after the last check. While
/// the new cluster is being built in staging there is none: nothing has been touched, and staging is simply
/// discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// What is being done, for people: `restore data_20261120_114010`.
    pub operation: String,
    /// Where the present entries go, below `.pgbox/aside`; `None` when there were none.
    pub aside: Option<BackupName>,
    /// How far it got.
    pub phase: Phase,
    /// What was wrong with the former cluster, for the history.
    #[serde(default)]
    pub findings: Vec<String>,
    /// What will have been done once it is over, for the history: whoever finishes it was not there.
    #[serde(default)]
    pub done: Vec<String>,
    /// The backup that the new cluster comes from.
    #[serde(default)]
    pub restored_from: Option<BackupName>,
    /// A hash of the control file that was in place when the phase began. With another one in place, another server
    /// ran since, where the phase itself has put none there.
    #[serde(default)]
    pub control: Option<String>,
    /// The name under which the new cluster is kept that did not serve, where clients may have written to it.
    #[serde(default)]
    pub kept: Option<BackupName>,
}

/// The phases of a replacement, each of which can be entered again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Entries of the old cluster are moving to `.pgbox/aside/NAME`. Whatever is still in place is old.
    SettingAside,
    /// Entries of the new cluster are moving up from `.pgbox/new`. Whatever is in place is new.
    MovingUp,
    /// The new cluster is in place and has not been seen to serve yet.
    Proving,
    /// It did not serve: its entries are moving to `.pgbox/failed`. Whatever is still in place is new.
    TakingDown,
    /// The old cluster's entries are moving back. Whatever is in place is old.
    PuttingBack,
    /// The files in place are being changed into those of `restored_from`; the repository has the old cluster whole,
    /// as `aside`. There is no control file meanwhile.
    Rewriting,
    /// They are those of `restored_from`, and have not been seen to serve yet. The control file comes last.
    ProvingRewritten,
    /// They are being changed back into those of `aside`. There is no control file meanwhile.
    RewritingBack,
    /// They are those of `aside` again. The control file comes next, and then the journal goes.
    RewrittenBack,
}
