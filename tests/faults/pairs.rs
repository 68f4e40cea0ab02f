//! Each two of the commoner faults at once: one repair must not stand in the way of another.
//!
//! One in four pairs that need no backup is tried, each fault in some; with `PGBOX_TEST_ALL=1` all are.

use super::fault::{Backup, Fault, case, fault};
use super::table::find;
use super::template::Left;
use crate::support::extent::is_wanted;
use rstest::rstest;
use std::panic::catch_unwind;

/// Each can be put right without loss by itself, so that any two can.
const COMMON: [&str; 12] = [
    "all_empty_directories_are_lost",
    "an_empty_pid_file",
    "a_mode_that_the_server_refuses",
    "files_of_root",
    "postgresql_conf_is_lost",
    "the_index_of_database_names_is_lost",
    "the_index_of_relation_oids_is_lost",
    "the_control_file_is_lost",
    "the_shared_relation_map_is_lost",
    "the_version_file_is_lost",
    "the_primary_key_is_lost",
    "an_unlogged_table_is_lost",
];

#[rstest]
fn two_faults_at_once_are_put_right(
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] first: usize,
    #[values(Left::Clean, Left::Killed)] left: Left,
) {
    let others = COMMON.iter().enumerate().skip(first + 1);
    let wanted = others.filter(|(second, _)| is_wanted(first + second + left as usize, 4));
    let failed: Vec<_> = wanted.filter(|(_, second)| !is_put_right(COMMON[first], second, left)).collect();
    assert!(failed.is_empty(), "{} together with: {failed:#?}", COMMON[first]);
}

fn is_put_right(first: &str, second: &str, left: Left) -> bool {
    let damage = format!("{}\n{}", find(first).damage, find(second).damage);
    catch_unwind(|| case(&together(&damage), left, Backup::None)).is_ok()
}

fn together(damage: &str) -> Fault {
    // A fault is data that lives as long as the tests.
    fault(Box::leak(damage.to_owned().into_boxed_str()))
}

#[rstest]
fn an_index_that_is_lost_with_the_map_that_named_it_is_built_anew(
    #[values(Left::Clean, Left::Killed)] left: Left,
) {
    assert!(is_put_right("the_index_of_database_names_is_lost", "the_shared_relation_map_is_lost", left));
}

/// What only a backup brings back, together with what stands in the way of reading what is left.
#[rstest]
#[case("the_catalog_of_databases_is_lost", "the_control_file_is_lost")]
#[case("the_catalog_of_databases_is_lost", "the_shared_relation_map_is_lost")]
#[case("a_segment_of_pg_xact_is_lost", "the_version_file_is_lost")]
#[case("a_table_is_lost", "the_index_of_relation_oids_is_lost")]
#[case("a_table_is_lost", "all_configuration_is_lost")]
#[case("the_base_directory_is_lost", "the_control_file_is_lost")]
fn two_faults_at_once_come_back_from_a_backup(
    #[case] first: &str,
    #[case] second: &str,
    #[values(Left::Clean, Left::Killed)] left: Left,
) {
    let damage = format!("{}\n{}", find(first).damage, find(second).damage);
    case(&together(&damage), left, Backup::Older);
}
