//! Every file of data pages of a cluster, with its place, size and age. Nothing is opened here.

use super::history::PageReference;
use crate::cluster::inspect::follow;
use crate::cluster::tree::{FileTree, TreeDirectory};
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page::SIZE_BYTES;
use crate::pg::wal::RelationLocator;
use crate::pg::{BlockNumber, Oid};
use crate::sys::{Entry, EntryKind, ReadRoot};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A directory with relation files.
#[derive(Debug)]
pub(in crate::cluster::inspect) struct DataDirectory {
    /// Below the data directory, as the catalog walk has it: `base/5`.
    pub(in crate::cluster::inspect) place: String,
    /// Its tablespace.
    pub(in crate::cluster::inspect) tablespace: Oid,
    /// Its database; 0 for the shared relations.
    pub(in crate::cluster::inspect) database: Oid,
    /// Which of the tablespaces' roots it is below, and where; `None` for the data directory itself.
    tablespace_root: Option<usize>,
    path: String,
}

/// A segment file of a relation's fork.
#[derive(Clone, Copy, Debug)]
pub(in crate::cluster::inspect) struct DataFile {
    /// Index into [`DataFiles::directories`].
    pub(in crate::cluster::inspect) directory: usize,
    /// What its name says.
    pub(in crate::cluster::inspect) name: RelationFile,
    /// Its length.
    pub(in crate::cluster::inspect) size_bytes: u64,
    /// When its content changed last.
    pub(in crate::cluster::inspect) modified_ns: i64,
}

/// All files of data pages.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct DataFiles {
    tablespace_roots: Vec<ReadRoot>,
    /// Where they are.
    pub(in crate::cluster::inspect) directories: Vec<DataDirectory>,
    /// The files, in the order of their directories, numbers, forks and segments.
    pub(in crate::cluster::inspect) files: Vec<DataFile>,
    /// The relations with an `_init` fork: the unlogged ones.
    unlogged: HashSet<(usize, Oid)>,
}

/// A listing in the making.
struct Listing<'a> {
    root: &'a ReadRoot,
    /// What the listing of the whole cluster has, by path.
    tree: HashMap<&'a str, &'a TreeDirectory>,
    files: DataFiles,
}

impl Listing<'_> {
    fn add_directory(&mut self, place: String, tablespace: Oid, database: Oid) {
        let path = place.clone();
        let directory = DataDirectory { place, tablespace, database, tablespace_root: None, path };
        self.add_files(self.root, directory);
    }

    fn add_tablespace(&mut self, tablespace: Oid) {
        let link = format!("pg_tblspc/{tablespace}");
        let Ok(below) = follow(self.root, &link) else { return };
        let index = self.files.tablespace_roots.len();
        let versions = below.entries(".").unwrap_or_default();
        for version in versions.iter().filter(|entry| entry.name.starts_with("PG_")) {
            for database in numbered_directories(&below, &version.name) {
                let path = format!("{}/{database}", version.name);
                let place = format!("{link}/{path}");
                let tablespace_root = Some(index);
                let directory = DataDirectory { place, tablespace, database, tablespace_root, path };
                self.add_files(&below, directory);
            }
        }
        self.files.tablespace_roots.push(below);
    }

    fn add_files(&mut self, root: &ReadRoot, directory: DataDirectory) {
        let index = self.files.directories.len();
        match self.tree.get(directory.place.as_str()) {
            Some(listed) => self.files.add(index, &listed.entries),
            None => self.files.add(index, &root.entries(&directory.path).unwrap_or_default()),
        }
        self.files.directories.push(directory);
    }
}

impl DataFiles {
    /// Takes them from the listing of the cluster, and lists what that does not have. A directory that cannot be read
    /// is missing here; the check of the structure reports it.
    pub(in crate::cluster::inspect) fn of(root: &ReadRoot, tree: &FileTree) -> Self {
        let mut listing = Listing { root, tree: tree.by_path(), files: Self::default() };
        listing.add_directory("global".to_owned(), Oid::GLOBAL_TABLESPACE, Oid(0));
        for database in numbered_directories(root, "base") {
            listing.add_directory(format!("base/{database}"), Oid::DEFAULT_TABLESPACE, database);
        }
        for entry in root.entries("pg_tblspc").unwrap_or_default() {
            if let Ok(oid) = entry.name.parse() {
                listing.add_tablespace(Oid(oid));
            }
        }
        listing.files
    }

    fn add(&mut self, directory: usize, entries: &[Entry]) {
        let begin = self.files.len();
        self.files.reserve_exact(entries.len());
        for entry in entries.iter().filter(|entry| entry.facts.kind == EntryKind::File) {
            let Some(name) = RelationFile::parse(&entry.name) else { continue };
            if name.fork == Fork::Init {
                self.unlogged.insert((directory, name.relfilenode));
            }
            let (size_bytes, modified_ns) = (entry.facts.size_bytes, entry.facts.modified_ns);
            self.files.push(DataFile { directory, name, size_bytes, modified_ns });
        }
        let added = self.files.get_mut(begin..).unwrap_or_default();
        added.sort_unstable_by_key(|file| file.name);
    }

    /// The segment files of a relation's main fork that are there, in order.
    pub(in crate::cluster::inspect) fn main_fork(&self, directory: usize, relfilenode: Oid) -> &[DataFile] {
        let fork = (directory, relfilenode, Fork::Main);
        let key = |file: &DataFile| (file.directory, file.name.relfilenode, file.name.fork);
        let begin = self.files.partition_point(|file| key(file) < fork);
        let from = self.files.get(begin..).unwrap_or_default();
        let count = from.iter().take_while(|file| key(file) == fork).count();
        from.get(..count).unwrap_or_default()
    }

    /// The directory of a file.
    pub(in crate::cluster::inspect) fn directory_of(&self, file: &DataFile) -> Option<&DataDirectory> {
        self.directories.get(file.directory)
    }

    /// Where a file is, below the data directory.
    pub(in crate::cluster::inspect) fn place_of(&self, file: &DataFile) -> String {
        let directory = self.directory_of(file).map(|directory| directory.place.as_str());
        format!("{}/{}", directory.unwrap_or_default(), file.name)
    }

    /// Whether the changes of a file are not in the WAL. The `_init` fork of an unlogged relation is.
    pub(in crate::cluster::inspect) fn is_unlogged(&self, file: &DataFile) -> bool {
        file.name.fork != Fork::Init && self.unlogged.contains(&(file.directory, file.name.relfilenode))
    }

    /// The relation of a file, as the WAL names it, by the file's place; the file itself may be gone.
    pub(in crate::cluster::inspect) fn locator_of(&self, place: &str) -> Option<RelationLocator> {
        let (directory, name) = place.rsplit_once('/')?;
        let &DataDirectory { tablespace, database, .. } =
            self.directories.iter().find(|found| found.place == directory)?;
        Some(RelationLocator { tablespace, database, relfilenode: RelationFile::parse(name)?.relfilenode })
    }

    /// Where the first file of a relation's main fork belongs, if it is not there; its directory is.
    pub(in crate::cluster::inspect) fn missing_place(&self, relation: RelationLocator) -> Option<String> {
        let index = self.directories.iter().position(|directory| {
            (directory.tablespace, directory.database) == (relation.tablespace, relation.database)
        })?;
        let first = self.main_fork(index, relation.relfilenode).first();
        let place = &self.directories.get(index)?.place;
        let is_missing = first.is_none_or(|file| file.name.segment != 0);
        is_missing.then(|| format!("{place}/{}", relation.relfilenode))
    }

    /// A page of a file, as the WAL names it.
    pub(in crate::cluster::inspect) fn reference(
        &self,
        file: &DataFile,
        block: BlockNumber,
    ) -> Option<PageReference> {
        let &DataDirectory { tablespace, database, .. } = self.directory_of(file)?;
        let relation = RelationLocator { tablespace, database, relfilenode: file.name.relfilenode };
        Some(PageReference { relation, fork: file.name.fork, block })
    }

    /// Whether the part of a page that a file ends with has anything but zeros.
    pub(in crate::cluster::inspect) fn has_part_of_page(&self, root: &ReadRoot, file: &DataFile) -> bool {
        let size = SIZE_BYTES as u64;
        let mut part = vec![0; SIZE_BYTES];
        let read =
            self.open(root, file).and_then(|open| open.read_at(&mut part, file.size_bytes / size * size));
        read.is_ok_and(|count| part.iter().take(count).any(|byte| *byte != 0))
    }

    /// Opens a file for reading.
    pub(in crate::cluster::inspect) fn open(&self, root: &ReadRoot, file: &DataFile) -> io::Result<File> {
        let directory = self.directory_of(file).ok_or(io::ErrorKind::NotFound)?;
        let root =
            directory.tablespace_root.and_then(|index| self.tablespace_roots.get(index)).unwrap_or(root);
        root.open_file(format!("{}/{}", directory.path, file.name))
    }
}

/// The directories that are named by a database's number.
fn numbered_directories(root: &ReadRoot, path: &str) -> Vec<Oid> {
    let entries = root.entries(path).unwrap_or_default();
    let directories = entries.iter().filter(|entry| entry.facts.kind == EntryKind::Directory);
    directories.filter_map(|entry| entry.name.parse().ok().map(Oid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FileFacts;

    #[test]
    fn a_main_fork_is_found_among_files_whose_names_sort_otherwise() {
        // In the order of a listing, in which 12590 comes between the segments and the forks of 1259.
        let entry = |name: &&str| {
            let kind = EntryKind::File;
            let facts =
                FileFacts { kind, size_bytes: 0, mode: 0o600, uid: 1, gid: 1, modified_ns: 0, changed_ns: 0 };
            Entry { name: (*name).to_owned(), facts }
        };
        let names = ["1259", "1259.1", "1259.10", "1259.2", "12590", "1259_fsm", "PG_VERSION"];
        let entries: Vec<Entry> = names.iter().map(entry).collect();
        let mut files = DataFiles::default();
        files.add(0, &entries);
        files.add(1, &entries);

        let segments = |directory, number| -> Vec<(usize, u32)> {
            let fork = files.main_fork(directory, Oid(number));
            fork.iter().map(|file| (file.directory, file.name.segment)).collect()
        };
        assert_eq!(segments(1, 1259), [(1, 0), (1, 1), (1, 2), (1, 10)]);
        assert_eq!(segments(0, 12590), [(0, 0)]);
        assert_eq!(segments(0, 1260), []);
    }
}
