//! A file system that answers no call, as a network mount whose server is gone: here a FUSE process that is stopped.

use super::shell;
use crate::archive::archive_now;
use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use crate::support::unpluggable_disk::UnpluggableDisk;
use crate::support::wait::wait_until;
use std::time::{Duration, Instant};

/// A command that waits for its limits one after the other ends well within this.
const LIMIT: Duration = Duration::from_secs(150);

fn ends(sandbox: &Sandbox, arguments: &[&str]) -> (i32, String) {
    let mut command = assert_cmd::Command::from_std(sandbox.command(arguments));
    let output = command.timeout(LIMIT).output().unwrap();
    let status = output.status.code();
    (status.unwrap_or_else(|| panic!("{arguments:?} did not end: {output:?}")), printed(&output))
}

/// Lets it answer again whatever happens, so that nothing is left waiting.
struct Hanging<'a>(&'a UnpluggableDisk);

impl<'a> Hanging<'a> {
    fn begin(disk: &'a UnpluggableDisk) -> Self {
        disk.hang();
        Self(disk)
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.answer_again();
    }
}

#[test]
fn an_archive_that_hangs_costs_wal_beyond_the_queue_and_never_the_server_or_a_command() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let Some(disk) = UnpluggableDisk::new(&sandbox.backups(), &sandbox.path().join("disk")) else { return };
    sandbox.set("BACKUP_DIR", disk.path().display().to_string());
    sandbox.set("WAL_QUEUE_LIMIT", "16M");
    let sandbox = sandbox;
    sandbox.succeed(&["init-postgresql"]);
    let name = archive_now(&sandbox);
    // From here on each file is tried by hand, with little patience.
    sandbox.sql("ALTER SYSTEM SET wal_keep_size = 0");
    let hanging = Hanging::begin(&disk);
    let archive = |patience: &str| {
        let data = format!("--data-directory={}", sandbox.data().display());
        let backups = format!("--backup-directory={}", disk.path().display());
        let file = format!("pg_wal/{name}");
        let limit = ["--queue-limit", "16M", "--patience", patience];
        let mut arguments = vec!["archive-wal", data.as_str(), backups.as_str()];
        arguments.extend(limit);
        arguments.push(&file);
        ends(&sandbox, &arguments)
    };

    let (status, told) = archive("1s");
    assert_eq!(status, 1, "little waits, so that the server keeps it: {told}");
    assert!(told.contains("there was no answer within 1 s"), "{told}");
    for _ in 0..3 {
        sandbox.sql("CREATE TABLE switched (); DROP TABLE switched; SELECT pg_switch_wal()");
    }
    let (status, told) = archive("1s");
    assert_eq!(status, 0, "much waits, so that it is given up: {told}");
    assert!(told.contains("gave up"), "{told}");

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100", "the server serves on");
    // At once, since each of them waits for its limit.
    std::thread::scope(|scope| {
        for command in [["maintenance", "status"], ["maintenance", "health"], ["backup-postgresql", "list"]] {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let (_, told) = ends(sandbox, &command);
                assert!(told.contains("there was no answer within 10 s"), "{command:?}: {told}");
            });
        }
    });
    let begin = Instant::now();
    let (status, told) = ends(&sandbox, &["maintenance", "stop"]);
    assert_eq!(status, 0, "{told}");
    assert!(told.contains("stopped the server"), "after {:?}: {told}", begin.elapsed());
    drop(hanging);
    wait_until("it answers", || sandbox.output(&["backup-postgresql", "list"]).status.success());
}

#[test]
fn a_wal_file_that_cannot_be_fetched_in_time_ends_the_recovery_and_not_the_wal() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let Some(disk) = UnpluggableDisk::new(&sandbox.backups(), &sandbox.path().join("disk")) else { return };
    let _hanging = Hanging::begin(&disk);
    let backups = format!("--backup-directory={}", disk.path().display());
    let target = sandbox.path().join("fetched");
    let name = "000000010000000000000001";

    let (status, told) = ends(
        &sandbox,
        &["fetch-wal", &backups, "--system-identifier=1", "--patience=1s", name, target.to_str().unwrap()],
    );

    assert_eq!(status, 200, "{told}");
    assert!(told.contains("there was no answer within 1 s"), "{told}");
    assert!(!target.exists());
}

#[test]
fn the_first_process_heeds_its_signals_while_the_data_directory_hangs() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, "mkdir services.d");
    let Some(disk) = UnpluggableDisk::new(&sandbox.data(), &sandbox.path().join("disk")) else { return };
    let log = sandbox.path().join("keeper.log");
    let output = std::fs::File::create(&log).unwrap();
    let mut command =
        sandbox.command(&["start-services", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]);
    command.env("PGDATA", disk.path()).env("SERVICES_DIR", sandbox.path().join("services.d"));
    command.env("STOP_TIMEOUT", "4s").stdout(output.try_clone().unwrap()).stderr(output);
    let hanging = Hanging::begin(&disk);
    let mut keeper = command.spawn().unwrap();
    let told = || std::fs::read_to_string(&log).unwrap();
    wait_until("it has said that nothing answers", || told().contains("does not answer"));

    crate::support::sandbox::signal(keeper.id().cast_signed(), rustix::process::Signal::TERM).unwrap();

    wait_until("it was told to stop", || told().contains("was told to stop"));
    drop(hanging);
    keeper.wait().unwrap();
}
