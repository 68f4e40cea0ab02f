//! The databases and tablespaces that the shared catalogs surely have, and their directories.
//!
//! A directory in `base` proves nothing: a crashed CREATE DATABASE leaves one behind for ever. A row counts
//! here only where the row itself says that it is live (its creation hinted as committed, its removal as
//! invalid); a row that only the transaction status can judge is passed over, and so is nothing falsely
//! reported. Offsets: `facts/corruption.md` §2.

use super::maps::FIRST_NORMAL_OID;
use super::{Inspection, Looked};
use crate::pg::relation_map::RelationMap;
use crate::pg::{Oid, heap};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::EntryKind;
use std::collections::BTreeSet;

/// The catalog `pg_database`.
const PG_DATABASE: Oid = Oid(1262);
/// The catalog `pg_tablespace`.
const PG_TABLESPACE: Oid = Oid(1213);
/// The default tablespace, whose directories are in `base`.
const PG_DEFAULT: u32 = 1663;
/// Reading more of `pg_database` than this would take a cluster with a hundred thousand databases.
const CATALOG_LIMIT_BYTES: u64 = 64 << 20;

impl Inspection<'_> {
    /// Checks the directory of each database that is surely there.
    pub(super) fn check_databases(&mut self) {
        for database in self.live_databases() {
            if database.tablespace != PG_DEFAULT {
                continue;
            }
            let severity = self.severity_of_database(database.oid);
            let place = format!("base/{}", database.oid);
            if matches!(self.facts(&place), Looked::Missing) {
                let evidence = "pg_database has this database, and its directory is not there";
                self.report("database-directory-missing", severity, place, evidence);
                continue;
            }
            // Those of initdb's own were looked at with the maps.
            if database.oid >= FIRST_NORMAL_OID {
                self.check_database_directory(database.oid, severity);
            }
        }
    }

    /// Checks that each tablespace that is surely there is linked to.
    ///
    /// What it holds is elsewhere and most likely sound: only a person knows where, so neither a repair nor a
    /// replacement may hide it.
    pub(super) fn check_tablespaces(&mut self) {
        if !self.is_clean() {
            return;
        }
        for oid in heap::surely_live_oids(&self.shared_catalog(PG_TABLESPACE)) {
            let place = format!("pg_tblspc/{oid}");
            if oid < FIRST_NORMAL_OID || !matches!(self.facts(&place), Looked::Missing) {
                continue;
            }
            self.report_with(Finding {
                code: "tablespace-link-missing",
                severity: Severity::Error,
                place,
                evidence: "pg_tablespace has this tablespace, and the link to its directory is not there"
                    .into(),
                remedy: Remedy::LinkTablespace,
            });
        }
    }

    fn live_databases(&self) -> Vec<heap::Database> {
        let Some(major) = self.major else { return Vec::new() };
        heap::surely_live_databases(&self.shared_catalog(PG_DATABASE), major)
    }

    /// The pages of a shared catalog; none where it cannot be found or read.
    fn shared_catalog(&self, catalog: Oid) -> Vec<u8> {
        let map = self.root.read_bounded("global/pg_filenode.map", 4096).ok();
        let map = map.and_then(|bytes| RelationMap::parse(&bytes).ok());
        let entry = map.as_ref().and_then(|map| map.entries.iter().find(|entry| entry.0 == catalog));
        let Some((_, relfilenode)) = entry else { return Vec::new() };
        self.root.read_bounded(format!("global/{relfilenode}"), CATALOG_LIMIT_BYTES).unwrap_or_default()
    }

    /// Whether anything in `base` or `global` was made after initdb.
    pub(super) fn has_user_made_files(&self) -> bool {
        let databases = self.root.entries("base").unwrap_or_default();
        let mut directories = vec!["global".to_owned()];
        let mut numbers = BTreeSet::new();
        for entry in databases.iter().filter(|entry| entry.facts.kind == EntryKind::Directory) {
            directories.push(format!("base/{}", entry.name));
            numbers.extend(entry.name.parse::<u32>().ok());
        }
        for directory in directories {
            let files = self.root.entries(&directory).unwrap_or_default();
            numbers.extend(files.iter().filter_map(|file| file.name.parse::<u32>().ok()));
        }
        numbers.last().is_some_and(|&highest| highest >= FIRST_NORMAL_OID)
    }
}
