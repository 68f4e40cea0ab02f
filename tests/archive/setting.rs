//! Which servers archive, and what the archive holds.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::wait::wait_until;
use std::process::Command;

/// What there is of a WAL file in the archive.
pub(crate) fn archived(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(sandbox.backups().join("wal")).args(["-type", "f", "-name", "*.zst", "-printf", "%f\\n"]);
    let output = find.output().unwrap();
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    listing.lines().filter(|stored| stored.starts_with(&format!("{name}-"))).map(str::to_owned).collect()
}

/// Ends the current segment, and waits until it is archived. Its name.
pub(crate) fn archive_now(sandbox: &Sandbox) -> String {
    sandbox.sql("CREATE TABLE IF NOT EXISTS switched (); DROP TABLE switched");
    // The position after it is in the segment that holds it, and not at its beginning.
    let name = sandbox.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    sandbox.sql("SELECT pg_switch_wal()");
    wait_until("the segment is archived", || !archived(sandbox, &name).is_empty());
    name
}

#[test]
fn every_segment_is_archived_and_comes_back_as_it_was_whatever_the_directories_are_called() {
    if !has_postgresql() {
        return;
    }
    // What the shell, and the server that puts names into the command, would trip over.
    let mut sandbox = Sandbox::with_backup();
    let odd = sandbox.path().join("50% 'of' \"it\" $x %p");
    std::fs::create_dir(&odd).unwrap();
    run(Command::new("mv").arg(sandbox.backups()).arg(sandbox.data()).arg(&odd));
    run(Command::new("chmod").arg("755").arg(&odd));
    let (data, backups) = (odd.join("data"), odd.join("backups"));
    std::os::unix::fs::symlink(&data, sandbox.data()).unwrap();
    std::os::unix::fs::symlink(&backups, sandbox.backups()).unwrap();
    sandbox.set("PGDATA", data.to_str().unwrap());
    sandbox.set("BACKUP_DIR", backups.to_str().unwrap());
    sandbox.succeed(&["init-postgresql"]);

    let name = archive_now(&sandbox);

    let cluster = sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    let fetched = sandbox.path().join("fetched");
    let backups = format!("--backup-directory={}", backups.display());
    let fetch = |name: &str| {
        let cluster = format!("--system-identifier={cluster}");
        sandbox.output(&["fetch-wal", &backups, &cluster, name, fetched.to_str().unwrap()])
    };
    assert_eq!(fetch(&name).status.code(), Some(0));
    assert_eq!(std::fs::read(&fetched).unwrap(), std::fs::read(data.join("pg_wal").join(&name)).unwrap());
    assert_eq!(fetch("0000000100000000000000FF").status.code(), Some(1));
    let damaged =
        sandbox.output(&["fetch-wal", "--backup-directory=/nowhere", "--system-identifier=1", &name, "x"]);
    assert_eq!(damaged.status.code(), Some(200), "{}", printed(&damaged));
    assert_eq!(sandbox.output(&["fetch-wal", "--nonsense"]).status.code(), Some(200));
}

#[test]
fn a_damaged_segment_ends_recovery_instead_of_ending_the_wal() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql"]);
    let name = archive_now(&sandbox);
    let cluster = sandbox.sql("SELECT system_identifier FROM pg_control_system()");
    let stored =
        sandbox.backups().join(format!("wal/{cluster}/00000001")).join(&archived(&sandbox, &name)[0]);
    let mut bytes = std::fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&stored, bytes).unwrap();

    let backups = format!("--backup-directory={}", sandbox.backups().display());
    let cluster = format!("--system-identifier={cluster}");
    let target = sandbox.path().join("fetched");
    let output = sandbox.output(&["fetch-wal", &backups, &cluster, &name, target.to_str().unwrap()]);

    assert_eq!(output.status.code(), Some(200));
    assert!(printed(&output).contains("is damaged"), "{}", printed(&output));
    assert!(!target.exists(), "nothing half-read is left");
}

#[test]
fn what_a_person_set_up_stays_and_is_told() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let settings = "archive_mode = on\narchive_command = 'true'\n";
    let path = sandbox.data().join("postgresql.auto.conf");
    std::fs::write(&path, settings).unwrap();

    let told = sandbox.succeed(&["init-postgresql"]);

    assert!(told.contains("is set in the server's configuration, and stays as it is"), "{told}");
    assert_eq!(sandbox.sql("SHOW archive_command"), "true");
}

#[test]
fn without_enough_in_the_wal_or_when_it_is_off_nothing_is_archived() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("WAL_ARCHIVE", "off");
    sandbox.succeed(&["init-postgresql"]);
    assert_eq!(sandbox.sql("SHOW archive_mode"), "off");
    sandbox.sql("ALTER SYSTEM SET wal_level = minimal");
    sandbox.sql("ALTER SYSTEM SET max_wal_senders = 0");
    sandbox.set("WAL_ARCHIVE", "on");

    let told = sandbox.succeed(&["maintenance", "restart"]);

    assert!(told.contains("wal_level is minimal"), "{told}");
    assert_eq!(sandbox.sql("SHOW archive_mode"), "off");
}
