//! A table that nothing was written to since a backup is healed from that backup alone.

use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use std::os::unix::process::ExitStatusExt;

/// A stopped cluster whose WAL does not reach back to the rows of `kept`, with a backup, and with rows in `later` that
/// are newer than the backup; and where the file of `kept` was.
fn scene() -> (Sandbox, String) {
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
