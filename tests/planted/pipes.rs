//! A FIFO, a socket or a device where a file should be keeps no command waiting.

use super::{LIMIT, ends, shell};
use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use rstest::rstest;

const FIFO: &str = "is a FIFO, not a file";

#[rstest]
#[case::pid_file("data/postmaster.pid", &["maintenance", "status"])]
#[case::pid_file_at_a_start("data/postmaster.pid", &["init-postgresql", "--no-backup"])]
#[case::control_file("data/global/pg_control", &["maintenance", "check"])]
#[case::version("data/PG_VERSION", &["init-postgresql", "--no-backup"])]
#[case::configuration("data/postgresql.conf", &["init-postgresql", "--no-backup"])]
#[case::relation_map("data/global/pg_filenode.map", &["maintenance", "check"])]
#[case::a_relation("data/base/1/1259", &["maintenance", "check", "--deep"])]
#[case::label("data/backup_label", &["init-postgresql", "--no-backup"])]
#[case::history("data/.pgbox/history.jsonl", &["maintenance", "status"])]
#[case::seal("data/.pgbox/seal", &["maintenance", "check"])]
#[case::lock("data/.pgbox/lock", &["init-postgresql", "--no-backup"])]
#[case::operation_lock("data/.pgbox/operation.lock", &["init-postgresql", "--no-backup"])]
#[case::journal("data/.pgbox/journal.json", &["init-postgresql", "--no-backup"])]
#[case::identity_at_a_list("backups/repository.json", &["backup-postgresql", "list"])]
#[case::identity_at_a_status("backups/repository.json", &["maintenance", "status"])]
#[case::identity_at_a_health("backups/repository.json", &["maintenance", "health"])]
#[case::identity_at_a_start("backups/repository.json", &["init-postgresql"])]
#[case::lock_of_the_backups("backups/lock", &["init-postgresql"])]
#[case::pack_directory("backups/packs", &["backup-postgresql", "verify", "--all"])]
#[case::scrub("backups/scrub.json", &["backup-postgresql", "scrub"])]
#[case::scrub_lock("backups/scrub.lock", &["backup-postgresql", "scrub"])]
#[case::log("log/postgresql.log", &["init-postgresql", "--no-backup"])]
fn a_fifo_in_the_place_of_a_file_keeps_nothing_waiting(#[case] place: &str, #[case] command: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(
        &sandbox,
        &format!(
            "mkdir -p log; chown postgres log; rm -rf '{place}'; mkfifo -m 666 '{place}'; chown postgres '{place}'"
        ),
    );
    // The end of the sandbox reads some of them, too.
    let _removal = Removal(sandbox.path().join(place));
    ends(&sandbox, command);
    ends(&sandbox, &["maintenance", "stop"]);
}

/// Removes what was planted, by a panic too.
struct Removal(std::path::PathBuf);

impl Drop for Removal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[rstest]
#[case::document("backup.json", &["backup-postgresql", "list"])]
#[case::table("files.zst", &["backup-postgresql", "verify", "--all"])]
#[case::verdict("verification.json", &["backup-postgresql", "list"])]
fn a_fifo_in_a_backup_keeps_nothing_waiting(#[case] file: &str, #[case] command: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let backup = sandbox.backup_names("data_").remove(0);
    shell(&sandbox, &format!("rm -f backups/{backup}/{file}; mkfifo -m 666 backups/{backup}/{file}"));

    ends(&sandbox, command);
}

#[test]
fn a_fifo_for_the_log_is_named_and_the_start_is_refused() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(
        &sandbox,
        "mkdir -p log; rm -f log/postgresql.log; mkfifo log/postgresql.log; chown -R postgres log",
    );

    let (status, told) = ends(&sandbox, &["init-postgresql"]);

    assert_ne!(status, 0);
    assert!(told.contains("is a socket, a FIFO or a device, not a file"), "{told}");
}

#[test]
fn a_fifo_to_import_is_refused_before_anything_is_read() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, "mkfifo bundle.tar");
    let bundle = sandbox.path().join("bundle.tar");

    let (status, told) = ends(&sandbox, &["backup-postgresql", "import", bundle.to_str().unwrap()]);

    assert_eq!(status, 1, "{told}");
    assert!(told.contains(FIFO), "{told}");
}

#[test]
fn a_fifo_beside_an_export_is_no_relic_of_ours() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    shell(&sandbox, "mkfifo .bundle.tar.pgbox-1.tmp");
    let bundle = sandbox.path().join("bundle.tar");

    let (status, told) = ends(&sandbox, &["backup-postgresql", "export", "latest", bundle.to_str().unwrap()]);

    assert_eq!(status, 0, "{told}");
    assert!(bundle.metadata().unwrap().len() > 0);
}

#[rstest]
#[case::fifo("mkfifo -m 666 value", FIFO)]
#[case::device("ln -s /dev/zero value", "is a device, not a file")]
#[case::directory("mkdir value", "is a directory, not a file")]
fn a_value_is_read_from_a_file_only(#[case] plant: &str, #[case] words: &str) {
    let mut sandbox = Sandbox::empty();
    shell(&sandbox, plant);
    sandbox.set("DATABASE_PASSWORD_FILE", sandbox.path().join("value").display().to_string());

    let (status, told) = ends(&sandbox, &["maintenance", "status"]);

    assert_eq!(status, 2, "{told}");
    assert!(told.contains(words), "{told}");
}

#[rstest]
#[case::database("POSTGRES_DB_FILE")]
#[case::superuser("POSTGRES_USER_FILE")]
#[case::password("DATABASE_PASSWORD_FILE")]
#[case::superusers_password("POSTGRES_PASSWORD_FILE")]
fn a_value_may_come_through_a_pipe_that_the_shell_made(#[case] variable: &str) {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    sandbox.set(variable, "/dev/stdin");
    let mut command = assert_cmd::Command::from_std(sandbox.command(&["init-postgresql", "--dry-run"]));

    let output = command.write_stdin("value\n").timeout(LIMIT).output().unwrap();

    assert!(output.status.success(), "{}", printed(&output));
}
