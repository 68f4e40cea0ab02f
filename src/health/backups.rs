//! How old the newest backup is.

use super::Check;
use crate::execute::Tools;
use crate::plan::{BackupKind, BackupSummary};
use chrono::{DateTime, TimeDelta, Utc};

/// Checks that there is a good backup, not older than it should be.
pub(super) fn check(tools: &Tools, now: DateTime<Utc>, checks: &mut Vec<Check>) {
    checks.push(verdict(tools, now));
}

fn verdict(tools: &Tools, now: DateTime<Utc>) -> Check {
    const NAME: &str = "backup-age";
    let make_one = "`backup-postgresql create` makes one";
    let repository = match tools.repository() {
        Ok(Some(repository)) => repository,
        Ok(None) => return Check::warning(NAME, "there is no backup yet", make_one),
        Err(error) => return Check::issue(NAME, error.to_string(), "see to the backup directory"),
    };
    let backups = match repository.backups() {
        Ok(backups) => backups,
        Err(error) => return Check::issue(NAME, error.to_string(), "see to the backup directory"),
    };
    let is_point = |backup: &&BackupSummary| backup.name.kind() == BackupKind::Backup;
    let Some(newest) = backups.iter().filter(is_point).find(|backup| backup.is_good()) else {
        return Check::warning(NAME, "there is no good backup", make_one);
    };
    let age = now - newest.created_at;
    let hours = age.num_hours();
    let summary = format!("the newest good backup is {}, {hours} h old", newest.name);
    let due = tools.settings.backup_interval.and_then(|interval| TimeDelta::from_std(interval).ok());
    match due {
        // A backup is skipped while nothing changes, so its age alone is no issue.
        Some(interval) if age > interval * 2 => Check::warning(NAME, summary, make_one),
        _ => Check::ok(NAME, summary),
    }
}
