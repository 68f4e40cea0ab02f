//! Taking clusters that were set aside into the repository, so that their space in the data directory is free
//! again. Recovery did not wait for this: setting aside was a rename.

use super::Tools;
use super::backup::{ColdOptions, Stored, create_cold};
use crate::cluster::history::{self, Event};
use crate::cluster::inspect::ASIDE_DIRECTORY;
use crate::plan::BackupName;
use crate::repository::Repository;
use crate::sys::{EntryKind, OwnDirectory, ReadRoot};
use anyhow::Context;
use std::io;
use std::path::Path;

/// Appended to the name of a cluster that was stored but for what could not be read, so that it is not stored again.
const PARTLY_UNREADABLE: &str = "_unreadable";

/// Stores every cluster in `.pgbox/aside` in the repository, and discards it there once all of it is in. Returns
/// the names under which they are kept.
///
/// # Errors
/// Of the first that could not be stored; it stays where it is.
pub fn store_set_aside(tools: &Tools, repository: &Repository) -> anyhow::Result<Vec<BackupName>> {
    let path = &tools.settings.data_directory;
    let own = match OwnDirectory::open(path) {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("open pgbox's own directory"),
    };
    let mut stored = Vec::new();
    for name in waiting(&own)? {
        let place = Path::new("aside").join(name.to_string());
        let directory = ReadRoot::open(&path.join(ASIDE_DIRECTORY).join(name.to_string()))
            .with_context(|| format!("open what was set aside as {name}"))?;
        let options = ColdOptions { name, time: name.time(), note: reason(path, name) };
        let Stored { summary, unreadable } = create_cold(&directory, repository, &options, tools.progress)
            .with_context(|| format!("store {name} in the repository"))?;
        if let Some(first) = unreadable.first() {
            keep_unreadable(&own, &place)?;
            tools.progress.note(&format!(
                "'{}{PARTLY_UNREADABLE}' stays in '{}': {first}, and {} more, could not be read",
                place.display(),
                own.path().display(),
                unreadable.len() - 1
            ));
        } else {
            own.discard(&place).with_context(|| format!("remove '{}', which is stored", place.display()))?;
        }
        stored.push(summary.name);
    }
    Ok(stored)
}

/// What could not be read may be readable another day, and there is no other copy.
fn keep_unreadable(own: &OwnDirectory, place: &Path) -> anyhow::Result<()> {
    let mut kept = place.as_os_str().to_owned();
    kept.push(PARTLY_UNREADABLE);
    own.rename(place, Path::new(&kept)).with_context(|| format!("rename '{}'", place.display()))
}

/// The clusters that wait. Single files that were set aside stay where they are: they are small, and a person
/// may look for them there.
fn waiting(own: &OwnDirectory) -> anyhow::Result<Vec<BackupName>> {
    if own.facts("aside")?.is_none() || own.facts("journal.json")?.is_some() {
        return Ok(Vec::new());
    }
    let entries = own.entries("aside").context("list what was set aside")?;
    let directories = entries.iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
    Ok(directories.filter_map(|entry| entry.name.parse().ok()).collect())
}

/// Why it was set aside, as the history has it.
fn reason(data_directory: &Path, name: BackupName) -> Option<String> {
    let events = history::read(data_directory).ok()?;
    let is_kept = |event: &&Event| event.done.iter().any(|done| done.ends_with(&format!(" kept as {name}")));
    if let Some(event) = events.iter().rev().find(is_kept) {
        return Some(format!("did not serve after '{}': {}", event.purpose, event.findings.join("; ")));
    }
    let event = events.into_iter().rev().find(|event| event.set_aside == Some(name))?;
    let findings =
        if event.findings.is_empty() { String::new() } else { format!(": {}", event.findings.join("; ")) };
    Some(format!("set aside to {}{findings}", event.purpose))
}
