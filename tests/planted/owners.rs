//! Root gives no owner away by a name: links, hard links, mounts.

use super::{ends, shell, state_of_victim, victim};
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::small_disk::SmallDisk;
use rstest::rstest;
use std::os::unix::fs::MetadataExt;

/// Something of root's in each place, so that there is a reason to give anything.
const MISOWNED: &str = "chown root data/base/1 backups/packs";

#[rstest]
#[case::a_link_for_a_backup("ln -s ../victim backups/data_20250101_000000")]
#[case::a_link_for_a_damaged_cluster("ln -s ../victim backups/damaged_20250101_000000")]
#[case::a_link_within_a_plain_copy(
    "mkdir backups/data_20250101_000000; echo 15 > backups/data_20250101_000000/PG_VERSION
     ln -s ../../victim backups/data_20250101_000000/base"
)]
#[case::a_link_for_packs("mv backups/packs packs; ln -s ../victim backups/packs")]
#[case::a_link_for_archived_wal("rm -rf backups/wal; ln -s ../victim backups/wal")]
#[case::a_link_for_the_lock("rm -f backups/lock; ln -s ../victim/secret backups/lock")]
#[case::a_link_for_the_identity("rm backups/repository.json; ln -s ../victim/secret backups/repository.json")]
#[case::a_link_for_pgbox_own("mv data/.pgbox own; ln -s ../victim data/.pgbox")]
#[case::a_link_within_pgbox_own("ln -s ../../victim data/.pgbox/aside")]
#[case::a_link_for_a_database("ln -s ../../victim data/base/99999")]
#[case::a_link_for_pg_wal("mv data/pg_wal wal; ln -s ../victim data/pg_wal")]
#[case::a_link_for_a_tablespace("ln -s ../../victim data/pg_tblspc/99999")]
#[case::a_link_for_the_log("mkdir -p log; ln -sf ../victim/secret log/postgresql.log")]
#[case::a_hard_link_to_the_log("mkdir -p log; ln -f victim/secret log/postgresql.log")]
#[case::a_hard_link_in_packs("ln victim/secret backups/packs/x")]
#[case::a_hard_link_for_the_lock("rm -f backups/lock; ln victim/secret backups/lock")]
#[case::a_hard_link_for_a_relation("ln victim/secret data/base/1/99999")]
#[case::a_hard_link_for_a_note(
    "rm -f data/.pgbox/operation.lock; ln victim/secret data/.pgbox/operation.lock"
)]
#[case::a_strangers_link_for_the_backups("mv backups away; ln -s victim backups; chown -h nobody backups")]
#[case::a_strangers_link_for_the_log_directory("rm -rf log; ln -s victim log; chown -h nobody log")]
#[case::a_strangers_link_for_the_data_directory("mv data away; ln -s victim data; chown -h nobody data")]
#[case::a_link_of_the_owner_of_the_parent(
    "mkdir home; mv backups home; chown -R nobody home; mv home away; ln -s victim home; chown -h nobody home
     ln -s home/sub backups; chown -h nobody backups"
)]
#[case::a_setgid_directory(
    "chmod 2777 backups; rm -rf log; mkdir -m 2777 log; ln victim/secret log/postgresql.log"
)]
fn what_is_planted_leads_root_nowhere(#[case] plant: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    victim(&sandbox);
    shell(&sandbox, MISOWNED);
    let before = state_of_victim(&sandbox);
    shell(&sandbox, plant);
    let planted = state_of_victim(&sandbox);

    for command in [["maintenance", "stop"], ["init-postgresql", "--no-backup"], ["maintenance", "stop"]] {
        let (_, told) = ends(&sandbox, &command);
        assert_eq!(state_of_victim(&sandbox), planted, "{command:?} after {plant}:\n{told}");
    }
    // A hard link may only have changed how many names there are, which is not in it.
    assert_eq!(before, planted);
}

#[test]
fn among_files_of_others_on_a_mount_only_backups_are_given() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("8M") else { return };
    let mut sandbox = Sandbox::empty();
    sandbox.set("BACKUP_DIR", disk.path().display().to_string());
    sandbox.set("LOG_DIR", disk.path().join("log").display().to_string());
    shell(&sandbox, &format!("chmod 755 '{}'", disk.path().display()));
    let names = ["data_science", "lock", "repository.txt", "packs", "log"];
    for name in names {
        std::fs::create_dir_all(disk.path().join(name).join("private")).unwrap();
    }
    std::fs::create_dir(disk.path().join("data_20250101_000000")).unwrap();

    let (_, told) = ends(&sandbox, &["maintenance", "stop"]);

    let owner = |name: &str| std::fs::metadata(disk.path().join(name)).unwrap().uid();
    for name in names.into_iter().chain([".", "lock/private", "log/private"]) {
        assert_eq!(owner(name), 0, "{name}: {told}");
    }
    assert_ne!(owner("data_20250101_000000"), 0, "{told}");
    assert!(told.contains("it holds files of others"), "{told}");
    // The log is made for the server, where it may make none itself.
    assert_ne!(owner("log/postgresql.log"), 0);
}

#[test]
fn the_directories_of_another_images_server_user_are_given() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let server = std::fs::metadata(sandbox.data()).unwrap().uid();
    shell(&sandbox, "chown -R 4242:4242 data backups");

    sandbox.succeed(&["init-postgresql"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    for path in
        ["data/global/pg_control", "data/.pgbox", "backups", "backups/packs", "backups/repository.json"]
    {
        assert_eq!(std::fs::metadata(sandbox.path().join(path)).unwrap().uid(), server, "{path}");
    }
}
