//! `backup-postgresql restore` to a moment that a person named: it is that moment exactly, in place and elsewhere, and
//! whatever cannot be reached is refused before anything is touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::server::Server;
use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{has_step_points, kill_at, points};
use crate::support::wait::wait_until;

const RESTORE: [&str; 2] = ["backup-postgresql", "restore"];

/// A server that serves, with a backup of before the table `marks` was made. In memory, where there is such a disk.
fn scene() -> Sandbox {
    let on_disk = Sandbox::with_backup();
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let sandbox = Sandbox::copy_of(on_disk.path(), &parent);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE marks (n int)");
    sandbox
}

/// Places in the WAL, each in the four ways to name it.
struct Mark {
    n: usize,
    time: String,
    lsn: String,
    xid: String,
    name: String,
}

/// Adds the row `n`, and marks the moment right after it.
fn mark(sandbox: &Sandbox, n: usize) -> Mark {
    let name = format!("mark-{n}");
    let statements = format!(
        "BEGIN; INSERT INTO marks VALUES ({n}); SELECT pg_current_xact_id(); COMMIT; \
         SELECT pg_create_restore_point('{name}'); SELECT pg_current_wal_insert_lsn(); SELECT clock_timestamp()"
    );
    let mut psql = sandbox.psql();
    for statement in statements.split("; ") {
        psql.args(["-c", statement]);
    }
    let told = run(psql.args(["-qAt", "-v", "ON_ERROR_STOP=1"]));
    let lines: Vec<&str> = told.lines().collect();
    let [xid, _, lsn, time] = lines.as_slice() else { panic!("{told}") };
    Mark { n, time: (*time).to_owned(), lsn: (*lsn).to_owned(), xid: (*xid).to_owned(), name }
}

/// Ends the current segment, and waits until it is archived.
fn archive_now(sandbox: &Sandbox) {
    let name = sandbox.sql("SELECT pg_walfile_name(pg_switch_wal())");
    wait_until("the segment is archived", || {
        let query = format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver");
        sandbox.sql(&query) == "t"
    });
}

fn restore(sandbox: &Sandbox, arguments: &[&str]) -> String {
    sandbox.succeed(&[&RESTORE[..], arguments, &["--yes"]].concat())
}

fn refuse(sandbox: &Sandbox, arguments: &[&str], status: i32) -> String {
    sandbox.expect_status(&[&RESTORE[..], arguments, &["--yes"]].concat(), status)
}

/// The rows in a table of the database that the sandbox has.
fn marks(sandbox: &Sandbox) -> String {
    sandbox.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM marks")
}

/// Restores into a directory of its own, starts a server there as anybody would, and asks it.
fn ask_elsewhere(sandbox: &Sandbox, directory: &str, arguments: &[&str], query: &str) -> String {
    let into = sandbox.path().join(directory);
    let place = into.display().to_string();
    sandbox.succeed(&[&RESTORE[..], arguments, &["--into", &place]].concat());
    assert!(!into.join("recovery.signal").exists() && !into.join("postmaster.pid").exists());
    let answer = ask(into.clone(), query);
    std::fs::remove_dir_all(into).unwrap();
    answer
}

fn ask(data: PathBuf, query: &str) -> String {
    let server = Server::start(data, Arc::new(super::server::directory()));
    run(server.tool("psql").args(["-XqAtd", "dbuser", "-c", query])).trim().to_owned()
}

#[test]
fn each_of_twenty_marks_is_landed_on_exactly() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = scene();
    sandbox.set("MAX_BACKUPS", "100");
    let marks: Vec<Mark> = (1..=20)
        .map(|n| {
            if n % 6 == 0 {
                archive_now(&sandbox);
            }
            if n == 11 {
                sandbox.succeed(&["backup-postgresql", "create"]);
            }
            mark(&sandbox, n)
        })
        .collect();
    let query = "SELECT count(*) || ' ' || max(n) FROM marks";
    for Mark { n, time, lsn, xid, name } in &marks {
        let target = match n % 4 {
            0 => ["--to-time", time],
            1 => ["--to-lsn", lsn],
            2 => ["--to-xid", xid],
            _ => ["--to-name", name],
        };
        assert_eq!(ask_elsewhere(&sandbox, "copy", &target, query), format!("{n} {n}"), "{target:?}");
    }

    let exclusive = ["--to-xid", &marks[6].xid, "--exclusive"];
    assert_eq!(ask_elsewhere(&sandbox, "copy", &exclusive, query), "6 6");
    assert_eq!(ask_elsewhere(&sandbox, "copy", &["--to-end"], query), "20 20");
    // The server went on, and its archive knows nothing of the copies.
    assert_eq!(sandbox.sql(query), "20 20");
    assert_eq!(archived_timelines(&sandbox), ["00000001"]);
}

fn archived_timelines(sandbox: &Sandbox) -> Vec<String> {
    let cluster = std::fs::read_dir(sandbox.backups().join("wal")).unwrap().next().unwrap().unwrap();
    let names = std::fs::read_dir(cluster.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut timelines: Vec<String> = names.filter(|name| name.len() == 8).collect();
    timelines.sort();
    timelines
}

#[test]
fn a_copy_elsewhere_archives_nothing_when_pgbox_starts_it() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    mark(&sandbox, 1);
    let copy = sandbox.path().join("copy");
    let place = copy.display().to_string();
    sandbox.succeed(&[&RESTORE[..], &["--to-end", "--into", &place]].concat());
    let before = archived_timelines(&sandbox);
    let started = sandbox.command(&["init-postgresql", "--no-backup"]).env("PGDATA", &copy).output().unwrap();
    assert!(started.status.success(), "{}", printed(&started));
    assert!(printed(&started).contains("archive_mode is set"), "{}", printed(&started));
    let port =
        std::fs::read_to_string(copy.join("postmaster.pid")).unwrap().lines().nth(3).unwrap().to_owned();
    let mut psql = Command::new("psql");
    psql.args(["-h", "/var/run/postgresql", "-p", &port, "-U", "postgres", "-d", "dbuser", "-XAtc"]);
    assert_eq!(
        run(psql.arg("SELECT pg_switch_wal() IS NOT NULL, current_setting('archive_mode')")).trim(),
        "t|off"
    );
    let stopped = sandbox.command(&["maintenance", "stop"]).env("PGDATA", &copy).output().unwrap();
    assert!(stopped.status.success(), "{}", printed(&stopped));

    assert_eq!(archived_timelines(&sandbox), before);
}

#[test]
fn a_dropped_table_is_back_while_the_server_runs_and_undo_takes_that_back() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    let before = mark(&sandbox, 1);
    sandbox.sql("DROP TABLE marks");

    let shown = sandbox.succeed(&[&RESTORE[..], &["--to-time", &before.time, "--dry-run"]].concat());
    assert!(shown.contains("nothing that the present cluster committed after"), "{shown}");
    assert!(shown.contains("in the place of the cluster in"), "{shown}");
    restore(&sandbox, &["--to-time", &before.time]);

    assert_eq!(marks(&sandbox), "1");
    let left = "SELECT count(*) FROM pg_file_settings WHERE name LIKE 'recovery%' OR name LIKE 'restore%'";
    assert_eq!(sandbox.sql(left), "0");
    sandbox.succeed(&["backup-postgresql", "undo", "--yes"]);
    assert_eq!(sandbox.sql("SELECT to_regclass('marks') IS NULL"), "t");
}

#[test]
fn twice_in_a_row_and_across_timelines_each_place_is_reached_and_two_meanings_are_refused() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    let places: Vec<Mark> = (1..=5).map(|n| mark(&sandbox, n)).collect();
    restore(&sandbox, &["--to-time", &places[2].time]);
    assert_eq!(marks(&sandbox), "1 2 3");
    let on_second = mark(&sandbox, 100);

    // The fifth mark is on the timeline that was left; on the present one it is a time before anything was committed.
    // Behind the last commit of a timeline that was left nothing tells that the WAL is whole.
    for target in
        [["--to-time", &places[4].time], ["--to-lsn", &places[4].lsn], ["--to-name", &places[4].name]]
    {
        let told = refuse(&sandbox, &target, 6);
        assert!(told.contains("add `--timeline 1`"), "{told}");
    }
    let told = refuse(&sandbox, &["--to-time", &places[4].time, "--timeline", "1"], 6);
    assert!(told.contains("`--to-end` in place of it"), "{told}");
    restore(&sandbox, &["--to-time", &places[3].time, "--timeline", "1"]);
    assert_eq!(marks(&sandbox), "1 2 3 4");
    let fifth = ["--to-name", &places[4].name, "--timeline", "1"];
    assert_eq!(ask_elsewhere(&sandbox, "copy", &fifth, "SELECT count(*) FROM marks"), "5");

    restore(&sandbox, &["--to-lsn", &places[1].lsn]);
    assert_eq!(marks(&sandbox), "1 2");
    restore(&sandbox, &["--to-xid", &on_second.xid, "--timeline", "2"]);
    assert_eq!(marks(&sandbox), "1 2 3 100");
    assert_eq!(sandbox.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "5");
    mark(&sandbox, 200);
    let end = ask_elsewhere(&sandbox, "copy", &["--to-end"], "SELECT max(n), count(*) FROM marks");
    assert_eq!(end, "200|5");
}

#[test]
fn what_cannot_be_reached_is_refused_and_everything_is_as_it_was() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    mark(&sandbox, 1);
    archive_now(&sandbox);
    let in_gap = mark(&sandbox, 2);
    let name = sandbox.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    archive_now(&sandbox);
    let behind = mark(&sandbox, 3);
    sandbox.succeed(&["maintenance", "stop"]);
    let place = sandbox.path().display();
    run(Command::new("sh")
        .args(["-c", &format!("rm {place}/data/pg_wal/{name} {place}/backups/wal/*/*/{name}-*")]));
    let before = sandbox.listing();

    for target in [["--to-time", &behind.time], ["--to-name", &in_gap.name], ["--to-xid", &behind.xid]] {
        let told = refuse(&sandbox, &target, 6);
        assert!(told.contains(&format!("'{name}' is neither archived nor in pg_wal")), "{told}");
        assert!(told.contains("goes as far as there is WAL: LSN"), "{told}");
    }
    for (target, status, words) in [
        (["--to-time", "2020-01-01T00:00:00Z"], 6, "before the end of the oldest good backup"),
        (["--to-time", "2199-01-01T00:00:00Z"], 6, "is in the future"),
        (["--to-time", "yesterday"], 2, "it must be a time such as"),
        (["--to-lsn", "0/28"], 6, "the earliest place that can be reached"),
        (["--to-lsn", "FF/28"], 6, "goes as far as there is WAL"),
        (["--to-lsn", "here"], 2, "not an LSN"),
        (["--to-xid", "1"], 2, "number of a transaction"),
        (["--to-name", "never"], 6, "goes as far as there is WAL"),
        (["--to-end", "--exclusive"], 2, "cannot be used with"),
        (["--to-end", "--timeline=9"], 6, "timeline 9 cannot be followed"),
        (["--timeline=9", "latest"], 2, "required"),
    ] {
        let told = refuse(&sandbox, &target, status);
        assert!(told.contains(words), "{target:?}: {told}");
    }
    assert_eq!(sandbox.listing(), before);
    assert!(!sandbox.data().join(".pgbox/journal.json").exists());
}

#[test]
fn a_directory_that_holds_something_or_is_of_a_cluster_is_never_restored_into() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    let full = sandbox.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("letter.txt"), "dear").unwrap();
    for place in [
        full.clone(),
        sandbox.data(),
        sandbox.data().join("sub"),
        sandbox.backups().join("sub"),
        sandbox.path().to_path_buf(),
    ] {
        let told = refuse(&sandbox, &["--to-end", "--into", &place.display().to_string()], 6);
        assert!(told.contains("cannot restore into"), "{told}");
    }
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
    assert!(!sandbox.data().join("sub").exists() && !sandbox.backups().join("sub").exists());
}

#[test]
fn wal_that_would_write_into_a_tablespace_of_the_present_cluster_is_not_replayed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    let before = mark(&sandbox, 1);
    let tablespace = sandbox.path().join("tablespace");
    std::fs::create_dir(&tablespace).unwrap();
    run(Command::new("chown").arg("postgres").arg(&tablespace));
    sandbox.sql(&format!("CREATE TABLESPACE other LOCATION '{}'", tablespace.display()));
    sandbox.sql("CREATE TABLE there TABLESPACE other AS SELECT 1 AS n");
    let place = sandbox.path().join("copy").display().to_string();

    for into in [&[][..], &["--into", &place]] {
        let told = refuse(&sandbox, &[&["--to-end"], into].concat(), 6);
        assert!(told.contains("a tablespace was made at"), "{told}");
    }

    let query = "SELECT count(*) FROM marks";
    assert_eq!(ask_elsewhere(&sandbox, "copy", &["--to-lsn", &before.lsn], query), "1");
    assert_eq!(sandbox.sql("SELECT n FROM there"), "1");
}

#[test]
fn a_lost_cluster_comes_back_to_the_end_of_its_archive_or_to_a_moment_before() {
    if !has_postgresql() {
        return;
    }
    let sandbox = scene();
    let first = mark(&sandbox, 1);
    mark(&sandbox, 2);
    archive_now(&sandbox);
    mark(&sandbox, 3);
    sandbox.kill_server();
    std::fs::remove_dir_all(sandbox.data()).unwrap();

    let query = "SELECT count(*) FROM marks";
    assert_eq!(ask_elsewhere(&sandbox, "copy", &["--to-time", &first.time], query), "1");
    restore(&sandbox, &["--to-end"]);
    assert_eq!(marks(&sandbox), "1 2");
}

#[test]
fn a_server_that_does_not_get_to_the_target_never_serves_and_the_old_rows_are_back() {
    // The target is put out of reach between the exchange of the clusters and the start.
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = scene();
    let moment = mark(&sandbox, 1);
    mark(&sandbox, 2);
    let to = [&RESTORE[..], &["--to-lsn", &moment.lsn, "--yes"]].concat();
    let number = {
        let sandbox = scene();
        let moment = mark(&sandbox, 1);
        mark(&sandbox, 2);
        let names = points(&sandbox, &[&RESTORE[..], &["--to-lsn", &moment.lsn, "--yes"]].concat());
        names.iter().position(|name| name == "taken over").unwrap() + 1
    };
    kill_at(&sandbox, number, &to);
    let signal = sandbox.data().join("recovery.signal");
    let text = std::fs::read_to_string(&signal).unwrap();
    assert!(text.contains(&moment.lsn), "{text}");
    std::fs::write(&signal, text.replace(&moment.lsn, "FF/28")).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("recovery ended before configured recovery target was reached"), "{told}");
    assert_eq!(marks(&sandbox), "1 2");
}

#[test]
fn killed_at_any_step_in_place_it_comes_to_the_old_rows_or_those_of_the_moment() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let scene = || {
        let sandbox = scene();
        let moment = mark(&sandbox, 1);
        mark(&sandbox, 2);
        (sandbox, moment)
    };
    let (sandbox, moment) = scene();
    let arguments = |lsn: &str| {
        [&RESTORE[..], &["--to-lsn", lsn, "--yes"]]
            .concat()
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<String>>()
    };
    let to = arguments(&moment.lsn);
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let all = points(&sandbox, &to);
    let proven = all.iter().position(|point| point == "proven").unwrap();
    for number in (1..=proven + 1).filter(|number| is_wanted(*number, 6)) {
        let (sandbox, moment) = scene();
        let to = arguments(&moment.lsn);
        kill_at(&sandbox, number, &to.iter().map(String::as_str).collect::<Vec<&str>>());

        sandbox.succeed(&["init-postgresql", "--no-backup"]);

        let rows = marks(&sandbox);
        assert!(rows == "1" || rows == "1 2", "killed at {}: {rows}", all[number - 1]);
        assert!(!sandbox.data().join(".pgbox/journal.json").exists());
    }
}

#[test]
fn killed_at_any_step_elsewhere_the_same_command_makes_the_copy_whole() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = scene();
    let moment = mark(&sandbox, 1);
    mark(&sandbox, 2);
    let copy = sandbox.path().join("copy");
    let place = copy.display().to_string();
    let to = [&RESTORE[..], &["--to-lsn", &moment.lsn, "--into", &place]].concat();
    let count = points(&sandbox, &to).len();
    assert!(count >= 5, "{count}");
    std::fs::remove_dir_all(&copy).unwrap();
    for number in (1..=count).filter(|number| is_wanted(*number, 3)) {
        kill_at(&sandbox, number, &to);

        if number < count || !copy.join("PG_VERSION").exists() {
            sandbox.succeed(&to);
        }

        assert_eq!(ask(copy.clone(), "SELECT count(*) FROM marks"), "1", "killed at point {number}");
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert_eq!(marks(&sandbox), "1 2");
}
