//! Plain copies that somebody puts among the backups: any directory whose name has a date.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

const NOBODY: u32 = 65_534;
const OLD: &str = "data_20200101_000000";
const OF_THE_FUTURE: &str = "data_20990104_000000";

/// A stopped cluster with one backup, and a copy of its data directory among the backups, made by a user.
fn with_copy(name: &str, owner: u32) -> Sandbox {
    let sandbox = Sandbox::with_backup();
    let copy = sandbox.backups().join(name);
    run(Command::new("cp").arg("-r").arg(sandbox.data()).arg(&copy));
    fs::remove_dir_all(copy.join(".pgbox")).unwrap();
    // The server that is started with it would tell.
    let configuration = copy.join("postgresql.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{text}\ncluster_name = 'planted by nobody'\n")).unwrap();
    // As whoever wants it to be read would leave it, and as the old scripts did.
    run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&copy));
    run(Command::new("chown").args(["-R", &format!("{owner}:{owner}")]).arg(&copy));
    sandbox
}

#[rstest]
#[case::of_anybody(OLD, NOBODY)]
#[case::of_anybody_and_of_the_future(OF_THE_FUTURE, NOBODY)]
#[case::of_root_and_of_the_future(OF_THE_FUTURE, 0)]
#[case::of_root(OLD, 0)]
fn neither_recovery_nor_latest_takes_a_plain_copy_where_there_is_a_backup(
    #[case] name: &str,
    #[case] owner: u32,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_copy(name, owner);
    let good = sandbox.backup_names("data_").into_iter().find(|other| other != name).unwrap();
    sandbox.lose_transaction_status();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains(&format!("restored {good}")), "{told}");
    assert_eq!(sandbox.sql("SHOW cluster_name"), "");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert!(sandbox.succeed(&["backup-postgresql", "show", "latest"]).contains(&good));
    // Root gave it to nobody, or a later start would take it for the server's own.
    let owner_now = fs::metadata(sandbox.backups().join(name)).unwrap().uid();
    assert!(owner == 0 || owner_now == owner, "it belongs to {owner_now} now");
}

#[rstest]
#[case::of_anybody(OLD, NOBODY, "belongs to user nobody")]
#[case::of_root_and_of_the_future(OF_THE_FUTURE, 0, "a time that is still to come")]
fn a_plain_copy_that_proves_nothing_is_not_even_restored_by_name(
    #[case] name: &str,
    #[case] owner: u32,
    #[case] words: &str,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_copy(name, owner);

    let list = sandbox.succeed(&["backup-postgresql", "list"]);
    let told = sandbox.expect_status(&["backup-postgresql", "restore", name, "--yes"], 6);

    assert!(list.contains(words) && told.contains(words), "{list}\n{told}");
    assert!(told.contains("Nothing was changed"), "{told}");
}

#[test]
fn what_somebody_put_among_the_backups_and_closed_stops_no_cleanup() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_copy(OF_THE_FUTURE, NOBODY);
    run(Command::new("chmod").arg("700").arg(sandbox.backups().join(OF_THE_FUTURE)));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let list = sandbox.succeed(&["backup-postgresql", "list"]);
    assert!(list.contains("unreadable: it belongs to user nobody (65534)"), "{list}");
}

#[test]
fn a_plain_copy_that_others_may_write_to_is_not_restored() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_copy(OLD, 0);
    run(Command::new("chmod").arg("777").arg(sandbox.backups().join(OLD).join("base")));

    let told = sandbox.expect_status(&["backup-postgresql", "restore", OLD, "--yes"], 6);

    assert!(told.contains("base' may be written to by everybody"), "{told}");
}

#[test]
fn a_plain_copy_of_root_is_restored_by_its_name() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_copy(OLD, 0);

    sandbox.succeed(&["backup-postgresql", "restore", OLD, "--yes"]);

    assert_eq!(sandbox.sql("SHOW cluster_name"), "planted by nobody");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn latest_is_of_the_present_cluster_alone() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, other) = (Sandbox::with_backup(), Sandbox::empty());
    other.succeed(&["init-postgresql"]);
    let bundle = sandbox.path().join("bundle.tar");
    other.succeed(&["backup-postgresql", "export", "latest", bundle.to_str().unwrap()]);
    let own = sandbox.backup_names("data_");
    sandbox.succeed(&["backup-postgresql", "import", bundle.to_str().unwrap()]);

    let of_present = sandbox.succeed(&["backup-postgresql", "show", "latest"]);
    fs::rename(sandbox.data(), sandbox.path().join("elsewhere")).unwrap();
    let of_none = sandbox.expect_status(&["backup-postgresql", "restore", "latest", "--yes"], 3);

    assert!(of_present.contains(&own[0]), "{of_present}");
    assert!(of_none.contains("several clusters") && of_none.contains("name one"), "{of_none}");
}
