//! A PostgreSQL server of a test's own, on a socket in its own directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use postgres::{Client, NoTls};
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Whether tests that need a server can run here; where they cannot, that is said, and a failure where `CI` is set.
pub(crate) fn has_postgresql() -> bool {
    if Path::new(PROGRAMS).join("postgres").exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "there is no PostgreSQL 15 in {PROGRAMS}");
    eprintln!("SKIPPED: there is no PostgreSQL 15 in {PROGRAMS}");
    false
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program of PostgreSQL's, run as the user `postgres` if we are root: the server refuses to be root's.
pub(crate) fn program(name: &str) -> Command {
    let path = Path::new(PROGRAMS).join(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir("/").env_remove("PGDATA");
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}\n{}", String::from_utf8_lossy(&stderr));
    text
}

/// Gives a tree to the user that the server runs as.
pub(crate) fn give_to_server(path: &Path) {
    if is_root() {
        succeed(Command::new("chown").args(["-R", "postgres:postgres"]).arg(path));
    }
}

/// A directory that the server's user can reach and write.
pub(crate) fn directory() -> TempDir {
    let directory = crate::support::directory::make();
    give_to_server(directory.path());
    directory
}

/// One initdb for all tests that run at one time: it takes longer than most of them. The last to hold it removes it.
fn template() -> Arc<TempDir> {
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut template = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = template.upgrade() {
        return directory;
    }
    let directory = Arc::new(directory());
    let options = ["--no-sync", "--data-checksums", "--auth=trust", "--username=postgres", "--encoding=UTF8"];
    let data = directory.path().join("data");
    succeed(program("initdb").args(options).arg("--no-locale").arg("--pgdata").arg(data));
    *template = Arc::downgrade(&directory);
    directory
}

/// A server, stopped when dropped, by a panic too.
pub(crate) struct Server {
    data: PathBuf,
    sockets: TempDir,
    /// What the cluster lies in, or was copied from, where nobody else keeps it.
    _kept: Arc<TempDir>,
}

impl Server {
    /// A new cluster below `directory`, and a server on it.
    pub(crate) fn new(directory: &Path) -> Self {
        let data = directory.join("data");
        let template = template();
        succeed(Command::new("cp").arg("-a").arg(template.path().join("data")).arg(&data));
        Self::start(data, template)
    }

    /// A server on an existing cluster, for which `kept` stays.
    pub(crate) fn start(data: PathBuf, kept: Arc<TempDir>) -> Self {
        let server = Self { data, sockets: directory(), _kept: kept };
        server.start_again();
        server
    }

    /// Starts the server after [`Server::stop`].
    pub(crate) fn start_again(&self) {
        let sockets = self.sockets.path().display();
        let options = format!("-c listen_addresses='' -c unix_socket_directories={sockets} -c fsync=off");
        let log = self.sockets.path().join("log");
        let mut command = program("pg_ctl");
        command.arg("start").arg("-w").arg("-D").arg(&self.data).arg("-l").arg(&log).arg("-o").arg(options);
        let status = command.stdout(std::process::Stdio::null()).status().unwrap();
        let log = std::fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "the server did not start:\n{log}");
    }

    /// Stops it cleanly.
    pub(crate) fn stop(&self) {
        succeed(program("pg_ctl").args(["stop", "-w", "-m", "fast", "-D"]).arg(&self.data));
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn client(&self) -> Client {
        let host = self.sockets.path().display();
        Client::connect(&format!("host={host} user=postgres dbname=postgres"), NoTls).unwrap()
    }

    pub(crate) fn execute(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap();
    }

    /// The only value of a query.
    pub(crate) fn value(&self, query: &str) -> String {
        let rows = self.client().simple_query(query).unwrap();
        let value = rows.iter().find_map(|row| match row {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        value.unwrap_or_else(|| panic!("{query} gave nothing")).to_owned()
    }

    /// A program of PostgreSQL's that talks to this server.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = program(name);
        command.env("PGHOST", self.sockets.path()).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; one that is stopped already is no such.
        let _ = program("pg_ctl").args(["stop", "-w", "-m", "immediate", "-D"]).arg(&self.data).output();
    }
}
