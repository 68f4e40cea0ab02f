//! Scripts of `/docker-entrypoint-initdb.d` that do something to the server itself: there is never more than one, and
//! only a cluster that is at rest is moved into place.

use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::wait::wait_until;
use rstest::rstest;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A sandbox without a cluster, whose scripts have these contents, in this order.
fn with_scripts(scripts: &[(&str, &str)]) -> Sandbox {
    let mut sandbox = Sandbox::empty();
    let directory = sandbox.path().join("scripts");
    fs::create_dir(&directory).unwrap();
    for (name, content) in scripts {
        fs::write(directory.join(name), content).unwrap();
    }
    sandbox.set("INIT_SCRIPTS_DIR", directory.display().to_string());
    sandbox
}

/// The postmasters whose data directory is, or was, below a directory.
fn postmasters_below(directory: &Path) -> Vec<String> {
    let command_line = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    };
    let is_ours =
        |line: &String| line.contains("/postgres ") && line.contains(&directory.display().to_string());
    fs::read_dir("/proc").unwrap().flatten().filter_map(command_line).filter(is_ours).collect()
}

const ROWS: (&str, &str) = ("20.sql", "CREATE TABLE made AS SELECT generate_series(1, 1000);");

#[rstest]
#[case::restarted("pg_ctl -D \"$PGDATA\" -m fast -w restart")]
#[case::restarted_twice("pg_ctl -D \"$PGDATA\" -w restart; pg_ctl -D \"$PGDATA\" -w restart")]
#[case::restarted_at_once("pg_ctl -D \"$PGDATA\" -m immediate -w restart")]
#[case::restarted_in_a_session_of_its_own("setsid pg_ctl -D \"$PGDATA\" -m fast -w restart")]
#[case::killed_and_started_again(
    "kill -9 $(head -1 \"$PGDATA/postmaster.pid\"); sleep 1; rm \"$PGDATA/postmaster.pid\" \"$PGHOST\"/.s.*
     pg_ctl -D \"$PGDATA\" -t 20 -o \"-p 5432 -k $PGHOST -c listen_addresses=\" -w start"
)]
fn a_server_that_a_script_restarted_is_stopped_before_the_cluster_is_moved(#[case] restart: &str) {
    if !has_postgresql() {
        return;
    }
    let restart = format!("psql -qc \"ALTER SYSTEM SET work_mem = '5MB'\"\n({restart}) >/dev/null 2>&1\n");
    let sandbox = with_scripts(&[("10.sh", &restart), ROWS]);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(postmasters_below(sandbox.path()).len(), 1, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM made"), "1000");
    assert_eq!(sandbox.sql("SHOW work_mem"), "5MB");
    let log = fs::read_to_string(sandbox.path().join("log/postgresql.log")).unwrap();
    assert!(!log.contains("PANIC") && !log.contains("could not open file"), "{log}");
}

#[rstest]
#[case::stopped("pg_ctl -D \"$PGDATA\" -m fast -w stop")]
#[case::stopped_at_once("pg_ctl -D \"$PGDATA\" -m immediate -w stop")]
#[case::killed("kill -9 $(head -1 \"$PGDATA/postmaster.pid\"); sleep 1")]
#[case::restarted_where_nobody_else_looks(
    "pg_ctl -D \"$PGDATA\" -m fast -w -o \"-p 5999 -k $PGHOST\" restart; rm \"$PGDATA/postmaster.pid\""
)]
fn what_the_last_script_leaves_is_brought_to_rest(#[case] end: &str) {
    if !has_postgresql() {
        return;
    }
    let end = format!("({end}) >/dev/null 2>&1\n");
    let sandbox = with_scripts(&[ROWS, ("30.sh", &end)]);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(postmasters_below(sandbox.path()).len(), 1, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM made"), "1000");
}

#[test]
fn a_script_that_restarts_the_server_and_fails_leaves_no_server_and_no_cluster() {
    if !has_postgresql() {
        return;
    }
    let restart = "pg_ctl -D \"$PGDATA\" -m fast -w restart >/dev/null 2>&1; exit 3";
    let sandbox = with_scripts(&[("10.sh", restart), ROWS]);

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert!(told.contains("10.sh"), "{told}");
    assert_eq!(postmasters_below(sandbox.path()), Vec::<String>::new());
    assert!(!sandbox.data().join("PG_VERSION").exists());
    fs::write(sandbox.path().join("scripts/10.sh"), "").unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM made"), "1000");
}

#[test]
fn a_server_that_a_script_of_a_killed_init_left_is_stopped_by_the_next() {
    // The restarted server has no lock, so that nothing else keeps the next one from emptying its directory.
    if !has_postgresql() {
        return;
    }
    let restart =
        "pg_ctl -D \"$PGDATA\" -m fast -w restart >/dev/null 2>&1; : > \"$PGDATA/../restarted\"; sleep 2";
    let sandbox = with_scripts(&[("10.sh", restart), ROWS]);
    let mut init = sandbox.command(&["init-postgresql", "--no-backup"]).spawn().unwrap();
    let own = sandbox.data().join(".pgbox");
    wait_until("the script restarted the server", || own.join("restarted").exists());
    init.kill().unwrap();
    init.wait().unwrap();
    let left = fs::read_to_string(own.join("new/postmaster.pid")).unwrap();
    let left = left.lines().next().unwrap().to_owned();
    let staged = fs::metadata(own.join("new")).unwrap().ino();
    assert_eq!(fs::metadata(format!("/proc/{left}/cwd")).unwrap().ino(), staged);
    fs::write(sandbox.path().join("scripts/10.sh"), "").unwrap();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(postmasters_below(sandbox.path()).len(), 1);
    assert_eq!(sandbox.sql("SELECT count(*) FROM made"), "1000");
}
