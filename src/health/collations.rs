//! Whether the system still sorts text as it did when the databases' indexes were built.
//!
//! The server is asked, and not the files: it alone knows what its C library and its ICU sort by (`facts/corruption.md`
//! §5, 18), and a mismatch keeps no server from starting.

use super::Check;
use crate::cluster::session::describe;
use postgres::{Client, Error};

const NAME: &str = "collations";
/// The first version that keeps a version for each database.
const FIRST_VERSION: i32 = 150_000;

/// Checks the collation version of each database. Says nothing of a server that keeps none.
pub(super) fn check(session: &mut Client, checks: &mut Vec<Check>) {
    checks.extend(match mismatches(session) {
        Ok(None) => None,
        Ok(Some(mismatches)) => Some(verdict(&mismatches)),
        Err(error) => {
            let summary = format!("could not ask for collation versions: {}", describe(&error));
            Some(Check::warning(NAME, summary, "see the server's log"))
        }
    });
}

/// A database whose collation has another version than when it was made.
struct Mismatch {
    database: String,
    recorded: String,
    actual: String,
}

fn mismatches(session: &mut Client) -> Result<Option<Vec<Mismatch>>, Error> {
    const QUERY: &str = "SELECT datname::text, datcollversion, \
        coalesce(pg_catalog.pg_database_collation_actual_version(oid), 'none') FROM pg_catalog.pg_database \
        WHERE datcollversion IS NOT NULL \
        AND datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid) ORDER BY 1";
    let version = session.query_one("SELECT pg_catalog.current_setting('server_version_num')::int4", &[])?;
    if version.get::<_, i32>(0) < FIRST_VERSION {
        return Ok(None);
    }
    let rows = session.query(QUERY, &[])?;
    let mismatch =
        |row: &postgres::Row| Mismatch { database: row.get(0), recorded: row.get(1), actual: row.get(2) };
    Ok(Some(rows.iter().map(mismatch).collect()))
}

fn verdict(mismatches: &[Mismatch]) -> Check {
    let Some(first) = mismatches.first() else {
        return Check::ok(NAME, "text sorts as it did when the databases were made");
    };
    let Mismatch { database, recorded, actual } = first;
    let summary = format!(
        "collation-version-mismatch in {} of the databases: '{database}' was made with version {recorded}, and the \
         system has {actual}; indexes on text may miss rows",
        mismatches.len()
    );
    let quoted = crate::cluster::session::quote_identifier(database);
    let remedy = format!(
        "in each of them: `REINDEX DATABASE {quoted}`, and only then `ALTER DATABASE {quoted} REFRESH COLLATION \
         VERSION`, which alone hides it"
    );
    Check::warning(NAME, summary, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Level;

    #[test]
    fn a_mismatch_says_that_indexes_come_first() {
        let mismatch = Mismatch { database: "my db".into(), recorded: "2.36".into(), actual: "2.41".into() };

        let check = verdict(&[mismatch]);

        assert_eq!(check.level, Level::Warning);
        assert!(check.summary.contains("was made with version 2.36, and the system has 2.41"));
        let remedy = check.remedy.unwrap();
        assert!(remedy.find("REINDEX DATABASE \"my db\"") < remedy.find("REFRESH COLLATION"), "{remedy}");
        assert_eq!(verdict(&[]).level, Level::Ok);
    }
}
