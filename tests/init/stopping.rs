//! Stopping a server of which a process does not react: it takes a bounded time, and costs no row.

use crate::support::sandbox::{Sandbox, has_postgresql, signal};
use crate::support::wait::wait_for;
use pgbox::cluster::server_stop::{self, Stopped, Stopping};
use pgbox::progress::Silent;
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which process of a server hangs.
#[derive(Clone, Copy, Debug)]
enum Hanging {
    Checkpointer,
    Backend,
    Postmaster,
}

/// A backend in a transaction, and what its client is.
fn open_transaction(sandbox: &Sandbox) -> (i32, Child) {
    let script = "BEGIN; INSERT INTO kept VALUES (-1); SELECT pg_sleep(600)";
    let client = sandbox.psql().args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let find = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%(600)' AND pid <> pg_backend_pid()";
    let pid = wait_for("a backend in a transaction", || sandbox.sql(find).parse().ok());
    (pid, client.unwrap())
}

fn checkpointer(sandbox: &Sandbox) -> i32 {
    sandbox.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").parse().unwrap()
}

#[test]
fn a_server_with_a_stopped_process_is_continued_and_shuts_down_cleanly() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    sandbox.set("STOP_TIMEOUT", "20s");
    for hanging in [Hanging::Checkpointer, Hanging::Backend, Hanging::Postmaster] {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        let (backend, mut client) = open_transaction(&sandbox);
        let pid = match hanging {
            Hanging::Checkpointer => checkpointer(&sandbox),
            Hanging::Backend => backend,
            Hanging::Postmaster => sandbox.postmaster().unwrap(),
        };
        signal(pid, Signal::STOP).unwrap();
        let begin = Instant::now();

        let text = sandbox.succeed(&["maintenance", "stop"]);

        assert!(begin.elapsed() < Duration::from_secs(40), "{hanging:?}: {:?}\n{text}", begin.elapsed());
        assert!(text.contains("continued it (SIGCONT)"), "{hanging:?}:\n{text}");
        assert!(text.contains("by a fast shutdown"), "{hanging:?}:\n{text}");
        assert!(sandbox.data().join(".pgbox/seal").exists(), "{hanging:?}:\n{text}");
        assert!(!client.wait().unwrap().success());
    }
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_process_that_is_stopped_again_and_again_costs_a_bounded_time_and_no_row() {
    // It hears no signal but SIGKILL for longer than a moment, as one that waits for a disk.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    sandbox.set("STOP_TIMEOUT", "4s");
    for hanging in [Hanging::Checkpointer, Hanging::Postmaster] {
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql("INSERT INTO kept SELECT max(id) + 1 FROM kept");
        let rows = sandbox.sql("SELECT count(*) FROM kept");
        let pid = match hanging {
            Hanging::Checkpointer => checkpointer(&sandbox),
            _ => sandbox.postmaster().unwrap(),
        };
        let is_over = AtomicBool::new(false);
        let text = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) && signal(pid, Signal::STOP).is_ok() {
                    std::thread::yield_now();
                }
            });
            let begin = Instant::now();
            let output = sandbox.output(&["maintenance", "stop"]);
            is_over.store(true, Ordering::Relaxed);
            assert!(begin.elapsed() < Duration::from_secs(30), "{hanging:?}: {:?}", begin.elapsed());
            crate::support::sandbox::printed(&output)
        });

        assert!(text.contains("the fast shutdown did not finish within 2.0 s"), "{hanging:?}:\n{text}");
        assert!(text.contains("the next start replays its WAL"), "{hanging:?}:\n{text}");
        assert!(!sandbox.data().join(".pgbox/seal").exists(), "{hanging:?}:\n{text}");
        assert_eq!(server_processes(&sandbox.data()), Vec::<String>::new(), "{hanging:?}:\n{text}");
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), rows, "{hanging:?}");
    }
}

/// The processes that work in a directory.
fn server_processes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let works_in_it =
        |path: &std::path::PathBuf| std::fs::read_link(path.join("cwd")).is_ok_and(|home| home == directory);
    entries.map(|entry| entry.path()).filter(works_in_it).map(|path| path.display().to_string()).collect()
}

/// A process by the name of a server's that works in a directory and ignores SIGINT and SIGQUIT.
fn deaf_process(directory: &Path) -> Child {
    let program = directory.join("postgres");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let script = format!("trap '' INT QUIT; exec '{}' 600", program.display());
    let child =
        Command::new("sh").args(["-c", &script]).current_dir(directory).process_group(0).spawn().unwrap();
    let name = format!("/proc/{}/comm", child.id());
    wait_for("the program to be started", || {
        std::fs::read_to_string(&name).ok().filter(|name| name.trim() == "postgres")
    });
    child
}

#[test]
fn what_reacts_to_no_shutdown_is_killed_and_nothing_of_another_directory() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut deaf = deaf_process(directory.path());
    let mut stranger = deaf_process(other.path());
    let pid = i32::try_from(deaf.id()).unwrap();

    let stopping = Stopping { pid, data_directory: directory.path(), patience: Duration::from_secs(1) };
    let stopped = server_stop::stop(&stopping, &Silent).unwrap();

    assert_eq!(stopped, Stopped::Killed);
    assert!(!deaf.wait().unwrap().success());
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
