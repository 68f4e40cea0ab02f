//! Both kinds of relation map, and every file that they name.
//!
//! The maps name the catalogs and indexes that no connection can do without. To look for those files is a
//! complete check for the fault this project began with (`could not open file "global/2671"`), needs no page
//! to be read, and is valid in any state of the cluster.

use super::{Inspection, Looked};
use crate::pg::Oid;
use crate::pg::relation_map::{MapKind, RelationMap};
use crate::plan::Severity;
use crate::sys::EntryKind;
use std::io;

/// The first object identifier that is not initdb's (access/transam.h, `FirstNormalObjectId`).
pub(super) const FIRST_NORMAL_OID: u32 = 16_384;

/// Catalogs that are never empty: `pg_type`, `pg_attribute`, `pg_proc`, `pg_class`, `pg_authid`, `pg_database`. Every
/// index has at least its meta page, too.
const NEVER_EMPTY_TABLES: [u32; 6] = [1247, 1249, 1255, 1259, 1260, 1262];

impl Inspection<'_> {
    /// Checks the shared map, and the map of each directory in `base`.
    pub(super) fn check_maps(&mut self) {
        self.check_map("global", MapKind::Shared, Severity::Error);
        let databases = self.root.entries("base").unwrap_or_default();
        for entry in databases.iter().filter(|entry| entry.facts.kind == EntryKind::Directory) {
            let Ok(oid) = entry.name.parse::<u32>() else { continue };
            // A user's database may be the leftover of a CREATE DATABASE that crashed; `databases` decides.
            if oid < FIRST_NORMAL_OID {
                self.check_database_directory(oid, self.severity_of_database(oid));
            }
        }
    }

    /// A database may have been dropped half-way by a server that was killed. Of initdb's template1 that is not
    /// assumed: without it nearly nothing works.
    pub(super) fn severity_of_database(&self, oid: u32) -> Severity {
        if oid == 1 { Severity::Error } else { self.severity_unless_replayed() }
    }

    /// Checks `PG_VERSION`, the map and the mapped files of one database's directory.
    pub(super) fn check_database_directory(&mut self, oid: u32, severity: Severity) {
        let directory = format!("base/{oid}");
        let version = format!("{directory}/PG_VERSION");
        if matches!(self.facts(&version), Looked::Missing) {
            self.report("database-version-missing", severity, version, "it is not there");
        }
        self.check_map(&directory, MapKind::Database, severity);
    }

    fn check_map(&mut self, directory: &str, kind: MapKind, severity: Severity) {
        let place = format!("{directory}/pg_filenode.map");
        let bytes = match self.root.read_bounded(&place, 4096) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.report("relation-map-missing", severity, place, "it is not there");
            }
            Err(error) => return self.report_unreadable(place, &error),
        };
        let map = match RelationMap::parse(&bytes) {
            Ok(map) => map,
            Err(error) => return self.report("relation-map-damaged", severity, place, error.to_string()),
        };
        if let Some(major) = self.major {
            let missing = map.disagreements(kind, major).map(|found| found.missing).unwrap_or_default();
            if !missing.is_empty() {
                let evidence = format!("it does not name the catalogs {missing:?}");
                self.report("relation-map-incomplete", severity, place, evidence);
            }
        }
        for &(catalog, relfilenode) in &map.entries {
            self.check_mapped_file(directory, catalog, relfilenode, severity);
        }
    }

    /// One file that a map names. A file number from before the first user object can only be initdb's own
    /// and is never made by replay; a later one may be, so that it counts as missing only once nothing is left
    /// to replay (`facts/corruption.md` §2).
    fn check_mapped_file(&mut self, directory: &str, catalog: Oid, relfilenode: Oid, severity: Severity) {
        let place = format!("{directory}/{relfilenode}");
        let is_initdbs = relfilenode.0 < FIRST_NORMAL_OID;
        let severity_if_missing =
            if is_initdbs { severity } else { severity.max(self.severity_unless_replayed()) };
        let facts = match self.facts(&place) {
            Looked::There(facts) => facts,
            Looked::Unknown => return,
            Looked::Missing => {
                let evidence =
                    format!("the relation map names it for catalog {catalog}, and it is not there");
                return self.report("relation-file-missing", severity_if_missing, place, evidence);
            }
        };
        if !self.is_clean() {
            return;
        }
        if facts.size_bytes == 0 && (is_index(catalog) || NEVER_EMPTY_TABLES.contains(&catalog.0)) {
            self.report("relation-file-empty", severity, place, format!("catalog {catalog} is never empty"));
            return;
        }
        let block_size = u64::from(self.control.as_ref().map_or(8192, |control| control.block_size));
        if facts.size_bytes % block_size != 0 {
            let evidence = format!("{} bytes are no whole number of blocks", facts.size_bytes);
            self.report("relation-file-torn", severity, place, evidence);
        }
    }
}

/// The mapped catalogs that are indexes, in any version from 13 to 18 (catalog/*.h, `DECLARE_INDEX`).
fn is_index(catalog: Oid) -> bool {
    const INDEXES: [u32; 41] = [
        1232, 1233, 2397, 2658, 2659, 2662, 2663, 2671, 2672, 2676, 2677, 2690, 2691, 2694, 2695, 2697, 2698,
        2703, 2704, 2837, 2847, 2965, 2967, 3455, 3593, 4061, 4172, 4176, 4178, 4182, 4184, 4186, 6001, 6002,
        6114, 6115, 6245, 6246, 6247, 6302, 6303,
    ];
    INDEXES.contains(&catalog.0)
}
