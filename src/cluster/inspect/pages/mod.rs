//! The data pages: headers, checksums, and whether each page is as old as the WAL says that it must be.
//!
//! A checksum finds what was changed by anybody but the server. What it cannot find, `facts/corruption.md` §3 has
//! rules for: a page newer than the end of the WAL means that the end is lost, and a page older than the last
//! record about it means that a write is lost. Neither is valid for unlogged relations, nor while a server runs.

mod before_replay;
mod history;
mod listing;
mod scan;
mod verdict;

pub(super) use history::{PageHistory, PageReference, checkpoint_before_creation};
pub(super) use listing::{DataFile, DataFiles};
pub(super) use scan::{BadPage, longest_bytes, read_pages};
pub(super) use verdict::{Judge, Relations};

use super::catalog::{Catalog, FOLLOWED_TABLES};
use super::wal::WalDirectory;
use super::{Depth, FileTree, Inspection};
use crate::format::{bytes, counted};
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::page::SIZE_BYTES;
use crate::pg::{BlockNumber, Lsn};
use crate::plan::{Finding, Remedy, Severity};
use scan::{Rules, Scanned, scan};
use std::collections::HashSet;

/// How much later than the checkpoint's time, which has whole seconds, a file's may be and still be older.
const CLOCK_MARGIN_SECONDS: i64 = 5;
/// The most that is read of a cluster before its start. The files that were written last come first, since
/// pages beyond the WAL's end are among the last that were written.
const MOST_BEFORE_START_BYTES: u64 = 2 << 30;

/// What the pages are judged by, besides themselves.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// What the catalogs have.
    pub(super) catalog: &'a Catalog,
    /// The control file.
    pub(super) control: &'a ControlFile,
    /// What the WAL has.
    pub(super) history: &'a PageHistory,
    /// The end of the WAL, or of the checkpoint record after a clean stop: no logged page has a later LSN.
    pub(super) ceiling: Option<Lsn>,
}

impl<'a> Known<'a> {
    /// What each page must at least have for its LSN, where the WAL knows.
    fn floor(self, files: &'a DataFiles) -> impl Fn(&DataFile, BlockNumber) -> Option<Lsn> + Sync + 'a {
        move |file, block| self.history.last_change(&files.reference(file, block)?)
    }
}

impl Inspection<'_> {
    /// Checks the data itself, as far as the depth asks for it. `wal_end` is where the valid WAL ends.
    pub(super) fn check_data(&mut self, tree: FileTree, wal_end: Option<Lsn>, depth: Depth) {
        let Some(control) = self.control.clone().filter(|control| control.block_size as usize == SIZE_BYTES)
        else {
            return;
        };
        let depth = if depth == Depth::Catalogs {
            self.follow_catalogs();
            Depth::Structure
        } else {
            depth
        };
        // A new WAL may only follow if the control file is not an old one, and then nothing but the pages can tell: none
        // that it knows of is newer than its checkpoint, which a server writes last when it stops.
        let begins_new_wal = self.begins_new_wal();
        let wal_end = wal_end.or(begins_new_wal.then_some(control.checkpoint));
        let is_as_it_stopped = self.is_clean()
            && !begins_new_wal
            && self.changed_files().is_empty()
            && self.lost_ranges.is_empty();
        if depth == Depth::Structure && (self.is_in_use || is_as_it_stopped) {
            return;
        }
        let files = DataFiles::of(self.root, &tree);
        // What is left of it is not looked at any more, and takes as much memory as the pages that are read.
        drop(tree);
        let ceiling = wal_end.filter(|_| self.has_wal_of_its_own());
        // It is lent out while findings are added.
        let lent = self.catalog.take();
        let none = Catalog::default();
        let catalog = lent.as_ref().unwrap_or(&none);
        let known = Known { catalog, control: &control, history: &PageHistory::default(), ceiling };
        self.check_data_of(&files, known, depth);
        self.catalog = lent;
    }

    /// Has the tables that all others are found by looked at as though they had been written to.
    fn follow_catalogs(&mut self) {
        let relations = self.catalog.iter().flat_map(Catalog::relations);
        let followed =
            relations.filter(|relation| relation.is_mapped && FOLLOWED_TABLES.contains(&relation.oid.0));
        let places: Vec<String> =
            followed.map(|relation| format!("{}/{}", relation.directory, relation.relfilenode)).collect();
        self.changed_files.extend(places);
    }

    fn check_data_of(&mut self, files: &DataFiles, known: Known<'_>, depth: Depth) {
        let history = self.page_history(known.control);
        let known = Known { history: &history, ..known };
        if depth == Depth::Structure && !self.is_clean() {
            self.check_pages_written_last(files, known);
            return self.check_files_to_be_replayed(files, known);
        }
        if depth == Depth::Structure && self.begins_new_wal() {
            self.check_pages_written_last(files, known);
        }
        let bad = if depth == Depth::Structure {
            self.check_changed_pages(files, known)
        } else {
            self.check_pages(files, known)
        };
        if self.is_clean() && !self.is_in_use {
            let changed = (depth == Depth::Structure).then(|| self.changed_files.iter().cloned().collect());
            self.check_index_entries(files, known, &bad, changed.as_ref());
            if depth == Depth::Deep {
                self.check_heap_pages(files, known, &bad);
            }
            self.consider_lost_files(files, known);
        }
    }

    /// Whether what was found asks for a new WAL.
    fn begins_new_wal(&self) -> bool {
        self.findings.iter().any(|finding| finding.remedy == Remedy::ResetWal)
    }

    /// Whether all that the pages can have is in the WAL here, so that its end says something about them. A standby, a
    /// restored backup and a point-in-time recovery take WAL from elsewhere; and a running server goes on.
    pub(super) fn has_wal_of_its_own(&self) -> bool {
        let state = self.control.as_ref().map(|control| control.state);
        let is_primary = matches!(
            state,
            Some(
                ClusterState::ShutDown
                    | ClusterState::InProduction
                    | ClusterState::ShuttingDown
                    | ClusterState::InCrashRecovery
            )
        );
        is_primary && self.takes_no_wal_from_elsewhere() && !self.is_in_use && !self.is_control_rebuilt
    }

    /// Reads what the WAL says about pages.
    pub(super) fn page_history(&self, control: &ControlFile) -> PageHistory {
        let wal = self.has_wal_of_its_own().then(|| WalDirectory::of_cluster(self.root, control)).flatten();
        match wal {
            Some(wal) if self.is_clean() => PageHistory::of_all(wal, control),
            Some(wal) => PageHistory::to_be_replayed(wal, control),
            None => PageHistory::default(),
        }
    }

    /// Checks every page of every relation. Returns what is bad.
    fn check_pages(&mut self, files: &DataFiles, known: Known<'_>) -> Vec<BadPage> {
        let floor = known.floor(files);
        let mut rules = Rules::of(known.control, known.ceiling);
        rules.is_live = self.is_in_use;
        if self.is_clean() && !self.is_in_use {
            rules.floor = Some(&floor);
        }
        let all: Vec<usize> = (0..files.files.len()).collect();
        self.check_chosen(files, known, &all, rules)
    }

    /// Checks, before a crashed cluster starts, that no page is newer than the end of the WAL, and that every page is
    /// sound which the replay that comes anyway does not write anew.
    ///
    /// The server would start without a word, and what the lost WAL had would be gone. Only files written since
    /// the last checkpoint can have such pages.
    fn check_pages_written_last(&mut self, files: &DataFiles, known: Known<'_>) {
        if known.ceiling.is_none() {
            return;
        }
        let rules = Rules::of(known.control, known.ceiling);
        let chosen = written_since(files, known.control.checkpoint_time - CLOCK_MARGIN_SECONDS);
        self.check_chosen(files, known, &chosen.files, rules);
        self.findings.extend(chosen.not_read());
    }

    /// Checks, before a cleanly stopped cluster starts, the files that were written to after it stopped.
    fn check_changed_pages(&mut self, files: &DataFiles, known: Known<'_>) -> Vec<BadPage> {
        let floor = known.floor(files);
        let mut rules = Rules::of(known.control, known.ceiling);
        rules.floor = Some(&floor);
        let changed: HashSet<&str> = self.changed_files().iter().map(String::as_str).collect();
        let chosen = newest_first(files, |file| changed.contains(files.place_of(file).as_str()));
        let bad = self.check_chosen(files, known, &chosen.files, rules);
        self.findings.extend(chosen.not_read());
        bad
    }

    /// Checks the pages of these files, counts them, and reports what is bad.
    fn check_chosen(
        &mut self,
        files: &DataFiles,
        known: Known<'_>,
        chosen: &[usize],
        rules: Rules<'_>,
    ) -> Vec<BadPage> {
        let Scanned { pages, bad } = scan(self.root, files, chosen, rules);
        self.extent.pages += pages;
        if !bad.is_empty() {
            let findings = self.judge(files, known).findings(&bad);
            self.findings.extend(findings);
        }
        bad
    }

    /// What bad pages are judged by.
    pub(super) fn judge<'a>(&self, files: &'a DataFiles, known: Known<'a>) -> Judge<'a> {
        let relations = Relations::of(known.catalog);
        Judge { files, history: known.history, relations, is_clean: self.is_clean(), is_live: self.is_in_use }
    }
}

/// The files that are read before a start, and how much there would have been besides.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    /// Indexes of [`DataFiles::files`], newest first.
    files: Vec<usize>,
    size_bytes: u64,
    left_out: usize,
    left_out_bytes: u64,
}

impl Chosen {
    /// The finding that the bound left something out.
    fn not_read(&self) -> Option<Finding> {
        let evidence = format!(
            "{} that were written last, {}, were read, and {} written before them, {}, were not: a start does not wait \
             for more; maintenance check --deep reads all",
            counted(self.files.len(), "file"),
            bytes(self.size_bytes),
            counted(self.left_out, "file"),
            bytes(self.left_out_bytes),
        );
        (self.left_out > 0).then(|| Finding::new("pages-not-read", Severity::Notice, ".", evidence))
    }
}

/// The logged files that were written since, newest first, up to a bound.
fn written_since(files: &DataFiles, seconds: i64) -> Chosen {
    let since = seconds.saturating_mul(1_000_000_000);
    newest_first(files, |file| file.modified_ns >= since && !files.is_unlogged(file))
}

/// The files that are due, newest first, up to a bound.
fn newest_first(files: &DataFiles, is_due: impl Fn(&DataFile) -> bool) -> Chosen {
    let mut due: Vec<(usize, &DataFile)> =
        files.files.iter().enumerate().filter(|(_, file)| is_due(file)).collect();
    due.sort_by_key(|(_, file)| std::cmp::Reverse(file.modified_ns));
    let mut chosen = Chosen::default();
    for (index, file) in due {
        if chosen.size_bytes < MOST_BEFORE_START_BYTES {
            chosen.files.push(index);
            chosen.size_bytes += file.size_bytes;
        } else if file.size_bytes > 0 {
            chosen.left_out += 1;
            chosen.left_out_bytes += file.size_bytes;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;
    use crate::pg::layout::{Fork, RelationFile};

    /// Files of these sizes, each older than the one before it.
    fn files(sizes: &[u64]) -> DataFiles {
        let file = |(number, &size_bytes): (u32, &u64)| {
            let name = RelationFile { relfilenode: Oid(number), fork: Fork::Main, segment: 0 };
            DataFile { directory: 0, name, size_bytes, modified_ns: 100 - i64::from(number) }
        };
        let mut files = DataFiles::default();
        files.files = (0..).zip(sizes).map(file).collect();
        files
    }

    #[test]
    fn what_the_bound_leaves_out_is_told_with_its_size() {
        const GIBIBYTE: u64 = 1 << 30;
        let chosen = newest_first(&files(&[GIBIBYTE, GIBIBYTE, GIBIBYTE, 0, 8192]), |_| true);

        let (size_bytes, left_out_bytes) = (2 * GIBIBYTE, GIBIBYTE + 8192);
        assert_eq!(chosen, Chosen { files: vec![0, 1], size_bytes, left_out: 2, left_out_bytes });
        let finding = chosen.not_read().unwrap();
        assert_eq!((finding.code, finding.severity), ("pages-not-read", Severity::Notice));
        assert!(
            finding.evidence.contains("2 files written before them, 1.0 GiB, were not"),
            "{}",
            finding.evidence
        );
    }

    #[test]
    fn nothing_is_told_where_all_is_read() {
        let chosen = newest_first(&files(&[8192, 0]), |_| true);

        assert_eq!(chosen.files, [0, 1]);
        assert_eq!(chosen.not_read(), None);
    }
}
