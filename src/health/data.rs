//! Whether the data directory is sound, as far as can be told without opening a page.

use super::Check;
use crate::cluster::history;
use crate::execute::Tools;
use crate::plan::{ClusterCondition, Diagnosis, Finding, Severity};

/// Checks the directory's integrity, and tells of a recovery that a person may not know of.
pub(super) fn check(tools: &Tools, diagnosis: &anyhow::Result<Diagnosis>, checks: &mut Vec<Check>) {
    let diagnosis = match diagnosis {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            let remedy = "see to it that the server's user can read the data directory";
            return checks.push(Check::issue("integrity", format!("{error:#}"), remedy));
        }
    };
    let errors: Vec<&Finding> =
        diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let check = match (&diagnosis.condition, errors.first(), diagnosis.findings.first()) {
        (ClusterCondition::Absent | ClusterCondition::Empty, ..) if diagnosis.served.is_some() => {
            let summary = "the cluster that was served from the data directory is not in it any more";
            Check::issue("integrity", summary, "`init-postgresql --dry-run` tells what brings it back")
        }
        (ClusterCondition::Absent | ClusterCondition::Empty, ..) => {
            Check::issue("integrity", "there is no cluster", "`init-postgresql` makes one")
        }
        (ClusterCondition::NotPostgres { .. } | ClusterCondition::OtherMajorVersion { .. }, ..) => {
            let summary =
                format!("'{}' is not a cluster that can be served", diagnosis.data_directory.display());
            Check::issue("integrity", summary, "`init-postgresql --dry-run` tells why")
        }
        (_, Some(worst), _) => {
            let summary = format!(
                "{} of {} findings are errors: {}",
                errors.len(),
                diagnosis.findings.len(),
                worst.summary()
            );
            Check::issue(
                "integrity",
                summary,
                "`maintenance restart` repairs or restores; `init-postgresql --dry-run` shows how",
            )
        }
        (_, None, Some(finding)) => {
            Check::warning("integrity", finding.summary(), "`maintenance restart` puts it right")
        }
        (_, None, None) => {
            Check::ok("integrity", "control file, relation maps and their files, directories: all sound")
        }
    };
    checks.push(check);
    if tools.settings.allow_empty {
        let summary = "ALLOW_EMPTY is on: if the data directory is lost, an empty cluster takes its place";
        checks.push(Check::issue("allow-empty", summary, "switch it off, now that there is a cluster"));
    }
    if let Ok(events) = history::read(&tools.settings.data_directory)
        && let Some(last) = events.iter().rev().find(|event| event.set_aside.is_some())
    {
        let summary =
            format!("last recovery: {}, {}", last.time.format("%Y-%m-%d %H:%M UTC"), last.done.join("; "));
        checks.push(Check::ok("recovery", summary));
    }
}
