//! What an inspection says of the configuration, which no start needs to fail for.

use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::unpluggable_disk::UnpluggableDisk;
use rstest::rstest;
use std::fs;

fn append(sandbox: &Sandbox, file: &str, line: &str) {
    let path = sandbox.data().join(file);
    let content = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{content}{line}\n")).unwrap();
}

#[rstest]
#[case::an_unknown_parameter("postgresql.conf", "nonsense_thing = 3", "unrecognized configuration parameter")]
#[case::a_value_that_makes_no_sense(
    "postgresql.conf",
    "max_connections = banana",
    "invalid value for parameter"
)]
#[case::an_include_that_is_missing(
    "postgresql.conf",
    "include 'x.conf'",
    "could not open configuration file"
)]
#[case::no_syntax_at_all("postgresql.auto.conf", "what is this", "syntax error in file")]
#[case::an_access_rule_of_no_kind("pg_hba.conf", "nonsense", "invalid connection type")]
fn a_configuration_that_the_server_would_not_take_is_told_in_its_words(
    #[case] file: &str,
    #[case] line: &str,
    #[case] words: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    append(&sandbox, file, line);

    let told = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(told.contains(&format!("{file} (configuration-broken)")), "{told}");
    assert!(told.contains(words), "{told}");
}

#[test]
fn a_configuration_that_served_is_not_tried_again_until_it_changes() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "stop"]);
    let note = sandbox.data().join(".pgbox/configuration");
    let noted = fs::read_to_string(&note).unwrap();

    append(&sandbox, "postgresql.conf", "work_mem = 5MB");
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("configuration-"), "{told}");
    assert_ne!(fs::read_to_string(&note).unwrap(), noted);
}

#[test]
fn a_server_syncs_its_cluster_at_once_before_it_recovers_unless_its_owner_has_it_otherwise() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SHOW recovery_init_sync_method"), "syncfs");
    sandbox.succeed(&["maintenance", "stop"]);

    append(&sandbox, "postgresql.conf", "recovery_init_sync_method = fsync");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW recovery_init_sync_method"), "fsync");
}

#[test]
fn on_a_file_system_that_ignores_a_sync_of_the_whole_each_file_is_synced() {
    // FUSE answers syncfs() with success and does nothing.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let share = sandbox.path().join("share");
    let Some(disk) = UnpluggableDisk::new(&sandbox.data(), &share) else { return };
    sandbox.set("PGDATA", disk.path().display().to_string());
    sandbox.lose_transaction_status();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert_eq!(sandbox.sql("SHOW recovery_init_sync_method"), "fsync");
    sandbox.succeed(&["maintenance", "stop"]);
}
