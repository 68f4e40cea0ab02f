//! The offline catalog walk: every relation that must have files, read from the pages of the catalogs without a
//! server.
//!
//! The walk goes the way that a backend goes: the shared relation map, `pg_database`, each database's map,
//! `pg_class`, `pg_namespace`, `pg_index`. A row counts where its own hint bits or `pg_xact` say that it is live.

mod certainty;
mod directory;
mod files;
mod mapped;
mod orphans;
mod remedies;
mod rows;
mod scene;
mod tablespaces;
mod template0;
mod transactions;
mod unlogged;
mod walk;

pub(super) use certainty::{low_half, precedes};
pub(super) use files::FOLLOWED_TABLES;
pub(super) use mapped::NEVER_EMPTY_TABLES;
pub(super) use transactions::StoredTransactions;

use super::{FileTree, Inspection};
use crate::pg::Oid;
use crate::pg::heap::DatabaseLocale;
use crate::plan::RelationName;
use std::sync::Arc;

/// What the catalogs say that must be there.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// The databases, those whose removal began among them.
    pub databases: Vec<CatalogDatabase>,
    /// The tablespaces, the two built-in ones included.
    pub tablespaces: Vec<CatalogTablespace>,
    /// The relations that have files, those of the shared catalogs first, then those of each database: in parts, since
    /// to put them into one list would take as much memory again.
    parts: Vec<Vec<CatalogRelation>>,
}

impl Catalog {
    /// The relations that have files.
    pub(crate) fn relations(&self) -> impl Iterator<Item = &CatalogRelation> {
        self.parts.iter().flatten()
    }
}

/// A row of `pg_database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogDatabase {
    /// Object identifier, the name of its directory.
    pub oid: Oid,
    /// Name.
    pub name: String,
    /// Its default tablespace.
    pub tablespace: Oid,
    /// Whether a DROP DATABASE began and did not finish.
    pub is_invalid: bool,
    /// Whether anybody may connect to it.
    pub allows_connections: bool,
    /// Its collation, and the version that its indexes were built with.
    pub locale: DatabaseLocale,
    /// The directory of its mapped relations, below the data directory: `base/5`.
    pub directory: String,
    /// Whether its row is surely final, by the table in `facts/corruption.md` §2.
    pub certainty: Certainty,
}

/// A row of `pg_tablespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTablespace {
    /// Object identifier, the name of its link.
    pub oid: Oid,
    /// Name.
    pub name: String,
    /// Whether its row is surely final.
    pub certainty: Certainty,
}

/// Whether what a row says must already be true on disk, or may still be made or unmade by replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// A missing file is an error.
    Sure,
    /// A missing file is a warning: replay may put it right.
    Unsure,
}

/// `relkind`, of those that have files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelationKind {
    /// `r`
    Table,
    /// `i`
    Index,
    /// `m`
    MaterializedView,
    /// `S`
    Sequence,
    /// `t`
    Toast,
}

/// A relation that must have files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts, as the catalogs have them")]
pub(crate) struct CatalogRelation {
    /// Object identifier.
    pub oid: Oid,
    /// Its name without its schema. There may be a hundred thousand relations, so that they share all they can.
    pub own_name: Box<str>,
    /// Its schema.
    pub schema: Arc<str>,
    /// The database by which it is named.
    pub database_name: Arc<str>,
    /// The directory of its files, below the data directory: `base/5`, `global`, `pg_tblspc/16400/PG_15_202209061/5`.
    pub directory: Arc<str>,
    /// The number that names its files.
    pub relfilenode: Oid,
    /// What it is.
    pub kind: RelationKind,
    /// Whether it is unlogged.
    pub is_unlogged: bool,
    /// The access method, 403 for a btree.
    pub access_method: Oid,
    /// For an index, the table that it is of; for a toast relation, the table whose values it holds; else none.
    pub table: Option<Oid>,
    /// Whether it is not an index that is still being made, whose entries nobody keeps up.
    pub is_valid: bool,
    /// The database whose `pg_class` has it; 0 for the shared ones.
    pub database: Oid,
    /// Whether it is one of the catalogs that a map names.
    pub is_mapped: bool,
    /// Whether the server uses it itself: one of initdb's, whose index can only be built anew with `-P`.
    pub is_system: bool,
    /// Whether its row is surely final.
    pub certainty: Certainty,
}

impl CatalogRelation {
    /// As people and SQL name it.
    pub(crate) fn name(&self) -> RelationName {
        let database = self.database_name.to_string();
        RelationName { database, schema: self.schema.to_string(), name: self.own_name.to_string() }
    }
}

impl Inspection<'_> {
    /// Walks the catalogs and looks for every file that they say must be there, among those that were listed.
    pub(super) fn check_catalog(&mut self, tree: &FileTree) {
        let Some(scene) = scene::Scene::of(self, tree) else { return };
        let walked = walk::walk(&scene);
        drop(scene);
        self.extent.databases = walked.catalog.databases.len();
        self.extent.relations = walked.catalog.parts.iter().map(Vec::len).sum();
        self.findings.extend(walked.findings);
        for database in walked.present {
            // Those of initdb's own are looked at with the maps, even if no row names them.
            if database.oid.0 >= super::maps::FIRST_NORMAL_OID {
                self.check_database_directory(&database.directory, database.certainty.severity());
            }
        }
        self.catalog = Some(walked.catalog);
    }
}
