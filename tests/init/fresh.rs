//! Making a cluster where there is none.

use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn sixteen_started_at_once_make_one_cluster_and_all_succeed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::empty();

    let start = |_| {
        let mut command = sandbox.command(&["init-postgresql", "--no-backup"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..16).map(start).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();

    let texts: Vec<String> = outputs.iter().map(printed).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{texts:#?}");
    assert_eq!(texts.iter().filter(|text| text.contains("made a new cluster")).count(), 1, "{texts:#?}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'dbuser'"), "1");
}

#[test]
fn one_that_runs_already_is_told_and_is_no_failure() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let again = sandbox.succeed(&["init-postgresql"]);

    assert!(again.contains("is running already"), "{again}");
}

#[test]
fn a_new_cluster_has_checksums_and_lets_hosts_in_by_password_only() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::empty();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW data_checksums"), "on");
    assert_eq!(sandbox.sql("SHOW server_encoding"), "UTF8");
    assert!(sandbox.application_login("dbuser", "password", "dbuser").status.success());
    assert!(!sandbox.application_login("dbuser", "wrong", "dbuser").status.success());
}

#[test]
fn names_and_passwords_of_any_kind_are_taken_as_they_are() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let (user, password) = ("we\"ird User; --", "p'a\"s$s\\\nw ö☃%");
    sandbox.set("DATABASE_USERNAME", user);
    sandbox.set("DATABASE_PASSWORD", password);
    sandbox.set("POSTGRES_DB", user);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let login = sandbox.application_login(user, password, user);
    assert!(login.status.success(), "{}", printed(&login));
    let log = std::fs::read_to_string(sandbox.path().join("log/postgresql.log")).unwrap();
    assert!(!log.contains("w ö"), "the password is in the server's log");
}

#[test]
fn passwords_are_set_again_when_asked() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    sandbox.set("DATABASE_PASSWORD", "another");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(!sandbox.application_login("dbuser", "another", "dbuser").status.success());

    sandbox.succeed(&["init-postgresql", "--sync-password"]);

    assert!(sandbox.application_login("dbuser", "another", "dbuser").status.success());
}

/// Scripts of every sort, in a directory that the sandbox's commands use.
fn add_scripts(sandbox: &mut Sandbox, scripts: &[(&str, &[u8], u32)]) {
    let directory = sandbox.path().join("scripts");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, content, mode) in scripts {
        std::fs::write(directory.join(name), content).unwrap();
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(*mode)).unwrap();
    }
    sandbox.set("INIT_SCRIPTS_DIR", directory.to_str().unwrap());
}

#[test]
fn scripts_of_every_sort_are_run_once_in_the_order_of_their_names() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"INSERT INTO step VALUES ('gzip');").unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&b"INSERT INTO step VALUES ('zstd');"[..], 1).unwrap();
    let add = |name: &str| format!("psql -qc \"INSERT INTO step VALUES ('{name}')\"\n");
    add_scripts(
        &mut sandbox,
        &[
            ("1.sql", b"CREATE TABLE step (name text, number serial);", 0o644),
            ("2.sql.gz", &gzip, 0o644),
            ("3.sql.zst", &zstd, 0o644),
            ("4.sh", format!("#!/bin/sh\n{}", add("executed")).as_bytes(), 0o755),
            ("5.sh", format!("{}exit 0\n", add("sourced")).as_bytes(), 0o644),
            ("6.txt", b"this is no script", 0o644),
        ],
    );

    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "restart"]);

    let steps = sandbox.sql("SELECT string_agg(name, ' ' ORDER BY number) FROM step");
    assert_eq!(steps, "gzip zstd executed sourced");
}

#[test]
fn a_script_that_fails_leaves_nothing_that_the_next_start_takes_for_a_cluster() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    add_scripts(&mut sandbox, &[("1.sql", b"CREATE TABLE whole (id int); SELECT 1/0;", 0o644)]);
    let failed = sandbox.expect_status(&["init-postgresql"], 1);
    assert!(failed.contains("1.sql") && failed.contains("division by zero"), "{failed}");
    assert!(!sandbox.data().join("PG_VERSION").exists());

    add_scripts(&mut sandbox, &[("1.sql", b"CREATE TABLE whole (id int);", 0o644)]);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM whole"), "0");
}

#[test]
fn what_a_mount_brings_along_does_not_make_a_directory_a_foreign_one() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::empty();
    std::fs::create_dir_all(sandbox.data().join("lost+found")).unwrap();
    std::fs::write(sandbox.data().join(".gitkeep"), "").unwrap();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(sandbox.data().join("lost+found").is_dir());
    assert!(sandbox.data().join(".gitkeep").is_file());
}
