//! What replay would hide: files of a crashed cluster that it makes anew, or makes longer, without the server noticing
//! that what they held is gone.

use super::{DataFile, DataFiles, Known};
use crate::cluster::inspect::Inspection;
use crate::cluster::inspect::catalog::{CatalogRelation, Certainty, RelationKind};
use crate::cluster::inspect::wal::WalTouches;
use crate::pg::BlockNumber;
use crate::pg::layout::Fork;
use crate::pg::page::SIZE_BYTES;
use crate::plan::{Finding, Remedy, Severity};
use std::collections::HashSet;

impl Inspection<'_> {
    /// Checks, before a crashed cluster starts, that each relation which replay will change has its file, and that none
    /// was cut short.
    ///
    /// The catalogs cannot tell that of a relation whose making was not committed at the last checkpoint. The server
    /// makes the file anew, writes what the WAL has of it, and does not notice that the rest is gone.
    pub(super) fn check_files_to_be_replayed(&mut self, files: &DataFiles, known: Known<'_>) {
        let Some(touches) = known.history.touches() else { return };
        let cut = self.files_cut_short(files, known, touches);
        self.findings.extend(cut);
        let reported: HashSet<String> = self.findings.iter().map(|finding| finding.place.clone()).collect();
        for place in touches.needed_relations().filter_map(|relation| files.missing_place(relation)) {
            if !reported.contains(&place) {
                let evidence = "the WAL since the last checkpoint changes it, and it is not there";
                self.report("relation-file-missing", Severity::Error, place, evidence);
            }
        }
    }

    /// Indexes without their first page, and files that end within a page which replay will not write anew.
    fn files_cut_short(&self, files: &DataFiles, known: Known<'_>, touches: &WalTouches) -> Vec<Finding> {
        let suspects: Vec<&DataFile> = files.files.iter().filter(|file| is_suspect(files, file)).collect();
        if suspects.is_empty() {
            return Vec::new();
        }
        let judge = self.judge(files, known);
        let is_final = |relation: &&CatalogRelation| relation.certainty == Certainty::Sure;
        let finding = |file: &DataFile| {
            let relation = judge.relation_of(file).filter(is_final)?;
            let end = end_of(file, known.control.relation_segment_blocks);
            let page = files.reference(file, end)?;
            let is_replayed =
                touches.touch(page.relation, page.fork, end).is_some_and(|touch| touch.first_is_complete);
            // A drop empties a file at once; it is in the WAL.
            if is_replayed || touches.is_removed(page.relation) {
                return None;
            }
            let is_index = relation.kind == RelationKind::Index;
            // An extension that was cut short leaves a part of a page of zeros.
            let (code, evidence) = if files.has_part_of_page(self.root, file) {
                ("relation-file-torn", format!("it ends within block {end}, which no WAL brings whole"))
            } else if is_index && file.size_bytes == 0 {
                ("relation-file-empty", "an index has at least one page, and it has none".to_owned())
            } else {
                return None;
            };
            let remedy = if is_index { Remedy::Reindex(relation.name()) } else { Remedy::Replace };
            let finding = Finding::new(code, Severity::Error, files.place_of(file), evidence);
            Some(finding.of_relation(Some(relation.name())).with_remedy(remedy))
        };
        suspects.into_iter().filter_map(finding).collect()
    }
}

/// Whether the size alone makes a logged main fork worth a look.
fn is_suspect(files: &DataFiles, file: &DataFile) -> bool {
    let is_empty = file.size_bytes == 0 && file.name.segment == 0;
    let is_odd = !file.size_bytes.is_multiple_of(SIZE_BYTES as u64);
    file.name.fork == Fork::Main && (is_empty || is_odd) && !files.is_unlogged(file)
}

/// The block that a file ends within, or before, counted over the relation.
fn end_of(file: &DataFile, segment_blocks: u32) -> BlockNumber {
    let within = u32::try_from(file.size_bytes / SIZE_BYTES as u64).unwrap_or(u32::MAX);
    BlockNumber(file.name.segment.saturating_mul(segment_blocks).saturating_add(within))
}
