//! Unlogged relations: what they hold is not promised to last, and each has a fork to begin anew from.
//!
//! After a crash the server puts the init fork in the place of all others (reinit.c). That is also what puts a lost
//! main fork right, as long as the relations that belong together begin anew together: an index that still points
//! into an empty table makes errors, not empty results.

use super::files::{Fault, Group};
use super::{CatalogRelation, RelationKind};
use crate::pg::heap;
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page::{self, Checksums, PageVerdict};
use crate::pg::{BlockNumber, Oid};
use crate::plan::{FileContent, Finding, Remedy, Severity};
use std::collections::BTreeSet;

/// What puts a lost init fork right. That of a table is empty; that of a sequence is a page, and the sequence as it
/// now stands is as good; that of an index is made by building it anew.
pub(super) fn init_remedy(group: &Group<'_>, relation: &CatalogRelation) -> Remedy {
    if relation.kind != RelationKind::Sequence {
        return write("empty, as that of every unlogged table", Vec::new());
    }
    let directory = group.directory(relation);
    let page = directory.and_then(|directory| directory.read_block(relation.relfilenode, 0).ok());
    match page.filter(|page| is_sequence(page)) {
        Some(page) => write("the sequence as it now stands", page.to_vec()),
        None => Remedy::Replace,
    }
}

/// What puts a lost main fork right: to begin anew, as after a crash.
pub(super) fn main_remedy(group: &Group<'_>, relation: &CatalogRelation) -> Remedy {
    let Some(directory) = group.directory(relation) else { return Remedy::Replace };
    // Segments behind the first would come to belong to the relation again once it has grown.
    if directory.fork(relation.relfilenode, Fork::Main).len() > 1 {
        return Remedy::Replace;
    }
    let file = RelationFile { relfilenode: relation.relfilenode, fork: Fork::Init, segment: 0 };
    let is_table = !matches!(relation.kind, RelationKind::Index | RelationKind::Sequence);
    let has_init = !directory.fork(relation.relfilenode, Fork::Init).is_empty();
    match directory.read_small(file) {
        Ok(bytes) => write("its init fork, from which it begins after a crash", bytes),
        Err(_) if is_table && !has_init => write("empty, as every unlogged table begins", Vec::new()),
        Err(_) => Remedy::Replace,
    }
}

fn write(description: &str, bytes: Vec<u8>) -> Remedy {
    Remedy::WriteFile(FileContent { description: description.to_owned(), bytes })
}

/// Whether a page is one that the server takes for a sequence's.
fn is_sequence(page: &page::Page) -> bool {
    let verdict = page::verify(page, BlockNumber(0), Checksums::Disabled);
    verdict == PageVerdict::Sound && heap::is_sequence(page)
}

/// The relations that must begin anew because one that they belong to does.
pub(super) fn stale_relatives(group: &Group<'_>, faulty: &[(&CatalogRelation, Fault)]) -> Vec<Finding> {
    let begins_anew = |(relation, fault): &&(&CatalogRelation, Fault)| {
        let is_index_or_sequence = matches!(relation.kind, RelationKind::Index | RelationKind::Sequence);
        relation.is_unlogged && !is_index_or_sequence && *fault != Fault::InitMissing
    };
    let mut findings = Vec::new();
    if !group.scene.rules.is_clean() {
        return findings;
    }
    let mut told: BTreeSet<Oid> = faulty
        .iter()
        .filter(|(_, fault)| *fault != Fault::InitMissing)
        .map(|(relation, _)| relation.oid)
        .collect();
    for (relation, _) in faulty.iter().filter(begins_anew) {
        for relative in relatives(group, relation) {
            if !told.insert(relative.oid) || is_empty(group, relative) {
                continue;
            }
            let place = format!("{}/{}", relative.directory, relative.relfilenode);
            let evidence = format!("it belongs to {}, which begins anew, and so must this", relation.name());
            let finding = Finding::new("unlogged-stale", Severity::Error, place, evidence);
            let remedy = main_remedy(group, relative);
            findings.push(finding.of_relation(Some(relative.name())).with_remedy(remedy));
        }
    }
    findings
}

fn is_empty(group: &Group<'_>, relation: &CatalogRelation) -> bool {
    let directory = group.directory(relation);
    let mut files =
        directory.into_iter().flat_map(|directory| directory.fork(relation.relfilenode, Fork::Main));
    files.all(|found| found.size_bytes == 0)
}

/// A table, its toast relation, and the indexes of both.
fn relatives<'a>(group: &Group<'a>, relation: &CatalogRelation) -> Vec<&'a CatalogRelation> {
    let table = match relation.kind {
        RelationKind::Toast => relation.table.unwrap_or(relation.oid),
        _ => relation.oid,
    };
    let mut relatives: Vec<&CatalogRelation> = group.relation(table).into_iter().collect();
    for dependant in group.dependants(table) {
        relatives.push(dependant);
        relatives.extend(group.dependants(dependant.oid));
    }
    relatives
}
