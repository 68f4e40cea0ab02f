//! Hot backups: of a busy server, of one that nothing changes, of one that goes away.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use pgbox::execute::backup::CreateOutcome;
use pgbox::pg::control_file::ControlFile;
use pgbox::progress::{Progress, Silent};

use super::restored::restore;
use super::server::{Server, directory, has_postgresql, program, succeed};
use super::{back_up, repository, try_backup};

/// What pgbench keeps equal in every committed state.
pub(super) const BALANCES: &str = "SELECT count(DISTINCT total) FROM (SELECT sum(abalance) AS total FROM pgbench_accounts \
     UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT sum(tbalance) FROM pgbench_tellers \
     UNION ALL SELECT sum(delta) FROM pgbench_history) AS totals";

#[test]
fn a_backup_of_a_busy_server_restores_to_a_consistent_cluster() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    succeed(server.tool("pgbench").args(["-i", "-q", "-s", "5"]));
    let mut load = server.tool("pgbench");
    let mut load = load.args(["-n", "-c", "4", "-T", "60"]).stdout(Stdio::null()).spawn().unwrap();
    let first = back_up(&server, &repository);
    server.execute("CREATE TABLE later AS SELECT generate_series(1, 1000)");
    server.execute("VACUUM FULL pgbench_branches");
    let second = back_up(&server, &repository);
    load.kill().unwrap();
    load.wait().unwrap();
    drop(server);

    for summary in [first, second] {
        assert!(summary.is_good(), "{summary:?}");
        let restored = restore(&repository, summary.name).start();
        assert_eq!(restored.value(BALANCES), "1");
        assert_ne!(restored.value("SELECT count(*) FROM pgbench_history"), "0");
        succeed(restored.tool("pg_amcheck").args(["--install-missing", "--heapallindexed", "--all"]));
        restored.stop();
        succeed(program("pg_checksums").arg("--check").arg("-D").arg(restored.data()));
    }
}

#[test]
fn a_second_backup_stores_little_and_an_unchanged_cluster_none() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    server.execute("CREATE TABLE t AS SELECT i, md5(i::text) AS text FROM generate_series(1, 100000) AS i");
    // Sets all hint bits, which readers otherwise set one page at a time.
    server.execute("VACUUM");
    let first = back_up(&server, &repository);
    let second = back_up(&server, &repository);
    assert!(
        second.stored_bytes * 20 < first.stored_bytes,
        "{} after {}",
        second.stored_bytes,
        first.stored_bytes
    );

    // The same after a restart, which rewrites files without changing them.
    let unchanged = CreateOutcome::Unchanged { newest: second.name };
    assert_eq!(try_backup(&server, &repository, false, &Silent).unwrap(), unchanged);
    server.stop();
    server.start_again();
    assert_eq!(try_backup(&server, &repository, false, &Silent).unwrap(), unchanged);

    server.execute("UPDATE t SET text = 'changed' WHERE i = 1");
    let outcome = try_backup(&server, &repository, false, &Silent).unwrap();
    assert!(matches!(outcome, CreateOutcome::Created(_)), "{outcome:?}");
    assert_eq!(repository.backups().unwrap().len(), 3);
}

#[test]
fn a_changed_setting_alone_is_a_change() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    back_up(&server, &repository);

    server.execute("ALTER SYSTEM SET work_mem = '5MB'");

    let outcome = try_backup(&server, &repository, false, &Silent).unwrap();
    assert!(matches!(outcome, CreateOutcome::Created(_)), "{outcome:?}");
}

#[test]
fn a_summary_tells_what_the_control_file_and_the_label_do() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));

    let summary = back_up(&server, &repository);

    let control = std::fs::read(server.data().join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&control).unwrap();
    assert_eq!(summary.system_identifier, Some(control.system_identifier));
    assert_eq!(summary.checkpoint_lsn, Some(control.checkpoint));
    assert_eq!(repository.find(summary.name).unwrap(), summary);
    let reader = repository.reader(summary.name).unwrap();
    let label = reader.read_file("backup_label", 4096).unwrap().unwrap();
    let label = String::from_utf8(label).unwrap();
    assert!(label.starts_with(&format!("START WAL LOCATION: {} ", summary.start_lsn.unwrap())), "{label}");
    assert!(reader.entry("pg_notify").is_some() && reader.entry("pg_wal/archive_status").is_some());
    assert!(reader.entry("postmaster.pid").is_none());
}

#[test]
fn tablespaces_and_unlogged_tables_come_back() {
    if !has_postgresql() {
        return;
    }
    let (data, space) = (directory(), directory());
    let (server, repository) = (Server::new(data.path()), repository(data.path()));
    server.execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.path().display()));
    server.execute("CREATE TABLE far TABLESPACE fast AS SELECT generate_series(1, 1000) AS i");
    server.execute("CREATE UNLOGGED TABLE light AS SELECT generate_series(1, 1000) AS i");
    let summary = back_up(&server, &repository);
    server.stop();
    drop((server, space));

    let restored = restore(&repository, summary.name);

    assert_eq!(restored.report.tablespaces.len(), 1);
    let server = restored.start();
    assert_eq!(server.value("SELECT sum(i) FROM far"), "500500");
    assert_eq!(server.value("SELECT count(*) FROM light"), "0");
    server.execute("INSERT INTO light VALUES (1); CREATE TABLE more TABLESPACE fast AS SELECT 1");
}

/// Ends all other sessions as soon as the first bytes were copied.
struct Interruption<'a> {
    server: &'a Server,
    is_done: AtomicBool,
}

impl Progress for Interruption<'_> {
    fn begin(&self, _stage: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {
        if !self.is_done.swap(true, Ordering::SeqCst) {
            self.server.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
            );
        }
    }
    fn note(&self, _text: &str) {}
    fn end(&self) {}
}

#[test]
fn a_backup_whose_session_dies_fails_and_leaves_nothing_listed() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let interruption = Interruption { server: &server, is_done: AtomicBool::new(false) };

    let error = try_backup(&server, &repository, true, &interruption).unwrap_err();

    assert!(format!("{error:#}").contains("backup"), "{error:#}");
    assert!(repository.backups().unwrap().is_empty());
    assert_eq!(server.value("SELECT count(*) FROM pg_replication_slots"), "0");
    assert!(back_up(&server, &repository).is_good());
}

#[test]
fn the_session_can_be_used_on_and_no_slot_stays() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    back_up(&server, &repository);
    let outcome = try_backup(&server, &repository, false, &Silent).unwrap();
    assert!(matches!(outcome, CreateOutcome::Unchanged { .. }), "{outcome:?}");
    assert_eq!(server.value("SELECT count(*) FROM pg_replication_slots"), "0");
}
