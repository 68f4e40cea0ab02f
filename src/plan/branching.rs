//! Going on from a state that is not the newest: a data directory that was put back to a snapshot, or is a copy of one
//! that went on elsewhere. Pure.
//!
//! The backups and the archive then hold WAL of the same timeline that this cluster never wrote. Were it to go on there,
//! two histories would share the names of their segments. So it takes a timeline of its own, as after a restore; both
//! histories stay whole.

use super::backups::{BackupKind, BackupSummary};
use super::diagnosis::{ClusterCondition, Diagnosis, Presence};
use super::policy::RecoveryPolicy;
use super::recovery::{Action, Circumstances, Effect, Plan, Replacement, Source, Step};
use super::selection::free_name;
use crate::pg::Lsn;
use serde::Serialize;

/// What shows that the data directory is not in the newest state that there was, and how it can branch off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GoneBack {
    /// The evidence, for a person.
    pub evidence: String,
    /// How it can take a timeline of its own.
    pub way: BranchWay,
}

/// How a cluster can take a timeline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchWay {
    /// As it is: its server ends recovery there at its start.
    InPlace,
    /// On a copy: a recovery empties unlogged tables (reinit.c), whose rows are given back to the copy.
    OnCopy,
    /// Not now: there are unlogged tables, and no room for a copy.
    NoRoom,
}

/// The newest backup of the diagnosed cluster's timeline that ends after the present WAL does.
pub fn backup_ahead<'a>(
    backups: &'a [BackupSummary],
    diagnosis: &Diagnosis,
    end: Lsn,
) -> Option<&'a BackupSummary> {
    let identity = &diagnosis.identity;
    let is_ahead = |backup: &&BackupSummary| {
        backup.name.kind() == BackupKind::Backup
            && backup.is_complete()
            && backup.system_identifier.is_some()
            && backup.system_identifier == identity.system_identifier
            && backup.timeline == identity.timeline
            && backup.stop_lsn.is_some_and(|stop| stop > end)
    };
    backups.iter().find(is_ahead)
}

/// Whether a diagnosis is of a cluster that is about to be started as it is, or nearly so.
pub fn may_branch(diagnosis: &Diagnosis) -> bool {
    matches!(diagnosis.condition, ClusterCondition::Sound | ClusterCondition::Repairable)
        && diagnosis.presence == Presence::Free
        // Its primary goes on where it is behind, and archives what it has not received yet.
        && diagnosis.standby.is_none()
        && diagnosis.journal.is_none()
}

/// Lets a plan that starts the present cluster branch it off first, where that is called for.
pub(super) fn branch_off(plan: Plan, diagnosis: &Diagnosis, circumstances: &Circumstances) -> Plan {
    let starts = plan.steps.iter().any(|step| step.action == Action::Start);
    let replaces = plan.steps.iter().any(|step| step.effect == Effect::Replaces);
    let Some(gone_back) = circumstances.gone_back.as_ref().filter(|_| starts && !replaces) else {
        return plan;
    };
    let GoneBack { evidence, way } = gone_back;
    let mut remarks = vec![format!(
        "the data directory was put back to an earlier state, or is a copy of one that went on elsewhere: {evidence}"
    )];
    let aside = free_name(BackupKind::Replaced, diagnosis, circumstances);
    let (action, effect) = match way {
        _ if circumstances.policy == RecoveryPolicy::Never => {
            remarks.push("RECOVERY=never: it goes on as it is, and its WAL cannot be archived".to_owned());
            return Plan { remarks, ..plan };
        }
        BranchWay::NoRoom => {
            remarks.push(
                "it goes on as it is, since there is no room for the copy that keeps the rows of unlogged tables; its WAL \
                 cannot be archived: make room and start it again"
                    .to_owned(),
            );
            return Plan { remarks, ..plan };
        }
        BranchWay::InPlace => (Action::BranchOff, Effect::Adds),
        BranchWay::OnCopy => {
            let replacement = Replacement {
                sources: vec![Source::Branched],
                aside: Some(aside),
                needs_all_wal: false,
                failed_with: None,
            };
            (Action::Replace(replacement), Effect::Replaces)
        }
    };
    remarks.push(
        "it goes on on a timeline of its own, with every row that it has; the other history stays whole in the \
         repository"
            .to_owned(),
    );
    let reason = "the WAL that it writes must not have the names of the other history's".to_owned();
    let mut steps: Vec<Step> = Vec::new();
    for step in plan.steps {
        if step.action == Action::Start {
            steps.push(Step { action: action.clone(), reason: reason.clone(), effect });
        }
        steps.push(step);
    }
    remarks.extend(plan.remarks);
    let purpose = match plan.purpose.as_str() {
        "start" => "branch off and start".to_owned(),
        other => format!("{other}, and branch off"),
    };
    Plan { purpose, steps, remarks, ..plan }
}
