//! What an inspection found, as plain data: the one input of every decision about a cluster.

use super::backups::BackupName;
use crate::pg::control_file::ClusterState;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, MajorVersion, SystemIdentifier, TimelineId};
use serde::{Deserialize, Serialize};
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
    /// Whole segments in `pg_wal` that belong to this cluster, in order.
    pub wal_segments: Vec<WalFileName>,
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
    /// It holds something that is not PostgreSQL's.
    NotPostgres {
        /// Some of the names in it.
        examples: Vec<String>,
    },
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
}

/// What would put a finding right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Make the directory anew, empty; PostgreSQL keeps nothing in it across a clean stop.
    RecreateDirectory,
    /// Move the file out of the way.
    SetAsideFile,
    /// Set these permission bits.
    SetMode(u32),
    /// Give the entries to this user; only root can.
    SetOwner(u32),
    /// Let the server's user read it: what cannot be looked at is not known to be damaged.
    MakeReadable,
    /// Link the tablespace to its directory again, which only a person knows.
    LinkTablespace,
    /// Nothing in place: the cluster must come from a backup, or be made anew.
    Replace,
    /// Nothing needs to be done.
    Nothing,
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
    /// What was expected and what is there.
    pub evidence: String,
    /// What would put it right.
    pub remedy: Remedy,
}

impl Diagnosis {
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
}
