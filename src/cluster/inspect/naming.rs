//! Whose a file is, as people and SQL name it.

use super::catalog::Catalog;
use super::{FileTree, Inspection};
use crate::pg::Oid;
use crate::pg::layout::RelationFile;
use crate::plan::RelationName;
use crate::sys::{ReadRoot, Threads};
use std::collections::BTreeMap;

/// The databases that take connections, by their catalog on the disk: none has to be known to connect to.
///
/// Of a server that runs, they are as new as its last checkpoint.
pub fn open_databases(root: &ReadRoot) -> Vec<String> {
    let Some(catalog) = read_catalog(root) else { return Vec::new() };
    let open =
        catalog.databases.into_iter().filter(|database| database.allows_connections && !database.is_invalid);
    open.map(|database| database.name).collect()
}

fn read_catalog(root: &ReadRoot) -> Option<Catalog> {
    let mut inspection = Inspection::of(root);
    inspection.is_in_use = true;
    inspection.check_identity();
    let tree = FileTree::read(root, inspection.control.as_ref(), Threads::All);
    inspection.check_maps();
    inspection.check_catalog(&tree);
    inspection.catalog
}

/// The relations that relation files belong to, by the path of the file below the data directory.
///
/// It is read from the catalogs on the disk, so that it needs no server and no connection to each database; of a server
/// that runs, they are as new as its last checkpoint. A file that no catalog names is left out.
pub fn relation_names(root: &ReadRoot, paths: &[&str]) -> BTreeMap<String, RelationName> {
    let Some(catalog) = read_catalog(root) else { return BTreeMap::new() };
    let relations: BTreeMap<(&str, Oid), _> = catalog
        .relations()
        .map(|relation| ((&*relation.directory, relation.relfilenode), relation))
        .collect();
    let name_of = |path: &&str| {
        let (directory, name) = path.rsplit_once('/')?;
        let file = RelationFile::parse(name)?;
        Some(((*path).to_owned(), relations.get(&(directory, file.relfilenode))?.name()))
    };
    paths.iter().filter_map(name_of).collect()
}
