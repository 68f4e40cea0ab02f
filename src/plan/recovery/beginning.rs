//! Making a new cluster where there is none, or where an initdb was cut short; refused where one was lost.
//!
//! An empty cluster in the place of one that was lost looks well, and hides that it was lost. Where notes of pgbox's own
//! show that a cluster was served from the directory, or a backup may be of it, only a person begins anew.

use super::step::{Action, Effect, Plan, Refusal, Replacement, Source, Step};
use super::{Circumstances, plan, start_step};
use crate::plan::backups::{BackupFormat, BackupKind, BackupSummary};
use crate::plan::diagnosis::{ClusterCondition, Diagnosis};
use crate::plan::order::order_keys;
use crate::plan::policy::RecoveryPolicy;
use crate::plan::selection::{free_name, newest_first};

/// Makes the first cluster of an empty directory.
///
/// # Errors
/// A [`Refusal`] where a cluster was lost from it.
pub(super) fn begin_first(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<Plan, Refusal> {
    refuse_to_hide_a_loss(diagnosis, circumstances)?;
    let replacement =
        Replacement { sources: vec![Source::Fresh], aside: None, needs_all_wal: false, failed_with: None };
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
    Ok(plan)
}

/// Makes a cluster in the place of what an initdb left that was cut short.
///
/// # Errors
/// A [`Refusal`] where a cluster was lost from the directory.
pub(super) fn begin_again(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<Plan, Refusal> {
    refuse_to_hide_a_loss(diagnosis, circumstances)?;
    let aside = free_name(BackupKind::Damaged, diagnosis, circumstances);
    let replacement = Replacement {
        sources: vec![Source::Fresh],
        aside: Some(aside),
        needs_all_wal: false,
        failed_with: None,
    };
    let step = Step {
        action: Action::Replace(replacement),
        reason: "an initdb was cut short in it, before there was any row".into(),
        effect: Effect::Replaces,
    };
    Ok(plan("make the cluster anew", diagnosis, vec![step, start_step("the cluster is sound then")]))
}

fn refuse_to_hide_a_loss(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Result<(), Refusal> {
    if circumstances.may_begin_anew && circumstances.policy == RecoveryPolicy::Auto {
        return Ok(());
    }
    let may_be_of_it = |backup: &&BackupSummary| may_be_of(backup, diagnosis);
    let backups = circumstances.backups.iter().filter(|backup| backup.name.kind() == BackupKind::Backup);
    let keys = order_keys(circumstances.backups);
    // What is named is what a person will restore: the best of them, and a plain copy or one that was found damaged only
    // where there is nothing else.
    let worth = |backup: &&BackupSummary| {
        let is_chunked = backup.format == BackupFormat::Chunked;
        (backup.is_usable(), is_chunked, backup.is_good(), keys.get(&backup.name).copied())
    };
    let newest = backups.filter(may_be_of_it).max_by_key(worth);
    let path = diagnosis.data_directory.display();
    let shown = match (&diagnosis.served, newest) {
        (None, None) => return Ok(()),
        (Some(served), _) => format!("'{}' shows that a cluster was served from it", served.note),
        (None, Some(newest)) => match &newest.data_directory {
            Some(_) => format!("the backup {} is of a cluster that was in it", newest.name),
            None => format!("the backup {} may be of a cluster that was in it", newest.name),
        },
    };
    let state = match diagnosis.condition {
        ClusterCondition::Absent => "is not there",
        ClusterCondition::Empty => "is empty",
        _ => "has no whole cluster in it",
    };
    let restore = match newest {
        Some(newest) if newest.is_usable() => {
            format!("restore it with `backup-postgresql restore {}`; if it is only", newest.name)
        }
        Some(newest) => format!(
            "no backup of it is whole (`backup-postgresql show {}` names what is damaged); if the cluster is only",
            newest.name
        ),
        None => "no backup of it is here; if it is only".to_owned(),
    };
    Err(Refusal {
        reason: format!("'{path}' {state}, and {shown}"),
        hint: format!(
            "{restore} on a disk that is not mounted, mount that. To begin with an empty cluster, set ALLOW_EMPTY=on \
             (with RECOVERY=auto) for this start. Nothing was changed."
        ),
        is_busy: false,
    })
}

/// Whether a backup may be of the cluster that was in the directory: by its number where that is known, else by the
/// directory that it names. One that names none may be of any.
fn may_be_of(backup: &BackupSummary, diagnosis: &Diagnosis) -> bool {
    if let Some((ours, theirs)) = diagnosis.identity.system_identifier.zip(backup.system_identifier)
        && ours == theirs
    {
        return true;
    }
    let served = diagnosis.served.as_ref().and_then(|served| served.system_identifier);
    if served.is_some() && served == backup.system_identifier {
        return true;
    }
    backup.data_directory.as_ref().is_none_or(|path| *path == diagnosis.data_directory.to_string_lossy())
}
