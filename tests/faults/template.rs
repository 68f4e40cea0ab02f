//! The clusters that faults are made on: each sort is made once and copied for each test.

use super::judge::{Digest, Server};
use crate::support::sandbox::{Sandbox, run};
use crate::support::versions::{USUAL, programs};
use crate::support::wait::wait_until;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

/// How a cluster was left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Left {
    /// Stopped by `maintenance stop`.
    Clean,
    /// Killed while several sessions wrote.
    Killed,
}

/// A cluster that nothing is wrong with, and one backup of it that is older than its last rows.
pub(crate) struct Template {
    sandbox: Sandbox,
    /// What is in it.
    pub(crate) digest: Digest,
    /// What `pg_dump` says of it.
    pub(crate) dump: String,
    /// The version of its server.
    pub(crate) major: u32,
}

/// Settings without which the tests would be slow, or could not have prepared transactions. Nothing here cuts the
/// power, so that nothing needs to reach the disk.
const CONFIGURATION: &str = "\nfsync = off\nmax_prepared_transactions = 4\nautovacuum_naptime = 1h\n";

/// Where clusters are copied to: in memory where there is room for it, because copying them is most of the work.
pub(crate) fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let is_roomy = rustix::fs::statvfs(memory).is_ok_and(|facts| facts.f_bavail * facts.f_frsize > 4 << 30);
    if is_roomy { memory.to_owned() } else { std::env::temp_dir() }
}

type Slot = Arc<Mutex<Option<Arc<Template>>>>;

/// The template of a sort, made at the first call. `None` where that PostgreSQL is not there.
pub(crate) fn template(major: u32, left: Left) -> Option<Arc<Template>> {
    static MADE: LazyLock<Mutex<HashMap<(u32, Left), Slot>>> = LazyLock::new(Mutex::default);
    programs(major)?;
    let slot = Arc::clone(MADE.lock().unwrap().entry((major, left)).or_default());
    let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if slot.is_none() {
        *slot = Some(Arc::new(match left {
            Left::Clean => stopped_cleanly(major),
            Left::Killed => killed(major)?,
        }));
    }
    slot.clone()
}

impl Template {
    /// A copy to do anything with.
    pub(crate) fn copy(&self) -> Sandbox {
        let mut copy = Sandbox::copy_of(self.sandbox.path(), &place());
        choose(&mut copy, self.major);
        relink(&copy);
        copy
    }
}

/// Makes pgbox use the programs of a major version.
pub(crate) fn choose(sandbox: &mut Sandbox, major: u32) {
    if major != USUAL {
        let directory = programs(major).unwrap();
        sandbox.set("POSTGRES_BIN_DIR", directory.to_str().unwrap());
    }
}

/// Leads the tablespace of a copy to the copy of its directory.
fn relink(sandbox: &Sandbox) {
    let links = fs::read_dir(sandbox.data().join("pg_tblspc")).unwrap();
    for link in links.map(|entry| entry.unwrap().path()) {
        run(Command::new("ln").args(["-sfnT"]).arg(sandbox.path().join("space")).arg(&link));
        run(Command::new("chown").args(["-h", "postgres:postgres"]).arg(&link));
    }
}

fn stopped_cleanly(major: u32) -> Template {
    let mut sandbox = Sandbox::empty_in(&place());
    choose(&mut sandbox, major);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let configuration = sandbox.data().join("postgresql.conf");
    let text = fs::read_to_string(&configuration).unwrap() + CONFIGURATION;
    fs::write(&configuration, text).unwrap();
    sandbox.succeed(&["maintenance", "restart"]);
    let space = sandbox.path().join("space");
    fs::create_dir(&space).unwrap();
    run(Command::new("chown").arg("postgres").arg(&space));
    let server = Server::of(&sandbox);
    run(server
        .file("dbuser", "schema.sql")
        .args(["-v", "ON_ERROR_STOP=1", "-v"])
        .arg(format!("space={}", space.display())));
    server.sql("dbuser", "CHECKPOINT");
    keep_old_pages(&sandbox, &server);
    server.sql("dbuser", "UPDATE accounts SET balance = balance + 1");
    server.sql("dbuser", "VACUUM");
    sandbox.succeed(&["backup-postgresql", "create"]);
    server.sql("dbuser", "CREATE TABLE late (id int PRIMARY KEY, note text)");
    server.sql("dbuser", "INSERT INTO late SELECT id, 'late ' || id FROM generate_series(1, 500) id");
    server.sql("dbuser", "UPDATE accounts SET balance = balance + 1 WHERE id % 3 = 0");
    server.sql("dbuser", "REFRESH MATERIALIZED VIEW totals");
    let (digest, dump) = (server.digest(), dump(&server, major));
    fs::write(sandbox.path().join("relations"), relations(&server)).unwrap();
    sandbox.succeed(&["maintenance", "stop"]);
    // It was stopped so that it can be copied, not so that it stays stopped.
    fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
    Template { sandbox, digest, dump, major }
}

fn dump(server: &Server, major: u32) -> String {
    if major > USUAL { String::new() } else { server.dump() }
}

/// Keeps the file of a table as it is before all of its pages change, for pages that are put back.
fn keep_old_pages(sandbox: &Sandbox, server: &Server) {
    let path = server.sql("dbuser", "SELECT pg_relation_filepath('accounts')");
    fs::copy(sandbox.data().join(path), sandbox.path().join("old_accounts")).unwrap();
}

/// Where everything is, as shell variables: `accounts=base/16385/16391`.
fn relations(server: &Server) -> String {
    let files = "SELECT c.relname || '=' || pg_relation_filepath(c.oid) FROM pg_class c
        WHERE c.relkind IN ('r', 'i', 'S', 'm') AND c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT c.relname || '_toast=' || pg_relation_filepath(c.reltoastrelid) FROM pg_class c
        WHERE c.reltoastrelid <> 0 AND c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT c.relname || '_toast_index=' || pg_relation_filepath(i.indexrelid) FROM pg_class c
        JOIN pg_index i ON i.indrelid = c.reltoastrelid WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'database_' || datname || '=base/' || oid FROM pg_database
        UNION ALL SELECT 'tablespace=pg_tblspc/' || oid FROM pg_tablespace WHERE spcname = 'space'";
    server.sql("dbuser", files) + "\n"
}

/// The cleanly stopped one, started again and killed in the middle of work.
fn killed(major: u32) -> Option<Template> {
    let sandbox = template(major, Left::Clean)?.copy();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(&sandbox);
    let sessions = [start_writing(&server), start_changing_tables(&server)];
    wait_until("a good part of the load", || {
        server.sql("dbuser", "SELECT count(*) FROM late WHERE id > 1000").parse().unwrap_or(0) > 400
    });
    sandbox.kill_server();
    for mut session in sessions {
        session.wait().unwrap();
    }
    sandbox.remove_remains();
    let (digest, dump) = truth(&sandbox, major);
    Some(Template { sandbox, digest, dump, major })
}

/// Small transactions: rows put in, changed, locked by several, rolled back.
fn start_writing(server: &Server) -> Child {
    let one = |n: u32| {
        format!(
            "INSERT INTO late VALUES ({id}, 'written'); UPDATE accounts SET balance = {n} WHERE id = {account};
            BEGIN; DELETE FROM places WHERE id = {n}; ROLLBACK; SELECT nextval('numbers');
            {sometimes}",
            id = 1000 + n,
            account = n % 4000 + 1,
            sometimes = if n == 200 { "CHECKPOINT;" } else { "" },
        )
    };
    feed(server, (0..20_000).map(one).collect())
}

/// Tables made, rewritten, emptied and dropped, and roles.
fn start_changing_tables(server: &Server) -> Child {
    let one = |n: u32| {
        format!(
            "CREATE TABLE churn_{n} AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 50) g;
            CREATE INDEX ON churn_{n} (t); VACUUM FULL churn_{n}; CREATE ROLE churn_{n};
            DROP TABLE IF EXISTS churn_{old}; TRUNCATE nothing; DROP ROLE IF EXISTS churn_{old};\n",
            old = n.saturating_sub(3),
        )
    };
    feed(server, (4..4000).map(one).collect())
}

/// A session that works through statements until it is done or the server is gone.
pub(crate) fn feed(server: &Server, statements: String) -> Child {
    let mut psql = server.client("psql");
    psql.args(["-Xq", "-d", "dbuser"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut session = psql.spawn().unwrap();
    let mut input = session.stdin.take().unwrap();
    std::thread::spawn(move || std::io::Write::write_all(&mut input, statements.as_bytes()));
    session
}

/// What PostgreSQL itself makes of a killed cluster that nobody touched.
fn truth(killed: &Sandbox, major: u32) -> (Digest, String) {
    let mut copy = Sandbox::copy_of(killed.path(), &place());
    choose(&mut copy, major);
    relink(&copy);
    // What killed the server may not have been able to bury it: PostgreSQL takes a zombie for a live server.
    fs::remove_file(copy.data().join("postmaster.pid")).unwrap();
    let server = PlainServer::start(copy.path(), major);
    // What was truncated under the load has another file now.
    fs::write(killed.path().join("relations"), relations(&server.server)).unwrap();
    (server.server.digest(), dump(&server.server, major))
}

/// A server that PostgreSQL's own program started, without pgbox; stopped when it is dropped.
pub(crate) struct PlainServer {
    /// How to reach it.
    pub(crate) server: Server,
    stop: Command,
}

impl PlainServer {
    /// Starts one on the data directory in a directory.
    pub(crate) fn start(directory: &Path, major: u32) -> Self {
        let pg_ctl = programs(major).unwrap().join("pg_ctl");
        let command = || {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(&pg_ctl).arg("-D").arg(directory.join("data"));
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let socket = directory.join("socket");
        fs::create_dir_all(&socket).unwrap();
        run(Command::new("chown").arg("postgres").arg(&socket));
        let options = format!("-k {} -c listen_addresses= -p 5432", socket.display());
        let log = socket.join("log");
        let status = command().args(["-w", "-o", &options, "-l"]).arg(&log).arg("start").status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap_or_default());
        let mut stop = command();
        stop.args(["-m", "fast", "-w", "stop"]);
        Self { server: Server { host: socket.display().to_string(), port: "5432".to_owned() }, stop }
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        let _ = self.stop.status();
    }
}
