//! Both kinds of relation map, and every file that they name.
//!
//! The maps name the catalogs and indexes that no connection can do without. To look for those files is a
//! complete check for the fault this project began with (`could not open file "global/2671"`), needs no page
//! to be read, and is valid in any state of the cluster.

use super::Inspection;
use super::catalog::NEVER_EMPTY_TABLES;
use super::identity::version_file;
use crate::pg::relation_map::{MapKind, RelationMap};
use crate::pg::{Oid, version};
use crate::plan::{Finding, Severity};
use crate::sys::EntryKind;
use std::io;

/// The first object identifier that is not initdb's (access/transam.h, `FirstNormalObjectId`).
pub(super) const FIRST_NORMAL_OID: u32 = 16_384;

impl Inspection<'_> {
    /// Checks the shared map, and the map of each directory in `base`.
    pub(super) fn check_maps(&mut self) {
        self.check_map("global", MapKind::Shared, Severity::Error);
        let databases = self.root.entries("base").unwrap_or_default();
        for entry in databases.iter().filter(|entry| entry.facts.kind == EntryKind::Directory) {
            let Ok(oid) = entry.name.parse::<u32>() else { continue };
            // A user's database may be the leftover of a CREATE DATABASE that crashed; `databases` decides.
            if oid < FIRST_NORMAL_OID {
                self.check_database_directory(&format!("base/{oid}"), self.severity_of_database(oid));
            }
        }
    }

    /// A database may have been dropped half-way by a server that was killed. Of initdb's template1 that is not
    /// assumed: without it nearly nothing works.
    pub(super) fn severity_of_database(&self, oid: u32) -> Severity {
        if oid == 1 { Severity::Error } else { self.severity_unless_replayed() }
    }

    /// Checks the map, the mapped files and `PG_VERSION` of one database's directory.
    pub(super) fn check_database_directory(&mut self, directory: &str, severity: Severity) {
        let has_map = self.check_map(directory, MapKind::Database, severity);
        self.check_database_version(directory, severity, has_map);
    }

    /// A database's `PG_VERSION` says nothing that the control file does not, once the map shows that this is a
    /// database's directory.
    fn check_database_version(&mut self, directory: &str, severity: Severity, has_map: bool) {
        let place = format!("{directory}/PG_VERSION");
        let (code, evidence) = match self.root.read_text(&place, 64) {
            Ok(Some(text)) => match version::parse(&text) {
                Ok(found) if self.major.is_none_or(|major| major == found) => return,
                Ok(found) => ("database-version-wrong", format!("it names version {found}")),
                Err(error) => ("database-version-garbage", error.to_string()),
            },
            Ok(None) => ("database-version-missing", "it is not there".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                ("database-version-garbage", error.to_string())
            }
            Err(error) => return self.report_unreadable(place, &error),
        };
        let finding = Finding::new(code, severity, place, evidence);
        let certain = self.control.as_ref().filter(|_| has_map).map(|control| version_file(control.major));
        self.report_with(match certain {
            Some(content) => finding.with_content(content),
            None => finding,
        });
    }

    /// Checks a map and the files that it names, and says whether it is known what it holds.
    fn check_map(&mut self, directory: &str, kind: MapKind, severity: Severity) -> bool {
        let place = format!("{directory}/pg_filenode.map");
        let (code, evidence) = match self.root.read_bounded(&place, 4096) {
            Ok(bytes) => match RelationMap::parse(&bytes) {
                Ok(map) => {
                    self.check_mapped_catalogs(directory, kind, &map, severity);
                    return true;
                }
                Err(error) => ("relation-map-damaged", error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ("relation-map-missing", "it is not there".to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                ("relation-map-damaged", error.to_string())
            }
            Err(error) => {
                self.report_unreadable(place, &error);
                return false;
            }
        };
        let finding = Finding::new(code, severity, place, evidence);
        match self.rebuilt_map(directory, kind) {
            Ok((map, content)) => {
                self.report_with(finding.with_content(content));
                self.check_mapped_catalogs(directory, kind, &map, severity);
                self.rebuilt_maps.insert(directory.to_owned(), map);
                true
            }
            Err(reason) => {
                let evidence = format!("{}; it cannot be rebuilt: {reason}", finding.evidence);
                self.report_with(Finding { evidence, ..finding });
                false
            }
        }
    }

    fn check_mapped_catalogs(
        &mut self,
        directory: &str,
        kind: MapKind,
        map: &RelationMap,
        severity: Severity,
    ) {
        let place = format!("{directory}/pg_filenode.map");
        if let Some(major) = self.major {
            let missing = map.disagreements(kind, major).map(|found| found.missing).unwrap_or_default();
            if !missing.is_empty() {
                let evidence = format!("it does not name the catalogs {missing:?}");
                self.report("relation-map-incomplete", severity, place, evidence);
            }
        }
    }
}

/// Whether a mapped catalog has at least one block.
pub(super) fn is_never_empty(catalog: Oid) -> bool {
    is_index(catalog) || NEVER_EMPTY_TABLES.contains(&catalog.0)
}

/// The mapped catalogs that are indexes, in any version from 13 to 19 (catalog/*.h, `DECLARE_INDEX`).
pub(super) fn is_index(catalog: Oid) -> bool {
    const INDEXES: [u32; 41] = [
        1232, 1233, 2397, 2658, 2659, 2662, 2663, 2671, 2672, 2676, 2677, 2690, 2691, 2694, 2695, 2697, 2698,
        2703, 2704, 2837, 2847, 2965, 2967, 3455, 3593, 4061, 4172, 4176, 4178, 4182, 4184, 4186, 6001, 6002,
        6114, 6115, 6245, 6246, 6247, 6302, 6303,
    ];
    INDEXES.contains(&catalog.0)
}
