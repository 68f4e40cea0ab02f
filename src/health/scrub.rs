//! Whether the repository is read back often enough, and what that found.

use super::Check;
use crate::execute::Tools;
use crate::format;
use crate::plan::BackupSummary;
use crate::plan::scrub::{Freshness, ScrubState, freshness};
use crate::repository::Repository;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

const NAME: &str = "backup-scrub";
/// How many damaged things are named.
const MOST_NAMED: usize = 3;

/// Checks what reading back found, and when all was read last.
pub(super) fn check(
    tools: &Tools,
    repository: &Repository,
    backups: &[BackupSummary],
    now: DateTime<Utc>,
) -> Check {
    let state = match repository.scrub_state() {
        Ok(state) => state,
        Err(error) => return Check::warning(NAME, error.to_string(), "see to the backup directory"),
    };
    if let Some(check) = damage(&still_there(repository, state.clone()), backups) {
        return check;
    }
    let Some(interval) = tools.settings.scrub_interval else {
        return Check::ok(NAME, "off, by SCRUB_INTERVAL");
    };
    let interval = TimeDelta::from_std(interval).unwrap_or(TimeDelta::MAX);
    let Some(oldest) = backups.iter().map(|backup| backup.created_at).min() else {
        return Check::ok(NAME, "there is nothing to be read back");
    };
    let do_it = "start-services reads back by itself; elsewhere, let `backup-postgresql scrub` run each day";
    match freshness(&state, oldest, now, interval) {
        Freshness::Fresh { since } => {
            Check::ok(NAME, format!("everything was read back since {}", format::time(since)))
        }
        Freshness::NotYetDue { until } => {
            Check::ok(NAME, format!("not everything was read back yet; it is due by {}", format::time(until)))
        }
        Freshness::Never => Check::warning(NAME, "nobody ever read all of the backups back", do_it),
        Freshness::Overdue { since } => {
            let summary = format!("not everything was read back since {}", format::time(since));
            Check::issue(NAME, summary, do_it)
        }
    }
}

/// What a cleanup removed since it was read is no damage any more.
fn still_there(repository: &Repository, mut state: ScrubState) -> ScrubState {
    if !state.damaged.is_empty()
        && let Ok(items) = repository.scrub_items()
    {
        state.forget_all_but(&items);
    }
    state
}

fn damage(state: &ScrubState, backups: &[BackupSummary]) -> Option<Check> {
    if !state.damaged.is_empty() {
        let resting: Vec<String> = backups
            .iter()
            .filter(|backup| backup.verification.is_damaged())
            .map(|backup| backup.name.to_string())
            .collect();
        let resting = match resting.as_slice() {
            [] => "no backup was found to rest on it".to_owned(),
            names => format!("it is part of {}", names.join(", ")),
        };
        let summary = format!("damaged: {}; {resting}", named(&state.damaged));
        let remedy = "`backup-postgresql create` stores again what the cluster still has";
        return Some(Check::issue(NAME, summary, remedy));
    }
    if !state.unreadable.is_empty() {
        let summary = format!("could not be read back: {}", named(&state.unreadable));
        return Some(Check::warning(NAME, summary, "see to the disk of the backup directory"));
    }
    None
}

fn named(found: &BTreeMap<String, String>) -> String {
    let mut names: Vec<String> =
        found.iter().take(MOST_NAMED).map(|(key, reason)| format!("{key} ({reason})")).collect();
    let others = found.len().saturating_sub(MOST_NAMED);
    names.extend((others > 0).then(|| format!("{others} more")));
    names.join(", ")
}
