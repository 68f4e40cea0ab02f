//! Whether the system sorts text as it did when a database's indexes were built (`facts/corruption.md` §5, 18).
//!
//! Only the C library is looked at: what ICU a server uses, it alone knows, and `health` asks it. `C`, `POSIX` and
//! `C.UTF-8` sort by bytes, which no version changes, and have none (`pg_locale.c`, `get_collation_actual_version()`).

use super::catalog::CatalogDatabase;
use super::{Expectations, Inspection};
use crate::plan::{Finding, Severity};
use crate::sys::{Tool, find_program};

impl Inspection<'_> {
    /// Compares the collation version of each database with that of the C library.
    pub(super) fn check_collations(&mut self, expectations: &Expectations) {
        // The server runs with the C library of this system only if its programs are here.
        if expectations.programs.is_none() || self.is_in_use {
            return;
        }
        let databases = self.catalog.iter().flat_map(|catalog| &catalog.databases);
        let dependent: Vec<&CatalogDatabase> =
            databases.filter(|database| recorded_version(database).is_some()).collect();
        if dependent.is_empty() {
            return;
        }
        let Some(system) = glibc_version() else { return };
        let findings: Vec<Finding> =
            dependent.into_iter().filter_map(|database| mismatch(database, &system)).collect();
        self.findings.extend(findings);
    }
}

/// The version of the C library that a database was made with, if its order depends on that.
fn recorded_version(database: &CatalogDatabase) -> Option<&str> {
    let locale = &database.locale;
    let collate = locale.collate.as_deref()?.to_ascii_uppercase();
    let sorts_by_bytes = collate == "C" || collate == "POSIX" || collate.starts_with("C.");
    if locale.provider != 'c' || sorts_by_bytes { None } else { locale.version.as_deref() }
}

fn mismatch(database: &CatalogDatabase, system: &str) -> Option<Finding> {
    let recorded = recorded_version(database).filter(|recorded| *recorded != system)?;
    let name = &database.name;
    let evidence = format!(
        "the database '{name}' was made with version {recorded} of its collation, and the system has {system}: its \
         indexes on text may miss rows until REINDEX DATABASE; only then ALTER DATABASE … REFRESH COLLATION VERSION, \
         which alone hides it"
    );
    let place = database.directory.clone();
    Some(Finding::new("collation-version-mismatch", Severity::Warning, place, evidence))
}

/// The version of the GNU C library; `None` on a system with another one, whose order has no version.
fn glibc_version() -> Option<String> {
    let output = Tool::new(find_program("getconf")?).argument("GNU_LIBC_VERSION").run().ok()?;
    Some(output.stdout.trim().strip_prefix("glibc ")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::inspect::catalog::Certainty;
    use crate::pg::Oid;
    use crate::pg::heap::DatabaseLocale;

    fn database(provider: char, collate: &str, version: Option<&str>) -> CatalogDatabase {
        CatalogDatabase {
            oid: Oid(5),
            name: "app".into(),
            tablespace: Oid(1663),
            is_invalid: false,
            allows_connections: true,
            locale: DatabaseLocale {
                provider,
                collate: Some(collate.into()),
                version: version.map(str::to_owned),
                ..DatabaseLocale::default()
            },
            directory: "base/5".into(),
            certainty: Certainty::Sure,
        }
    }

    #[test]
    fn another_version_of_the_c_library_is_told_with_what_to_do_first() {
        let finding = mismatch(&database('c', "en_US.UTF-8", Some("2.31")), "2.36").unwrap();

        assert_eq!((finding.code, finding.severity), ("collation-version-mismatch", Severity::Warning));
        assert!(finding.evidence.find("REINDEX") < finding.evidence.find("REFRESH"));
    }

    #[test]
    fn what_no_version_of_the_c_library_changes_is_passed_over() {
        for (provider, collate, version) in [
            ('c', "en_US.UTF-8", Some("2.36")),
            ('c', "en_US.UTF-8", None),
            ('c', "C", Some("1")),
            ('c', "C.UTF-8", Some("1")),
            ('i', "en_US.UTF-8", Some("153.14")),
        ] {
            assert_eq!(mismatch(&database(provider, collate, version), "2.36"), None, "{collate}");
        }
    }
}
