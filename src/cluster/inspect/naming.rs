//! Whose a file is, as people and SQL name it.

use super::{FileTree, Inspection};
use crate::pg::Oid;
use crate::pg::layout::RelationFile;
use crate::plan::RelationName;
use crate::sys::{ReadRoot, Threads};
use std::collections::BTreeMap;

/// The relations that relation files belong to, by the path of the file below the data directory.
///
/// It is read from the catalogs on the disk, so that it needs no server and no connection to each database; of a server
/// that runs, they are as new as its last checkpoint. A file that no catalog names is left out.
pub fn relation_names(root: &ReadRoot, paths: &[&str]) -> BTreeMap<String, RelationName> {
    let mut inspection = Inspection::of(root);
    inspection.is_in_use = true;
    inspection.check_identity();
    let tree = FileTree::read(root, inspection.control.as_ref(), Threads::All);
    inspection.check_maps();
    inspection.check_catalog(&tree);
    let Some(catalog) = inspection.catalog else { return BTreeMap::new() };
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
