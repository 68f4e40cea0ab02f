//! What was changed in a stopped cluster, which only the seal of its last stop can tell.

use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::wait::wait_until;
use std::path::PathBuf;

/// A stopped, sealed cluster with a backup, and the file of its table `kept`.
fn sealed() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let place = sandbox.sql("SELECT pg_relation_filepath('kept')");
    sandbox.succeed(&["maintenance", "stop"]);
    assert!(sandbox.data().join(".pgbox/seal").exists());
    let file = sandbox.data().join(place);
    (sandbox, file)
}

#[test]
fn a_cleanly_stopped_cluster_that_nobody_touched_has_no_findings() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _) = sealed();

    let told = sandbox.succeed(&["init-postgresql", "--dry-run"]);

    assert!(!told.contains("found:"), "{told}");
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    assert!(!sandbox.data().join(".pgbox/seal").exists(), "the seal outlived the start");
}

#[test]
fn a_table_that_lost_its_rows_while_the_server_was_stopped_comes_back() {
    if !has_postgresql() {
        return;
    }
    // Every file is there, and each is a whole number of blocks: the server would serve a table without a row.
    let (sandbox, table) = sealed();
    std::fs::File::options().write(true).open(&table).unwrap().set_len(0).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("seal-size-changed"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn an_index_that_was_cut_while_the_server_was_stopped_is_built_anew_in_place() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 5000)");
    let place = sandbox.sql("SELECT pg_relation_filepath('kept_pkey')");
    sandbox.succeed(&["maintenance", "stop"]);
    let index = sandbox.data().join(place);
    std::fs::File::options().write(true).open(&index).unwrap().set_len(5 * 8192).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("seal-size-changed"), "{told}");
    assert_eq!(sandbox.sql("SET enable_seqscan = off; SELECT count(*) FROM kept WHERE id = 4711"), "SET\n1");
}

#[test]
fn a_copy_that_kept_no_times_is_told_in_one_line_and_started() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _) = sealed();
    crate::support::sandbox::run(
        std::process::Command::new("find")
            .arg(sandbox.data().join("base"))
            .args(["-type", "f", "-exec", "touch", "{}", "+"]),
    );

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(told.matches("seal-mtime-changed").count(), 1, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_page_that_was_overwritten_while_the_server_was_stopped_is_found_before_the_start() {
    if !has_postgresql() {
        return;
    }
    // Nothing but the file's time tells that it is worth a look; its checksum then does.
    let (sandbox, table) = sealed();
    let mut page = std::fs::read(&table).unwrap();
    page[8000] ^= 0xFF;
    std::fs::write(&table, page).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("page-"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_server_that_was_shut_down_immediately_leaves_no_seal() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _) = sealed();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    sandbox.kill_server();

    assert!(!sandbox.data().join(".pgbox/seal").exists());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
}

#[test]
fn start_services_seals_what_it_stopped() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, _) = sealed();
    let child = sandbox.command(&["start-services"]).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut child = child;
    wait_until("the server serves", || {
        sandbox.output(&["init-postgresql", "--wait", "--timeout", "1s"]).status.success()
    });
    assert!(!sandbox.data().join(".pgbox/seal").exists());

    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();

    assert!(child.wait().unwrap().success());
    assert!(sandbox.data().join(".pgbox/seal").exists(), "start-services did not seal the cluster");
    let told = sandbox.succeed(&["init-postgresql", "--dry-run"]);
    assert!(!told.contains("found:"), "{told}");
}
