//! Removing backups and archived WAL that retention lets go, and the packs that nothing refers to any more.

use super::Tools;
use super::verify::clear_left_behind;
use crate::cluster::inspect::read_journal;
use crate::cluster::{control_file, history};
use crate::pg::SystemIdentifier;
use crate::plan::archive::{Archived, WalRemoval, WalRetention};
use crate::plan::{
    BackupName, BackupSummary, KeptPeriods, RetentionPlan, RetentionPolicy, Verdict, retention,
};
use crate::repository::{ArchivedFile, Repository, SweepReport};
use crate::sys::ReadRoot;
use anyhow::Context;

/// Decides which backups stay, and changes nothing.
pub fn plan_cleanup(tools: &Tools, repository: &Repository) -> anyhow::Result<RetentionPlan> {
    plan_cleanup_after(tools, repository, None)
}

fn plan_cleanup_after(
    tools: &Tools,
    repository: &Repository,
    just_made: Option<BackupName>,
) -> anyhow::Result<RetentionPlan> {
    let backups = repository.backups().context("list the backups")?;
    let max_backups = usize::try_from(tools.settings.max_backups)?;
    let periods = KeptPeriods {
        daily: usize::try_from(tools.settings.keep_daily)?,
        weekly: usize::try_from(tools.settings.keep_weekly)?,
        monthly: usize::try_from(tools.settings.keep_monthly)?,
    };
    let policy = RetentionPolicy { max_backups, periods, restored_from: restored_from(tools), just_made };
    let current = current_system(tools);
    let mut plan = retention(&backups, &policy, current);
    keep_what_is_half_restored(tools, &mut plan)?;
    let removals = plan.removals();
    let kept: Vec<&BackupSummary> =
        backups.iter().filter(|backup| !removals.contains(&backup.name)).collect();
    let limit_bytes = tools.settings.wal_archive_limit_bytes;
    plan.wal = WalRetention { kept: &kept, current, limit_bytes }.decide(&archived(repository)?);
    Ok(plan)
}

/// Until a restore that changes the present files is over, the repository alone has what was there and what is to be.
fn keep_what_is_half_restored(tools: &Tools, plan: &mut RetentionPlan) -> anyhow::Result<()> {
    let Ok(root) = ReadRoot::open(&tools.settings.data_directory) else { return Ok(()) };
    let Some(journal) = read_journal(&root).context("read the journal")? else { return Ok(()) };
    let is_needed = |name: BackupName| [journal.aside, journal.restored_from].contains(&Some(name));
    for decision in plan.decisions.iter_mut().filter(|decision| is_needed(decision.name)) {
        decision.verdict = Verdict::Keep;
        decision.reason = format!("needed to finish '{}', which was cut short", journal.operation);
    }
    Ok(())
}

/// Every archived file of every cluster.
fn archived(repository: &Repository) -> anyhow::Result<Vec<(SystemIdentifier, Vec<Archived>)>> {
    let mut clusters = Vec::new();
    for cluster in repository.archived_clusters().context("list the archived WAL")? {
        let files = repository.wal_archive(cluster).files().context("list the archived WAL")?;
        let as_data = |file: ArchivedFile| Archived {
            name: file.name,
            stored_bytes: file.stored_bytes,
            archived_ns: file.archived_ns,
        };
        clusters.push((cluster, files.into_iter().map(as_data).collect()));
    }
    Ok(clusters)
}

/// What a cleanup removed.
#[derive(Debug)]
pub struct Cleaned {
    /// The backups.
    pub backups: Vec<BackupName>,
    /// The archived WAL.
    pub wal: Vec<WalRemoval>,
    /// What nothing referred to any more.
    pub swept: SweepReport,
}

/// Removes what a plan lets go, as far as it is still so, and sweeps the packs. The backup that was just made stays.
///
/// # Errors
/// Killed or failed at any point, no backup that is listed has lost anything, nor WAL that it needs.
pub fn clean_up(
    tools: &Tools,
    repository: &Repository,
    just_made: Option<BackupName>,
) -> anyhow::Result<Cleaned> {
    clear_left_behind(tools);
    let lock = repository.lock_exclusively("removing old backups").context("lock the repository")?;
    let plan = plan_cleanup_after(tools, repository, just_made)?;
    let removals = plan.removals();
    for name in &removals {
        repository.remove(&lock, *name).with_context(|| format!("remove {name}"))?;
    }
    for removal in &plan.wal {
        repository
            .wal_archive(removal.system_identifier)
            .remove(&lock, &removal.names)
            .context("remove archived WAL")?;
    }
    let swept = repository.sweep(&lock).context("sweep the repository")?;
    Ok(Cleaned { backups: removals, wal: plan.wal, swept })
}

/// The backup that the present cluster was restored from last, as its history has it.
fn restored_from(tools: &Tools) -> Option<BackupName> {
    let events = history::read(&tools.settings.data_directory).ok()?;
    events.iter().rev().find_map(|event| event.restored_from)
}

/// The cluster whose backups retention counts; `None` where its control file cannot be read.
fn current_system(tools: &Tools) -> Option<SystemIdentifier> {
    let root = ReadRoot::open(&tools.settings.data_directory).ok()?;
    Some(control_file::read_served(&root).ok()?.1.system_identifier)
}
