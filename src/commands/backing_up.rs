//! Making, listing and removing backups, for the two commands that do: `backup-postgresql` and `maintenance`.

use super::arguments::is_given;
use super::verifying::verified_of;
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::ArgMatches;
use pgbox::cluster::inspect::backed_up_to;
use pgbox::cluster::session::ServerAddress;
use pgbox::error::{Failure, Kind, kind_of};
use pgbox::execute::backup::{self, CreateOptions, CreateOutcome};
use pgbox::execute::branching::archive_conflict;
use pgbox::execute::cleanup::{clean_up, plan_cleanup};
use pgbox::execute::scrub::scrub_before_backup;
use pgbox::execute::set_aside::store_set_aside;
use pgbox::execute::start::superuser_login;
use pgbox::execute::stop::running_server;
use pgbox::execute::{LOOKING_PATIENCE, Tools, open_for_server};
use pgbox::format;
use pgbox::plan::archive::WalRemoval;
use pgbox::plan::order::from_the_future;
use pgbox::plan::{BackupFormat, BackupKind, BackupName, BackupSummary, Condition, Verdict};
use pgbox::repository::{Repository, SweepReport};
use pgbox::sys::{ReadRoot, WriteRoot};
use pgbox::ui::{Table, Ui};
use std::path::Path;

/// How many damaged pages are told one by one.
const MOST_TOLD: usize = 20;

/// Makes a backup of the running server and lets go of old ones.
pub(super) fn create(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let path = &tools.settings.data_directory;
    let Some(pid) = running_server(tools)? else {
        return Err(no_server(path).into());
    };
    let address = ServerAddress::read(&ReadRoot::open(path)?).context("read where the server listens")?;
    if is_given(arguments, "dry-run") {
        ui.info(&format!(
            "would back up the server (process {pid}) into '{}'",
            tools.settings.backup_directory.display()
        ));
        return cleanup_plan(tools, ui);
    }
    let note = arguments.get_one::<String>("note").cloned();
    // Whoever has everything read wants to know that it reads, and the verdict is the backup's.
    let full_read = is_given(arguments, "full-read");
    let force = full_read || is_given(arguments, "force");
    let options = CreateOptions { note, force, full_read, ..CreateOptions::now() };
    back_up(tools, &address, &options, ui)
}

/// Why there is no server to back up, as far as can be seen from here.
fn no_server(path: &Path) -> Failure {
    if let Ok(Some(holder)) = WriteRoot::lock_holder(path) {
        let holder = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
        let message = format!("cannot back up: '{}' is in use by {holder}", path.display());
        return Failure::new(Kind::Busy, message).hint("run it where that server runs");
    }
    let message = format!("cannot back up: no server runs in '{}'", path.display());
    Failure::new(Kind::Failed, message).hint("start it with `maintenance start`")
}

/// The backup that follows a start. That it fails is told, and does not make the start a failure.
pub(super) fn back_up_after_start(tools: &Tools, address: &ServerAddress, ui: &Ui) {
    // One that hangs must not keep the command from its end: the server serves.
    let answered = open_for_server(tools.settings).map_err(anyhow::Error::from);
    let made = answered.and_then(|_| back_up(tools, address, &CreateOptions::now(), ui));
    if let Err(error) = made {
        ui.warn("the server runs, but no backup was made");
        ui.report_error(&error);
    }
}

fn back_up(tools: &Tools, address: &ServerAddress, options: &CreateOptions, ui: &Ui) -> anyhow::Result<u8> {
    let repository = store_what_was_set_aside(tools, ui)?;
    tell_other_repository(tools, &repository, ui);
    scrub_before_backup(tools, &repository, Utc::now());
    let mut client = address.connect(&superuser_login(tools))?;
    let data = ReadRoot::open(&tools.settings.data_directory).context("open the data directory")?;
    tell_clock(&repository, options.time, ui)?;
    tell_conflict(&repository, &data, ui);
    let outcome = backup::create(&mut client, &data, &repository, options, tools.progress)?;
    let status = tell_outcome(&outcome, ui)?;
    if let CreateOutcome::Created(made) = &outcome {
        let cleaned = clean_up(tools, &repository, Some(made.name)).context("remove old backups")?;
        for name in &cleaned.backups {
            ui.info(&format!("removed {name}, which retention lets go"));
        }
        cleaned.wal.iter().for_each(|removal| ui.info(&format!("removed {}", words_of(removal))));
        tell_swept(&cleaned.swept, ui);
    }
    Ok(status)
}

/// Warns of backups from the future, whose names and times are wrong, or else the clock is wrong now.
fn tell_clock(repository: &Repository, now: DateTime<Utc>, ui: &Ui) -> anyhow::Result<()> {
    let backups = repository.backups().context("list the backups")?;
    for backup in from_the_future(&backups, now) {
        ui.warn(&format!(
            "{} was made at a time that is still to come: a clock was wrong then, or is now",
            backup.name
        ));
        ui.hint("backups are ordered by their WAL and not by their time; check the clock of this machine");
    }
    Ok(())
}

/// Warns that the data directory was put back to an earlier state while its server ran on, or before pgbox could see it.
fn tell_conflict(repository: &Repository, data: &ReadRoot, ui: &Ui) {
    match archive_conflict(repository, data) {
        Ok(None) => {}
        Ok(Some(conflict)) => {
            ui.warn(&format!("WAL of another history of this cluster has the names of its own: {conflict}"));
            ui.hint("`maintenance restart` lets it take a timeline of its own");
        }
        Err(error) => ui.warn(&format!("could not compare the cluster with the archived WAL: {error:#}")),
    }
}

/// An empty directory where a disk is not mounted becomes a repository like any other.
fn tell_other_repository(tools: &Tools, repository: &Repository, ui: &Ui) {
    let data = ReadRoot::open(&tools.settings.data_directory).ok();
    let former = data.as_ref().and_then(backed_up_to);
    let present = repository.identity().map(|identity| &identity.id);
    if let Some(former) = former.filter(|former| Some(former) != present) {
        let place = repository.path().display();
        ui.warn(&format!(
            "this cluster was backed up to another repository until now ({former}), which is not in '{place}'"
        ));
        ui.hint("if its disk is only not mounted, mount it there: what is backed up meanwhile will be hidden below it");
    }
}

/// Takes clusters that were set aside into the repository, and says so.
pub(super) fn store_what_was_set_aside(tools: &Tools, ui: &Ui) -> anyhow::Result<Repository> {
    let repository = open_repository(tools)?;
    for name in store_set_aside(tools, &repository)? {
        ui.info(&match name.kind() {
            // A restore looks at what it built, and refuses what is damaged.
            BackupKind::Damaged => format!("stored the damaged data as {name}, where its files are kept"),
            BackupKind::Backup | BackupKind::Replaced => {
                format!("stored the former data as {name}; `backup-postgresql restore {name}` brings it back")
            }
        });
    }
    Ok(repository)
}

/// What a person would need to know if the backup directory cannot be written.
fn open_repository(tools: &Tools) -> anyhow::Result<Repository> {
    let settings = tools.settings;
    Ok(Repository::open_or_create(&settings.backup_directory, settings.backup_key_file.as_deref())?)
}

fn tell_outcome(outcome: &CreateOutcome, ui: &Ui) -> anyhow::Result<u8> {
    match outcome {
        CreateOutcome::Unchanged { newest } => {
            ui.info(&format!(
                "nothing changed since {newest}, so no new backup was made; --force makes one all the same"
            ));
            if ui.is_json() {
                ui.json(&serde_json::json!({ "unchanged_since": newest }))?;
            }
            Ok(0)
        }
        CreateOutcome::Created(summary) => {
            ui.info(&format!(
                "backed up {} files ({}) as {}: {}{} stored anew",
                format::count(summary.file_count),
                format::bytes(summary.size_bytes),
                summary.name,
                read_of(summary),
                format::bytes(summary.stored_bytes)
            ));
            if ui.is_json() {
                ui.json(summary)?;
            }
            Ok(tell_damage(summary, ui))
        }
    }
}

/// What had to be read of the files, where that was not all.
fn read_of(summary: &BackupSummary) -> String {
    match summary.reused_bytes {
        0 => String::new(),
        reused => format!("{} read, ", format::bytes(summary.size_bytes.saturating_sub(reused))),
    }
}

/// Damaged pages make a backup that is kept and marked, and a command that does not end with 0.
pub(super) fn tell_damage(summary: &BackupSummary, ui: &Ui) -> u8 {
    if summary.damaged_pages.is_empty() {
        return 0;
    }
    for page in summary.damaged_pages.iter().take(MOST_TOLD) {
        ui.error(&format!("damaged in the cluster itself: {page}"));
    }
    let untold = summary.damaged_pages.len().saturating_sub(MOST_TOLD);
    if untold > 0 {
        ui.error(&format!("and {untold} more; `backup-postgresql show {}` names them all", summary.name));
    }
    ui.hint(
        "the backup is kept and marked; older good backups are kept, too. `maintenance health` tells more",
    );
    Kind::VerificationFailed.exit_status()
}

/// Lists the backups, newest first.
pub(super) fn list(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let backups = match tools.repository() {
        Ok(Some(repository)) => repository.backups()?,
        Ok(None) => Vec::new(),
        Err(error) => {
            // Anything else says why the directory cannot be looked into; not to be tried once more where it hangs.
            if matches!(kind_of(&error), Kind::Usage | Kind::Refused) {
                tell_visible(tools, ui)?;
            }
            return Err(error);
        }
    };
    if backups.is_empty() && !ui.is_json() {
        ui.info(&format!("there are no backups in '{}'", tools.settings.backup_directory.display()));
        ui.hint("`backup-postgresql create` makes one");
        return Ok(0);
    }
    tell_backups(&backups, ui)?;
    Ok(0)
}

/// What can be seen without the key, where it is the key that is missing or wrong.
fn tell_visible(tools: &Tools, ui: &Ui) -> anyhow::Result<()> {
    let settings = tools.settings;
    let path = &settings.backup_directory;
    match Repository::open_within(LOOKING_PATIENCE, path, settings.backup_key_file.as_deref()) {
        Err(error) if error.is_about_key() && Repository::is_encrypted(path)? => {
            tell_backups(&Repository::visible_without_key(path)?, ui)
        }
        _ => Ok(()),
    }
}

fn tell_backups(backups: &[BackupSummary], ui: &Ui) -> anyhow::Result<()> {
    if ui.is_json() {
        return ui.json(&backups);
    }
    let mut table = Table::new()
        .column("NAME")
        .column("MADE")
        .figures("SIZE")
        .figures("NEW")
        .column("VERIFIED")
        .column("STATE");
    for backup in backups {
        let made = format::time(backup.created_at);
        let (size, new) = (figure_of(backup, backup.size_bytes), figure_of(backup, backup.stored_bytes));
        table.row([backup.name.to_string(), made, size, new, verified_of(backup), state_of(backup)]);
    }
    ui.table(&table)
}

/// A size that a backup tells of itself.
fn figure_of(backup: &BackupSummary, size_bytes: u64) -> String {
    match backup.condition {
        Condition::Complete => format::bytes(size_bytes),
        Condition::Unreadable { .. } => "?".to_owned(),
    }
}

/// What stands in the list beside a backup; that it is pinned, too.
fn state_of(backup: &BackupSummary) -> String {
    let state = condition_of(backup);
    if backup.pin.is_some() { format!("{state}, pinned") } else { state }
}

fn condition_of(backup: &BackupSummary) -> String {
    match (&backup.condition, backup.damaged_pages.len(), backup.format) {
        (Condition::Unreadable { reason }, ..) => format!("unreadable: {reason}"),
        (_, 1.., _) => format!("{} damaged pages", backup.damaged_pages.len()),
        (_, 0, BackupFormat::ScriptCopy) => "complete, a plain copy".to_owned(),
        (_, 0, BackupFormat::Chunked) => match backup.name.kind() {
            BackupKind::Backup => "complete",
            BackupKind::Damaged => "set aside, damaged",
            BackupKind::Replaced => "set aside",
        }
        .to_owned(),
    }
}

/// Keeps a backup from being removed.
pub(super) fn pin(arguments: &ArgMatches, tools: &Tools, name: BackupName, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        ui.info(&format!("would pin {name}"));
        return Ok(0);
    }
    let repository = tools.repository()?.context("find the repository")?;
    let lock = repository.lock_shared("pinning a backup").context("lock the repository")?;
    repository.pin(&lock, name, arguments.get_one::<String>("note").cloned(), Utc::now())?;
    ui.info(&format!("pinned {name}: no cleanup removes it until `backup-postgresql unpin {name}`"));
    Ok(0)
}

/// Lets a backup be removed again.
pub(super) fn unpin(arguments: &ArgMatches, tools: &Tools, name: BackupName, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        ui.info(&format!("would unpin {name}"));
        return Ok(0);
    }
    let repository = tools.repository()?.context("find the repository")?;
    let lock = repository.lock_shared("unpinning a backup").context("lock the repository")?;
    if repository.unpin(&lock, name)? {
        ui.info(&format!("unpinned {name}: a cleanup removes it when its time comes"));
    } else {
        ui.info(&format!("{name} was not pinned"));
    }
    Ok(0)
}

/// Removes what retention lets go, and says why each backup goes or stays.
pub(super) fn cleanup(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let Some(repository) = tools.repository()? else {
        ui.info("there are no backups to clean up");
        return Ok(0);
    };
    let status = cleanup_plan(tools, ui)?;
    if is_given(arguments, "dry-run") {
        return Ok(status);
    }
    let cleaned = clean_up(tools, repository, None)?;
    ui.info(&format!("removed {}", format::counted(cleaned.backups.len(), "backup")));
    cleaned.wal.iter().for_each(|removal| ui.info(&format!("removed {}", words_of(removal))));
    tell_swept(&cleaned.swept, ui);
    Ok(status)
}

fn cleanup_plan(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let Some(repository) = tools.repository()? else { return Ok(0) };
    let plan = plan_cleanup(tools, repository)?;
    if ui.is_json() {
        ui.json(&plan)?;
        return Ok(0);
    }
    let mut table = Table::new().column("NAME").column("VERDICT").column("WHY");
    for decision in &plan.decisions {
        let verdict = match decision.verdict {
            Verdict::Keep => "keep",
            Verdict::Remove => "remove",
        };
        table.row([decision.name.to_string(), verdict.to_owned(), decision.reason.clone()]);
    }
    if !table.is_empty() {
        ui.table(&table)?;
    }
    plan.wal.iter().for_each(|removal| ui.info(&format!("to be removed: {}", words_of(removal))));
    Ok(0)
}

/// Archived WAL that goes, in one line.
fn words_of(removal: &WalRemoval) -> String {
    let first = removal.names.first().map(String::as_str).unwrap_or_default();
    let last = removal.names.last().filter(|last| last.as_str() != first);
    let range = last.map_or_else(|| first.to_owned(), |last| format!("{first} to {last}"));
    format!(
        "{} of archived WAL ({}) of cluster {}, {range}: {}",
        format::counted(removal.names.len(), "file"),
        format::bytes(removal.stored_bytes),
        removal.system_identifier,
        removal.reason
    )
}

fn tell_swept(swept: &SweepReport, ui: &Ui) {
    if swept.removed_packs > 0 {
        ui.info(&format!(
            "swept {}, {} freed",
            format::counted(swept.removed_packs, "pack"),
            format::bytes(swept.freed_bytes)
        ));
    }
    if swept.removed_packs == 0 && swept.repacked_packs > 0 {
        ui.info(&format!("freed {}", format::bytes(swept.freed_bytes)));
    }
    if swept.repacked_packs > 0 {
        ui.info(&format!(
            "repacked {} of which less than half was needed",
            format::counted(swept.repacked_packs, "pack")
        ));
    }
    if let Some(reason) = &swept.not_repacked_because {
        ui.warn(&format!("packs of which little is needed were left as they are: {reason}"));
    }
    if let Some(reason) = &swept.packs_kept_because {
        ui.warn(&format!("no pack was swept: {reason}"));
    }
}
