//! A server that does not serve us is no dead server: it goes on for everybody else.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, pause_at, points};
use rstest::rstest;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};

/// Runs statements in `template1`, which can be closed to none.
fn in_template1(sandbox: &Sandbox, statements: &[&str]) {
    let mut psql = sandbox.psql();
    psql.args(["-d", "template1", "-v", "ON_ERROR_STOP=1"]);
    for statement in statements {
        psql.args(["-c", statement]);
    }
    run(&mut psql);
}

#[rstest]
#[case::closed(&["ALTER DATABASE postgres ALLOW_CONNECTIONS false"])]
#[case::half_dropped(&["UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'postgres'"])]
#[case::only_one_that_nobody_knows_of_is_open(&[
    "CREATE DATABASE unheard_of",
    "UPDATE pg_database SET datallowconn = (datname = 'unheard_of')",
    "CHECKPOINT",
])]
fn another_database_is_taken_where_the_usual_one_is_not_open(#[case] statements: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    in_template1(&sandbox, statements);
    sandbox.succeed(&["maintenance", "stop"]);

    let started = sandbox.succeed(&["init-postgresql"]);

    assert!(started.contains("backed up") && !started.contains("could not be verified"), "{started}");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("two connections to port"), "{health}");
}

/// What keeps the superuser out, and what is said that a person can do.
#[rstest]
#[case::no_database_is_open("UPDATE pg_database SET datallowconn = false", "ALLOW_CONNECTIONS true")]
#[case::the_superuser_may_not_log_in("ALTER ROLE postgres NOLOGIN", "POSTGRES_USER")]
#[case::the_superuser_has_another_name(
    "UPDATE pg_authid SET rolname = 'chief' WHERE oid = 10",
    "POSTGRES_USER"
)]
fn a_server_that_refuses_us_is_left_running(#[case] statement: &str, #[case] advice: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    in_template1(&sandbox, &[statement]);
    sandbox.succeed(&["maintenance", "stop"]);

    let started = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(started.contains("could not be verified") && started.contains(advice), "{started}");
    assert!(sandbox.postmaster().is_some());
    let again = sandbox.succeed(&["init-postgresql"]);
    assert!(again.contains("is running already") && again.contains(advice), "{again}");
    let health = sandbox.succeed(&["maintenance", "health"]);
    assert!(health.contains("the server answers, and did not serve us"), "{health}");
}

#[test]
fn a_server_whose_connections_are_all_taken_is_left_running() {
    // The application connects as the superuser, so that nothing is kept for us.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    for setting in ["max_connections = 4", "superuser_reserved_connections = 1", "max_wal_senders = 0"] {
        sandbox.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    sandbox.succeed(&["maintenance", "restart"]);
    let pool = Pool::of(&sandbox, 4);

    let started = sandbox.succeed(&["init-postgresql"]);
    let health = sandbox.succeed(&["maintenance", "health"]);

    assert!(started.contains("raise max_connections"), "{started}");
    assert!(health.contains("the server answers, and did not serve us"), "{health}");
    drop(pool);
    crate::support::wait::wait_until("there is a free connection", || {
        sandbox.psql().args(["-c", "SELECT 1"]).output().unwrap().status.success()
    });
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::nobody_else_is_there(false)]
#[case::others_have_a_session(true)]
fn a_server_with_damage_that_only_its_verification_meets_is_not_stopped_under_others(#[case] is_used: bool) {
    // An index that every session of one database reads, and that no inspection does before a server failed.
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let seal = sandbox.data().join(".pgbox/seal");
    std::fs::remove_file(seal).unwrap();
    let start = ["init-postgresql", "--no-backup"];
    let undisturbed = Sandbox::copy_of(sandbox.path(), &std::env::temp_dir());
    let ready = points(&undisturbed, &start).iter().position(|point| point == "ready, not verified yet");
    let index = std::fs::File::options().write(true).open(sandbox.data().join("base/5/2662")).unwrap();
    index.write_all_at(&[0x55; 16384], 0).unwrap();

    let (output, pool) =
        pause_at(&sandbox, ready.unwrap() + 1, &start, || is_used.then(|| Pool::of(&sandbox, 1)));

    let told = printed(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(told.contains("others have sessions on it"), is_used, "{told}");
    assert_eq!(told.contains("looking for damage in every page"), !is_used, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    drop(pool);
}

/// Sessions that are open for as long as it lives.
struct Pool(Vec<Child>);

impl Pool {
    /// Opens so many, each of which has said that it is there.
    fn of(sandbox: &Sandbox, count: usize) -> Self {
        let ready = sandbox.path().join("ready");
        let open = |number: usize| {
            let said = format!("\\o {}{number}\nSELECT 1;\n\\o\n", ready.display());
            let mut child = sandbox.psql().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            // Its input stays open, and with it the session.
            child.stdin.as_mut().unwrap().write_all(said.as_bytes()).unwrap();
            crate::support::wait::wait_until("a session is open", || {
                std::fs::metadata(format!("{}{number}", ready.display())).is_ok_and(|facts| facts.len() > 0)
            });
            child
        };
        Self((0..count).map(open).collect())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_login_that_waits_for_a_lock_does_not_wait_without_end() {
    // A prepared transaction holds the catalog of roles: nobody is let in, and nothing is wrong with the data.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET max_prepared_transactions = 5");
    sandbox.succeed(&["maintenance", "restart"]);
    let mut psql = sandbox.psql();
    psql.args([
        "-c",
        "BEGIN; LOCK pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'kept'",
    ]);
    run(&mut psql);

    let output = sandbox.command(&["maintenance", "health"]).env("STARTUP_TIMEOUT", "1").output().unwrap();

    let told = printed(&output);
    assert!(told.contains("it gave no answer for"), "{told}");
    assert!(sandbox.postmaster().is_some());
}
