//! From a diagnosis to what is to be done, so that a server can start.
//!
//! Pure. The first rung that suffices is taken: start as it is; put right in place what can be without loss;
//! replace the cluster by the newest good backup with the WAL that survives; make a new one. Whatever is
//! replaced is set aside whole first. What is not PostgreSQL's, or of another version, or in use, is refused.

use super::backups::{BackupKind, BackupName, BackupSummary};
use super::diagnosis::{
    ClusterCondition, ClusterIdentity, Diagnosis, Finding, Journal, Presence, Remedy, Severity,
};
use super::policy::RecoveryPolicy;
use crate::pg::timeline_history::Ancestor;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier};
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
    refuse_what_cannot_be_read(diagnosis)?;
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
            Ok(replace(diagnosis, circumstances))
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

/// What cannot be read is not known to be damaged, so it must never lead to a replacement.
fn refuse_what_cannot_be_read(diagnosis: &Diagnosis) -> Result<(), Refusal> {
    let unreadable = |finding: &&Finding| finding.remedy == Remedy::MakeReadable;
    let Some(finding) = diagnosis.findings.iter().find(unreadable) else { return Ok(()) };
    Err(Refusal {
        reason: format!(
            "'{}' could not be inspected whole: {}",
            diagnosis.data_directory.display(),
            finding.summary()
        ),
        hint:
            "see to it that the server's user can read it, and that the disk is sound. Nothing was changed."
                .into(),
        is_busy: false,
    })
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
        Remedy::MakeReadable | Remedy::Replace | Remedy::Nothing => return None,
    };
    Some(Step { action, reason: finding.summary(), effect })
}

impl Finding {
    /// The finding in one line.
    pub fn summary(&self) -> String {
        format!("{} ({}): {}", self.place, self.code, self.evidence)
    }
}

fn replace(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Plan {
    let usable = newest_first(circumstances.backups, Some(&diagnosis.identity));
    let mut sources: Vec<Source> = usable.iter().map(|backup| source_of(backup, diagnosis)).collect();
    // That a backup cannot be used may be for a reason that will pass; an empty cluster would hide it.
    if sources.is_empty() {
        sources.push(Source::Fresh);
    }
    let remarks = vec![loss(usable.first().copied(), sources.first())];
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
    Plan { remarks, ..plan(purpose, diagnosis, steps) }
}

/// Entries of another owner can be neither moved nor all of them read, so that they come before any verdict.
fn ownership_step(diagnosis: &Diagnosis) -> Option<Step> {
    let finding = diagnosis.findings.iter().find(|finding| matches!(finding.remedy, Remedy::SetOwner(_)))?;
    repair_step(finding)
}

fn worst_findings(diagnosis: &Diagnosis) -> impl Iterator<Item = &Finding> {
    diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Error).take(5)
}

/// A backup as a source, with the surviving WAL that follows it.
pub fn source_of(backup: &BackupSummary, diagnosis: &Diagnosis) -> Source {
    Source::Backup {
        name: backup.name,
        replay: surviving_replay(backup, &diagnosis.wal_segments, &diagnosis.identity),
    }
}

/// Which of the surviving segments continue a backup.
///
/// They must follow its last one on the same timeline without a gap. A backup ends with a switch to a new
/// segment, so a cluster that wrote nothing since has no later segment, and nothing is lost then either.
pub fn surviving_replay(
    backup: &BackupSummary,
    segments: &[WalFileName],
    identity: &ClusterIdentity,
) -> Replay {
    let Some((stop, timeline)) = backup.stop_lsn.zip(backup.timeline) else { return Replay::default() };
    let Some(first) = segments.first() else { return Replay::default() };
    if identity.timeline.is_some_and(|present| present != timeline) {
        return Replay::default();
    }
    let segment_of = |lsn: Lsn| WalFileName::containing(lsn, timeline, first.segment_size_bytes()).ok();
    // The end of a backup is a segment boundary, so the byte before it tells the last segment it has.
    let Some(last_of_backup) = segment_of(Lsn(stop.0.saturating_sub(1))) else { return Replay::default() };
    let is_later = |segment: &&WalFileName| {
        segment.timeline == timeline && segment.segment_number > last_of_backup.segment_number
    };
    let later: Vec<WalFileName> = segments.iter().filter(is_later).copied().collect();
    let chain = leading_chain(last_of_backup, &later);
    let reached = chain.last().copied().unwrap_or(last_of_backup);
    let checkpoint_is_reached = identity
        .redo
        .and_then(segment_of)
        .is_none_or(|segment| segment.segment_number <= reached.segment_number);
    let begins_at_backup = !chain.is_empty() || segments.contains(&last_of_backup);
    let reaches_the_end = begins_at_backup && checkpoint_is_reached && chain.len() == later.len();
    Replay { segments: chain, reaches_the_end }
}

/// The segments of `later` that follow `last` one by one.
fn leading_chain(last: WalFileName, later: &[WalFileName]) -> Vec<WalFileName> {
    let mut chain = Vec::new();
    let mut expected = last.next();
    for segment in later {
        if Some(*segment) != expected {
            break;
        }
        chain.push(*segment);
        expected = segment.next();
    }
    chain
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

/// The good backups that fit a cluster, the best first: those of its own history before those of a branch that
/// a restore left, and newer ones before older ones. One of another cluster never fits.
pub fn newest_first<'a>(
    backups: &'a [BackupSummary],
    identity: Option<&ClusterIdentity>,
) -> Vec<&'a BackupSummary> {
    let fits = |backup: &&BackupSummary| {
        let Some(identity) = identity else { return true };
        let same =
            |ours: Option<u64>, theirs: Option<u64>| ours.is_none() || theirs.is_none() || ours == theirs;
        same(
            identity.system_identifier.map(|identifier| identifier.0),
            backup.system_identifier.map(|identifier| identifier.0),
        ) && same(
            identity.major_version.map(|version| u64::from(version.0)),
            backup.major_version.map(|version| u64::from(version.0)),
        )
    };
    let mut usable: Vec<&BackupSummary> = backups
        .iter()
        .filter(|backup| backup.name.kind() == BackupKind::Backup && backup.is_good())
        .filter(fits)
        .collect();
    let is_of_history =
        |backup: &BackupSummary| identity.is_none_or(|identity| is_on_branch(backup, identity));
    usable.sort_by_key(|backup| std::cmp::Reverse((is_of_history(backup), backup.age_key())));
    usable
}

/// Whether a backup is of the history that led to the present cluster. After a restore, later backups of the
/// timeline that was left are of a branch that a person turned away from.
fn is_on_branch(backup: &BackupSummary, identity: &ClusterIdentity) -> bool {
    let Some(((timeline, stop), present)) = backup.timeline.zip(backup.stop_lsn).zip(identity.timeline)
    else {
        return true;
    };
    let is_ancestor = |ancestor: &Ancestor| ancestor.timeline == timeline && stop <= ancestor.switch_point;
    timeline == present || identity.ancestors.iter().any(is_ancestor)
}

/// A name that neither the repository nor the data directory has yet.
pub fn free_name(kind: BackupKind, diagnosis: &Diagnosis, circumstances: &Circumstances) -> BackupName {
    let is_taken = |name: &BackupName| {
        diagnosis.set_aside.contains(name) || circumstances.backups.iter().any(|backup| backup.name == *name)
    };
    let mut name = BackupName::new(kind, circumstances.now);
    while is_taken(&name)
        && let Some(next) = name.next_of_same_second()
    {
        name = next;
    }
    name
}
