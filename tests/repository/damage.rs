//! Damage: in the cluster while it is backed up, in the repository after, and a disk that is full.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbox::error::{Kind, kind_of};
use pgbox::plan::{BackupSummary, Condition};
use pgbox::progress::Silent;
use pgbox::repository::Repository;
use tempfile::TempDir;

use super::restored::{restore, try_restore};
use super::server::{Server, directory, has_postgresql, succeed};
use super::{back_up, repository, try_backup};
use crate::support::small_disk::SmallDisk;

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn packs(repository: &Repository) -> Vec<PathBuf> {
    let directories = fs::read_dir(repository.path().join("packs")).unwrap();
    directories
        .flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap())
        .map(|pack| pack.unwrap().path())
        .collect()
}

fn one_backup() -> (TempDir, Repository, BackupSummary) {
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let summary = back_up(&server, &repository);
    (directory, repository, summary)
}

#[track_caller]
fn restore_error(repository: &Repository, summary: &BackupSummary) -> String {
    let error = try_restore(repository, summary.name).map(|_| ()).unwrap_err();
    assert_eq!(kind_of(&error), Kind::VerificationFailed, "{error:#}");
    format!("{error:#}")
}

#[test]
fn a_flipped_byte_in_a_pack_is_found_by_a_restore_and_named() {
    if !has_postgresql() {
        return;
    }
    let (_directory, repository, summary) = one_backup();
    let [pack] = packs(&repository).try_into().unwrap();
    flip(&pack, fs::metadata(&pack).unwrap().len() / 2);

    let error = restore_error(&repository, &summary);

    let name = pack.file_stem().unwrap().to_string_lossy().into_owned();
    assert!(error.contains(&name), "{error}");
    assert!(error.contains("is damaged at byte"), "{error}");
}

#[test]
fn a_flipped_byte_in_the_index_of_a_pack_is_named_and_the_next_backup_is_whole() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let summary = back_up(&server, &repository);
    let [pack] = packs(&repository).try_into().unwrap();
    flip(&pack, fs::metadata(&pack).unwrap().len() - 100);

    let error = restore_error(&repository, &summary);
    assert!(error.contains("its index is damaged"), "{error}");

    let next = back_up(&server, &repository);
    drop(server);
    assert_eq!(restore(&repository, next.name).start().value("SELECT 1"), "1");
}

#[test]
fn a_flipped_byte_in_the_file_table_is_found_and_named() {
    if !has_postgresql() {
        return;
    }
    let (_directory, repository, summary) = one_backup();
    flip(&repository.path().join(summary.name.to_string()).join("files.zst"), 1000);

    let error = restore_error(&repository, &summary);

    assert!(error.contains(&format!("{}/files.zst", summary.name)), "{error}");
}

#[test]
fn a_flipped_byte_in_backup_json_makes_it_unreadable_and_not_the_list() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    let (first, second) = (back_up(&server, &repository), back_up(&server, &repository));
    flip(&repository.path().join(first.name.to_string()).join("backup.json"), 300);

    let backups = repository.backups().unwrap();

    assert_eq!(backups.len(), 2);
    assert_eq!(backups[0], second);
    assert!(
        matches!(&backups[1].condition, Condition::Unreadable { reason } if reason.contains("backup.json"))
    );
    assert!(!backups[1].is_good());
    restore_error(&repository, &first);
}

#[test]
fn a_damaged_page_is_recorded_and_the_backup_kept_but_not_good() {
    if !has_postgresql() {
        return;
    }
    let directory = directory();
    let (server, repository) = (Server::new(directory.path()), repository(directory.path()));
    server.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i; CHECKPOINT");
    let file = server.value("SELECT pg_relation_filepath('t')");
    // A flipped bit on disk in the third page, which the server does not read.
    flip(&server.data().join(&file), 2 * 8192 + 5000);

    let summary = back_up(&server, &repository);

    let [page] = summary.damaged_pages.as_slice() else { panic!("{summary:?}") };
    assert_eq!((page.file.as_str(), page.block.0), (file.as_str(), 2));
    assert_eq!(page.relation.as_ref().unwrap().to_string(), "postgres.public.t");
    assert!(summary.is_complete() && !summary.is_good());
    assert_eq!(repository.find(summary.name).unwrap(), summary);
}

fn used_bytes(path: &Path) -> u64 {
    let text = succeed(Command::new("du").args(["-s", "-B1"]).arg(path));
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_full_disk_fails_the_backup_takes_its_files_with_it_and_harms_no_older_one() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("30M") else { return };
    let directory = directory();
    let server = Server::new(directory.path());
    let repository = Repository::open_or_create(disk.path(), None).unwrap();
    let first = back_up(&server, &repository);
    let used = used_bytes(disk.path());
    // 60 MB that no compression makes smaller.
    server.execute(
        "CREATE EXTENSION pgcrypto; CREATE TABLE t AS SELECT gen_random_bytes(1000) AS b FROM generate_series(1, 60000)",
    );

    let error = try_backup(&server, &repository, false, &Silent).unwrap_err();

    assert!(format!("{error:#}").contains("the file system is full"), "{error:#}");
    assert!(used_bytes(disk.path()) <= used + 65_536);
    assert_eq!(repository.backups().unwrap(), std::slice::from_ref(&first));
    assert_eq!(restore(&repository, first.name).start().value("SELECT 1"), "1");
}

#[test]
fn a_disk_with_no_room_at_all_fails_the_backup_before_it_begins() {
    if !has_postgresql() {
        return;
    }
    let Some(disk) = SmallDisk::new("1M") else { return };
    let directory = directory();
    let server = Server::new(directory.path());
    let repository = Repository::open_or_create(disk.path(), None).unwrap();

    let error = try_backup(&server, &repository, false, &Silent).unwrap_err().to_string();

    assert!(error.starts_with("could not back up to '"), "{error}");
    assert!(error.contains(" free, and "), "{error}");
}
