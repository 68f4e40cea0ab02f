//! `start-services` as a process: children, orphans, signals, exit statuses, and a real server.
#![expect(clippy::unwrap_used, reason = "a test reports a fault by panicking")]

use super::support::wait::{wait_for, wait_until};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the server of a cluster that is being made writes its number.
const STAGING_PID: &str = "data/.pgbox/new/postmaster.pid";

/// A moment that a stop may come at.
type Moment = fn(&Supervisor) -> bool;

/// A running `start-services` with directories of its own.
struct Supervisor {
    child: Child,
    directory: tempfile::TempDir,
}

/// Directories that the user `postgres` can reach, with services as `(file name, script)`.
fn directories(services: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = super::support::directory::make();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(directory.path().join("services.d")).unwrap();
    for (name, script) in services {
        let path = directory.path().join("services.d").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

impl Supervisor {
    /// One without PostgreSQL.
    fn start(services: &[(&str, &str)], command: &[&str]) -> Self {
        Self::start_with(directories(services), &[("DISABLED_SERVICES", "postgresql, off")], command)
    }

    fn start_with(directory: tempfile::TempDir, variables: &[(&str, &str)], command: &[&str]) -> Self {
        let path = |name: &str| directory.path().join(name);
        let log = fs::File::create(path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pgbox"))
            .arg("start-services")
            .args(command)
            .env("PGDATA", path("data"))
            .env("BACKUP_DIR", path("backup"))
            .env("LOG_DIR", path("logs"))
            .env("SERVICES_DIR", path("services.d"))
            .env("PGPORT", "0")
            .envs(variables.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status, once it has ended.
    #[track_caller]
    fn status(&mut self) -> i32 {
        let status = wait_for("start-services to end", || self.child.try_wait().unwrap());
        status.code().unwrap()
    }

    /// What a person needs to see of a test that fails: what it said, what the server said, and who is there.
    #[expect(clippy::print_stderr, reason = "it is shown with the failure")]
    fn tell(&self) {
        for name in ["log", "logs/postgresql.log"] {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            eprintln!("---- {name}\n{text}");
        }
        let arguments = ["-e", "-o", "pid,ppid,stat,wchan:24,etime,args"];
        let processes = Command::new("ps").args(arguments).output();
        eprintln!(
            "---- processes\n{}",
            processes.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned()
            )
        );
    }

    /// The process of its server.
    fn server(&self) -> Option<i32> {
        first_pid(&self.path("data/postmaster.pid"))
    }
}

/// The server that a `postmaster.pid` names; one that initdb runs by itself has a negative number there.
fn first_pid(path: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(path).ok()?.lines().next()?.parse().ok()?;
    (pid > 0).then_some(pid)
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::QUIT);
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
        }
    }
}

/// State and children of a process, as the kernel tells them.
fn children_of(pid: u32) -> Vec<(u32, char)> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let state = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        Some((child, stat.rsplit_once(") ")?.1.chars().next()?))
    };
    children.split_whitespace().filter_map(|child| state(child.parse().ok()?)).collect()
}

#[test]
fn the_commands_exit_status_becomes_ours() {
    let cases: [(&[&str], i32); 5] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
    ];
    for (command, expected) in cases {
        let mut supervisor = Supervisor::start(&[], command);
        assert_eq!(supervisor.status(), expected, "{command:?}: {}", supervisor.log());
    }
}

#[test]
fn a_stop_reaches_the_command_and_its_answer_counts() {
    for (signal, name, expected) in [(Signal::TERM, "TERM", 4), (Signal::INT, "INT", 5)] {
        let script = "trap 'echo told TERM; exit 4' TERM; trap 'echo told INT; exit 5' INT; echo ready; \
                      while :; do sleep 0.05; done";
        let mut supervisor = Supervisor::start(&[], &["sh", "-c", script]);
        supervisor.wait_for_log("ready");

        supervisor.signal(signal);

        assert_eq!(supervisor.status(), expected);
        assert!(supervisor.log().contains(&format!("told {name}")), "{}", supervisor.log());
    }
}

#[test]
fn without_a_command_it_waits_and_a_stop_ends_it_with_0() {
    let mut supervisor = Supervisor::start(&[("init-a", "echo a ran")], &[]);
    supervisor.wait_for_log("a ran");
    assert!(supervisor.child.try_wait().unwrap().is_none());

    supervisor.signal(Signal::TERM);

    assert_eq!(supervisor.status(), 0);
}

#[test]
fn a_command_that_does_not_listen_is_killed_when_the_time_is_over() {
    let directory = directories(&[]);
    let variables = [("DISABLED_SERVICES", "postgresql"), ("STOP_TIMEOUT", "1")];
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut supervisor = Supervisor::start_with(directory, &variables, &["sh", "-c", script]);
    supervisor.wait_for_log("ready");

    let begun = Instant::now();
    supervisor.signal(Signal::TERM);

    assert_eq!(supervisor.status(), 137);
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn services_run_in_order_except_those_that_are_disabled_and_a_failure_stops_none() {
    let services = [
        ("init-20-second.sh", "echo second"),
        ("init-10-first.sh", "echo first; exit 3"),
        ("init-off.sh", "echo never"),
        ("init-postgresql.sh", "echo never"),
        ("not-a-service", "echo never"),
    ];
    let mut supervisor = Supervisor::start(&services, &["echo", "the command"]);

    assert_eq!(supervisor.status(), 0);
    let log = supervisor.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| unreachable!("{text} in {log}"));
    assert!(place("first\n") < place("second\n") && place("second\n") < place("the command\n"));
    assert!(log.contains("the service '10-first' ended with status 3"), "{log}");
    assert!(log.contains("left the service 'off' out"), "{log}");
    assert!(!log.contains("never"), "{log}");
}

/// What lets somebody else write a service that runs as root.
#[rstest]
#[case::the_directory_is_open("chmod 777 services.d", "services.d' may be written to by everybody", false)]
#[case::the_directory_is_of_another("chown 65534 services.d", "services.d' belongs to user", false)]
#[case::a_service_is_open("chmod 757 services.d/init-b", "init-b' may be written to by everybody", true)]
#[case::a_service_is_of_another("chown 65534 services.d/init-b", "init-b' belongs to user", true)]
#[case::a_service_leads_to_where_others_write(
    "mkdir open; chmod 777 open; mv services.d/init-b open; ln -s ../open/init-b services.d/init-b",
    "/open' may be written to by everybody",
    true
)]
fn services_that_others_may_write_are_refused_by_name(
    #[case] plant: &str,
    #[case] words: &str,
    #[case] others_run: bool,
) {
    if !has_postgresql() {
        return;
    }
    let directory = directories(&[("init-a", "echo a ran"), ("init-b", "echo b ran")]);
    let planted = Command::new("sh").args(["-euc", plant]).current_dir(directory.path()).status().unwrap();
    assert!(planted.success());

    let variables = [("DISABLED_SERVICES", "postgresql, off")];
    let mut supervisor = Supervisor::start_with(directory, &variables, &["sh", "-c", "echo the command ran"]);

    assert_eq!(supervisor.status(), 0);
    let log = supervisor.log();
    assert!(log.contains(words) && log.contains("chmod go-w"), "{log}");
    assert!(!log.contains("b ran") && log.contains("the command ran"), "{log}");
    assert_eq!(log.contains("a ran"), others_run, "{log}");
}

#[test]
fn a_service_in_the_foreground_is_told_to_stop() {
    let script = "trap 'echo service stopped; exit 0' TERM; echo service ready; while :; do sleep 0.05; done";
    let mut supervisor = Supervisor::start(&[("init-app", script)], &[]);
    supervisor.wait_for_log("service ready");

    supervisor.signal(Signal::TERM);

    assert_eq!(supervisor.status(), 0);
    assert!(supervisor.log().contains("service stopped"), "{}", supervisor.log());
}

#[test]
fn orphans_become_ours_and_are_reaped() {
    let script = "(sh -c 'sleep 0.5; grep PPid /proc/$$/status; exit 3' &); echo ready; sleep 60";
    let mut supervisor = Supervisor::start(&[], &["sh", "-c", script]);
    let pid = supervisor.child.id();

    supervisor.wait_for_log("PPid:");

    assert!(supervisor.log().contains(&format!("PPid:\t{pid}\n")), "{}", supervisor.log());
    wait_until("the orphan to be reaped", || children_of(pid).len() == 1);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.status(), 143);
}

#[test]
fn the_command_keeps_standard_input_and_a_bad_setting_is_told_at_once() {
    let run = |variable: &str, value: &str| {
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_pgbox"))
            .args(["start-services", "cat"])
            .env("DISABLED_SERVICES", "postgresql")
            .env(variable, value)
            .write_stdin("a line of input")
            .assert()
    };
    run("MAX_BACKUPS", "7").code(0).stdout("a line of input");
    run("MAX_BACKUPS", "seven").code(2).stdout("");
}

/// Whether the tests that need a server can run here; where CI is set, they must.
fn has_postgresql() -> bool {
    let is_installed = Path::new("/usr/lib/postgresql").is_dir();
    assert!(is_installed || std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
    if !is_installed {
        #[expect(clippy::print_stderr, reason = "a test that did not run has to be seen")]
        {
            eprintln!("SKIPPED: PostgreSQL is not installed");
        }
    }
    is_installed
}

#[test]
fn a_server_that_was_killed_comes_back_and_a_stop_shuts_it_down_cleanly() {
    if !has_postgresql() {
        return;
    }
    let mut supervisor = Supervisor::start_with(directories(&[]), &[], &["sleep", "600"]);
    supervisor.wait_for_log("is ready for connections");
    let killed = wait_for("a server", || supervisor.server());

    // The postmaster dies the hard way; its children follow it.
    kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();

    wait_until("another server", || supervisor.server().is_some_and(|pid| pid != killed));
    wait_until("it to be ready", || supervisor.log().matches("is ready for connections").count() == 2);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.status(), 143);
    assert_eq!(supervisor.server(), None);
    let log = fs::read_to_string(supervisor.path("logs/postgresql.log")).unwrap();
    assert!(log.trim_end().ends_with("database system is shut down"), "{log}");
    assert!(log.contains("received fast shutdown request"), "{log}");
}

#[test]
fn a_server_that_a_signal_stopped_is_continued_and_shut_down_cleanly() {
    // It hears of no shutdown until it goes on.
    if !has_postgresql() {
        return;
    }
    let variables = [("STOP_TIMEOUT", "30"), ("BACKUP_INTERVAL", "off")];
    let mut supervisor = Supervisor::start_with(directories(&[]), &variables, &[]);
    supervisor.wait_for_log("is ready for connections");
    let stopped = wait_for("a server", || supervisor.server());
    kill_process(Pid::from_raw(stopped).unwrap(), Signal::STOP).unwrap();

    supervisor.signal(Signal::TERM);

    assert_eq!(supervisor.status(), 0);
    assert_eq!(supervisor.server(), None);
    assert!(supervisor.log().contains("continued it (SIGCONT)"), "{}", supervisor.log());
    let log = fs::read_to_string(supervisor.path("logs/postgresql.log")).unwrap();
    assert!(log.trim_end().ends_with("database system is shut down"), "{log}");
}

#[test]
fn a_stop_in_the_middle_of_the_first_start_leaves_what_the_next_start_completes() {
    if !has_postgresql() {
        return;
    }
    let initdb_runs: Moment = |supervisor| supervisor.path("data/.pgbox/new/PG_VERSION").exists();
    let server_in_staging_runs: Moment = |supervisor| first_pid(&supervisor.path(STAGING_PID)).is_some();
    for moment in [initdb_runs, server_in_staging_runs] {
        let mut supervisor = Supervisor::start_with(directories(&[]), &[], &[]);
        wait_until("the moment to stop", || moment(&supervisor));
        let in_staging = first_pid(&supervisor.path(STAGING_PID));
        supervisor.signal(Signal::TERM);
        assert_eq!(supervisor.status(), 0, "{}", supervisor.log());
        let is_left = in_staging.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        assert!(!is_left, "a server is left: {}", supervisor.log());

        let directory = std::mem::replace(&mut supervisor.directory, directories(&[]));
        let mut supervisor = Supervisor::start_with(directory, &[], &[]);
        supervisor.wait_for_log("is ready for connections");
        supervisor.signal(Signal::TERM);
        assert_eq!(supervisor.status(), 0, "{}", supervisor.log());
    }
}

/// The time of the first line of a log that has a text, in seconds of its day, and the line.
fn line_with<'a>(log: &'a str, text: &str) -> (f64, &'a str) {
    let line = log.lines().find(|line| line.contains(text)).unwrap();
    let clock = line.split(['T', 'Z']).nth(1).unwrap();
    (clock.split(':').fold(0.0, |time, part| time * 60.0 + part.parse::<f64>().unwrap()), line)
}

#[test]
fn the_backups_are_read_back_slowly_and_a_stop_ends_that_at_once() {
    if !has_postgresql() {
        return;
    }
    let variables = [("SCRUB_INTERVAL", "1h"), ("SCRUB_RATE", "400K")];
    let mut supervisor = Supervisor::start_with(directories(&[]), &variables, &[]);
    supervisor.wait_for_log("MiB back");
    let log = supervisor.log();
    let ((began, _), (ended, line)) = (line_with(&log, "backed up"), line_with(&log, "MiB back"));
    let words: Vec<&str> = line.split(' ').collect();
    let unit = words.iter().position(|word| *word == "MiB").unwrap();
    let read_mib: f64 = words[unit - 1].parse().unwrap();
    // The log's times are whole seconds.
    let seconds = (ended - began).rem_euclid(86400.0) + 1.0;
    assert!(read_mib * 1024.0 / seconds <= 400.0, "{read_mib} MiB were read in {seconds} s");
    let health = Command::new(env!("CARGO_BIN_EXE_pgbox"))
        .args(["maintenance", "health"])
        .env("PGDATA", supervisor.path("data"))
        .env("BACKUP_DIR", supervisor.path("backup"))
        .env("LOG_DIR", supervisor.path("logs"))
        .envs(variables)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&health.stdout);
    assert!(told.contains("not everything was read back yet; it is due by"), "{told}");
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.status(), 0, "{}", supervisor.log());

    // So slowly that one piece takes a quarter of an hour.
    let directory = std::mem::replace(&mut supervisor.directory, directories(&[]));
    let variables = [("SCRUB_INTERVAL", "1h"), ("SCRUB_RATE", "1K")];
    let mut supervisor = Supervisor::start_with(directory, &variables, &[]);
    let scrub = wait_for("the job", || {
        let children = children_of(supervisor.child.id()).into_iter().map(|(pid, _)| pid);
        let is_it = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains("scrub"))
        };
        children.into_iter().find(is_it)
    });
    let told_to_stop = Instant::now();
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.status(), 0, "{}", supervisor.log());
    assert!(told_to_stop.elapsed() < Duration::from_mins(1), "{:?}", told_to_stop.elapsed());
    assert!(!Path::new(&format!("/proc/{scrub}")).exists());
    assert!(!supervisor.log().contains("reading the backups back ended"), "{}", supervisor.log());
}

#[test]
fn standard_output_is_the_commands_alone() {
    // `docker run IMAGE echo hello` is used in scripts for what it prints.
    let directory = directories(&[("init-loud", "echo a service says something")]);
    let path = |name: &str| directory.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_pgbox"))
        .args(["start-services", "echo", "hello"])
        .env("PGDATA", path("data"))
        .env("BACKUP_DIR", path("backup"))
        .env("LOG_DIR", path("logs"))
        .env("SERVICES_DIR", path("services.d"))
        .env("PGPORT", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();

    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("a service says something"), "{told}");
}
