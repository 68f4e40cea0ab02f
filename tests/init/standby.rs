//! Standbys: a damaged one never becomes a second primary, and a server that takes no writes says so.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use std::path::Path;
use std::process::Command;

fn shell(data: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(data))
}

/// The commands that make a base backup of a running primary the data directory of another sandbox.
fn base_backup(primary: &Sandbox, other: &Sandbox, options: &str) -> String {
    format!(
        "mkdir -m 700 data; chown postgres data; cd /; runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_basebackup \
            -h '{}' -p {} -U postgres -D '{}' {options} -c fast",
        primary.socket_directory(),
        primary.port(),
        other.data().display()
    )
}

/// A primary that runs, and its standby, stopped, with the same backups.
fn primary_and_standby() -> (Sandbox, Sandbox) {
    let primary = Sandbox::with_backup();
    primary.succeed(&["init-postgresql", "--no-backup"]);
    let mut standby = Sandbox::empty();
    shell(standby.path(), &base_backup(&primary, &standby, "-R -X stream"));
    standby.set("BACKUP_DIR", primary.backups().to_str().unwrap());
    let told = standby.succeed(&["init-postgresql", "--no-backup"]);
    assert!(told.contains("a standby of another"), "{told}");
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    standby.succeed(&["maintenance", "health"]);
    let told = standby.succeed(&["maintenance", "stop"]);
    // It is shut down in recovery, which is clean.
    assert!(!told.contains("not sealed"), "{told}");
    (primary, standby)
}

#[test]
fn a_damaged_standby_is_refused_and_never_replaced_by_a_primary() {
    if !has_postgresql() {
        return;
    }
    let (_primary, standby) = primary_and_standby();
    let kept = standby.path().join("kept");
    run(Command::new("cp").arg("-a").arg(standby.data()).arg(&kept));
    for (damage, named) in [
        ("rm pg_xact/0000", "pg_basebackup -R"),
        ("rm global/pg_control", "pg_basebackup -R"),
        ("rm standby.signal", "touch standby.signal"),
        ("rm standby.signal pg_xact/0000", "standby.signal"),
    ] {
        shell(&standby.data(), damage);
        let before = standby.listing();

        let told = standby.expect_status(&["init-postgresql"], 6);

        assert!(told.contains(named) && told.contains("Nothing was changed"), "{damage}: {told}");
        assert_eq!(standby.listing(), before, "{damage}");
        shell(standby.path(), "rm -r data; cp -a kept data");
    }
    // What any server needs is put right.
    shell(&standby.data(), "rmdir pg_notify; : > postmaster.pid; chown postgres postmaster.pid");
    standby.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
}

#[test]
fn a_standby_signal_that_was_left_behind_is_told_by_every_command() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), "touch standby.signal; chown postgres standby.signal");

    let started = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let again = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let status = sandbox.succeed(&["maintenance", "status"]);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);

    for told in [started, again, status, health] {
        assert!(told.contains("standby.signal is in the data directory"), "{told}");
    }
    shell(&sandbox.data(), "rm standby.signal");
    let told = sandbox.succeed(&["maintenance", "restart"]);
    assert!(!told.contains("standby.signal is"), "{told}");
    sandbox.sql("INSERT INTO kept VALUES (1000)");
}

#[test]
fn a_recovery_signal_without_a_restore_command_is_refused_by_name() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox.data(), "touch recovery.signal; chown postgres recovery.signal");

    let told = sandbox.expect_status(&["init-postgresql"], 6);
    shell(&sandbox.data(), "rm recovery.signal");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("recovery.signal") && told.contains("restore_command"), "{told}");
}

#[test]
fn wal_that_a_primary_archived_first_is_no_other_history_of_its_standby() {
    if !has_postgresql() {
        return;
    }
    let (primary, standby) = primary_and_standby();
    standby.succeed(&["init-postgresql", "--no-backup"]);
    standby.sql("SELECT pg_wal_replay_pause()");
    // Whatever it receives, its archive is further than it.
    primary.succeed(&["maintenance", "stop"]);
    primary.succeed(&["init-postgresql", "--no-backup"]);
    for _ in 0..2 {
        crate::archive::archive_now(&primary);
    }

    let again = standby.succeed(&["init-postgresql", "--no-backup"]);
    let health = printed(&standby.output(&["maintenance", "health"]));

    assert!(!health.contains("another history"), "{health}");
    for told in [again, health] {
        assert!(told.contains("recovery of the server is paused"), "{told}");
    }
    standby.succeed(&["maintenance", "stop"]);
    let told = standby.succeed(&["init-postgresql", "--no-backup"]);
    assert!(!told.contains("earlier state") && !told.contains("is paused"), "{told}");
    assert_eq!(standby.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "1");
}

#[test]
fn a_recovery_that_pauses_at_its_target_is_reported() {
    if !has_postgresql() {
        return;
    }
    let primary = Sandbox::with_backup();
    primary.succeed(&["init-postgresql", "--no-backup"]);
    let sandbox = Sandbox::empty();
    shell(sandbox.path(), &base_backup(&primary, &sandbox, "-X stream"));
    shell(
        &sandbox.data(),
        "printf \"restore_command = 'false'\\nrecovery_target = 'immediate'\\n\" >> postgresql.auto.conf; \
         touch recovery.signal; chown postgres recovery.signal",
    );

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(
        told.contains("recovery of the server is paused") && told.contains("pg_wal_replay_resume"),
        "{told}"
    );
    sandbox.sql("SELECT pg_wal_replay_resume()");
    crate::support::wait::wait_until("it takes writes", || sandbox.sql("SELECT pg_is_in_recovery()") == "f");
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(!told.contains("is paused"), "{told}");
}
