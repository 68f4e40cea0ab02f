//! Whether the running server archives its WAL: by its own account, whoever set its archiving up.

use super::Check;
use crate::cluster::session::describe;
use crate::format;
use chrono::{DateTime, Utc};
use postgres::Client;

const NAME: &str = "archiving";
const QUERY: &str = "SELECT pg_catalog.current_setting('archive_mode'), \
    (extract(epoch FROM last_archived_time) * 1e6)::int8, \
    (extract(epoch FROM last_failed_time) * 1e6)::int8, last_failed_wal FROM pg_catalog.pg_stat_archiver";

/// What the server says about its archiving (`pgstat_archiver.c`).
#[derive(Clone, Debug, Default)]
struct Account {
    mode: String,
    archived_at: Option<DateTime<Utc>>,
    failed_at: Option<DateTime<Utc>>,
    failed_file: Option<String>,
}

/// Checks that the newest attempt to archive a file succeeded, and that there are attempts where there should be.
pub(super) fn check(session: &mut Client, is_wanted: bool, checks: &mut Vec<Check>) {
    checks.extend(match ask(session) {
        Ok(account) => verdict(&account, is_wanted),
        Err(error) => {
            let summary = format!("could not ask the server how archiving goes: {}", describe(&error));
            Some(Check::warning(NAME, summary, "see the server's log"))
        }
    });
}

fn ask(session: &mut Client) -> Result<Account, postgres::Error> {
    let row = session.query_one(QUERY, &[])?;
    let time = |micros: Option<i64>| micros.and_then(DateTime::from_timestamp_micros);
    Ok(Account {
        mode: row.try_get(0)?,
        archived_at: time(row.try_get(1)?),
        failed_at: time(row.try_get(2)?),
        failed_file: row.try_get(3)?,
    })
}

/// Returns nothing where archiving goes well: up to where it came is in another check.
fn verdict(account: &Account, is_wanted: bool) -> Option<Check> {
    if account.mode == "off" {
        let summary = "archive_mode is off in the server, so no WAL is archived";
        let remedy = "remove archive_mode from the cluster's configuration, then `maintenance restart`; or set \
                      WAL_ARCHIVE=off";
        return is_wanted.then(|| Check::warning(NAME, summary, remedy));
    }
    let failed_at = account.failed_at.filter(|failed| account.archived_at < Some(*failed))?;
    let file = account.failed_file.as_deref().unwrap_or("a WAL file");
    let summary = format!("the server failed to archive {file} ({}), and keeps it", format::time(failed_at));
    Some(Check::issue(NAME, summary, "the server's log says why; it tries again by itself"))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::nothing_archived_yet("on", None, None, true, None)]
    #[case::archived("on", Some(2), None, true, None)]
    #[case::failed_before("on", Some(2), Some(1), true, None)]
    #[case::failed_since("on", Some(1), Some(2), true, Some(Level::Issue))]
    #[case::failed_from_the_start("always", None, Some(2), false, Some(Level::Issue))]
    #[case::off_though_wanted("off", None, None, true, Some(Level::Warning))]
    #[case::off_and_not_wanted("off", None, Some(1), false, None)]
    fn the_newest_attempt_decides(
        #[case] mode: &str,
        #[case] archived: Option<i64>,
        #[case] failed: Option<i64>,
        #[case] is_wanted: bool,
        #[case] expected: Option<Level>,
    ) {
        let time = |seconds: i64| DateTime::from_timestamp(seconds, 0);
        let account = Account {
            mode: mode.to_owned(),
            archived_at: archived.and_then(time),
            failed_at: failed.and_then(time),
            failed_file: Some("000000010000000000000003".to_owned()),
        };

        assert_eq!(verdict(&account, is_wanted).map(|check| check.level), expected);
    }
}
