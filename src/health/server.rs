//! Whether a server runs and serves, and what keeps it busy.

use super::Check;
use crate::cluster::last_failure::LastFailure;
use crate::cluster::readiness::{Standing, verify_by_two_connections};
use crate::cluster::session::{ServerAddress, describe};
use crate::cluster::standby::{self, Following};
use crate::execute::start::superuser_login;
use crate::execute::{Tools, overridden};
use crate::format;
use crate::plan::{Diagnosis, Finding, Presence};
use crate::sys::{ReadRoot, has_stop_marker};
use postgres::Client;
use std::path::Path;

/// A query that runs longer than this is worth a look.
const LONG_QUERY_MINUTES: i32 = 5;

/// Checks that a server runs and that it serves, by two connections. Returns a session for further checks.
pub(super) fn check(
    tools: &Tools,
    diagnosis: &anyhow::Result<Diagnosis>,
    checks: &mut Vec<Check>,
) -> Option<Client> {
    let path = &tools.settings.data_directory;
    // Only who uses the directory is asked for here; what is in it is another check.
    match diagnosis.as_ref().map(|diagnosis| &diagnosis.presence) {
        Ok(Presence::Running { pid }) => {
            checks.push(Check::ok("running", format!("the server runs (process {pid})")));
        }
        Ok(presence @ (Presence::Locked { .. } | Presence::Elsewhere { .. })) => {
            let user = presence.hidden_user().unwrap_or_default();
            let summary =
                format!("no server is to be seen from here, and the data directory is in use by {user}");
            let remedy =
                "run this where that server runs, or give this container a data directory of its own";
            checks.push(Check::issue("running", summary, remedy));
            return None;
        }
        Ok(Presence::Free) => {
            checks.push(not_running(path, diagnosis.as_ref().ok()));
            return None;
        }
        Err(error) => {
            checks.push(Check::issue(
                "running",
                format!("could not look: {error:#}"),
                "see to the data directory",
            ));
            return None;
        }
    }
    readiness(tools, checks)
}

/// Why no server runs, as far as that was noted. A start that failed after a person stopped the server is the later.
fn not_running(data_directory: &Path, diagnosis: Option<&Diagnosis>) -> Check {
    let needs_a_person = |finding: &&Finding| finding.remedy.needs_a_person();
    let refused = diagnosis.and_then(|diagnosis| diagnosis.findings.iter().find(needs_a_person));
    if let Some(finding) = refused {
        let summary = format!("no server can be started: {}", finding.summary());
        return Check::issue("running", summary, finding.remedy.to_string());
    }
    if let Some(LastFailure { time, message }) = LastFailure::read(data_directory) {
        let summary = format!("the last start failed ({}): {message}", format::time(time));
        return Check::issue("running", summary, "put that right; `maintenance start` tries again");
    }
    if has_stop_marker(data_directory) {
        return Check::issue("running", "the server was stopped by hand", "`maintenance start` starts it");
    }
    Check::issue("running", "no server runs", "`maintenance start` starts it; if it cannot, it says why")
}

fn readiness(tools: &Tools, checks: &mut Vec<Check>) -> Option<Client> {
    let login = superuser_login(tools);
    let address = ReadRoot::open(&tools.settings.data_directory).ok().as_ref().and_then(ServerAddress::read);
    let Some(address) = address else {
        checks.push(Check::issue(
            "readiness",
            "the server has not opened its port yet",
            "wait, or see its log",
        ));
        return None;
    };
    if let Err(error) = verify_by_two_connections(&address, &login) {
        checks.push(match error.standing() {
            // It may serve everybody else: whoever restarts what is not well must not restart it.
            Standing::RefusesUs => {
                let summary = format!("the server answers, and did not serve us: {error}");
                Check::warning("readiness", summary, error.advice())
            }
            Standing::Passing | Standing::Unknown | Standing::Suspect => {
                Check::issue("readiness", error.to_string(), "see the server's log")
            }
        });
        return None;
    }
    let root = ReadRoot::open(&tools.settings.data_directory).ok();
    checks.extend(root.as_ref().and_then(standby::of_running).map(role));
    if root.as_ref().is_some_and(|root| standby::is_paused(root, &address, &login)) {
        let (what, advice) = standby::PAUSED;
        checks.push(Check::warning("recovery", what, advice));
    }
    checks.push(Check::ok("readiness", format!("two connections to port {} were served", address.port)));
    address.connect(&login).ok()
}

/// That the server is a standby. One that follows nobody was most likely meant to take writes.
fn role(following: Following) -> Check {
    let (what, advice) = following.words();
    match following {
        Following::Another => Check::ok("standby", what),
        Following::Nothing => Check::issue("standby", what, advice),
    }
}

/// Checks that the server runs with all that its configuration asks for.
pub(super) fn check_overridden(data_directory: &Path, checks: &mut Vec<Check>) {
    let noted = overridden::noted(data_directory);
    if !noted.is_empty() {
        let remedy = "put that setting right, then `maintenance restart`";
        checks.push(Check::issue("configuration", noted.join("; "), remedy));
    }
}

/// Checks that what commits reaches the disk.
pub(super) fn check_durability(session: &mut Client, checks: &mut Vec<Check>) {
    let asked = session.query_one("SELECT pg_catalog.current_setting('fsync')", &[]);
    let value = asked.and_then(|row| row.try_get::<_, String>(0));
    if value.is_ok_and(|value| value == "off") {
        let summary = "fsync is off: a crash of the machine may lose rows and damage the cluster, even one that was shut \
                       down cleanly a moment before";
        checks.push(Check::warning("fsync", summary, "set fsync = on, then `maintenance restart`"));
    }
}

/// Checks for queries that have run for long.
pub(super) fn check_long_queries(session: &mut Client, checks: &mut Vec<Check>) {
    const QUERY: &str = "SELECT pid, usename::text, datname::text, extract(epoch FROM now() - query_start)::int8 \
        FROM pg_catalog.pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' \
        AND pid <> pg_backend_pid() AND now() - query_start > make_interval(mins => $1) ORDER BY 4 DESC";
    let rows = match session.query(QUERY, &[&LONG_QUERY_MINUTES]) {
        Ok(rows) => rows,
        Err(error) => {
            let summary = format!("could not ask for long queries: {}", describe(&error));
            return checks.push(Check::warning("long-queries", summary, "see the server's log"));
        }
    };
    let Some(longest) = rows.first() else {
        return checks.push(Check::ok(
            "long-queries",
            format!("no query runs longer than {LONG_QUERY_MINUTES} minutes"),
        ));
    };
    let (pid, seconds): (i32, i64) = (longest.get(0), longest.get(3));
    let user = longest.get::<_, Option<String>>(1).unwrap_or_default();
    let database = longest.get::<_, Option<String>>(2).unwrap_or_default();
    let summary = format!(
        "{} run longer than {LONG_QUERY_MINUTES} minutes; the longest is process {pid} of {user} in {database}, {seconds} s",
        rows.len()
    );
    let remedy = format!("`SELECT pg_cancel_backend({pid})` ends it, if it should not run");
    checks.push(Check::warning("long-queries", summary, remedy));
}
