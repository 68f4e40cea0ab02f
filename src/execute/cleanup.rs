//! Removing backups that retention lets go, and the packs that nothing refers to any more.

use super::Tools;
use crate::cluster::history;
use crate::pg::SystemIdentifier;
use crate::pg::control_file::{self, ControlFile};
use crate::plan::{BackupName, KeptPeriods, RetentionPlan, RetentionPolicy, retention};
use crate::repository::{Repository, SweepReport};
use crate::sys::ReadRoot;
use anyhow::Context;

/// Decides which backups stay, and changes nothing.
pub fn plan_cleanup(tools: &Tools, repository: &Repository) -> anyhow::Result<RetentionPlan> {
    let backups = repository.backups().context("list the backups")?;
    let max_backups = usize::try_from(tools.settings.max_backups)?;
    let periods = KeptPeriods {
        daily: usize::try_from(tools.settings.keep_daily)?,
        weekly: usize::try_from(tools.settings.keep_weekly)?,
        monthly: usize::try_from(tools.settings.keep_monthly)?,
    };
    let policy = RetentionPolicy { max_backups, periods, restored_from: restored_from(tools) };
    Ok(retention(&backups, &policy, current_system(tools)))
}

/// Removes what a plan lets go, as far as it is still so, and sweeps the packs.
///
/// # Errors
/// Killed or failed at any point, no backup that is listed has lost anything.
pub fn clean_up(tools: &Tools, repository: &Repository) -> anyhow::Result<(Vec<BackupName>, SweepReport)> {
    let lock = repository.lock_exclusively("removing old backups").context("lock the repository")?;
    let removals = plan_cleanup(tools, repository)?.removals();
    for name in &removals {
        repository.remove(&lock, *name).with_context(|| format!("remove {name}"))?;
    }
    let swept = repository.sweep(&lock).context("sweep the repository")?;
    Ok((removals, swept))
}

/// The backup that the present cluster was restored from last, as its history has it.
fn restored_from(tools: &Tools) -> Option<BackupName> {
    let events = history::read(&tools.settings.data_directory).ok()?;
    events.iter().rev().find_map(|event| event.restored_from)
}

/// The cluster whose backups retention counts; `None` where its control file cannot be read.
fn current_system(tools: &Tools) -> Option<SystemIdentifier> {
    let root = ReadRoot::open(&tools.settings.data_directory).ok()?;
    let limit = u64::try_from(control_file::FILE_SIZE_BYTES).ok()?;
    let bytes = root.read_bounded("global/pg_control", limit).ok()?;
    Some(ControlFile::parse(&bytes).ok()?.system_identifier)
}
