//! `pg_wal` on a disk of its own: it stays there where that can be, and where it cannot, that is told beforehand.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A stopped cluster with a backup, whose `pg_wal` is a link to a directory beside it.
fn with_linked_wal() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_backup();
    let (wal, link) = (sandbox.path().join("waldisk/pg_wal"), sandbox.data().join("pg_wal"));
    fs::create_dir(wal.parent().unwrap()).unwrap();
    fs::rename(&link, &wal).unwrap();
    std::os::unix::fs::symlink(&wal, &link).unwrap();
    run(Command::new("chown").args(["-hR", "postgres"]).arg(&link).arg(wal.parent().unwrap()));
    (sandbox, wal)
}

#[rstest]
#[case::started("true")]
#[case::repaired("rmdir pg_notify; rm -f postgresql.conf")]
#[case::reindexed("rm global/2671")]
#[case::with_a_new_wal(
    "rm .pgbox/seal pg_wal/0*; truncate -s 16M pg_wal/000000010000000000000001; chown postgres pg_wal/0*"
)]
fn wal_stays_on_its_disk_through_starts_and_repairs(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let (sandbox, wal) = with_linked_wal();
    run(Command::new("sh").args(["-euc", damage]).current_dir(sandbox.data()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(fs::read_link(sandbox.data().join("pg_wal")).unwrap(), wal, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::by_a_person(&["backup-postgresql", "restore", "latest", "--yes"], "true")]
#[case::by_itself(&["init-postgresql"], "rm pg_xact/0000; rm -f .pgbox/seal")]
fn a_restore_tells_that_wal_is_in_the_data_directory_from_then_on(
    #[case] arguments: &[&str],
    #[case] damage: &str,
) {
    if !has_postgresql() {
        return;
    }
    let (sandbox, wal) = with_linked_wal();
    run(Command::new("sh").args(["-euc", damage]).current_dir(sandbox.data()));

    let told = sandbox.succeed(arguments);

    let expected = format!(
        "pg_wal is inside the data directory from now on, and no longer a link to '{}'",
        wal.display()
    );
    assert!(told.contains(&expected), "{told}");
    assert!(sandbox.data().join("pg_wal/archive_status").is_dir());
    assert!(fs::read_dir(&wal).unwrap().count() > 1, "the former WAL stays");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}
