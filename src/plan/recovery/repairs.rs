//! What is put right in place, and which findings ask for it.

use super::step::{Action, Effect, FormerFailure, PassedOver, Plan, Step};
use super::{Needed, passed_over, plan, start_step};
use crate::pg::control_file::ClusterState;
use crate::plan::diagnosis::{Diagnosis, Finding, RelationName, Remedy, Severity};
use std::collections::BTreeMap;

/// What was tried already, since the command began, and did not help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// The findings, by code and place, whose repair in place was carried out. One that is still found, or found
    /// again, needs more than that.
    pub repairs: Vec<(&'static str, String)>,
    /// Whether the server was started and refused the data: what replay might have put right, it has not.
    pub start: bool,
    /// How the server did not start, where it said so.
    pub failure: Option<FormerFailure>,
}

impl Tried {
    /// Remembers the findings that the steps of a plan dealt with. One that was left for a later round was not tried.
    pub fn note(&mut self, diagnosis: &Diagnosis, steps: &[Step]) {
        let is_dealt_with = |finding: &&Finding| steps.iter().any(|step| deals_with(&step.action, finding));
        let dealt_with = diagnosis.findings.iter().filter(is_dealt_with);
        self.repairs.extend(dealt_with.map(|finding| (finding.code, finding.place.clone())));
    }

    pub(super) fn has(&self, finding: &Finding) -> bool {
        self.repairs.iter().any(|(code, place)| *code == finding.code && *place == finding.place)
    }
}

fn deals_with(action: &Action, finding: &Finding) -> bool {
    match (action, &finding.remedy) {
        (Action::SetMode { place, .. }, Remedy::SetMode(_))
        | (Action::RecreateDirectory { place }, Remedy::RecreateDirectory)
        | (Action::SetAsideFile { place }, Remedy::SetAsideFile)
        | (Action::TakeFromArchive { place }, Remedy::TakeFromArchive | Remedy::FetchBackupWal(_))
        | (Action::WriteFile { place, .. }, Remedy::WriteFile(_))
        | (Action::RestoreConfiguration { place }, Remedy::RestoreConfiguration)
        | (Action::HealFromBackup { place, .. }, Remedy::Replace) => *place == finding.place,
        (Action::Reindex { indexes, .. }, Remedy::Reindex(index)) => indexes.contains(index),
        (Action::ResetWal, Remedy::ResetWal)
        | (Action::RecreateTemplate0, Remedy::RecreateTemplate0)
        | (Action::SetOwner { .. }, Remedy::SetOwner(_)) => true,
        _ => false,
    }
}

/// The findings that ask for something to be done now.
pub(super) fn needed_remedies<'a>(diagnosis: &'a Diagnosis, tried: &Tried) -> Vec<Needed<'a>> {
    let needed = |finding: &'a Finding| Some((finding, needed_remedy(finding, tried)?));
    diagnosis.findings.iter().filter_map(needed).collect()
}

/// What a finding needs, or `None` where it needs nothing, at least not yet.
///
/// A warning says that replay may still put it right, so that nothing that rests on the finding being final is done
/// before the server has had its try.
fn needed_remedy(finding: &Finding, tried: &Tried) -> Option<Remedy> {
    let is_final =
        finding.severity == Severity::Error || (tried.start && finding.severity == Severity::Warning);
    match &finding.remedy {
        Remedy::Nothing | Remedy::LeaveOut => None,
        _ if finding.severity == Severity::Notice => None,
        // Each try may show what the one before hid, and no configuration is worth a cluster.
        remedy @ Remedy::WriteFile(_) if finding.code == "configuration-broken" => Some(remedy.clone()),
        _ if finding.code.starts_with("configuration-") && tried.has(finding) => None,
        remedy if remedy.rests_on_finality() && !is_final => None,
        remedy if remedy.is_beyond_repair() => Some(remedy.clone()),
        // Whether it was tried already, is asked where it is decided upon.
        remedy @ Remedy::FetchBackupWal(_) => Some(remedy.clone()),
        _ if tried.has(finding) => is_final.then_some(Remedy::Replace),
        remedy => Some(remedy.clone()),
    }
}

/// The findings that nothing in the cluster can help.
pub(super) fn irreparable<'a>(needed: &[Needed<'a>]) -> Vec<&'a Finding> {
    let replaces = needed.iter().filter(|(_, remedy)| *remedy == Remedy::Replace);
    replaces.map(|(finding, _)| *finding).collect()
}

/// Entries of another owner can be neither moved nor all of them read, so that they come before any verdict.
pub(super) fn ownership_step(diagnosis: &Diagnosis) -> Option<Step> {
    let finding = diagnosis.findings.iter().find(|finding| matches!(finding.remedy, Remedy::SetOwner(_)))?;
    let Remedy::SetOwner(uid) = finding.remedy else { return None };
    Some(Step { action: Action::SetOwner { uid }, reason: finding.summary(), effect: Effect::Adjusts })
}

/// The control file, where it has to be written anew and has not been yet: without one, less is known of all other
/// findings, so that it comes before any verdict on them.
pub(super) fn control_file_step(needed: &[Needed]) -> Option<Step> {
    let is_control_file = |(finding, remedy): &&Needed| {
        finding.place == "global/pg_control" && matches!(remedy, Remedy::WriteFile(_))
    };
    needed.iter().find(is_control_file).and_then(repair_step).map(|(_, step)| step)
}

/// The files of transaction status whose content is proven and has not been written yet: with a wrong one, rows of the
/// catalogs are missing, so that they come before any verdict on other findings, too.
pub(super) fn status_steps(needed: &[Needed]) -> Vec<Step> {
    let is_status = |(finding, remedy): &&Needed| {
        finding.is_about_transaction_status() && matches!(remedy, Remedy::WriteFile(_))
    };
    each_once(needed.iter().filter(is_status).filter_map(repair_step).map(|(_, step)| step))
}

/// A plan of these steps, after which everything is judged anew.
pub(super) fn look_again_after(mut steps: Vec<Step>, diagnosis: &Diagnosis) -> Plan {
    let first = steps.first().map(|step| step.action.to_string()).unwrap_or_default();
    steps.push(look_again_step());
    plan(format!("{first}, then look again"), diagnosis, steps)
}

/// What keeps its own user from reading the cluster comes before any verdict, too: of what cannot be read nothing is
/// known.
pub(super) fn mode_steps(diagnosis: &Diagnosis, tried: &Tried) -> Vec<Step> {
    if !diagnosis.findings.iter().any(|finding| finding.remedy == Remedy::MakeReadable) {
        return Vec::new();
    }
    let untried = diagnosis.findings.iter().filter(|finding| !tried.has(finding));
    let step = |finding: &Finding| match &finding.remedy {
        remedy @ Remedy::SetMode(_) => repair_step(&(finding, remedy.clone())).map(|(_, step)| step),
        _ => None,
    };
    untried.filter_map(step).collect()
}

/// Replays the WAL before anybody can connect, where a crashed cluster has findings that only replay can settle.
///
/// What is found after a crash may be what replay puts right, and to restore a backup on account of it would be wrong;
/// to serve at once would be, too, if it is not. After a clean stop the same finding is final.
pub(super) fn recover_first(diagnosis: &Diagnosis) -> Option<Plan> {
    // No private server replays what a standby takes from its primary (xlogrecovery.c, `InitWalRecovery()`).
    if diagnosis.standby.is_some() {
        return None;
    }
    let is_crashed = diagnosis.identity.state.is_some_and(|state| state != ClusterState::ShutDown);
    let is_open =
        |finding: &&Finding| finding.severity == Severity::Warning && finding.remedy.rests_on_finality();
    let open: Vec<String> = diagnosis.findings.iter().filter(is_open).map(Finding::summary).collect();
    if !is_crashed || open.is_empty() {
        return None;
    }
    let steps = vec![
        Step { action: Action::RecoverFirst, reason: open.join("; "), effect: Effect::Starts },
        Step {
            action: Action::LookAgain,
            reason: "what is still found then, replay has not put right".to_owned(),
            effect: Effect::Reads,
        },
    ];
    let mut plan = plan("replay the WAL, then look again", diagnosis, steps);
    let count = crate::format::counted(open.len(), "finding");
    plan.passed_over.push(passed_over("start as it is", format!("{count} may outlast the replay")));
    Some(plan)
}

/// Repairs everything in place, looks again, and starts.
pub(super) fn repair(diagnosis: &Diagnosis, needed: &[Needed]) -> Plan {
    let mut steps = repair_steps(needed);
    steps.extend(reindex_steps(needed));
    steps.extend(template0_step(needed));
    steps.push(look_again_step());
    steps.push(start_step("the cluster is sound then"));
    let mut plan = plan("repair in place and start", diagnosis, steps);
    plan.passed_over.push(not_as_it_is(needed));
    plan
}

/// Why a cluster of which something has to be put right is not started as it is.
pub(super) fn not_as_it_is(needed: &[Needed]) -> PassedOver {
    let count = crate::format::counted(needed.len(), "finding");
    passed_over("start as it is", format!("{count} must be put right first"))
}

pub(super) fn look_again_step() -> Step {
    let reason = "a repair counts when an inspection finds nothing left of the damage".to_owned();
    Step { action: Action::LookAgain, reason, effect: Effect::Reads }
}

/// The steps that need no server, in the order in which they can be done: a directory before what is written into
/// it, the control file before what depends on it.
pub(super) fn repair_steps(needed: &[Needed]) -> Vec<Step> {
    let mut ranked: Vec<(u8, Step)> = needed.iter().filter_map(repair_step).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    each_once(ranked.into_iter().map(|(_, step)| step))
}

/// What two findings ask for is done once: a file that was moved out of the way cannot be moved again.
fn each_once(steps: impl Iterator<Item = Step>) -> Vec<Step> {
    let mut once: Vec<Step> = Vec::new();
    for step in steps {
        if once.iter().all(|earlier| earlier.action != step.action) {
            once.push(step);
        }
    }
    once
}

fn repair_step((finding, remedy): &Needed) -> Option<(u8, Step)> {
    let place = finding.place.clone();
    let (rank, action, effect) = match remedy {
        Remedy::SetMode(mode) => (0, Action::SetMode { place, mode: *mode }, Effect::Adjusts),
        Remedy::RecreateDirectory => (1, Action::RecreateDirectory { place }, Effect::Adds),
        Remedy::SetAsideFile => (2, Action::SetAsideFile { place }, Effect::SetsAside),
        Remedy::TakeFromArchive => (2, Action::TakeFromArchive { place }, Effect::Repairs),
        Remedy::WriteFile(content) => {
            (3, Action::WriteFile { place, content: content.clone() }, Effect::Repairs)
        }
        Remedy::RestoreConfiguration => (4, Action::RestoreConfiguration { place }, Effect::Repairs),
        Remedy::ResetWal => (5, Action::ResetWal, Effect::Repairs),
        _ => return None,
    };
    Some((rank, Step { action, reason: finding.evidence.clone(), effect }))
}

/// One step, after the indexes that it needs, even if what an earlier one was cut short at is found, too.
pub(super) fn template0_step(needed: &[Needed]) -> Option<Step> {
    let (finding, _) = needed.iter().find(|(_, remedy)| *remedy == Remedy::RecreateTemplate0)?;
    let (action, effect) = (Action::RecreateTemplate0, Effect::Repairs);
    Some(Step { action, reason: finding.evidence.clone(), effect })
}

/// The indexes that are to be built anew, each once, by the name of the database that they are in.
pub fn indexes_by_database<'a>(
    remedies: impl Iterator<Item = &'a Remedy>,
) -> BTreeMap<&'a str, Vec<RelationName>> {
    let mut by_database: BTreeMap<&str, Vec<RelationName>> = BTreeMap::new();
    for remedy in remedies {
        let Remedy::Reindex(index) = remedy else { continue };
        let indexes = by_database.entry(&index.database).or_default();
        if !indexes.contains(index) {
            indexes.push(index.clone());
        }
    }
    by_database
}

/// One step for each database, since a server without connections works in one at a time.
fn reindex_steps(needed: &[Needed]) -> Vec<Step> {
    let by_database = indexes_by_database(needed.iter().map(|(_, remedy)| remedy));
    let reason = |database: &str| {
        let is_of_it =
            |(_, remedy): &&Needed| matches!(remedy, Remedy::Reindex(index) if index.database == database);
        let reasons = needed.iter().filter(is_of_it);
        let reasons: Vec<String> =
            reasons.map(|(finding, _)| format!("{}: {}", finding.place, finding.evidence)).collect();
        reasons.join("; ")
    };
    let step = |(database, indexes): (&str, Vec<RelationName>)| Step {
        reason: reason(database),
        action: Action::Reindex { database: database.to_owned(), indexes },
        effect: Effect::Repairs,
    };
    by_database.into_iter().map(step).collect()
}
