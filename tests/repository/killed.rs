//! A backup or a cleanup that is killed between any two of its steps, in a plain repository and in an encrypted one:
//! nothing half is listed, nothing older is harmed, and the next one goes on with what was written.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgbox::plan::BackupSummary;
use pgbox::repository::Repository;

use super::encrypted::with_key;
use super::restored::restore;
use crate::archive::archive_now;
use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::step_points::{has_step_points, kill_at, points};

const CREATE: [&str; 2] = ["backup-postgresql", "create"];
const CLEANUP: [&str; 4] = ["backup-postgresql", "cleanup", "--max-backups", "1"];

/// Whether what is stored is encrypted.
#[derive(Clone, Copy)]
pub(super) enum Stored {
    Plain,
    Encrypted,
}

/// A server that serves, and a backup of before.
fn scene(stored: Stored) -> Sandbox {
    let mut sandbox = match stored {
        Stored::Plain => Sandbox::with_backup(),
        Stored::Encrypted => with_key(),
    };
    sandbox.set("MAX_BACKUPS", "100");
    // What is read back before a backup is more each time, and the points are counted.
    sandbox.set("SCRUB_INTERVAL", "off");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE later (round int, text text)");
    sandbox
}

fn open(sandbox: &Sandbox, backups: &Path, stored: Stored) -> Repository {
    let key_file: Option<PathBuf> = match stored {
        Stored::Plain => None,
        Stored::Encrypted => Some(sandbox.path().join("key")),
    };
    Repository::open(backups, key_file.as_deref()).unwrap().unwrap()
}

pub(super) fn add_rows(sandbox: &Sandbox, round: usize) {
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

/// What nobody is at work on any more. A segment that the server is archiving is none of it.
pub(super) fn has_left_overs(backups: &Path) -> bool {
    let listing = run(Command::new("find").arg(backups));
    let is_left_over = |line: &&str| line.contains(".tmp") || line.contains(".pgbox-");
    listing.lines().filter(|line| !line.ends_with("/incoming.tmp")).any(|line| is_left_over(&line))
}

/// The points of making a backup, up to the one from which on it counts. What it lets go comes after it.
pub(super) fn points_of_create(sandbox: &Sandbox) -> Vec<String> {
    let mut names = points(sandbox, &CREATE);
    let made = names.iter().position(|name| name == "backup.json written").unwrap();
    names.truncate(made + 1);
    assert!(names.len() >= 7, "{names:?}");
    names
}

fn judge_create(stored: Stored, one_in: usize) {
    let sandbox = scene(stored);
    add_rows(&sandbox, 0);
    let count = points_of_create(&sandbox).len();
    let repository = open(&sandbox, &sandbox.backups(), stored);
    let mut rounds = 1;
    for number in (1..=count).filter(|number| *number == count || is_wanted(*number, one_in)) {
        let before = repository.backups().unwrap().len();
        add_rows(&sandbox, number);
        rounds += 1;

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
    rounds += 1;
    sandbox.succeed(&CREATE);
    assert!(!has_left_overs(&sandbox.backups()));
    let newest = repository.backups().unwrap().first().unwrap().name;
    let restored = restore(&repository, newest).start();
    let query = ["-Atd", "dbuser", "-c", "SELECT count(DISTINCT round), count(*) FROM later"];
    let answer = restored.tool("psql").args(query).output().unwrap();
    assert_eq!(String::from_utf8(answer.stdout).unwrap().trim(), format!("{rounds}|{}", rounds * 1000));
}

/// A stopped cluster with several backups and archived WAL, of which a cleanup lets most go.
pub(super) fn with_much_to_clean_up(stored: Stored) -> Sandbox {
    let sandbox = scene(stored);
    for round in 0..2 {
        sandbox.sql(&format!(
            "DROP TABLE IF EXISTS passing; CREATE TABLE passing AS \
             SELECT sha512((random()::text || i || {round})::bytea) FROM generate_series(1, 3000) AS i"
        ));
        archive_now(&sandbox);
        sandbox.succeed(&CREATE);
    }
    sandbox.succeed(&["maintenance", "stop"]);
    sandbox
}

/// Makes a directory what another one is.
pub(super) fn renew(place: &Path, template: &Path) {
    run(Command::new("find").arg(place).args(["-mindepth", "1", "-delete"]));
    run(Command::new("cp").arg("-a").arg(template.join(".")).arg(place));
}

fn judge_cleanup(stored: Stored, one_in: usize) {
    let sandbox = with_much_to_clean_up(stored);
    let template = sandbox.path().join("template");
    run(Command::new("cp").arg("-a").arg(sandbox.backups()).arg(&template));
    let names = points(&sandbox, &CLEANUP);
    assert_is_much(&names);
    for number in (1..=names.len()).filter(|number| is_wanted(*number, one_in)) {
        renew(&sandbox.backups(), &template);
        let repository = open(&sandbox, &sandbox.backups(), stored);
        let newest = repository.backups().unwrap().first().unwrap().name;

        kill_at(&sandbox, number, &CLEANUP);

        assert_eq!(assert_all_read(&repository).first().unwrap().name, newest, "killed at point {number}");
        sandbox.succeed(&CLEANUP);
        assert_eq!(assert_all_read(&repository).len(), 1, "killed at point {number}");
        assert!(!has_left_overs(&sandbox.backups()));
    }
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
}

/// Each kind of thing goes.
pub(super) fn assert_is_much(points: &[String]) {
    let kinds =
        ["a backup off the list", "a backup removed", "an archived file removed", "sealed a repacked pack"];
    for kind in kinds {
        assert!(points.iter().any(|point| point == kind), "{kind}: {points:?}");
    }
}

#[test]
fn a_create_killed_at_any_step_harms_nothing_and_the_next_one_is_whole() {
    if has_postgresql() && has_step_points() {
        judge_create(Stored::Plain, 1);
    }
}

#[test]
fn in_an_encrypted_repository_a_create_killed_at_any_step_harms_nothing_either() {
    if has_postgresql() && has_step_points() {
        judge_create(Stored::Encrypted, 4);
    }
}

#[test]
fn a_cleanup_killed_at_any_step_harms_nothing_that_is_listed_and_the_next_one_ends_it() {
    if has_postgresql() && has_step_points() {
        judge_cleanup(Stored::Plain, 3);
    }
}

#[test]
fn in_an_encrypted_repository_a_cleanup_killed_at_any_step_harms_nothing_either() {
    if has_postgresql() && has_step_points() {
        judge_cleanup(Stored::Encrypted, 6);
    }
}
