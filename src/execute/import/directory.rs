//! Reads what `pg_basebackup` wrote into a directory: the data directory itself, or its archives.

use anyhow::{Context, bail};

use super::archive::read_archive;
use super::intake::{Found, Intake, is_number, refused};
use crate::pg::backup_manifest::MANIFEST_FILE;
use crate::sys::{Entry, EntryKind, ReadRoot, text_of};

/// Deeper than any data directory.
const MAXIMUM_DEPTH: usize = 32;
const ARCHIVE_OF_DATA: &str = "base";
const ARCHIVE_OF_WAL: &str = "pg_wal";

/// Reads a directory of either form.
pub(super) fn read_directory(root: &ReadRoot, intake: &mut Intake<'_>) -> anyhow::Result<()> {
    let entries = root.entries(".").context("list the directory")?;
    if entries.iter().any(|entry| archive_of(entry) == Some(ARCHIVE_OF_DATA)) {
        return read_archives(root, &entries, intake);
    }
    read_tree(root, ".", "", intake, 0)
}

/// What an entry is the archive of: the data directory, its WAL, or the tablespace of that number.
fn archive_of(entry: &Entry) -> Option<&str> {
    let (name, ending) = entry.name.split_once('.')?;
    let is_archive = entry.facts.kind == EntryKind::File && (ending == "tar" || ending.starts_with("tar."));
    is_archive.then_some(name)
}

fn read_archives(root: &ReadRoot, entries: &[Entry], intake: &mut Intake<'_>) -> anyhow::Result<()> {
    let read = |entry: &Entry, prefix: &str, intake: &mut Intake<'_>| {
        let path = root.path().join(&entry.name);
        let file = root.open_file(&entry.name).with_context(|| format!("open '{}'", path.display()))?;
        read_archive(file, prefix, intake).with_context(|| format!("read '{}'", path.display()))
    };
    let archives = || entries.iter().filter_map(|entry| Some((entry, archive_of(entry)?)));
    // The data directory first: the others' entries lie below its own.
    for (entry, _) in archives().filter(|(_, name)| *name == ARCHIVE_OF_DATA) {
        read(entry, "", intake)?;
    }
    for (entry, name) in archives().filter(|(_, name)| *name != ARCHIVE_OF_DATA) {
        if name == ARCHIVE_OF_WAL {
            read(entry, "pg_wal", intake)?;
        } else if is_number(name) {
            intake.add_tablespace(name)?;
            read(entry, &format!("pg_tblspc/{name}"), intake)?;
        }
    }
    for entry in entries.iter().filter(|entry| entry.name == MANIFEST_FILE) {
        let mut file = root.open_file(MANIFEST_FILE).context("open the manifest")?;
        intake.take_manifest(entry.facts.size_bytes, &mut file)?;
    }
    Ok(())
}

fn read_tree(
    root: &ReadRoot,
    source: &str,
    prefix: &str,
    intake: &mut Intake<'_>,
    depth: usize,
) -> anyhow::Result<()> {
    if depth > MAXIMUM_DEPTH {
        bail!("'{prefix}' is nested too deeply");
    }
    for entry in root.entries(source).with_context(|| format!("list '{prefix}'"))? {
        let path = if prefix.is_empty() { entry.name.clone() } else { format!("{prefix}/{}", entry.name) };
        let place = format!("{source}/{}", entry.name);
        let facts = entry.facts;
        let found = Found { path: path.clone(), mode: facts.mode & 0o777, modified_ns: facts.modified_ns };
        match facts.kind {
            EntryKind::File => {
                let mut file = root.open_file(&place).with_context(|| format!("open '{path}'"))?;
                intake.add_file(&found, facts.size_bytes, &mut file)?;
            }
            EntryKind::Directory => {
                intake.add_directory(&found)?;
                read_tree(root, &place, &path, intake, depth + 1)?;
            }
            EntryKind::Symlink => read_link(root, &place, found, intake, depth)?,
            EntryKind::Special => return Err(refused(format!("'{path}' is a socket or device")).into()),
        }
    }
    Ok(())
}

/// Follows a link where `pg_basebackup` makes one: to a tablespace, and to the WAL on another disk (`--waldir`).
fn read_link(
    root: &ReadRoot,
    place: &str,
    found: Found,
    intake: &mut Intake<'_>,
    depth: usize,
) -> anyhow::Result<()> {
    let target = root.read_link(place).with_context(|| format!("read the link '{}'", found.path))?;
    let text = text_of(target.as_os_str().as_encoded_bytes());
    let path = found.path.clone();
    let is_tablespace = path.strip_prefix("pg_tblspc/").is_some_and(|name| !name.contains('/'));
    if !is_tablespace && path != "pg_wal" {
        return intake.add_link(found, text);
    }
    let resolved =
        root.path().join(place).parent().map_or_else(|| target.clone(), |parent| parent.join(&target));
    let directory =
        ReadRoot::open(&resolved).with_context(|| format!("follow the link '{path}' to '{text}'"))?;
    if is_tablespace {
        intake.add_link(found, text)
    } else {
        intake.add_directory(&Found { mode: 0o700, ..found })
    }?;
    read_tree(&directory, ".", &path, intake, depth + 1)
}
