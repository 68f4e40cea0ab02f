//! A recovery takes what was archived, where `pg_wal` is gone with the rest.

use super::setting::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use std::process::Command;

/// All that holds rows or WAL is gone; what is left only shows that it was a cluster.
fn wipe(sandbox: &Sandbox) {
    let script = "rm -rf base global pg_xact pg_wal/*";
    run(Command::new("sh").args(["-c", script]).current_dir(sandbox.data()));
}

#[test]
fn every_archived_row_is_back_when_the_cluster_is_lost_with_its_wal_also_a_second_time() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    archive_now(&sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.kill_server();
    wipe(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "150|150", "{told}");
    assert!(told.contains("rows committed after the last segment of WAL that is there"), "{told}");
    assert_eq!(sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "2");

    sandbox.sql("INSERT INTO kept SELECT generate_series(151, 160)");
    archive_now(&sandbox);
    assert!(!archived(&sandbox, "00000002.history").is_empty());
    sandbox.kill_server();
    wipe(&sandbox);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "160|160");
    assert_eq!(sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "3");
    let failed = sandbox.sql("SELECT pg_stat_force_next_flush(); SELECT failed_count FROM pg_stat_archiver");
    assert_eq!(failed.lines().last(), Some("0"), "nothing is archived twice with other content");
}

#[test]
fn archived_and_surviving_wal_together_lose_nothing() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    let name = archive_now(&sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.kill_server();
    std::fs::remove_file(sandbox.data().join("pg_wal").join(name)).unwrap();
    let script = "rm -rf base/1 base/4 base/5 base/1[0-9]*";
    run(Command::new("sh").args(["-c", script]).current_dir(sandbox.data()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "151|1000", "{told}");
    assert!(told.contains("no committed row is lost"), "{told}");
}

#[test]
fn a_damaged_segment_of_the_archive_costs_what_comes_after_it_and_nothing_before() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 110)");
    archive_now(&sandbox);
    sandbox.sql("INSERT INTO kept SELECT generate_series(111, 120)");
    let name = archive_now(&sandbox);
    let cluster = sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    let stored = &archived(&sandbox, &name)[0];
    std::fs::write(sandbox.backups().join(format!("wal/{cluster}/00000001/{stored}")), "not zstd").unwrap();
    sandbox.kill_server();
    wipe(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*), max(id) FROM kept"), "110|110", "{told}");
    assert!(told.contains(&format!("'{name}' cannot be had")), "{told}");
}
