//! The rows of one database's own catalogs: `pg_class`, `pg_namespace` and `pg_index`.

use super::directory::CatalogPages;
use super::scene::{CatalogToRead, Scene};
use super::{CatalogDatabase, CatalogRelation, Certainty, RelationKind};
use crate::cluster::inspect::maps::FIRST_NORMAL_OID;
use crate::pg::Oid;
use crate::pg::heap::{ClassRow, IndexRow, NameRow};
use crate::plan::{Finding, RelationName};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const PG_NAMESPACE: Oid = Oid(2615);
const PG_INDEX: Oid = Oid(2610);

/// What a database's own catalogs say, the mapped relations apart.
#[derive(Default)]
pub(super) struct Rows {
    pub relations: Vec<CatalogRelation>,
    /// By index.
    pub indexes: HashMap<Oid, IndexRow>,
}

/// Reads them, from `pg_class` on; `None` where `pg_class` cannot be read whole. A name or a table that cannot be
/// told is left blank: the files are looked for all the same.
pub(super) fn read(
    scene: &Scene<'_>,
    database: &CatalogDatabase,
    pg_class: &CatalogToRead<'_>,
    findings: &mut Vec<Finding>,
) -> Option<Rows> {
    let pages = scene.read(pg_class, findings)?;
    let rows = class_rows(scene, &pages, database);
    let mut other = |oid: Oid, name: &str| {
        let (row, _) = rows.iter().find(|(row, _)| row.oid == oid)?;
        let name = RelationName { name: name.to_owned(), ..pg_class.name.clone() };
        let catalog = CatalogToRead { relfilenode: row.relfilenode, name, ..*pg_class };
        scene.read(&catalog, findings)
    };
    let namespaces = other(PG_NAMESPACE, "pg_namespace").map(|pages| namespaces(scene, &pages));
    let indexes = other(PG_INDEX, "pg_index").map(|pages| indexes(scene, &pages)).unwrap_or_default();
    let invalid = indexes.values().filter(|row| !row.is_valid).map(|row| row.index).collect();
    let tables = tables_of(&rows, &indexes);
    let naming = Naming {
        database: database.name.as_str().into(),
        home: database.directory.as_str().into(),
        namespaces: namespaces.unwrap_or_default(),
        tables,
        invalid,
    };
    let with_files = rows.iter().filter(|(row, _)| row.relfilenode != Oid(0));
    let relations =
        with_files.filter_map(|(row, certainty)| naming.relation(scene, database, row, *certainty)).collect();
    Some(Rows { relations, indexes })
}

/// The rows of relations that have files of this database's own, the mapped ones included.
fn class_rows<'a>(
    scene: &'a Scene<'_>,
    pages: &'a CatalogPages,
    database: &CatalogDatabase,
) -> Vec<(ClassRow<'a>, Certainty)> {
    let live = scene.live(pages).filter_map(|(tuple, visibility)| {
        let row = ClassRow::parse(&tuple, scene.major)?;
        let certainty = scene.rules.of_row(&tuple, visibility).and(database.certainty);
        let is_kept = kind(row.kind).is_some() && row.persistence != b't' && !row.is_shared;
        is_kept.then_some((row, certainty))
    });
    live.collect()
}

fn kind(relkind: u8) -> Option<RelationKind> {
    Some(match relkind {
        b'r' => RelationKind::Table,
        b'i' => RelationKind::Index,
        b'm' => RelationKind::MaterializedView,
        b'S' => RelationKind::Sequence,
        b't' => RelationKind::Toast,
        _ => return None,
    })
}

fn namespaces(scene: &Scene<'_>, pages: &CatalogPages) -> HashMap<Oid, Arc<str>> {
    let rows = scene.live(pages).filter_map(|(tuple, _)| NameRow::parse(&tuple));
    rows.map(|row| (row.oid, row.name.into())).collect()
}

fn indexes(scene: &Scene<'_>, pages: &CatalogPages) -> HashMap<Oid, IndexRow> {
    let rows = scene.live(pages).filter_map(|(tuple, _)| IndexRow::parse(&tuple, scene.major));
    rows.map(|row| (row.index, row)).collect()
}

/// The table of each index and each toast relation.
fn tables_of(rows: &[(ClassRow<'_>, Certainty)], indexes: &HashMap<Oid, IndexRow>) -> HashMap<Oid, Oid> {
    let of_toast = rows.iter().filter(|(row, _)| row.toast != Oid(0)).map(|(row, _)| (row.toast, row.oid));
    let of_index = indexes.values().map(|row| (row.index, row.table));
    of_toast.chain(of_index).collect()
}

/// The name of a schema where `pg_namespace` cannot be read (`pg_namespace.dat`).
fn built_in_schema(oid: Oid) -> Arc<str> {
    match oid.0 {
        11 => "pg_catalog".into(),
        99 => "pg_toast".into(),
        2200 => "public".into(),
        _ => oid.to_string().into(),
    }
}

struct Naming {
    database: Arc<str>,
    /// The database's own directory.
    home: Arc<str>,
    namespaces: HashMap<Oid, Arc<str>>,
    tables: HashMap<Oid, Oid>,
    /// The indexes that are not valid.
    invalid: HashSet<Oid>,
}

impl Naming {
    fn relation(
        &self,
        scene: &Scene<'_>,
        database: &CatalogDatabase,
        row: &ClassRow<'_>,
        certainty: Certainty,
    ) -> Option<CatalogRelation> {
        let schema = self.namespaces.get(&row.namespace).cloned();
        let schema = schema.unwrap_or_else(|| built_in_schema(row.namespace));
        let tablespace = if row.tablespace == Oid(0) { database.tablespace } else { row.tablespace };
        let directory = match tablespace {
            _ if tablespace == database.tablespace => self.home.clone(),
            _ => scene.place(database.oid, tablespace).into(),
        };
        Some(CatalogRelation {
            oid: row.oid,
            own_name: row.name().into(),
            schema,
            database_name: self.database.clone(),
            directory,
            relfilenode: row.relfilenode,
            kind: kind(row.kind)?,
            is_unlogged: row.persistence == b'u',
            access_method: row.access_method,
            table: self.tables.get(&row.oid).copied(),
            is_valid: !self.invalid.contains(&row.oid),
            database: database.oid,
            is_mapped: false,
            is_system: row.oid.0 < FIRST_NORMAL_OID,
            certainty,
        })
    }
}
