//! From a backup that a person chose to what is to be done. Pure.

use super::ancestry::{Ancestry, ancestry};
use super::backups::{BackupKind, BackupSummary, Condition};
use super::diagnosis::{ClusterCondition, Diagnosis, Presence};
use super::order::order_keys;
use super::recovery::{
    Action, Belief, Circumstances, Effect, Plan, Refusal, Replacement, Replay, Source, Step,
};
use super::selection::{free_name, newest_first};
use crate::pg::MajorVersion;

/// Decides how to put a backup in the place of the present data.
///
/// The present data is set aside as `replaced_…` and comes back if the restored cluster does not serve. WAL
/// written since the backup is not replayed: who restores a backup by name wants the rows of that moment.
///
/// # Errors
/// A [`Refusal`] where the backup cannot be used, or the directory is not ours to replace.
pub fn restore(
    backup: &BackupSummary,
    diagnosis: &Diagnosis,
    installed: MajorVersion,
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    let plan = replace_by(backup, Replay::default(), diagnosis, installed, circumstances)?;
    let replaces = plan.steps.iter().any(|step| step.effect == Effect::Replaces);
    let mut remarks = remarks(backup, replaces);
    remarks.extend(standby_remark(diagnosis));
    if let (true, Ancestry::OtherBranch(reason)) =
        (replaces, ancestry(backup, diagnosis, &circumstances.compared))
    {
        remarks.push(format!("{} is of another branch than the present data: {reason}", backup.name));
    }
    Ok(Plan { remarks, ..plan }.telling_of_wal(diagnosis).naming_lost_slots(diagnosis))
}

/// Puts a backup, and what is replayed after it, in the place of the present data.
pub(super) fn replace_by(
    backup: &BackupSummary,
    replay: Replay,
    diagnosis: &Diagnosis,
    installed: MajorVersion,
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    refuse(backup, diagnosis, installed, circumstances.backups)?;
    let mut steps = Vec::new();
    if let Presence::Running { pid } = diagnosis.presence {
        let reason = "nothing may use the data directory while it is replaced".to_owned();
        steps.push(Step { action: Action::Stop { pid }, reason, effect: Effect::Stops });
    }
    let is_empty = matches!(diagnosis.condition, ClusterCondition::Absent | ClusterCondition::Empty);
    let aside = (!is_empty).then(|| free_name(BackupKind::Replaced, diagnosis, circumstances));
    let source = Source::Backup { name: backup.name, replay };
    steps.push(Step {
        action: Action::Replace(Replacement {
            sources: vec![source],
            aside,
            needs_all_wal: false,
            failed_with: None,
        }),
        reason: "it was asked for".to_owned(),
        effect: if is_empty { Effect::Adds } else { Effect::Replaces },
    });
    let reason = if is_empty {
        "the restored cluster has to be seen to serve"
    } else {
        "so that it serves; if it does not, the present data is put back"
    };
    steps.push(Step { action: Action::Start, reason: reason.to_owned(), effect: Effect::Starts });
    let purpose = format!("restore {}", backup.name);
    Ok(Plan { purpose, belief: Belief::default(), steps, passed_over: Vec::new(), remarks: Vec::new() })
}

/// A backup that a verification found damaged would fail halfway; a better one is named.
fn refuse_damaged(backup: &BackupSummary, backups: &[BackupSummary]) -> Result<(), Refusal> {
    let Some(damage) = backup.verification.verdict().and_then(|verdict| verdict.damage.first()) else {
        return Ok(());
    };
    let is_of_same = |other: &&BackupSummary| {
        other.name != backup.name && other.system_identifier == backup.system_identifier && other.is_good()
    };
    let good: Vec<&BackupSummary> =
        newest_first(backups, None).into_iter().filter(|other| is_of_same(other)).collect();
    let keys = order_keys(backups);
    let older = good.iter().find(|other| keys.get(&other.name) < keys.get(&backup.name));
    let hint = match older.or(good.first()) {
        Some(other) => format!("{} is good: restore that one. Nothing was changed.", other.name),
        None => "no other backup of this cluster is good. Nothing was changed.".to_owned(),
    };
    Err(Refusal {
        reason: format!("a verification found {} damaged: {damage}", backup.name),
        hint: format!(
            "{hint} If its disk is back, `backup-postgresql verify {}` takes the verdict back",
            backup.name
        ),
        is_busy: false,
    })
}

fn refuse(
    backup: &BackupSummary,
    diagnosis: &Diagnosis,
    installed: MajorVersion,
    backups: &[BackupSummary],
) -> Result<(), Refusal> {
    let refusal =
        |reason: String, hint: &str, is_busy| Err(Refusal { reason, hint: hint.to_owned(), is_busy });
    let path = diagnosis.data_directory.display();
    if let Some(user) = diagnosis.presence.hidden_user() {
        return refusal(format!("'{path}' is in use by {user}"), "stop it first. Nothing was changed.", true);
    }
    if let Condition::Unreadable { reason } = &backup.condition {
        let reason = format!("{} cannot be read: {reason}", backup.name);
        return refusal(reason, "choose another of `backup-postgresql list`. Nothing was changed.", false);
    }
    refuse_damaged(backup, backups)?;
    if let Some(version) = backup.major_version
        && version != installed
    {
        let reason = format!("{} is of PostgreSQL {version}, and {installed} is to run", backup.name);
        return refusal(reason, "set POSTGRES_VERSION to its version. Nothing was changed.", false);
    }
    if let ClusterCondition::NotPostgres { examples } = &diagnosis.condition {
        let reason =
            format!("'{path}' is not a data directory of PostgreSQL: it holds {}", examples.join(", "));
        return refusal(
            reason,
            "set PGDATA to an empty directory, or to the cluster. Nothing was changed.",
            false,
        );
    }
    Ok(())
}

fn remarks(backup: &BackupSummary, replaces: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    let time = backup.created_at.format("%Y-%m-%d %H:%M:%S UTC");
    if replaces {
        remarks.push(format!("rows committed after {time} will not be in it; the present data is kept, and can be restored, too"));
    }
    remarks.extend(damage_remark(backup));
    remarks
}

/// What a person must know who restores a backup in the place of a standby.
pub(super) fn standby_remark(diagnosis: &Diagnosis) -> Option<String> {
    let sign = diagnosis.standby?;
    Some(format!(
        "the data directory is that of a standby ({sign}): what is restored is a primary of its own, which must not run \
         beside the first"
    ))
}

pub(super) fn damage_remark(backup: &BackupSummary) -> Option<String> {
    let count = backup.damaged_pages.len();
    (count > 0).then(|| format!("{count} pages of this backup were damaged already when it was made"))
}
