//! Clusters that nothing is wrong with, however they were left: a deep check finds nothing at all.

use super::judge::Server;
use super::template::{Left, choose, feed, place, template};
use crate::support::extent::few_or_many;
use crate::support::sandbox::{Sandbox, printed, run};
use crate::support::versions::{USUAL, programs};
use crate::support::wait::wait_until;
use rstest::rstest;

/// A new cluster of a major version, running; `None` where that is not there.
fn running(major: u32) -> Option<(Sandbox, Server)> {
    programs(major)?;
    let mut sandbox = Sandbox::empty_in(&place());
    choose(&mut sandbox, major);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    Some((sandbox, server))
}

/// Asserts that a deep check finds nothing but what is merely worth knowing.
#[track_caller]
fn assert_nothing_is_found(sandbox: &Sandbox, when: &str) {
    let output = sandbox.output(&["maintenance", "check", "--deep", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{when}: {error}: {}", printed(&output)));
    let findings = report.get("findings").and_then(serde_json::Value::as_array).unwrap();
    let false_ones: Vec<_> =
        findings.iter().filter(|found| found.get("severity").is_none_or(|it| it != "notice")).collect();
    assert!(false_ones.is_empty(), "{when}: {false_ones:#?}");
    assert_eq!(output.status.code(), Some(0), "{when}: {}", printed(&output));
}

fn stop(sandbox: &Sandbox) {
    sandbox.succeed(&["maintenance", "stop"]);
}

/// Kills the server. That its pid file is left behind is nothing that is wrong with its data.
fn kill(sandbox: &Sandbox) {
    sandbox.kill_server();
    std::fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
}

#[rstest]
fn a_new_cluster_is_sound(#[values(13, 14, 15, 16, 17, 18, 19)] major: u32) {
    let Some((sandbox, _)) = running(major) else { return };
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped");

    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    kill(&sandbox);
    assert_nothing_is_found(&sandbox, "killed when it had done nothing");
}

#[rstest]
fn a_cluster_with_a_little_of_everything_is_sound(
    #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
    #[values(Left::Clean, Left::Killed)] left: Left,
) {
    let Some(template) = template(major, left) else { return };
    let sandbox = template.copy();
    // A killed server leaves it behind.
    let _ = std::fs::remove_file(sandbox.data().join("postmaster.pid"));
    assert_nothing_is_found(&sandbox, "as it was left");
}

#[test]
fn a_cluster_is_sound_after_pgbench() {
    let Some((sandbox, server)) = running(USUAL) else { return };
    run(server.client("pgbench").args(["-iq", "-s", "3", "dbuser"]));
    run(server.client("pgbench").args(["-c", "4", "-t", "300", "dbuser"]));
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped after pgbench");
}

/// What rewrites every file, catalogs included, so that none has the number that it was made with.
const REWRITE: &str =
    "VACUUM FULL; REINDEX DATABASE dbuser; CLUSTER accounts USING accounts_pkey; VACUUM FREEZE";

#[rstest]
fn a_cluster_is_sound_after_every_table_and_catalog_was_rewritten(#[values(13, 15, 18, 19)] major: u32) {
    let Some(template) = template(major, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    for statement in REWRITE.split("; ") {
        server.sql("dbuser", statement);
    }
    kill(&sandbox);
    assert_nothing_is_found(&sandbox, "killed after it was rewritten");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped after it was rewritten");
}

#[test]
fn transactions_that_wait_for_their_second_phase_are_sound() {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    let prepare = |body: &str, name: &str| {
        server.sql("dbuser", &format!("BEGIN; {body}; PREPARE TRANSACTION '{name}'"));
    };
    prepare("CREATE TABLE waiting (id int PRIMARY KEY); DROP TABLE nothing", "tables");
    prepare("DELETE FROM documents WHERE id < 10", "rows");
    server.sql("dbuser", "CHECKPOINT");
    kill(&sandbox);
    assert_nothing_is_found(&sandbox, "killed");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped");
}

#[test]
fn many_databases_one_of_them_dropped_are_sound() {
    let Some((sandbox, server)) = running(USUAL) else { return };
    let count = few_or_many(50, 500);
    for number in 1..=count {
        server.sql("postgres", &format!("CREATE DATABASE many_{number}"));
    }
    server.sql("postgres", "DROP DATABASE many_7");
    kill(&sandbox);
    assert_nothing_is_found(&sandbox, "killed");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped");
}

/// Statements that make, rewrite and drop what has files, again and again; some wait for a second phase.
///
/// A rewrite of `pg_class` waits for a prepared transaction, and whoever would commit that for the rewrite: PostgreSQL
/// sees no deadlock in it, so that the wait has an end of its own.
fn churn(session: u32) -> String {
    let one = |n: u32| {
        let name = format!("churn_{session}_{n}");
        let old = format!("churn_{session}_{}", n.saturating_sub(4));
        let catalog = ["pg_class", "pg_attribute", "pg_database", "pg_authid", "pg_index"]
            .into_iter()
            .cycle()
            .nth(n as usize)
            .unwrap();
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, t text); INSERT INTO {name} SELECT g, md5(g::text) FROM generate_series(1, 200) g;
            UPDATE {name} SET t = t || 'x' WHERE id % 2 = 0; CREATE UNLOGGED TABLE {name}_u AS SELECT * FROM {name};
            CREATE INDEX ON {name} USING gin (to_tsvector('simple', t)); VACUUM FULL {name}; VACUUM FULL {catalog};
            BEGIN; CREATE TABLE {name}_p (id int); PREPARE TRANSACTION '{name}'; REINDEX TABLE {name};
            BEGIN; TRUNCATE {name}; ROLLBACK; ALTER TABLE {name} SET TABLESPACE space; COMMIT PREPARED '{name}';
            DROP TABLE IF EXISTS {old}, {old}_u, {old}_p; INSERT INTO done VALUES ({n}); DELETE FROM {name} WHERE id > 150;\n"
        )
    };
    let statements: String = (1..3000).map(one).collect();
    format!("SET lock_timeout = '300ms';\n{statements}")
}

#[rstest]
fn a_cluster_that_is_killed_again_and_again_at_work_is_sound_each_time(
    #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
) {
    let Some(template) = template(major, Left::Clean) else { return };
    let sandbox = template.copy();
    let kills = if major == USUAL { few_or_many(20, 100) } else { few_or_many(3, 20) };
    for round in 1..=kills {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        let server = Server::of(&sandbox);
        server.sql("dbuser", "DROP TABLE IF EXISTS done; CREATE TABLE done (n int)");
        let sessions = [1, 2].map(|session| feed(&server, churn(session * 1000 + round)));
        let wanted = i64::from(round % 7) + 2;
        wait_until("some of the load", || {
            server.sql("dbuser", "SELECT count(*) FROM done").parse().unwrap_or(0) >= wanted
        });
        kill(&sandbox);
        for mut session in sessions {
            session.wait().unwrap();
        }
        assert_nothing_is_found(&sandbox, &format!("after kill {round}"));
    }
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    stop(&sandbox);
    assert_nothing_is_found(&sandbox, "stopped after all kills");
}
