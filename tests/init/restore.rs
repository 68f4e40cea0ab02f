//! `backup-postgresql restore` and `maintenance`, from start to end.

use crate::support::sandbox::{Sandbox, has_postgresql};

#[test]
fn a_restore_brings_the_rows_of_the_backup_and_can_be_taken_back() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("DELETE FROM kept WHERE id > 10");
    let name = sandbox.backup_names("data_").remove(0);

    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");

    let replaced = sandbox.backup_names("replaced_").remove(0);
    sandbox.succeed(&["backup-postgresql", "restore", &replaced, "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "10");
}

#[test]
fn undo_takes_the_last_restore_back_and_a_second_undo_the_first() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let refused = sandbox.expect_status(&["backup-postgresql", "undo", "--yes"], 3);
    assert!(refused.contains("there is nothing to take back"), "{refused}");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("DELETE FROM kept WHERE id > 10");
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    sandbox.sql("INSERT INTO kept VALUES (101)");

    let shown = sandbox.succeed(&["backup-postgresql", "undo", "--dry-run"]);
    assert!(shown.contains("restore replaced_"), "{shown}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");

    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "10");
    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}

#[test]
fn each_restore_begins_a_timeline_that_no_other_has_used() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").remove(0);
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    let mut seen = Vec::new();
    for _ in 0..3 {
        sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
        sandbox.sql("CHECKPOINT");
        seen.push(sandbox.sql(timeline));
    }
    assert_eq!(seen, ["2", "3", "4"]);
}

#[test]
fn a_recovery_after_a_restore_does_not_go_back_to_the_branch_that_was_left() {
    // The newest backup by time is of the branch that the restore turned away from.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let first = sandbox.backup_names("data_").remove(0);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.succeed(&["backup-postgresql", "restore", &first, "--yes"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(201, 205)");
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.lose_transaction_status();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "105|205");
}

#[test]
fn a_restore_into_an_empty_directory_makes_the_cluster_there() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").remove(0);
    std::fs::remove_dir_all(sandbox.data()).unwrap();

    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_directory_made_by_the_old_scripts_is_listed_and_restored() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    std::fs::create_dir_all(sandbox.backups()).unwrap();
    let copy = sandbox.backups().join("data_20240102_030405");
    let mut cp = std::process::Command::new("cp");
    assert!(cp.arg("-a").arg(sandbox.data()).arg(&copy).status().unwrap().success());
    std::fs::remove_dir_all(copy.join(".pgbox")).unwrap();
    std::fs::remove_file(sandbox.data().join("global/2671")).unwrap();

    assert_eq!(sandbox.backup_names("data_"), ["data_20240102_030405"]);
    sandbox.succeed(&["backup-postgresql", "restore", "data_20240102_030405", "--yes"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn health_has_status_1_for_an_issue_and_0_otherwise() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let stopped = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(stopped.contains("no server runs"), "{stopped}");

    sandbox.succeed(&["maintenance", "start"]);
    let well = sandbox.succeed(&["maintenance", "health"]);
    assert!(well.contains("two connections"), "{well}");

    std::fs::remove_file(sandbox.data().join("global/6000")).unwrap();
    let damaged = sandbox.expect_status(&["maintenance", "health", "--json"], 1);
    assert!(damaged.contains("relation-file-missing"), "{damaged}");
}

#[test]
fn a_second_start_that_changed_nothing_makes_no_new_backup() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    for _ in 0..4 {
        sandbox.succeed(&["init-postgresql"]);
        sandbox.succeed(&["maintenance", "stop"]);
    }
    let count = sandbox.backup_names("data_").len();
    assert!(count <= 2, "{count} backups of a cluster that nobody changed");
}

#[test]
fn the_commands_without_a_subcommand_print_their_help_and_succeed() {
    let sandbox = Sandbox::empty();
    for applet in ["backup-postgresql", "maintenance"] {
        let help = sandbox.succeed(&[applet]);
        assert!(help.contains("Usage:"), "{help}");
    }
}

#[test]
fn a_second_recovery_before_any_new_backup_keeps_the_rows_of_both_timelines() {
    // The only backup is of timeline 1; the first recovery goes on in timeline 2, where the second damage happens.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    for row in [1001, 1002, 1003] {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql(&format!("INSERT INTO kept VALUES ({row})"));
        sandbox.succeed(&["maintenance", "stop"]);
        sandbox.lose_transaction_status();
    }

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "103|1003", "{told}");
}
