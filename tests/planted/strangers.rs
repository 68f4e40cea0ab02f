//! What a third user owns in a repository or a data directory is not given, and a person is told the command that does it.

use super::{ends, shell};
use crate::support::sandbox::{Sandbox, has_postgresql};
use rstest::rstest;
use std::os::unix::fs::MetadataExt;

#[rstest]
#[case::a_backup(
    "mkdir backups/data_20250101_000000; chown nobody backups/data_20250101_000000",
    "backups/data_20250101_000000"
)]
#[case::a_file_of_a_backup("touch backups/packs/x; chown nobody backups/packs/x", "backups/packs/x")]
#[case::archived_wal("mkdir -p backups/wal/1/2; chown nobody backups/wal/1", "backups/wal/1")]
fn a_strangers_entry_is_an_error_with_the_command_that_gives_it(#[case] plant: &str, #[case] place: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, plant);
    let path = sandbox.path().join(place);
    let stranger = path.metadata().unwrap().uid();

    let (status, told) = ends(&sandbox, &["maintenance", "stop"]);

    assert_eq!(status, 0, "a planted file keeps nothing from working: {told}");
    assert!(told.contains(&format!("did not give '{}'", path.display())), "{told}");
    assert!(told.contains(&format!("it belongs to user {stranger}")), "{told}");
    assert!(told.contains(&format!("`chown -Rh postgres: {}`", path.display())), "{told}");
    assert_eq!(path.metadata().unwrap().uid(), stranger);
}

#[test]
fn a_strangers_file_in_a_cluster_is_named() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox, "chown nobody data/base/1/1259; chown root data/base/1/1249");
    let stranger = sandbox.data().join("base/1/1259").metadata().unwrap().uid();

    let (_, told) = ends(&sandbox, &["init-postgresql", "--no-backup"]);

    assert!(told.contains("base/1/1259' to user postgres"), "{told}");
    assert!(told.contains("`chown -Rh postgres: "), "{told}");
    assert_eq!(sandbox.data().join("base/1/1259").metadata().unwrap().uid(), stranger);
    assert_ne!(sandbox.data().join("base/1/1249").metadata().unwrap().uid(), 0);
}
