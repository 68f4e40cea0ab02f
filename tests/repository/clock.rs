//! Backups that were made while the clock was wrong: their WAL tells which is the newer.

use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;

/// Gives a backup another time, as a clock that was so many days ahead would have.
fn date(sandbox: &Sandbox, name: &str, days_ahead: i64) {
    let path = sandbox.backups().join(name).join("backup.json");
    let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let fields = document.as_object_mut().unwrap();
    let made: chrono::DateTime<chrono::Utc> = fields["created_at"].as_str().unwrap().parse().unwrap();
    let dated = serde_json::json!(made + chrono::TimeDelta::days(days_ahead));
    note_date(sandbox, name, &dated);
    fields.insert("created_at".into(), dated);
    fields.remove("blake3");
    let hash = blake3::hash(&serde_json::to_vec(&document).unwrap()).to_hex().to_string();
    document.as_object_mut().unwrap().insert("blake3".into(), serde_json::json!(hash));
    std::fs::write(&path, serde_json::to_vec_pretty(&document).unwrap()).unwrap();
}

/// Gives a backup another time in the data directory's own list, too: one clock wrote both.
fn note_date(sandbox: &Sandbox, name: &str, dated: &serde_json::Value) {
    let path = sandbox.data().join(".pgbox/lineage.json");
    let mut lineage: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let marks = lineage["backups"].as_array_mut().unwrap();
    for mark in marks.iter_mut().filter(|mark| mark["name"] == *name) {
        mark["created_at"] = dated.clone();
    }
    std::fs::write(&path, serde_json::to_vec(&lineage).unwrap()).unwrap();
}

/// A running cluster with two backups, of which the newer has 50 rows more, and the WAL between the two gone. Returns
/// their names, the older first.
fn two_backups() -> (Sandbox, String, String) {
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", "off");
    let older = sandbox.backup_names("data_").remove(0);
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = 0");
    sandbox.sql("SELECT pg_reload_conf()");
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    for _ in 0..3 {
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("CHECKPOINT");
    }
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let newer = sandbox.backup_names("data_").remove(0);
    assert_ne!(older, newer);
    (sandbox, older, newer)
}

#[rstest]
#[case::ahead_at_the_older(30, 0)]
#[case::behind_at_the_newer(0, -30)]
fn the_newer_backup_is_restored_whatever_the_clock_said(#[case] older_ahead: i64, #[case] newer_ahead: i64) {
    if !has_postgresql() {
        return;
    }
    let (sandbox, older, newer) = two_backups();
    date(&sandbox, &older, older_ahead);
    date(&sandbox, &newer, newer_ahead);
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.lose_transaction_status();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150", "{told}");
    assert_eq!(sandbox.backup_names("data_"), [newer, older]);
}

#[test]
fn a_backup_that_was_just_made_stays_although_another_is_from_the_future_which_is_told() {
    if !has_postgresql() {
        return;
    }
    let (mut sandbox, older, newer) = two_backups();
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.set("KEEP_DAILY", "0");
    date(&sandbox, &older, 30);
    date(&sandbox, &newer, 30);

    let told = sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let left = sandbox.backup_names("data_");
    assert!(left.len() == 1 && ![older, newer.clone()].contains(&left[0]), "{left:?}: {told}");
    assert!(told.contains(&format!("{newer} was made at a time that is still to come")), "{told}");
    date(&sandbox, &left[0], 30);
    let health = crate::support::sandbox::printed(&sandbox.output(&["maintenance", "health"]));
    assert!(health.contains("backup-clock"), "{health}");
}
