//! Restoring by changing the present files, where most of them are the same, or there is no room for a second cluster.
//!
//! ```text
//! (no journal)       the present data is stored in the repository, as NAME; nothing has changed
//! rewriting          files are changed into those of the backup; no server can start
//! proving-rewritten  they are the backup's, the control file last, and have not been seen to serve yet
//! rewriting-back     files are changed back into those of NAME; no server can start
//! rewritten-back     they are those of NAME; the control file comes last
//! ```
//!
//! No server starts without a control file. It is taken away after the journal says that files are to be changed, and put
//! in place after the journal says that they are changed. So a control file that is in place in rewriting or rewriting-back
//! is of a whole cluster, of which nothing has been changed yet: if it is another than the journal's, another server ran,
//! and what that wrote stays.
//!
//! In each of them the repository has both states whole, and what is in place is not needed: whoever comes next goes on
//! in the same direction, comparing every file by its content. A backup that turns out to be damaged, a disk that fills
//! up, and a cluster that does not serve turn the direction round.
//!
//! What differs is not told by sizes and times of files that may have been damaged: the present data is stored first, and
//! what was stored of a file is compared with the backup's, hash by hash. Only in storing a file it need not be read
//! where its size and time are those of the newest backup, and only of a cluster that was found sound and at rest since
//! its clean stop was sealed. Of such a cluster WAL is not stored that it needs no more: what is archived already.

mod present;
mod readable;
mod rewriting;
mod survey;
mod target;

use anyhow::{Context, anyhow};
use chrono::Utc;

use self::rewriting::{Durability, FORMER_CONTROL_FILE, Rewriting, Rewritten};
use self::target::{Goal, Target};
use super::Tools;
use super::backup::former::{Former, newest_comparable};
use super::backup::{ColdOptions, Shortcuts, Stored, create_cold_by};
use super::decide::diagnose;
use super::from_backup::begin_reading;
use super::meanwhile::{another_server_ran, control_print, refuse_another_server};
use super::restored_wal::{FormerWal, RestoredWal};
use super::start::RECOVERY_SIGNAL;
use super::takeover::{Resumed, write_journal};
use crate::cluster::control_file;
use crate::cluster::inspect::JOURNAL_FILE;
use crate::cluster::seal::{self, Stop};
use crate::error::{Failure, Kind};
use crate::format::{bytes, count, counted};
use crate::pg::control_file::{CONTROL_FILE, ClusterState, ControlFile};
use crate::plan::delta::{Way, Wish};
use crate::plan::recovery::{InPlace, Plan};
use crate::plan::{
    BackupKind, BackupName, BackupSummary, ClusterCondition, Diagnosis, Journal, Phase, Severity,
};
use crate::repository::{BackupReader, Repository};
use crate::sys::{OWN_DIRECTORY, WriteRoot, step_point};

/// Chooses the way that a restore goes, and tells it in its plan.
///
/// # Errors
/// [`Kind::Refused`] where there is room for no way. Nothing was changed.
pub(super) fn choose_way(
    tools: &Tools,
    plan: Plan,
    backup: &BackupSummary,
    diagnosis: &Diagnosis,
    wish: Wish,
) -> anyhow::Result<Plan> {
    if matches!(diagnosis.condition, ClusterCondition::Absent | ClusterCondition::Empty) {
        return Ok(plan);
    }
    let survey = survey::survey(tools, backup).context("compare the present data with the backup")?;
    let way: Way = survey.choose(&diagnosis.condition, wish).map_err(Failure::from)?;
    Ok(plan.going(backup.name, &way, &survey))
}

/// Stores the present data, then changes its files into those of a backup. When this returns, the journal says that the
/// cluster has yet to be proven: call [`super::takeover::accept`] or [`put_back`].
///
/// # Errors
/// The present data is in place, whole, unless the error is of putting it back; then the journal says so, and the next
/// run goes on with that.
pub(super) fn replace(
    tools: &Tools,
    root: &WriteRoot,
    wanted: &InPlace,
    operation: &str,
    findings: Vec<String>,
) -> anyhow::Result<Journal> {
    let repository = tools.repository()?.context("find the repository")?;
    let name = wanted.backup;
    let control = control_print(root);
    // One whose table is damaged is found before anything is done for it.
    let reader = repository.reader(name).with_context(|| format!("open {name}"))?;
    let (aside, present) = store_present(tools, root, repository, wanted.aside, operation)
        .with_context(|| format!("store the present data as {}; nothing was changed", wanted.aside))?;
    step_point("the present data stored");
    let _reading = begin_reading(tools, repository)?;
    let former = repository.reader(aside).with_context(|| format!("open {aside}"))?;
    readable::prove(&former, Target { reader: &reader, goal: Goal::Restored }, tools.progress)?;
    step_point("what differs can be read");
    refuse_another_server(root, control.as_deref())?;
    let journal = Journal {
        operation: operation.to_owned(),
        aside: Some(aside),
        phase: Phase::Rewriting,
        findings,
        done: vec![format!("stored the former cluster as {aside}")],
        restored_from: Some(name),
        control,
        kept: None,
    };
    write_journal(root, &journal)?;
    step_point("journal begun");
    rewrite(tools, root, journal, Readers { target: Ok(reader), former: Some(&former) }, present)
}

/// Finishes what was cut short, in the direction that it was going; where that cannot be, in the other. Where another
/// server has written to the former cluster before anything was changed, that one stays; where it has to the new one, the
/// new one does.
///
/// # Errors
/// Where neither can be finished now; the journal stays, and the next run goes on.
pub(super) fn resume(tools: &Tools, root: &WriteRoot, mut journal: Journal) -> anyhow::Result<Resumed> {
    match journal.phase {
        Phase::Rewriting if another_server_ran(root, &journal) => {
            remove_journal(root)?;
            Ok(Resumed::GivenUp)
        }
        Phase::ProvingRewritten => resume_proving(tools, root, journal),
        Phase::RewritingBack if another_server_ran(root, &journal) => {
            journal.phase = Phase::ProvingRewritten;
            write_journal(root, &journal)?;
            Ok(Resumed::Replaced(journal))
        }
        Phase::RewritingBack => put_back(tools, root, journal).map(|()| Resumed::TakenBack),
        Phase::RewrittenBack => resume_rewritten_back(tools, root, &journal),
        _ => resume_rewriting(tools, root, journal),
    }
}

fn resume_rewriting(tools: &Tools, root: &WriteRoot, journal: Journal) -> anyhow::Result<Resumed> {
    let repository = tools.repository()?.ok_or_else(|| no_repository(tools))?;
    let _reading = begin_reading(tools, repository)?;
    let former = match aside_of(&journal).and_then(|aside| Ok(repository.reader(aside)?)) {
        Ok(former) => Some(former),
        // Then there is no way but forward.
        Err(error) => {
            tools.progress.note(&format!("what was stored of the former cluster cannot be read: {error:#}"));
            None
        }
    };
    let target = restored_from(&journal)
        .and_then(|name| repository.reader(name).with_context(|| format!("open {name}")));
    match rewrite(tools, root, journal, Readers { target, former: former.as_ref() }, Present::Unknown) {
        Ok(journal) => Ok(Resumed::Replaced(journal)),
        Err(error) if root.facts(JOURNAL_FILE)?.is_some() => Err(error),
        Err(error) => {
            tools.progress.note(&format!("it could not be finished, and was taken back: {error:#}"));
            Ok(Resumed::TakenBack)
        }
    }
}

/// Puts the control file in place where that is all that was left to do: the former one is still where it was taken to,
/// so that no server has started since.
fn resume_proving(tools: &Tools, root: &WriteRoot, journal: Journal) -> anyhow::Result<Resumed> {
    if root.facts(CONTROL_FILE)?.is_none() && root.facts(FORMER_CONTROL_FILE)?.is_some() {
        place_control_file(tools, root, restored_from(&journal)?, Goal::Restored)?;
    }
    root.discard(FORMER_CONTROL_FILE).context("remove the former control file")?;
    Ok(Resumed::Replaced(journal))
}

/// The former cluster is back but for its control file, or with it: then another server may have written to it since.
fn resume_rewritten_back(tools: &Tools, root: &WriteRoot, journal: &Journal) -> anyhow::Result<Resumed> {
    if root.facts(CONTROL_FILE)?.is_none() {
        place_control_file(tools, root, aside_of(journal)?, Goal::Former)?;
    }
    remove_journal(root)?;
    Ok(Resumed::TakenBack)
}

/// Puts the control file of a backup in place, whose other files are there.
fn place_control_file(tools: &Tools, root: &WriteRoot, name: BackupName, goal: Goal) -> anyhow::Result<()> {
    let repository = tools.repository()?.ok_or_else(|| no_repository(tools))?;
    let _reading = begin_reading(tools, repository)?;
    let reader = repository.reader(name).with_context(|| format!("open {name}"))?;
    let target = Target { reader: &reader, goal };
    Rewriting::new(root, target, None, tools.progress, Durability::Everything).write_control_file()
}

/// Changes the files back into those of the former cluster, which did not serve. Where clients may have written to them
/// before that was found, they are stored first, under the name that is returned.
///
/// # Errors
/// The journal stays, and the next run goes on with it.
pub(super) fn give_back(
    tools: &Tools,
    root: &WriteRoot,
    journal: Journal,
) -> anyhow::Result<Option<BackupName>> {
    let kept = store_what_was_written(tools, root, &journal)?;
    put_back(tools, root, journal)?;
    Ok(kept)
}

/// A server removes the signal before it lets anybody write (xlog.c, `StartupXLOG()`).
fn store_what_was_written(
    tools: &Tools,
    root: &WriteRoot,
    journal: &Journal,
) -> anyhow::Result<Option<BackupName>> {
    let has_ended_recovery = root.facts(RECOVERY_SIGNAL)?.is_none() && root.facts(CONTROL_FILE)?.is_some();
    if journal.phase != Phase::ProvingRewritten || !has_ended_recovery {
        return Ok(None);
    }
    let repository = tools.repository()?.ok_or_else(|| no_repository(tools))?;
    let time = Utc::now();
    let note =
        Some(format!("it did not serve after '{}', and clients may have written to it", journal.operation));
    let options = ColdOptions { name: BackupName::new(BackupKind::Replaced, time), time, note };
    let Stored { summary, unreadable } =
        create_cold_by(root, repository, &options, Shortcuts::default(), tools.progress)
            .context("store what clients may have written")?;
    if let Some(first) = unreadable.first() {
        tools.progress.note(&format!("not all of {} could be read: {first}", summary.name));
    }
    step_point("stored what did not serve");
    Ok(Some(summary.name))
}

/// Changes the files back into those of the former cluster.
///
/// # Errors
/// The journal stays, and the next run goes on with it.
pub(super) fn put_back(tools: &Tools, root: &WriteRoot, mut journal: Journal) -> anyhow::Result<()> {
    let repository = tools.repository()?.ok_or_else(|| no_repository(tools))?;
    let _reading = begin_reading(tools, repository)?;
    let aside = aside_of(&journal)?;
    // Before the first file changes: a repository that cannot be read leaves what is there to the next run.
    let reader = repository.reader(aside).with_context(|| format!("open {aside}"))?;
    if journal.phase != Phase::RewritingBack {
        journal.phase = Phase::RewritingBack;
        journal.control = control_print(root);
        write_journal(root, &journal)?;
        step_point("turned back");
    }
    let target = Target { reader: &reader, goal: Goal::Former };
    let rewriting = Rewriting::new(root, target, None, tools.progress, Durability::Everything);
    rewriting.change_files().context("change the files back")?;
    rewriting.put_on_disk()?;
    journal.phase = Phase::RewrittenBack;
    write_journal(root, &journal)?;
    step_point("all changed back");
    rewriting.write_control_file()?;
    remove_journal(root)?;
    step_point("the former cluster is back");
    Ok(())
}

fn remove_journal(root: &WriteRoot) -> anyhow::Result<()> {
    root.discard(JOURNAL_FILE).context("remove the journal")?;
    root.sync_directory(OWN_DIRECTORY).context("sync the journal's directory")
}

/// What is known of the files in place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    /// They are what was stored a moment ago, and on disk since a clean stop.
    AsStoredAtRest,
    /// They are what was stored a moment ago.
    AsStored,
    /// They have to be read.
    Unknown,
}

/// The two states, both in the repository.
struct Readers<'a> {
    /// What is restored; or why it cannot be read, which turns the direction round.
    target: anyhow::Result<BackupReader>,
    /// What was there before, where that can be read.
    former: Option<&'a BackupReader>,
}

/// Changes the files into those of the backup; on any error, back.
fn rewrite(
    tools: &Tools,
    root: &WriteRoot,
    mut journal: Journal,
    readers: Readers,
    present: Present,
) -> anyhow::Result<Journal> {
    let error = match change(tools, root, &mut journal, readers, present) {
        Ok(()) => return Ok(journal),
        Err(error) => error,
    };
    match put_back(tools, root, journal) {
        Ok(()) => Err(error),
        Err(second) => Err(error.context(format!(
            "could not finish the restore, nor put the former cluster back ({second:#}). No data is lost: both are whole in \
             the repository in '{}', and the next start that finds it there finishes this. No server can start before. What \
             failed first",
            tools.settings.backup_directory.display()
        ))),
    }
}

fn change(
    tools: &Tools,
    root: &WriteRoot,
    journal: &mut Journal,
    readers: Readers,
    present: Present,
) -> anyhow::Result<()> {
    let (reader, former) = (readers.target?, readers.former);
    let name = reader.summary().name;
    let target = Target { reader: &reader, goal: Goal::Restored };
    let known = former.filter(|_| present != Present::Unknown);
    let durability = match present {
        Present::AsStoredAtRest => Durability::Written,
        Present::AsStored | Present::Unknown => Durability::Everything,
    };
    let rewriting = Rewriting::new(root, target, known, tools.progress, durability);
    let rewritten = rewriting.change_files().with_context(|| format!("restore {name}"))?;
    add_histories(tools, &rewriting, former)?;
    root.write_durably(RECOVERY_SIGNAL, b"", 0o600).context("ask for a timeline of its own")?;
    rewriting.put_on_disk()?;
    conclude(root, journal, &rewritten)?;
    rewriting.write_control_file()?;
    for tablespace in target.layout().tablespaces() {
        tools.progress.note(&tablespace.to_string());
    }
    Ok(())
}

/// Adds the timeline histories that keep the restored cluster off every timeline that was used before.
fn add_histories(tools: &Tools, rewriting: &Rewriting, former: Option<&BackupReader>) -> anyhow::Result<()> {
    let repository = tools.repository()?.ok_or_else(|| no_repository(tools))?;
    let summary = rewriting.target.reader.summary();
    let archive = summary.system_identifier.map(|cluster| repository.wal_archive(cluster));
    let root = rewriting.root;
    let wal = RestoredWal { tools, root, directory: "pg_wal".into(), archive: archive.as_ref() };
    let backups = repository.backups().context("list the backups")?;
    // What was in `pg_wal` is read from what was stored of it: by now it is not there any more.
    let former = former.map_or(FormerWal::Unknown, FormerWal::Stored);
    for path in &wal.keep_timelines_apart(former, summary, &backups)? {
        rewriting.note_touched(path);
    }
    Ok(())
}

/// Notes that the files are those of the backup. A control file that is in place from now on belongs to them.
fn conclude(root: &WriteRoot, journal: &mut Journal, rewritten: &Rewritten) -> anyhow::Result<()> {
    let Rewritten { written, whole, removed_count } = rewritten;
    let name = journal.restored_from.map(|name| name.to_string()).unwrap_or_default();
    journal.done.push(format!(
        "restored {name} into the present files: {} of {} written, in {} of {}, and {} that it does not have removed",
        bytes(written.size_bytes),
        bytes(whole.size_bytes),
        count(written.file_count),
        counted(whole.file_count, "file"),
        counted(*removed_count, "other"),
    ));
    journal.phase = Phase::ProvingRewritten;
    write_journal(root, journal)?;
    step_point("all changed");
    Ok(())
}

/// Stores the present data. Returns the name that it has, and what is known of the files now.
fn store_present(
    tools: &Tools,
    root: &WriteRoot,
    repository: &Repository,
    name: BackupName,
    operation: &str,
) -> anyhow::Result<(BackupName, Present)> {
    let control = control_at_rest(tools, root)?;
    let newest = match &control {
        Some(control) => newest_comparable(repository, control)?,
        None => None,
    };
    let known =
        newest.as_ref().zip(control.as_ref()).and_then(|(newest, control)| Former::of(newest, control));
    let shortcuts = Shortcuts { known: known.as_ref(), stop: control.as_ref() };
    let note = Some(format!("replaced to {operation}"));
    let options = ColdOptions { name, time: Utc::now(), note };
    let Stored { summary, unreadable } =
        create_cold_by(root, repository, &options, shortcuts, tools.progress)?;
    if let Some(first) = unreadable.first() {
        let message =
            format!("not all of the present data can be read ({first}), so that it could not be put back");
        let hint = "make room for a second cluster on its disk: then it is set aside as it is";
        return Err(Failure::new(Kind::Failed, message).hint(hint).into());
    }
    let present = if control.is_some() { Present::AsStoredAtRest } else { Present::AsStored };
    Ok((summary.name, present))
}

/// The control file of a cluster whose files are as its last clean stop left them, and sound; `None` where that is not
/// proven, so that every file has to be read.
fn control_at_rest(tools: &Tools, root: &WriteRoot) -> anyhow::Result<Option<ControlFile>> {
    let diagnosis = diagnose(tools)?;
    let is_as_sealed = |diagnosis: &Diagnosis| {
        diagnosis
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Notice || !finding.code.starts_with("seal"))
    };
    if diagnosis.condition != ClusterCondition::Sound || !is_as_sealed(&diagnosis) {
        return Ok(None);
    }
    let Ok(control) = control_file::read(root) else { return Ok(None) };
    // The inspection has told of one that cannot be read.
    let is_sealed = matches!(seal::read(root, Stop::of(&control), false), Ok(Some(_)));
    Ok((control.state == ClusterState::ShutDown && is_sealed).then_some(control))
}

fn restored_from(journal: &Journal) -> anyhow::Result<BackupName> {
    journal.restored_from.context("read from the journal what is restored")
}

fn aside_of(journal: &Journal) -> anyhow::Result<BackupName> {
    journal.aside.ok_or_else(|| anyhow!("the journal does not say what was there before"))
}

/// Half-way between two states, both of which are in the repository.
fn no_repository(tools: &Tools) -> anyhow::Error {
    let path = tools.settings.backup_directory.display();
    let message = format!("could not finish a restore that was cut short: the backups are not in '{path}'");
    let hint =
        "mount them there, then run it again: the data is in them, as it was before and as it is to be";
    Failure::new(Kind::Refused, message).hint(hint).into()
}
