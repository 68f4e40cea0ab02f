//! Puts a backup that a person chose in the place of the present data.

use super::ensure::{Carried, carry_out, decide_restore, diagnose, ensure_running};
use super::staging::ensure_room;
use super::stop::stop_meanwhile;
use super::{Tools, ensure::Ensured};
use crate::error::{Failure, Kind};
use crate::plan::recovery::Plan;
use crate::plan::{BackupSummary, ClusterCondition, Diagnosis};
use crate::sys::{OperationLock, ensure_directory};
use anyhow::Context;
use chrono::{DateTime, Utc};

/// What restoring needs beyond the backup's own size: the segments that replay will write.
pub(super) const SPARE_BYTES: u64 = 64 << 20;

/// Decides how to restore a backup, and changes nothing.
///
/// `now` gives the present data its name; with the same one, [`restore`] does what was shown.
pub fn plan_restore(tools: &Tools, backup: &BackupSummary, now: DateTime<Utc>) -> anyhow::Result<Plan> {
    let diagnosis = diagnose(tools)?;
    decide_restore(tools, backup, &diagnosis, now)
}

/// Restores a backup: stops the server, sets the present data aside, builds the backup's beside it, exchanges
/// them, and sees the restored cluster serve.
///
/// # Errors
/// [`Kind::Busy`] and [`Kind::Refused`] before anything is touched. After any later failure the present data
/// is in place again, and its server runs again if it ran before.
pub fn restore(tools: &Tools, backup: &BackupSummary, now: DateTime<Utc>) -> anyhow::Result<Ensured> {
    let decide = |diagnosis: &Diagnosis| decide_restore(tools, backup, diagnosis, now);
    let needed_bytes = backup.size_bytes.saturating_add(SPARE_BYTES);
    replace_present(tools, &format!("restore {}", backup.name), needed_bytes, &decide, &Ok)
}

/// Carries out what `decide` says once everybody else is kept out. When the server is stopped, `conclude` has the last
/// word: what it wrote until then may matter.
pub(super) fn replace_present(
    tools: &Tools,
    purpose: &str,
    needed_bytes: u64,
    decide: &dyn Fn(&Diagnosis) -> anyhow::Result<Plan>,
    conclude: &dyn Fn(Plan) -> anyhow::Result<Plan>,
) -> anyhow::Result<Ensured> {
    const ACTIVITY: &str = "backup-postgresql restore";
    let path = &tools.settings.data_directory;
    let diagnosis = diagnose(tools)?;
    decide(&diagnosis)?;
    if diagnosis.condition == ClusterCondition::Absent {
        ensure_directory(path, 0o700, None).with_context(|| format!("make '{}'", path.display()))?;
    }
    ensure_room(path, needed_bytes, purpose)?;
    let operation = OperationLock::take(path, ACTIVITY).context("begin the restore")?;
    // Between the first look and the lock, another command may have been at work.
    let diagnosis = diagnose(tools)?;
    let plan = decide(&diagnosis)?;
    let was_running = stop_meanwhile(tools, &operation)?.is_some();
    super::ensure::wait_for_release(path)?;
    match conclude(plan).and_then(|plan| carry_out(plan, &diagnosis, tools, ACTIVITY)) {
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
