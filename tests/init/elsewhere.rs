//! Lines of the configuration that lead out of the data directory: what contradicts it is refused by name, and what
//! its owner may well have elsewhere is left to them.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// Appends lines to `postgresql.conf`; `DATA` is the data directory, `OTHER` a whole cluster elsewhere, `ROOT` where both are.
fn configure(sandbox: &Sandbox, lines: &str) {
    let lines = lines
        .replace("DATA", &sandbox.data().display().to_string())
        .replace("OTHER", &sandbox.path().join("other").display().to_string())
        .replace("ROOT", &sandbox.path().display().to_string());
    let path = sandbox.data().join("postgresql.conf");
    let content = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{content}{lines}\n")).unwrap();
}

/// A copy of the cluster, that a server would start on.
fn add_other_cluster(sandbox: &Sandbox) {
    run(Command::new("cp").arg("-a").arg(sandbox.data()).arg(sandbox.path().join("other")));
    fs::remove_dir_all(sandbox.path().join("other/.pgbox")).unwrap();
}

#[rstest]
#[case::another_cluster("data_directory = 'OTHER'", "data_directory")]
#[case::one_that_is_not_there("data_directory = '/nonexistent'", "data_directory")]
#[case::a_relative_path("data_directory = 'data'", "data_directory")]
#[case::a_file_that_is_taken_in("include_dir = 'more'", "more/1.conf' sets data_directory")]
#[case::the_servers_own_pid_file("external_pid_file = 'postmaster.pid'", "external_pid_file")]
#[case::another_file_of_the_cluster("external_pid_file = 'DATA/PG_VERSION'", "external_pid_file")]
fn what_contradicts_the_data_directory_is_refused_by_name(#[case] lines: &str, #[case] named: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    add_other_cluster(&sandbox);
    fs::create_dir(sandbox.data().join("more")).unwrap();
    let line = format!("data_directory = '{}'", sandbox.path().join("other").display());
    fs::write(sandbox.data().join("more/1.conf"), line).unwrap();
    run(Command::new("chown").args(["-R", "postgres"]).arg(sandbox.data().join("more")));
    configure(&sandbox, lines);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains(named) && told.contains("configuration-leads-elsewhere"), "{told}");
    assert!(told.contains("line "), "{told}");
    assert!(!sandbox.path().join("other/postmaster.pid").exists());
    assert_eq!(sandbox.listing(), before);
}

/// As for a superuser who was given a password when the cluster was made: without a socket there is no other way in.
fn let_superuser_in_by_password(sandbox: &Sandbox) {
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("ALTER ROLE postgres PASSWORD 'password'");
    sandbox.succeed(&["maintenance", "stop"]);
    let path = sandbox.data().join("pg_hba.conf");
    let rules = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = rules.lines().filter(|line| !line.ends_with(" reject")).collect();
    fs::write(path, kept.join("\n") + "\n").unwrap();
}

#[rstest]
#[case::itself("data_directory = 'DATA/'")]
#[case::itself_by_a_link("data_directory = 'ROOT/link'")]
#[case::access_rules_elsewhere("hba_file = 'ROOT/rules.conf'\nident_file = 'ROOT/ident.conf'")]
#[case::a_pid_file_elsewhere("external_pid_file = '/tmp/pgbox-test-none/x.pid'")]
#[case::files_taken_in("include_dir = 'more'\ninclude_if_exists = '/nonexistent'")]
#[case::a_socket_in_the_data_directory("unix_socket_directories = 'DATA'")]
#[case::a_socket_by_a_relative_path("unix_socket_directories = '.'")]
#[case::two_sockets("unix_socket_directories = 'DATA, /tmp'")]
#[case::no_socket("unix_socket_directories = ''")]
fn what_its_owner_has_elsewhere_is_served(#[case] lines: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    sandbox.set("POSTGRES_PASSWORD", "password");
    symlink(sandbox.data(), sandbox.path().join("link")).unwrap();
    fs::create_dir(sandbox.data().join("more")).unwrap();
    fs::copy(sandbox.data().join("pg_hba.conf"), sandbox.path().join("rules.conf")).unwrap();
    fs::copy(sandbox.data().join("pg_ident.conf"), sandbox.path().join("ident.conf")).unwrap();
    run(Command::new("chown").args(["-R", "postgres"]).arg(sandbox.data().join("more")));
    for file in ["rules.conf", "ident.conf"] {
        run(Command::new("chown").arg("postgres").arg(sandbox.path().join(file)));
    }
    if lines.ends_with("_directories = ''") {
        let_superuser_in_by_password(&sandbox);
    }
    configure(&sandbox, lines);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("could not be verified"), "{told}");
    assert!(sandbox.application_login("dbuser", "password", "dbuser").status.success());
    let health = sandbox.output(&["maintenance", "status"]);
    assert!(health.status.success());
}

#[test]
fn a_data_directory_that_is_a_link_is_the_one_it_leads_to() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    let link = sandbox.path().join("link");
    symlink(sandbox.data(), &link).unwrap();
    configure(&sandbox, "data_directory = 'DATA'");
    sandbox.set("PGDATA", link.to_str().unwrap());

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW data_directory"), sandbox.data().to_str().unwrap());
}

#[test]
fn a_restored_copy_never_serves_the_directory_that_its_configuration_names() {
    // The line is in the backup; the copy is recovered with it, and whoever starts it next is told.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    add_other_cluster(&sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    configure(&sandbox, "data_directory = 'OTHER'");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let copy = sandbox.path().join("copy");

    let told = sandbox.succeed(&[
        "backup-postgresql",
        "restore",
        "latest",
        "--into",
        copy.to_str().unwrap(),
        "--yes",
    ]);

    assert!(told.contains("sets data_directory to"), "{told}");
    assert!(told.contains("take that line out"), "{told}");
    assert!(!sandbox.path().join("other/postmaster.pid").exists());
}
