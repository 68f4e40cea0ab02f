//! What is in a data directory, as it lies there: links are named and not followed, so that nothing outside is ever
//! taken for a part of it, or changed.

use anyhow::Context;

use crate::execute::takeover::STAYING;
use crate::sys::{EntryKind, FileFacts, ReadRoot, mount_below};

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct PresentEntry {
    /// Where it is, below the data directory, with `/` between names.
    pub(super) path: String,
    pub(super) facts: FileFacts,
}

/// Lists the entries that belong to the cluster, each directory before what is in it. What vanishes meanwhile, under a
/// server that runs, is left out.
pub(super) fn list(root: &ReadRoot) -> anyhow::Result<Vec<PresentEntry>> {
    let mut entries = Vec::new();
    list_below(root, "", &mut entries)?;
    Ok(entries)
}

fn list_below(root: &ReadRoot, directory: &str, entries: &mut Vec<PresentEntry>) -> anyhow::Result<()> {
    let place = if directory.is_empty() { "." } else { directory };
    let listed = match root.entries(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !directory.is_empty() => return Ok(()),
        listed => listed.with_context(|| format!("list '{}'", root.path().join(place).display()))?,
    };
    for entry in listed {
        if directory.is_empty() && STAYING.contains(&entry.name.as_str()) {
            continue;
        }
        let path = if directory.is_empty() { entry.name } else { format!("{directory}/{}", entry.name) };
        entries.push(PresentEntry { path: path.clone(), facts: entry.facts });
        if entry.facts.kind == EntryKind::Directory {
            list_below(root, &path, entries)?;
        }
    }
    Ok(())
}

/// Why the files in a data directory are not to be changed in place; `None` where they may be.
///
/// A part of it that is elsewhere, but for a tablespace, would have to be written to there, or left behind for good; and
/// a mount can be neither moved nor left out of what is moved.
pub(super) fn obstacle(root: &ReadRoot, entries: &[PresentEntry]) -> anyhow::Result<Option<String>> {
    let path = root.path();
    if let Some(mount) = mount_below(path).context("read the mount table")? {
        return Ok(Some(format!("'{}' is a mount of its own", mount.display())));
    }
    for entry in entries.iter().filter(|entry| entry.facts.kind == EntryKind::Symlink) {
        let is_tablespace = entry.path.strip_prefix("pg_tblspc/").is_some_and(|name| !name.contains('/'));
        let is_kept_as_link = !entry.path.contains('/') && !path.join(&entry.path).is_dir();
        if !is_tablespace && !is_kept_as_link {
            return Ok(Some(format!("'{}' is a symbolic link", entry.path)));
        }
    }
    Ok(None)
}
