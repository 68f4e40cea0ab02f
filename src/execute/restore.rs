//! Puts a backup that a person chose in the place of the present data.

use super::decide::{decide_restore, diagnose};
use super::ensure::{Carried, carry_out, ensure_running};
use super::in_place::choose_way;
use super::made_tablespace::{Surroundings, refuse_in_backup};
use super::release::wait_for_release;
use super::staging::ensure_room;
use super::stop::stop_meanwhile;
use super::{Tools, ensure::Ensured};
use crate::error::{Failure, Kind};
use crate::plan::delta::{SPARE_BYTES, Wish};
use crate::plan::recovery::{Action, Plan};
use crate::plan::{BackupSummary, ClusterCondition, Diagnosis};
use crate::sys::{OperationLock, ensure_directory};
use anyhow::Context;
use chrono::{DateTime, Utc};

/// Decides how to restore a backup, and changes nothing.
///
/// `now` gives the present data its name; with the same one, [`restore`] does what was shown.
pub fn plan_restore(
    tools: &Tools,
    backup: &BackupSummary,
    wish: Wish,
    now: DateTime<Utc>,
) -> anyhow::Result<Plan> {
    let diagnosis = diagnose(tools)?;
    let plan = decide_restore(tools, backup, &diagnosis, now)?;
    refuse_tablespaces(tools, backup, &diagnosis)?;
    choose_way(tools, plan, backup, &diagnosis, wish)
}

/// Restores a backup: stops the server, puts the backup's data in the place of the present data, the way that is best or
/// wished for, and sees the restored cluster serve.
///
/// # Errors
/// [`Kind::Busy`] and [`Kind::Refused`] before anything is touched. After any later failure the present data
/// is in place again, and its server runs again if it ran before.
pub fn restore(
    tools: &Tools,
    backup: &BackupSummary,
    wish: Wish,
    now: DateTime<Utc>,
) -> anyhow::Result<Ensured> {
    let decide = |diagnosis: &Diagnosis| decide_restore(tools, backup, diagnosis, now);
    let settle = |plan: Plan, diagnosis: &Diagnosis| {
        if matches!(diagnosis.condition, ClusterCondition::Absent | ClusterCondition::Empty) {
            let needed_bytes = backup.size_bytes.saturating_add(SPARE_BYTES);
            ensure_room(&tools.settings.data_directory, needed_bytes, &format!("restore {}", backup.name))?;
        }
        refuse_tablespaces(tools, backup, diagnosis)?;
        choose_way(tools, plan, backup, diagnosis, wish)
    };
    // Only now are the files what the server made of them. Where that leaves no way, the one from before is tried.
    let conclude = |plan: Plan, diagnosis: &Diagnosis| {
        let decided = decide(diagnosis)?;
        let Ok(last) = choose_way(tools, decided, backup, diagnosis, wish) else { return Ok(plan) };
        if is_in_place(&last) != is_in_place(&plan) {
            last.remarks.iter().for_each(|remark| tools.progress.note(remark));
        }
        Ok(last)
    };
    replace_present(tools, &Deciding { decide: &decide, settle: &settle, conclude: &conclude })
}

/// The present data, which comes back if anything fails, must not be written into.
fn refuse_tablespaces(tools: &Tools, backup: &BackupSummary, diagnosis: &Diagnosis) -> anyhow::Result<()> {
    let surroundings = match diagnosis.condition {
        ClusterCondition::Absent | ClusterCondition::Empty => Surroundings::Alone,
        _ => Surroundings::BesideCluster,
    };
    match tools.repository()? {
        Some(repository) => refuse_in_backup(repository, backup, surroundings),
        None => Ok(()),
    }
}

fn is_in_place(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step.action, Action::ReplaceInPlace(_)))
}

/// What a restore decides, and when.
pub(super) struct Deciding<'a> {
    /// What is to be done, by a look at the cluster. It is asked before anything is touched, and again once everybody
    /// else is kept out.
    pub(super) decide: &'a dyn Fn(&Diagnosis) -> anyhow::Result<Plan>,
    /// Whether there is room for it, and which way it goes. Nothing was changed yet, and the data directory is there.
    pub(super) settle: &'a dyn Fn(Plan, &Diagnosis) -> anyhow::Result<Plan>,
    /// The last word, once a server that ran is stopped: what it wrote until then may matter.
    pub(super) conclude: &'a dyn Fn(Plan, &Diagnosis) -> anyhow::Result<Plan>,
}

/// Carries out what was decided, and puts the present data back where that fails.
pub(super) fn replace_present(tools: &Tools, deciding: &Deciding) -> anyhow::Result<Ensured> {
    const ACTIVITY: &str = "backup-postgresql restore";
    let path = &tools.settings.data_directory;
    let diagnosis = diagnose(tools)?;
    (deciding.decide)(&diagnosis)?;
    if diagnosis.condition == ClusterCondition::Absent {
        ensure_directory(path, 0o700, None).with_context(|| format!("make '{}'", path.display()))?;
    }
    let operation = OperationLock::take(path, ACTIVITY).context("begin the restore")?;
    // Between the first look and the lock, another command may have been at work.
    let diagnosis = diagnose(tools)?;
    let decided = (deciding.decide)(&diagnosis)?;
    let plan = (deciding.settle)(decided, &diagnosis)?;
    let was_running = stop_meanwhile(tools, &operation)?.is_some();
    wait_for_release(tools, path)?;
    let concluded = if was_running { (deciding.conclude)(plan, &diagnosis) } else { Ok(plan) };
    match concluded.and_then(|plan| carry_out(plan, &diagnosis, tools, ACTIVITY)) {
        Ok(Carried::Serving(ensured)) => Ok(*ensured),
        Ok(Carried::LookAgain(_)) => {
            Err(Failure::new(Kind::Failed, "the restored cluster was not started").into())
        }
        Err(error) => {
            drop(operation);
            if was_running {
                start_former(tools, ACTIVITY);
            }
            Err(error)
        }
    }
}

fn start_former(tools: &Tools, activity: &str) {
    match ensure_running(tools, activity) {
        Ok(ensured) => tools.progress.note(&format!(
            "the server runs again with the data that was there before (port {})",
            ensured.address.port
        )),
        Err(error) => tools.progress.note(&format!("the server could not be started again: {error:#}")),
    }
}
