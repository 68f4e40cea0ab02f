//! Files of relations that are shorter than a backup has them, although nothing was cut since.
//!
//! The server itself does not miss the end of a file: a table that lost its last blocks has just fewer rows, with checksums
//! and without. A file is made shorter by a truncation, a drop or a rewrite alone, and each of them is in the WAL, which is
//! flushed before the file is touched (storage.c, `RelationTruncate()`; xact.c, `RecordTransactionCommit()`). So a file
//! that is shorter than in a backup of the same history, and about which no such record was written since the backup's
//! start, was cut by somebody else. A rewrite takes a new file, and an extension that the backup saw was synced by the
//! checkpoint that must lie between the backup and the present (`status_witness`).
//!
//! The WAL is read only where a file is shorter. Where it is not whole, nothing is called damaged. Maps are not looked at:
//! the server makes them again. Neither are unlogged relations, which a crash empties.

use super::joined_wal::JoinedWal;
use crate::cluster::inspect::follow;
use crate::cluster::inspect::wal::WalDirectory;
use crate::format::counted;
use crate::pg::control_file::{ControlFile, WalLevel};
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::wal::{RelationLocator, WalEvent, WalReader, WalRecord};
use crate::pg::{BlockNumber, Oid};
use crate::plan::{DamagedPage, Finding, Remedy, Severity};
use crate::repository::{BackupReader, Repository, TableEntry};
use crate::sys::ReadRoot;
use std::collections::{HashMap, HashSet};

const CUT: &str = "relation-file-cut";
const UNCHECKED: &str = "relation-file-shorter";

/// A cluster, and the backup of its past that its files are held against.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    pub(super) root: &'a ReadRoot,
    pub(super) control: &'a ControlFile,
    pub(super) repository: &'a Repository,
    pub(super) former: &'a BackupReader,
}

/// What came of it.
pub(super) enum Outcome {
    /// These files were cut; none where all is right.
    Cut(Vec<CutFile>),
    /// So many files are shorter, and whether they were cut is not known, for this reason.
    Unknown { file_count: usize, first: CutFile, reason: String },
}

/// A file that is shorter than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CutFile {
    path: String,
    relation: RelationLocator,
    segment: u32,
    former_bytes: u64,
    present_bytes: u64,
}

impl CutFile {
    fn evidence(&self, backup: &str) -> String {
        let Self { former_bytes, present_bytes, .. } = self;
        format!(
            "it has {present_bytes} bytes, {backup} has {former_bytes} of it, and the WAL since cuts nothing off"
        )
    }

    /// Whether the file is even shorter than a relation of so many blocks has it.
    fn is_shorter_than(&self, relation_blocks: u64, control: &ControlFile) -> bool {
        let (block_bytes, segment_blocks) =
            (u64::from(control.block_size), u64::from(control.relation_segment_blocks));
        let before = u64::from(self.segment).saturating_mul(segment_blocks);
        let wanted_blocks = relation_blocks.saturating_sub(before).min(segment_blocks);
        self.present_bytes / block_bytes < wanted_blocks.min(self.former_bytes / block_bytes)
    }
}

/// The findings about files that were cut, before a start.
pub(super) fn findings(comparison: &Comparison<'_>) -> Vec<Finding> {
    let name = comparison.former.summary().name.to_string();
    match compare(comparison) {
        Outcome::Cut(files) => {
            let finding = |file: &CutFile| {
                let finding = Finding::new(CUT, Severity::Error, file.path.clone(), file.evidence(&name));
                finding.with_remedy(Remedy::Replace)
            };
            files.iter().map(finding).collect()
        }
        Outcome::Unknown { file_count, first, reason } => {
            let evidence = unchecked(&name, file_count, &reason);
            vec![
                Finding::new(UNCHECKED, Severity::Warning, first.path, evidence).with_remedy(Remedy::Nothing),
            ]
        }
    }
}

/// The damaged pages of a running cluster that are missing at the end of files: a backup without them is not good. What
/// could not be checked is passed to `note`.
pub(super) fn damaged_pages(comparison: &Comparison<'_>, note: &dyn Fn(&str)) -> Vec<DamagedPage> {
    let name = comparison.former.summary().name.to_string();
    match compare(comparison) {
        Outcome::Cut(files) => {
            let block_bytes = u64::from(comparison.control.block_size);
            let page = |file: &CutFile| DamagedPage {
                file: file.path.clone(),
                relation: None,
                block: BlockNumber(u32::try_from(file.present_bytes / block_bytes).unwrap_or(u32::MAX)),
                problem: file.evidence(&name),
            };
            files.iter().map(page).collect()
        }
        Outcome::Unknown { file_count, first, reason } => {
            note(&format!("{}: {}", first.path, unchecked(&name, file_count, &reason)));
            Vec::new()
        }
    }
}

fn unchecked(backup: &str, file_count: usize, reason: &str) -> String {
    let what = if file_count == 1 {
        "it is".to_owned()
    } else {
        format!("it and {} are", counted(file_count - 1, "other file"))
    };
    format!(
        "{what} shorter than in {backup}; whether the server cut that off could not be checked, because {reason}"
    )
}

fn compare(comparison: &Comparison<'_>) -> Outcome {
    let mut shorter = shorter_files(comparison);
    let Some(first) = shorter.first().cloned() else { return Outcome::Cut(Vec::new()) };
    match Changes::since_backup(comparison, &shorter) {
        Ok(changes) => {
            shorter.retain(|file| changes.leave_longer(file, comparison.control));
            Outcome::Cut(shorter)
        }
        Err(reason) => Outcome::Unknown { file_count: shorter.len(), first, reason },
    }
}

/// The files of logged relations' main forks that are shorter than in the backup. A relation whose first file is gone is
/// left to the check of the catalogs, which knows whether there must be one.
fn shorter_files(comparison: &Comparison<'_>) -> Vec<CutFile> {
    let mut present = PresentFiles { root: comparison.root, tablespaces: HashMap::new() };
    let entries = comparison.former.entries().iter().filter(|entry| entry.is_file());
    entries.filter_map(|entry| shorter_file(entry, &mut present)).collect()
}

fn shorter_file(entry: &TableEntry, present: &mut PresentFiles<'_>) -> Option<CutFile> {
    let path = entry.path.as_str();
    let (directory, file_name) = path.rsplit_once('/')?;
    let name = RelationFile::parse(file_name).filter(|name| name.fork == Fork::Main)?;
    let (tablespace, database) = place_of(directory)?;
    let former_bytes = entry.size_bytes();
    let size_bytes = present.size_bytes(path);
    if size_bytes.is_some_and(|size| size >= former_bytes) || former_bytes == 0 {
        return None;
    }
    let first = format!("{directory}/{}", name.relfilenode);
    let is_there = present.size_bytes(&first).is_some();
    let is_unlogged = present.size_bytes(&format!("{first}_init")).is_some();
    let relation = RelationLocator { tablespace, database, relfilenode: name.relfilenode };
    let present_bytes = size_bytes.unwrap_or(0);
    (is_there && !is_unlogged).then(|| CutFile {
        path: path.to_owned(),
        relation,
        segment: name.segment,
        former_bytes,
        present_bytes,
    })
}

/// The tablespace and the database of a directory of relation files.
fn place_of(directory: &str) -> Option<(Oid, Oid)> {
    let parts: Vec<&str> = directory.split('/').collect();
    match *parts.as_slice() {
        ["global"] => Some((Oid::GLOBAL_TABLESPACE, Oid(0))),
        ["base", database] => Some((Oid::DEFAULT_TABLESPACE, Oid(database.parse().ok()?))),
        ["pg_tblspc", tablespace, _version, database] => {
            Some((Oid(tablespace.parse().ok()?), Oid(database.parse().ok()?)))
        }
        _ => None,
    }
}

/// The files that are there now, tablespaces elsewhere included.
struct PresentFiles<'a> {
    root: &'a ReadRoot,
    tablespaces: HashMap<String, Option<ReadRoot>>,
}

impl PresentFiles<'_> {
    /// The length of a file; `None` where there is none, or it may not be looked at.
    fn size_bytes(&mut self, path: &str) -> Option<u64> {
        let mut parts = path.splitn(3, '/');
        let facts = match (parts.next(), parts.next(), parts.next()) {
            (Some("pg_tblspc"), Some(tablespace), Some(rest)) => {
                let link = format!("pg_tblspc/{tablespace}");
                let root =
                    self.tablespaces.entry(link).or_insert_with_key(|link| follow(self.root, link).ok());
                root.as_ref()?.facts(rest)
            }
            _ => self.root.facts(path),
        };
        Some(facts.ok()??.size_bytes)
    }
}

/// What the WAL since a backup's start says of the relations in question.
struct Changes {
    wanted: HashSet<RelationLocator>,
    /// The fewest blocks that each was cut to.
    truncated: HashMap<RelationLocator, u32>,
    /// Relations that were made or dropped.
    remade: HashSet<RelationLocator>,
    databases: HashSet<Oid>,
    tablespaces: HashSet<Oid>,
    /// Why nothing can be said.
    obstacle: Option<&'static str>,
}

impl Changes {
    /// Reads the WAL from the backup's start to its end.
    ///
    /// # Errors
    /// Why it is not whole, in words. It must reach the last checkpoint, which is later than the backup.
    fn since_backup(comparison: &Comparison<'_>, shorter: &[CutFile]) -> Result<Self, String> {
        let Comparison { root, control, repository, former } = *comparison;
        let wal = WalDirectory::of_cluster(root, control).ok_or("pg_wal could not be read")?;
        let start = former.summary().start_lsn.ok_or("the backup does not say where it began")?;
        let archive = repository.wal_archive(control.system_identifier);
        let source = JoinedWal::new(&wal, &archive, control.timeline);
        let mut reader = WalReader::new(source, wal.geometry, start);
        let mut changes = Self {
            wanted: shorter.iter().map(|file| file.relation).collect(),
            truncated: HashMap::new(),
            remade: HashSet::new(),
            databases: HashSet::new(),
            tablespaces: HashSet::new(),
            obstacle: None,
        };
        let mut has_checkpoint = false;
        let fault = loop {
            match reader.next_record() {
                Ok(record) => {
                    has_checkpoint |= record.start == control.checkpoint;
                    changes.add(&record);
                }
                Err(fault) => break fault,
            }
        };
        match changes.obstacle {
            Some(obstacle) => Err(obstacle.to_owned()),
            None if has_checkpoint => Ok(changes),
            None => Err(format!("the WAL since then is not whole: {fault}")),
        }
    }

    fn add(&mut self, record: &WalRecord<'_>) {
        if record.body().is_none() {
            self.obstacle = Some("a record of the WAL since then makes no sense");
        }
        match record.event() {
            Some(WalEvent::RelationTruncated { relation, blocks }) if self.wanted.contains(&relation) => {
                let least = self.truncated.entry(relation).or_insert(blocks.0);
                *least = blocks.0.min(*least);
            }
            Some(WalEvent::RelationCreated { relation, fork: Fork::Main }) => {
                self.remade.extend(self.wanted.get(&relation));
            }
            Some(WalEvent::RelationsDropped(relations)) => {
                self.remade.extend(relations.iter().filter(|relation| self.wanted.contains(relation)));
            }
            Some(WalEvent::DatabaseCreated { database, .. } | WalEvent::DatabaseDropped { database }) => {
                self.databases.insert(database);
            }
            Some(WalEvent::TablespaceChanged { tablespace }) => {
                self.tablespaces.insert(tablespace);
            }
            Some(WalEvent::ParameterChange(parameters)) if parameters.wal_level == WalLevel::Minimal => {
                self.obstacle = Some("wal_level was minimal since");
            }
            _ => {}
        }
    }

    /// Whether the changes leave a file longer than it is.
    fn leave_longer(&self, file: &CutFile, control: &ControlFile) -> bool {
        let relation = &file.relation;
        let is_excused = self.remade.contains(relation)
            || self.databases.contains(&relation.database)
            || self.tablespaces.contains(&relation.tablespace);
        let blocks = self.truncated.get(relation).map_or(u64::MAX, |blocks| u64::from(*blocks));
        !is_excused && file.is_shorter_than(blocks, control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::a_shared_table("global", Some((1664, 0)))]
    #[case::a_table_of_a_database("base/5", Some((1663, 5)))]
    #[case::a_table_in_a_tablespace("pg_tblspc/16400/PG_15_202209061/5", Some((16400, 5)))]
    #[case::transactions("pg_xact", None)]
    #[case::what_is_not_a_number("base/pgsql_tmp", None)]
    fn a_directory_of_relations_is_known_by_its_path(
        #[case] directory: &str,
        #[case] expected: Option<(u32, u32)>,
    ) {
        let found = place_of(directory).map(|(tablespace, database)| (tablespace.0, database.0));
        assert_eq!(found, expected);
    }
}
