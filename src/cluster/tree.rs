//! Every file of a cluster with its facts, from one walk: what the ownership check, the catalog walk, the seal and the
//! page check share, since to ask the kernel for each of a hundred thousand files is what costs.
//!
//! On one thread where root's privileges are still to be dropped, which must be done before a second one runs.

use super::inspect::follow;
use crate::pg::control_file::ControlFile;
use crate::sys::{Entry, EntryKind, OWN_DIRECTORY, ReadRoot, Threads};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io;

/// Deeper than any data directory.
const MAXIMUM_DEPTH: usize = 16;

/// One directory and what is in it, in name order.
#[derive(Debug)]
pub(crate) struct TreeDirectory {
    /// Its path below the data directory, `""` for itself. What a tablespace's link leads to is below that link.
    pub(crate) path: String,
    /// Whether it is reached through a symbolic link.
    pub(crate) is_elsewhere: bool,
    /// What is in it.
    pub(crate) entries: Vec<Entry>,
}

impl TreeDirectory {
    /// The path of one of its entries, below the data directory.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// The directories of a cluster. pgbox's own is left out.
#[derive(Debug, Default)]
pub(crate) struct FileTree {
    /// Each directory before those in it.
    pub(crate) directories: Vec<TreeDirectory>,
    /// Directories that could not be listed: nothing is known of what is in them.
    pub(crate) unreadable: Vec<String>,
}

impl FileTree {
    /// Walks a data directory. Tablespaces are followed into the directory of this cluster's version, which only the
    /// control file tells: another cluster may use the same tablespace.
    pub(crate) fn read(root: &ReadRoot, control: Option<&ControlFile>, threads: Threads) -> Self {
        let start = Place { root, source: ".", path: "", is_elsewhere: false, depth: 0, threads };
        let mut tree = start.walk();
        if let Some(control) = control {
            let version_directory = tablespace_directory(control);
            for entry in root.entries("pg_tblspc").unwrap_or_default() {
                if entry.facts.kind == EntryKind::Symlink {
                    let link = format!("pg_tblspc/{}", entry.name);
                    tree.append(start.walk_elsewhere(&link, &version_directory));
                }
            }
        }
        tree
    }

    /// The directories by their paths.
    pub(crate) fn by_path(&self) -> HashMap<&str, &TreeDirectory> {
        self.directories.iter().map(|directory| (directory.path.as_str(), directory)).collect()
    }

    fn append(&mut self, other: Self) {
        self.directories.extend(other.directories);
        self.unreadable.extend(other.unreadable);
    }

    fn without(path: String) -> Self {
        Self { directories: Vec::new(), unreadable: vec![path] }
    }
}

/// A directory that is being walked.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: &'a ReadRoot,
    source: &'a str,
    path: &'a str,
    is_elsewhere: bool,
    depth: usize,
    threads: Threads,
}

impl Place<'_> {
    fn walk(&self) -> FileTree {
        if self.depth > MAXIMUM_DEPTH {
            return FileTree::default();
        }
        let entries = match self.root.entries_on(self.source, self.threads) {
            Ok(entries) => entries,
            // It was removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return FileTree::default(),
            Err(_) => return FileTree::without(self.path.to_owned()),
        };
        let is_ours = |name: &str| self.depth == 0 && (name == OWN_DIRECTORY || name == "lost+found");
        let directories = entries.iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
        let below: Vec<&str> =
            directories.map(|entry| entry.name.as_str()).filter(|name| !is_ours(name)).collect();
        let parts: Vec<FileTree> = match self.threads {
            Threads::One => below.iter().map(|name| self.walk_below(name)).collect(),
            Threads::All => below.par_iter().map(|name| self.walk_below(name)).collect(),
        };
        let wal_is_elsewhere = self.depth == 0
            && entries.iter().any(|entry| entry.name == "pg_wal" && entry.facts.kind == EntryKind::Symlink);
        let path = self.path.to_owned();
        let mut tree = FileTree::default();
        tree.directories.push(TreeDirectory { path, is_elsewhere: self.is_elsewhere, entries });
        for part in parts {
            tree.append(part);
        }
        if wal_is_elsewhere {
            tree.append(self.walk_elsewhere("pg_wal", "."));
        }
        tree
    }

    fn walk_below(&self, name: &str) -> FileTree {
        let source = joined(if self.source == "." { "" } else { self.source }, name);
        let path = joined(self.path, name);
        Place { source: &source, path: &path, depth: self.depth + 1, ..*self }.walk()
    }

    fn walk_elsewhere(&self, link: &str, source: &str) -> FileTree {
        let path = if source == "." { link.to_owned() } else { joined(link, source) };
        match follow(self.root, link) {
            Ok(target) => {
                let place =
                    Place { root: &target, source, path: &path, is_elsewhere: true, depth: 1, ..*self };
                place.walk()
            }
            Err(_) => FileTree::without(path),
        }
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// The directory of this cluster in each of its tablespaces (relpath.h, `TABLESPACE_VERSION_DIRECTORY`).
fn tablespace_directory(control: &ControlFile) -> String {
    format!("PG_{}_{}", control.major_version(), control.catalog_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_follows_an_external_wal_and_leaves_out_what_is_ours() {
        let (data, wal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in ["base/1", ".pgbox/aside", "lost+found", "pg_tblspc"] {
            std::fs::create_dir_all(data.path().join(directory)).unwrap();
        }
        std::fs::write(data.path().join("base/1/1259"), "12345").unwrap();
        std::fs::write(wal.path().join("000000010000000000000001"), "").unwrap();
        std::os::unix::fs::symlink(wal.path(), data.path().join("pg_wal")).unwrap();

        for threads in [Threads::One, Threads::All] {
            let tree = FileTree::read(&ReadRoot::open(data.path()).unwrap(), None, threads);

            let paths: Vec<&str> = tree.directories.iter().map(|directory| directory.path.as_str()).collect();
            assert_eq!(paths, ["", "base", "base/1", "pg_tblspc", "pg_wal"]);
            let file = &tree.directories[2].entries[0];
            assert_eq!((file.name.as_str(), file.facts.size_bytes), ("1259", 5));
            assert!(tree.directories[4].is_elsewhere);
            assert!(tree.unreadable.is_empty());
        }
    }
}
