//! Directories of databases that no row names: what a crashed CREATE DATABASE leaves, reported and never removed.

use super::Catalog;
use super::directory::RelationDirectory;
use super::scene::Scene;
use crate::cluster::inspect::follow;
use crate::pg::Oid;
use crate::plan::{Finding, Severity};
use crate::sys::{EntryKind, ReadRoot};
use std::collections::BTreeSet;

/// The directories in `base` and in the tablespaces that belong to no database, one notice each.
pub(super) fn directories(scene: &Scene<'_>, catalog: &Catalog) -> Vec<Finding> {
    let known: BTreeSet<Oid> = catalog.databases.iter().map(|database| database.oid).collect();
    let mut findings = Vec::new();
    if let Ok(base) = scene.root.subroot("base") {
        findings.extend(unknown_below("base", &base, &known));
    }
    for tablespace in catalog.tablespaces.iter().filter(|tablespace| tablespace.is_users()) {
        let link = format!("pg_tblspc/{}", tablespace.oid);
        let version = scene.version_directory(tablespace.oid);
        if let Ok(root) = follow(scene.root, &link).and_then(|root| root.subroot(&version)) {
            findings.extend(unknown_below(&format!("{link}/{version}"), &root, &known));
        }
    }
    findings
}

fn unknown_below(place: &str, root: &ReadRoot, known: &BTreeSet<Oid>) -> Vec<Finding> {
    let entries = root.entries(".").unwrap_or_default();
    let directories = entries.into_iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
    let unknown = directories.filter(|entry| entry.name.parse().is_ok_and(|oid| !known.contains(&Oid(oid))));
    unknown
        .filter_map(|entry| leftover(format!("{place}/{}", entry.name), root.subroot(&entry.name).ok()?))
        .collect()
}

fn leftover(place: String, root: ReadRoot) -> Option<Finding> {
    let directory = RelationDirectory::list(place.clone(), root).ok()?;
    let (count, size_bytes) = directory.others(&[]);
    let evidence = format!("{count} files, {size_bytes} bytes, belong to no database: never removed here");
    Some(Finding::new("orphan-files", Severity::Notice, place, evidence))
}
