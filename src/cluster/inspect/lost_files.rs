//! Files that are gone or shorter than when the server stopped: whether the WAL that was kept has all that they held.
//!
//! The seal tells how long each file was, so that the lost blocks are known by number. Without a seal nothing tells
//! how much a table had, and only of one whose making is in the WAL is it proven that the WAL has all of it. Of the
//! others it is noted since when the WAL has nothing about them: a backup of then has them as they must be.

use super::Inspection;
use super::catalog::RelationKind;
use super::pages::{DataFile, DataFiles, Known, PageReference, checkpoint_before_creation};
use super::wal::{WalDirectory, WalTouches};
use crate::cluster::tree::FileTree;
use crate::pg::control_file::WalLevel;
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page::SIZE_BYTES;
use crate::pg::{BlockNumber, Lsn, Oid};
use crate::plan::{Finding, RelationName, Remedy};
use crate::sys::Threads;
use std::collections::BTreeMap;

/// More blocks than this are not looked up one by one in the WAL.
const MOST_BLOCKS: u64 = 1 << 20;

/// A part of a file that was there when the server stopped, and is not any more.
#[derive(Clone, Debug)]
pub(super) struct LostRange {
    /// The file, below the data directory.
    pub(super) place: String,
    /// The size that it has now; 0 for a file that is gone.
    pub(super) from_bytes: u64,
    /// The size that it had.
    pub(super) to_bytes: u64,
}

/// A lost part with what is known of its file.
struct Lost<'a> {
    range: &'a LostRange,
    file: DataFile,
    relation: Option<(RelationKind, RelationName)>,
}

impl Inspection<'_> {
    /// Gives the findings about lost parts of files a better remedy than replacing the cluster, where there is one.
    pub(super) fn consider_lost_files(&mut self, files: &DataFiles, known: Known<'_>) {
        let ranges = std::mem::take(&mut self.lost_ranges);
        if ranges.is_empty() {
            return;
        }
        let relations = self.judge(files, known);
        let lost: Vec<Lost<'_>> = ranges
            .iter()
            .filter_map(|range| {
                let file = file_of(files, range)?;
                let relation = relations.relation_of(&file);
                let relation = relation.map(|relation| (relation.kind, relation.name()));
                Some(Lost { range, file, relation })
            })
            .collect();
        let mut remedies: Vec<(String, Option<RelationName>, Option<Remedy>)> = Vec::new();
        let replays = replays(&lost, files, known, |groups| relations.checkpoints_before(groups));
        for lost in &lost {
            let name = lost.relation.as_ref().map(|(_, name)| name.clone());
            let remedy = match &lost.relation {
                Some((RelationKind::Index, name)) => Some(Remedy::Reindex(name.clone())),
                _ => replays.get(&(lost.file.directory, lost.file.name.relfilenode)).cloned().flatten(),
            };
            remedies.push((lost.range.place.clone(), name, remedy));
        }
        for (place, name, remedy) in remedies {
            self.improve(&place, name.as_ref(), remedy.as_ref());
        }
    }

    /// Looks for each relation that is damaged beyond repair in the WAL that was kept: whether all that it ever held is
    /// there, to be replayed, and else since when nothing about it is.
    pub(super) fn consult_wal_of_lost(&mut self) {
        let is_lost = |finding: &Finding| {
            let is_about_one = finding.relation.is_some() || finding.code == "relation-file-missing";
            // An index knows only the blocks that it has rows in.
            let is_cut = finding.code == "index-entry-without-row";
            (finding.remedy == Remedy::Replace && is_about_one) || is_cut
        };
        let Some(control) = self.control.clone() else { return };
        if !self.has_wal_of_its_own()
            || control.wal_level == WalLevel::Minimal
            || !self.findings.iter().any(is_lost)
        {
            return;
        }
        let Some(wal) = WalDirectory::of_cluster(self.root, &control) else { return };
        let Some(touches) = WalTouches::of_retained(&wal, control.checkpoint) else { return };
        if touches.end <= control.checkpoint {
            return;
        }
        let files = DataFiles::of(self.root, &FileTree::read(self.root, Some(&control), Threads::All));
        for finding in self.findings.iter_mut().filter(|finding| is_lost(finding)) {
            let relation = files.locator_of(&finding.place);
            finding.untouched_since =
                relation.and_then(|relation| touches.leaves_hints_alone_since(relation, &control));
            if ["relation-file-missing", "relation-file-torn", "index-entry-without-row"]
                .contains(&finding.code)
                && let Some(created) = relation.and_then(|relation| touches.created_at(relation))
                && let Some(checkpoint) = checkpoint_before_creation(&wal, control.checkpoint, created)
            {
                finding.remedy = Remedy::ReplayFrom(checkpoint);
            }
        }
    }

    fn improve(&mut self, place: &str, name: Option<&RelationName>, remedy: Option<&Remedy>) {
        let about_it = |finding: &&mut Finding| finding.place == place && finding.remedy == Remedy::Replace;
        for finding in self.findings.iter_mut().filter(about_it) {
            if finding.relation.is_none() {
                finding.relation = name.cloned();
            }
            if let Some(remedy) = remedy {
                finding.remedy = remedy.clone();
            }
        }
    }
}

fn file_of(files: &DataFiles, range: &LostRange) -> Option<DataFile> {
    let (directory, name) = range.place.rsplit_once('/')?;
    let directory = files.directories.iter().position(|found| found.place == directory)?;
    let name = RelationFile::parse(name)?;
    Some(DataFile { directory, name, size_bytes: range.to_bytes, modified_ns: 0 })
}

/// From where a replay brings back all that each table lost, where it does.
fn replays(
    lost: &[Lost<'_>],
    files: &DataFiles,
    known: Known<'_>,
    checkpoints_before: impl Fn(&[Vec<PageReference>]) -> Vec<Option<Lsn>>,
) -> BTreeMap<(usize, Oid), Option<Remedy>> {
    let mut groups: BTreeMap<(usize, Oid), Vec<PageReference>> = BTreeMap::new();
    let mut left = MOST_BLOCKS;
    for lost in lost {
        let is_index = matches!(lost.relation, Some((RelationKind::Index, _)));
        if is_index || lost.file.name.fork != Fork::Main || files.is_unlogged(&lost.file) {
            continue;
        }
        let blocks = blocks_of(lost, known.control.relation_segment_blocks);
        left = left.saturating_sub(blocks.end.saturating_sub(blocks.start));
        if left == 0 {
            return BTreeMap::new();
        }
        let group = groups.entry((lost.file.directory, lost.file.name.relfilenode)).or_default();
        let numbers = blocks.filter_map(|block| u32::try_from(block).ok());
        group.extend(numbers.filter_map(|block| files.reference(&lost.file, BlockNumber(block))));
    }
    let (keys, pages): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
    let found = checkpoints_before(&pages);
    keys.into_iter().zip(found).map(|(key, lsn)| (key, lsn.map(Remedy::ReplayFrom))).collect()
}

/// The blocks that were lost in full or in part, counted over the relation.
fn blocks_of(lost: &Lost<'_>, segment_blocks: u32) -> std::ops::Range<u64> {
    let size = SIZE_BYTES as u64;
    let first = u64::from(lost.file.name.segment) * u64::from(segment_blocks);
    first + lost.range.from_bytes / size..first + lost.range.to_bytes.div_ceil(size)
}
