//! How the files of a cluster differ from those that were sealed.
//!
//! A file with another time is read, where its content was sealed: many a copy keeps no times, and nothing is damaged
//! by that. The status of transactions is read whatever its time, as long as it is small: a disk that returns other
//! bytes changes no time.

use super::super::{FileTree, follow};
use crate::cluster::seal::{ContentHash, Contents, Seal, SealedFile, Worth};
use crate::sys::{Entry, EntryKind, ReadRoot};
use rayon::prelude::*;

/// How much is read at the most of files whose time is the sealed one.
const MOST_OF_SAME_TIME_BYTES: u64 = 32 << 20;

/// What a file held when the server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster::inspect) struct SealedContent {
    pub(in crate::cluster::inspect) hash: ContentHash,
    pub(in crate::cluster::inspect) size_bytes: u64,
}

/// What became of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is gone. `sealed` is its size; 0 for a whole directory, whose files are not listed one by one.
    Missing { sealed: u64 },
    /// It has another size.
    Size { sealed: u64, found: u64 },
    /// It was written to, or copied without its time. Whether it holds the same is not known.
    Modified,
    /// It holds something else.
    Content,
    /// It looks the same, and was not read yet.
    Unread,
    /// It was not there.
    New,
}

/// A file that is not as it was sealed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) place: String,
    pub(super) contents: Contents,
    pub(super) worth: Worth,
    pub(super) change: Change,
    /// What it held, where that was sealed.
    pub(super) sealed: Option<SealedContent>,
}

/// Reads the files that may still hold what was sealed, and leaves out those that do.
pub(super) fn settle(root: &ReadRoot, differences: Vec<Difference>) -> Vec<Difference> {
    let mut left_bytes = MOST_OF_SAME_TIME_BYTES;
    let is_in_bound = |difference: &Difference| {
        let size_bytes = difference.sealed.map_or(0, |sealed| sealed.size_bytes);
        if difference.change != Change::Unread {
            return true;
        }
        let left = left_bytes.checked_sub(size_bytes);
        left_bytes = left.unwrap_or(left_bytes);
        left.is_some()
    };
    let to_read: Vec<Difference> = differences.into_iter().filter(is_in_bound).collect();
    to_read.into_par_iter().filter_map(|difference| settled(root, difference)).collect()
}

/// The difference as it is once the file was read; `None` where there is none.
fn settled(root: &ReadRoot, difference: Difference) -> Option<Difference> {
    if !matches!(difference.change, Change::Modified | Change::Unread) {
        return Some(difference);
    }
    let found = difference.sealed.and_then(|sealed| {
        let (directory, name) = difference.place.rsplit_once('/')?;
        let directory = follow(root, directory).ok()?;
        let found = ContentHash::of_file(&directory, name, sealed.size_bytes).ok()?;
        Some(found == sealed.hash)
    });
    match found {
        Some(true) => None,
        Some(false) => Some(Difference { change: Change::Content, ..difference }),
        // What cannot be read is not known to be another.
        None => (difference.change == Change::Modified).then_some(difference),
    }
}

/// The files that differ from the sealed ones by their facts, or that are yet to be read.
pub(super) fn differences(seal: &Seal, tree: &FileTree) -> Vec<Difference> {
    let present = tree.by_path();
    let is_unknown = |path: &str| {
        tree.unreadable.iter().any(|unreadable| {
            path.strip_prefix(unreadable.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let mut differences = Vec::new();
    for directory in &seal.directories {
        let Some(contents) = Contents::of(&directory.path) else { continue };
        let comparison = Comparison { path: &directory.path, contents };
        match present.get(directory.path.as_str()) {
            Some(found) => differences.extend(comparison.compare(&directory.files, &found.entries)),
            None if is_unknown(&directory.path) => {}
            None => differences.extend(comparison.lost(directory.files.len())),
        }
    }
    differences
}

/// The comparison of one directory.
struct Comparison<'a> {
    path: &'a str,
    contents: Contents,
}

impl Comparison<'_> {
    /// Goes through both lists at once: each is in name order.
    fn compare(&self, sealed: &[SealedFile], found: &[Entry]) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut found = found.iter().peekable();
        for file in sealed {
            while let Some(new) = found.next_if(|entry| entry.name < file.name) {
                differences.extend(self.new_file(new));
            }
            let change = match found.next_if(|entry| entry.name == file.name) {
                Some(entry) => self.change_of(file, entry),
                None => Some(Change::Missing { sealed: file.size_bytes }),
            };
            let sealed = file.content.map(|hash| SealedContent { hash, size_bytes: file.size_bytes });
            let difference = change.and_then(|change| self.difference(&file.name, change));
            differences.extend(difference.map(|difference| Difference { sealed, ..difference }));
        }
        differences.extend(found.filter_map(|entry| self.new_file(entry)));
        differences
    }

    fn new_file(&self, entry: &Entry) -> Option<Difference> {
        let is_file = entry.facts.kind == EntryKind::File;
        if is_file { self.difference(&entry.name, Change::New) } else { None }
    }

    fn difference(&self, name: &str, change: Change) -> Option<Difference> {
        let worth = self.contents.worth_of(name)?;
        let place = format!("{}/{name}", self.path);
        Some(Difference { place, contents: self.contents, worth, change, sealed: None })
    }

    /// A whole directory that is gone is said once; an empty one is no loss that its files would show.
    fn lost(&self, files: usize) -> Option<Difference> {
        let worth = if self.contents == Contents::Other { Worth::Other } else { Worth::Rows };
        let (place, contents) = (self.path.to_owned(), self.contents);
        let change = Change::Missing { sealed: 0 };
        (files > 0).then_some(Difference { place, contents, worth, change, sealed: None })
    }

    fn change_of(&self, sealed: &SealedFile, found: &Entry) -> Option<Change> {
        if found.facts.size_bytes != sealed.size_bytes {
            return Some(Change::Size { sealed: sealed.size_bytes, found: found.facts.size_bytes });
        }
        if !is_same_time(sealed.modified_ns, found.facts.modified_ns) {
            return Some(Change::Modified);
        }
        let is_status = self.contents == Contents::TransactionStatus;
        (is_status && sealed.content.is_some()).then_some(Change::Unread)
    }
}

/// Whether a time is the sealed one, as far as whoever copied the file kept it: archives keep whole seconds, some
/// file systems micro- or milliseconds.
pub(super) fn is_same_time(sealed_ns: i64, found_ns: i64) -> bool {
    const UNITS_NS: [i64; 5] = [1, 100, 1_000, 1_000_000, 1_000_000_000];
    UNITS_NS.iter().any(|unit| found_ns == sealed_ns - sealed_ns.rem_euclid(*unit))
}
