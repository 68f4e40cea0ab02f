//! From a diagnosis to what is to be done, so that a server can start.
//!
//! Pure. The first rung that suffices is taken: start as it is; put right in place what can be without loss;
//! replace the cluster by the newest good backup with the WAL that survives; make a new one. Whatever is
//! replaced is set aside whole first. What is not PostgreSQL's, or of another version, or in use, is refused.
//!
//! An empty cluster never takes the place of one that has a backup, even if no backup can be used. The refused
//! alternative, to begin anew whenever nothing else worked, would hide the rows behind a server that looks well,
//! for a reason that may pass: a disk that is not mounted, a port that is taken.

use super::backups::{BackupKind, BackupName, BackupSummary};
use super::diagnosis::{
    ClusterCondition, ClusterIdentity, Diagnosis, Finding, Journal, Presence, Remedy, Severity,
};
use super::policy::RecoveryPolicy;
use super::selection::{free_name, newest_first, source_of, unreadable};
use crate::pg::wal::WalFileName;
use crate::pg::{SystemIdentifier, TimelineId};
use chrono::{DateTime, Utc};
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
    /// What a person should know about the outcome.
    pub remarks: Vec<String>,
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
    /// Stop the server that runs.
    Stop {
        /// Its process id.
        pid: i32,
    },
    /// Put another cluster in place of this one.
    Replace(Replacement),
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
    /// A new, empty cluster.
    Fresh,
}

/// The surviving WAL that can be replayed after a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// The segments, without a gap, from the backup on.
    pub segments: Vec<WalFileName>,
    /// The timeline on which they end, where it is another than the backup's.
    pub timeline: Option<TimelineId>,
    /// Whether they reach to the very end, so that no committed row is lost.
    pub reaches_the_end: bool,
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

/// Everything the decision rests on besides the diagnosis.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// The backups there are.
    pub backups: &'a [BackupSummary],
    /// What is allowed.
    pub policy: RecoveryPolicy,
    /// The time, for names.
    pub now: DateTime<Utc>,
}

/// Decides what to do so that a server can start on the diagnosed directory.
///
/// A sound cluster gives a plan whose only step is to start it.
///
/// # Errors
/// A [`Refusal`] where nothing may be done; the directory stays as it is.
pub fn recovery(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<Plan, Refusal> {
    refuse_what_is_not_ours(diagnosis)?;
    if let Some(journal) = &diagnosis.journal {
        return Ok(finish_replacement(diagnosis, journal));
    }
    if let Some(step) = ownership_step(diagnosis) {
        allow(circumstances.policy, &[RecoveryPolicy::Auto, RecoveryPolicy::Repair], diagnosis)?;
        return Ok(plan("give the cluster to the server's user, then look again", diagnosis, vec![step]));
    }
    refuse_what_needs_a_person(diagnosis)?;
    match &diagnosis.condition {
        ClusterCondition::Absent | ClusterCondition::Empty => Ok(begin_first(diagnosis, circumstances)),
        ClusterCondition::InterruptedInitdb => {
            allow(circumstances.policy, &[RecoveryPolicy::Auto, RecoveryPolicy::Repair], diagnosis)?;
            Ok(begin_again(diagnosis, circumstances))
        }
        ClusterCondition::Repairable => {
            allow(circumstances.policy, &[RecoveryPolicy::Auto, RecoveryPolicy::Repair], diagnosis)?;
            Ok(repair(diagnosis))
        }
        ClusterCondition::Damaged => {
            allow(circumstances.policy, &[RecoveryPolicy::Auto], diagnosis)?;
            replace(diagnosis, circumstances)
        }
        // The others were refused above.
        _ => Ok(plan("start", diagnosis, vec![start_step("the cluster is sound")])),
    }
}

fn refuse_what_is_not_ours(diagnosis: &Diagnosis) -> Result<(), Refusal> {
    let path = diagnosis.data_directory.display();
    if let Presence::Locked { holder } = &diagnosis.presence {
        let holder = holder.as_deref().unwrap_or("another process");
        return Err(Refusal {
            reason: format!("'{path}' is in use by {holder}"),
            hint: "stop it first, or give this one a data directory of its own. Nothing was changed.".into(),
            is_busy: true,
        });
    }
    let (reason, hint) = match &diagnosis.condition {
        ClusterCondition::OtherMajorVersion { found, wanted: Some(wanted) } => (
            format!("'{path}' was made by PostgreSQL {found}, and version {wanted} was asked for"),
            format!(
                "set POSTGRES_VERSION={found}, or move the data with pg_upgrade or a dump. Nothing was changed."
            ),
        ),
        ClusterCondition::OtherMajorVersion { found, wanted: None } => (
            format!("'{path}' was made by PostgreSQL {found}, which is not installed"),
            format!(
                "install postgresql-{found}, or move the data with pg_upgrade or a dump. Nothing was changed."
            ),
        ),
        ClusterCondition::NotPostgres { examples } => (
            format!("'{path}' is not a data directory of PostgreSQL: it holds {}", examples.join(", ")),
            "set PGDATA to an empty directory, or to the cluster. Nothing was changed.".into(),
        ),
        _ => return Ok(()),
    };
    Err(Refusal { reason, hint, is_busy: false })
}

/// What cannot be read is not known to be damaged, and what is elsewhere is not lost: neither must ever lead to a
/// replacement, nor to a start that hides it.
fn refuse_what_needs_a_person(diagnosis: &Diagnosis) -> Result<(), Refusal> {
    let needs_a_person =
        |finding: &&Finding| matches!(finding.remedy, Remedy::MakeReadable | Remedy::LinkTablespace);
    let Some(finding) = diagnosis.findings.iter().find(needs_a_person) else { return Ok(()) };
    let path = diagnosis.data_directory.display();
    let (what, hint) = match finding.remedy {
        Remedy::LinkTablespace => (
            "is not whole",
            format!("link it again: `ln -s DIRECTORY '{path}/{}'`. Nothing was changed.", finding.place),
        ),
        _ => (
            "could not be inspected whole",
            "see to it that the server's user can read it, and that the disk is sound. Nothing was changed."
                .into(),
        ),
    };
    Err(Refusal { reason: format!("'{path}' {what}: {}", finding.summary()), hint, is_busy: false })
}

fn allow(policy: RecoveryPolicy, allowed: &[RecoveryPolicy], diagnosis: &Diagnosis) -> Result<(), Refusal> {
    if allowed.contains(&policy) {
        return Ok(());
    }
    let found: Vec<String> = diagnosis.findings.iter().take(3).map(Finding::summary).collect();
    let enough: Vec<String> = allowed.iter().rev().map(|policy| format!("RECOVERY={policy}")).collect();
    Err(Refusal {
        reason: format!("'{}' is not sound: {}", diagnosis.data_directory.display(), found.join("; ")),
        hint: format!("allow more with {}. Nothing was changed.", enough.join(" or ")),
        is_busy: false,
    })
}

fn plan(purpose: impl Into<String>, diagnosis: &Diagnosis, steps: Vec<Step>) -> Plan {
    Plan { purpose: purpose.into(), belief: Belief::of(&diagnosis.identity), steps, remarks: Vec::new() }
}

impl Belief {
    /// What to believe of a cluster from now on.
    pub fn of(identity: &ClusterIdentity) -> Self {
        Self { system_identifier: identity.system_identifier, control_crc: identity.control_crc }
    }
}

fn start_step(reason: &str) -> Step {
    Step { action: Action::Start, reason: reason.into(), effect: Effect::Starts }
}

fn finish_replacement(diagnosis: &Diagnosis, journal: &Journal) -> Plan {
    let reason = format!("'{}' was cut short", journal.operation);
    let action = Action::FinishReplacement(journal.clone());
    let steps = vec![
        Step { action, reason, effect: Effect::Replaces },
        start_step("the new cluster has to be seen to serve"),
    ];
    Plan { belief: Belief::default(), ..plan(format!("finish {}", journal.operation), diagnosis, steps) }
}

fn begin_first(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Plan {
    let replacement = Replacement { sources: vec![Source::Fresh], aside: None };
    let step = Step {
        action: Action::Replace(replacement),
        reason: "there is no cluster yet".into(),
        effect: Effect::Adds,
    };
    let mut plan = plan("make a new cluster", diagnosis, vec![step, start_step("the cluster is sound then")]);
    if let Some(newest) = newest_first(circumstances.backups, None).first() {
        plan.remarks.push(format!(
            "the backups of an earlier cluster are still there; `backup-postgresql restore {}` brings its rows back",
            newest.name
        ));
    }
    plan
}

fn begin_again(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Plan {
    let aside = free_name(BackupKind::Damaged, diagnosis, circumstances);
    let replacement = Replacement { sources: vec![Source::Fresh], aside: Some(aside) };
    let step = Step {
        action: Action::Replace(replacement),
        reason: "an initdb was cut short in it, before there was any row".into(),
        effect: Effect::Replaces,
    };
    plan("make the cluster anew", diagnosis, vec![step, start_step("the cluster is sound then")])
}

fn repair(diagnosis: &Diagnosis) -> Plan {
    let mut steps: Vec<Step> = diagnosis.findings.iter().filter_map(repair_step).collect();
    steps.push(start_step("the cluster is sound then"));
    plan("repair in place and start", diagnosis, steps)
}

fn repair_step(finding: &Finding) -> Option<Step> {
    let place = finding.place.clone();
    let (action, effect) = match finding.remedy {
        Remedy::RecreateDirectory => (Action::RecreateDirectory { place }, Effect::Adds),
        Remedy::SetAsideFile => (Action::SetAsideFile { place }, Effect::SetsAside),
        Remedy::SetMode(mode) => (Action::SetMode { place, mode }, Effect::Adjusts),
        Remedy::SetOwner(uid) => (Action::SetOwner { uid }, Effect::Adjusts),
        Remedy::MakeReadable | Remedy::LinkTablespace | Remedy::Replace | Remedy::Nothing => {
            return None;
        }
    };
    Some(Step { action, reason: finding.summary(), effect })
}

impl Finding {
    /// The finding in one line.
    pub fn summary(&self) -> String {
        format!("{} ({}): {}", self.place, self.code, self.evidence)
    }
}

/// Backups that are there and cannot be read may hold the rows, so that no empty cluster takes their place.
fn refuse_to_forget(diagnosis: &Diagnosis, unreadable: &[(&BackupSummary, &str)]) -> Result<(), Refusal> {
    let Some((newest, reason)) = unreadable.first() else { return Ok(()) };
    let worst: Vec<String> = worst_findings(diagnosis).take(1).map(Finding::summary).collect();
    Err(Refusal {
        reason: format!(
            "'{}' is damaged ({}), and none of its backups can be read; the newest, {}: {reason}",
            diagnosis.data_directory.display(),
            worst.join("; "),
            newest.name
        ),
        hint: "`backup-postgresql list` shows them. To begin with an empty cluster all the same, move them out of the \
               backup directory. Nothing was changed."
            .into(),
        is_busy: false,
    })
}

fn replace(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<Plan, Refusal> {
    let usable = newest_first(circumstances.backups, Some(&diagnosis.identity));
    let mut sources: Vec<Source> = usable.iter().map(|backup| source_of(backup, diagnosis)).collect();
    let unreadable: Vec<_> = circumstances.backups.iter().filter_map(unreadable).collect();
    // That a backup cannot be used may be for a reason that will pass; an empty cluster would hide it.
    if sources.is_empty() {
        refuse_to_forget(diagnosis, &unreadable)?;
        sources.push(Source::Fresh);
    }
    let mut remarks = vec![loss(usable.first().copied(), sources.first())];
    let is_newer =
        |other: &BackupSummary| usable.first().is_some_and(|chosen| other.created_at > chosen.created_at);
    remarks.extend(unreadable.iter().filter(|(other, _)| is_newer(other)).map(|(other, reason)| {
        format!("{} is newer, and is passed over because it cannot be read: {reason}", other.name)
    }));
    let aside = free_name(BackupKind::Damaged, diagnosis, circumstances);
    let errors: Vec<String> = worst_findings(diagnosis).map(Finding::summary).collect();
    let step = Step {
        action: Action::Replace(Replacement { sources, aside: Some(aside) }),
        reason: errors.join("; "),
        effect: Effect::Replaces,
    };
    let purpose = match usable.first() {
        Some(newest) => format!("restore {}", newest.name),
        None => "make a new cluster".to_owned(),
    };
    let steps = vec![step, start_step("the cluster is sound then")];
    Ok(Plan { remarks, ..plan(purpose, diagnosis, steps) })
}

/// Entries of another owner can be neither moved nor all of them read, so that they come before any verdict.
fn ownership_step(diagnosis: &Diagnosis) -> Option<Step> {
    let finding = diagnosis.findings.iter().find(|finding| matches!(finding.remedy, Remedy::SetOwner(_)))?;
    repair_step(finding)
}

fn worst_findings(diagnosis: &Diagnosis) -> impl Iterator<Item = &Finding> {
    diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Error).take(5)
}

fn loss(backup: Option<&BackupSummary>, source: Option<&Source>) -> String {
    match (backup, source) {
        (Some(_), Some(Source::Backup { replay, .. })) if replay.reaches_the_end => {
            "no committed row is lost: the WAL since the backup is there to be replayed".into()
        }
        (Some(backup), _) => format!(
            "rows committed after {} are lost, unless they are in what is set aside: the WAL since then is not whole",
            backup.created_at.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        (None, _) => {
            "there is no backup to restore; the damaged directory is kept, and its rows are in it".into()
        }
    }
}
