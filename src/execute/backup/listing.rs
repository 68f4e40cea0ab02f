//! Which entries a backup consists of, and where each is read from.
//!
//! Symbolic links are followed where a cluster may have them: tablespaces, `pg_wal`, and data that a person moved to
//! another disk. A link to a file directly in the data directory (a certificate, a configuration file) stays a link.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::execute::takeover::STAYING;
use crate::pg::Oid;
use crate::pg::layout::{BackupRule, Fork, RelationFile, Use, backup_rule, has_data_pages, use_of};
use crate::repository::TablePath;
use crate::sys::{Entry, EntryKind, FileFacts, ReadRoot, path_of, text_of};

/// Deeper than any data directory; a link that leads to a directory above itself would be.
const MAXIMUM_DEPTH: usize = 32;

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::execute) enum Rules {
    /// What no backup of a running server needs; files that vanish meanwhile are none.
    Hot,
    /// Only what is pgbox's own; what cannot be read is set down.
    Cold,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::execute) enum ItemKind {
    File,
    Directory,
    Symlink { target: String },
    Tablespace { target: String },
}

/// One entry of the data directory.
#[derive(Clone, Debug)]
pub(in crate::execute) struct Item {
    /// Where it is in the backup.
    pub(in crate::execute) path: TablePath,
    /// What it is.
    pub(in crate::execute) kind: ItemKind,
    /// What `stat` said when it was listed.
    pub(in crate::execute) facts: FileFacts,
    root: usize,
    source: PathBuf,
}

/// All entries of a data directory.
#[derive(Debug)]
pub(in crate::execute) struct Listing {
    /// Each directory before what is in it.
    pub(in crate::execute) items: Vec<Item>,
    /// What could not be listed, in words.
    pub(in crate::execute) unreadable: Vec<String>,
    /// The permission bits of the data directory itself.
    pub(in crate::execute) directory_mode: u32,
    roots: Vec<ReadRoot>,
    rules: Rules,
}

/// An entry that is being looked at.
struct Found {
    root: usize,
    source: PathBuf,
    path: String,
    facts: FileFacts,
}

/// A directory that is being listed.
struct Place {
    root: usize,
    source: PathBuf,
    prefix: String,
    depth: usize,
}

impl Place {
    fn path_of(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    fn below(&self, root: usize, source: PathBuf, prefix: &str) -> Self {
        Self { root, source, prefix: prefix.to_owned(), depth: self.depth + 1 }
    }
}

impl Listing {
    /// Lists a data directory.
    pub(in crate::execute) fn read(data: &ReadRoot, rules: Rules) -> anyhow::Result<Self> {
        let directory_mode = data.own_facts()?.mode;
        let roots = vec![data.subroot(".")?];
        let mut listing = Self { items: Vec::new(), unreadable: Vec::new(), directory_mode, roots, rules };
        listing.walk(&Place { root: 0, source: PathBuf::from("."), prefix: String::new(), depth: 0 })?;
        if rules == Rules::Hot {
            listing.leave_out_unlogged();
        }
        listing.items.shrink_to_fit();
        Ok(listing)
    }

    /// The size of all files.
    pub(in crate::execute) fn size_bytes(&self) -> u64 {
        self.files().map(|item| item.facts.size_bytes).sum()
    }

    /// The regular files.
    pub(in crate::execute) fn files(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.kind == ItemKind::File)
    }

    /// Opens a file for reading.
    pub(in crate::execute) fn open(&self, item: &Item) -> io::Result<std::fs::File> {
        self.roots.get(item.root).ok_or(io::ErrorKind::NotFound)?.open_file(&item.source)
    }

    fn root(&self, place: &Place) -> anyhow::Result<&ReadRoot> {
        self.roots.get(place.root).context("find an open directory")
    }

    fn walk(&mut self, place: &Place) -> anyhow::Result<()> {
        if place.depth > MAXIMUM_DEPTH {
            bail!(
                "'{}' is nested too deeply: does a symbolic link lead back to a directory above it?",
                place.prefix
            );
        }
        let entries = match self.root(place)?.entries(&place.source) {
            Ok(entries) => entries,
            // A database or relation directory that was dropped since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && place.depth > 0 => return Ok(()),
            Err(error) if self.rules == Rules::Cold || is_somebodys(&place.prefix, &error) => {
                self.unreadable.push(format!("{}: {error}", place.prefix));
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| format!("list '{}'", place.prefix)),
        };
        entries.iter().try_for_each(|entry| self.add(place, entry))
    }

    fn rule(&self, path: &str) -> BackupRule {
        match self.rules {
            Rules::Hot => backup_rule(path),
            // Of the mount or of the project around the cluster, as a replacement leaves them, too.
            Rules::Cold if STAYING.contains(&path) => BackupRule::Skip,
            Rules::Cold => BackupRule::Copy,
        }
    }

    fn add(&mut self, place: &Place, entry: &Entry) -> anyhow::Result<()> {
        let path = place.path_of(&entry.name);
        let rule = self.rule(&path);
        if rule == BackupRule::Skip {
            return Ok(());
        }
        let found =
            Found { root: place.root, source: place.source.join(&entry.name), path, facts: entry.facts };
        match entry.facts.kind {
            EntryKind::File if rule == BackupRule::Copy => self.push(found, ItemKind::File),
            // Sockets and the like have no content. A file where a directory belongs is none that a server needs.
            EntryKind::Special | EntryKind::File => Ok(()),
            EntryKind::Directory => {
                let below = place.below(found.root, found.source.clone(), &found.path);
                self.push(found, ItemKind::Directory)?;
                self.walk(&below)
            }
            EntryKind::Symlink => self.add_link(place, found),
        }
    }

    fn push(&mut self, found: Found, kind: ItemKind) -> anyhow::Result<()> {
        let Found { root, source, path, facts } = found;
        self.items.push(Item { path: path.try_into()?, kind, facts, root, source });
        Ok(())
    }

    fn add_link(&mut self, place: &Place, found: Found) -> anyhow::Result<()> {
        let root = self.root(place)?;
        let target =
            root.read_link(&found.source).with_context(|| format!("read the link '{}'", found.path))?;
        // A relative link is relative to the directory that it is in.
        let resolved = root.path().join(path_of(&place.source)).join(&target);
        let target = text_of(target.as_os_str().as_encoded_bytes());
        match ReadRoot::open(&resolved) {
            Ok(directory) => {
                let kind = match place.prefix.as_str() {
                    "pg_tblspc" => ItemKind::Tablespace { target },
                    _ => ItemKind::Directory,
                };
                let (path, facts) = (found.path.clone(), directory.own_facts()?);
                self.push(Found { facts, ..found }, kind)?;
                self.enter(place, &path, directory)
            }
            Err(_) if place.prefix.is_empty() => self.push(found, ItemKind::Symlink { target }),
            Err(_) if resolved.is_file() => self.add_linked_file(&resolved, found.path),
            Err(error) if self.rules == Rules::Cold => {
                self.unreadable.push(format!("{} (a link to {target}): {error}", found.path));
                self.push(found, ItemKind::Symlink { target })
            }
            Err(error) => {
                Err(error).with_context(|| format!("follow the link '{}' to '{target}'", found.path))
            }
        }
    }

    fn enter(&mut self, place: &Place, path: &str, directory: ReadRoot) -> anyhow::Result<()> {
        let below = place.below(self.roots.len(), PathBuf::from("."), path);
        self.roots.push(directory);
        self.walk(&below)
    }

    fn add_linked_file(&mut self, resolved: &Path, path: String) -> anyhow::Result<()> {
        let resolved = resolved.canonicalize().with_context(|| format!("follow the link '{path}'"))?;
        let (Some(directory), Some(name)) = (resolved.parent(), resolved.file_name()) else {
            bail!("'{}' is no file", resolved.display());
        };
        let directory =
            ReadRoot::open(directory).with_context(|| format!("open '{}'", directory.display()))?;
        let source = PathBuf::from(text_of(name.as_encoded_bytes()));
        let Some(facts) = directory.facts(&source)? else { return Ok(()) };
        let found = Found { root: self.roots.len(), source, path, facts };
        self.roots.push(directory);
        self.push(found, ItemKind::File)
    }

    /// Of an unlogged relation only the initial fork is kept: recovery makes the others from it
    /// (PostgreSQL: `ResetUnloggedRelations()` in reinit.c).
    fn leave_out_unlogged(&mut self) {
        let unlogged: HashSet<(String, Oid)> = self
            .items
            .iter()
            .filter_map(|item| relation_of(item).filter(|(_, file)| file.fork == Fork::Init))
            .map(|(directory, file)| (directory.to_owned(), file.relfilenode))
            .collect();
        self.items.retain(|item| {
            relation_of(item).is_none_or(|(directory, file)| {
                file.fork == Fork::Init || !unlogged.contains(&(directory.to_owned(), file.relfilenode))
            })
        });
    }
}

/// The directory and the name of a file of data pages.
pub(in crate::execute) fn relation_of(item: &Item) -> Option<(&str, RelationFile)> {
    if item.kind != ItemKind::File || !has_data_pages(item.path.as_str()) {
        return None;
    }
    Some((item.path.parent()?, RelationFile::parse(item.path.file_name())?))
}

/// Says whether what could not be opened is kept from the server's user on purpose, by somebody who put it into the data
/// directory: the server does without it, and so does a backup.
pub(super) fn is_somebodys(path: &str, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && use_of(path) == Use::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn paths(data: &Path, rules: Rules) -> Vec<String> {
        let listing = Listing::read(&ReadRoot::open(data).unwrap(), rules).unwrap();
        listing.items.iter().map(|item| item.path.to_string()).collect()
    }

    fn write(root: &Path, path: &str) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "x").unwrap();
    }

    #[test]
    fn a_hot_backup_leaves_out_unlogged_relations_but_their_initial_fork() {
        let data = tempfile::tempdir().unwrap();
        for path in
            ["base/5/16384", "base/5/16384.1", "base/5/16384_fsm", "base/5/16384_init", "base/5/16385"]
        {
            write(data.path(), path);
        }
        assert_eq!(paths(data.path(), Rules::Hot), ["base", "base/5", "base/5/16384_init", "base/5/16385"]);
        assert_eq!(paths(data.path(), Rules::Cold).len(), 7);
    }

    #[test]
    fn tablespaces_and_an_external_pg_wal_are_followed() {
        let (data, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(data.path(), "PG_VERSION");
        write(outside.path(), "space/PG_15_202209061/5/16400");
        write(outside.path(), "wal/000000010000000000000001");
        write(outside.path(), "wal/archive_status/x.done");
        fs::create_dir(data.path().join("pg_tblspc")).unwrap();
        symlink(outside.path().join("space"), data.path().join("pg_tblspc/16399")).unwrap();
        symlink(outside.path().join("wal"), data.path().join("pg_wal")).unwrap();
        symlink("/nowhere/server.crt", data.path().join("server.crt")).unwrap();

        assert_eq!(
            paths(data.path(), Rules::Hot),
            [
                "PG_VERSION",
                "pg_tblspc",
                "pg_tblspc/16399",
                "pg_tblspc/16399/PG_15_202209061",
                "pg_tblspc/16399/PG_15_202209061/5",
                "pg_tblspc/16399/PG_15_202209061/5/16400",
                "pg_wal",
                "pg_wal/archive_status",
                "server.crt",
            ]
        );
        assert!(paths(data.path(), Rules::Cold).contains(&"pg_wal/000000010000000000000001".to_owned()));
    }

    #[test]
    fn a_link_to_a_directory_above_itself_is_an_error() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("base")).unwrap();
        symlink("..", data.path().join("base/loop")).unwrap();
        assert!(Listing::read(&ReadRoot::open(data.path()).unwrap(), Rules::Cold).is_err());
    }

    #[test]
    fn a_missing_tablespace_fails_a_hot_backup_and_is_told_by_a_cold_one() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_tblspc")).unwrap();
        symlink("/nowhere/space", data.path().join("pg_tblspc/16399")).unwrap();
        let data = ReadRoot::open(data.path()).unwrap();

        assert!(Listing::read(&data, Rules::Hot).is_err());
        let listing = Listing::read(&data, Rules::Cold).unwrap();
        assert!(listing.unreadable[0].contains("/nowhere/space"), "{:?}", listing.unreadable);
    }
}
