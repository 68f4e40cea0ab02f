//! A salvage that is killed has changed nothing, and the next one begins anew.

use super::cluster::{BEYOND_REPAIR, assert_all_but, sandbox, shell};
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::wait::wait_until;
use rstest::rstest;
use std::process::Stdio;

/// All but what is pgbox's own.
fn cluster_listing(sandbox: &Sandbox) -> Vec<String> {
    sandbox.listing().lines().filter(|line| !line.starts_with(".pgbox")).map(str::to_owned).collect()
}

#[rstest]
#[case::while_the_copy_is_made(".pgbox/salvage/copy/base")]
#[case::while_a_server_runs_on_the_copy(".pgbox/salvage/copy/postmaster.pid")]
#[case::while_the_new_cluster_is_loaded(".pgbox/new/postmaster.pid")]
fn a_killed_salvage_leaves_the_cluster_as_it_was_and_is_done_again(#[case] sign: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, BEYOND_REPAIR);
    let before = cluster_listing(&sandbox);
    let mut command = sandbox.command(&["init-postgresql", "--no-backup"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is under way", || sandbox.data().join(sign).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let after = cluster_listing(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(after, before);
    assert_all_but(&sandbox, "", &told);
}
