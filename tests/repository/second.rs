//! A second backup reads what can have changed since the first, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbox::execute::backup::{CreateOptions, CreateOutcome, create};
use pgbox::plan::BackupSummary;
use pgbox::progress::Silent;
use pgbox::repository::Repository;
use pgbox::sys::ReadRoot;
use tempfile::TempDir;

use super::restored::restore;
use super::server::{Server, directory, has_postgresql, program, succeed};
use super::{back_up, repository};
use crate::support::wait::wait_until;

/// A server with a table that has been at rest for long, and a first backup of it.
struct Scene {
    server: Server,
    repository: Repository,
    /// The file of the table.
    file: PathBuf,
    _directory: TempDir,
}

impl Scene {
    fn new() -> Option<Self> {
        if !has_postgresql() {
            return None;
        }
        let directory = directory();
        let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
        server.execute("CREATE TABLE old AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i");
        server.execute("CREATE TABLE other AS SELECT 1 AS i");
        server.execute("VACUUM");
        server.execute("CHECKPOINT");
        let file = server.data().join(server.value("SELECT pg_relation_filepath('old')"));
        rest(server.data());
        back_up(&server, &repository);
        Some(Self { server, repository, file, _directory: directory })
    }

    fn back_up_with(&self, full_read: bool) -> BackupSummary {
        let data = ReadRoot::open(self.server.data()).unwrap();
        let options = CreateOptions { force: true, full_read, ..CreateOptions::now() };
        match create(&mut self.server.client(), &data, &self.repository, &options, &Silent).unwrap() {
            CreateOutcome::Created(summary) => summary,
            CreateOutcome::Unchanged { newest } => panic!("taken for unchanged since {newest}"),
        }
    }

    /// The rows of the table, as a backup has them.
    fn restored(&self, summary: &BackupSummary) -> String {
        restore(&self.repository, summary.name).start().value("SELECT count(*) || ' ' || sum(i) FROM old")
    }

    /// How long the table's file is.
    fn size_bytes(&self) -> u64 {
        fs::metadata(&self.file).unwrap().len()
    }
}

/// Makes all files of a cluster look as if nobody had written to them for a minute.
fn rest(data: &Path) {
    succeed(Command::new("find").arg(data).args([
        "-type",
        "f",
        "-exec",
        "touch",
        "-d",
        "1 minute ago",
        "{}",
        "+",
    ]));
}

#[test]
fn files_that_did_not_change_are_taken_over_and_come_back() {
    let Some(scene) = Scene::new() else { return };
    scene.server.execute("INSERT INTO other VALUES (2)");

    let second = scene.back_up_with(false);

    assert!(second.reused_bytes >= scene.size_bytes(), "{second:?}");
    assert!(second.reused_bytes < second.size_bytes);
    let restored = restore(&scene.repository, second.name).start();
    assert_eq!(restored.value("SELECT count(*) || ' ' || sum(i) FROM old"), "50000 1250025000");
    assert_eq!(restored.value("SELECT sum(i) FROM other"), "3");
    restored.stop();
    succeed(program("pg_checksums").arg("--check").arg("-D").arg(restored.data()));
}

#[test]
fn a_file_of_the_same_size_with_another_time_is_read() {
    let Some(scene) = Scene::new() else { return };
    let size = scene.size_bytes();
    scene.server.execute("DELETE FROM old WHERE i <= 100");

    let second = scene.back_up_with(false);

    assert_eq!(scene.size_bytes(), size);
    assert_eq!(scene.restored(&second), "49900 1250019950");
}

#[test]
fn a_time_near_the_former_listing_is_not_trusted() {
    let Some(scene) = Scene::new() else { return };
    let touch = |time: std::time::SystemTime| {
        fs::File::options().write(true).open(&scene.file).unwrap().set_modified(time).unwrap();
    };
    // A clock that runs ahead, or a file system with whole seconds: two contents of one size and time.
    let time = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
    touch(time);
    let first = scene.back_up_with(false);
    scene.server.execute("DELETE FROM old WHERE i <= 100");
    scene.server.execute("CHECKPOINT");
    touch(time);

    let second = scene.back_up_with(false);

    assert_eq!(scene.restored(&first), "50000 1250025000");
    assert_eq!(scene.restored(&second), "49900 1250019950");
}

#[test]
fn a_file_that_was_changed_and_given_its_former_time_is_read_and_named() {
    let Some(scene) = Scene::new() else { return };
    let good = scene.back_up_with(false);
    let time = fs::metadata(&scene.file).unwrap().modified().unwrap();
    let mut bytes = fs::read(&scene.file).unwrap();
    bytes[3 * 8192 + 4000] ^= 1;
    fs::write(&scene.file, bytes).unwrap();
    fs::File::options().write(true).open(&scene.file).unwrap().set_modified(time).unwrap();

    let quick = scene.back_up_with(false);
    let full = scene.back_up_with(true);

    assert!(quick.reused_bytes > 0, "nothing was taken over: {quick:?}");
    assert_eq!(full.reused_bytes, 0);
    for damaged in [&quick, &full] {
        let [page] = damaged.damaged_pages.as_slice() else { panic!("{damaged:?}") };
        assert_eq!(page.block.0, 3);
        assert_eq!(page.relation.as_ref().unwrap().to_string(), "postgres.public.old");
        assert!(page.problem.starts_with("checksum "), "{}", page.problem);
    }
    // The next one does not build on a backup with damage, and the older good one has the page whole.
    assert_eq!(scene.restored(&good), "50000 1250025000");
}

#[test]
fn a_file_that_was_put_in_the_place_of_another_of_its_size_and_time_is_read() {
    let Some(scene) = Scene::new() else { return };
    let other = scene.file.with_extension("other");
    succeed(Command::new("cp").arg("-p").arg(&scene.file).arg(&other));
    let time = fs::metadata(&other).unwrap().modified().unwrap();
    let mut bytes = fs::read(&other).unwrap();
    bytes[4000] ^= 1;
    fs::write(&other, bytes).unwrap();
    fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, &scene.file).unwrap();

    let second = scene.back_up_with(false);

    assert_eq!(second.damaged_pages.len(), 1, "{second:?}");
}

#[test]
fn after_a_restore_everything_is_read() {
    let Some(scene) = Scene::new() else { return };
    let first = scene.back_up_with(false);
    let restored = restore(&scene.repository, first.name);
    fs::write(restored.data().join("recovery.signal"), "").unwrap();
    fs::write(restored.data().join("postgresql.auto.conf"), "restore_command = 'false'\n").unwrap();
    let server = restored.start();
    // It takes connections before it has ended recovery.
    wait_until("recovery has ended", || server.value("SELECT pg_is_in_recovery()") == "f");
    rest(server.data());

    let after = back_up(&server, &scene.repository);

    assert_ne!(after.timeline, first.timeline);
    assert_eq!(after.reused_bytes, 0);
}
