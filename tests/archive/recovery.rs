//! A recovery takes what was archived, where `pg_wal` is gone with the rest.

use super::setting::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
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

/// A killed server with a backup, whose data are lost, and of whose WAL one segment is in the archive only; later ones are
/// where they were. Returns the name of that segment.
fn with_a_segment_in_the_archive_only(sandbox: &Sandbox) -> String {
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    let name = archive_now(sandbox);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.kill_server();
    std::fs::remove_file(sandbox.data().join("pg_wal").join(&name)).unwrap();
    let script = "rm -rf base/1 base/4 base/5 base/1[0-9]*";
    run(Command::new("sh").args(["-c", script]).current_dir(sandbox.data()));
    name
}

/// Overwrites what is archived under a name.
fn damage_archived(sandbox: &Sandbox, name: &str) {
    let stored = archived(sandbox, name).remove(0);
    let script = format!("for file in wal/*/00000001/{stored}; do echo 'not zstd' > $file; done");
    run(Command::new("sh").args(["-euc", &script]).current_dir(sandbox.backups()));
}

#[rstest]
#[case::nobody_read_it_before(false, "so the outcome announced above no longer holds")]
#[case::reading_back_had_found_it(true, "rows committed after")]
fn that_nothing_is_lost_is_never_said_where_a_segment_could_not_be_taken(
    #[case] is_known: bool,
    #[case] said: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let name = with_a_segment_in_the_archive_only(&sandbox);
    damage_archived(&sandbox, &name);
    if is_known {
        sandbox.expect_status(&["backup-postgresql", "scrub", "--all"], 4);
    }

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "{told}");
    let history = std::fs::read_to_string(sandbox.data().join(".pgbox/history.jsonl")).unwrap();
    for text in [told, history] {
        assert!(!text.contains("no committed row is lost") && text.contains(said), "{text}");
    }
}

#[test]
fn that_nothing_is_lost_is_not_said_where_the_last_segment_may_be_gone() {
    // The WAL ends with a segment; whether there was another, nothing shows.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", "off");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.sql("SELECT pg_switch_wal()");
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    let last = sandbox.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    sandbox.kill_server();
    let script = format!(
        "rm -rf base/1 base/4 base/5 base/1[0-9]*; cd pg_wal; \
                          for file in 0*; do [ $file \\< {last} ] || rm $file; done"
    );
    run(Command::new("bash").args(["-c", &script]).current_dir(sandbox.data()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150", "{told}");
    assert!(!told.contains("no committed row is lost"), "{told}");
}

#[test]
fn archived_and_surviving_wal_together_lose_nothing() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    with_a_segment_in_the_archive_only(&sandbox);

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
    assert!(told.contains(&format!("WAL segment '{name}' is missing: commits after")), "{told}");
}
