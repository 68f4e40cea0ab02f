//! Starting, stopping, and what happens between.

use std::time::{Duration, Instant};

use crate::support::docker::{Container, Volumes};
use crate::support::wait::{wait_for, wait_until};

#[test]
fn first_start_accepts_connections_and_a_restart_keeps_the_rows() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    container.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id");

    container.stop();
    container.start();
    container.wait_until_ready();

    assert_eq!(container.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_new_container_on_the_volumes_of_an_old_one_has_its_rows() {
    let Some(volumes) = Volumes::new() else { return };
    let old = volumes.start();
    old.wait_until_ready();
    old.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id");
    old.stop();
    drop(old);

    let new = volumes.start();
    new.wait_until_ready();

    assert_eq!(new.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn docker_stop_with_a_client_in_mid_query_leaves_the_cluster_shut_down_every_time() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    let mut states = Vec::new();
    for _ in 0..20 {
        container.wait_until_ready();
        leave_a_client_in_mid_query(&container);
        let start = Instant::now();
        container.stop();
        // Docker's own SIGKILL comes after ten seconds.
        assert!(start.elapsed() < Duration::from_secs(9), "the stop took {:?}", start.elapsed());
        assert_ne!(container.exit_status(), 137, "killed: {}", container.log());
        states.push(volumes.cluster_state());
        container.start();
    }
    assert_eq!(states, vec!["shut down"; 20]);
}

/// A smart shutdown would wait for it for ten minutes.
fn leave_a_client_in_mid_query(container: &Container) {
    container.spawn(&[
        "psql",
        "-X",
        "-h",
        "/var/run/postgresql",
        "-U",
        "dbuser",
        "-d",
        "postgres",
        "-c",
        "SELECT pg_sleep(600)",
    ]);
    wait_until("the client's query to run", || {
        container.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'",
        ) == "1"
    });
}

#[test]
fn sigterm_stops_it_as_cleanly_as_sigint() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start_with(&["--stop-signal=SIGTERM"], &[]);
    container.wait_until_ready();
    leave_a_client_in_mid_query(&container);

    container.stop();

    assert_eq!(volumes.cluster_state(), "shut down");
}

#[test]
fn docker_kill_in_mid_pgbench_loses_no_acknowledged_row() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    container.sql("CREATE TABLE acknowledged (id bigint GENERATED ALWAYS AS IDENTITY)");
    container.run(&["runuser", "-u", "postgres", "--", "pgbench", "-q", "-i", "-s", "2", "postgres"]);
    container
        .spawn(&["runuser", "-u", "postgres", "--", "pgbench", "-n", "-c", "4", "-T", "600", "postgres"]);
    // psql prints an id when the server has answered, which is when the row is committed.
    let inserts = "INSERT INTO acknowledged DEFAULT VALUES RETURNING id;\n".repeat(200_000);
    let psql = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", "postgres"];
    let client = container.pipe_in_background(inserts, &psql);
    wait_until("a thousand rows and as many transactions of pgbench", || {
        container.sql("SELECT (SELECT count(*) FROM acknowledged) > 1000 AND (SELECT count(*) FROM pgbench_history) > 1000")
            == "t"
    });

    container.kill();
    let printed = client.join().unwrap();
    container.start();
    container.wait_until_ready();

    let acknowledged: Vec<u64> = printed.lines().map_while(|line| line.parse().ok()).collect();
    assert!(acknowledged.len() > 1000, "only {} rows were acknowledged", acknowledged.len());
    let present: Vec<u64> = container
        .sql("SELECT id FROM acknowledged ORDER BY id")
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| present.binary_search(id).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
    let balances = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
                    AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)";
    assert_eq!(container.sql(balances), "t");
}

#[test]
fn health_is_reported_to_docker_exec_and_to_the_engine() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start_with(&["--health-interval=1s"], &[]);
    container.wait_until_ready();

    let report = container.run(&["maintenance", "health", "--json"]);
    let old_path = container.exec(&["/usr/local/bin/devcontainer-scripts/services/maintenance.sh", "health"]);

    assert!(serde_json::from_str::<serde_json::Value>(&report).is_ok(), "not JSON: {report}");
    assert!(old_path.status.success(), "the old path: {old_path:?}");
    wait_until("the engine to find it healthy", || container.health() == "healthy");
}

#[test]
fn health_has_an_issue_when_the_server_is_stopped() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();

    container.run(&["maintenance", "stop"]);
    let health = container.exec(&["maintenance", "health"]);

    assert_eq!(health.status.code(), Some(1));
    assert!(container.is_running(), "the container must outlive the server: {}", container.log());
}

#[test]
fn a_server_that_dies_is_started_again() {
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    let before = server_pid(&container);

    container.run(&["sh", "-c", &format!("kill -KILL {before}")]);

    let after = wait_for("another server", || {
        let pid = server_pid(&container);
        (!pid.is_empty() && pid != before).then_some(pid)
    });
    container.wait_until_ready();
    assert_ne!(before, after);
}

fn server_pid(container: &Container) -> String {
    let output = container.exec(&["sh", "-c", "head -n 1 \"$PGDATA/postmaster.pid\""]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_command_runs_beside_the_server_and_its_status_is_passed_on() {
    let Some(volumes) = Volumes::new() else { return };
    let script = "psql -XAtq -h /var/run/postgresql -U dbuser -d postgres -c 'SELECT 6 * 7' && exit 7";
    let container = volumes.start_with(&[], &["sh", "-c", script]);

    assert_eq!(container.wait_for_end(), 7, "{}", container.log());
    assert!(container.log().contains("42"), "{}", container.log());
    assert_eq!(volumes.cluster_state(), "shut down");
}

#[test]
fn a_container_of_any_other_user_works_as_that_user() {
    let Some(volumes) = Volumes::new() else { return };
    give_volumes_to(&volumes, "4321:4321");
    let container = volumes.start_with(&["--user=4321:4321"], &[]);
    container.wait_until_ready();

    container.stop();

    assert_eq!(volumes.cluster_state(), "shut down");
    assert_eq!(volumes.shell("stat -c %u \"$PGDATA/global/pg_control\"").trim(), "4321");
}

#[test]
fn the_mounted_directories_of_the_host_stay_open_to_a_docker_build() {
    // A build stops at a directory of its context that it cannot list, even at one that .dockerignore leaves out.
    let Some(volumes) = Volumes::new() else { return };
    let container = volumes.start();
    container.wait_until_ready();
    container.back_up();

    let modes =
        volumes.shell("stat -c %a /var/lib/postgresql-data /var/log/postgresql /var/lib/postgresql-backup");

    assert_eq!(modes, "755\n755\n755\n");
}

fn give_volumes_to(volumes: &Volumes, owner: &str) {
    volumes.shell(&format!(
        "chown {owner} /var/lib/postgresql-data /var/log/postgresql /var/lib/postgresql-backup"
    ));
}

#[test]
fn a_second_container_on_the_same_volumes_refuses_and_the_first_goes_on() {
    let Some(volumes) = Volumes::new() else { return };
    let first = volumes.start();
    first.wait_until_ready();
    first.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id");
    let pid = server_pid(&first);

    let second = volumes.start();
    // It may stay up so that a person can get in, or end; it must say why, and it must not serve.
    wait_until("the second container to refuse", || {
        let log = second.log().to_lowercase();
        ["in use", "is using", "lock"].iter().any(|word| log.contains(word))
    });

    let answer = second.exec(&["pg_isready", "-h", "/var/run/postgresql"]);
    assert!(!answer.status.success(), "the second container serves: {}", second.log());
    assert_eq!(server_pid(&first), pid);
    first.sql("INSERT INTO kept SELECT generate_series(101, 200)");
    drop(second);
    assert_eq!(first.sql("SELECT count(*) FROM kept"), "200");
    first.stop();
    assert_eq!(volumes.cluster_state(), "shut down");
}
