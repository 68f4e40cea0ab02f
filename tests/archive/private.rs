//! WAL that no archiving server wrote reaches the archive all the same, before anything that is written after it.

use super::setting::{archive_now, archived};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::step_points::{has_step_points, kill_at};
use crate::support::versions::{USUAL, programs};
use rstest::rstest;
use std::process::Command;
use std::sync::OnceLock;

/// A stopped cluster with segments of 1 MiB, whose table `t` has 60,000 rows and an index of some segments, and a backup
/// of it.
fn cluster() -> Sandbox {
    static TEMPLATE: OnceLock<Sandbox> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| made_with(USUAL));
    Sandbox::copy_of(template.path(), &std::env::temp_dir())
}

fn made_with(major: u32) -> Sandbox {
    let mut sandbox = Sandbox::empty();
    if major != USUAL {
        sandbox.set("POSTGRES_BIN_DIR", programs(major).unwrap().to_str().unwrap());
    }
    sandbox.set("POSTGRES_INITDB_ARGS", "--wal-segsize=1 --data-checksums");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE t AS SELECT generate_series(1, 60000) AS i");
    sandbox.sql("CREATE INDEX t_i ON t (i)");
    sandbox.sql(
        "CREATE TABLE files AS SELECT pg_relation_filepath('t') AS t, pg_relation_filepath('t_i') AS t_i",
    );
    archive_now(&sandbox);
    sandbox.succeed(&["backup-postgresql", "create"]);
    let index = sandbox.sql("SELECT t_i FROM files");
    std::fs::write(sandbox.path().join("index"), index).unwrap();
    sandbox.succeed(&["maintenance", "stop"]);
    std::fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
    sandbox
}

/// Runs shell commands in the data directory. `$index` is the file of the index.
fn damage(sandbox: &Sandbox, script: &str) {
    let index = std::fs::read_to_string(sandbox.path().join("index")).unwrap();
    run(Command::new("sh").args(["-ec", script]).env("index", index).current_dir(sandbox.data()));
}

/// Writes some segments with a server that does not archive, and leaves it running.
fn write_without_archive(sandbox: &Sandbox) {
    let started = sandbox.command(&["init-postgresql", "--no-backup"]).env("WAL_ARCHIVE", "off").output();
    assert!(started.unwrap().status.success());
    sandbox.sql("INSERT INTO t SELECT generate_series(1, 60000)");
}

fn stop(sandbox: &Sandbox) {
    sandbox.succeed(&["maintenance", "stop"]);
}

/// The numbers of the segments of a timeline that are archived, in order.
fn numbers(sandbox: &Sandbox, timeline: u32) -> Vec<u32> {
    let mut find = Command::new("find");
    find.arg(sandbox.backups().join("wal")).args(["-name", "*.zst", "-printf", "%f\\n"]);
    let number = |name: &str| {
        let is_segment =
            name.as_bytes().get(24) == Some(&b'-') && name.starts_with(&format!("{timeline:08X}"));
        u32::from_str_radix(name.get(16..24).filter(|_| is_segment)?, 16).ok()
    };
    let mut numbers: Vec<u32> = run(&mut find).lines().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
fn assert_no_hole(sandbox: &Sandbox, told: &str) {
    let there = numbers(sandbox, 1);
    let all: Vec<u32> = (there[0]..=there[there.len() - 1]).collect();
    assert_eq!(there, all, "{told}");
}

fn by_a_repair_of_an_index(sandbox: &Sandbox) {
    damage(sandbox, "rm $index");
}

fn by_a_repair_after_a_crash(sandbox: &Sandbox) {
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO t SELECT generate_series(1, 60000)");
    sandbox.kill_server();
    damage(sandbox, "rm $index");
}

fn by_a_repair_with_the_wal_elsewhere(sandbox: &Sandbox) {
    damage(sandbox, "mv pg_wal ../wal; ln -s \"$(cd ..; pwd)/wal\" pg_wal; rm $index");
}

fn by_making_template0_anew(sandbox: &Sandbox) {
    damage(sandbox, "rm -r base/4");
}

fn by_replaying_a_copy(sandbox: &Sandbox) {
    write_without_archive(sandbox);
    sandbox.sql("CHECKPOINT; UPDATE t SET i = -i WHERE ctid < '(1,0)'; CHECKPOINT");
    let table = sandbox.sql("SELECT t FROM files");
    stop(sandbox);
    damage(
        sandbox,
        &format!("printf garbage | dd of={table} bs=1 seek=100 conv=notrunc status=none; rm $index"),
    );
}

fn by_a_server_without_archive(sandbox: &Sandbox) {
    write_without_archive(sandbox);
    stop(sandbox);
}

fn by_a_server_without_archive_that_was_killed(sandbox: &Sandbox) {
    write_without_archive(sandbox);
    sandbox.kill_server();
}

#[rstest]
#[case::of_a_rebuilt_index(by_a_repair_of_an_index)]
#[case::of_a_rebuilt_index_after_a_crash(by_a_repair_after_a_crash)]
#[case::of_a_rebuilt_index_with_the_wal_elsewhere(by_a_repair_with_the_wal_elsewhere)]
#[case::of_a_new_template0(by_making_template0_anew)]
#[case::of_a_replayed_copy(by_replaying_a_copy)]
#[case::of_a_server_that_did_not_archive(by_a_server_without_archive)]
#[case::of_a_killed_server_that_did_not_archive(by_a_server_without_archive_that_was_killed)]
fn wal_that_nobody_queued_is_archived_before_what_follows(#[case] write: fn(&Sandbox)) {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    let before = numbers(&sandbox, 1).len();
    write(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE later ()");
    archive_now(&sandbox);

    assert_no_hole(&sandbox, &told);
    assert!(numbers(&sandbox, 1).len() > before + 1, "more than one segment was written: {told}");
}

#[rstest]
fn a_server_in_single_user_mode_queues_what_it_fills(#[values(13, 14, 15, 16, 17, 18)] major: u32) {
    if programs(major).is_none() || !has_step_points() {
        return;
    }
    let sandbox = made_with(major);
    damage(&sandbox, "rm $index");
    // The repair is the first step; before it is one point, and after it another.
    kill_at(&sandbox, 2, &["init-postgresql", "--no-backup"]);

    let statuses = run(Command::new("ls").arg(sandbox.data().join("pg_wal/archive_status")));
    let queued = statuses.lines().filter_map(|name| name.strip_suffix(".ready")).count();
    assert!(queued > 0, "{statuses}");

    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    archive_now(&sandbox);
    assert_no_hole(&sandbox, "");
}

#[test]
fn wal_that_survived_beside_the_archive_is_archived_when_a_restore_has_replayed_it() {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    write_without_archive(&sandbox);
    sandbox.kill_server();
    damage(&sandbox, "rm -r base/1 base/5 base/1[0-9]*");
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM t"), "120000", "{told}");
    sandbox.sql("INSERT INTO t VALUES (0)");
    archive_now(&sandbox);
    assert_no_hole(&sandbox, "");
    sandbox.kill_server();
    damage(&sandbox, "rm -r base global pg_xact pg_wal/*");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM t"), "120001", "{told}");
}

#[test]
fn a_new_wal_leaves_a_note_of_the_hole_until_a_backup_closes_it() {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    damage(&sandbox, "rm pg_wal/0*");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("began a new WAL"), "{told}");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains("a new one was begun"), "{health}");
    let told = sandbox.succeed(&["backup-postgresql", "create"]);
    assert!(told.contains("backed up"), "{told}");
    assert!(!sandbox.data().join(".pgbox/wal-gap.json").exists());
}

#[test]
fn a_hole_of_which_there_is_no_note_is_closed_by_a_backup_though_nothing_changed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = cluster();
    sandbox.succeed(&["init-postgresql"]);
    let next = || {
        sandbox.sql("SELECT pg_create_restore_point('here')");
        let name = sandbox.sql("SELECT pg_walfile_name(pg_switch_wal())");
        crate::support::wait::wait_until("it is archived", || !archived(&sandbox, &name).is_empty());
        name
    };
    let lost = next();
    next();
    let cluster = sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    let stored = &archived(&sandbox, &lost)[0];
    std::fs::remove_file(sandbox.backups().join(format!("wal/{cluster}/00000001/{stored}"))).unwrap();

    let told = sandbox.succeed(&["backup-postgresql", "create"]);

    assert!(told.contains("backed up"), "{told}");
    let told = sandbox.succeed(&["backup-postgresql", "create"]);
    assert!(told.contains("nothing changed"), "{told}");
}
