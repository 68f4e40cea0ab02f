//! How old the newest backup is, and what verifications found.

use super::Check;
use crate::error::hint_of;
use crate::execute::Tools;
use crate::plan::order::from_the_future;
use crate::plan::{BackupKind, BackupSummary, Verification};
use chrono::{DateTime, TimeDelta, Utc};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Checks that there is a good backup, not older than it should be.
pub(super) fn check(tools: &Tools, now: DateTime<Utc>, checks: &mut Vec<Check>) {
    checks.push(verdict(tools, now));
    if tools.repository().is_ok() {
        checks.extend(tools.settings.backup_key_file.as_deref().and_then(key_file));
    }
    if let Ok(Some(repository)) = tools.repository()
        && let Ok(backups) = repository.backups()
    {
        checks.push(verification(&backups, now));
        checks.push(super::scrub::check(tools, repository, &backups, now));
        checks.extend(clock(&backups, now));
    }
}

/// Backups from the future: the clock was ahead when they were made, or is behind now.
fn clock(backups: &[BackupSummary], now: DateTime<Utc>) -> Option<Check> {
    let ahead: Vec<String> = from_the_future(backups, now).map(|backup| backup.name.to_string()).collect();
    if ahead.is_empty() {
        return None;
    }
    let summary = format!(
        "made at a time that is still to come: {}; they are ordered by their WAL, not by their time",
        ahead.join(", ")
    );
    let remedy = "set the clock of this machine right; if it is right, it was not when they were made";
    Some(Check::warning("backup-clock", summary, remedy))
}

/// Whether the key that backups are encrypted with is for everybody to read. That it does not open them, `backup-age`
/// tells.
///
/// It is no reason to refuse it: Kubernetes mounts secrets so, in containers where there is nobody else.
fn key_file(path: &Path) -> Option<Check> {
    const NAME: &str = "backup-key";
    let mode = path.metadata().ok()?.permissions().mode();
    let shown = path.display();
    if mode & 0o004 == 0 {
        return Some(Check::ok(NAME, format!("backups are encrypted with the key in '{shown}'")));
    }
    let summary = format!("everybody on this machine may read '{shown}', the key of the backups");
    let remedy = "give it to the server's user alone (chmod 400), or in Kubernetes to its group (fsGroup, and \
                  defaultMode: 0440 of the secret's volume)";
    Some(Check::warning(NAME, summary, remedy))
}

/// What the verdicts beside the backups say.
fn verification(backups: &[BackupSummary], now: DateTime<Utc>) -> Check {
    const NAME: &str = "backup-verification";
    let names = |is_meant: &dyn Fn(&Verification) -> bool| -> Vec<String> {
        let meant = backups.iter().filter(|backup| is_meant(&backup.verification));
        meant.map(|backup| backup.name.to_string()).collect()
    };
    let damaged = names(&Verification::is_damaged);
    if !damaged.is_empty() {
        let remedy = "`backup-postgresql show NAME` names what; `backup-postgresql create` stores it anew, and \
                      `backup-postgresql verify --all` looks again";
        return Check::issue(NAME, format!("damaged: {}", damaged.join(", ")), remedy);
    }
    let unreadable = names(&|verification| matches!(verification, Verification::Unreadable { .. }));
    if !unreadable.is_empty() {
        let summary = format!("the verdict on {} cannot be read", unreadable.join(", "));
        return Check::warning(NAME, summary, "`backup-postgresql verify --all` reaches a new one");
    }
    let time = |backup: &BackupSummary| backup.verification.verdict().map(|verdict| verdict.verified_at);
    let failed: Vec<&BackupSummary> = backups
        .iter()
        .filter(|backup| backup.verification.proof().is_some_and(|proof| !proof.is_passed()))
        .collect();
    if let Some(newest) = failed.first() {
        let summary = format!("not all is well in {}, restored and recovered", newest.name);
        return Check::issue(
            NAME,
            summary,
            "`backup-postgresql show NAME` names what; see to the server's own data, too",
        );
    }
    match backups.iter().filter_map(|backup| Some((time(backup)?, backup.name))).max() {
        Some((time, name)) => {
            let hours = (now - time).num_hours();
            let proofs = backups
                .iter()
                .filter_map(|backup| Some((backup.verification.proof()?.proven_at, backup.name)));
            let proven = proofs.max().map_or_else(
                || "none was proven".to_owned(),
                |(time, name)| format!("{name} was proven {} h ago", (now - time).num_hours()),
            );
            Check::ok(NAME, format!("{name} was found sound {hours} h ago; {proven}"))
        }
        None => Check::ok(NAME, "none was read whole at once; `backup-postgresql verify latest` does"),
    }
}

fn verdict(tools: &Tools, now: DateTime<Utc>) -> Check {
    const NAME: &str = "backup-age";
    let make_one = "`backup-postgresql create` makes one";
    let repository = match tools.repository() {
        Ok(Some(repository)) => repository,
        Ok(None) => return Check::warning(NAME, "there is no backup yet", make_one),
        Err(error) => {
            let remedy = hint_of(&error).unwrap_or_else(|| "see to the backup directory".to_owned());
            return Check::issue(NAME, error.to_string(), remedy);
        }
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
