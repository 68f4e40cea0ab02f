//! A table that nothing was written to since a backup is healed from that backup alone.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, pause_at, points};
use std::os::unix::process::ExitStatusExt;

const CREATE: [&str; 3] = ["backup-postgresql", "create", "--force"];

/// A running cluster whose WAL does not reach back to the rows of `kept`.
fn running_without_old_wal() -> Sandbox {
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = 0");
    sandbox.sql("SELECT pg_reload_conf()");
    sandbox.sql("CREATE TABLE later (id int PRIMARY KEY)");
    // Two checkpoints in later segments, after which those with the rows of `kept` are removed or recycled.
    for _ in 0..3 {
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("CHECKPOINT");
    }
    // From the backup on it is kept.
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = '128MB'");
    sandbox.sql("SELECT pg_reload_conf()");
    sandbox
}

/// A stopped cluster whose WAL does not reach back to the rows of `kept`, with a backup, and with rows in `later` that
/// are newer than the backup; and where the file of `kept` was.
fn scene() -> (Sandbox, String) {
    let sandbox = running_without_old_wal();
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.sql("INSERT INTO later SELECT generate_series(1, 50)");
    let file = sandbox.sql("SELECT pg_relation_filepath('kept')");
    sandbox.succeed(&["maintenance", "stop"]);
    std::fs::remove_file(sandbox.data().join(&file)).unwrap();
    (sandbox, file)
}

fn assert_whole(sandbox: &Sandbox) {
    assert_eq!(sandbox.sql("SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM later)"), "100|50");
    assert_eq!(sandbox.backup_names("damaged_"), [""; 0], "the cluster was replaced");
}

#[test]
fn a_lost_table_that_the_wal_since_a_backup_leaves_alone_is_healed_from_it_alone() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, file) = scene();

    let text = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(text.contains(&format!("healed the relation of '{file}'")), "{text}");
    assert_whole(&sandbox);
}

#[test]
fn a_healing_that_is_killed_at_any_step_is_finished_by_the_next_start() {
    if !has_postgresql() || !cfg!(feature = "test-faults") {
        return;
    }
    let (origin, _) = scene();
    let arguments = ["init-postgresql", "--no-backup"];
    for point in 1.. {
        let sandbox = Sandbox::copy_of(origin.path(), &std::env::temp_dir());
        let killed = sandbox.command(&arguments).env("PGBOX_KILL_AT_STEP_POINT", point.to_string()).output();
        let killed = killed.unwrap();
        if killed.status.signal() != Some(9) {
            assert!(killed.status.success() && point > 5, "point {point}: {}", printed(&killed));
            break;
        }

        sandbox.succeed(&arguments);

        assert_whole(&sandbox);
    }
}

#[test]
fn a_table_that_was_written_to_while_the_backup_ran_is_not_healed_from_its_copy() {
    // The file was copied before the update, and the control file after the checkpoint that followed it.
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = running_without_old_wal();
    sandbox.succeed(&CREATE);
    let copied = "the files copied, and not the control file";
    let number = points(&sandbox, &CREATE).iter().position(|point| point == copied).unwrap() + 1;
    let (output, ()) = pause_at(&sandbox, number, &CREATE, || {
        sandbox.sql("UPDATE kept SET id = -id WHERE id = 1");
        sandbox.sql("CHECKPOINT");
    });
    assert!(output.status.success(), "{}", printed(&output));
    let file = sandbox.sql("SELECT pg_relation_filepath('kept')");
    sandbox.succeed(&["maintenance", "stop"]);
    std::fs::remove_file(sandbox.data().join(&file)).unwrap();

    let text = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!text.contains("healed the relation"), "{text}");
    assert_eq!(sandbox.sql("SELECT min(id), count(*) FROM kept"), "-1|100", "{text}");
}

#[test]
fn nothing_is_healed_from_a_backup_where_hint_bits_are_not_in_the_wal() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, file) = scene();
    let programs = std::path::Path::new("/usr/lib/postgresql/15/bin");
    let mut turn_off = std::process::Command::new("setpriv");
    turn_off.args(["--reuid", "postgres", "--clear-groups"]).arg(programs.join("pg_checksums"));
    run(turn_off.arg("--disable").arg(sandbox.data()));

    let text = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!text.contains(&format!("healed the relation of '{file}'")), "{text}");
    assert_eq!(sandbox.sql("SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM later)"), "100|50");
}
