//! A volume that was put back to a snapshot: the history that was given up never passes for the present one's past.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, points};
use rstest::rstest;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const START: [&str; 2] = ["init-postgresql", "--no-backup"];

/// What is put back of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutBack {
    /// All of it, from a snapshot of a stopped cluster.
    Stopped,
    /// All of it, from a snapshot of a cluster whose server was running.
    Running,
    /// All but pgbox's own directory, which stays as it was.
    AllButOurs,
}

fn shell(sandbox: &Sandbox, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.path()));
}

/// A stopped cluster that was put back to a snapshot, after which it had written the rows from 1001 on, had been backed
/// up, and had archived its WAL. Returns the name of that backup, too.
fn put_back(sandbox: &Sandbox, how: PutBack) -> String {
    if how == PutBack::Running {
        sandbox.succeed(&START);
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("INSERT INTO kept VALUES (101)");
        sandbox.kill_server();
    }
    shell(sandbox, "cp -a data snapshot");
    sandbox.succeed(&START);
    sandbox.sql("INSERT INTO kept SELECT generate_series(1001, 1100)");
    sandbox.sql("SELECT pg_switch_wal()");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let given_up = sandbox.backup_names("data_").remove(0);
    sandbox.sql("INSERT INTO kept SELECT generate_series(1101, 1200)");
    sandbox.succeed(&["maintenance", "stop"]);
    shell(
        sandbox,
        match how {
            PutBack::AllButOurs => {
                "cd data; find . -mindepth 1 -maxdepth 1 -not -name .pgbox -exec rm -r {} +; cd ../snapshot; \
                 find . -mindepth 1 -maxdepth 1 -not -name .pgbox -exec cp -a {} ../data/ ';'"
            }
            _ => "rm -r data; cp -a snapshot data",
        },
    );
    given_up
}

/// The rows of the snapshot, of the history that was given up, and of the present.
fn rows(sandbox: &Sandbox) -> String {
    sandbox.sql(
        "SELECT count(*) FILTER (WHERE id < 1000), count(*) FILTER (WHERE id BETWEEN 1000 AND 1999), \
         count(*) FILTER (WHERE id >= 2000) FROM kept",
    )
}

fn timeline(sandbox: &Sandbox) -> String {
    sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()")
}

fn lose_transaction_status(sandbox: &Sandbox) {
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.lose_transaction_status();
}

#[rstest]
#[case::stopped(PutBack::Stopped, "on", "100|0|30")]
#[case::without_an_archive(PutBack::Stopped, "off", "100|0|30")]
#[case::running(PutBack::Running, "on", "101|0|30")]
#[case::our_own_directory_was_left(PutBack::AllButOurs, "on", "100|0|30")]
fn a_volume_that_was_put_back_goes_on_on_a_timeline_of_its_own_and_both_histories_stay_whole(
    #[case] how: PutBack,
    #[case] archive: &str,
    #[case] present: &str,
) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", archive);
    let given_up = put_back(&sandbox, how);

    let told = sandbox.succeed(&["init-postgresql"]);

    assert!(told.contains("was put back to an earlier state"), "{told}");
    assert_eq!(timeline(&sandbox), "2", "{told}");
    sandbox.sql("INSERT INTO kept SELECT generate_series(2001, 2030)");
    assert_eq!(rows(&sandbox), present, "{told}");
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    assert!(!health.contains("another history"), "{health}");
    lose_transaction_status(&sandbox);
    let told = sandbox.succeed(&START);
    assert_eq!(rows(&sandbox), present, "{told}");
    assert!(told.contains(&format!("{given_up} is not of this cluster's past")), "{told}");
    sandbox.succeed(&["backup-postgresql", "restore", &given_up, "--yes"]);
    assert_eq!(rows(&sandbox).split('|').nth(1), Some("100"));
}

#[rstest]
#[case::with_an_archive("on")]
#[case::without_an_archive("off")]
fn rows_of_a_volume_that_went_on_on_its_timeline_are_not_replaced_by_those_that_were_given_up(
    #[case] archive: &str,
) {
    // As with a server that was started by other means: nothing let it branch off.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", archive);
    let given_up = put_back(&sandbox, PutBack::Stopped);
    sandbox.set("RECOVERY", "never");
    let told = sandbox.succeed(&START);
    assert!(told.contains("its WAL cannot be archived"), "{told}");
    assert_eq!(timeline(&sandbox), "1");
    sandbox.sql("INSERT INTO kept SELECT generate_series(2001, 2030)");
    sandbox.sql("SELECT pg_switch_wal()");
    sandbox.sql("INSERT INTO kept SELECT generate_series(2031, 2060)");
    if archive == "on" {
        let health = printed(&sandbox.output(&["maintenance", "health"]));
        assert!(health.contains("another history"), "{health}");
    }
    let told = sandbox.succeed(&["backup-postgresql", "restore", &given_up, "--dry-run"]);
    assert!(told.contains("its WAL is not the WAL that is in pg_wal under the same name"), "{told}");
    sandbox.set("RECOVERY", "auto");
    sandbox.kill_server();
    sandbox.lose_transaction_status();

    let told = sandbox.succeed(&START);

    assert_eq!(rows(&sandbox), "100|0|60", "{told}");
}

#[test]
fn unlogged_tables_keep_their_rows_when_the_cluster_branches_off() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&START);
    sandbox.sql("CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 10) AS id");
    sandbox.succeed(&["maintenance", "stop"]);
    put_back(&sandbox, PutBack::Stopped);

    let told = sandbox.succeed(&START);

    assert_eq!((timeline(&sandbox).as_str(), rows(&sandbox).as_str()), ("2", "100|0|0"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM fleeting"), "10", "{told}");
}

#[test]
fn branching_off_that_is_killed_at_any_step_is_finished_by_the_next_start() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let origin = Sandbox::with_backup();
    put_back(&origin, PutBack::Stopped);
    let undisturbed = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
    let count = points(&undisturbed, &START).len();
    assert_eq!(timeline(&undisturbed), "2");
    for point in 1..=count {
        let sandbox = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
        let killed = sandbox.command(&START).env("PGBOX_KILL_AT_STEP_POINT", point.to_string()).output();
        assert_eq!(killed.unwrap().status.signal(), Some(9), "not killed at point {point}");

        let told = sandbox.succeed(&START);

        assert_eq!(timeline(&sandbox), "2", "point {point}: {told}");
        assert_eq!(rows(&sandbox), "100|0|0", "point {point}: {told}");
    }
}

#[test]
fn a_backup_that_nothing_shows_to_be_of_the_past_is_named_to_a_person_and_not_taken() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, "cd data; rm pg_xact/0000 pg_wal/0* .pgbox/lineage.json");
    let before = sandbox.listing();

    let told = sandbox.expect_status(&START, 6);

    let name = sandbox.backup_names("data_").remove(0);
    assert!(told.contains(&format!("it is not known whether {name}")), "{told}");
    assert!(told.contains(&format!("backup-postgresql restore {name}")), "{told}");
    assert_eq!(sandbox.listing(), before);
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(rows(&sandbox), "100|0|0");
}

/// A cluster with a backup, and the sandbox of another cluster that was backed up into the same repository later.
fn two_clusters() -> (Sandbox, Sandbox) {
    let sandbox = Sandbox::with_backup();
    let mut other = Sandbox::empty();
    other.set("BACKUP_DIR", sandbox.backups().to_str().unwrap());
    other.succeed(&["init-postgresql"]);
    other.succeed(&["maintenance", "stop"]);
    (sandbox, other)
}

#[rstest]
#[case::the_seal_tells("rm pg_control .pgbox/lineage.json")]
#[case::the_list_of_backups_tells("rm pg_control .pgbox/seal")]
fn a_cluster_without_control_file_and_wal_comes_back_from_its_own_backup(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _other) = two_clusters();
    let damage = damage.replace("pg_control", "global/pg_control pg_wal/0*");
    shell(&sandbox, &format!("cd data; {damage}"));

    let output = sandbox.output(&START);

    if damage.contains("lineage") {
        // Which cluster it is, is known; whether the backup is of its past, is not.
        let told = printed(&output);
        assert!(output.status.code() == Some(6) && told.contains("it is not known whether"), "{told}");
        return;
    }
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(rows(&sandbox), "100|0|0");
}

#[test]
fn a_cluster_that_could_be_any_of_several_is_left_to_a_person() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _other) = two_clusters();
    shell(&sandbox, "cd data; rm -r global/pg_control pg_wal/0* .pgbox");
    let before = sandbox.listing();

    let told = sandbox.expect_status(&START, 6);

    assert!(told.contains("there are backups of several"), "{told}");
    let names = sandbox.backup_names("data_");
    assert!(names.len() == 2 && names.iter().all(|name| told.contains(name)), "{told}");
    let without_own = |listing: String| -> Vec<String> {
        listing.lines().filter(|line| !line.starts_with(".pgbox")).map(str::to_owned).collect()
    };
    assert_eq!(without_own(sandbox.listing()), without_own(before));
}

#[test]
fn a_lost_configuration_comes_from_a_backup_of_the_same_cluster() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _other) = two_clusters();
    std::fs::remove_file(sandbox.data().join("postgresql.conf")).unwrap();
    let names = sandbox.backup_names("data_");

    let told = sandbox.succeed(&START);

    assert!(told.contains(&format!("as it is in {}", names[1])), "{told}");
}

#[test]
fn its_own_backup_is_named_before_anything_is_salvaged_though_pg_resetwal_changed_the_timeline() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&START);
    let table = sandbox.sql("SELECT pg_relation_filepath('kept')");
    sandbox.succeed(&["maintenance", "stop"]);
    let reset = "cd /; setpriv --reuid postgres --regid postgres --clear-groups \
        /usr/lib/postgresql/15/bin/pg_resetwal -l 0000000200000000000000FF";
    shell(
        &sandbox,
        &format!("{reset} \"$OLDPWD/data\"; rm \"$OLDPWD/data/{table}\" \"$OLDPWD/data/.pgbox/seal\""),
    );
    let before = sandbox.listing();

    let told = sandbox.expect_status(&START, 6);

    let name = sandbox.backup_names("data_").remove(0);
    assert!(told.contains(&format!("backup-postgresql restore {name}")), "{told}");
    assert!(!told.contains("salvage"), "{told}");
    assert_eq!(sandbox.listing(), before);
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(rows(&sandbox), "100|0|0");
}
