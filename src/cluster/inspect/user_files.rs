//! Whether anything in a data directory was made after initdb, by the numbers of its files.

use super::Inspection;
use super::maps::FIRST_NORMAL_OID;
use crate::sys::EntryKind;
use std::collections::BTreeSet;

impl Inspection<'_> {
    /// Whether anything in `base` or `global` was made after initdb.
    pub(super) fn has_user_made_files(&self) -> bool {
        let databases = self.root.entries("base").unwrap_or_default();
        let mut directories = vec!["global".to_owned()];
        let mut numbers = BTreeSet::new();
        for entry in databases.iter().filter(|entry| entry.facts.kind == EntryKind::Directory) {
            directories.push(format!("base/{}", entry.name));
            numbers.extend(entry.name.parse::<u32>().ok());
        }
        for directory in directories {
            let files = self.root.entries(&directory).unwrap_or_default();
            numbers.extend(files.iter().filter_map(|file| file.name.parse::<u32>().ok()));
        }
        numbers.last().is_some_and(|&highest| highest >= FIRST_NORMAL_OID)
    }
}
