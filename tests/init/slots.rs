//! Replication slots that a restored cluster does not have: each is named, with what its consumer must do.

use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;

/// A stopped cluster with a backup, a logical slot and a physical one.
fn with_slots() -> Sandbox {
    let sandbox = Sandbox::with_backup();
    let settings = sandbox.data().join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}wal_level = logical\n")).unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')");
    sandbox.sql("SELECT pg_create_physical_replication_slot('second')");
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox
}

#[rstest]
#[case::by_a_person(&["backup-postgresql", "restore", "latest", "--yes"])]
#[case::whole(&["backup-postgresql", "restore", "latest", "--yes", "--full"])]
#[case::by_itself(&["init-postgresql", "--no-backup"])]
fn a_restore_names_each_slot_that_is_lost(#[case] arguments: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_slots();
    if arguments.contains(&"init-postgresql") {
        sandbox.lose_transaction_status();
    }

    let told = sandbox.succeed(arguments);

    let database = sandbox.sql("SELECT current_database()");
    let logical = format!("replication slot 'cdc' (pgoutput, database '{database}')");
    for expected in [
        format!("{logical} will not be in the restored cluster: its consumer must create it again"),
        format!("left out {logical}"),
        "replication slot 'second' (physical) will not be".to_owned(),
    ] {
        assert!(told.contains(&expected), "{expected}: {told}");
    }
    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    let history = std::fs::read_to_string(sandbox.data().join(".pgbox/history.jsonl")).unwrap();
    assert!(history.contains("left out replication slot 'cdc'"), "{history}");
}

#[test]
fn nothing_is_said_of_slots_where_none_is_lost() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_slots();
    std::fs::remove_dir(sandbox.data().join("pg_notify")).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("replication slot"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_replication_slots"), "2");
}
