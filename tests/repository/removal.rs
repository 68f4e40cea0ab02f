//! Removing and sweeping, locks, and directories that were set aside.

use std::fs;

use chrono::Utc;
use pgbox::error::{Kind, kind_of};
use pgbox::execute::backup::{ColdOptions, create_cold};
use pgbox::plan::{BackupKind, BackupName};
use pgbox::progress::Silent;
use pgbox::repository::RepositoryError;
use pgbox::sys::ReadRoot;

use super::restored::restore;
use super::server::{Server, directory, has_postgresql};
use super::{back_up, repository, try_backup};

#[test]
fn a_removed_backup_frees_its_packs_and_the_others_stay_readable() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let first = back_up(&server, &repository);
    server.execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i");
    let second = back_up(&server, &repository);
    server.execute("DROP TABLE t");
    let third = back_up(&server, &repository);
    drop(server);

    let lock = repository.lock_exclusively("a test").unwrap();
    repository.remove(&lock, second.name).unwrap();
    repository.remove(&lock, third.name).unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert!(report.removed_packs >= 1 && report.freed_bytes > 1_000_000, "{report:?}");
    assert_eq!(report.packs_kept_because, None);
    assert!(matches!(
        repository.find(second.name),
        Err(RepositoryError::NoSuchBackup { newest: Some(newest), .. }) if newest == first.name
    ));
    assert_eq!(restore(&repository, first.name).start().value("SELECT 1"), "1");
    assert_eq!(repository.sweep(&lock).unwrap(), pgbox::repository::SweepReport::default());
}

#[test]
fn a_sweep_keeps_all_packs_while_any_backup_cannot_be_read() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let (first, second) = (back_up(&server, &repository), back_up(&server, &repository));
    fs::write(repository.path().join(first.name.to_string()).join("backup.json"), "{").unwrap();

    let lock = repository.lock_exclusively("a test").unwrap();
    repository.remove(&lock, second.name).unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert_eq!(report.removed_packs, 0);
    assert!(report.packs_kept_because.unwrap().contains(&first.name.to_string()));
}

#[test]
fn a_sweep_removes_what_was_cut_short_and_nothing_of_anybody_else() {
    let directory = directory();
    let repository = repository(directory.path());
    let path = |name: &str| repository.path().join(name);
    for name in
        ["data_20260101_000000", "removed_data_20260101_000001", "data_20260101_000002", "mine", "packs"]
    {
        fs::create_dir(path(name)).unwrap();
    }
    for name in [
        "data_20260101_000000/files.zst",
        "removed_data_20260101_000001/PG_VERSION",
        "data_20260101_000002/postgresql.conf",
        "mine/files.zst",
        "packs/data_20260101_000000-0.tmp",
        "repository.json.pgbox-12.tmp",
    ] {
        fs::write(path(name), "x").unwrap();
    }

    let lock = repository.lock_exclusively("a test").unwrap();
    let report = repository.sweep(&lock).unwrap();

    assert_eq!(report.removed_directories, 2);
    assert!(path("mine/files.zst").exists() && path("data_20260101_000002/postgresql.conf").exists());
    assert!(!path("packs/data_20260101_000000-0.tmp").exists());
    assert!(!path("repository.json.pgbox-12.tmp").exists());
    assert!(path("repository.json").exists());
}

#[test]
fn a_repository_that_is_being_read_is_not_written() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let (first, second) =
        (repository.lock_shared("restoring").unwrap(), repository.lock_shared("a mount").unwrap());

    let error = try_backup(&server, &repository, true, &Silent).unwrap_err();

    assert_eq!(kind_of(&error), Kind::Busy);
    assert!(format!("{error:#}").contains("in use by"), "{error:#}");
    drop((first, second));
    back_up(&server, &repository);
}

#[test]
fn a_directory_that_was_set_aside_is_stored_as_it_is() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    server.execute("CREATE TABLE t AS SELECT 5 AS i");
    server.stop();
    fs::remove_file(server.data().join("global/2671")).unwrap();
    fs::create_dir(server.data().join(".pgbox")).unwrap();
    fs::write(server.data().join(".pgbox/lock"), "x").unwrap();
    let name = BackupName::new(BackupKind::Damaged, Utc::now());
    let options = ColdOptions { name, time: Utc::now(), note: Some("global/2671 was missing".to_owned()) };

    let root = ReadRoot::open(server.data()).unwrap();
    let first = create_cold(&root, &repository, &options, &Silent).unwrap().summary;
    let second = create_cold(&root, &repository, &options, &Silent).unwrap().summary;

    assert_eq!((first.name, Some(second.name)), (name, name.next_of_same_second()));
    assert_eq!(first.note.as_deref(), Some("global/2671 was missing"));
    assert!(first.system_identifier.is_some());
    assert!(second.stored_bytes * 20 < first.stored_bytes);
    let restored = restore(&repository, first.name);
    let restored = restored.data();
    assert!(restored.join("pg_wal/000000010000000000000001").exists());
    assert!(!restored.join("global/2671").exists() && !restored.join(".pgbox").exists());
}

#[test]
fn a_backup_that_is_not_there_is_named_with_the_newest() {
    let directory = directory();
    let repository = repository(directory.path());
    let name = "data_20260101_000000".parse().unwrap();

    let error = anyhow::Error::from(repository.find(name).unwrap_err());

    assert_eq!(error.to_string(), "there is no backup data_20260101_000000");
    assert_eq!(kind_of(&error), Kind::NoSuchBackup);
}
