//! Backup after backup of a server at work, whose tables are rewritten, emptied, dropped and made meanwhile: each one
//! restores to a consistent cluster, whatever it took over from the one before.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::hot::BALANCES;
use super::restored::restore;
use super::server::{Server, directory, has_postgresql, program, succeed};
use super::{back_up, repository};
use crate::support::extent::few_or_many;

/// What changes files in every way that PostgreSQL has, again and again.
const CHURN: [&str; 9] = [
    "VACUUM FULL pgbench_accounts",
    "CREATE TABLE passing AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) AS i",
    "TRUNCATE emptied",
    "INSERT INTO emptied SELECT generate_series(1, 5000)",
    "CREATE INDEX passing_text ON passing (text)",
    "REINDEX TABLE pgbench_tellers",
    "DROP TABLE passing",
    "CREATE DATABASE another",
    "DROP DATABASE another",
];

/// pgbench at work, ended when dropped.
struct Load(Child);

impl Load {
    fn on(server: &Server) -> Self {
        let mut pgbench = server.tool("pgbench");
        pgbench.args(["-n", "-c", "2", "-T", "3600"]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(pgbench.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the churn, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn churn(server: &Server, is_over: &AtomicBool) {
    let mut client = server.client();
    while !is_over.load(Ordering::Relaxed) {
        for statement in CHURN {
            client.batch_execute(statement).unwrap();
        }
    }
}

#[test]
fn backups_of_a_server_whose_tables_come_and_go_are_consistent() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    succeed(server.tool("pgbench").args(["-i", "-q", "-s", "2"]));
    server.execute("CREATE TABLE emptied (i int)");
    server.execute("CREATE TABLE at_rest AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i");
    let load = Load::on(&server);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&server, &is_over));
        let _over = Over(&is_over);
        let mut reused_bytes = 0;
        for round in 1..=few_or_many(5, 50) {
            let summary = back_up(&server, &repository);
            assert!(summary.is_good(), "round {round}: {summary:?}");
            reused_bytes += summary.reused_bytes;

            let restored = restore(&repository, summary.name).start();

            assert_eq!(restored.value(BALANCES), "1", "round {round}");
            assert_eq!(restored.value("SELECT sum(i) FROM at_rest"), "1250025000", "round {round}");
            succeed(restored.tool("pg_amcheck").args(["--install-missing", "--heapallindexed", "--all"]));
            restored.stop();
            succeed(program("pg_checksums").arg("--check").arg("-D").arg(restored.data()));
        }
        assert!(reused_bytes > 0, "nothing was ever taken over");
    });
    drop(load);
}
