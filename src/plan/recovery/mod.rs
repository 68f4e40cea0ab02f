//! From a diagnosis to what is to be done, so that a server can start.
//!
//! Pure. The first rung that suffices is taken: start as it is; put right in place what can be without loss;
//! replace the cluster by a copy that replayed its own WAL, else by the newest good backup with the WAL that
//! survives, else by what could be salvaged; make a new one. Whatever is replaced is set aside whole first. What is
//! not PostgreSQL's, or of another version, or in use, is refused.
//!
//! An empty cluster never takes the place of one that has a backup, even if no backup can be used. The refused
//! alternative, to begin anew whenever nothing else worked, would hide the rows behind a server that looks well,
//! for a reason that may pass: a disk that is not mounted, a port that is taken.

mod backup_wal;
mod beginning;
mod healing;
mod refusals;
mod repairs;
mod replacement;
mod step;

pub use repairs::{Tried, indexes_by_database};
pub use step::{
    Action, Belief, Effect, FormerFailure, InPlace, PassedOver, Plan, Refusal, Replacement, Replay, Source,
    Step,
};

use super::ancestry::Comparison;
use super::archive::ArchiveView;
use super::backups::{BackupName, BackupSummary};
use super::branching::{GoneBack, branch_off};
use super::diagnosis::{ClusterCondition, Diagnosis, Finding, Journal, Remedy};
use super::policy::RecoveryPolicy;
use crate::pg::SystemIdentifier;
use backup_wal::fetch_backup_wal;
use beginning::{begin_again, begin_first};
use chrono::{DateTime, Utc};
use healing::heal;
use refusals::{allow, refuse_to_replace_a_standby, refuse_what_is_not_ours, refuse_what_needs_a_person};
use repairs::{
    control_file_step, look_again_after, look_again_step, mode_steps, needed_remedies, not_as_it_is,
    ownership_step, recover_first, repair, repair_steps, status_steps,
};
use replacement::{replace, replay, restore_whole};

/// Everything the decision rests on besides the diagnosis.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// The backups there are.
    pub backups: &'a [BackupSummary],
    /// The archived WAL of each cluster that has a backup.
    pub archives: &'a [(SystemIdentifier, ArchiveView)],
    /// What the WAL of each backup is beside that of the present cluster.
    pub compared: Vec<(BackupName, Comparison)>,
    /// What shows that the cluster is not in the newest state that the repository knows of it, if it is not.
    pub gone_back: Option<GoneBack>,
    /// The repository that they are in, by its id; `None` where there is none.
    pub repository: Option<&'a str>,
    /// What is allowed.
    pub policy: RecoveryPolicy,
    /// Whether an empty cluster may be made where one was lost; only where everything else is allowed, too.
    pub may_begin_anew: bool,
    /// What was tried already and did not help.
    pub tried: Tried,
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
    let plan = first_rung(diagnosis, circumstances)?.telling_of_wal(diagnosis).naming_lost_slots(diagnosis);
    let mut plan = branch_off(plan, diagnosis, circumstances);
    let left_out = diagnosis.findings.iter().filter(|finding| finding.remedy == Remedy::LeaveOut);
    plan.remarks.extend(left_out.map(|finding| {
        format!("not in force: {}; put that right, then `maintenance restart`", finding.evidence)
    }));
    Ok(plan)
}

/// The policies that allow repairs in place.
const IN_PLACE: [RecoveryPolicy; 2] = [RecoveryPolicy::Auto, RecoveryPolicy::Repair];

fn first_rung(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<Plan, Refusal> {
    let policy = circumstances.policy;
    refuse_what_is_not_ours(diagnosis)?;
    if let Some(journal) = &diagnosis.journal {
        return Ok(finish_replacement(diagnosis, journal));
    }
    if let Some(step) = ownership_step(diagnosis) {
        allow(policy, &IN_PLACE, diagnosis)?;
        return Ok(plan("give the cluster to the server's user, then look again", diagnosis, vec![step]));
    }
    let mut modes = mode_steps(diagnosis, &circumstances.tried);
    if !modes.is_empty() {
        allow(policy, &IN_PLACE, diagnosis)?;
        modes.push(look_again_step());
        return Ok(plan("let the server's user read its files, then look again", diagnosis, modes));
    }
    refuse_what_needs_a_person(diagnosis)?;
    match &diagnosis.condition {
        ClusterCondition::Absent | ClusterCondition::Empty => {
            return begin_first(diagnosis, circumstances);
        }
        ClusterCondition::InterruptedInitdb => {
            allow(policy, &IN_PLACE, diagnosis)?;
            return begin_again(diagnosis, circumstances);
        }
        // The others were refused above, or are told apart by what they need.
        _ => {}
    }
    if diagnosis.findings.iter().any(|finding| finding.remedy == Remedy::LeaveOut) {
        allow(policy, &[RecoveryPolicy::Auto], diagnosis)?;
    }
    let needed = needed_remedies(diagnosis, &circumstances.tried);
    refuse_to_replace_a_standby(diagnosis, &needed)?;
    if let Some(plan) = fetch_backup_wal(diagnosis, &needed, circumstances)? {
        return Ok(plan);
    }
    let is_stale_pid = |(finding, _): &Needed| finding.code == "pid-file-stale";
    if needed.iter().all(is_stale_pid) {
        return Ok(start_as_it_is(diagnosis, &needed));
    }
    let needs = |sort: fn(&Remedy) -> bool| needed.iter().any(|(_, remedy)| sort(remedy));
    if needs(|remedy| matches!(remedy, Remedy::Replace)) {
        return heal_or_replace(diagnosis, &needed, circumstances);
    }
    if needs(|remedy| matches!(remedy, Remedy::RestoreOrSeeToIt(_))) {
        return restore_whole(diagnosis, &needed, circumstances);
    }
    allow(policy, &IN_PLACE, diagnosis)?;
    if needs(|remedy| matches!(remedy, Remedy::ReplayFrom(_))) {
        return Ok(replay(diagnosis, &needed, circumstances));
    }
    Ok(repair(diagnosis, &needed))
}

/// Brings back what is not in the cluster any more, with as little of a backup as will do.
fn heal_or_replace(
    diagnosis: &Diagnosis,
    needed: &[Needed],
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    let policy = circumstances.policy;
    if let Some(step) = control_file_step(needed) {
        allow(policy, &IN_PLACE, diagnosis)?;
        return Ok(look_again_after(vec![step], diagnosis));
    }
    let steps = status_steps(needed);
    if !steps.is_empty() {
        allow(policy, &IN_PLACE, diagnosis)?;
        return Ok(look_again_after(steps, diagnosis));
    }
    if let Some(plan) = heal(diagnosis, needed, circumstances) {
        allow(policy, &IN_PLACE, diagnosis)?;
        return Ok(plan);
    }
    allow(policy, &[RecoveryPolicy::Auto], diagnosis)?;
    replace(diagnosis, needed, circumstances)
}

/// A finding with what is to be done about it now, which may be more than what it asked for at first.
type Needed<'a> = (&'a Finding, Remedy);

fn plan(purpose: impl Into<String>, diagnosis: &Diagnosis, steps: Vec<Step>) -> Plan {
    Plan {
        purpose: purpose.into(),
        belief: Belief::of(&diagnosis.identity),
        steps,
        passed_over: Vec::new(),
        remarks: Vec::new(),
    }
}

fn passed_over(rung: &'static str, reason: impl Into<String>) -> PassedOver {
    PassedOver { rung, reason: reason.into() }
}

fn start_step(reason: &str) -> Step {
    Step { action: Action::Start, reason: reason.into(), effect: Effect::Starts }
}

/// Starts a sound cluster, at most without the pid file of a server that was killed. A server clears that by itself,
/// where the number is nobody's. It says nothing about the data, so that nothing is looked at again once it is gone: what
/// the other findings say was found beside it.
fn start_as_it_is(diagnosis: &Diagnosis, stale: &[Needed]) -> Plan {
    let mut begun = recover_first(diagnosis)
        .unwrap_or_else(|| plan("start", diagnosis, vec![start_step("the cluster is sound")]));
    if !stale.is_empty() {
        begun.steps.splice(0..0, repair_steps(stale));
        begun.passed_over.push(not_as_it_is(stale));
        begun.purpose = begun.purpose.replace("start", "repair in place and start");
    }
    begun
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
