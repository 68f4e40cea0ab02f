//! How full the disks are.

use super::Check;
use crate::error::hint_of_cause;
use crate::format::bytes;
use crate::settings::Settings;
use crate::sys::disk_space;
use std::path::Path;

const WARNING_PERCENT: u64 = 80;
const ISSUE_PERCENT: u64 = 95;
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
    let space = match disk_space(path) {
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
