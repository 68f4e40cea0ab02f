//! Who a cluster lets in, by the socket and over TCP, as real users of this machine.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::versions::programs;
use rstest::rstest;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A user of every system that has no business with a database.
const NOBODY: &str = "65534";
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

fn with_version(major: u32) -> Option<Sandbox> {
    let programs = programs(major)?;
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_BIN_DIR", programs.to_str().unwrap());
    Some(sandbox)
}

/// Logs in by the socket as a user of the operating system, without a password.
fn local_login(sandbox: &Sandbox, system_user: &str, role: &str) -> Output {
    let database = if role == "postgres" { "postgres" } else { "dbuser" };
    Command::new("setpriv")
        .args(["--reuid", system_user, "--clear-groups", PSQL, "-XAtw", "-h", &sandbox.socket_directory()])
        .args(["-p", &sandbox.port(), "-U", role, "-d", database, "-c", "SELECT current_user"])
        .env_remove("PGPASSWORD")
        .current_dir("/")
        .output()
        .unwrap()
}

#[track_caller]
fn assert_let_in(sandbox: &Sandbox, system_user: &str, role: &str) {
    let output = local_login(sandbox, system_user, role);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), role, "{system_user}: {}", printed(&output));
}

#[track_caller]
fn assert_kept_out(sandbox: &Sandbox, system_user: &str, role: &str) {
    let output = local_login(sandbox, system_user, role);
    let text = printed(&output);
    assert!(text.contains("Peer authentication failed"), "{system_user} as {role}: {text}");
}

/// How a check of `maintenance health` came out.
fn verdict<'a>(health: &'a str, check: &str) -> &'a str {
    let line = health.lines().find(|line| line.starts_with(&format!("{check} "))).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default()
}

#[rstest]
fn root_and_the_servers_user_may_be_any_role_and_nobody_else_any(#[values(13, 15, 16, 18)] major: u32) {
    let Some(sandbox) = with_version(major) else { return };

    sandbox.succeed(&["init-postgresql"]);

    for system_user in ["root", "postgres"] {
        for role in ["postgres", "dbuser"] {
            assert_let_in(&sandbox, system_user, role);
        }
    }
    for role in ["postgres", "dbuser"] {
        assert_kept_out(&sandbox, NOBODY, role);
    }
    assert!(sandbox.application_login("dbuser", "password", "dbuser").status.success());
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert_eq!(verdict(&health, "local-access"), "ok", "{health}");
    sandbox.succeed(&["maintenance", "restart"]);
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
    assert_let_in(&sandbox, "root", "postgres");
}

#[rstest]
fn every_local_user_is_the_application_role_where_that_was_asked_for(#[values(13, 15, 18)] major: u32) {
    let Some(mut sandbox) = with_version(major) else { return };
    sandbox.set("LOCAL_ACCESS", "trust");

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_let_in(&sandbox, NOBODY, "dbuser");
    assert_let_in(&sandbox, "root", "postgres");
    assert_kept_out(&sandbox, NOBODY, "postgres");
}

#[test]
fn the_superuser_is_never_trusted_even_where_it_is_the_application_role() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    sandbox.set("LOCAL_ACCESS", "trust");
    sandbox.set("DATABASE_USERNAME", "postgres");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("POSTGRES_PASSWORD gives it one"), "{told}");
    assert_kept_out(&sandbox, NOBODY, "postgres");
}

#[rstest]
fn no_host_is_let_in_as_a_superuser_that_was_given_no_password(#[values(13, 15, 18)] major: u32) {
    let Some(mut sandbox) = with_version(major) else { return };
    sandbox.set("DATABASE_PASSWORD", "of the application");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'"), "t");
    // Not even with one that somebody gives it afterwards.
    sandbox.sql("ALTER ROLE postgres PASSWORD 'known'");

    let as_superuser = sandbox.application_login("postgres", "known", "postgres");

    assert!(printed(&as_superuser).contains("pg_hba.conf rejects connection"), "{}", printed(&as_superuser));
    assert!(sandbox.application_login("dbuser", "of the application", "dbuser").status.success());
}

#[test]
fn a_password_that_is_given_to_the_superuser_lets_hosts_in_as_docker_librarys_image_does() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_USER", "admin");
    sandbox.set("POSTGRES_PASSWORD", "of the superuser");
    sandbox.set("LISTEN_ADDRESSES", "*");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(sandbox.application_login("admin", "of the superuser", "admin").status.success());
    // Nobody gave the application role one, and the default is nothing for a server that others reach.
    assert!(told.contains("'dbuser' is made without a password"), "{told}");
    assert!(!sandbox.application_login("dbuser", "password", "admin").status.success());
    sandbox.succeed(&["maintenance", "health"]);
}

#[rstest]
#[case::by_default(None)]
#[case::also_when_it_was_given(Some("password"))]
fn the_password_that_everybody_knows_is_refused_where_others_reach_the_server(#[case] given: Option<&str>) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    sandbox.set("LISTEN_ADDRESSES", "localhost, 0.0.0.0");
    if let Some(given) = given {
        sandbox.set("DATABASE_PASSWORD", given);
    }

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains("everybody knows") && told.contains("set DATABASE_PASSWORD"), "{told}");
    assert!(!sandbox.data().join("PG_VERSION").exists());
    sandbox.set("DATABASE_PASSWORD", "another");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(sandbox.application_login("dbuser", "another", "dbuser").status.success());
}

#[test]
fn an_open_server_with_the_password_that_everybody_knows_is_an_issue_and_not_given_it_again() {
    // Made while only this machine reached it.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    sandbox.succeed(&["init-postgresql"]);
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("the role 'dbuser' has the default password"), "{health}");
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.set("LISTEN_ADDRESSES", "0.0.0.0");
    sandbox.succeed(&["maintenance", "start"]);

    let health = sandbox.expect_status(&["maintenance", "health"], 1);
    let refused = sandbox.expect_status(&["init-postgresql", "--sync-password"], 6);

    assert_eq!(verdict(&health, "passwords"), "ISSUE", "{health}");
    assert!(refused.contains("everybody knows"), "{refused}");
    sandbox.set("DATABASE_PASSWORD", "another");
    sandbox.succeed(&["init-postgresql", "--sync-password"]);
    sandbox.succeed(&["maintenance", "health"]);
}

#[test]
fn a_cluster_that_trusts_everybody_is_left_as_it_is_and_health_says_how_to_change_it() {
    if !has_postgresql() {
        return;
    }
    // As pgbox made clusters before: trust, and one password for both roles.
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_INITDB_ARGS", "--auth-local=trust");
    sandbox.set("POSTGRES_PASSWORD", "of both");
    sandbox.set("DATABASE_PASSWORD", "of both");
    sandbox.succeed(&["init-postgresql"]);
    sandbox.set("POSTGRES_PASSWORD", "");
    sandbox.succeed(&["maintenance", "restart"]);
    assert_let_in(&sandbox, NOBODY, "postgres");

    let health = sandbox.succeed(&["maintenance", "health"]);

    assert_eq!(
        (verdict(&health, "local-access"), verdict(&health, "passwords")),
        ("warning", "warning"),
        "{health}"
    );
    for told in ["`peer map=pgbox` in place of `trust`", "PASSWORD NULL"] {
        assert!(health.contains(told), "{told}: {health}");
    }
    let rules = sandbox.data().join("pg_hba.conf");
    let changed = fs::read_to_string(&rules).unwrap().replace(" trust", " peer map=pgbox");
    fs::write(&rules, changed).unwrap();
    sandbox.sql("ALTER ROLE postgres PASSWORD NULL; SELECT pg_reload_conf()");
    sandbox.succeed(&["maintenance", "restart"]);
    assert_kept_out(&sandbox, NOBODY, "postgres");
    assert_let_in(&sandbox, "root", "postgres");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert_eq!((verdict(&health, "local-access"), verdict(&health, "passwords")), ("ok", "ok"), "{health}");
}

#[test]
fn a_cluster_that_another_user_serves_now_lets_that_user_in() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    run(Command::new("chown").args(["-R", "games"]).arg(sandbox.path()));
    let pgbox = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "games", "--regid", "games", "--clear-groups", env!("CARGO_BIN_EXE_pgbox")]);
        let of_sandbox = sandbox.command(&[]);
        for (name, value) in of_sandbox.get_envs() {
            command.env(name, value.unwrap());
        }
        run(command.args(arguments).current_dir("/"))
    };

    pgbox(&["init-postgresql", "--no-backup"]);

    assert_let_in(&sandbox, "games", "postgres");
    assert_let_in(&sandbox, "root", "dbuser");
    assert_kept_out(&sandbox, NOBODY, "postgres");
    let map = fs::read_to_string(sandbox.data().join("pg_ident.conf")).unwrap();
    pgbox(&["maintenance", "restart"]);
    assert_eq!(fs::read_to_string(sandbox.data().join("pg_ident.conf")).unwrap(), map);
    pgbox(&["backup-postgresql", "create", "--force"]);
    pgbox(&["maintenance", "health"]);
    pgbox(&["maintenance", "stop"]);
}

fn chmod(path: &Path, mode: &str) {
    run(Command::new("chmod").arg(mode).arg(path));
}

/// What somebody else does who may write to the directory of the scripts, or to a script.
#[rstest]
#[case::the_directory_is_open(|scripts: &Path| chmod(scripts, "1777"), "/scripts' may be written to by everybody")]
#[case::a_script_is_open(|scripts: &Path| chmod(&scripts.join("1.sql"), "666"), "1.sql' may be written to by everybody")]
#[case::a_script_is_of_another(
    |scripts: &Path| { run(Command::new("chown").arg(NOBODY).arg(scripts.join("1.sql"))); },
    "1.sql' belongs to user"
)]
#[case::a_script_leads_to_where_others_write(
    |scripts: &Path| {
        let elsewhere = scripts.parent().unwrap().join("open");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(scripts.join("1.sql"), elsewhere.join("1.sql")).unwrap();
        chmod(&elsewhere, "777");
        std::os::unix::fs::symlink(elsewhere.join("1.sql"), scripts.join("1.sql")).unwrap();
    },
    "/open' may be written to by everybody"
)]
fn scripts_for_a_new_cluster_that_others_may_write_are_refused_by_name(
    #[case] plant: fn(&Path),
    #[case] words: &str,
) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let scripts = sandbox.path().join("scripts");
    fs::create_dir(&scripts).unwrap();
    fs::write(scripts.join("1.sql"), "CREATE TABLE planted (id int)").unwrap();
    sandbox.set("INIT_SCRIPTS_DIR", scripts.to_str().unwrap());
    plant(&scripts);

    let told = sandbox.expect_status(&["init-postgresql"], 6);

    assert!(told.contains(words) && told.contains("chmod go-w"), "{told}");
    assert!(!sandbox.data().join("PG_VERSION").exists());
}

#[test]
fn scripts_that_the_host_of_a_container_mounted_are_run() {
    // A number that no user of this system has, as most often the owner of a directory of the host is in a container.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let scripts = sandbox.path().join("scripts");
    fs::create_dir(&scripts).unwrap();
    fs::write(scripts.join("1.sql"), "CREATE TABLE mounted (id int)").unwrap();
    run(Command::new("chown").args(["-R", "3999999999:3999999999"]).arg(&scripts));
    sandbox.set("INIT_SCRIPTS_DIR", scripts.to_str().unwrap());

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM mounted"), "0");
}

#[test]
fn directories_that_everybody_may_write_to_are_closed_at_the_start() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let log = sandbox.path().join("log");
    chmod(&sandbox.backups(), "1777");
    chmod(&log, "1777");

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let mode = |path: &Path| run(Command::new("stat").args(["-c", "%a"]).arg(path)).trim().to_owned();
    assert_eq!((mode(&sandbox.backups()), mode(&log)), ("700".to_owned(), "750".to_owned()));
    // What a person closed in another way stays.
    chmod(&sandbox.backups(), "755");
    sandbox.succeed(&["maintenance", "restart"]);
    assert_eq!(mode(&sandbox.backups()), "755");
}
