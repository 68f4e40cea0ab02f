//! The faults whose repair is another one in each major version, on all of them.
//!
//! What needs `pg_resetwal` or the programs of a salvage is not among them: the servers that `scripts/test` fetches come
//! without those.
//!
//! Each fault is tried on one version when stopped cleanly and on another when killed; those that come back from a
//! backup on one. With `PGBOX_TEST_ALL=1` all are tried on all versions.

use super::fault::{Backup, case_on, make};
use super::table::{all, find};
use super::template::{Left, template};
use crate::support::extent::is_wanted;
use crate::support::sandbox::Sandbox;
use rstest::rstest;

const VERSIONS: [u32; 6] = [13, 14, 16, 17, 18, 19];

/// Whether a fault is to be tried on a version.
fn is_tried(major: u32, name: &str, left: Left) -> bool {
    let version = VERSIONS.iter().position(|it| *it == major).unwrap();
    let fault = all().position(|(it, _)| *it == name).unwrap();
    is_wanted(version + fault + 2 * left as usize, VERSIONS.len())
}

/// Formats, expected files and ways of replaying that PostgreSQL has changed between 13 and 18.
#[rstest]
fn a_fault_that_each_version_has_in_its_own_way(
    #[values(13, 14, 16, 17, 18, 19)] major: u32,
    #[values(
        "the_control_file_is_lost",
        "the_shared_relation_map_is_lost",
        "all_relation_maps_are_lost",
        "the_index_of_database_names_is_lost",
        "all_indexes_of_shared_catalogs_are_lost",
        "the_index_of_relation_oids_is_lost",
        "the_empty_catalog_of_replication_origins_is_lost",
        "all_empty_directories_are_lost",
        "the_version_file_of_a_database_is_lost",
        "postgresql_conf_is_lost",
        "the_primary_key_is_lost",
        "an_unlogged_table_is_lost",
        "a_page_is_garbage",
        "a_page_is_zeroed",
        "a_page_is_of_an_earlier_time",
        "the_directory_of_template0_is_lost"
    )]
    name: &str,
    #[values(Left::Clean, Left::Killed)] left: Left,
) {
    if is_tried(major, name, left) {
        case_on(major, find(name), left, Backup::None);
    }
}

#[rstest]
fn without_the_programs_of_a_salvage_a_cluster_is_left_as_it_was(#[values(13, 14, 16, 17, 18)] major: u32) {
    let Some(template) = template(major, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.forget_backups();
    make(find("a_segment_of_pg_xact_is_lost").damage, &sandbox.data());
    // By the seal it could be worked out from the WAL.
    std::fs::remove_file(sandbox.data().join(".pgbox/seal")).unwrap();
    let before = cluster_listing(&sandbox);

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 127);

    assert!(told.contains("pg_dump', which was not found"), "{told}");
    assert_eq!(cluster_listing(&sandbox), before);
}

/// All but what is pgbox's own.
fn cluster_listing(sandbox: &Sandbox) -> Vec<String> {
    sandbox.listing().lines().filter(|line| !line.starts_with(".pgbox")).map(str::to_owned).collect()
}

#[rstest]
#[case::the_index_of_database_names("the_index_of_database_names_is_lost")]
#[case::the_catalog_of_databases("the_catalog_of_databases_is_lost")]
#[case::pg_xact("a_segment_of_pg_xact_is_lost")]
#[case::a_table("a_table_is_lost")]
fn what_is_lost_comes_back_from_a_backup_in_each_version(
    #[values(13, 14, 16, 17, 18, 19)] major: u32,
    #[case] name: &str,
) {
    if is_tried(major, name, Left::Clean) {
        case_on(major, find(name), Left::Clean, Backup::Older);
    }
}
