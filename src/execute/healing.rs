//! Putting the files of one relation in place as a backup has them. That they are right is the plan's proof.

use super::Tools;
use super::aside::move_aside;
use super::staging::STAGING;
use crate::cluster::inspect::ASIDE_DIRECTORY;
use crate::cluster::seal;
use crate::pg::layout::RelationFile;
use crate::plan::BackupName;
use crate::repository::{BackupReader, TableEntry};
use crate::sys::{WriteRoot, step_point};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};

/// Puts all files of the relation that `place` is a file of in place as they are in a backup. The present ones are kept.
///
/// Cut short at any moment, it leaves a relation without some of its files, which the next inspection finds, and
/// which is healed again.
///
/// # Errors
/// What could not be read of the backup: then nothing has changed. Or what could not be moved.
pub(super) fn heal_from_backup(
    root: &WriteRoot,
    tools: &Tools,
    backup: BackupName,
    place: &str,
) -> anyhow::Result<String> {
    let repository = tools.repository()?.context("find the repository")?;
    let _reading = repository.lock_shared("healing").context("lock the repository")?;
    let reader = repository.reader(backup)?;
    let (directory, relfilenode) =
        split(place).with_context(|| format!("'{place}' is no file of a relation"))?;
    let files: Vec<&TableEntry> = reader
        .entries()
        .iter()
        .filter(|entry| split(entry.path.as_str()) == Some((directory, relfilenode)))
        .collect();
    ensure!(!files.is_empty(), "{backup} has no file of the relation of '{place}'");
    let staged = stage(root, &reader, &files).with_context(|| format!("read '{place}' of {backup}"))?;
    step_point("staged from a backup");
    set_aside(root, directory, relfilenode).with_context(|| format!("set the files of '{place}' aside"))?;
    step_point("damaged files set aside");
    for (from, to) in staged {
        seal::pass_over(root, &to.to_string_lossy(), None)
            .context("take it out of the seal of the last stop")?;
        root.rename(&from, &to).with_context(|| format!("put '{}' in place", to.display()))?;
    }
    root.sync_directory(directory).context("sync a directory")?;
    root.discard(STAGING).context("clear the staging directory")?;
    Ok(format!(
        "healed the relation of '{place}' from {backup}; what was left of it is in '{ASIDE_DIRECTORY}'"
    ))
}

/// The directory of a relation's file, and the number in its name.
fn split(place: &str) -> Option<(&str, u32)> {
    let (directory, name) = place.rsplit_once('/')?;
    Some((directory, RelationFile::parse(name)?.relfilenode.0))
}

/// Copies the files out of the backup, and syncs them. Returns from where to where they go.
fn stage(
    root: &WriteRoot,
    reader: &BackupReader,
    files: &[&TableEntry],
) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    root.discard(STAGING)?;
    root.create_directories(STAGING, 0o700)?;
    let mut staged = Vec::new();
    for entry in files {
        let to = PathBuf::from(entry.path.as_str());
        let from = Path::new(STAGING).join(to.file_name().unwrap_or_default());
        let mut file = root.create_file(&from, 0o600)?;
        reader.copy_file_to(entry, &mut file)?;
        file.sync_all()?;
        staged.push((from, to));
    }
    Ok(staged)
}

fn set_aside(root: &WriteRoot, directory: &str, relfilenode: u32) -> anyhow::Result<()> {
    root.create_directories(ASIDE_DIRECTORY, 0o700)?;
    for entry in root.entries(directory)? {
        let is_of_relation =
            RelationFile::parse(&entry.name).is_some_and(|file| file.relfilenode.0 == relfilenode);
        if is_of_relation {
            let place = format!("{directory}/{}", entry.name);
            move_aside(root, &place)?;
        }
    }
    root.sync_directory(ASIDE_DIRECTORY)?;
    root.sync_directory(directory)?;
    Ok(())
}
