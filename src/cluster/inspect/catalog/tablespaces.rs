//! The links to tablespaces, and the directories that they lead to.
//!
//! What a tablespace holds is elsewhere and most likely sound, on a disk that is not mounted: only a person knows
//! where, so neither a repair nor a replacement may hide it.

use super::scene::{Scene, is_missing};
use super::{Catalog, CatalogDatabase, CatalogTablespace, Certainty};
use crate::cluster::inspect::{follow, unreadable};
use crate::pg::Oid;
use crate::pg::relation_map::RelationMap;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ReadRoot;
use std::collections::BTreeSet;

/// What a tablespace out of reach is reported as.
const CODES: [&str; 2] = ["tablespace-link-missing", "tablespace-directory-missing"];

impl CatalogTablespace {
    /// Whether it is none of the two built-in ones.
    pub(super) fn is_users(&self) -> bool {
        self.oid != Oid::DEFAULT_TABLESPACE && self.oid != Oid::GLOBAL_TABLESPACE
    }
}

/// Checks every tablespace; returns those whose files cannot be reached.
pub(super) fn check(
    scene: &Scene<'_>,
    tablespaces: &[CatalogTablespace],
    findings: &mut Vec<Finding>,
) -> BTreeSet<Oid> {
    let mut unreachable = BTreeSet::new();
    for tablespace in tablespaces.iter().filter(|tablespace| tablespace.is_users()) {
        if let Some(finding) = fault(scene, tablespace) {
            unreachable.insert(tablespace.oid);
            findings.push(finding);
        }
    }
    unreachable
}

/// Makes sure of the tablespaces that hold something, in whatever state the cluster is.
///
/// DROP TABLESPACE removes the directory before it commits, but only when the last file in it is gone, which takes a
/// checkpoint after the removal of its last relation (tablespace.c, `DropTableSpace()`). Where a relation or a database
/// is in it all the same, its disk is not mounted: a replay would make new, empty files, and the checkpoint after it
/// would throw away the WAL that the old ones lack.
pub(super) fn make_sure(scene: &Scene<'_>, catalog: &Catalog, findings: &mut [Finding]) {
    let is_used = |tablespace: Oid| {
        let begin = format!("pg_tblspc/{tablespace}/");
        catalog.databases.iter().any(|database| database.tablespace == tablespace)
            || catalog.relations().any(|relation| relation.directory.starts_with(&begin))
    };
    for tablespace in catalog.tablespaces.iter().filter(|tablespace| tablespace.is_users()) {
        let place = format!("pg_tblspc/{}", tablespace.oid);
        let version = format!("{place}/{}", scene.version_directory(tablespace.oid));
        let about_it = |finding: &&mut Finding| {
            CODES.contains(&finding.code) && (finding.place == place || finding.place == version)
        };
        for finding in findings.iter_mut().filter(about_it) {
            if finding.remedy != Remedy::LinkTablespace && is_used(tablespace.oid) {
                finding.severity = Severity::Error;
                finding.remedy = Remedy::LinkTablespace;
            }
        }
    }
}

/// Checks `PG_VERSION` and the map of a database whose home is in a tablespace, where the checks of `base` do not
/// reach. What was lost there is for a restore: no repair writes outside the data directory.
pub(super) fn check_home(database: &CatalogDatabase, home: &ReadRoot) -> Vec<Finding> {
    let severity = database.certainty.severity();
    let mut findings = Vec::new();
    let mut report = |code, name: &str, evidence: String| {
        findings.push(Finding::new(code, severity, format!("{}/{name}", database.directory), evidence));
    };
    if matches!(home.facts("PG_VERSION"), Ok(None)) {
        report("database-version-missing", "PG_VERSION", "it is not there".to_owned());
    }
    match home.read_bounded("pg_filenode.map", 4096) {
        Ok(bytes) => {
            if let Err(error) = RelationMap::parse(&bytes) {
                report("relation-map-damaged", "pg_filenode.map", error.to_string());
            }
        }
        Err(error) if is_missing(&error) => {
            report("relation-map-missing", "pg_filenode.map", "it is not there".to_owned());
        }
        Err(error) => findings.push(unreadable(format!("{}/pg_filenode.map", database.directory), &error)),
    }
    findings
}

fn fault(scene: &Scene<'_>, tablespace: &CatalogTablespace) -> Option<Finding> {
    let place = format!("pg_tblspc/{}", tablespace.oid);
    match scene.root.facts(&place) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let evidence = format!(
                "pg_tablespace has the tablespace '{}', and the link to its directory is not there",
                tablespace.name
            );
            return Some(finding("tablespace-link-missing", tablespace.certainty, place, evidence));
        }
        Err(error) => return Some(unreadable(place, &error)),
    }
    let directory = match follow(scene.root, &place) {
        Ok(directory) => directory,
        Err(error) if is_missing(&error) => {
            // DROP TABLESPACE never removes that directory, so that no replay can be the reason.
            let evidence = format!("the directory of the tablespace '{}' is not there", tablespace.name);
            return Some(finding("tablespace-directory-missing", Certainty::Sure, place, evidence));
        }
        Err(error) => return Some(unreadable(place, &error)),
    };
    let version = scene.version_directory(tablespace.oid);
    match directory.facts(&version) {
        Ok(Some(_)) => None,
        Ok(None) => {
            let evidence = format!(
                "the directory of the tablespace '{}' is there, and {version} is not in it",
                tablespace.name
            );
            let place = format!("{place}/{version}");
            Some(finding("tablespace-directory-missing", tablespace.certainty, place, evidence))
        }
        Err(error) => Some(unreadable(place, &error)),
    }
}

fn finding(code: &'static str, certainty: Certainty, place: String, evidence: String) -> Finding {
    let finding = Finding::new(code, certainty.severity(), place, evidence);
    match certainty {
        Certainty::Sure => finding.with_remedy(Remedy::LinkTablespace),
        Certainty::Unsure => finding,
    }
}
