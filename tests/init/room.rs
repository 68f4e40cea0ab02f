//! A cluster on a disk that is nearly full.

use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::small_disk::SmallDisk;
use std::fs::File;

#[test]
fn a_cluster_that_crashed_starts_with_little_room_and_is_refused_only_with_none() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("250M") else { return };
    let source = Sandbox::without_backup();
    let sandbox = Sandbox::copy_of(source.path(), disk.path());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.kill_server();
    let ballast = disk.fill();

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);
    assert!(told.contains("(disk-full)"), "{told}");

    let file = File::options().write(true).open(disk.path().join("ballast")).unwrap();
    file.set_len(file.metadata().unwrap().len() - (20 << 20)).unwrap();
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150", "{told}");
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    let verdict =
        |check: &str| health.lines().find(|line| line.starts_with(check)).unwrap_or_default().to_owned();
    assert!(verdict("disk-data").contains("ISSUE"), "{health}");
    assert!(!verdict("integrity").contains("ISSUE"), "{health}");
    sandbox.succeed(&["maintenance", "stop"]);
    drop(ballast);
}
