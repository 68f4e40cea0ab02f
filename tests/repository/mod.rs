//! Backups of a real server, damaged by real means, and restored into servers that real tools judge.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod clock;
mod concurrent;
mod damage;
mod delta;
mod encrypted;
mod full_disk;
mod hot;
mod killed;
mod made_tablespace;
mod meanwhile;
mod names;
mod pins;
mod planted;
mod point_in_time;
mod prove;
mod removal;
mod repack;
mod restored;
mod rounds;
mod script_copies;
mod scrub;
mod second;
mod server;
mod unplugged;
mod verify;

use std::path::Path;

use pgbox::execute::backup::{CreateOptions, CreateOutcome, create};
use pgbox::plan::BackupSummary;
use pgbox::progress::{Progress, Silent};
use pgbox::repository::Repository;
use pgbox::sys::ReadRoot;

use server::Server;

/// Makes a backup, or says why not.
fn try_backup(
    server: &Server,
    repository: &Repository,
    force: bool,
    progress: &dyn Progress,
) -> anyhow::Result<CreateOutcome> {
    let data = ReadRoot::open(server.data()).unwrap();
    let options = CreateOptions { force, ..CreateOptions::now() };
    create(&mut server.client(), &data, repository, &options, progress)
}

/// Makes a backup, changed or not.
#[track_caller]
fn back_up(server: &Server, repository: &Repository) -> BackupSummary {
    match try_backup(server, repository, true, &Silent).unwrap() {
        CreateOutcome::Created(summary) => summary,
        CreateOutcome::Unchanged { newest } => panic!("taken for unchanged since {newest}"),
    }
}

fn repository(directory: &Path) -> Repository {
    Repository::open_or_create(&directory.join("backups"), None).unwrap()
}
