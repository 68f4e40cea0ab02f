//! `backup-postgresql export`, judged by `tar`, `pg_verifybackup` and a server.

use super::unpacked::{Unpacked, empty_directory};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

pub(super) const LARGE: &str = "SELECT count(*), sum(i), md5(string_agg(t, '' ORDER BY i)) FROM large";

/// A server with a large table, one in a tablespace and one that is not logged, and a backup of it.
pub(super) fn with_everything(space: &Path) -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    // A statement each: a tablespace is not made within a transaction.
    for statement in [
        "CREATE TABLE large AS SELECT i, md5(i::text) AS t FROM generate_series(1, 200000) AS i",
        &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()),
        "CREATE TABLE far TABLESPACE fast AS SELECT generate_series(1, 1000) AS i",
        "CREATE UNLOGGED TABLE light AS SELECT 1",
        "ALTER SYSTEM SET work_mem = '5MB'",
    ] {
        sandbox.sql(statement);
    }
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox
}

pub(super) fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_bundle_of_every_format_starts_with_nothing_but_tar_and_postgresql() {
    if !has_postgresql() {
        return;
    }
    let space = empty_directory();
    let sandbox = with_everything(space.path());
    let large = sandbox.sql(LARGE);

    for ending in ["tar.gz", "tar.zst", "tar"] {
        let file = path(&sandbox, &format!("bundle.{ending}"));
        let output = sandbox.output(&["backup-postgresql", "export", "latest", &file]);
        assert!(output.status.success(), "{output:?}");
        // What it prints is what sha256sum reads.
        fs::write(path(&sandbox, "sums"), &output.stdout).unwrap();
        run(Command::new("sha256sum").args(["--check", "--strict"]).arg(path(&sandbox, "sums")));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let unpacked = Unpacked::from(Path::new(&file));
        unpacked.verify();
        unpacked.start();
        assert_eq!(unpacked.sql(LARGE), large, "{ending}");
        assert_eq!(unpacked.sql("SELECT sum(i) FROM far"), "500500");
        assert_eq!(unpacked.sql("SELECT count(*) FROM light"), "0");
        assert_eq!(unpacked.sql("SHOW work_mem"), "5MB");
        unpacked.sql("INSERT INTO light VALUES (1); CREATE TABLE more TABLESPACE fast AS SELECT 1");
    }
}

#[test]
fn modes_and_empty_directories_are_in_the_bundle_and_what_is_the_servers_own_is_not() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let mut export = sandbox.command(&["backup-postgresql", "export", "latest", "-", "--format", "tar"]);
    let archive = export.output().unwrap().stdout;
    fs::write(path(&sandbox, "stream.tar"), archive).unwrap();

    let listing = run(Command::new("tar").arg("-tvf").arg(path(&sandbox, "stream.tar")));

    let entry = |path: &str| {
        let lines = listing.lines().filter(|line| line.split_whitespace().last() == Some(path));
        lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).next()
    };
    assert!(listing.lines().next().unwrap().ends_with(" backup_label"), "{listing}");
    assert_eq!(entry("pg_notify/").as_deref(), Some("drwx------ postgres/postgres"));
    assert_eq!(entry("pg_wal/archive_status/").as_deref(), Some("drwx------ postgres/postgres"));
    assert_eq!(entry("global/pg_control").as_deref(), Some("-rw------- postgres/postgres"));
    assert_eq!(entry("postmaster.pid"), None);
    assert!(!listing.contains(".pgbox"), "{listing}");
}

#[test]
fn a_file_that_is_there_is_kept_unless_it_is_to_be_replaced() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let file = path(&sandbox, "mine.tar");
    fs::write(&file, "mine").unwrap();

    let text = sandbox.expect_status(&["backup-postgresql", "export", "latest", &file], 6);

    assert!(text.contains("there is such a file already"), "{text}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    sandbox.succeed(&["backup-postgresql", "export", "latest", &file, "--force", "--dry-run"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    sandbox.succeed(&["backup-postgresql", "export", "latest", &file, "--force"]);
    assert!(fs::metadata(&file).unwrap().len() > 1_000_000);
    sandbox.expect_status(&["backup-postgresql", "export", "latest", &path(&sandbox, "a.zip")], 2);
    sandbox
        .expect_status(&["backup-postgresql", "export", "data_20010101_000000", &path(&sandbox, "a.tar")], 3);
}

/// The names in a directory that begin or end as those of bundles do.
fn bundles(directory: &Path) -> Vec<String> {
    let names =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".tar")).collect()
}

#[test]
fn a_damaged_chunk_fails_the_export_and_leaves_no_file() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    // The damage: a byte in the middle of the frames of every pack.
    let packs = run(Command::new("find").arg(sandbox.backups()).args(["-name", "*.pack"]));
    for pack in packs.lines() {
        let file = fs::File::options().read(true).write(true).open(pack).unwrap();
        let middle = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[!byte[0]], middle).unwrap();
    }

    let file = path(&sandbox, "bundle.tar.gz");
    let text = sandbox.expect_status(&["backup-postgresql", "export", "latest", &file], 4);

    assert!(text.contains("is damaged at byte"), "{text}");
    assert!(bundles(sandbox.path()).is_empty(), "{:?}", bundles(sandbox.path()));
    // Nor does half of one in a pipe end as a whole one does.
    let output = sandbox.output(&["backup-postgresql", "export", "latest", "-", "--format", "tar"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(!output.stdout.ends_with(&[0; 1024]));
}

#[test]
fn an_export_that_is_interrupted_leaves_no_file() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let mut export = sandbox.command(&["backup-postgresql", "export", "latest"]);
    let mut export = export.current_dir(sandbox.path()).stderr(Stdio::null()).spawn().unwrap();
    crate::support::wait::wait_until("the export has begun", || !bundles(sandbox.path()).is_empty());

    let pid = rustix::process::Pid::from_child(&export);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = export.wait().unwrap();

    // It may have been finished by then, whole.
    let left = bundles(sandbox.path());
    assert!(left.is_empty() || (status.success() && left.len() == 1), "{status}: {left:?}");
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}
