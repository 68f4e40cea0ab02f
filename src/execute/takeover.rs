//! Putting a staged cluster in place of the present one, entry by entry, so that a death at any moment leaves
//! something that the next start finishes.
//!
//! The data directory itself may be the root of a mount and cannot be renamed; its entries can. The journal
//! is written before the first entry moves and names the phase; within a phase, what has moved and what has
//! not can be told from where it is:
//!
//! ```text
//! setting-aside  whatever is still in place is old       in place  →  .pgbox/aside/NAME
//! moving-up      whatever is in place is new             .pgbox/new →  in place
//! proving        the new one is whole, and has not been seen to serve yet
//! taking-down    whatever is still in place is new       in place  →  .pgbox/failed
//! putting-back   whatever is in place is old             .pgbox/aside/NAME → in place
//! ```
//!
//! `global`, which has the control file, moves away first and arrives last, so that no other server can start on a part
//! of a cluster (PostgreSQL: `ReadControlFile()` ends with an error without one). A control file in place therefore is
//! of a whole cluster: in setting-aside and taking-down of one of which nothing has moved yet.
//!
//! The alternative, building the new cluster beside `PGDATA` and exchanging two directories, was refused: it
//! cannot be done across a mount's root, and it needs leave to write outside the data directory.

use super::meanwhile::{another_server_ran, control_print};
use super::staging::STAGING;
use super::start::RECOVERY_SIGNAL;
use crate::cluster::inspect::{ASIDE_DIRECTORY, JOURNAL_FILE};
use crate::error::{Failure, Kind};
use crate::pg::layout::{Use, use_of};
use crate::plan::{BackupKind, BackupName, Journal, Phase};
use crate::sys::{NewWalRoot, OWN_DIRECTORY, OwnDirectory, WriteRoot, step_point};
use anyhow::{Context, bail};
use chrono::Utc;
use std::io;
use std::path::{Path, PathBuf};

/// Where a cluster that did not serve is moved before it is discarded.
const FAILED: &str = ".pgbox/failed";

/// Without either of these no server starts (miscinit.c, `ValidatePgVersion()`; xlog.c, `ReadControlFile()`).
const FIRST_ASKED_FOR: [&str; 2] = ["global", "PG_VERSION"];

/// Entries at the top that belong to the mount or to the project around it, not to the cluster.
pub(in crate::execute) const STAYING: [&str; 4] = [OWN_DIRECTORY, "lost+found", ".gitkeep", ".snapshot"];

/// Puts what is in staging in place; what is there now goes to `.pgbox/aside/NAME`.
///
/// Everything in staging must be on disk already. When this returns, the new cluster is in place and the
/// journal says that it has yet to be proven: call [`accept`] or [`undo`].
pub fn take_over(root: &WriteRoot, journal: Journal) -> anyhow::Result<Journal> {
    write_journal(root, &journal)?;
    step_point("journal begun");
    advance(root, journal)
}

/// Sets the present entries aside. One that cannot be moved, as the root of a mount, brings those back that were.
fn set_aside(root: &WriteRoot, mut journal: Journal) -> anyhow::Result<Journal> {
    if let Some(name) = journal.aside
        && let Err(error) = move_entries(root, Path::new("."), &aside_path(name))
    {
        journal.phase = Phase::PuttingBack;
        write_journal(root, &journal)?;
        put_back(root, journal).context("put back what had been set aside")?;
        return Err(error.context("set the present cluster aside"));
    }
    step_point("all set aside");
    journal.phase = Phase::MovingUp;
    write_journal(root, &journal)?;
    Ok(journal)
}

/// What finishing a replacement came to that was cut short.
#[derive(Debug)]
pub(in crate::execute) enum Resumed {
    /// The new cluster is in place, and has yet to be proven.
    Replaced(Journal),
    /// The former cluster is in place again.
    TakenBack,
    /// The former cluster is in place, with what another server wrote to it since.
    GivenUp,
}

/// Finishes a replacement that was cut short, in the direction that it was going: a staged cluster was whole
/// before the first entry moved, so forward is always possible. Where another server has written to the former cluster
/// since, that one stays; where it has to the new one, the new one does.
pub(in crate::execute) fn resume(root: &WriteRoot, mut journal: Journal) -> anyhow::Result<Resumed> {
    match journal.phase {
        Phase::SettingAside if another_server_ran(root, &journal) => {
            give_up(root, &journal)?;
            Ok(Resumed::GivenUp)
        }
        Phase::SettingAside | Phase::MovingUp | Phase::Proving => {
            advance(root, journal).map(Resumed::Replaced)
        }
        Phase::TakingDown if another_server_ran(root, &journal) => {
            journal.phase = Phase::Proving;
            write_journal(root, &journal)?;
            Ok(Resumed::Replaced(journal))
        }
        Phase::TakingDown | Phase::PuttingBack => put_back(root, journal).map(|()| Resumed::TakenBack),
        Phase::Rewriting | Phase::ProvingRewritten | Phase::RewritingBack | Phase::RewrittenBack => {
            bail!("'{}' changes the files in place, and moves none", journal.operation)
        }
    }
}

/// Drops a replacement of which nothing has moved yet.
fn give_up(root: &WriteRoot, journal: &Journal) -> anyhow::Result<()> {
    root.discard(JOURNAL_FILE).context("remove the journal")?;
    root.sync_directory(OWN_DIRECTORY).context("sync the journal's directory")?;
    if let Some(aside) = journal.aside.map(aside_path)
        && root.facts(&aside)?.is_some()
        && root.entries(&aside)?.is_empty()
    {
        root.discard(&aside).context("remove the empty directory")?;
    }
    root.discard(STAGING).context("remove the staging directory")
}

fn advance(root: &WriteRoot, mut journal: Journal) -> anyhow::Result<Journal> {
    if journal.phase == Phase::SettingAside {
        journal = set_aside(root, journal)?;
    }
    if journal.phase == Phase::MovingUp {
        move_entries(root, Path::new(STAGING), Path::new(".")).context("move the new cluster into place")?;
        step_point("all moved up");
        root.set_own_mode(0o700).context("set the mode of the data directory")?;
        journal.phase = Phase::Proving;
        journal.control = control_print(root);
        write_journal(root, &journal)?;
    }
    Ok(journal)
}

/// The new cluster serves: the replacement is over. What was set aside stays until the repository has it.
///
/// The server may run already: nothing outside pgbox's own directory is touched. The journal goes first, so that
/// a server that has served is never taken back.
pub fn accept(data_directory: &Path) -> anyhow::Result<()> {
    let own = OwnDirectory::open(data_directory).context("open pgbox's own directory")?;
    if let Ok(wal) = std::fs::read_link(data_directory.join("pg_wal")) {
        NewWalRoot::release(&data_directory.join(wal)).context("keep the WAL of the new cluster")?;
    }
    own.discard("journal.json").context("remove the journal")?;
    step_point("journal removed");
    own.sync().context("sync the journal's directory")?;
    own.discard("new").context("remove the staging directory")
}

/// The new cluster does not serve: the old entries come back, and the new ones are discarded. Where clients may have
/// written to the new cluster before it was found not to serve, it is kept as well, under the name that is returned.
pub fn undo(root: &WriteRoot, mut journal: Journal) -> anyhow::Result<Option<BackupName>> {
    let kept = if may_have_taken_rows(root, &journal)? { Some(free_name(root)?) } else { None };
    journal.kept = kept;
    journal.phase = Phase::TakingDown;
    journal.control = control_print(root);
    write_journal(root, &journal)?;
    step_point("turned back");
    put_back(root, journal)?;
    Ok(kept)
}

/// Whether clients may have committed to the new cluster: its server came as far as to write the control file, and had no
/// recovery before it, or had ended it. It removes the signal before it lets anybody write (xlog.c, `StartupXLOG()`).
fn may_have_taken_rows(root: &WriteRoot, journal: &Journal) -> anyhow::Result<bool> {
    let is_written = journal.control.is_some() && another_server_ran(root, journal);
    Ok(is_written && root.facts(RECOVERY_SIGNAL)?.is_none())
}

/// A name that nothing that was set aside has.
fn free_name(root: &WriteRoot) -> anyhow::Result<BackupName> {
    let mut name = BackupName::new(BackupKind::Replaced, Utc::now());
    while root.facts(aside_path(name))?.is_some() {
        name = name.next_of_same_second().context("name the cluster that is kept")?;
    }
    Ok(name)
}

fn put_back(root: &WriteRoot, mut journal: Journal) -> anyhow::Result<()> {
    if journal.phase == Phase::TakingDown {
        move_entries(root, Path::new("."), Path::new(FAILED)).context("take the new cluster down")?;
        step_point("taken down");
        journal.phase = Phase::PuttingBack;
        write_journal(root, &journal)?;
    }
    if let Some(name) = journal.aside {
        let aside = aside_path(name);
        move_entries(root, &aside, Path::new(".")).context("put the old cluster back")?;
        step_point("put back");
        root.discard(&aside).context("remove the empty directory")?;
    }
    if let Some(kept) = journal.kept
        && root.facts(FAILED)?.is_some()
    {
        root.rename(FAILED, aside_path(kept)).context("keep the cluster that did not serve")?;
        root.sync_directory(ASIDE_DIRECTORY).context("sync the directory of what was set aside")?;
        step_point("kept what did not serve");
    }
    root.discard(JOURNAL_FILE).context("remove the journal")?;
    root.sync_directory(OWN_DIRECTORY).context("sync the journal's directory")?;
    root.discard(FAILED).context("discard the cluster that did not serve")
}

/// Where a set-aside cluster is.
pub fn aside_path(name: BackupName) -> PathBuf {
    Path::new(ASIDE_DIRECTORY).join(name.to_string())
}

pub(super) fn write_journal(root: &WriteRoot, journal: &Journal) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(journal).context("write the journal")?;
    root.write_durably(JOURNAL_FILE, &text, 0o600).context("write the journal")
}

/// Moves all entries that belong to a cluster from one directory to another, and makes both durable. An
/// entry that has moved already is not in `from` any more, so that this can be cut short and run again.
fn move_entries(root: &WriteRoot, from: &Path, to: &Path) -> anyhow::Result<()> {
    if to != Path::new(".") {
        root.create_directories(to, 0o700).with_context(|| format!("make '{}'", to.display()))?;
    }
    if root.facts(from)?.is_none() {
        return Ok(());
    }
    let mut names: Vec<String> = root.entries(from)?.into_iter().map(|entry| entry.name).collect();
    names.retain(|name| !STAYING.contains(&name.as_str()));
    // What a server asks for first leaves first, and arrives last.
    let rank = |name: &String| {
        FIRST_ASKED_FOR.iter().position(|first| first == name).unwrap_or(FIRST_ASKED_FOR.len())
    };
    names.sort_by_key(rank);
    if to == Path::new(".") {
        names.reverse();
    }
    for (number, name) in names.iter().enumerate() {
        // A power cut must not keep a later move and lose an earlier one, on either side of the one that counts.
        if FIRST_ASKED_FOR.contains(&name.as_str()) || number == 1 {
            sync_both(root, from, to)?;
        }
        let target = to.join(name);
        match root.rename(from.join(name), &target) {
            Ok(()) => {}
            Err(error) if stays(root, name, &target, &error) => continue,
            Err(error) => return Err(cannot_move(root, name, &error)),
        }
        if number == 0 {
            step_point("the first entry moved");
        }
        if number == 1 {
            step_point("some entries moved");
        }
    }
    sync_both(root, from, to)
}

fn sync_both(root: &WriteRoot, from: &Path, to: &Path) -> anyhow::Result<()> {
    root.sync_directory(from).context("sync a directory")?;
    root.sync_directory(to).context("sync a directory")
}

/// Says whether an entry that could not be moved may stay where it is: somebody else's directory, which only its owner can
/// move (rename(2)), and the copy of it that a backup has, which does not take its place. No server needs either there.
fn stays(root: &WriteRoot, name: &str, target: &Path, error: &io::Error) -> bool {
    let is_kept_from_us = error.kind() == io::ErrorKind::PermissionDenied;
    let is_there_already = || matches!(root.facts(target), Ok(Some(_)));
    use_of(name) == Use::Nothing && (is_kept_from_us || is_there_already())
}

fn cannot_move(root: &WriteRoot, name: &str, error: &io::Error) -> anyhow::Error {
    let message = format!("could not move '{}': {error}", root.path().join(name).display());
    let failure = Failure::new(Kind::Failed, message);
    match error.kind() {
        io::ErrorKind::ResourceBusy => failure
            .hint("it is a mount of its own: mount it elsewhere, and let a symbolic link lead there")
            .into(),
        _ => failure.into(),
    }
}
