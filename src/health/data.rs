//! Whether the data directory is sound, as far as can be told without opening a page.

use super::Check;
use crate::cluster::history;
use crate::cluster::server_configuration::is_substituted;
use crate::execute::{Tools, verify};
use crate::plan::{ClusterCondition, Diagnosis, Finding, Presence, Remedy, Severity};
use crate::sys::ReadRoot;
use std::path::Path;

/// Checks that no proof of a backup was killed and left its copy, or a server on it.
fn check_proofs(tools: &Tools, checks: &mut Vec<Check>) {
    let Some((place, server)) = verify::left_behind(tools) else { return };
    let server = server
        .map_or_else(String::new, |pid| format!(", and a server on it that still runs (process {pid})"));
    let summary = format!(
        "a proof of a backup was killed and left a copy of a cluster in '{}'{server}",
        place.display()
    );
    let remedy = "`maintenance cleanup` ends and removes it, and so does the next start or verification";
    checks.push(Check::warning("proof", summary, remedy));
}

/// Checks the directory's integrity, and tells of a recovery that a person may not know of.
pub(super) fn check(tools: &Tools, diagnosis: &anyhow::Result<Diagnosis>, checks: &mut Vec<Check>) {
    let diagnosis = match diagnosis {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            let remedy = "see to it that the server's user can read the data directory";
            return checks.push(Check::issue("integrity", format!("{error:#}"), remedy));
        }
    };
    check_what_is_missing(diagnosis, checks);
    check_proofs(tools, checks);
    let findings: Vec<&Finding> =
        diagnosis.findings.iter().filter(|finding| !has_its_own_check(finding)).collect();
    let errors: Vec<&Finding> =
        diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let check = match (&diagnosis.condition, errors.first(), findings.first()) {
        (ClusterCondition::Absent | ClusterCondition::Empty, ..) if diagnosis.served.is_some() => {
            let summary = "the cluster that was served from the data directory is not in it any more";
            Check::issue("integrity", summary, "`init-postgresql --dry-run` tells what brings it back")
        }
        (ClusterCondition::Absent | ClusterCondition::Empty, ..) => {
            Check::issue("integrity", "there is no cluster", "`init-postgresql` makes one")
        }
        (ClusterCondition::UnknownVersion { .. }, ..) => Check::warning(
            "integrity",
            "the cluster is of a version that this pgbox does not know, so nothing was checked",
            "use a newer pgbox",
        ),
        (ClusterCondition::NotPostgres { .. }, ..) => {
            let summary = format!("'{}' holds no cluster of PostgreSQL", diagnosis.data_directory.display());
            Check::issue("integrity", summary, "`init-postgresql --dry-run` reports what is in it")
        }
        (ClusterCondition::OtherMajorVersion { found, wanted }, ..) => {
            let expected = match wanted {
                Some(wanted) => format!("POSTGRES_VERSION asks for {wanted}"),
                None => format!("PostgreSQL {found} is not installed"),
            };
            let summary =
                format!("the cluster is one of PostgreSQL {found}, and {expected}: it was not checked");
            let remedy = format!("use an image that has PostgreSQL {found}, or upgrade the cluster");
            Check::issue("version", summary, remedy)
        }
        (_, Some(worst), _) => {
            let summary = format!(
                "{} of {} findings are errors: {}",
                errors.len(),
                diagnosis.findings.len(),
                worst.summary()
            );
            Check::issue("integrity", summary, remedy_of(&errors))
        }
        (_, None, Some(finding)) => {
            Check::warning("integrity", finding.summary(), "`maintenance restart` puts it right")
        }
        (_, None, None) => {
            Check::ok("integrity", "control file, relation maps and their files, directories: all sound")
        }
    };
    checks.push(check);
    check_substitute(&tools.settings.data_directory, diagnosis, checks);
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

/// Returns what puts the worst of several errors right. A start leaves alone what only a person can put right.
fn remedy_of(errors: &[&Finding]) -> String {
    match errors.iter().find(|finding| finding.remedy.needs_a_person()) {
        Some(finding) => format!("{}; `init-postgresql --dry-run` reports all of it", finding.remedy),
        None => "`maintenance restart` repairs or restores; `init-postgresql --dry-run` shows how".to_owned(),
    }
}

/// Whether another check than that of integrity reports a finding.
fn has_its_own_check(finding: &Finding) -> bool {
    finding.code == "locale-missing" || finding.remedy == Remedy::LeaveOut
}

/// Checks for databases that nobody can connect to, and for lines of the configuration that are not in force. Neither
/// keeps the server from running, so that nobody may notice.
fn check_what_is_missing(diagnosis: &Diagnosis, checks: &mut Vec<Check>) {
    let evidence = |is_meant: fn(&Finding) -> bool| -> Vec<&str> {
        let meant = diagnosis.findings.iter().filter(|finding| is_meant(finding));
        meant.map(|finding| finding.evidence.as_str()).collect()
    };
    let locales = evidence(|finding| finding.code == "locale-missing");
    if !locales.is_empty() {
        let remedy =
            "install the locale (Debian: localedef), or use an image that has it; then `maintenance restart`";
        checks.push(Check::issue("locales", locales.join("; "), remedy));
    }
    let left_out = evidence(|finding| finding.remedy == Remedy::LeaveOut);
    if !left_out.is_empty() {
        let summary = format!("not in force, since the server refuses it: {}", left_out.join("; "));
        checks.push(Check::issue("configuration", summary, "put it right, then `maintenance restart`"));
    }
}

/// A server that was started with a copy of its configuration reads the owner's only when it is started again.
fn check_substitute(data_directory: &Path, diagnosis: &Diagnosis, checks: &mut Vec<Check>) {
    let runs = matches!(diagnosis.presence, Presence::Running { .. });
    let is_told = diagnosis.findings.iter().any(|finding| finding.remedy == Remedy::LeaveOut);
    let is_substituted = || ReadRoot::open(data_directory).is_ok_and(|root| is_substituted(&root));
    if runs && !is_told && is_substituted() {
        let summary = "the server still runs with a copy of its configuration, without what it refused";
        checks.push(Check::issue("configuration", summary, "`maintenance restart` takes the present one"));
    }
}
