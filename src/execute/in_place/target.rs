//! What the data directory is to become: a backup as a server is to find it, or exactly what was there before.

use std::collections::BTreeMap;

use crate::execute::restored_layout::Layout;
use crate::pg::control_file::CONTROL_FILE;
use crate::repository::{BackupReader, ChunkList, EntryContent, TableEntry};

/// To what end the files are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A backup is restored: tablespaces are inside the data directory, and the server has yet to recover.
    Restored,
    /// What was there comes back: links to tablespaces lead where they led, and nothing is there to recover from.
    Former,
}

/// What one path is to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    File { entry: &'a TableEntry, size_bytes: u64, chunks: &'a ChunkList },
    Directory { mode: u32 },
    Symlink { target: &'a str },
}

/// A backup, as the data directory is to have it.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) reader: &'a BackupReader,
    pub(super) goal: Goal,
}

impl<'a> Target<'a> {
    pub(super) fn layout(self) -> Layout<'a> {
        Layout { reader: self.reader }
    }

    /// Every path that is to be there, each directory before what is in it. The control file is not among them: it comes
    /// last of all.
    pub(super) fn wanted(self) -> BTreeMap<&'a str, Wanted<'a>> {
        let links = self.tablespace_links();
        let is_behind_link = |path: &str| links.iter().any(|link| is_below(path, link));
        let entries = self.reader.entries().iter().filter(|entry| self.is_wanted(entry));
        entries
            .filter(|entry| !is_behind_link(entry.path.as_str()))
            .map(|entry| (entry.path.as_str(), self.as_wanted(entry)))
            .collect()
    }

    fn is_wanted(self, entry: &TableEntry) -> bool {
        match (entry.path.as_str(), self.goal) {
            (CONTROL_FILE, _) | ("postmaster.pid", Goal::Former) => false,
            (_, Goal::Former) => true,
            (_, Goal::Restored) => self.layout().is_wanted(entry),
        }
    }

    fn as_wanted(self, entry: &'a TableEntry) -> Wanted<'a> {
        match &entry.content {
            EntryContent::File { size_bytes, chunks } => {
                Wanted::File { entry, size_bytes: *size_bytes, chunks }
            }
            EntryContent::Symlink { target } => Wanted::Symlink { target },
            EntryContent::Tablespace { target } if self.goal == Goal::Former => Wanted::Symlink { target },
            EntryContent::Directory | EntryContent::Tablespace { .. } => {
                Wanted::Directory { mode: self.layout().mode(entry) }
            }
        }
    }

    /// The tablespaces that are outside, where what was there before comes back: nothing of theirs was ever changed.
    fn tablespace_links(self) -> Vec<&'a str> {
        let is_link = |entry: &&TableEntry| {
            self.goal == Goal::Former && matches!(entry.content, EntryContent::Tablespace { .. })
        };
        self.reader.entries().iter().filter(is_link).map(|entry| entry.path.as_str()).collect()
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}
