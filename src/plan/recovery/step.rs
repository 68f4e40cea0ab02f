//! What a plan is made of. Plain data.

use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};
use crate::plan::backups::BackupName;
use crate::plan::delta::Difference;
use crate::plan::diagnosis::{ClusterIdentity, Diagnosis, FileContent, Journal, RelationName};
use crate::plan::recovery_target::RecoveryTarget;
use serde::Serialize;

/// What is to be done to a data directory, and what was believed when that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What it is for, in a few words: `start`, `restore data_20261120_114010`.
    pub purpose: String,
    /// What must still be true when it is carried out.
    pub belief: Belief,
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// Why no better rung of recovery will do, the best first.
    pub passed_over: Vec<PassedOver>,
    /// What a person should know about the outcome.
    pub remarks: Vec<String>,
}

impl Plan {
    /// Whether nothing is changed before the server is started.
    pub fn only_starts(&self) -> bool {
        self.steps.iter().all(|step| step.action == Action::Start)
    }

    /// The same plan, with what it means for a `pg_wal` on a disk of its own.
    ///
    /// A new cluster is built whole in staging and moved up by renames, and until it has served, the former must be able to
    /// come back with its own WAL, which is in the directory that the link leads to. So the new one cannot have its WAL there.
    #[must_use]
    pub(in crate::plan) fn telling_of_wal(mut self, diagnosis: &Diagnosis) -> Self {
        let replaces =
            |step: &Step| matches!(&step.action, Action::Replace(replacement) if replacement.aside.is_some());
        if let Some(directory) = &diagnosis.wal_directory
            && self.steps.iter().any(replaces)
        {
            let shown = directory.display();
            self.remarks.push(format!(
                "pg_wal is inside the data directory from now on, and no longer a link to '{shown}': the former \
                 cluster's WAL stays there for as long as that cluster can come back. To have it there again, stop the \
                 server once the former cluster is stored as a backup, empty '{shown}', move the files of pg_wal there, \
                 and link it"
            ));
        }
        self
    }
}

/// A rung of recovery that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// What it would have been.
    pub rung: &'static str,
    /// Why it is not taken.
    pub reason: String,
}

/// What a plan believes of the cluster; checked again before the first step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Belief {
    /// Which cluster it is.
    pub system_identifier: Option<SystemIdentifier>,
    /// The control file's checksum.
    pub control_crc: Option<u32>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// What it does to what is there.
    pub effect: Effect,
}

/// What a step does to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Something is added; nothing changes.
    Adds,
    /// An attribute is changed; no content is.
    Adjusts,
    /// Something is moved out of the way and kept.
    SetsAside,
    /// Something is put right in place; what it was before is kept.
    Repairs,
    /// Something is read.
    Reads,
    /// The whole cluster is replaced, and kept.
    Replaces,
    /// A server is stopped.
    Stops,
    /// A server is started.
    Starts,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Finish a replacement that was cut short.
    FinishReplacement(Journal),
    /// Give all entries to this user.
    SetOwner {
        /// The user.
        uid: u32,
    },
    /// Set the permission bits of an entry; `.` is the data directory.
    SetMode {
        /// The entry.
        place: String,
        /// The bits.
        mode: u32,
    },
    /// Make a directory.
    RecreateDirectory {
        /// The directory.
        place: String,
    },
    /// Move a file to `.pgbox/aside`.
    SetAsideFile {
        /// The file.
        place: String,
    },
    /// Move a file of `pg_wal` to `.pgbox/aside`, and take it from the archive.
    TakeFromArchive {
        /// The file.
        place: String,
    },
    /// Put this content in the place of a file.
    WriteFile {
        /// The file.
        place: String,
        /// What it must hold.
        content: FileContent,
    },
    /// Put a sound configuration file in the place of a missing or broken one.
    RestoreConfiguration {
        /// The file.
        place: String,
    },
    /// Put a relation's files of a backup in the place of the present ones: nothing was written to it since.
    HealFromBackup {
        /// The backup.
        backup: BackupName,
        /// One of the relation's files.
        place: String,
    },
    /// Begin a new WAL after the last checkpoint.
    ResetWal,
    /// Build indexes anew from their tables, with a server that nobody can connect to.
    Reindex {
        /// The database to work in.
        database: String,
        /// The indexes.
        indexes: Vec<RelationName>,
    },
    /// Make template0 anew from template1, with a server that nobody can connect to.
    RecreateTemplate0,
    /// Let the server replay the WAL, with nobody connected to it, and stop it again.
    RecoverFirst,
    /// Make the next start end on a timeline of its own.
    BranchOff,
    /// Inspect again: every repair is to be seen to hold.
    LookAgain,
    /// Stop the server that runs.
    Stop {
        /// Its process id.
        pid: i32,
    },
    /// Put another cluster in place of this one.
    Replace(Replacement),
    /// Store this cluster, then change its files into those of a backup.
    ReplaceInPlace(InPlace),
    /// Start the server and verify that it serves.
    Start,
}

/// A cluster to put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// Where it comes from: the first source that can be read whole and serves.
    pub sources: Vec<Source>,
    /// The name under which the present one is kept; `None` when there is none.
    pub aside: Option<BackupName>,
    /// Whether only a backup with all the WAL since may take its place: what is lost otherwise is for a person to decide.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_all_wal: bool,
    /// How the present one did not start: one in its place that fails in the same way says that the data are not the
    /// cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_with: Option<FormerFailure>,
}

/// How a cluster did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormerFailure {
    /// What the server said.
    pub words: String,
    /// The file of the data that it named, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// A backup to change the present files into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InPlace {
    /// The backup.
    pub backup: BackupName,
    /// The name under which the present cluster is stored before the first file changes.
    pub aside: BackupName,
    /// What differs, by the estimate that the choice was made on.
    pub difference: Difference,
}

/// Where a cluster comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A backup, and then WAL that survived in the present `pg_wal`.
    Backup {
        /// The backup.
        name: BackupName,
        /// The segments to replay after it.
        replay: Replay,
    },
    /// A copy of the present cluster that replays its own WAL from an older checkpoint, which brings back every
    /// page that the WAL has whole.
    Replayed {
        /// Where the checkpoint's record is.
        checkpoint: Lsn,
    },
    /// A copy of the present cluster that took a timeline of its own.
    Branched,
    /// Whatever reads of the present cluster, loaded into a new one.
    Salvage,
    /// A new, empty cluster.
    Fresh,
}

/// The WAL that can be replayed after a backup: what survives in `pg_wal`, and what was archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// The segments, without a gap, from the backup on.
    pub segments: Vec<WalFileName>,
    /// The timeline on which they end, where it is another than the backup's.
    pub timeline: Option<TimelineId>,
    /// Whether they are all that is known of. Whether recovery gets to their end is seen when it does.
    pub reaches_the_end: bool,
    /// Where a person wants recovery to end; `None`: with the last segment that can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<RecoveryTarget>,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What stands in the way.
    pub reason: String,
    /// What a person can do.
    pub hint: String,
    /// Whether it is because somebody uses it now.
    pub is_busy: bool,
}

impl Belief {
    /// What to believe of a cluster from now on.
    ///
    /// Where the control file on the disk was not believed, its identifier cannot be compared either: that of the
    /// diagnosis was read from the WAL, and says which backups fit.
    pub fn of(identity: &ClusterIdentity) -> Self {
        let system_identifier = identity.control_crc.and(identity.system_identifier);
        Self { system_identifier, control_crc: identity.control_crc }
    }
}
