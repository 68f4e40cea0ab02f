//! The walk itself: from the shared relation map to every relation of every database, each database on its own.

use super::directory::RelationDirectory;
use super::files::{Group, Place};
use super::mapped::{self, MapOwner};
use super::scene::{CatalogToRead, Scene};
use super::{Catalog, CatalogDatabase, CatalogRelation, CatalogTablespace, Certainty, rows, template0};
use crate::pg::Oid;
use crate::pg::heap::{DatabaseRow, NameRow};
use crate::pg::relation_map::RelationMap;
use crate::plan::{Finding, RelationName, Severity};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};

const PG_CLASS: Oid = Oid(1259);
const PG_DATABASE: Oid = Oid(1262);
const PG_TABLESPACE: Oid = Oid(1213);
/// The database by which shared relations are named: everybody may connect to it.
const TEMPLATE1: &str = "template1";

/// What the walk came to.
#[derive(Default)]
pub(super) struct Walked {
    pub catalog: Catalog,
    pub findings: Vec<Finding>,
    /// The databases whose directories in `base` are there, to look closer at.
    pub present: Vec<CatalogDatabase>,
}

/// Walks the catalogs, as far as they can be read.
pub(super) fn walk(scene: &Scene<'_>) -> Walked {
    let mut walked = Walked::default();
    let Some((directory, map)) = shared(scene) else { return walked };
    let relations = mapped_relations(scene, &map, &owner_of_shared(), Certainty::Sure);
    let databases = read_databases(scene, &directory, &map, &mut walked.findings);
    let tablespaces = read_tablespaces(scene, &directory, &map, &mut walked.findings);
    let is_complete = databases.is_some();
    walked.catalog.databases = databases.unwrap_or_default();
    if walked.catalog.databases.is_empty() {
        walked.catalog.databases.push(template1());
    }
    walked.catalog.tablespaces = tablespaces;
    let unreachable = super::tablespaces::check(scene, &walked.catalog.tablespaces, &mut walked.findings);
    let places = [("global".to_owned(), Place::Listed(directory))];
    let group = Group::new(scene, &relations, &places, HashMap::new());
    walked.findings.extend(group.check());
    walked.findings.extend(group.orphans());
    walked.catalog.parts.push(relations);
    let tablespaces = &walked.catalog.tablespaces;
    let one = |database| DatabaseWalk { scene, database, tablespaces, unreachable: &unreachable }.walk();
    let parts: Vec<Part> = walked.catalog.databases.par_iter().map(one).collect();
    for (part, database) in parts.into_iter().zip(&walked.catalog.databases) {
        walked.catalog.parts.push(part.relations);
        walked.findings.extend(part.findings);
        walked.present.extend(part.is_present.then(|| database.clone()));
    }
    super::tablespaces::make_sure(scene, &walked.catalog, &mut walked.findings);
    template0::consider(&walked.catalog, &mut walked.findings);
    if is_complete && scene.rules.is_clean() {
        walked.findings.extend(super::orphans::directories(scene, &walked.catalog));
    }
    walked
}

fn shared(scene: &Scene<'_>) -> Option<(RelationDirectory, RelationMap)> {
    let root = scene.root.subroot("global").ok()?;
    let map = scene.map(&root, "global")?;
    Some((scene.listed("global".to_owned(), root).ok()?, map))
}

fn owner_of_shared() -> MapOwner {
    MapOwner { name: TEMPLATE1.into(), oid: Oid(0), directory: "global".into() }
}

/// What there is in any state, where `pg_database` is half replayed and shows no database (18, after a VACUUM FULL
/// of it), or cannot be read.
fn template1() -> CatalogDatabase {
    CatalogDatabase {
        oid: Oid(1),
        name: TEMPLATE1.to_owned(),
        tablespace: Oid::DEFAULT_TABLESPACE,
        is_invalid: false,
        allows_connections: true,
        directory: "base/1".to_owned(),
        locale: crate::pg::heap::DatabaseLocale::default(),
        certainty: Certainty::Unsure,
    }
}

fn mapped_relations(
    scene: &Scene<'_>,
    map: &RelationMap,
    owner: &MapOwner,
    certainty: Certainty,
) -> Vec<CatalogRelation> {
    let of_entry = |&(oid, relfilenode): &(Oid, Oid)| {
        let certainty = scene.rules.of_mapped(relfilenode).and(certainty);
        mapped::relation(owner, (oid, relfilenode), certainty)
    };
    let mut relations: Vec<CatalogRelation> = map.entries.iter().map(of_entry).collect();
    relations.sort_unstable_by_key(|relation| relation.oid);
    relations
}

fn find(map: &RelationMap, catalog: Oid) -> Option<Oid> {
    map.entries.iter().find(|entry| entry.0 == catalog).map(|entry| entry.1)
}

fn shared_catalog<'a>(
    directory: &'a RelationDirectory,
    map: &RelationMap,
    catalog: Oid,
) -> Option<CatalogToRead<'a>> {
    let relfilenode = find(map, catalog)?;
    let name = mapped::relation(&owner_of_shared(), (catalog, relfilenode), Certainty::Sure).name();
    Some(CatalogToRead { directory, relfilenode, name })
}

/// The rows of `pg_database`; `None` where they cannot all be read.
fn read_databases(
    scene: &Scene<'_>,
    directory: &RelationDirectory,
    map: &RelationMap,
    findings: &mut Vec<Finding>,
) -> Option<Vec<CatalogDatabase>> {
    let pages = scene.read(&shared_catalog(directory, map, PG_DATABASE)?, findings)?;
    let database = |(tuple, visibility)| {
        let row = DatabaseRow::parse(&tuple, scene.major)?;
        // DROP DATABASE removes the directory before it commits; what is left if it is killed then is a row with a
        // removal that failed (dropdb() in dbcommands.c; from 15.4 on datconnlimit says so, too).
        let is_contested = row.is_invalid || tuple.has_failed_removal();
        let certainty = scene.rules.of_row(&tuple, visibility);
        Some(CatalogDatabase {
            oid: row.oid,
            name: row.name,
            tablespace: row.tablespace,
            is_invalid: row.is_invalid,
            allows_connections: row.allows_connections,
            directory: scene.place(row.oid, row.tablespace),
            locale: row.locale,
            certainty: if is_contested { Certainty::Unsure } else { certainty },
        })
    };
    let mut databases: Vec<_> = scene.live(&pages).filter_map(database).collect();
    databases.sort_unstable_by_key(|database| database.oid);
    databases.dedup_by_key(|database| database.oid);
    Some(databases)
}

fn read_tablespaces(
    scene: &Scene<'_>,
    directory: &RelationDirectory,
    map: &RelationMap,
    findings: &mut Vec<Finding>,
) -> Vec<CatalogTablespace> {
    let catalog = shared_catalog(directory, map, PG_TABLESPACE);
    let Some(pages) = catalog.and_then(|catalog| scene.read(&catalog, findings)) else { return Vec::new() };
    let tablespace = |(tuple, _)| {
        let row = NameRow::parse(&tuple)?;
        // DROP TABLESPACE removes the link before it commits, and no checkpoint need have come before.
        let certainty = if tuple.has_failed_removal() { Certainty::Unsure } else { scene.rules.when_clean() };
        Some(CatalogTablespace { oid: row.oid, name: row.name, certainty })
    };
    let mut tablespaces: Vec<_> = scene.live(&pages).filter_map(tablespace).collect();
    tablespaces.sort_unstable_by_key(|tablespace| tablespace.oid);
    tablespaces.dedup_by_key(|tablespace| tablespace.oid);
    tablespaces
}

/// What came of one database.
#[derive(Default)]
struct Part {
    relations: Vec<CatalogRelation>,
    findings: Vec<Finding>,
    is_present: bool,
}

struct DatabaseWalk<'a> {
    scene: &'a Scene<'a>,
    database: &'a CatalogDatabase,
    tablespaces: &'a [CatalogTablespace],
    unreachable: &'a BTreeSet<Oid>,
}

impl DatabaseWalk<'_> {
    fn walk(&self) -> Part {
        let mut part = Part::default();
        let places = self.places(&mut part.findings);
        let home = places.iter().find(|(place, _)| *place == self.database.directory);
        let directory = match home {
            Some((_, Place::Listed(directory))) if !self.database.is_invalid => directory,
            Some((_, Place::Unknown)) | None => return part,
            other => {
                part.findings
                    .extend(self.missing_or_invalid(other.is_some_and(|(_, place)| place.is_absent())));
                return part;
            }
        };
        part.is_present = self.database.tablespace == Oid::DEFAULT_TABLESPACE;
        let Ok(root) = self.scene.open(self.database.oid, self.database.tablespace) else { return part };
        if self.database.tablespace != Oid::DEFAULT_TABLESPACE {
            part.findings.extend(super::tablespaces::check_home(self.database, &root));
        }
        let Some(map) = self.scene.map(&root, &self.database.directory) else { return part };
        let mut relations = self.mapped(&map);
        let rows = find(&map, PG_CLASS).and_then(|relfilenode| {
            let name = self.catalog_name("pg_class");
            let catalog = CatalogToRead { directory, relfilenode, name };
            rows::read(self.scene, self.database, &catalog, &mut part.findings)
        });
        let is_complete = rows.is_some();
        let rows = rows.unwrap_or_default();
        relations.extend(rows.relations);
        relations.sort_unstable_by_key(|relation| relation.oid);
        let group = Group::new(self.scene, &relations, &places, rows.indexes);
        part.findings.extend(group.check());
        if is_complete {
            part.findings.extend(group.orphans());
        }
        drop(group);
        part.relations = relations;
        part
    }

    fn catalog_name(&self, name: &str) -> RelationName {
        let database = self.database.name.clone();
        RelationName { database, schema: "pg_catalog".to_owned(), name: name.to_owned() }
    }

    /// Of initdb's template1 a removal cut short is not assumed: without it nearly nothing works.
    fn mapped(&self, map: &RelationMap) -> Vec<CatalogRelation> {
        let database = self.database;
        let certainty = if database.oid == Oid(1) { Certainty::Sure } else { database.certainty };
        let owner = MapOwner {
            name: database.name.as_str().into(),
            oid: database.oid,
            directory: database.directory.as_str().into(),
        };
        mapped_relations(self.scene, map, &owner, certainty)
    }

    /// The directories that the database's relations may be in.
    fn places(&self, findings: &mut Vec<Finding>) -> Vec<(String, Place)> {
        let mut places = Vec::new();
        let own = [Oid::DEFAULT_TABLESPACE, self.database.tablespace];
        let others = self.tablespaces.iter().map(|tablespace| tablespace.oid);
        let all: BTreeSet<Oid> =
            own.into_iter().chain(others).filter(|oid| *oid != Oid::GLOBAL_TABLESPACE).collect();
        for tablespace in all {
            let place = self.scene.place(self.database.oid, tablespace);
            let listed = if self.unreachable.contains(&tablespace) {
                Place::Unknown
            } else {
                self.scene.list(&place, (self.database.oid, tablespace), findings)
            };
            places.push((place, listed));
        }
        places
    }

    fn missing_or_invalid(&self, is_missing: bool) -> Option<Finding> {
        let database = self.database;
        let place = database.directory.clone();
        if database.is_invalid {
            let evidence = format!(
                "a DROP DATABASE of '{}' was cut short: nobody can connect to it, and it can only be dropped again",
                database.name
            );
            return Some(Finding::new("database-drop-unfinished", Severity::Notice, place, evidence));
        }
        let evidence =
            format!("pg_database has the database '{}', and its directory is not there", database.name);
        // Of initdb's template1 a removal is not assumed, whatever the state.
        let certainty = if database.oid == Oid(1) { Certainty::Sure } else { database.certainty };
        is_missing.then(|| Finding::new("database-directory-missing", certainty.severity(), place, evidence))
    }
}
