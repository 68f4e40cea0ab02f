//! Repairs in place. Each keeps what was there, below `.pgbox/aside`, can be cut short at any moment and carried
//! out again, and takes the proof that it loses nothing from the inspection that asked for it.

use super::Tools;
use super::aside::{keep_content, keep_copy, set_aside_file};
use super::configuration::sound_configuration;
use super::fetched_wal::{fetch_wal_from, replace_from_archive};
use super::healing::heal_from_backup;
use super::linked::{Elsewhere, is_there, parent_of};
use super::single_user::run_single_user;
use crate::cluster::inspect::{ASIDE_DIRECTORY, follow};
use crate::cluster::session::quote_identifier;
use crate::cluster::wal_gap::{self, WalGap};
use crate::cluster::{control_file, seal};
use crate::error::{Failure, Kind};
use crate::pg::Lsn;
use crate::pg::wal::{self, WalFileName};
use crate::plan::recovery::Action;
use crate::plan::{FileContent, RelationName};
use crate::sys::{EntryKind, OWN_DIRECTORY, Tool, WriteRoot, step_point};
use anyhow::Context;
use chrono::Utc;
use std::io;
use std::path::Path;

/// Carries a repair out and returns what was done, in the past tense; `None` for an action that is no repair.
///
/// # Errors
/// What could not be done. What was there is there still, or below `.pgbox/aside`.
pub(super) fn repair(action: &Action, root: &WriteRoot, tools: &Tools) -> anyhow::Result<Option<String>> {
    unseal(action, root).context("take what is repaired out of the seal of the last stop")?;
    let done = match action {
        Action::SetMode { place, mode } => set_mode(root, place, *mode)?,
        Action::RecreateDirectory { place } => recreate_directory(root, place)?,
        Action::SetAsideFile { place } => set_aside(root, place)?,
        Action::TakeFromArchive { place } => take_from_archive(root, tools, place)?,
        Action::WriteFile { place, content } => write_file(root, place, content)?,
        Action::RestoreConfiguration { place } => restore_configuration(root, tools, place)?,
        Action::HealFromBackup { backup, place } => heal_from_backup(root, tools, *backup, place)?,
        Action::ResetWal => reset_wal(root, tools)?,
        Action::RecreateTemplate0 => recreate_template0(root, tools)?,
        Action::Reindex { database, indexes } => reindex(root, tools, database, indexes)?,
        Action::SetOwner { uid } => return Err(cannot_change_owners(root, *uid)),
        _ => return Ok(None),
    };
    Ok(Some(done))
}

/// What is changed here would otherwise count as damage, were we killed before the server starts.
fn unseal(action: &Action, root: &WriteRoot) -> io::Result<()> {
    match action {
        Action::SetAsideFile { place } | Action::TakeFromArchive { place } => {
            seal::pass_over(root, place, None)
        }
        Action::WriteFile { place, content } => seal::pass_over(root, place, Some(&content.bytes)),
        // A server, or as good as one, is at work on all files.
        Action::ResetWal | Action::RecreateTemplate0 | Action::Reindex { .. } => seal::remove(root),
        _ => Ok(()),
    }
}

fn set_mode(root: &WriteRoot, place: &str, mode: u32) -> anyhow::Result<String> {
    root.set_mode(place, mode).with_context(|| format!("set the mode of '{place}'"))?;
    Ok(format!("set the mode of '{place}' to {mode:04o}"))
}

fn recreate_directory(root: &WriteRoot, place: &str) -> anyhow::Result<String> {
    let make = || format!("make the directory '{place}'");
    if let Some(elsewhere) = Elsewhere::of(root, place).with_context(make)? {
        let moved = match elsewhere.directory.facts(&elsewhere.name).with_context(make)? {
            Some(facts) if facts.kind != EntryKind::Directory => {
                format!(", and {} before", set_aside(root, place)?)
            }
            _ => String::new(),
        };
        elsewhere.directory.create_directories(&elsewhere.name).with_context(make)?;
        elsewhere.directory.sync_directory(".").context("sync a directory")?;
        return Ok(format!("made the directory '{place}' again{moved}"));
    }
    // A link that leads nowhere, or a file: nothing can be made under that name before it is out of the way.
    let in_the_way = root.facts(place).with_context(|| format!("look at '{place}'"))?;
    let moved = match in_the_way.filter(|facts| facts.kind != EntryKind::Directory) {
        Some(_) => format!(", and {} before", set_aside(root, place)?),
        None => String::new(),
    };
    root.create_directories(place, 0o700).with_context(make)?;
    root.sync_directory(parent_of(place)).context("sync a directory")?;
    Ok(format!("made the directory '{place}' anew{moved}"))
}

fn set_aside(root: &WriteRoot, place: &str) -> anyhow::Result<String> {
    let target = set_aside_file(root, place)?;
    Ok(format!("moved '{place}' to '{}'", target.display()))
}

/// Takes a file of `pg_wal` from the archive. The server can do without it, so that an archive that is out of reach keeps
/// nothing from starting.
fn take_from_archive(root: &WriteRoot, tools: &Tools, place: &str) -> anyhow::Result<String> {
    let name = place.rsplit('/').next().unwrap_or(place);
    let is_there = is_there(root, place).with_context(|| format!("look at '{place}'"))?;
    if !is_there && wal::is_segment_name(name) {
        return fetch_wal_from(root, tools, place);
    }
    match replace_from_archive(root, tools, place) {
        Ok(Some(kept)) => {
            Ok(format!("took '{place}' from the WAL archive; what it held is in '{}'", kept.display()))
        }
        Ok(None) => Ok(format!("{}; the WAL archive has none", set_aside(root, place)?)),
        Err(error) => {
            Ok(format!("{}; it could not be taken from the WAL archive: {error:#}", set_aside(root, place)?))
        }
    }
}

fn write_file(root: &WriteRoot, place: &str, content: &FileContent) -> anyhow::Result<String> {
    let kept = keep_copy(root, place)?;
    step_point("a copy kept");
    root.write_durably(place, &content.bytes, 0o600).with_context(|| format!("write '{place}'"))?;
    let kept = kept.map(|kept| format!("; what it held is in '{}'", kept.display())).unwrap_or_default();
    Ok(format!("wrote '{place}', {}{kept}", content.description))
}

fn restore_configuration(root: &WriteRoot, tools: &Tools, place: &str) -> anyhow::Result<String> {
    let sound = sound_configuration(root, tools, place)?;
    let kept = keep_copy(root, place)?;
    step_point("a copy kept");
    root.write_durably(place, &sound.bytes, 0o600).with_context(|| format!("write '{place}'"))?;
    let kept = kept.map(|kept| format!("; the broken one is in '{}'", kept.display())).unwrap_or_default();
    Ok(format!("wrote '{place}' {}{kept}", sound.description))
}

/// Begins a new WAL. What is left of the old one is kept: `pg_resetwal` removes it (`pg_resetwal.c`,
/// `KillExistingXLOG()`).
fn reset_wal(root: &WriteRoot, tools: &Tools) -> anyhow::Result<String> {
    recreate_directory(root, "pg_wal/archive_status")?;
    let kept = keep_wal(root).context("keep what is left of the WAL")?;
    step_point("WAL kept");
    note_gap(root).context("note that the archive will lack the WAL that is lost")?;
    Tool::new(tools.installation.program("pg_resetwal"))
        .argument("-D")
        .argument(root.path())
        .run()
        .context("begin a new WAL")?;
    step_point("WAL begun anew");
    root.sync_file_system().context("write the new WAL to disk")?;
    Ok(match kept {
        0 => "began a new WAL after the last checkpoint".to_owned(),
        _ => format!(
            "began a new WAL after the last checkpoint; what was left of the old one is in '{ASIDE_DIRECTORY}/pg_wal'"
        ),
    })
}

/// Notes, before the new WAL is begun, that no archive will have all that comes before it: `pg_resetwal` goes on behind the
/// last segment that is there, and forgets which of them waited (`pg_resetwal.c`, `FindEndOfXLOG()` and
/// `KillExistingArchiveStatus()`).
fn note_gap(root: &WriteRoot) -> anyhow::Result<()> {
    let control = control_file::read(root).context("read the control file")?;
    let size = control.wal_segment_size;
    let needed = WalFileName::containing(control.checkpoint, control.timeline, size)?;
    let names = follow(root, "pg_wal")?.names(".")?;
    let there = names.iter().filter_map(|name| WalFileName::parse(name, size).ok());
    let last = there.map(|segment| segment.segment_number).fold(needed.segment_number, u64::max);
    let end = needed.numbered(last).next().map_or(Lsn::INVALID, WalFileName::start_lsn);
    let former = wal_gap::read(root.path()).unwrap_or_default();
    let reason = "the WAL after the last checkpoint was lost, and a new one was begun";
    let gap = WalGap::with(former, &needed.to_string(), end, reason, Utc::now());
    Ok(wal_gap::note(root.path(), &gap)?)
}

fn keep_wal(root: &WriteRoot) -> anyhow::Result<usize> {
    let directory = follow(root, "pg_wal")?;
    let kept = Path::new(ASIDE_DIRECTORY).join("pg_wal");
    root.create_directories(&kept, 0o700)?;
    let entries = directory.entries(".")?;
    let segments = entries.iter().filter(|entry| wal::is_segment_name(&entry.name));
    let mut count = 0;
    for segment in segments {
        keep_content(root, || directory.open_file(&segment.name), &kept.join(&segment.name))?;
        count += 1;
    }
    root.sync_directory(&kept)?;
    Ok(count)
}

/// The statements that build indexes anew.
pub(super) fn reindex_statements(indexes: &[RelationName]) -> Vec<String> {
    let statement = |index: &RelationName| {
        format!("REINDEX INDEX {}.{};", quote_identifier(&index.schema), quote_identifier(&index.name))
    };
    indexes.iter().map(statement).collect()
}

fn reindex(
    root: &WriteRoot,
    tools: &Tools,
    database: &str,
    indexes: &[RelationName],
) -> anyhow::Result<String> {
    tools.progress.begin("building indexes anew", None);
    let ran = run_single_user(tools, root, root.path(), database, &reindex_statements(indexes));
    tools.progress.end();
    ran.with_context(|| format!("build indexes of database '{database}' anew"))?;
    let names: Vec<String> = indexes.iter().map(ToString::to_string).collect();
    Ok(format!("built {} anew", names.join(", ")))
}

/// The statements that make template0 anew, as initdb makes it (initdb.c, `make_template0()`).
///
/// At no moment is there none: the new one takes the name of the old at once, and what is left if this is cut short
/// has a name of ours, and is removed by the next time.
const TEMPLATE0: [&str; 11] = [
    "DROP DATABASE IF EXISTS pgbox_template0_lost;",
    "DROP DATABASE IF EXISTS pgbox_template0_new;",
    "CREATE DATABASE pgbox_template0_new TEMPLATE template1 ALLOW_CONNECTIONS false;",
    "COMMENT ON DATABASE pgbox_template0_new IS 'unmodifiable empty database';",
    "REVOKE CREATE, TEMPORARY ON DATABASE pgbox_template0_new FROM public;",
    "BEGIN;",
    "UPDATE pg_database SET datname = 'pgbox_template0_lost', datistemplate = false WHERE datname = 'template0';",
    "UPDATE pg_database SET datname = 'template0', datistemplate = true WHERE datname = 'pgbox_template0_new';",
    "COMMIT;",
    "DROP DATABASE IF EXISTS pgbox_template0_lost;",
    "CHECKPOINT;",
];

fn recreate_template0(root: &WriteRoot, tools: &Tools) -> anyhow::Result<String> {
    tools.progress.begin("making template0 anew", None);
    let ran = run_single_user(tools, root, root.path(), "template1", &TEMPLATE0.map(str::to_owned));
    tools.progress.end();
    ran.context("make template0 anew")?;
    Ok("made template0 anew from template1".to_owned())
}

fn cannot_change_owners(root: &WriteRoot, uid: u32) -> anyhow::Error {
    let path = root.path().display();
    let message = format!("entries of '{path}' belong to others than user {uid}, as whom the server runs");
    let own = format!("{OWN_DIRECTORY} apart, nothing was changed");
    Failure::new(Kind::Refused, message)
        .hint(format!("run `init-postgresql` as root, who can change owners; {own}."))
        .into()
}
