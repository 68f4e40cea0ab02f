//! What was changed in a stopped cluster, which only the seal of its last stop can tell.

use crate::support::power_cut::PowerCutDisk;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::wait::wait_until;
use rstest::rstest;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

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

#[rstest]
#[case::the_port("port")]
#[case::the_socket("socket")]
#[case::the_log("log")]
fn a_start_that_is_refused_leaves_the_seal_as_it_was(#[case] what: &str) {
    // Nothing was started, so that what the seal knows is still true, and protects the files at the next start.
    if !has_postgresql() {
        return;
    }
    let (mut sandbox, table) = sealed();
    let seal = sandbox.data().join(".pgbox/seal");
    let sealed = fs::read(&seal).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    sandbox.set("PGPORT", number.to_string());
    // A listener of another directory's, at the socket that the server is to have.
    let sockets = sandbox.path().join("sockets");
    fs::create_dir(&sockets).unwrap();
    let _socket = (what == "socket").then(|| {
        let configuration = sandbox.data().join("postgresql.conf");
        let text = fs::read_to_string(&configuration).unwrap();
        fs::write(&configuration, format!("{text}unix_socket_directories = '{}'\n", sockets.display()))
            .unwrap();
        fs::write(sockets.join(format!(".s.PGSQL.{number}.lock")), "999999999\n/elsewhere\n1\n5432\n\n")
            .unwrap();
        run(Command::new("chown").args(["-R", "postgres"]).arg(&sockets));
        UnixListener::bind(sockets.join(format!(".s.PGSQL.{number}"))).unwrap()
    });
    let _port = (what == "port").then_some(port);
    let log = sandbox.path().join("log/postgresql.log");
    if what == "log" {
        fs::rename(&log, log.with_extension("former")).unwrap();
        fs::create_dir(&log).unwrap();
    }

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert_eq!(fs::read(&seal).ok(), Some(sealed), "{told}");
    File::options().write(true).open(&table).unwrap().set_len(0).unwrap();
    assert!(sandbox.succeed(&["init-postgresql", "--dry-run"]).contains("seal-size-changed"));
}

#[test]
fn a_table_that_lost_its_rows_while_the_server_was_stopped_comes_back() {
    if !has_postgresql() {
        return;
    }
    // Every file is there, and each is a whole number of blocks: the server would serve a table without a row.
    let (sandbox, table) = sealed();
    File::options().write(true).open(&table).unwrap().set_len(0).unwrap();

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
    File::options().write(true).open(&index).unwrap().set_len(5 * 8192).unwrap();

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
    run(Command::new("find")
        .arg(sandbox.data().join("base"))
        .args(["-type", "f", "-exec", "touch", "{}", "+"]));

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
    let mut page = fs::read(&table).unwrap();
    page[8000] ^= 0xFF;
    fs::write(&table, page).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("page-"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

/// A stopped, sealed cluster with a backup and without data checksums. Its table `seen` has 1,000 rows that everybody
/// sees, after 9,000 were deleted; and the file of a relation.
fn sealed_without_checksums(relation: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_backup();
    run(Command::new("setpriv")
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .args(["/usr/lib/postgresql/15/bin/pg_checksums", "--disable"])
        .arg(sandbox.data()));
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("CREATE TABLE seen (id int PRIMARY KEY) WITH (autovacuum_enabled = off)");
    sandbox.sql("INSERT INTO seen SELECT generate_series(1, 10000)");
    sandbox.sql("VACUUM seen");
    sandbox.sql("DELETE FROM seen WHERE id > 1000");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let place = sandbox.sql(&format!("SELECT pg_relation_filepath('{relation}')"));
    sandbox.succeed(&["maintenance", "stop"]);
    let file = sandbox.data().join(place);
    (sandbox, file)
}

/// The rows of `seen` by the table, and by its index and the visibility map.
fn rows_both_ways(sandbox: &Sandbox) -> [String; 2] {
    ["enable_indexonlyscan", "enable_seqscan"].map(|off| {
        let rows =
            format!("SET {off} = off; SET enable_bitmapscan = off; SELECT count(*) FROM seen WHERE id > 0");
        sandbox.sql(&rows).lines().last().unwrap().to_owned()
    })
}

fn overwrite(file: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

#[rstest]
#[case::its_visibility_map("seen", "_vm", 24, "out of the way")]
#[case::its_free_space_map("seen", "_fsm", 64, "out of the way")]
#[case::the_table("seen", "", 8184, "data_")]
#[case::its_index("seen_pkey", "", 8192 + 4000, "plan: repair in place")]
fn what_is_changed_in_a_stopped_cluster_without_checksums_is_not_used(
    #[case] relation: &str,
    #[case] fork: &str,
    #[case] offset: u64,
    #[case] expected: &str,
) {
    if !has_postgresql() {
        return;
    }
    // Nothing in the files themselves tells; what the map has wrong brings deleted rows back.
    let (sandbox, file) = sealed_without_checksums(relation);
    let file = PathBuf::from(format!("{}{fork}", file.display()));
    overwrite(&file, offset, &[0xFF; 8]);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("seal-content-changed") && told.contains(expected), "{told}");
    assert_eq!(rows_both_ways(&sandbox), ["1000", "1000"]);
}

#[test]
fn a_copy_of_a_cluster_without_checksums_that_kept_no_times_is_started_as_it_is() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, file) = sealed_without_checksums("seen");
    run(Command::new("find").arg(sandbox.data()).args(["-type", "f", "-exec", "touch", "{}", "+"]));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("seal-content-changed") && !told.contains("plan: re"), "{told}");
    assert!(Path::new(&format!("{}_vm", file.display())).exists(), "the map was dropped");
    assert_eq!(rows_both_ways(&sandbox), ["1000", "1000"]);
}

#[test]
fn a_map_that_calls_a_page_visible_against_the_page_is_dropped_by_a_repair() {
    if !has_postgresql() {
        return;
    }
    let (sandbox, file) = sealed_without_checksums("seen");
    fs::remove_file(sandbox.data().join(".pgbox/seal")).unwrap();
    overwrite(Path::new(&format!("{}_vm", file.display())), 24, &[0xFF; 8]);

    let told = sandbox.expect_status(&["maintenance", "check", "--deep"], 1);
    assert!(told.contains("visibility-map-wrong"), "{told}");

    sandbox.succeed(&["maintenance", "repair", "--yes"]);
    assert_eq!(rows_both_ways(&sandbox), ["1000", "1000"]);
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

#[test]
fn what_a_server_did_not_sync_is_on_disk_before_its_stop_is_sealed() {
    if !has_postgresql() {
        return;
    }
    // Without fsync, the server says that it shut down while most of it is in the kernel's memory alone.
    let Some(disk) = PowerCutDisk::new("600M") else { return };
    let sandbox = Sandbox::copy_of(Sandbox::with_backup().path(), disk.path());
    let mut configuration =
        File::options().append(true).open(sandbox.data().join("postgresql.conf")).unwrap();
    configuration.write_all(b"fsync = off\n").unwrap();
    run(Command::new("sync").arg("-f").arg(disk.path()));
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    let health = printed(&sandbox.output(&["maintenance", "health"]));
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 5000)");
    sandbox.succeed(&["maintenance", "stop"]);

    let Some(after) = disk.after_power_cut() else { return };

    let copy =
        Sandbox::copy_of(&after.path().join(sandbox.path().file_name().unwrap()), &std::env::temp_dir());
    let told = copy.succeed(&["init-postgresql", "--no-backup"]);
    assert!(!told.contains("found:"), "{told}");
    assert_eq!(copy.sql("SELECT count(*) FROM kept"), "5000");
    assert!(health.contains("fsync is off"), "{health}");
}
