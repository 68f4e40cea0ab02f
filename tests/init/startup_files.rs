//! Small files that only the startup process reads: a damaged one keeps no cluster down that has its rows.

use crate::faults::template::{choose, place};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::step_points::{has_step_points, kill_at, points};
use crate::support::versions::programs;
use rstest::rstest;
use std::path::Path;
use std::process::Command;

fn shell(data: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(data))
}

#[test]
fn a_slot_that_no_server_reads_is_set_aside_and_told() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    for damage in [
        ": > pg_replslot/lost/state",
        "truncate -s 100 pg_replslot/lost/state",
        "printf '\\377' | dd of=pg_replslot/lost/state bs=1 seek=90 conv=notrunc",
        "head -c 200 /dev/zero > pg_replslot/lost/state",
        "rm pg_replslot/lost/state",
    ] {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        for slot in ["lost", "kept"] {
            let exists = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}'");
            if sandbox.sql(&exists).is_empty() {
                sandbox.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"));
            }
        }
        sandbox.succeed(&["maintenance", "stop"]);
        shell(&sandbox.data(), damage);

        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

        assert!(told.contains("pg_replslot/lost (replication-slot-damaged)"), "{damage}: {told}");
        assert_eq!(sandbox.sql("SELECT slot_name FROM pg_replication_slots"), "kept", "{damage}");
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "{damage}");
        sandbox.succeed(&["maintenance", "stop"]);
    }
}

#[rstest]
fn in_every_version_the_server_says_the_same_of_a_slot(#[values(13, 14, 16, 17, 18)] major: u32) {
    if programs(major).is_none() {
        return;
    }
    let mut sandbox = Sandbox::empty_in(&place());
    choose(&mut sandbox, major);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("SELECT pg_create_physical_replication_slot('kept', true)");
    sandbox.succeed(&["maintenance", "stop"]);
    let sound = sandbox.succeed(&["init-postgresql", "--dry-run"]);
    shell(&sandbox.data(), "printf '\\377' | dd of=pg_replslot/kept/state bs=1 seek=90 conv=notrunc");
    let damaged = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(!sound.contains("found:"), "{sound}");
    assert!(damaged.contains("replication-slot-damaged"), "{damaged}");
    let directory = programs(major).unwrap();
    let start = format!(
        "cd /; runuser -u postgres -- '{}/postgres' -D '{data}' -k '{data}' -c listen_addresses= -c logging_collector=off \
            2>&1 || true",
        directory.display(),
        data = sandbox.data().display()
    );
    let said = shell(&sandbox.data(), &start);
    assert!(said.contains("checksum mismatch for replication slot file"), "{said}");
}

#[rstest]
#[case::garbage("echo '@@@ not a history' > pg_wal/00000002.history")]
#[case::zeros("head -c 60 /dev/zero > pg_wal/00000002.history")]
#[case::of_another_order("printf '5\\t0/3000060\\tno reason\\n' > pg_wal/00000002.history")]
fn a_damaged_history_of_the_timeline_comes_from_the_archive(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    // Once with a pg_wal on a disk of its own.
    let is_linked = damage.contains("@@@");
    for has_archive in [true, false] {
        let sandbox = Sandbox::with_backup();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
        sandbox.sql("SELECT pg_switch_wal()");
        crate::support::wait::wait_until("the history is archived", || {
            sandbox.data().join("pg_wal/archive_status/00000002.history.done").exists()
        });
        sandbox.sql("INSERT INTO kept VALUES (1000)");
        sandbox.succeed(&["maintenance", "stop"]);
        if is_linked {
            shell(
                sandbox.path(),
                "mv data/pg_wal wal; ln -s \"$PWD/wal\" data/pg_wal; chown -h postgres data/pg_wal",
            );
        }
        let sound = shell(&sandbox.data(), "cat pg_wal/00000002.history");
        shell(&sandbox.data(), damage);
        if !has_archive {
            std::fs::remove_dir_all(sandbox.backups().join("wal")).unwrap();
        }

        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

        assert!(told.contains("timeline-history-damaged"), "{told}");
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
        if has_archive {
            assert_eq!(shell(&sandbox.data(), "cat pg_wal/00000002.history"), sound);
        }
    }
}

#[rstest]
#[case::cut("truncate -s 7 pg_logical/replorigin_checkpoint")]
#[case::empty(": > pg_logical/replorigin_checkpoint")]
#[case::flipped("printf '\\377' | dd of=pg_logical/replorigin_checkpoint bs=1 seek=5 conv=notrunc")]
fn damaged_origins_are_set_aside_where_nobody_needs_them_and_else_refused(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    for has_origin in [false, true] {
        let sandbox = Sandbox::without_backup();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        if has_origin {
            sandbox.sql("SELECT pg_replication_origin_create('from_elsewhere')");
        }
        sandbox.succeed(&["maintenance", "stop"]);
        shell(&sandbox.data(), damage);
        if has_origin {
            let told = sandbox.expect_status(&["init-postgresql"], 6);
            assert!(
                told.contains("sent again what they had") && told.contains("Nothing was changed"),
                "{told}"
            );
            shell(&sandbox.data(), "mv pg_logical/replorigin_checkpoint ..");
        }
        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
        assert!(has_origin || told.contains("replication-origins-damaged"), "{told}");
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    }
}

/// A running cluster whose WAL is archived, and a base backup of it without any WAL, put in the place of it.
fn base_backup_without_wal() -> Sandbox {
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let script = format!(
        "cd /; runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_basebackup -h '{}' -p {} -U postgres -D '{}' -X none \
            -c fast",
        sandbox.socket_directory(),
        sandbox.port(),
        sandbox.data().display().to_string() + "/../base"
    );
    shell(sandbox.path(), "mkdir -m 700 base; chown postgres base");
    shell(sandbox.path(), &script);
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.sql("SELECT pg_switch_wal()");
    crate::support::wait::wait_until("all WAL is archived", || {
        let status = std::fs::read_dir(sandbox.data().join("pg_wal/archive_status")).unwrap();
        status.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with(".ready"))
    });
    sandbox.succeed(&["maintenance", "stop"]);
    shell(sandbox.path(), "rm -r data; mv base data");
    sandbox
}

#[test]
fn a_base_backup_without_its_wal_gets_it_from_the_archive_or_is_refused_with_what_is_missing() {
    if !has_postgresql() {
        return;
    }
    let sandbox = base_backup_without_wal();
    let kept = sandbox.path().join("kept");
    run(Command::new("mv").arg(sandbox.backups()).arg(&kept));
    let before = sandbox.listing();
    let told = sandbox.expect_status(&["init-postgresql"], 6);
    assert!(told.contains("backup-wal-missing") && told.contains("pg_wal/0000000100000000"), "{told}");
    assert!(!told.contains("try removing") && told.contains("Leave backup_label in place"), "{told}");
    assert_eq!(sandbox.listing(), before);

    run(Command::new("rm").arg("-rf").arg(sandbox.backups()));
    run(Command::new("mv").arg(&kept).arg(sandbox.backups()));
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("from the WAL archive") && !told.contains("restored data_"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
    // Its primary may live.
    assert_eq!(sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "2", "{told}");
}

#[test]
fn a_base_backup_gets_its_wal_on_a_disk_of_its_own_and_at_whatever_moment_it_is_cut_short() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let origin = base_backup_without_wal();
    let fetch = |sandbox: &Sandbox| {
        let points = points(sandbox, &["init-postgresql", "--no-backup"]);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
        points
    };
    let undisturbed = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
    shell(
        undisturbed.path(),
        "mv data/pg_wal wal; truncate -s 16M wal/000000010000000000000001; ln -s \"$PWD/wal\" data/pg_wal; chown -h postgres data/pg_wal",
    );
    let points = fetch(&undisturbed);
    assert!(std::fs::read_link(undisturbed.data().join("pg_wal")).is_ok());
    let named = points.iter().rposition(|point| point == "archived WAL named").unwrap();
    let written = points.iter().position(|point| point == "archived WAL on disk, without its names").unwrap();
    for point in written..=named + 1 {
        let sandbox = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
        kill_at(&sandbox, point, &["init-postgresql", "--no-backup"]);

        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101", "{point}: {told}");
        assert_eq!(sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "2", "{point}: {told}");
        let left = shell(&sandbox.data(), "find . -name '*incoming*'");
        assert_eq!(left, "", "{point}");
    }
}

#[test]
fn a_label_whose_wal_is_gone_is_set_aside_where_the_server_had_stopped_cleanly() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let label = "START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\\nCHECKPOINT LOCATION: 0/9000060\\n\
        BACKUP METHOD: streamed\\nBACKUP FROM: primary\\n";
    shell(&sandbox.data(), &format!("printf '{label}' > backup_label; chown postgres backup_label"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("backup-label-stale"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::cut("16400 /elsewhe")]
#[case::garbage("@@@\\n")]
#[case::a_name_that_is_taken("16400 /elsewhere\\n")]
fn a_tablespace_map_that_no_server_takes_is_refused_by_name(#[case] map: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let label = shell(
        &sandbox.data(),
        "/usr/lib/postgresql/15/bin/pg_controldata . | \
        sed -n 's/.*checkpoint location: *//p; s/.*REDO location: *//p; s/.*REDO WAL file: *//p'",
    );
    let mut lines = label.lines();
    let [checkpoint, redo, file] = [(); 3].map(|()| lines.next().unwrap());
    let label = format!("START WAL LOCATION: {redo} (file {file})\\nCHECKPOINT LOCATION: {checkpoint}\\n");
    shell(
        &sandbox.data(),
        &format!(
            "printf '{label}' > backup_label; printf '{map}' > tablespace_map; touch pg_tblspc/16400; \
             chown postgres backup_label tablespace_map pg_tblspc/16400"
        ),
    );
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("tablespace-map-unusable") && told.contains("Nothing was changed"), "{told}");
    assert_eq!(sandbox.listing(), before);
}
