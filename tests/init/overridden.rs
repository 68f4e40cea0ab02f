//! Settings that the server reads and then refuses to start with.

use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;
use std::fs::{self, OpenOptions};
use std::io::Write;

fn append(sandbox: &Sandbox, file: &str, line: &str) {
    let mut file = OpenOptions::new().append(true).open(sandbox.data().join(file)).unwrap();
    writeln!(file, "{line}").unwrap();
}

#[rstest]
#[case::a_level_that_contradicts_another_setting(
    "postgresql.conf",
    "wal_level = minimal",
    "wal_level",
    "replica"
)]
#[case::memory_that_is_not_there("postgresql.auto.conf", "shared_buffers = 900GB", "shared_buffers", "128MB")]
#[case::reserved_for_all(
    "postgresql.auto.conf",
    "superuser_reserved_connections = 100",
    "superuser_reserved_connections",
    "3"
)]
fn one_setting_that_is_refused_is_overridden_for_the_run_and_told_until_it_is_put_right(
    #[case] file: &str,
    #[case] line: &str,
    #[case] parameter: &str,
    #[case] value: &str,
) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    append(&sandbox, file, "work_mem = 7MB");
    append(&sandbox, file, line);
    let path = sandbox.data().join(file);
    let before = fs::read(&path).unwrap();
    let number = String::from_utf8_lossy(&before).lines().count();
    let place = format!("{file}', line {number} ({line})");

    sandbox.set("RECOVERY", "never");
    let told = printed_failure(&sandbox);
    assert!(told.contains(&place), "{told}");

    sandbox.set("RECOVERY", "auto");
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(told.contains(&place), "{told}");
    assert_eq!(sandbox.sql(&format!("SHOW {parameter}")), value);
    assert_eq!(sandbox.sql("SHOW work_mem"), "7MB");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert_eq!(fs::read(&path).unwrap(), before);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains(&place), "{health}");

    let text = String::from_utf8(before).unwrap().replace(line, "");
    fs::write(&path, text).unwrap();
    let told = sandbox.succeed(&["maintenance", "restart"]);
    assert!(!told.contains("left out"), "{told}");
    assert!(!sandbox.data().join(".pgbox/overridden").exists());
}

/// What a start prints that fails.
fn printed_failure(sandbox: &Sandbox) -> String {
    let output = sandbox.output(&["init-postgresql", "--no-backup"]);
    let text = crate::support::sandbox::printed(&output);
    assert!(!output.status.success(), "{text}");
    text
}

#[test]
fn a_prepared_transaction_outlives_the_file_that_allowed_it() {
    // ALTER SYSTEM set max_prepared_transactions, and its file was lost.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    append(&sandbox, "postgresql.auto.conf", "max_prepared_transactions = 7");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("BEGIN; INSERT INTO kept VALUES (101); PREPARE TRANSACTION 'one'");
    sandbox.succeed(&["maintenance", "stop"]);
    fs::remove_file(sandbox.data().join("postgresql.auto.conf")).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("no file of the configuration sets max_prepared_transactions"), "{told}");
    assert_eq!(sandbox.sql("SHOW max_prepared_transactions"), "7");
    sandbox.sql("COMMIT PREPARED 'one'");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}
