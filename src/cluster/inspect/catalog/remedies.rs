//! What would put a fault of a relation's files right, with the proof that nothing is lost by it.

use super::files::{Fault, Group};
use super::mapped::BTREE;
use super::{CatalogRelation, RelationKind, unlogged};
use crate::pg::empty_index::{self, Root};
use crate::plan::{FileContent, Remedy};

/// The remedy of a fault that is sure.
pub(super) fn remedy(group: &Group<'_>, relation: &CatalogRelation, fault: Fault) -> Remedy {
    let is_index = relation.kind == RelationKind::Index;
    match fault {
        Fault::InitStray => stray_init_remedy(relation),
        // Built from its table, an index has all it had.
        _ if is_index && has_table(group, relation) => Remedy::Reindex(relation.name()),
        _ if is_index => Remedy::Replace,
        Fault::InitMissing => unlogged::init_remedy(group, relation),
        _ if relation.is_unlogged => unlogged::main_remedy(group, relation),
        Fault::Missing if is_provably_empty(group, relation) => write_empty(),
        _ => Remedy::Replace,
    }
}

/// Nothing that is not below the data directory itself is moved.
fn stray_init_remedy(relation: &CatalogRelation) -> Remedy {
    if relation.directory.starts_with("pg_tblspc/") {
        let file = format!("{}/{}_init", relation.directory, relation.relfilenode);
        return Remedy::SeeToIt(format!("move '{file}' out of the tablespace"));
    }
    Remedy::SetAsideFile
}

fn write_empty() -> Remedy {
    let description = "empty, as its index shows that it has no row".to_owned();
    Remedy::WriteFile(FileContent { description, bytes: Vec::new() })
}

/// Whether the file of an index's own table is there.
pub(super) fn has_table(group: &Group<'_>, index: &CatalogRelation) -> bool {
    let table = index.table.and_then(|table| group.relation(table));
    let directory = table.and_then(|table| Some((table, group.directory(table)?)));
    directory.is_some_and(|(table, directory)| directory.has_main(table.relfilenode))
}

/// Whether a table has no row, as one of its indexes has an entry for every row, and has no entry.
///
/// Many shared catalogs are of this sort: `pg_replication_origin` and `pg_db_role_setting` are empty nearly
/// everywhere. The proof holds after a crash, too: the last checkpoint wrote index and table, and whatever came
/// after it is replayed into the empty file, block by block from its first, whole image.
fn is_provably_empty(group: &Group<'_>, table: &CatalogRelation) -> bool {
    let is_table =
        matches!(table.kind, RelationKind::Table | RelationKind::Toast | RelationKind::MaterializedView);
    let indexes = group.dependants(table.oid).iter();
    let mut proving = indexes.filter(|index| {
        index.kind == RelationKind::Index && index.access_method == BTREE && group.covers_all_rows(index)
    });
    is_table && proving.any(|index| is_empty(group, index) == Some(true))
}

fn is_empty(group: &Group<'_>, index: &CatalogRelation) -> Option<bool> {
    let directory = group.directory(index)?;
    let read = |block| directory.read_block(index.relfilenode, block).ok();
    match empty_index::root(read(0)?.as_slice())? {
        Root::None => Some(true),
        Root::Leaf(block) => Some(empty_index::is_empty_root_leaf(read(block)?.as_slice())),
        Root::Deeper => Some(false),
    }
}
