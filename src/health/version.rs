//! Whether the PostgreSQL community still mends the version that runs.

use super::Check;
use crate::execute::Tools;
use crate::pg::version::last_release;
use chrono::{DateTime, Utc};

/// Warns where the last release of the major version is out.
pub(super) fn check(tools: &Tools, now: DateTime<Utc>, checks: &mut Vec<Check>) {
    let major = tools.installation.version;
    let Some(date) = last_release(major).filter(|date| *date < now.date_naive()) else { return };
    checks.push(Check::warning(
        "version",
        format!("PostgreSQL {major} had its last release on {date}: faults and security holes found since stay open"),
        "move to a newer major version, with pg_upgrade or a dump",
    ));
}
