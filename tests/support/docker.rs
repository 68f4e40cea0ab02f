//! Containers of the image under test, with their volumes in a directory of the host.
//!
//! `scripts/test` builds the image once, as `pgbox-test`; nothing here builds one. Every container is removed by
//! its id when its value is dropped, by a panic too, and carries the label `pgbox-test` with this process's number.

use std::process::Output;
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::TempDir;

use super::terminal::Terminal;
use super::wait::wait_until;

/// What `scripts/test` builds; `PGBOX_TEST_IMAGE` names another.
const USUAL_IMAGE: &str = "pgbox-test";
/// No call of the docker program takes longer, or it hangs.
const CALL_TIMEOUT: Duration = Duration::from_mins(3);
const DATA_DIRECTORY: &str = "/var/lib/postgresql-data/pgdata";

fn image() -> &'static str {
    static NAME: LazyLock<String> =
        LazyLock::new(|| std::env::var("PGBOX_TEST_IMAGE").unwrap_or_else(|_| USUAL_IMAGE.to_owned()));
    &NAME
}

/// The three directories of the host that a container keeps its data, logs and backups in.
pub(crate) struct Volumes {
    root: TempDir,
}

impl Volumes {
    /// New, empty volumes; none where no engine answers or the image is not there, which skips the test, visibly.
    ///
    /// # Panics
    /// Where `CI` is set, a missing engine or image is a failure.
    pub(crate) fn new() -> Option<Self> {
        let inspected = docker(&["image", "inspect", "--format", "{{.Id}}", image()]);
        if inspected.is_ok_and(|output| output.status.success()) {
            let root = super::directory::make();
            return Some(Self { root });
        }
        let message = format!("no Docker engine with the image '{}' (scripts/test makes both)", image());
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("SKIPPED: {message}");
        None
    }

    fn mounts(&self) -> Vec<String> {
        [
            ("data", "/var/lib/postgresql-data"),
            ("logs", "/var/log/postgresql"),
            ("backups", "/var/lib/postgresql-backup"),
        ]
        .map(|(name, target)| format!("--volume={}:{target}", self.root.path().join(name).display()))
        .to_vec()
    }

    /// The data directory, as the host sees it.
    pub(crate) fn data_directory(&self) -> std::path::PathBuf {
        self.root.path().join("data/pgdata")
    }

    /// A container on these volumes, started as the image says.
    pub(crate) fn start(&self) -> Container {
        self.start_with(&[], &[])
    }

    /// The same with more options for `docker create`, and a command for the entry point.
    pub(crate) fn start_with(&self, options: &[&str], command: &[&str]) -> Container {
        let label = format!("--label=pgbox-test={}", std::process::id());
        let environment = format!("--env=PGDATA={DATA_DIRECTORY}");
        let mounts = self.mounts();
        let mut arguments = vec!["create", &label, &environment];
        arguments.extend(mounts.iter().map(String::as_str));
        arguments.extend(options);
        arguments.push(image());
        arguments.extend(command);
        // Made and started in two steps, so that one that cannot be started is removed, too.
        let container = Container { id: succeed(&arguments).trim().to_owned() };
        container.start();
        container
    }

    /// Runs a shell script as root beside the volumes, with no server and nothing of ours running; `$PGDATA` is set.
    pub(crate) fn shell(&self, script: &str) -> String {
        let environment = format!("--env=PGDATA={DATA_DIRECTORY}");
        let mounts = self.mounts();
        let label = format!("--label=pgbox-test={}", std::process::id());
        let mut arguments = vec!["run", "--rm", "--network=none", &label, &environment, "--entrypoint=sh"];
        arguments.extend(mounts.iter().map(String::as_str));
        arguments.extend([image(), "-euc", script]);
        succeed(&arguments)
    }

    /// The control file's own word for how the server was left: `shut down` after a clean stop.
    pub(crate) fn cluster_state(&self) -> String {
        let report = self.shell("pg_controldata \"$PGDATA\"");
        let state = report.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
        state.unwrap_or_else(|| panic!("no cluster state in: {report}")).trim().to_owned()
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        // What the server wrote belongs to another user: only root can remove it, and this may not be root.
        let volume = format!("--volume={}:/volumes", self.root.path().display());
        let script = "rm -rf /volumes/*";
        let _ = docker(&["run", "--rm", "--network=none", &volume, "--entrypoint=sh", image(), "-c", script]);
    }
}

/// A container, running or not.
pub(crate) struct Container {
    id: String,
}

impl Container {
    /// Runs a program in it as root, as `docker exec` does, to its end.
    pub(crate) fn exec(&self, command: &[&str]) -> Output {
        self.exec_with(&[], command)
    }

    /// The same with options for `docker exec`.
    pub(crate) fn exec_with(&self, options: &[&str], command: &[&str]) -> Output {
        docker(&self.exec_arguments(options, command)).unwrap()
    }

    /// Runs a program in it, which must succeed, and returns its standard output.
    #[track_caller]
    pub(crate) fn run(&self, command: &[&str]) -> String {
        expect_success(command, &self.exec(command))
    }

    /// Starts a program in it and leaves it running.
    #[track_caller]
    pub(crate) fn spawn(&self, command: &[&str]) {
        succeed(&self.exec_arguments(&["--detach"], command));
    }

    /// Runs a program in it at a terminal.
    pub(crate) fn terminal(&self, command: &[&str]) -> Terminal {
        Terminal::run("docker", &self.exec_arguments(&["-it"], command))
    }

    /// Runs a program in it that is fed from a pipe, in a thread of its own, and returns what it wrote until its end.
    pub(crate) fn pipe_in_background(
        &self,
        input: String,
        command: &[&str],
    ) -> std::thread::JoinHandle<String> {
        let arguments: Vec<String> =
            self.exec_arguments(&["--interactive"], command).into_iter().map(str::to_owned).collect();
        std::thread::spawn(move || {
            let output =
                assert_cmd::Command::new("docker").args(arguments).write_stdin(input).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    fn exec_arguments<'a>(&'a self, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["exec"];
        arguments.extend(options);
        arguments.push(&self.id);
        arguments.extend(command);
        arguments
    }

    /// What SQL returns, unaligned, one row a line. As the superuser, on the socket.
    #[track_caller]
    pub(crate) fn sql(&self, query: &str) -> String {
        let output = self.try_sql(query);
        expect_success(&["psql", query], &output).trim().to_owned()
    }

    fn try_sql(&self, query: &str) -> Output {
        let psql =
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", query];
        self.exec_with(&["--user=postgres"], &psql)
    }

    /// Makes a backup, after the one that every first start makes by itself: two at once are refused.
    #[track_caller]
    pub(crate) fn back_up(&self) {
        wait_until("a backup to be made", || {
            let output = self.exec(&["backup-postgresql", "create"]);
            assert!(matches!(output.status.code(), Some(0 | 5)), "the backup failed: {output:?}");
            output.status.success()
        });
    }

    /// Waits until the server takes connections as the application makes them: over TCP, by password.
    #[track_caller]
    pub(crate) fn wait_until_ready(&self) {
        let psql = ["psql", "-XAtq", "-h", "127.0.0.1", "-U", "dbuser", "-d", "postgres", "-c", "SELECT 1"];
        wait_until(&format!("the server in container {} to accept connections", self.id), || {
            assert!(self.is_running(), "the container has ended with {}: {}", self.exit_status(), self.log());
            self.exec_with(&["--env=PGPASSWORD=password"], &psql).status.success()
        });
    }

    /// Everything that it has written to its standard streams.
    pub(crate) fn log(&self) -> String {
        let output = docker(&["logs", &self.id]).unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// `docker stop`, which kills what has not stopped after ten seconds.
    #[track_caller]
    pub(crate) fn stop(&self) {
        succeed(&["stop", &self.id]);
    }

    /// `docker stop` with a grace period of its own, in whole seconds.
    #[track_caller]
    pub(crate) fn stop_within(&self, grace_period: Duration) {
        succeed(&["stop", "--time", &grace_period.as_secs().to_string(), &self.id]);
    }

    /// `docker kill`: no warning.
    #[track_caller]
    pub(crate) fn kill(&self) {
        succeed(&["kill", &self.id]);
    }

    /// Starts it, for the first time or again after its end.
    #[track_caller]
    pub(crate) fn start(&self) {
        succeed(&["start", &self.id]);
    }

    /// Waits for its end, and returns its exit status.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) -> i32 {
        wait_until(&format!("the end of container {}", self.id), || !self.is_running());
        self.exit_status()
    }

    /// Whether its first process lives.
    pub(crate) fn is_running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    /// The exit status of its first process.
    pub(crate) fn exit_status(&self) -> i32 {
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    /// What its HEALTHCHECK found: starting, healthy or unhealthy.
    pub(crate) fn health(&self) -> String {
        self.inspect("{{.State.Health.Status}}")
    }

    fn inspect(&self, format: &str) -> String {
        succeed(&["container", "inspect", "--format", format, &self.id]).trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of container {}:\n{}", self.id, self.log());
        }
        let _ = docker(&["rm", "--force", "--volumes", &self.id]);
    }
}

fn docker(arguments: &[&str]) -> std::io::Result<Output> {
    assert_cmd::Command::new("docker").args(arguments).timeout(CALL_TIMEOUT).output()
}

#[track_caller]
fn succeed(arguments: &[&str]) -> String {
    expect_success(arguments, &docker(arguments).unwrap())
}

#[track_caller]
fn expect_success(what: &[&str], output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what:?} ended with {}:\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}
