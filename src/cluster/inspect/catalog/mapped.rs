//! The catalogs that relation maps name: what each is called and what it is, fixed for all of 13 to 19.
//!
//! They are known without `pg_class`, so that a lost index of its own can be named and built anew.

use super::{CatalogRelation, Certainty, RelationKind};
use crate::cluster::inspect::maps::FIRST_NORMAL_OID;
use crate::pg::Oid;
use std::sync::Arc;

/// Catalogs that are never empty: `pg_type`, `pg_attribute`, `pg_proc`, `pg_class`, `pg_authid`, `pg_database`,
/// `pg_tablespace`. Every index has at least its meta page, too.
pub(in crate::cluster::inspect) const NEVER_EMPTY_TABLES: [u32; 7] =
    [1247, 1249, 1255, 1259, 1260, 1262, 1213];

/// The access method btree.
pub(super) const BTREE: Oid = Oid(403);

/// Object identifier, name, and for indexes and toast relations the table that they belong to
/// (catalog/*.h: `CATALOG`, `DECLARE_INDEX`, `DECLARE_TOAST`).
const TABLES: [(u32, &str); 15] = [
    (1213, "pg_tablespace"),
    (1214, "pg_shdepend"),
    (1247, "pg_type"),
    (1249, "pg_attribute"),
    (1255, "pg_proc"),
    (1259, "pg_class"),
    (1260, "pg_authid"),
    (1261, "pg_auth_members"),
    (1262, "pg_database"),
    (2396, "pg_shdescription"),
    (2964, "pg_db_role_setting"),
    (3592, "pg_shseclabel"),
    (6000, "pg_replication_origin"),
    (6100, "pg_subscription"),
    (6243, "pg_parameter_acl"),
];

const INDEXES: [(u32, &str, u32); 30] = [
    (1232, "pg_shdepend_depender_index", 1214),
    (1233, "pg_shdepend_reference_index", 1214),
    (2397, "pg_shdescription_o_c_index", 2396),
    (2658, "pg_attribute_relid_attnam_index", 1249),
    (2659, "pg_attribute_relid_attnum_index", 1249),
    (2662, "pg_class_oid_index", 1259),
    (2663, "pg_class_relname_nsp_index", 1259),
    (2671, "pg_database_datname_index", 1262),
    (2672, "pg_database_oid_index", 1262),
    (2676, "pg_authid_rolname_index", 1260),
    (2677, "pg_authid_oid_index", 1260),
    (2690, "pg_proc_oid_index", 1255),
    (2691, "pg_proc_proname_args_nsp_index", 1255),
    (2694, "pg_auth_members_role_member_index", 1261),
    (2695, "pg_auth_members_member_role_index", 1261),
    (2697, "pg_tablespace_oid_index", 1213),
    (2698, "pg_tablespace_spcname_index", 1213),
    (2703, "pg_type_oid_index", 1247),
    (2704, "pg_type_typname_nsp_index", 1247),
    (2965, "pg_db_role_setting_databaseid_rol_index", 2964),
    (3455, "pg_class_tblspc_relfilenode_index", 1259),
    (3593, "pg_shseclabel_object_index", 3592),
    (6001, "pg_replication_origin_roiident_index", 6000),
    (6002, "pg_replication_origin_roname_index", 6000),
    (6114, "pg_subscription_oid_index", 6100),
    (6115, "pg_subscription_subname_index", 6100),
    (6246, "pg_parameter_acl_parname_index", 6243),
    (6247, "pg_parameter_acl_oid_index", 6243),
    (6302, "pg_auth_members_grantor_index", 1261),
    (6303, "pg_auth_members_oid_index", 1261),
];

/// A toast relation, its index, and the table whose values it holds.
const TOASTS: [(u32, u32, u32); 11] = [
    (2836, 2837, 1255),
    (2846, 2847, 2396),
    (2966, 2967, 2964),
    (4060, 4061, 3592),
    (4171, 4172, 1247),
    (4175, 4176, 1260),
    (4177, 4178, 1262),
    (4181, 4182, 6000),
    (4183, 4184, 6100),
    (4185, 4186, 1213),
    (6244, 6245, 6243),
];

/// Where the relations of a map are.
pub(super) struct MapOwner {
    /// The database by which they are named.
    pub name: Arc<str>,
    /// Its object identifier; 0 for the shared ones.
    pub oid: Oid,
    /// The directory of their files.
    pub directory: Arc<str>,
}

/// The relation that an entry of a map names; one that no version knows is called by its number.
pub(super) fn relation(
    owner: &MapOwner,
    (oid, relfilenode): (Oid, Oid),
    certainty: Certainty,
) -> CatalogRelation {
    let (name, kind, table) = describe(oid);
    let schema = if name.starts_with("pg_toast_") { "pg_toast" } else { "pg_catalog" };
    CatalogRelation {
        oid,
        own_name: name.into(),
        schema: schema.into(),
        database_name: owner.name.clone(),
        directory: owner.directory.clone(),
        relfilenode,
        kind,
        is_unlogged: false,
        access_method: if kind == RelationKind::Index { BTREE } else { Oid(2) },
        table: table.map(Oid),
        is_valid: true,
        database: owner.oid,
        is_mapped: true,
        is_system: oid.0 < FIRST_NORMAL_OID,
        certainty,
    }
}

fn describe(oid: Oid) -> (String, RelationKind, Option<u32>) {
    if let Some((_, name)) = TABLES.iter().find(|entry| entry.0 == oid.0) {
        return ((*name).to_owned(), RelationKind::Table, None);
    }
    if let Some((_, name, table)) = INDEXES.iter().find(|entry| entry.0 == oid.0) {
        return ((*name).to_owned(), RelationKind::Index, Some(*table));
    }
    if let Some((_, _, table)) = TOASTS.iter().find(|entry| entry.0 == oid.0) {
        return (format!("pg_toast_{table}"), RelationKind::Toast, Some(*table));
    }
    if let Some((toast, _, table)) = TOASTS.iter().find(|entry| entry.1 == oid.0) {
        return (format!("pg_toast_{table}_index"), RelationKind::Index, Some(*toast));
    }
    (oid.to_string(), RelationKind::Table, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::relation_map::{MapKind, expected_catalogs};

    #[test]
    fn every_mapped_catalog_of_every_version_has_a_name() {
        for major in 13..=19 {
            for kind in [MapKind::Shared, MapKind::Database] {
                for &oid in expected_catalogs(kind, MajorVersion(major)).unwrap() {
                    let (name, _, _) = describe(Oid(oid));
                    assert!(name.starts_with("pg_"), "{oid} of {major}: {name}");
                }
            }
        }
    }
}
