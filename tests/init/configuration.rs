//! A configuration that the server does not take: it costs the line, never the file and what depends on it.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::process::Command;

fn append(sandbox: &Sandbox, file: &str, lines: &str) {
    let path = sandbox.data().join(file);
    let content = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{content}{lines}\n")).unwrap();
}

fn read(sandbox: &Sandbox, file: &str) -> String {
    fs::read_to_string(sandbox.data().join(file)).unwrap()
}

fn make(sandbox: &Sandbox, file: &str, text: &str) {
    let path = sandbox.data().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    run(Command::new("chown").args(["-R", "postgres"]).arg(path.parent().unwrap()));
}

#[rstest]
#[case::a_value("max_connections = 1OO", "max_connections = 1OO")]
#[case::a_value_out_of_range("work_mem = 7kB", "work_mem = 7kB")]
#[case::a_name("max_conections = 50", "max_conections = 50")]
#[case::no_syntax("this is = no [configuration", "this is = no")]
#[case::several("work_mem = 4XB\nfoo bar baz\nport = 0x", "port = 0x")]
#[case::in_a_file_that_is_taken_in("include_dir 'conf.d'", "wrok_mem = 5MB")]
#[case::a_file_that_is_not_there("include 'gone.conf'", "include 'gone.conf'")]
#[case::a_locale_that_is_not_there("lc_messages = 'xx_XX.UTF-8'", "lc_messages = 'xx_XX.UTF-8'")]
fn a_line_that_cannot_be_used_costs_that_line_alone(#[case] lines: &str, #[case] named: &str) {
    // What stands before it in the file, and in what it takes in, is in force all the same.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    make(&sandbox, "conf.d/mine.conf", "wal_keep_size = 48MB\nwrok_mem = 5MB\n");
    append(&sandbox, "postgresql.conf", &format!("wal_level = logical\nseq_page_cost = 1.5\n{lines}"));
    let configuration = read(&sandbox, "postgresql.conf");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW wal_level") + &sandbox.sql("SHOW seq_page_cost"), "logical1.5", "{told}");
    assert!(told.contains(named), "{told}");
    assert_eq!(read(&sandbox, "postgresql.conf"), configuration);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    assert!(health.contains(named) && health.contains("not in force"), "{health}");
    if lines.starts_with("include_dir") {
        assert_eq!(sandbox.sql("SHOW wal_keep_size"), "48MB");
    }
}

#[test]
fn wal_is_archived_though_a_line_is_left_out_and_other_files_are_taken_in() {
    // Whether somebody archives it otherwise is asked of the configuration that the server is given.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    make(&sandbox, "conf.d/mine.conf", "wal_keep_size = 48MB\n");
    append(&sandbox, "postgresql.conf", "include_dir 'conf.d'\nwrok_mem = 5MB");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("WAL is not archived"), "{told}");
    assert_eq!(sandbox.sql("SHOW archive_mode") + &sandbox.sql("SHOW wal_keep_size"), "on48MB", "{told}");
}

#[test]
fn a_line_that_was_put_right_is_in_force_after_a_restart() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    append(&sandbox, "postgresql.conf", "work_mem = 5XB");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let mended = read(&sandbox, "postgresql.conf").replace("5XB", "5MB");
    fs::write(sandbox.data().join("postgresql.conf"), mended).unwrap();

    let before = sandbox.output(&["maintenance", "health"]);
    sandbox.succeed(&["maintenance", "restart"]);

    let before = String::from_utf8_lossy(&before.stdout).into_owned();
    assert!(before.contains("still runs with a copy"), "{before}");
    assert_eq!(sandbox.sql("SHOW work_mem"), "5MB");
    assert!(sandbox.sql("SHOW config_file").ends_with("data/postgresql.conf"));
    let after = sandbox.output(&["maintenance", "health"]);
    assert!(!String::from_utf8_lossy(&after.stdout).contains("configuration"));
}

#[test]
fn a_line_that_alter_system_wrote_becomes_a_comment_and_the_others_stay() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let lines = "wal_level = 'logical'\nno_such_setting = '1'\nmax_connections = 'many'\n";
    make(&sandbox, "postgresql.auto.conf", lines);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW wal_level"), "logical", "{told}");
    assert!(told.contains("no_such_setting") && told.contains("many"), "{told}");
    let kept = sandbox.data().join(".pgbox/aside/postgresql.auto.conf");
    assert!(fs::exists(kept).unwrap());
}

#[rstest]
#[case::where_a_recovery_ends("recovery_target_time = 'soonish'", "auto")]
#[case::whom_a_commit_waits_for("synchronous_commit = onn", "auto")]
#[case::who_may_see_the_traffic("ssl_min_protocol_version = 'TLSv9'", "auto")]
#[case::any_line_where_no_more_is_allowed("work_mem = 5XB", "repair")]
fn a_line_that_more_depends_on_is_for_a_person(#[case] line: &str, #[case] policy: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("RECOVERY", policy);
    append(&sandbox, "postgresql.conf", line);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);

    let number = read(&sandbox, "postgresql.conf").lines().count();
    assert!(told.contains(&format!("line {number} ({line})")), "{told}");
    assert_eq!(sandbox.listing(), before);
}

#[test]
fn a_configuration_that_is_not_there_yet_is_waited_for() {
    // A link to where a disk is to be mounted.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let configuration = sandbox.data().join("postgresql.conf");
    let elsewhere = sandbox.path().join("mounted.conf");
    fs::rename(&configuration, sandbox.path().join("kept.conf")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &configuration).unwrap();

    sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);

    assert!(fs::symlink_metadata(&configuration).unwrap().is_symlink());
    fs::rename(sandbox.path().join("kept.conf"), &elsewhere).unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
}

#[test]
fn a_crash_and_a_line_that_cannot_be_used_lose_nothing_together() {
    // Something that only replay settles is found, too: it is replayed by a server that nobody can connect to.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    append(&sandbox, "postgresql.conf", "max_prepared_transactions = 5");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("BEGIN; INSERT INTO kept VALUES (101); PREPARE TRANSACTION 'waits'");
    sandbox.kill_server();
    append(&sandbox, "postgresql.conf", "max_connections = 1OO");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT gid FROM pg_prepared_xacts"), "waits", "{told}");
    sandbox.sql("COMMIT PREPARED 'waits'");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "101");
}

#[test]
fn a_temporary_directory_that_cannot_be_written_is_no_reason_to_refuse_a_line() {
    // As in a container whose root is read-only.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("TMPDIR", "/nonexistent");
    append(&sandbox, "postgresql.conf", "max_connections = 1OO");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("left out of the configuration"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}
