//! What containers of docker-library's image rely on, and what its public tests of images look at: user, password,
//! database, scripts, arguments of initdb.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const USER: &str = "my cool postgres user";
const PASSWORD: &str = "my cool postgres password";
const DATABASE: &str = "my cool postgres database";

fn with_names() -> Sandbox {
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_USER", USER);
    sandbox.set("POSTGRES_PASSWORD", PASSWORD);
    sandbox.set("POSTGRES_DB", DATABASE);
    sandbox
}

fn add_script(sandbox: &mut Sandbox, name: &str, content: &str, mode: u32) {
    let directory = sandbox.path().join("scripts");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), content).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).unwrap();
    sandbox.set("INIT_SCRIPTS_DIR", directory.to_str().unwrap());
}

/// Runs SQL as a client over TCP does; what it printed, or the server's refusal.
fn query(sandbox: &Sandbox, password: &str, statement: &str) -> Result<String, String> {
    let output = Command::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-h", "127.0.0.1", "-p", &sandbox.port(), "-U", USER, "-d", DATABASE, "-XAtqc", statement])
        .env("PGPASSWORD", password)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(printed(&output))
    }
}

#[test]
fn the_superuser_of_any_name_works_in_its_database_with_its_password() {
    if !has_postgresql() {
        return;
    }
    let sandbox = with_names();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let sql = |statement: &str| query(&sandbox, PASSWORD, statement).unwrap();
    sql("CREATE TABLE test (a int, b int, c varchar(255))");
    assert_eq!(sql("SELECT count(*) FROM test"), "0");
    sql("INSERT INTO test VALUES (1, 2, 'hello'), (2, 3, 'goodbye!')");
    sql("DELETE FROM test WHERE a = 1");
    assert_eq!(sql("SELECT c FROM test"), "goodbye!");
    assert_eq!(sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"), "t");
    let refusal = query(&sandbox, "another", "SELECT 1").unwrap_err();
    assert!(refusal.contains("password authentication failed"), "{refusal}");
}

#[test]
fn a_script_of_sql_fills_the_database_that_was_asked_for() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let script = "CREATE TABLE test (a int, c text); INSERT INTO test VALUES (1, 'goodbye!');";
    add_script(&mut sandbox, "test.sql", script, 0o644);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(query(&sandbox, PASSWORD, "SELECT c FROM test").unwrap(), "goodbye!");
}

#[rstest]
#[case::by_password("--auth-local=scram-sha-256 --auth-host=scram-sha-256")]
#[case::by_password_of_both_kinds("-A scram-sha-256")]
#[case::by_md5("--auth=md5")]
#[case::in_clear("--auth=password")]
#[case::by_the_name_of_the_system_user("--auth-local=peer")]
fn arguments_that_ask_for_passwords_make_a_cluster_that_scripts_can_fill(#[case] arguments: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    sandbox.set("POSTGRES_INITDB_ARGS", arguments);
    add_script(&mut sandbox, "1.sql", "CREATE TABLE made (id int);", 0o644);
    add_script(&mut sandbox, "2.sh", "psql -qc 'INSERT INTO made VALUES (1)'", 0o644);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(query(&sandbox, PASSWORD, "SELECT count(*) FROM made").unwrap(), "1");
    let refusal = query(&sandbox, "another", "SELECT 1").unwrap_err();
    assert!(refusal.contains("password authentication failed"), "{refusal}");
    assert!(!sandbox.data().join(".pgbox/initdb-password").exists());
}

#[test]
fn a_password_file_of_ones_own_is_the_superusers_password() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let file = sandbox.path().join("secret");
    fs::write(&file, "of the file\n").unwrap();
    sandbox.set("POSTGRES_INITDB_ARGS", format!("--auth=scram-sha-256 --pwfile={}", file.display()));

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(query(&sandbox, "of the file", "SELECT 1").unwrap(), "1");
    assert!(query(&sandbox, PASSWORD, "SELECT 1").is_err());
}

#[rstest]
#[case::given(&[("POSTGRES_HOST_AUTH_METHOD", "trust")], "trust")]
#[case::by_default(&[], "scram-sha-256")]
#[case::as_passwords_are_stored(&[("POSTGRES_INITDB_ARGS", "--auth=md5")], "md5")]
fn hosts_are_let_in_as_it_was_asked_for(#[case] settings: &[(&str, &str)], #[case] method: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    for (name, value) in settings {
        sandbox.set(name, *value);
    }

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let rules = fs::read_to_string(sandbox.data().join("pg_hba.conf")).unwrap();
    assert_eq!(rules.lines().last(), Some(format!("host all all all {method}").as_str()));
    assert_eq!(told.contains("without a password"), method == "trust", "{told}");
}

#[test]
fn a_sourced_script_finds_what_docker_librarys_entry_point_gives_it() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let script = "\"${psql[@]}\" <<'SQL'\nCREATE TABLE made (how text);\nSQL\n\
                  docker_process_sql --dbname=\"$POSTGRES_DB\" -c \"INSERT INTO made VALUES ('function')\"\n\
                  psql -v ON_ERROR_STOP=1 -c \"INSERT INTO made VALUES ('program')\"\n\
                  [ \"$POSTGRES_USER/$PGDATABASE\" = \"$PGUSER/$POSTGRES_DB\" ]\n";
    add_script(&mut sandbox, "1.sh", script, 0o644);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let made = query(&sandbox, PASSWORD, "SELECT string_agg(how, ' ' ORDER BY how) FROM made").unwrap();
    assert_eq!(made, "function program");
}

#[test]
fn scripts_are_run_as_bash_lists_them() {
    // A ConfigMap of Kubernetes: links to files of mode 0644 behind a name with a dot, all of them scripts.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    sandbox.set("LC_ALL", "C.UTF-8");
    add_script(&mut sandbox, ".hidden.sql", "SELECT 1/0;", 0o644);
    let real = sandbox.path().join("scripts/..2026");
    fs::create_dir(&real).unwrap();
    for (name, content) in [
        ("1.sql", "CREATE TABLE step (name text, number serial);"),
        ("10.sh", "psql -qc \"INSERT INTO step (name) VALUES ('10')\""),
        ("2.sql", "INSERT INTO step (name) VALUES ('2');"),
    ] {
        fs::write(real.join(name), content).unwrap();
        fs::set_permissions(real.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        symlink(Path::new("..2026").join(name), sandbox.path().join("scripts").join(name)).unwrap();
    }
    fs::rename(sandbox.path().join("scripts/1.sql"), sandbox.path().join("scripts/0.sql")).unwrap();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let steps = query(&sandbox, PASSWORD, "SELECT string_agg(name, ' ' ORDER BY number) FROM step").unwrap();
    assert_eq!(steps, "10 2");
}

fn segments(directory: &Path) -> usize {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.len() == 24).count()
}

fn wal_directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("wal")
}

#[rstest]
#[case::by_the_variable(false)]
#[case::by_an_argument(true)]
fn a_new_clusters_wal_is_where_it_was_asked_for(#[case] by_argument: bool) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let wal = wal_directory(&sandbox);
    if by_argument {
        sandbox.set("POSTGRES_INITDB_ARGS", format!("--waldir={}", wal.display()));
    } else {
        fs::create_dir_all(wal.join("lost+found")).unwrap();
        sandbox.set("POSTGRES_INITDB_WALDIR", wal.to_str().unwrap());
    }

    sandbox.succeed(&["init-postgresql"]);
    sandbox.succeed(&["maintenance", "restart"]);

    assert_eq!(fs::read_link(sandbox.data().join("pg_wal")).unwrap(), wal);
    assert!(segments(&wal) > 0);
    assert!(!wal.join(".pgbox-new").exists());
    assert_eq!(query(&sandbox, PASSWORD, "SELECT 1").unwrap(), "1");
}

#[test]
fn a_script_that_fails_leaves_no_wal_that_keeps_the_next_attempt_from_succeeding() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let wal = wal_directory(&sandbox);
    sandbox.set("POSTGRES_INITDB_WALDIR", wal.to_str().unwrap());
    add_script(&mut sandbox, "1.sql", "SELECT 1/0;", 0o644);
    sandbox.expect_status(&["init-postgresql"], 1);
    add_script(&mut sandbox, "1.sql", "SELECT 1;", 0o644);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(fs::read_link(sandbox.data().join("pg_wal")).unwrap(), wal);
}

#[test]
fn wal_of_a_cluster_that_is_not_there_is_not_touched() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = with_names();
    let wal = wal_directory(&sandbox);
    sandbox.set("POSTGRES_INITDB_WALDIR", wal.to_str().unwrap());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.succeed(&["maintenance", "stop"]);
    let before = run(Command::new("ls").args(["-lR"]).arg(&wal));
    fs::rename(sandbox.data(), sandbox.path().join("elsewhere")).unwrap();

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);

    assert!(told.contains("POSTGRES_INITDB_WALDIR"), "{told}");
    assert_eq!(run(Command::new("ls").args(["-lR"]).arg(&wal)), before);
    assert!(!sandbox.data().join("PG_VERSION").exists());
}
