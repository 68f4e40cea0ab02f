//! What is no damage to a file, and yet keeps a cluster from serving: no room, another C library, an initdb cut short.

use super::fault::make;
use super::judge::Server;
use super::template::{Left, feed, template};
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::versions::{USUAL, programs};
use crate::support::wait::wait_until;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A file system of its own in memory, unmounted when it is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None`, said in a line, where nothing may be mounted.
    fn mount(place: &'a Path, size_mib: u64) -> Option<Self> {
        let size = format!("size={size_mib}m,mode=0755");
        let mut mount = Command::new("mount");
        let status =
            mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(place));
        }
        eprintln!("SKIPPED: nothing may be mounted here");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0).status();
    }
}

#[test]
fn a_killed_cluster_on_a_disk_with_little_room_is_started_or_left_as_it_is() {
    // How much its recovery writes nobody knows before: that it lacks room is no damage.
    let Some(template) = template(USUAL, Left::Killed) else { return };
    let sandbox = template.copy();
    let kept = sandbox.path().join("kept");
    fs::rename(sandbox.data(), &kept).unwrap();
    fs::create_dir(sandbox.data()).unwrap();
    let used = run(Command::new("du").args(["-sm"]).arg(&kept));
    let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    let data = sandbox.data();
    let Some(disk) = SmallDisk::mount(&data, used + 4) else { return };
    let pgdata = data.join("pgdata");
    run(Command::new("cp").arg("-a").arg(&kept).arg(&pgdata));
    let mut sandbox = sandbox;
    sandbox.set("PGDATA", pgdata.to_str().unwrap());

    let first = sandbox.output(&["init-postgresql", "--no-backup"]);
    let told = printed(&first);

    assert!(!told.contains("restore") && !told.contains("damaged_"), "{told}");
    if !first.status.success() {
        assert!(told.contains("No space left") && told.contains("free space"), "{told}");
        let size = format!("remount,size={}M", used + 100);
        run(Command::new("mount").args(["-o", &size]).arg(&data));
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
    }
    sandbox.succeed(&["maintenance", "check"]);
    sandbox.succeed(&["maintenance", "stop"]);
    drop(disk);
}

#[test]
fn a_database_whose_collation_has_another_version_now_serves_and_is_told_of() {
    // As after a move to another base image: what the indexes were sorted by has changed.
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    server.sql("postgres", "CREATE DATABASE sorted TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'");
    server.sql("sorted", "CREATE TABLE words (word text PRIMARY KEY); INSERT INTO words VALUES ('a'), ('B')");
    server.sql("postgres", "UPDATE pg_database SET datcollversion = '1.0' WHERE datname = 'sorted'");
    sandbox.succeed(&["maintenance", "stop"]);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(Server::of(&sandbox).sql("sorted", "SELECT count(*) FROM words"), "2");
    let health = sandbox.output(&["maintenance", "health"]);
    let told = printed(&health);
    assert!(told.contains("collation") && told.contains("sorted"), "{told}");
}

/// Starts PostgreSQL's own initdb, and kills it with all of its children after a time.
fn initdb_killed_after(sandbox: &Sandbox, time: Duration) {
    let data = sandbox.data();
    fs::create_dir(&data).unwrap();
    run(Command::new("chown").arg("postgres").arg(&data));
    let initdb = programs(USUAL).unwrap().join("initdb");
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &format!("{}", time.as_secs_f64()), "runuser", "-u", "postgres", "--"]);
    command.arg(initdb).args(["--username=postgres", "--auth=trust", "-D"]).arg(&data).current_dir("/");
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    // The bootstrap server outlives initdb for a moment.
    wait_until("the end of initdb's server", || !is_used(&data));
}

#[test]
fn an_initdb_that_was_killed_before_its_last_database_is_begun_anew() {
    if !has_postgresql() {
        return;
    }
    // It makes the database `postgres` last; the server in single-user mode that it works with leaves no other trace.
    let sandbox = Sandbox::empty();
    initdb_killed_after(&sandbox, Duration::from_mins(1));
    let postgres = programs(USUAL).unwrap().join("postgres");
    let mut single = Command::new("sh");
    let script = "echo 'DROP DATABASE postgres' | runuser -u postgres -- \"$0\" --single -D \"$1\" template1";
    run(single.args(["-euc", script]).arg(postgres).arg(sandbox.data()).current_dir("/"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("an initdb was cut short"), "{told}");
    assert_eq!(Server::of(&sandbox).sql("postgres", "SELECT 1"), "1");
}

#[test]
fn a_cluster_whose_database_postgres_was_dropped_is_kept() {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    for name in ["dbuser", "second", "postgres"] {
        Server::of(&sandbox).sql("template1", &format!("DROP DATABASE {name} WITH (FORCE)"));
    }
    Server::of(&sandbox).sql("template1", "CREATE TABLE kept (id int)");
    sandbox.succeed(&["maintenance", "stop"]);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(Server::of(&sandbox).sql("template1", "SELECT count(*) FROM kept"), "0");
}

/// Whether a process works in a directory.
fn is_used(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok()).any(|home| home == directory)
}

#[test]
fn an_initdb_that_was_killed_at_any_moment_is_begun_anew() {
    if !has_postgresql() {
        return;
    }
    for step in 0..12 {
        let sandbox = Sandbox::empty();
        let time = Duration::from_millis(30 + step * 70);
        initdb_killed_after(&sandbox, time);

        let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

        eprintln!("killed after {time:?}: {told}");
        let server = Server::of(&sandbox);
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'pg_class'"), "1");
        sandbox.succeed(&["maintenance", "stop"]);
        sandbox.succeed(&["maintenance", "check"]);
    }
}

#[test]
fn a_map_is_made_anew_though_the_crash_cut_off_a_table_in_the_making() {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    // Its file is on the disk, before the last checkpoint even, and no row of pg_class that counts names it.
    let making = "BEGIN; CREATE TABLE unfinished AS SELECT generate_series(1, 5000) AS i; CHECKPOINT; SELECT pg_sleep(600);";
    let mut session = feed(&server, making.to_owned());
    wait_until("the table is there", || {
        server.sql(
            "dbuser",
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(6%'",
        ) == "2"
    });
    sandbox.kill_server();
    session.wait().unwrap();
    make("rm base/*/pg_filenode.map", &sandbox.data());

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("pg_filenode.map', no relation of it was ever rewritten"), "{told}");
    assert_eq!(Server::of(&sandbox).sql("dbuser", "SELECT count(*) FROM late"), "500");
}
