//! Killed in the middle, at many moments: the next run comes to the same end.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::wait::wait_until;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command and kills it with SIGKILL after a time. Returns whether it was still running.
fn kill_after(sandbox: &Sandbox, arguments: &[&str], time: Duration) -> bool {
    let mut command = sandbox.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn an_init_killed_at_any_moment_is_done_again_by_the_next() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::empty();
    let mut killed = 0;
    for step in 1..=12 {
        if kill_after(&sandbox, &["init-postgresql", "--no-backup"], Duration::from_millis(step * 130)) {
            killed += 1;
        }
    }
    assert!(killed > 2, "hardly any run was killed in the middle");

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'dbuser'"), "1");
    assert!(!sandbox.data().join(".pgbox/journal.json").exists());
    assert!(!sandbox.data().join(".pgbox/new/PG_VERSION").exists());
}

#[test]
fn a_restore_killed_at_any_moment_leaves_the_old_rows_or_the_new_ones() {
    if !has_postgresql() {
        return;
    }
    for step in 0..12_u64 {
        let sandbox = Sandbox::with_backup();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
        let name = sandbox.backup_names("data_").remove(0);

        kill_after(
            &sandbox,
            &["backup-postgresql", "restore", &name, "--yes"],
            Duration::from_millis(40 + step * 60),
        );
        sandbox.succeed(&["init-postgresql", "--no-backup"]);

        let rows = sandbox.sql("SELECT count(*) FROM kept");
        assert!(rows == "150" || rows == "100", "{rows} rows after a kill at step {step}");
        if rows == "100" {
            // The restore went through, so what it replaced must be kept whole.
            let kept = std::fs::read_dir(sandbox.data().join(".pgbox/aside"))
                .is_ok_and(|mut entries| entries.next().is_some());
            assert!(kept || !sandbox.backup_names("replaced_").is_empty(), "the replaced data is gone");
        }
        assert!(!sandbox.data().join(".pgbox/journal.json").exists());
    }
}

#[test]
fn a_recovery_killed_at_any_moment_is_finished_by_the_next_start() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox.lose_transaction_status();

    for step in 1..=12 {
        kill_after(&sandbox, &["init-postgresql", "--no-backup"], Duration::from_millis(step * 45));
    }
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150");
}

#[test]
fn a_restored_cluster_that_has_served_is_never_taken_back() {
    // As if the restore had been killed between the start of the server and its last word, and the next start
    // fails for a reason that has nothing to do with the data.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.succeed(&["backup-postgresql", "restore", &name, "--yes"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 130)");
    sandbox.kill_server();
    let own = sandbox.data().join(".pgbox");
    let journal = r#"{"operation": "restore", "aside": "replaced_20260102_030405", "phase": "proving"}"#;
    std::fs::write(own.join("journal.json"), journal).unwrap();
    let former = own.join("aside/replaced_20260102_030405");
    std::fs::create_dir_all(&former).unwrap();
    std::fs::write(former.join("PG_VERSION"), "15\n").unwrap();
    run(Command::new("chown").args(["-R", "postgres"]).arg(&own));
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    sandbox.set("PGPORT", stranger.local_addr().unwrap().port().to_string());
    sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    drop(stranger);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "130");
    assert!(former.join("PG_VERSION").exists(), "what was set aside is kept");
}

#[test]
fn a_server_left_in_staging_by_a_killed_init_does_not_block_the_next() {
    // Killed while a script of /docker-entrypoint-initdb.d runs: the private server lives on, and has the lock.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let scripts = sandbox.path().join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    std::fs::write(scripts.join("1.sh"), "sleep 3").unwrap();
    sandbox.set("INIT_SCRIPTS_DIR", scripts.display().to_string());
    let mut init = sandbox.command(&["init-postgresql", "--no-backup"]).spawn().unwrap();
    let staged = sandbox.data().join(".pgbox/new/postmaster.pid");
    wait_until("a private server is ready", || {
        std::fs::read_to_string(&staged).is_ok_and(|text| text.contains("ready"))
    });
    init.kill().unwrap();
    init.wait().unwrap();
    std::fs::write(scripts.join("1.sh"), "").unwrap();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT 1"), "1");
}
