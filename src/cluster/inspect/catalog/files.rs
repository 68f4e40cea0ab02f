//! The files of each relation against the listing of its directory.
//!
//! A relation is segment files: all but the last have their full length, and behind a shorter one there may only be
//! empty ones (md.c, `mdnblocks()`, `mdtruncate()`).

use super::directory::{FoundFile, RelationDirectory, begins};
use super::mapped::{BTREE, NEVER_EMPTY_TABLES};
use super::scene::Scene;
use super::{CatalogRelation, Certainty, RelationKind, remedies, unlogged};
use crate::pg::heap::IndexRow;
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page;
use crate::pg::{BlockNumber, Oid, btree};
use crate::plan::{Finding, Remedy, Severity};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The tables by which everything else is found, each of which is compared with an index: `pg_class`, `pg_authid`,
/// `pg_database`, `pg_tablespace`.
pub(in crate::cluster::inspect) const FOLLOWED_TABLES: [u32; 4] = [1259, 1260, 1262, 1213];

/// A directory that relations may be in.
pub(super) enum Place {
    Listed(RelationDirectory),
    Absent,
    /// It could not be read, or is out of reach; that is a finding of its own.
    Unknown,
}

impl Place {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// The relations of one map and its `pg_class`, and the directories that they are in.
pub(super) struct Group<'a> {
    pub scene: &'a Scene<'a>,
    /// In order of their object identifiers.
    pub relations: &'a [CatalogRelation],
    places: &'a [(String, Place)],
    index_rows: HashMap<Oid, IndexRow>,
    dependants: OnceLock<HashMap<Oid, Vec<&'a CatalogRelation>>>,
}

/// What is wrong with the files of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The first segment of the main fork is not there.
    Missing,
    /// It is there and empty, which it never is.
    Empty,
    /// Its first page is zeros, which it never is.
    BeginsWithZeros,
    /// An index of it has an entry for a row in a block that it does not have.
    ShorterThanIndex,
    /// A later segment is not there, and one behind it is.
    SegmentMissing(FoundFile),
    /// A segment is not full, and one behind it holds pages.
    SegmentShort(FoundFile),
    /// The size is no whole number of blocks.
    Torn(FoundFile),
    /// An unlogged relation has no fork to begin anew from.
    InitMissing,
    /// A relation that is no unlogged one has such a fork.
    InitStray,
    /// An unlogged relation was not begun anew, and has no data.
    UnloggedMissing,
}

impl<'a> Group<'a> {
    pub(super) fn new(
        scene: &'a Scene<'a>,
        relations: &'a [CatalogRelation],
        places: &'a [(String, Place)],
        index_rows: HashMap<Oid, IndexRow>,
    ) -> Self {
        Self { scene, relations, places, index_rows, dependants: OnceLock::new() }
    }

    /// Checks every relation.
    pub(super) fn check(&self) -> Vec<Finding> {
        let faulty: Vec<(&CatalogRelation, Fault)> = self
            .relations
            .iter()
            .flat_map(|relation| self.faults(relation).into_iter().map(move |fault| (relation, fault)))
            .collect();
        let mut findings: Vec<Finding> =
            faulty.iter().map(|(relation, fault)| self.finding(relation, *fault)).collect();
        findings.extend(unlogged::stale_relatives(self, &faulty));
        findings
    }

    fn faults(&self, relation: &CatalogRelation) -> Vec<Fault> {
        let mut faults = Vec::new();
        let directory = match self.place(relation) {
            Place::Listed(directory) => directory,
            Place::Absent => return vec![Fault::Missing],
            Place::Unknown => return faults,
        };
        let is_clean = self.scene.rules.is_clean();
        let has_init = !directory.fork(relation.relfilenode, Fork::Init).is_empty();
        match (relation.is_unlogged, has_init) {
            (true, false) if !self.may_be_dropped(relation, directory) => faults.push(Fault::InitMissing),
            (false, true) => faults.push(Fault::InitStray),
            _ => {}
        }
        let files = directory.fork(relation.relfilenode, Fork::Main);
        if !begins(files) {
            match (relation.is_unlogged, is_clean) {
                (true, true) => faults.push(Fault::UnloggedMissing),
                // A crash recovery begins it anew.
                (true, false) => {}
                (false, _) => faults.push(Fault::Missing),
            }
            return faults;
        }
        let size: u64 = files.iter().map(|found| found.size_bytes).sum();
        // The file of a relation that was dropped or rewritten is emptied at once, and of which that is, only replay tells
        // (md.c, `mdunlinkfork()`). But a map names the new file before the old one is emptied.
        let is_telling = is_clean || (relation.is_mapped && self.scene.recovers_alone);
        if is_telling && is_never_empty(relation) {
            faults.extend(self.content_fault(relation, directory, size));
        }
        faults.extend(self.segment_fault(files));
        faults
    }

    /// Whether a relation whose init fork is gone may have been dropped, or rewritten, since the last checkpoint. That
    /// removes the init fork at once and empties the main one, whose name alone stays until the next checkpoint (md.c,
    /// `mdunlinkfork()`).
    fn may_be_dropped(&self, relation: &CatalogRelation, directory: &RelationDirectory) -> bool {
        let main = directory.fork(relation.relfilenode, Fork::Main);
        !self.scene.rules.is_clean() && !main.is_empty() && main.iter().all(|found| found.size_bytes == 0)
    }

    /// What of a relation that always has a page cannot be. Only the catalogs that a map names are read: without them
    /// nothing works, and they are few.
    ///
    /// Of a table after a clean stop the seal and the check of its pages know more, and what puts it right.
    fn content_fault(
        &self,
        relation: &CatalogRelation,
        directory: &RelationDirectory,
        size_bytes: u64,
    ) -> Option<Fault> {
        let is_left_to_others = self.scene.rules.is_clean() && relation.kind != RelationKind::Index;
        if size_bytes == 0 {
            return Some(Fault::Empty);
        }
        if !relation.is_mapped || is_left_to_others {
            return None;
        }
        let first = directory.read_block(relation.relfilenode, 0).ok()?;
        if first.iter().all(|byte| *byte == 0) {
            return Some(Fault::BeginsWithZeros);
        }
        let is_followed = FOLLOWED_TABLES.contains(&relation.oid.0);
        let blocks = size_bytes / page::SIZE_BYTES as u64;
        let is_shorter = is_followed && self.last_block_of_rows(relation).is_some_and(|last| last >= blocks);
        is_shorter.then_some(Fault::ShorterThanIndex)
    }

    /// The last block that an index of a mapped table has a row in. A table grows on the disk before any page that
    /// names its new block is written, so that only replay, which may have made it shorter, comes before the verdict.
    fn last_block_of_rows(&self, table: &CatalogRelation) -> Option<u64> {
        let is_btree =
            |index: &&&CatalogRelation| index.kind == RelationKind::Index && index.access_method == BTREE;
        let index = self.dependants(table.oid).iter().find(is_btree)?;
        let directory = self.directory(index)?;
        let pages = directory
            .read_catalog(index.relfilenode, self.scene.segment_blocks, self.scene.checksums)
            .ok()?;
        let mut last = None;
        for page in pages.pages().filter_map(|page| page.as_array()) {
            btree::for_each_row(page, |row| last = last.max(Some(u64::from(row.block.0))));
        }
        last
    }

    fn segment_fault(&self, files: &[FoundFile]) -> Option<Fault> {
        let page_bytes = page::SIZE_BYTES as u64;
        let full_bytes = u64::from(self.scene.segment_blocks) * page_bytes;
        if let Some(torn) = files.iter().find(|found| found.size_bytes % page_bytes != 0) {
            return Some(Fault::Torn(*torn));
        }
        let last = files.iter().rposition(|found| found.size_bytes > 0)?;
        let before = files.get(..=last)?;
        for (expected, found) in (0_u32..).zip(before) {
            if found.file.segment != expected {
                let file = RelationFile { segment: expected, ..found.file };
                return Some(Fault::SegmentMissing(FoundFile { file, size_bytes: 0 }));
            }
        }
        let short = before.get(..last)?.iter().find(|found| found.size_bytes != full_bytes)?;
        Some(Fault::SegmentShort(*short))
    }

    /// The directory of a relation.
    pub(super) fn place(&self, relation: &CatalogRelation) -> &'a Place {
        let found = self.places.iter().find(|(place, _)| **place == *relation.directory);
        found.map_or(&Place::Unknown, |(_, place)| place)
    }

    /// The directory of a relation, where it could be listed.
    pub(super) fn directory(&self, relation: &CatalogRelation) -> Option<&'a RelationDirectory> {
        match self.place(relation) {
            Place::Listed(directory) => Some(directory),
            _ => None,
        }
    }

    /// The relation with an object identifier.
    pub(super) fn relation(&self, oid: Oid) -> Option<&'a CatalogRelation> {
        let position = self.relations.binary_search_by_key(&oid, |relation| relation.oid).ok()?;
        self.relations.get(position)
    }

    /// The indexes and the toast relation of a table.
    pub(super) fn dependants(&self, table: Oid) -> &[&'a CatalogRelation] {
        let collect = || {
            let mut dependants: HashMap<Oid, Vec<&CatalogRelation>> = HashMap::new();
            for relation in self.relations {
                if let Some(table) = relation.table {
                    dependants.entry(table).or_default().push(relation);
                }
            }
            dependants
        };
        self.dependants.get_or_init(collect).get(&table).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether an index surely has an entry for every row of its table. Those of mapped catalogs have.
    pub(super) fn covers_all_rows(&self, index: &CatalogRelation) -> bool {
        index.is_mapped || self.index_rows.get(&index.oid).is_some_and(|row| row.covers_all_rows)
    }

    fn finding(&self, relation: &CatalogRelation, fault: Fault) -> Finding {
        let certainty = match fault {
            // A file is logged or not for as long as it is there: SET LOGGED and SET UNLOGGED make new ones
            // (tablecmds.c, `ATRewriteTables()`). And the next unclean start would throw the relation's data away.
            Fault::InitStray => Certainty::Sure,
            Fault::Missing | Fault::InitMissing => relation.certainty,
            // Replay and the checkpoint after it put these right.
            _ => relation.certainty.and(self.scene.rules.when_clean()),
        };
        let place = format!("{}/{}", relation.directory, file_of(relation, fault));
        let severity = match (fault, certainty) {
            // A drop removes this fork at once, and the row of a relation that is younger than the last checkpoint may
            // not say so yet (md.c, `mdunlink()`).
            (Fault::InitMissing, Certainty::Unsure) => Severity::Notice,
            _ => certainty.severity(),
        };
        let finding = Finding::new(fault.code(), severity, place, evidence(relation, fault));
        let remedy = match certainty {
            Certainty::Sure => remedies::remedy(self, relation, fault),
            // Replay decides, and then the server must not serve before somebody has looked.
            Certainty::Unsure if fault.is_of_content() && self.scene.recovers_alone => {
                remedies::remedy(self, relation, fault)
            }
            Certainty::Unsure => Remedy::Nothing,
        };
        finding.of_relation(Some(relation.name())).with_remedy(remedy).at_blocks(self.blocks(fault))
    }

    /// The first block that a fault is about, where it is about one.
    fn blocks(&self, fault: Fault) -> Vec<BlockNumber> {
        let first = |found: FoundFile| found.file.segment.saturating_mul(self.scene.segment_blocks);
        match fault {
            Fault::SegmentMissing(found) => vec![BlockNumber(first(found))],
            Fault::SegmentShort(found) | Fault::Torn(found) => {
                let whole = u32::try_from(found.size_bytes / page::SIZE_BYTES as u64).unwrap_or(u32::MAX);
                vec![BlockNumber(first(found).saturating_add(whole))]
            }
            _ => Vec::new(),
        }
    }

    /// The files that belong to no relation, one notice a directory. While something is left to replay, they may
    /// yet come to belong to one.
    pub(super) fn orphans(&self) -> Vec<Finding> {
        if !self.scene.rules.is_clean() {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for (place, listed) in self.places {
            let Place::Listed(directory) = listed else { continue };
            let here = self.relations.iter().filter(|relation| *relation.directory == **place);
            let mut known: Vec<Oid> = here.map(|relation| relation.relfilenode).collect();
            known.sort_unstable();
            let (count, size_bytes) = directory.others(&known);
            if count > 0 {
                let evidence = format!(
                    "{count} files, {size_bytes} bytes, belong to no relation: leftovers of a crash, never removed here"
                );
                findings.push(Finding::new("orphan-files", Severity::Notice, place, evidence));
            }
        }
        findings
    }
}

impl Fault {
    fn is_of_content(self) -> bool {
        matches!(self, Self::Empty | Self::BeginsWithZeros | Self::ShorterThanIndex)
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Missing => "relation-file-missing",
            Self::Empty => "relation-file-empty",
            Self::BeginsWithZeros => "relation-begins-with-zeros",
            Self::ShorterThanIndex => "relation-shorter-than-index",
            Self::SegmentMissing(_) => "relation-segment-missing",
            Self::SegmentShort(_) => "relation-segment-short",
            Self::Torn(_) => "relation-file-torn",
            Self::InitMissing => "init-fork-missing",
            Self::InitStray => "stray-init-fork",
            Self::UnloggedMissing => "unlogged-main-missing",
        }
    }
}

fn file_of(relation: &CatalogRelation, fault: Fault) -> RelationFile {
    let main = RelationFile { relfilenode: relation.relfilenode, fork: Fork::Main, segment: 0 };
    match fault {
        Fault::SegmentMissing(found) | Fault::SegmentShort(found) | Fault::Torn(found) => found.file,
        Fault::InitMissing | Fault::InitStray => RelationFile { fork: Fork::Init, ..main },
        _ => main,
    }
}

fn evidence(relation: &CatalogRelation, fault: Fault) -> String {
    match fault {
        Fault::Missing if relation.is_mapped => {
            format!("the relation map names it for catalog {}, and it is not there", relation.oid)
        }
        Fault::Missing => "pg_class names it, and it is not there".to_owned(),
        Fault::Empty => "it is empty, which it never is".to_owned(),
        Fault::BeginsWithZeros => "its first page is zeros, which it never is".to_owned(),
        Fault::ShorterThanIndex => "its index has entries for rows past its end".to_owned(),
        Fault::SegmentMissing(_) => "it is not there, and a later segment is".to_owned(),
        Fault::SegmentShort(found) => {
            format!("it has {} bytes, and a later segment holds more", found.size_bytes)
        }
        Fault::Torn(found) => format!("{} bytes are no whole number of blocks", found.size_bytes),
        Fault::InitMissing => {
            "the relation is unlogged, and the fork that it begins from after a crash is not there".to_owned()
        }
        Fault::InitStray => {
            "its relation is no unlogged one, and after a crash the server would throw away the data beside it".to_owned()
        }
        Fault::UnloggedMissing => {
            "the relation is unlogged, and its data is not there; what it held was never promised to last"
                .to_owned()
        }
    }
}

/// Whether a relation has at least one page, always. Of an index with an access method of an extension nobody knows.
fn is_never_empty(relation: &CatalogRelation) -> bool {
    /// btree, hash, `GiST`, GIN, SP-GiST, BRIN (`pg_am.dat`).
    const BUILT_IN: [u32; 6] = [403, 405, 783, 2742, 4000, 3580];
    match relation.kind {
        RelationKind::Index => BUILT_IN.contains(&relation.access_method.0),
        RelationKind::Sequence => true,
        _ => relation.is_mapped && NEVER_EMPTY_TABLES.contains(&relation.oid.0),
    }
}
