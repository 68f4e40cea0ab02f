//! A data directory, a backup directory and a log directory of a test's own, and pgbox run on them.

use super::directory;
use super::remains::Remains;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Whether tests that need a server can run here; where they cannot, that is said, and a failure where `CI` is set.
pub(crate) fn has_postgresql() -> bool {
    let is_there = Path::new(PROGRAMS).join("postgres").exists() && rustix::process::geteuid().is_root();
    assert!(
        is_there || std::env::var_os("CI").is_none(),
        "PostgreSQL 15 is not installed, or we are not root"
    );
    if !is_there {
        eprintln!("SKIPPED: PostgreSQL 15 is not installed, or we are not root");
    }
    is_there
}

/// Directories of a test's own; the server that runs in them is stopped when it is dropped, by a panic too.
pub(crate) struct Sandbox {
    directory: TempDir,
    variables: Vec<(String, String)>,
    /// Of servers that were killed.
    remains: Mutex<Vec<Remains>>,
}

/// A cluster with the table `kept` of 100 rows, cleanly stopped, and one backup; made once, copied for each test.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let directory = TEMPLATE.get_or_init(|| {
        let sandbox = Sandbox::empty();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox
            .sql("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 100)");
        sandbox.succeed(&["backup-postgresql", "create"]);
        sandbox.succeed(&["maintenance", "stop"]);
        std::fs::remove_file(sandbox.data().join(".pgbox/stopped")).unwrap();
        let copy = directory::make();
        let source = format!("{}/.", sandbox.directory.path().display());
        assert!(Command::new("cp").arg("-a").arg(source).arg(copy.path()).status().unwrap().success());
        copy
    });
    directory.path()
}

impl Sandbox {
    /// Nothing in it: no data directory, no backups.
    pub(crate) fn empty() -> Self {
        Self::empty_in(&std::env::temp_dir())
    }

    /// The same below another directory than the usual one.
    pub(crate) fn empty_in(parent: &Path) -> Self {
        let directory = directory::make_in(parent);
        // The server's user must be able to pass through.
        run(Command::new("chmod").arg("755").arg(directory.path()));
        Self { directory, variables: Vec::new(), remains: Mutex::default() }
    }

    /// A stopped cluster with the table `kept` of 100 rows, and a backup of it.
    pub(crate) fn with_backup() -> Self {
        Self::copy_of(template(), &std::env::temp_dir())
    }

    /// What is in another sandbox's directory, where no server runs, below a directory.
    pub(crate) fn copy_of(directory: &Path, parent: &Path) -> Self {
        let sandbox = Self::empty_in(parent);
        let source = format!("{}/.", directory.display());
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(source).arg(sandbox.directory.path()));
        sandbox
    }

    /// A stopped cluster with the table `kept` of 100 rows, and no backup.
    pub(crate) fn without_backup() -> Self {
        let sandbox = Self::with_backup();
        sandbox.forget_backups();
        sandbox
    }

    /// Makes it a cluster that never was backed up.
    pub(crate) fn forget_backups(&self) {
        std::fs::remove_dir_all(self.backups()).unwrap();
        let noted = self.data().join(".pgbox/repository");
        if noted.exists() {
            std::fs::remove_file(noted).unwrap();
        }
    }

    /// Sets a variable for every command from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn backups(&self) -> PathBuf {
        self.directory.path().join("backups")
    }

    /// A command of pgbox, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgbox"));
        command
            .args(arguments)
            .env("PGDATA", self.data())
            .env("BACKUP_DIR", self.backups())
            .env("LOG_DIR", self.directory.path().join("log"))
            .env("PGPORT", "0")
            .env("RETRY_DELAY", "1")
            .env("START_RETRIES", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; what it printed, both streams.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        self.expect_status(arguments, 0)
    }

    /// Runs a command that must end with a status; what it printed, both streams.
    #[track_caller]
    pub(crate) fn expect_status(&self, arguments: &[&str], status: i32) -> String {
        let output = self.output(arguments);
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}:\n{text}");
        text
    }

    /// The postmaster's process id by its own pid file, if there is one.
    pub(crate) fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn pid_file_line(&self, number: usize) -> String {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        text.lines().nth(number).unwrap().to_owned()
    }

    /// The port that the server's pid file names.
    pub(crate) fn port(&self) -> String {
        self.pid_file_line(3)
    }

    /// The directory of the server's socket, which each build of PostgreSQL has a default of its own for.
    pub(crate) fn socket_directory(&self) -> String {
        self.pid_file_line(4)
    }

    /// Runs SQL as the superuser, through the socket.
    #[track_caller]
    pub(crate) fn sql(&self, statement: &str) -> String {
        let mut psql = self.psql();
        run(psql.args(["-v", "ON_ERROR_STOP=1", "-Atc", statement])).trim().to_owned()
    }

    /// Takes what tells which transactions were committed from the stopped cluster, and the seal, by which it could be
    /// worked out from the WAL: then only a backup brings it back.
    pub(crate) fn lose_transaction_status(&self) {
        std::fs::remove_file(self.data().join("pg_xact/0000")).unwrap();
        let seal = self.data().join(".pgbox/seal");
        if seal.exists() {
            std::fs::remove_file(seal).unwrap();
        }
    }

    /// `psql` as the superuser, through the socket.
    pub(crate) fn psql(&self) -> Command {
        let database = self.variable("POSTGRES_DB").unwrap_or("dbuser");
        let mut psql = Command::new(Path::new(PROGRAMS).join("psql"));
        psql.args([
            "-h",
            &self.socket_directory(),
            "-p",
            &self.port(),
            "-U",
            "postgres",
            "-d",
            database,
            "--no-psqlrc",
        ]);
        psql
    }

    /// A connection over TCP, as the application makes it.
    pub(crate) fn application_login(&self, user: &str, password: &str, database: &str) -> Output {
        Command::new(Path::new(PROGRAMS).join("psql"))
            .args(["-h", "127.0.0.1", "-p", &self.port(), "-U", user, "-d", database, "-Atc", "SELECT 1"])
            .env("PGPASSWORD", password)
            .output()
            .unwrap()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Kills the postmaster the hard way, and waits until all of the server is gone.
    pub(crate) fn kill_server(&self) {
        let pid_file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = self.postmaster().unwrap();
        self.remains.lock().unwrap().push(Remains::of(pid, &pid_file));
        signal(pid, Signal::KILL).unwrap();
        super::wait::wait_until("the lock is free", || {
            let lock = self.data().join(".pgbox/lock");
            Command::new("flock").args(["-n"]).arg(lock).arg("true").status().unwrap().success()
        });
    }

    /// Removes what killed servers left outside their data directory, as the end of a container does.
    pub(crate) fn remove_remains(&self) {
        self.remains.lock().unwrap().clear();
    }

    /// The names of all backups, newest first.
    pub(crate) fn backup_names(&self, prefix: &str) -> Vec<String> {
        let output = self.output(&["backup-postgresql", "list", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let names = list.as_array().unwrap().iter().map(|backup| backup["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Every path below the data directory with what a change would show in; locks and the log apart.
    pub(crate) fn listing(&self) -> String {
        let format = "%P %y %m %u %s %T@\\n";
        let mut find = Command::new("find");
        find.arg(self.data()).args(["-mindepth", "1", "-not", "-name", "*lock", "-printf", format]);
        let mut lines: Vec<String> = run(&mut find).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Some(pid) = self.postmaster() else { return };
        let home = std::fs::read_link(format!("/proc/{pid}/cwd"));
        if home.is_ok_and(|home| home.starts_with(self.directory.path())) {
            // Gone already is as good.
            let _ = signal(pid, Signal::QUIT);
            super::wait::wait_until("the server is gone", || {
                !Path::new(&format!("/proc/{pid}/cwd")).exists()
            });
        }
    }
}

/// Sends a signal; a bare machine has no `kill` program.
pub(crate) fn signal(pid: i32, signal: Signal) -> rustix::io::Result<()> {
    kill_process(Pid::from_raw(pid).unwrap(), signal)
}

/// What a command printed, both streams.
pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, printed(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
