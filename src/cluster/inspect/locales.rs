//! Whether this system has the locales of the databases: nobody can connect to a database whose locale it lacks
//! (postinit.c, `CheckMyDatabase()`).
//!
//! The server's program is asked, which has the C library that the server will have.

use super::catalog::CatalogDatabase;
use super::{Expectations, Inspection};
use crate::cluster::binaries::Installation;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ProcessError;
use std::collections::BTreeMap;

impl Inspection<'_> {
    /// Reports each database whose locale this system lacks. Where no other can be connected to, no server is started:
    /// it could not be verified, and nobody could use it.
    pub(super) fn check_locales(&mut self, expectations: &Expectations) {
        let programs = expectations.programs.as_ref().filter(|programs| Some(programs.version) == self.major);
        let (Some(programs), Some(catalog)) = (programs, &self.catalog) else { return };
        let open = || catalog.databases.iter().filter(|database| is_open(database));
        let mut known: BTreeMap<String, bool> = BTreeMap::new();
        let mut lacking: Vec<(&CatalogDatabase, &str)> = Vec::new();
        for database in open() {
            let lacked = locales(database).find(|name| {
                let name: &str = name;
                !*known.entry(name.to_owned()).or_insert_with(|| self.has_locale(programs, name))
            });
            lacking.extend(lacked.map(|locale| (database, locale)));
        }
        let remedy = if lacking.len() == open().count() {
            Remedy::SeeToIt("install that locale (Debian: localedef), or use an image that has it".to_owned())
        } else {
            Remedy::Nothing
        };
        let finding = |(database, locale): &(&CatalogDatabase, &str)| {
            let evidence = format!(
                "the database '{}' has the locale '{locale}', which this system lacks: nobody can connect to it",
                database.name
            );
            let place = database.directory.clone();
            Finding::new("locale-missing", Severity::Warning, place, evidence).with_remedy(remedy.clone())
        };
        let findings: Vec<Finding> = lacking.iter().map(finding).collect();
        self.findings.extend(findings);
    }

    /// A program that cannot be asked says nothing about a locale.
    fn has_locale(&self, programs: &Installation, locale: &str) -> bool {
        let setting = format!("lc_monetary={locale}");
        let asked = programs
            .asking_for("lc_monetary", self.root.path())
            .arguments(["-c", "config_file=/dev/null", "-c", &setting])
            .run();
        !matches!(asked, Err(ProcessError::Failed { stderr, .. }) if stderr.contains("\"lc_monetary\""))
    }
}

fn is_open(database: &CatalogDatabase) -> bool {
    database.allows_connections && !database.is_invalid
}

/// The locales that the server sets for a database; every system has those of C.
fn locales(database: &CatalogDatabase) -> impl Iterator<Item = &str> {
    let locale = &database.locale;
    let names = [locale.collate.as_deref(), locale.ctype.as_deref()];
    names.into_iter().flatten().filter(|name| !["", "C", "POSIX"].contains(name))
}
