//! A backup that is killed between any two of its steps: nothing half is listed, nothing older is harmed, and the next
//! one goes on with what was written.

use std::path::Path;

use pgbox::plan::BackupSummary;
use pgbox::repository::Repository;

use super::restored::restore;
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::step_points::{has_step_points, kill_at, points};

const CREATE: [&str; 2] = ["backup-postgresql", "create"];

/// A server that serves, and a backup of before.
fn scene() -> Sandbox {
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("MAX_BACKUPS", "100");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE later (round int, text text)");
    sandbox
}

fn add_rows(sandbox: &Sandbox, round: usize) {
    sandbox
        .sql(&format!("INSERT INTO later SELECT {round}, md5(i::text) FROM generate_series(1, 1000) AS i"));
}

/// Whatever is listed can be read, all of it, and is what its hashes say.
pub(super) fn assert_all_read(repository: &Repository) -> Vec<BackupSummary> {
    let backups = repository.backups().unwrap();
    for backup in &backups {
        assert!(backup.is_good(), "{backup:?}");
        let reader = repository.reader(backup.name).unwrap();
        for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
            reader.copy_file_to(entry, &mut std::io::sink()).unwrap();
        }
    }
    backups
}

pub(super) fn has_left_overs(backups: &Path) -> bool {
    let listing = std::process::Command::new("find").arg(backups).output().unwrap();
    String::from_utf8(listing.stdout)
        .unwrap()
        .lines()
        .any(|line| line.contains(".tmp") || line.contains(".pgbox-"))
}

#[test]
fn killed_at_any_step_it_harms_nothing_and_the_next_one_is_whole() {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let sandbox = scene();
    add_rows(&sandbox, 0);
    let count = points(&sandbox, &CREATE).len();
    assert!(count >= 7, "{count}");
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    for number in 1..=count {
        let before = repository.backups().unwrap().len();
        add_rows(&sandbox, number);

        kill_at(&sandbox, number, &CREATE);

        let listed = assert_all_read(&repository).len();
        let is_last = number == count;
        assert_eq!(listed, before + usize::from(is_last), "killed at point {number}");
        if !is_last {
            sandbox.succeed(&CREATE);
            assert_eq!(assert_all_read(&repository).len(), before + 1);
        }
        assert_eq!(sandbox.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    }

    add_rows(&sandbox, count + 1);
    sandbox.succeed(&CREATE);
    assert!(!has_left_overs(&sandbox.backups()));
    let newest = repository.backups().unwrap().first().unwrap().name;
    let restored = restore(&repository, newest).start();
    let query = ["-Atd", "dbuser", "-c", "SELECT count(DISTINCT round), count(*) FROM later"];
    let answer = restored.tool("psql").args(query).output().unwrap();
    let rounds = count + 2;
    assert_eq!(String::from_utf8(answer.stdout).unwrap().trim(), format!("{rounds}|{}", rounds * 1000));
}
