//! A data directory from which the cluster was removed, all of it or part: no empty cluster takes its place by itself.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::path::Path;
use std::process::Command;

fn shell(directory: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(directory))
}

/// A stopped cluster with a backup that names its data directory: that of the template names another.
fn with_own_backup() -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox
}

/// What an interrupted `rm -rf` leaves that has come to the user's database, the WAL and the control file.
const INTERRUPTED: &str = "rm -rf data/base/16384 data/base/16385 data/base/16386 data/postmaster.opts \
    data/global/pg_control data/pg_wal/0*";
const CATALOGS_TOO: &str = "rm -rf data/base/163* data/postmaster.opts data/global/pg_control data/pg_wal/0* \
    data/global/1* data/pg_xact";

#[rstest]
#[case::all_but_what_is_hidden("rm -r data/*")]
#[case::everything_in_it("find data -mindepth 1 -delete")]
#[case::itself("rm -r data")]
fn an_emptied_directory_is_refused_until_it_is_restored_or_a_person_begins_anew(#[case] removal: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_own_backup();
    shell(sandbox.path(), removal);
    // Root makes the directory itself for the server's user, before anything is decided.
    let look = "find . -not -name '*lock' -not -path ./data | sort";
    let before = shell(sandbox.path(), look);

    let told = sandbox.expect_status(&["init-postgresql"], 6);
    let planned = sandbox.expect_status(&["init-postgresql", "--dry-run"], 6);

    let name = sandbox.backup_names("data_").remove(0);
    for told in [told, planned] {
        assert!(told.contains(&format!("backup-postgresql restore {name}")), "{told}");
        assert!(told.contains("ALLOW_EMPTY") && told.contains("Nothing was changed"), "{told}");
    }
    assert_eq!(shell(sandbox.path(), look), before);
    sandbox.set("RECOVERY", "repair");
    sandbox.set("ALLOW_EMPTY", "on");
    sandbox.expect_status(&["init-postgresql"], 6);
    sandbox.set("RECOVERY", "auto");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains("ALLOW_EMPTY is on"), "{health}");
    sandbox.set("ALLOW_EMPTY", "off");
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn the_backups_of_another_directory_keep_nobody_from_making_a_first_cluster() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_own_backup();
    let other = sandbox.path().join("other");
    sandbox.set("PGDATA", other.to_str().unwrap());

    let plan = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(plan.contains("make a new cluster") && plan.contains("backup-postgresql restore"), "{plan}");
}

#[rstest]
#[case::only_the_notes_are_left("rm -r data/*")]
#[case::only_the_mark_is_left("rm -r data/*; find data/.pgbox -type f -not -name served -delete")]
fn a_cluster_that_served_and_has_no_backup_is_not_begun_anew_either(#[case] removal: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(sandbox.path(), removal);

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("shows that a cluster was served") && told.contains("no backup of it"), "{told}");
}

#[rstest]
#[case::with_catalogs(INTERRUPTED)]
#[case::without_catalogs(CATALOGS_TOO)]
fn what_an_interrupted_removal_left_is_restored_and_never_begun_anew(#[case] removal: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_own_backup();
    shell(sandbox.path(), removal);
    sandbox.set("RECOVERY", "repair");
    sandbox.expect_status(&["init-postgresql"], 6);
    sandbox.set("RECOVERY", "auto");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("restored data_"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::without_any_note(INTERRUPTED, "rm -r data/.pgbox")]
#[case::with_nothing_but_the_note_of_a_backup(
    CATALOGS_TOO,
    "find data/.pgbox -type f -not -name repository -delete"
)]
fn what_an_interrupted_removal_left_without_a_list_of_its_backups_is_for_a_person(
    #[case] removal: &str,
    #[case] notes: &str,
) {
    // Neither WAL nor the list shows whose past the backup is.
    if !has_postgresql() {
        return;
    }
    let sandbox = with_own_backup();
    shell(sandbox.path(), &format!("{removal}; {notes}"));

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    let name = sandbox.backup_names("data_").remove(0);
    assert!(told.contains(&format!("backup-postgresql restore {name}")), "{told}");
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn an_interrupted_initdb_where_a_backup_may_be_of_the_directory_is_refused() {
    // Somebody emptied the directory, and began anew by hand.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_own_backup();
    let begin = "rm -rf data/* data/.pgbox; runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -D data >/dev/null; \
        rm data/global/pg_filenode.map data/base/5/pg_filenode.map";
    shell(sandbox.path(), begin);

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("no whole cluster") && told.contains("backup-postgresql restore data_"), "{told}");
    sandbox.set("ALLOW_EMPTY", "on");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
}
