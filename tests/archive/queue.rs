//! An archive that fails costs moments to go back to, never the server.

use super::setting::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::wait::wait_until;

fn gap(sandbox: &Sandbox) -> bool {
    sandbox.data().join(".pgbox/wal-gap.json").exists()
}

#[test]
fn when_the_archive_fails_for_long_the_queue_is_bounded_and_the_next_backup_closes_the_gap() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    // One segment may wait.
    sandbox.set("WAL_QUEUE_LIMIT", "16M");
    sandbox.succeed(&["init-postgresql"]);
    archive_now(&sandbox);
    // A file where the directory would be stands for a repository that cannot be written.
    let wal = sandbox.backups().join("wal");
    std::fs::rename(&wal, sandbox.path().join("wal.away")).unwrap();
    std::fs::write(&wal, "in the way").unwrap();

    for _ in 0..3 {
        sandbox.sql("CREATE TABLE switched (); DROP TABLE switched; SELECT pg_switch_wal()");
    }

    wait_until("the gap is noted", || gap(&sandbox));
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "the server serves on");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains("given up since"), "{health}");
    std::fs::remove_file(&wal).unwrap();
    std::fs::rename(sandbox.path().join("wal.away"), &wal).unwrap();
    let is_drained =
        || sandbox.sql("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name ~ 'ready'") == "0";
    sandbox.sql("SELECT pg_switch_wal()");
    wait_until("the archive is up to date", is_drained);
    let told = sandbox.succeed(&["backup-postgresql", "create"]);
    assert!(told.contains("backed up"), "{told}");
    assert!(!gap(&sandbox));
    let health = sandbox.output(&["maintenance", "health"]);
    assert!(String::from_utf8_lossy(&health.stdout).contains("archived until"), "{health:?}");
}

#[test]
fn health_reports_the_first_failure_of_an_archive_command_and_one_that_nothing_calls() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql"]);
    sandbox.sql("ALTER SYSTEM SET archive_command = 'false'");
    sandbox.succeed(&["maintenance", "restart"]);
    let idle = sandbox.output(&["maintenance", "health"]);
    sandbox.sql("ALTER SYSTEM SET archive_mode = 'on'");
    sandbox.succeed(&["maintenance", "restart"]);
    sandbox.sql("CREATE TABLE switched (); SELECT pg_switch_wal()");
    wait_until("it failed", || sandbox.sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t");

    let failing = sandbox.expect_status(&["maintenance", "health"], 1);

    let idle = String::from_utf8_lossy(&idle.stdout).into_owned();
    assert!(idle.contains("archive_mode is off in the server, so no WAL is archived"), "{idle}");
    assert!(failing.contains("the server failed to archive 0000"), "{failing}");
}

#[test]
fn another_segment_of_the_same_name_is_never_overwritten() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql"]);
    let name = archive_now(&sandbox);
    let before = archived(&sandbox, &name);
    let forged = sandbox.path().join(&name);
    let mut bytes = std::fs::read(sandbox.data().join("pg_wal").join(&name)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&forged, bytes).unwrap();

    let data = format!("--data-directory={}", sandbox.data().display());
    let backups = format!("--backup-directory={}", sandbox.backups().display());
    let told = sandbox.expect_status(&["archive-wal", &data, &backups, forged.to_str().unwrap()], 1);

    assert!(told.contains("with other content"), "{told}");
    assert_eq!(archived(&sandbox, &name), before);
}

#[test]
fn a_segment_of_another_cluster_or_of_another_place_is_refused() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql"]);
    let name = archive_now(&sandbox);
    let original = std::fs::read(sandbox.data().join("pg_wal").join(&name)).unwrap();
    let data = format!("--data-directory={}", sandbox.data().display());
    let backups = format!("--backup-directory={}", sandbox.backups().display());
    let archive = |name: &str, bytes: &[u8]| {
        let forged = sandbox.path().join(name);
        std::fs::write(&forged, bytes).unwrap();
        sandbox.expect_status(&["archive-wal", &data, &backups, forged.to_str().unwrap()], 1)
    };
    // The system identifier is at byte 24 of the first page (`XLogLongPageHeaderData`).
    let mut foreign = original.clone();
    foreign[24] ^= 1;

    assert!(archive(&name, &foreign).contains("is of cluster"));
    assert!(archive("0000000100000000000000AA", &original).contains("it holds the WAL at"));
    assert!(archive(&name, &original[..1 << 20]).contains("bytes instead of"));
}

#[test]
fn cleanup_lets_go_of_wal_that_no_backup_needs_and_shows_it_first() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept VALUES (101)");
    let old = archive_now(&sandbox);
    let mut keeping = sandbox.command(&["backup-postgresql", "create"]);
    assert!(keeping.env("MAX_BACKUPS", "7").status().unwrap().success());
    let new = archive_now(&sandbox);

    let shown = sandbox.succeed(&["backup-postgresql", "cleanup", "--dry-run"]);
    assert!(shown.contains("no backup that is kept needs it"), "{shown}");
    assert!(!archived(&sandbox, &old).is_empty());
    let told = sandbox.succeed(&["backup-postgresql", "cleanup"]);

    assert!(told.contains("of archived WAL"), "{told}");
    assert!(archived(&sandbox, &old).is_empty());
    assert!(!archived(&sandbox, &new).is_empty());
}
