//! Directories that are lost: what is made again, empty, and what is said of it before.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::path::Path;
use std::process::Command;

fn shell(data: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(data))
}

/// A stopped cluster on which a statement was run.
fn stopped_after(statement: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), &format!("printf '{settings}' >> postgresql.conf"));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(statement);
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox
}

#[rstest]
#[case::slots(
    "SELECT pg_create_physical_replication_slot('old_replica', true)",
    "pg_replslot",
    "old_replica"
)]
#[case::slots_without_a_seal("SELECT 1", "pg_replslot .pgbox/seal", "slots, if there were any")]
#[case::statistics("SELECT 1", "pg_stat", "begin at zero")]
#[case::times_of_commits("SELECT 1", "pg_commit_ts", "the times of all commits so far are lost")]
fn what_is_lost_with_a_directory_is_told_before_it_is_made_again(
    #[case] statement: &str,
    #[case] lost: &str,
    #[case] told: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = stopped_after(statement, "track_commit_timestamp = on\\n");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox.data(), &format!("rm -r {lost}"));

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(plan.contains(told), "{plan}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}

#[rstest]
#[case::slots("pg_replslot")]
#[case::origins("pg_logical")]
#[case::times_of_commits("pg_commit_ts")]
fn nothing_is_said_to_be_lost_where_nothing_was(#[case] directory: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = stopped_after("SELECT 1", "");
    shell(&sandbox.data(), &format!("rm -r {directory}"));

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(plan.contains(directory) && !plan.contains("lost with it"), "{plan}");
}

#[test]
fn how_far_subscriptions_had_come_is_not_forgotten_without_a_persons_word() {
    // They would be sent again what they had.
    if !has_postgresql() {
        return;
    }
    let sandbox = stopped_after("SELECT pg_replication_origin_create('from_elsewhere')", "");
    shell(&sandbox.data(), "rm -r pg_logical");

    let told = sandbox.expect_status(&["init-postgresql"], 6);
    let script =
        "mkdir -m 700 pg_logical pg_logical/snapshots pg_logical/mappings; chown -R postgres: pg_logical";
    shell(&sandbox.data(), script);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("sent again what they had"), "{told}");
}
