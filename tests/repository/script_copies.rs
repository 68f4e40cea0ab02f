//! Directories that the old shell scripts made.

use std::fs;
use std::path::Path;
use std::process::Command;

use pgbox::plan::{BackupFormat, Condition};
use pgbox::repository::Repository;

use super::restored::restore;
use super::server::{Server, directory, has_postgresql, succeed};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    // As the scripts copied: with `cp -r`, which keeps no modes that a server would accept.
    succeed(Command::new("cp").arg("-r").arg(from).arg(to));
    succeed(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(to));
}

#[test]
fn copies_of_the_old_scripts_are_listed_and_restored() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let server = Server::new(directory.path());
    server.execute("CREATE TABLE t AS SELECT generate_series(1, 100) AS i; CHECKPOINT");
    let backups = directory.path().join("backups");
    copy(server.data(), &backups.join("data_20260101_120000"));
    server.stop();
    copy(server.data(), &backups.join("data_20260102_120000/postgresql-data"));
    fs::create_dir_all(backups.join("data_20260103_120000/base")).unwrap();
    drop(server);

    // Without repository.json: pgbox was never here.
    let repository = Repository::open(&backups, None).unwrap().unwrap();
    let [nested, plain] = repository.backups().unwrap().try_into().unwrap();

    assert_eq!(plain.name.to_string(), "data_20260101_120000");
    assert!(plain.note.as_deref().unwrap().contains("while the server was running"));
    assert_eq!(nested.note, None);
    for summary in [plain, nested] {
        assert_eq!(summary.format, BackupFormat::ScriptCopy);
        assert!(summary.is_good() && summary.size_bytes > 10_000_000 && summary.system_identifier.is_some());
        let restored = restore(&repository, summary.name);
        assert!(!restored.data().join("postmaster.pid").exists());
        assert_eq!(restored.start().value("SELECT sum(i) FROM t"), "5050");
    }
    assert!(!backups.join("repository.json").exists());
}

#[test]
fn a_copy_without_its_control_file_or_its_wal_is_unreadable() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let server = Server::new(directory.path());
    server.stop();
    let backups = directory.path().join("backups");
    for (day, damage) in
        [(1, "rm global/pg_control"), (2, "rm -r pg_wal; ln -s /nowhere pg_wal"), (3, ": > PG_VERSION")]
    {
        let target = backups.join(format!("data_2026010{day}_120000"));
        copy(server.data(), &target);
        succeed(Command::new("sh").arg("-ec").arg(damage).current_dir(&target));
    }

    let repository = Repository::open(&backups, None).unwrap().unwrap();

    for summary in repository.backups().unwrap() {
        assert!(matches!(summary.condition, Condition::Unreadable { .. }), "{summary:?}");
        assert!(repository.reader(summary.name).is_err());
    }
    assert_eq!(repository.backups().unwrap().len(), 3);
}

#[test]
fn an_empty_directory_is_no_repository() {
    let directory = directory();
    assert!(Repository::open(directory.path(), None).unwrap().is_none());
    assert!(Repository::open(&directory.path().join("missing"), None).unwrap().is_none());
}
