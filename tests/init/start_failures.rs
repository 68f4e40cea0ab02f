//! A server that does not start, on a sound cluster: that is no proof of damage, even after a small repair.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a shell command in the data directory.
fn shell(sandbox: &Sandbox, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.data()))
}

fn system_identifier(sandbox: &Sandbox) -> String {
    let mut command = Command::new(Path::new("/usr/lib/postgresql/15/bin").join("pg_controldata"));
    let text = run(command.arg(sandbox.data()).env("LC_ALL", "C"));
    text.lines().find(|line| line.starts_with("Database system identifier")).unwrap().to_owned()
}

/// What a killed container and a file browser leave: each is repaired before the start, and neither is damage.
const SMALL_REPAIRS: &str =
    "printf '999999\\n/x\\n1\\n5432\\n/tmp\\nlocalhost\\n' >postmaster.pid; : >pg_tblspc/.DS_Store";

#[rstest]
#[case::a_key_that_is_not_mounted(
    "ssl = on\nssl_cert_file = '/nonexistent/server.crt'",
    "server certificate file"
)]
#[case::a_contradiction(
    "wal_level = minimal\nmax_wal_senders = 0\narchive_mode = on",
    "WAL archival cannot be enabled"
)]
#[case::settings_that_exclude_each_other(
    "max_connections = 10\nsuperuser_reserved_connections = 10",
    "superuser_reserved_connections"
)]
#[case::memory_that_is_not_there("shared_buffers = '7TB'\nhuge_pages = off", "shared_buffers")]
#[case::a_directory_for_sockets("unix_socket_directories = '/nonexistent'", "/nonexistent/.s.PGSQL")]
fn a_server_that_does_not_start_costs_a_sound_cluster_nothing(#[case] lines: &str, #[case] named: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    // RECOVERY=auto would override some of these settings for the run.
    sandbox.set("RECOVERY", "repair");
    let identifier = system_identifier(&sandbox);
    let configuration = fs::read_to_string(sandbox.data().join("postgresql.conf")).unwrap();
    let broken = format!("{configuration}\n{lines}\n");
    fs::write(sandbox.data().join("postgresql.conf"), &broken).unwrap();
    shell(&sandbox, SMALL_REPAIRS);

    let told = sandbox.output(&["init-postgresql", "--no-backup"]);
    let told = crate::support::sandbox::printed(&told);

    assert!(told.contains(named) && told.contains("error:") && told.contains("hint:"), "{told}");
    assert!(!told.contains("looking for damage") && !told.contains("restor"), "{told}");
    assert_eq!(told.matches("the last lines of the server's log").count(), 1, "{told}");
    assert_eq!(fs::read_to_string(sandbox.data().join("postgresql.conf")).unwrap(), broken);
    fs::write(sandbox.data().join("postgresql.conf"), configuration).unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert_eq!(system_identifier(&sandbox), identifier);
}

#[test]
fn a_slot_that_the_configuration_no_longer_allows_is_named_even_by_a_server_with_a_log_of_its_own() {
    // The startup process refuses it, when the logging collector has taken over.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let append = |line: &str| shell(&sandbox, &format!("echo \"{line}\" >>postgresql.conf"));
    append("wal_level = logical");
    append("logging_collector = on");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')");
    sandbox.succeed(&["maintenance", "stop"]);
    append("wal_level = replica");
    shell(&sandbox, SMALL_REPAIRS);

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert!(told.contains("logical replication slot \"cdc\" exists, but wal_level < logical"), "{told}");
    assert!(!told.contains("looking for damage"), "{told}");
    append("wal_level = logical");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT slot_name FROM pg_replication_slots"), "cdc");
}

#[test]
fn health_and_status_report_the_start_that_failed_and_not_the_stop_before_it() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox, "cp postgresql.conf ../kept; echo \"ssl = on\" >>postgresql.conf");
    sandbox.expect_status(&["maintenance", "start"], 1);

    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    let status = sandbox.succeed(&["maintenance", "status"]);

    for told in [health, status] {
        assert!(told.contains("the last start failed") && told.contains("server.crt"), "{told}");
        assert!(!told.contains("stopped by hand"), "{told}");
    }
    shell(&sandbox, "cat ../kept >postgresql.conf");
    sandbox.succeed(&["maintenance", "start"]);
    sandbox.succeed(&["maintenance", "stop"]);
    assert!(sandbox.succeed(&["maintenance", "status"]).contains("stopped by hand"));
}

#[test]
fn a_start_is_tried_again_only_where_its_cause_may_pass() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    sandbox.set("RECOVERY", "repair");
    sandbox.set("START_RETRIES", "3");
    sandbox.set("RETRY_DELAY", "0");
    shell(&sandbox, "cp postgresql.conf ../kept; echo \"ssl = on\" >>postgresql.conf");

    let lasting = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);
    shell(&sandbox, "cat ../kept >postgresql.conf; echo \"shared_buffers = '7TB'\" >>postgresql.conf");
    let passing = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert!(!lasting.contains("attempt 1"), "{lasting}");
    assert!(passing.contains("attempt 2"), "{passing}");
}

#[test]
fn a_backup_that_does_not_start_for_a_cause_outside_the_data_is_taken_back_at_once() {
    // The cluster is damaged, and its directory for sockets is not there yet: an older backup would start without it.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let sockets = sandbox.path().join("sockets");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    shell(&sandbox, &format!("echo \"unix_socket_directories = '{}'\" >>postgresql.conf", sockets.display()));
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox, "rm pg_xact/0000; rm -f .pgbox/seal");

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert!(told.contains("could not create lock file"), "{told}");
    assert_eq!(told.matches("began: restoring files").count(), 1, "{told}");
    assert!(!sandbox.data().join("pg_xact/0000").exists(), "{told}");
    fs::create_dir(&sockets).unwrap();
    run(Command::new("chown").arg("postgres").arg(&sockets));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150");
}

#[test]
fn the_note_of_a_failed_start_goes_once_the_server_is_found_to_serve() {
    // A person put right what was wrong and started the server by other means.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let configuration = sandbox.data().join("postgresql.conf");
    let sound = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{sound}\nssl = on\nssl_cert_file = '/nonexistent/server.crt'\n"))
        .unwrap();
    sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);
    let note = sandbox.data().join(".pgbox/start-failure.json");
    assert!(note.exists());
    fs::write(&configuration, sound).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    command.arg("/usr/lib/postgresql/15/bin/pg_ctl").args(["-w", "-s", "-l", "/dev/null", "start", "-D"]);
    let options = format!("-k {} -c listen_addresses=", "/tmp");
    run(command.arg(sandbox.data()).args(["-o", &options]).current_dir("/"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("is running already"), "{told}");
    assert!(!note.exists());
}

#[rstest]
#[case::of_what_was_done("history.jsonl")]
#[case::of_the_locales("locales")]
fn a_note_that_cannot_be_written_ends_no_start_that_serves(#[case] note: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, SMALL_REPAIRS);
    shell(&sandbox, &format!("rm -f .pgbox/{note}; mkdir -p .pgbox/{note}/x"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(
        told.contains("what was done could not be recorded") || told.contains("could not note which"),
        "{told}"
    );
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert!(!sandbox.data().join(".pgbox/start-failure.json").exists());
}
