//! A tablespace that is made while a backup runs: replaying the backup's WAL would write into its directory, which is the
//! present cluster's.

use std::path::PathBuf;
use std::process::Command;

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, pause_at};

const CREATE: [&str; 2] = ["backup-postgresql", "create"];

/// A server with a tablespace that was made at one of the points of its newest backup, whose name is returned, and rows
/// in it that came later.
fn scene(point: usize) -> Option<(Sandbox, PathBuf, String)> {
    if !has_postgresql() || !has_step_points() {
        return None;
    }
    let mut sandbox = Sandbox::with_backup();
    // Its points would come before those of the backup.
    sandbox.set("SCRUB_INTERVAL", "off");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let space = sandbox.path().join("space");
    std::fs::create_dir(&space).unwrap();
    run(Command::new("chown").arg("postgres:").arg(&space));
    sandbox.sql("INSERT INTO kept VALUES (101)");
    let (output, ()) = pause_at(&sandbox, point, &CREATE, || {
        sandbox.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        sandbox.sql("CREATE TABLE away TABLESPACE space AS SELECT generate_series(1, 1000) AS i");
    });
    assert!(output.status.success(), "{}", printed(&output));
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.sql("INSERT INTO away SELECT generate_series(1001, 2000)");
    // Nobody has anything to write into it any more.
    sandbox.sql("VACUUM (FREEZE) away");
    sandbox.sql("CHECKPOINT");
    Some((sandbox, space, name))
}

/// Every file in a directory, by its content.
fn contents(directory: &std::path::Path) -> String {
    let script = "find . -type f -exec sha256sum {} + | sort";
    run(Command::new("sh").args(["-c", script]).current_dir(directory))
}

/// Before the files are listed, so that the backup has some of the tablespace, and after.
const BEFORE_LISTING: usize = 1;
const AFTER_LISTING: usize = 2;

#[test]
fn beside_the_present_cluster_such_a_backup_is_neither_restored_nor_proven() {
    let Some((sandbox, space, name)) = scene(AFTER_LISTING) else { return };
    let (before, postmaster) = (contents(&space), sandbox.postmaster());
    let place = sandbox.path().join("copy");
    let place_shown = place.display().to_string();
    let restore = ["backup-postgresql", "restore", &name];
    for more in [&["--yes"][..], &["--dry-run"], &["--full", "--yes"], &["--into", &place_shown]] {
        let told = sandbox.expect_status(&[&restore, more].concat(), 6);
        assert!(told.contains("a tablespace was made at") && told.contains("Nothing was changed"), "{told}");
        assert!(told.contains(&space.display().to_string()), "{told}");
    }

    let told = sandbox.expect_status(&["backup-postgresql", "verify", "--all", "--prove"], 6);

    assert!(told.contains(&format!("{name} cannot be proven here: a tablespace was made at")), "{told}");
    assert!(told.contains("nothing is wrong with it"), "{told}");
    assert!(told.contains("proved data_"), "the others are: {told}");
    let list = sandbox.succeed(&["backup-postgresql", "list"]);
    assert!(!list.contains("NOT PROVEN") && list.contains("  sound 2"), "{list}");
    assert_eq!(contents(&space), before);
    assert!(!place.exists());
    assert_eq!(sandbox.postmaster(), postmaster);
    assert_eq!(sandbox.sql("SELECT count(*) FROM away"), "2000");
    // The next backup has it.
    sandbox.succeed(&CREATE);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--into", &place_shown]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM away"), "2000");
}

#[test]
fn where_there_is_no_other_cluster_it_is_restored_and_replay_makes_the_tablespace() {
    for point in [BEFORE_LISTING, AFTER_LISTING] {
        let Some((sandbox, space, name)) = scene(point) else { return };
        sandbox.kill_server();
        std::fs::rename(sandbox.data(), sandbox.path().join("lost")).unwrap();
        let restore = ["backup-postgresql", "restore", &name, "--yes"];
        // What is left there are later rows.
        let told = sandbox.expect_status(&restore, 6);
        assert!(told.contains("after moving away what is in that of the tablespace"), "{told}");
        let left = std::fs::read_dir(&space).unwrap().next().unwrap().unwrap().path();
        std::fs::rename(left, sandbox.path().join("lost/space")).unwrap();

        sandbox.succeed(&restore);

        assert_eq!(sandbox.sql("SELECT count(*) FROM away"), "1000", "made at point {point}");
        sandbox.succeed(&["maintenance", "check"]);
    }
}

#[test]
fn a_damaged_cluster_comes_back_from_it_with_every_row() {
    let Some((sandbox, ..)) = scene(BEFORE_LISTING) else { return };
    sandbox.kill_server();
    let script = "rm -rf base/1 base/4 base/5 base/1[0-9]*";
    run(Command::new("sh").args(["-c", script]).current_dir(sandbox.data()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("no committed row is lost"), "{told}");
    assert_eq!(sandbox.sql("SELECT (SELECT count(*) FROM away), (SELECT count(*) FROM kept)"), "2000|101");
}
