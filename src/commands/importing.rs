//! `backup-postgresql import`: a base backup that was made elsewhere becomes one of the repository.

use super::arguments::is_given;
use super::backing_up::tell_damage;
use super::context::Workplace;
use super::exporting::STANDARD_STREAM;
use super::privileges::{Directories, drop_privileges};
use anyhow::Context;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind, hint_of, kind_of};
use pgbox::execute::import::{ImportSource, import};
use pgbox::format;
use pgbox::plan::BackupSummary;
use pgbox::repository::Repository;
use pgbox::settings::Settings;
use pgbox::sys::{ReadRoot, open_value, standard_input};
use pgbox::ui::Ui;
use std::path::{Path, PathBuf};

/// Runs it. What is named is opened as whoever asked, and read as `postgres`.
pub(super) fn run(arguments: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    let is_dry_run = is_given(arguments, "dry-run");
    let path = arguments.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    let source = open(&path)?;
    let directories = if is_dry_run { Directories::LeaveAlone } else { Directories::Prepare };
    drop_privileges(settings, ui, directories)?;
    let place = &settings.backup_directory;
    if is_dry_run {
        let kind = match source {
            ImportSource::Archive(_) => "the archive",
            ImportSource::Directory(_) => "the directory",
        };
        ui.info(&format!("would import {kind} '{}' into '{}'", path.display(), place.display()));
        return Ok(0);
    }
    let workplace = Workplace::open(settings, ui)?;
    let tools = workplace.tools();
    // One that cannot be opened is told as that, before another is made in its place.
    tools.repository()?;
    let repository = Repository::open_or_create(place, settings.backup_key_file.as_deref())?;
    let note = arguments.get_one::<String>("note").cloned();
    let summary = import(source, &repository, note, tools.progress)
        .map_err(|error| with_hint_about_reading(error, &repository))
        .with_context(|| format!("import '{}'", path.display()))?;
    ui.info(&format!(
        "imported '{}' ({} files, {}) as {}: {} stored anew",
        path.display(),
        format::count(summary.file_count),
        format::bytes(summary.size_bytes),
        summary.name,
        format::bytes(summary.stored_bytes)
    ));
    warn_of_program(&summary, ui);
    if ui.is_json() {
        ui.json(&summary)?;
    } else {
        ui.hint(&format!(
            "`backup-postgresql restore {}` puts it in the place of the present data",
            summary.name
        ));
    }
    Ok(tell_damage(&summary, ui))
}

/// Says what to think of a cluster that was made elsewhere, before anything of it runs.
pub(super) fn warn_of_program(backup: &BackupSummary, ui: &Ui) {
    if backup.imported {
        ui.warn(&format!(
            "{} was imported, and a cluster is a program: once it is proven or restored, what is in it can run as the \
             server's user; go on only if you trust whoever made it",
            backup.name
        ));
    }
}

/// What root could read, `postgres` may not be allowed to.
fn with_hint_about_reading(error: anyhow::Error, repository: &Repository) -> anyhow::Error {
    let is_denied = |cause: &(dyn std::error::Error + 'static)| {
        let source: Option<&std::io::Error> = cause.downcast_ref();
        source.is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied)
    };
    if hint_of(&error).is_some() || !error.chain().any(is_denied) {
        return error;
    }
    let user = repository.owner().map_or_else(|_| "this user".to_owned(), |owner| owner.to_string());
    Failure::new(kind_of(&error), format!("{error:#}"))
        .hint(format!("what is in the directory has to be readable for {user}; nothing was imported"))
        .into()
}

fn open(path: &Path) -> Result<ImportSource, Failure> {
    let opened = if path == Path::new(STANDARD_STREAM) {
        standard_input().map(ImportSource::Archive)
    } else if path.is_dir() {
        ReadRoot::open(path).map(ImportSource::Directory)
    } else {
        open_value(path).map(ImportSource::Archive)
    };
    opened.map_err(|error| {
        Failure::new(Kind::Failed, format!("could not open '{}': {error}", path.display()))
            .hint("name a bundle, an archive of pg_basebackup, the directory that it wrote, or - for standard input")
    })
}
