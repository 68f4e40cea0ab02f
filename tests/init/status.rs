//! Files that say which transactions committed: what is wrong in them is never served.

use crate::faults::judge::Server;
use crate::faults::template::{choose, place};
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run, signal};
use crate::support::versions::programs;
use crate::support::wait::wait_until;
use rstest::rstest;
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

const ZEROS: [u8; 8192] = [0; 8192];

/// Each row of `kept` after the first 100 is of a transaction of its own, and no row notes that it committed. Each
/// row of `locked` was updated while a lock on it was held, so that a multixact has the transaction that did.
const ROWS: &str = "
    CREATE TABLE locked (id int PRIMARY KEY, word text);
    INSERT INTO locked SELECT i, 'first' FROM generate_series(1, 10) i;
    DO $$ BEGIN FOR i IN 101..150 LOOP INSERT INTO kept VALUES (i); COMMIT; END LOOP; END $$;
    BEGIN;
    SELECT FROM locked FOR KEY SHARE;
    SAVEPOINT one;
    UPDATE locked SET word = 'second';
    COMMIT;
    CHECKPOINT;";

/// How the server ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// By pgbox, which seals the cluster.
    Sealed,
    /// By a signal, as `pg_ctl stop` does it.
    Unsealed,
    Killed,
}

/// A cluster with a backup of before `ROWS`, whose server ended so.
fn scene(end: End) -> Sandbox {
    static SEALED: OnceLock<TempDir> = OnceLock::new();
    let origin = SEALED.get_or_init(|| {
        let sandbox = Sandbox::with_backup();
        sandbox.succeed(&["maintenance", "start", "--no-backup"]);
        run(sandbox.psql().args(["-v", "ON_ERROR_STOP=1", "-q", "-f", &script(&sandbox)]));
        sandbox.succeed(&["maintenance", "stop"]);
        std::fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
        let copy = crate::support::directory::make();
        run(Command::new("cp").arg("-a").arg(sandbox.path().join(".")).arg(copy.path()));
        copy
    });
    let sandbox = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
    if end != End::Sealed {
        sandbox.succeed(&["maintenance", "start", "--no-backup"]);
        finish(&sandbox, end);
    }
    sandbox
}

/// `DO` with a `COMMIT` in it must not be in a transaction, as all of one `-c` is.
fn script(sandbox: &Sandbox) -> String {
    let file = sandbox.path().join("rows.sql");
    std::fs::write(&file, ROWS).unwrap();
    file.to_str().unwrap().to_owned()
}

fn finish(sandbox: &Sandbox, end: End) {
    match end {
        End::Sealed => drop(sandbox.succeed(&["maintenance", "stop"])),
        End::Unsealed => {
            signal(sandbox.postmaster().unwrap(), Signal::INT).unwrap();
            wait_until("the server is gone", || !sandbox.data().join("postmaster.pid").exists());
        }
        End::Killed => sandbox.kill_server(),
    }
    assert_eq!(sandbox.data().join(".pgbox/seal").exists(), end == End::Sealed);
}

/// Leaves no WAL of before the last checkpoint, and stops the server again.
fn forget_wal(sandbox: &Sandbox, end: End) {
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = 0");
    sandbox.sql("SELECT pg_reload_conf()");
    for _ in 0..3 {
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("CHECKPOINT");
    }
    finish(sandbox, end);
}

fn write_zeros(sandbox: &Sandbox, place: &str, offset: u64, count: usize) {
    let file = File::options().write(true).open(sandbox.data().join(place)).unwrap();
    file.write_all_at(&ZEROS[..count], offset).unwrap();
}

#[track_caller]
fn assert_whole(sandbox: &Sandbox) {
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150");
    assert_eq!(sandbox.sql("SELECT count(*), count(*) FILTER (WHERE word = 'second') FROM locked"), "10|10");
}

#[rstest]
#[case::some_transactions("pg_xact/0000", 184, 8)]
#[case::a_page_of_transactions("pg_xact/0000", 0, 8192)]
#[case::a_page_of_members("pg_multixact/members/0000", 0, 8192)]
#[case::a_page_of_offsets("pg_multixact/offsets/0000", 0, 8192)]
fn what_the_seal_finds_changed_is_worked_out_from_the_wal_in_place(
    #[case] place: &str,
    #[case] offset: u64,
    #[case] count: usize,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(End::Sealed);
    sandbox.forget_backups();
    let before = std::fs::read(sandbox.data().join(place)).unwrap();
    write_zeros(&sandbox, place, offset, count);
    assert_ne!(before, std::fs::read(sandbox.data().join(place)).unwrap());

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains(&format!("{place} (seal-content-changed)")), "{told}");
    assert!(told.contains("worked out from the WAL"), "{told}");
    assert_whole(&sandbox);
}

#[rstest]
#[case::transactions("pg_xact/0000")]
#[case::members("pg_multixact/members/0000")]
fn what_the_wal_has_no_more_comes_from_a_backup(#[case] place: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(End::Sealed);
    forget_wal(&sandbox, End::Sealed);
    write_zeros(&sandbox, place, 0, 8192);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains(&format!("{place} (seal-content-changed)")), "{told}");
    assert!(told.contains("plan: restore data_"), "{told}");
    assert_whole(&sandbox);
}

#[test]
fn without_wal_and_backup_nothing_is_served_and_nothing_changed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(End::Sealed);
    forget_wal(&sandbox, End::Sealed);
    sandbox.forget_backups();
    write_zeros(&sandbox, "pg_xact/0000", 0, 8192);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);

    assert!(told.contains("would show wrong rows") && told.contains("Nothing was changed"), "{told}");
    assert_eq!(sandbox.listing(), before);
}

#[rstest]
#[case::some_transactions_after_a_stop(End::Unsealed, "pg_xact/0000", 184, 8)]
#[case::a_page_of_transactions_after_a_crash(End::Killed, "pg_xact/0000", 0, 8192)]
#[case::some_transactions_after_a_crash(End::Killed, "pg_xact/0000", 184, 8)]
#[case::members_after_a_stop(End::Unsealed, "pg_multixact/members/0000", 0, 8192)]
#[case::members_after_a_crash(End::Killed, "pg_multixact/members/0000", 0, 8192)]
#[case::offsets_after_a_crash(End::Killed, "pg_multixact/offsets/0000", 0, 8192)]
fn what_no_seal_tells_the_wal_contradicts(
    #[case] end: End,
    #[case] place: &str,
    #[case] offset: u64,
    #[case] count: usize,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(end);
    write_zeros(&sandbox, place, offset, count);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("-wrong): "), "{told}");
    assert_whole(&sandbox);
}

#[rstest]
#[case::transactions(End::Unsealed, "pg_xact/0000")]
#[case::members(End::Unsealed, "pg_multixact/members/0000")]
#[case::members_after_a_crash(End::Killed, "pg_multixact/members/0000")]
fn a_page_of_zeros_is_damage_where_rows_contradict_it(#[case] end: End, #[case] place: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(End::Sealed);
    forget_wal(&sandbox, end);
    write_zeros(&sandbox, place, 0, 8192);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("-wrong): "), "{told}");
    assert_whole(&sandbox);
}

/// Ten multixacts more, one for each row: what one transaction does to all of them shares one.
const MULTIXACTS: &str = "
    DO $$ BEGIN FOR i IN 1..10 LOOP
        PERFORM FROM locked WHERE id = i FOR KEY SHARE;
        BEGIN UPDATE locked SET word = 'second' WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;
        COMMIT;
    END LOOP; END $$";

/// A cluster with a backup that has `ROWS`, whose server ended so, and no WAL of before the last checkpoint. Some WAL of
/// after the backup is only in the archive.
fn witnessed(end: End) -> Sandbox {
    let sandbox = scene(End::Sealed);
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql(MULTIXACTS);
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.sql("INSERT INTO kept VALUES (151)");
    finish(&sandbox, End::Unsealed);
    forget_wal(&sandbox, end);
    sandbox
}

/// Nothing else tells: no page is blank, and no WAL of it is left.
#[rstest]
#[case::transactions_after_a_stop(End::Unsealed, "pg_xact/0000", 184, 8)]
#[case::transactions_after_a_crash(End::Killed, "pg_xact/0000", 184, 8)]
#[case::members(End::Unsealed, "pg_multixact/members/0000", 20, 20)]
#[case::offsets_after_a_crash(End::Killed, "pg_multixact/offsets/0000", 12, 8)]
fn what_neither_seal_nor_wal_tells_a_backup_contradicts_and_it_is_put_right_in_place(
    #[case] end: End,
    #[case] place: &str,
    #[case] offset: u64,
    #[case] count: usize,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = witnessed(end);
    write_zeros(&sandbox, place, offset, count);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains(place) && told.contains("-wrong): "), "{told}");
    assert!(told.contains("with what the WAL has of it since"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "151");
    assert_eq!(sandbox.sql("SELECT count(*), count(*) FILTER (WHERE word = 'second') FROM locked"), "10|10");
}

#[test]
fn a_status_file_whose_wal_is_nowhere_any_more_comes_from_no_backup_in_place() {
    if !has_postgresql() {
        return;
    }
    let sandbox = witnessed(End::Killed);
    std::fs::remove_dir_all(sandbox.backups().join("wal")).unwrap();
    write_zeros(&sandbox, "pg_xact/0000", 184, 8);

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(plan.contains("pg_xact/0000 (transaction-status-wrong)"), "{plan}");
    assert!(!plan.contains("with what the WAL has of it since"), "{plan}");
}

#[rstest]
#[case::after_a_stop(End::Unsealed)]
#[case::after_a_crash(End::Killed)]
fn a_backup_of_a_sound_cluster_contradicts_nothing(#[case] end: End) {
    if !has_postgresql() {
        return;
    }
    // With transactions and multixacts since, and such as a crash left open.
    let sandbox = scene(End::Sealed);
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.succeed(&["backup-postgresql", "create"]);
    run(sandbox.psql().args(["-q", "-c", "BEGIN; INSERT INTO kept VALUES (200); ROLLBACK"]));
    sandbox.sql("UPDATE locked SET word = word");
    finish(&sandbox, end);

    let told = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(!told.contains("-wrong"), "{told}");
}

#[test]
fn a_backup_that_takes_a_wrong_status_over_is_not_good_and_displaces_no_other() {
    if !has_postgresql() {
        return;
    }
    // The server has the page in memory, and nothing is written to it after the checkpoint.
    let mut sandbox = witnessed(End::Unsealed);
    sandbox.set("MAX_BACKUPS", "1");
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("CHECKPOINT");
    let good = sandbox.backup_names("data_");
    write_zeros(&sandbox, "pg_xact/0000", 184, 8);

    let output = sandbox.output(&["backup-postgresql", "create"]);

    let told = printed(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("block 0 of pg_xact/0000: transaction"), "{told}");
    let left = sandbox.backup_names("data_");
    assert!(good.iter().any(|name| left.contains(name)), "{good:?} {left:?}");
    let listed = sandbox.succeed(&["backup-postgresql", "show", "latest"]);
    assert!(!listed.contains("pg_xact/0000"), "{listed}");
}

#[test]
fn multixacts_of_19_are_worked_out_from_its_wal() {
    // Their offsets have 64 bits, in the records and in the files.
    if programs(19).is_none() {
        return;
    }
    let mut sandbox = Sandbox::empty_in(&place());
    choose(&mut sandbox, 19);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    server.sql("dbuser", "CREATE TABLE locked (id int PRIMARY KEY, word text)");
    server.sql("dbuser", "INSERT INTO locked SELECT i, 'first' FROM generate_series(1, 10) i");
    let update =
        "BEGIN; SELECT FROM locked FOR KEY SHARE; SAVEPOINT one; UPDATE locked SET word = 'second'; COMMIT";
    server.sql("dbuser", update);
    sandbox.succeed(&["maintenance", "stop"]);
    let files = ["pg_multixact/members/000000000000000", "pg_multixact/offsets/0000"];
    for file in files {
        write_zeros(&sandbox, file, 0, 8192);
    }

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    for file in files {
        assert!(told.contains(&format!("{file} (seal-content-changed)")), "{told}");
    }
    assert!(told.contains("worked out from the WAL"), "{told}");
    let rows = Server::of(&sandbox).sql("dbuser", "SELECT count(*), min(word) FROM locked");
    assert_eq!(rows, "10|second");
}

#[rstest]
#[case::a_status_file("pg_xact/0000")]
#[case::a_relation_map("global/pg_filenode.map")]
#[case::a_visibility_map("base/1/1259_vm")]
fn a_file_that_was_touched_and_holds_the_same_is_nothing_to_tell(#[case] place: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene(End::Sealed);
    run(Command::new("touch").arg(sandbox.data().join(place)));

    let told = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(!told.contains("found:"), "{told}");
}

#[test]
fn rows_are_held_against_the_status_of_their_transactions_by_a_deep_check() {
    if !has_postgresql() {
        return;
    }
    // A few transactions only, of which no WAL is left: nothing but the rows knows them.
    let sandbox = scene(End::Sealed);
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("SELECT count(*) FROM kept");
    finish(&sandbox, End::Unsealed);
    forget_wal(&sandbox, End::Unsealed);
    write_zeros(&sandbox, "pg_xact/0000", 184, 8);

    let output = sandbox.output(&["maintenance", "check", "--deep"]);

    assert!(printed(&output).contains("transaction-status-wrong"), "{}", printed(&output));
}

/// Lets `pg_resetwal` pass over transaction numbers, as PostgreSQL's documentation says to: from the next segment on.
fn pass_over_numbers(sandbox: &Sandbox) {
    run(Command::new("setpriv")
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .args(["/usr/lib/postgresql/15/bin/pg_resetwal", "-x", "1048576"])
        .arg(sandbox.data()));
}

#[test]
fn what_pg_resetwal_leaves_is_told_once_and_is_no_damage_then_nor_later() {
    if !has_postgresql() {
        return;
    }
    // The server makes what it needs of pg_xact itself: nothing is written into the files.
    let sandbox = scene(End::Unsealed);
    pass_over_numbers(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("(reset-wal)") && told.contains("archive has a hole"), "{told}");
    assert!(!told.contains("pg_xact"), "{told}");
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    assert!(health.contains("pg_resetwal was run"), "{health}");
    assert!(sandbox.succeed(&["backup-postgresql", "create"]).contains("backed up"));
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    assert!(!health.contains("pg_resetwal"), "{health}");
    sandbox.sql("INSERT INTO kept SELECT generate_series(1001, 1010)");
    for end in [End::Sealed, End::Unsealed] {
        finish(&sandbox, end);
        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
        assert!(!told.contains("pg_xact") && !told.contains("reset-wal"), "{told}");
    }
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "160");
    // Shorter than it was left, it is damaged.
    finish(&sandbox, End::Unsealed);
    std::fs::write(sandbox.data().join("pg_xact/0000"), "").unwrap();
    let told = printed(&sandbox.output(&["maintenance", "check"]));
    assert!(told.contains("transaction-status-short"), "{told}");
}

#[test]
fn transactions_that_pg_resetwal_jumped_over_are_no_damage() {
    if !has_postgresql() {
        return;
    }
    // What PostgreSQL's documentation says to do: from the next segment on, with the files that are missing as zeros.
    let sandbox = scene(End::Unsealed);
    let data = sandbox.data();
    pass_over_numbers(&sandbox);
    let status = File::options().write(true).open(data.join("pg_xact/0000")).unwrap();
    status.set_len(256 * 1024).unwrap();
    let next = data.join("pg_xact/0001");
    run(Command::new("cp").arg("-a").arg(data.join("pg_xact/0000")).arg(&next));
    File::create(&next).unwrap().write_all_at(&ZEROS, 0).unwrap();

    let output = sandbox.output(&["maintenance", "check", "--deep"]);

    assert!(output.status.success(), "{}", printed(&output));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(1001, 1010)");
    sandbox.kill_server();
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(!told.contains("pg_xact"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "160");
}
