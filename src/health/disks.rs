//! How full the disks are.

use super::Check;
use crate::error::hint_of_cause;
use crate::format::bytes;
use crate::settings::Settings;
use crate::sys::{disk_space, within};
use std::path::Path;
use std::time::Duration;

const WARNING_PERCENT: u64 = 80;
const ISSUE_PERCENT: u64 = 95;
/// How long a file system may take to say how full it is.
const LIMIT: Duration = Duration::from_secs(10);
const DATA: &str = "disk-data";
/// With less a server soon stops for want of WAL: four segments of the usual size.
const LEAST_DATA_BYTES: u64 = 64 << 20;

/// Checks the file systems of data, backups and logs.
pub(super) fn check(settings: &Settings, checks: &mut Vec<Check>) {
    checks.push(check_one(DATA, &settings.data_directory));
    checks.push(check_one("disk-backups", &settings.backup_directory));
    checks.push(check_one("disk-logs", &settings.log_directory));
}

fn check_one(name: &'static str, path: &Path) -> Check {
    // A mount whose server is gone must not keep the other checks from being made.
    let asked = path.to_path_buf();
    let space = match within(LIMIT, move || disk_space(&asked)).unwrap_or_else(|error| Err(error.into())) {
        Ok(space) => space,
        Err(error) => {
            let summary = format!("could not ask how full '{}' is: {error}", path.display());
            let remedy = hint_of_cause(&error);
            let remedy = remedy.unwrap_or_else(|| "see to it that the directory is there".to_owned());
            return Check::warning(name, summary, remedy);
        }
    };
    let percent = space.used_percent();
    let free = bytes(space.available_bytes);
    let summary = format!("'{}' is on a disk {percent} % full, {free} free", path.display());
    let remedy = "free space outside the data directory; never delete pg_wal";
    let is_short = name == DATA && space.available_bytes < LEAST_DATA_BYTES;
    match percent {
        _ if is_short => Check::issue(name, summary, remedy),
        ISSUE_PERCENT.. => Check::issue(name, summary, remedy),
        WARNING_PERCENT.. => Check::warning(name, summary, remedy),
        _ => Check::ok(name, summary),
    }
}
