//! The names that databases of the copy had, from indexes of their catalog, which may be all that is left of it.

use super::workplace::{Workplace, copied_place};
use crate::pg::Oid;
use crate::pg::database_names::database_names;
use crate::pg::page::Checksums;
use crate::pg::relation_map::RelationMap;
use std::collections::BTreeMap;

/// `pg_database_datname_index` and `pg_database_oid_index`.
const NAME_INDEX: Oid = Oid(2671);
const OID_INDEX: Oid = Oid(2672);
/// Far more than the names of a hundred thousand databases take.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// The names of databases by number, as far as they can be told. The copy must have been recovered, and its indexes not
/// yet built anew, from a catalog that may be another cluster's.
pub(super) fn read(work: &Workplace) -> BTreeMap<u32, String> {
    let map = work.root.read_bounded(work.copied("global/pg_filenode.map"), 4096).ok();
    let Some(map) = map.and_then(|bytes| RelationMap::parse(&bytes).ok()) else { return BTreeMap::new() };
    let checksums = work.control_file().map_or(Checksums::Disabled, |control| control.checksums());
    let content = |index: Oid| {
        let entry = map.entries.iter().find(|(oid, _)| *oid == index);
        let place = entry.map(|(_, relfilenode)| copied_place(&format!("global/{relfilenode}")));
        place.and_then(|place| work.root.read_bounded(place, MOST_INDEX_BYTES).ok()).unwrap_or_default()
    };
    database_names(&content(NAME_INDEX), &content(OID_INDEX), checksums)
}
