//! Prepared transactions whose files or directory are lost: they come back, or the start is refused, never are they
//! rolled back without a word.

use crate::faults::judge::Server;
use crate::faults::template::{choose, place};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::versions::programs;
use rstest::rstest;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How the server ends.
#[derive(Clone, Copy)]
enum Stop {
    /// By pgbox, which seals the cluster.
    Sealed,
    /// Cleanly, by other means.
    Unsealed,
    /// By a kill.
    Killed,
}

fn shell(data: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(data))
}

fn stop(sandbox: &Sandbox, how: Stop) {
    match how {
        Stop::Killed => sandbox.kill_server(),
        Stop::Sealed => drop(sandbox.succeed(&["maintenance", "stop"])),
        Stop::Unsealed => {
            sandbox.succeed(&["maintenance", "stop"]);
            fs::remove_file(sandbox.data().join(".pgbox/seal")).unwrap();
        }
    }
}

/// A server that lets transactions be prepared.
fn running(sandbox: Sandbox) -> Sandbox {
    shell(&sandbox.data(), "echo 'max_prepared_transactions = 5' >> postgresql.conf");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox
}

/// Prepares the transaction `payment` of one row, which a checkpoint writes down, and one that ends after that.
fn prepare(sandbox: &Sandbox) {
    let prepare = |values: &str, name: &str| {
        sandbox.sql(&format!("BEGIN; INSERT INTO kept VALUES {values}; PREPARE TRANSACTION '{name}'"));
    };
    prepare("(1000)", "payment");
    prepare("(1001)", "refund");
    sandbox.sql("CHECKPOINT");
    sandbox.sql("COMMIT PREPARED 'refund'");
}

#[track_caller]
fn assert_payment_can_be_committed(sandbox: &Sandbox, told: &str) {
    assert_eq!(sandbox.sql("SELECT gid FROM pg_prepared_xacts"), "payment", "{told}");
    sandbox.sql("COMMIT PREPARED 'payment'");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "102", "{told}");
}

#[rstest]
#[case::directory_after_a_stop_by_pgbox(Stop::Sealed, "rm -r pg_twophase")]
#[case::directory_after_another_stop(Stop::Unsealed, "rm -r pg_twophase")]
#[case::directory_after_a_kill(Stop::Killed, "rm -r pg_twophase")]
#[case::file_after_a_stop_by_pgbox(Stop::Sealed, "rm pg_twophase/*")]
#[case::file_after_another_stop(Stop::Unsealed, "rm pg_twophase/*")]
#[case::file_after_a_kill(Stop::Killed, "rm pg_twophase/*")]
#[case::a_file_that_is_cut(Stop::Unsealed, "truncate -s 100 pg_twophase/*")]
#[case::a_file_of_zeros(Stop::Killed, "for file in pg_twophase/*; do head -c 220 /dev/zero > $file; done")]
#[case::a_flipped_bit(Stop::Sealed, "printf '\\377' | dd of=$(ls pg_twophase/*) bs=1 seek=90 conv=notrunc")]
fn a_prepared_transaction_whose_file_is_lost_comes_back_from_the_wal(
    #[case] how: Stop,
    #[case] damage: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = running(Sandbox::without_backup());
    prepare(&sandbox);
    stop(&sandbox, how);
    shell(&sandbox.data(), damage);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("pg_twophase") && !told.contains("restored"), "{told}");
    assert_payment_can_be_committed(&sandbox, &told);
}

#[rstest]
fn it_comes_back_in_every_version(#[values(13, 14, 16, 17, 18)] major: u32) {
    // With a subtransaction, a table and statistics that are dropped, of which the records of its end tell.
    if programs(major).is_none() {
        return;
    }
    let mut sandbox = Sandbox::empty_in(&place());
    choose(&mut sandbox, major);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    shell(&sandbox.data(), "echo 'max_prepared_transactions = 5' >> postgresql.conf");
    sandbox.succeed(&["maintenance", "restart"]);
    let server = Server::of(&sandbox);
    let prepare = |body: &str, name: &str| {
        server.sql("dbuser", &format!("BEGIN; {body}; PREPARE TRANSACTION '{name}'"));
    };
    server.sql("dbuser", "CREATE TABLE rows (id int); CREATE TABLE old (id int); INSERT INTO old VALUES (1)");
    prepare("INSERT INTO rows VALUES (1); SAVEPOINT a; INSERT INTO rows VALUES (2)", "payment");
    prepare("SAVEPOINT a; DROP TABLE old; CREATE TABLE new (id int)", "change");
    server.sql("dbuser", "CHECKPOINT");
    server.sql("dbuser", "COMMIT PREPARED 'change'");
    stop(&sandbox, Stop::Killed);
    shell(&sandbox.data(), "rm -r pg_twophase");

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(plan.matches("prepared-transaction-missing").count(), 1, "only one has not ended: {plan}");
    let server = Server::of(&sandbox);
    server.sql("dbuser", "COMMIT PREPARED 'payment'");
    assert_eq!(
        server.sql("dbuser", "SELECT count(*) FROM rows, new RIGHT JOIN pg_prepared_xacts ON true"),
        "0"
    );
    assert_eq!(server.sql("dbuser", "SELECT count(*) FROM rows"), "2");
}

/// Lets the WAL that has the transaction go, as it does in time.
fn forget_wal(sandbox: &Sandbox) {
    for _ in 0..2 {
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("CHECKPOINT");
    }
}

/// Removes the segments that the last checkpoint does not need.
const REMOVE_OLDER_WAL: &str = "needed=$(/usr/lib/postgresql/15/bin/pg_controldata . | sed -n 's/.*REDO WAL file: *//p'); \
    for file in $(ls pg_wal | grep -E '^[0-9A-F]{24}$'); do if [ $file \\< $needed ]; then rm pg_wal/$file; fi; done";

#[rstest]
#[case::directory(Stop::Unsealed, "rm -r pg_twophase")]
#[case::file(Stop::Sealed, "rm pg_twophase/*")]
#[case::a_file_that_is_cut(Stop::Killed, "truncate -s 0 pg_twophase/*")]
fn without_its_wal_it_comes_back_from_a_backup_or_the_start_is_refused(
    #[case] how: Stop,
    #[case] damage: &str,
) {
    if !has_postgresql() {
        return;
    }
    for has_backup in [false, true] {
        let sandbox = running(Sandbox::without_backup());
        if has_backup {
            sandbox.succeed(&["backup-postgresql", "create"]);
        }
        prepare(&sandbox);
        forget_wal(&sandbox);
        stop(&sandbox, how);
        shell(&sandbox.data(), &format!("{REMOVE_OLDER_WAL}; {damage}"));
        let before = sandbox.listing();

        if has_backup {
            let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
            assert!(told.contains("restored data_"), "{told}");
            assert_payment_can_be_committed(&sandbox, &told);
        } else {
            let told = sandbox.expect_status(&["init-postgresql"], 6);
            assert!(told.contains("Nothing was changed") && told.contains("run this again"), "{told}");
            assert_eq!(sandbox.listing(), before);
        }
    }
}

#[test]
fn a_person_may_give_up_what_was_prepared() {
    if !has_postgresql() {
        return;
    }
    let sandbox = running(Sandbox::without_backup());
    prepare(&sandbox);
    forget_wal(&sandbox);
    stop(&sandbox, Stop::Unsealed);
    shell(&sandbox.data(), &format!("{REMOVE_OLDER_WAL}; rm -r pg_twophase"));
    sandbox.expect_status(&["init-postgresql"], 6);

    shell(&sandbox.data(), "mkdir -m 700 pg_twophase; chown postgres: pg_twophase");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}

#[rstest]
#[case::none_could_be_prepared(false, Stop::Unsealed, "rm -r pg_twophase")]
#[case::none_was_prepared(true, Stop::Unsealed, "rm -r pg_twophase")]
#[case::none_was_prepared_and_the_server_killed(true, Stop::Killed, "rm -r pg_twophase")]
#[case::none_was_prepared_and_the_stop_sealed(true, Stop::Sealed, "rm -r pg_twophase")]
#[case::the_control_file_is_lost_too(true, Stop::Unsealed, "rm -r pg_twophase global/pg_control")]
fn an_empty_directory_is_made_where_nothing_was_in_it(
    #[case] can_prepare: bool,
    #[case] how: Stop,
    #[case] damage: &str,
) {
    // A transaction that a crash cut short has no end in pg_xact either; the WAL shows that it was never prepared.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let sandbox = if can_prepare { running(sandbox) } else { sandbox };
    if !can_prepare {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
    }
    let mut worker = sandbox.psql();
    let mut worker =
        worker.args(["-c", "BEGIN; INSERT INTO kept VALUES (2000); SELECT pg_sleep(60)"]).spawn().unwrap();
    crate::support::wait::wait_until("the transaction has begun", || {
        sandbox.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL") == "1"
    });
    sandbox.sql("CHECKPOINT");
    sandbox.kill_server();
    worker.wait().unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    stop(&sandbox, how);
    shell(&sandbox.data(), damage);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("made the directory 'pg_twophase'"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_control_file_made_anew_does_not_say_that_nothing_was_prepared() {
    if !has_postgresql() {
        return;
    }
    let sandbox = running(Sandbox::without_backup());
    prepare(&sandbox);
    stop(&sandbox, Stop::Unsealed);
    shell(&sandbox.data(), "rm -r pg_twophase global/pg_control");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_payment_can_be_committed(&sandbox, &told);
}
