//! Whether this system has the locales of the databases: nobody can connect to a database whose locale it lacks
//! (postinit.c, `CheckMyDatabase()`).
//!
//! The server's program is asked, which has the C library that the server will have; but not for what it said before on
//! the same system.

use super::catalog::CatalogDatabase;
use super::{Expectations, Inspection};
use crate::cluster::binaries::Installation;
use crate::cluster::known_locales;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ProcessError;
use std::collections::BTreeSet;

impl Inspection<'_> {
    /// Reports each database whose locale this system lacks. Where no other can be connected to, no server is started:
    /// it could not be verified, and nobody could use it.
    pub(super) fn check_locales(&mut self, expectations: &Expectations) {
        let programs = expectations.programs.as_ref().filter(|programs| Some(programs.version) == self.major);
        let (Some(programs), Some(catalog)) = (programs, &self.catalog) else { return };
        let open = || catalog.databases.iter().filter(|database| is_open(database));
        let mut asked = Asked { known: known_locales::noted(self.root, programs), ..Asked::default() };
        let mut lacking: Vec<(&CatalogDatabase, &str)> = Vec::new();
        for database in open() {
            let is_lacking = |name: &&str| !asked.is_there(name, |name| self.ask_for_locale(programs, name));
            lacking.extend(locales(database).find(is_lacking).map(|locale| (database, locale)));
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
        self.locales = asked.present;
    }

    fn ask_for_locale(&self, programs: &Installation, locale: &str) -> Answer {
        let setting = format!("lc_monetary={locale}");
        let asked = programs
            .asking_for("lc_monetary", self.root.path())
            .arguments(["-c", "config_file=/dev/null", "-c", &setting])
            .run();
        match asked {
            Ok(_) => Answer::Present,
            Err(ProcessError::Failed { stderr, .. }) if stderr.contains("\"lc_monetary\"") => Answer::Lacking,
            Err(_) => Answer::Unknown,
        }
    }
}

/// What the server's program says of a locale.
#[derive(Clone, Copy)]
enum Answer {
    Present,
    Lacking,
    /// It could not be asked, which says nothing about a locale.
    Unknown,
}

/// What is known of locales, each of which is asked for once.
#[derive(Default)]
struct Asked {
    /// Those of which nothing is to be said.
    known: BTreeSet<String>,
    /// Those of them that the program was asked for, and found.
    present: BTreeSet<String>,
    lacking: BTreeSet<String>,
}

impl Asked {
    /// Whether a locale is there, as far as is known.
    fn is_there(&mut self, name: &str, ask: impl Fn(&str) -> Answer) -> bool {
        if self.lacking.contains(name) {
            return false;
        }
        if !self.known.contains(name) {
            match ask(name) {
                Answer::Lacking => return !self.lacking.insert(name.to_owned()),
                Answer::Present => {
                    self.present.insert(name.to_owned());
                }
                Answer::Unknown => {}
            }
            self.known.insert(name.to_owned());
        }
        true
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
