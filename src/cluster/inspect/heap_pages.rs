//! The pages of tables, held against what is kept beside them: the visibility map and the status of transactions.
//!
//! Both say which rows there are, and neither has a checksum in a cluster without data checksums; `pg_xact` never has
//! one. Every page of every table is read for it, once.

use super::Inspection;
use super::catalog::{Catalog, CatalogRelation, RelationKind};
use super::pages::{BadPage, DataFile, DataFiles, Known, PageHistory, longest_bytes, read_pages};
use super::status::{RowHints, RowTally, ToBeReplayed};
use crate::format::counted;
use crate::pg::layout::Fork;
use crate::pg::page::{self, Checksums, Page, SIZE_BYTES};
use crate::pg::{BlockNumber, Oid, visibility_map};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ReadRoot;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// `HEAP_TABLE_AM_OID`: other kinds of table lay out their pages otherwise.
const HEAP: Oid = Oid(2);
/// What one thread takes of a file at once.
const PART_BYTES: u64 = 32 << 20;
const RUN_PAGES: usize = 32;
/// The largest map that is held in memory: of a table of 8 TiB.
const MOST_MAP_BYTES: u64 = 256 << 20;

/// The files of tables that are to be read, and what is known of them.
pub(super) struct Heaps<'a> {
    root: &'a ReadRoot,
    files: &'a DataFiles,
    segment_blocks: u32,
    /// Which relation each is of; an index into `DataFiles::files` first.
    tables: Vec<(usize, &'a CatalogRelation)>,
    maps: HashMap<(usize, Oid), Vec<u8>>,
    /// Pages of which it is known already that they are bad.
    bad: HashSet<(usize, BlockNumber)>,
    checksums: Checksums,
    /// What replay changes: such a page may be torn, so that what is in it means nothing.
    to_be_replayed: Option<&'a PageHistory>,
}

/// What was found in the pages.
#[derive(Default)]
struct HeapTally {
    rows: RowTally,
    /// By directory and file number: how many blocks the map is wrong about, and the first of them.
    maps: BTreeMap<(usize, Oid), (u64, BlockNumber)>,
}

impl HeapTally {
    fn plus(mut self, other: Self) -> Self {
        self.rows = self.rows.plus(other.rows);
        for (key, (blocks, first)) in other.maps {
            let entry = self.maps.entry(key).or_insert((0, first));
            *entry = (entry.0 + blocks, entry.1.min(first));
        }
        self
    }
}

impl Inspection<'_> {
    /// Checks, after a clean stop, that no row contradicts the status of its transactions, and no page its map.
    pub(super) fn check_heap_pages(&mut self, files: &DataFiles, known: Known<'_>, bad: &[BadPage]) {
        let mut heaps = Heaps::of(self.root, files, known);
        heaps.bad = bad.iter().map(|page| (page.file, page.block)).collect();
        heaps.read_maps();
        let hints = RowHints::read(self.root, known.control, ToBeReplayed::default());
        let found = heaps.look(&hints);
        let reported: HashSet<String> = self.findings.iter().map(|finding| finding.place.clone()).collect();
        let findings = heaps.map_findings(&found).chain(found.rows.findings());
        let new: Vec<Finding> = findings.filter(|finding| !reported.contains(&finding.place)).collect();
        self.findings.extend(new);
    }
}

impl<'a> Heaps<'a> {
    /// The tables of the catalogs whose changes are logged.
    pub(super) fn of(root: &'a ReadRoot, files: &'a DataFiles, known: Known<'a>) -> Self {
        let by_place = tables_by_place(known.catalog);
        let table = |(index, file): (usize, &DataFile)| {
            let place = files.directory_of(file)?.place.as_str();
            let relation = *by_place.get(&(place, file.name.relfilenode))?;
            let is_read = file.name.fork == Fork::Main && !files.is_unlogged(file);
            is_read.then_some((index, relation))
        };
        let tables = files.files.iter().enumerate().filter_map(table).collect();
        Self {
            root,
            files,
            segment_blocks: known.control.relation_segment_blocks,
            tables,
            maps: HashMap::new(),
            bad: HashSet::new(),
            checksums: known.control.checksums(),
            to_be_replayed: None,
        }
    }

    /// Leaves out the pages that the replay to come changes.
    pub(super) fn leave_out_what_replay_changes(&mut self, history: &'a PageHistory) {
        self.to_be_replayed = Some(history);
    }

    /// Keeps the catalogs that relation maps name, which are found even where no row can be believed, and of the others
    /// as many as the bound allows.
    pub(super) fn limit_to(&mut self, most_bytes: u64) {
        self.tables.sort_by_key(|(_, relation)| (!relation.is_mapped, !relation.is_system));
        let mut left_bytes = most_bytes;
        let files = &self.files.files;
        self.tables.retain(|(index, _)| {
            let left = left_bytes.checked_sub(files.get(*index).map_or(0, |file| file.size_bytes));
            left_bytes = left.unwrap_or(left_bytes);
            left.is_some()
        });
    }

    /// What the rows of these tables contradict.
    pub(super) fn rows(&self, hints: &RowHints<'_>) -> RowTally {
        self.look(hints).rows
    }

    /// Reads the visibility map of each table that is to be read.
    fn read_maps(&mut self) {
        let tables: HashSet<(usize, Oid)> = self
            .tables
            .iter()
            .filter_map(|(index, _)| self.files.files.get(*index))
            .map(|file| (file.directory, file.name.relfilenode))
            .collect();
        let is_map = |file: &&DataFile| {
            file.name.fork == Fork::Vm && file.name.segment == 0 && file.size_bytes <= MOST_MAP_BYTES
        };
        for file in self.files.files.iter().filter(is_map) {
            let key = (file.directory, file.name.relfilenode);
            if !tables.contains(&key) || file.size_bytes == 0 {
                continue;
            }
            let mut map = vec![0; usize::try_from(file.size_bytes).unwrap_or_default()];
            let opened = self.files.open(self.root, file);
            if opened.and_then(|open| open.read_exact_at(&mut map, 0)).is_ok() {
                self.maps.insert(key, map);
            }
        }
    }

    fn look(&self, hints: &RowHints<'_>) -> HeapTally {
        let parts: Vec<(usize, u64)> = self
            .tables
            .iter()
            .flat_map(|(index, _)| {
                let size_bytes = self.files.files.get(*index).map_or(0, |file| file.size_bytes);
                let size_bytes = size_bytes.min(longest_bytes(self.segment_blocks));
                let step = usize::try_from(PART_BYTES).unwrap_or(usize::MAX);
                (0..size_bytes).step_by(step).map(move |begin| (*index, begin))
            })
            .collect();
        let look = |(index, begin): (usize, u64)| self.look_at_part(index, begin, hints).unwrap_or_default();
        parts.into_par_iter().map(look).reduce(HeapTally::default, HeapTally::plus)
    }

    fn look_at_part(&self, index: usize, begin: u64, hints: &RowHints<'_>) -> Option<HeapTally> {
        let data_file = self.files.files.get(index)?;
        let file = self.files.open(self.root, data_file).ok()?;
        let end = data_file.size_bytes.min(begin + PART_BYTES);
        let segment_start = data_file.name.segment.checked_mul(self.segment_blocks)?;
        let mut tally = HeapTally::default();
        let mut run = Run { file: &file, pages: vec![[0; SIZE_BYTES]; RUN_PAGES] };
        let mut offset = begin;
        while offset < end {
            let pages = run.read(offset, end);
            if pages.is_empty() {
                break;
            }
            let first = segment_start.checked_add(u32::try_from(offset / SIZE_BYTES as u64).ok()?)?;
            for (page, block) in pages.iter().zip(first..) {
                if self.is_believed((index, data_file), (BlockNumber(block), page)) {
                    self.look_at_page(data_file, (BlockNumber(block), page), hints, &mut tally);
                }
            }
            offset += (pages.len() * SIZE_BYTES) as u64;
        }
        Some(tally)
    }

    fn is_believed(&self, (index, file): (usize, &DataFile), (block, page): (BlockNumber, &Page)) -> bool {
        let is_replayed = || {
            let reference = self.files.reference(file, block);
            let change = self.to_be_replayed.zip(reference);
            change.is_some_and(|(history, reference)| history.last_change(&reference).is_some())
        };
        !self.bad.contains(&(index, block))
            && page::verify(page, block, self.checksums).is_acceptable()
            && !is_replayed()
    }

    fn look_at_page(
        &self,
        file: &DataFile,
        (block, page): (BlockNumber, &Page),
        hints: &RowHints<'_>,
        tally: &mut HeapTally,
    ) {
        let key = (file.directory, file.name.relfilenode);
        let is_called_visible = self.maps.get(&key).is_some_and(|map| visibility_map::is_set(map, block));
        if is_called_visible && !visibility_map::is_page_all_visible(page) {
            tally.maps.entry(key).or_insert((0, block)).0 += 1;
        }
        hints.look_at(page, &mut tally.rows);
    }

    fn map_findings(&self, found: &HeapTally) -> impl Iterator<Item = Finding> {
        let relations: HashMap<(usize, Oid), &CatalogRelation> = self
            .tables
            .iter()
            .filter_map(|(index, relation)| Some((self.files.files.get(*index)?, relation)))
            .map(|(file, relation)| ((file.directory, file.name.relfilenode), *relation))
            .collect();
        found.maps.iter().filter_map(move |(key, (blocks, first))| {
            let place = &self.files.directories.get(key.0)?.place;
            let evidence = format!(
                "it calls {} all-visible that do not say so themselves; the first is block {first}",
                counted(*blocks, "page")
            );
            let place = format!("{place}/{}_vm", key.1);
            let finding = Finding::new("visibility-map-wrong", Severity::Warning, place, evidence);
            let name = relations.get(key).map(|relation| relation.name());
            // The server makes it again, and until then looks at each row.
            Some(finding.of_relation(name).with_remedy(Remedy::SetAsideFile))
        })
    }
}

/// The tables that the catalogs name, by directory and file number.
fn tables_by_place(catalog: &Catalog) -> HashMap<(&str, Oid), &CatalogRelation> {
    let is_table = |relation: &&CatalogRelation| {
        let kinds = [RelationKind::Table, RelationKind::Toast, RelationKind::MaterializedView];
        // A relation of a map that this pgbox does not know has no name, and may be an index.
        let is_known = relation.own_name.parse::<u32>().is_err() || !relation.is_mapped;
        kinds.contains(&relation.kind) && relation.access_method == HEAP && is_known
    };
    let tables = catalog.relations().filter(is_table);
    tables.map(|relation| ((&*relation.directory, relation.relfilenode), relation)).collect()
}

/// The pages that are read at once.
struct Run<'a> {
    file: &'a File,
    pages: Vec<Page>,
}

impl Run<'_> {
    /// Reads pages from an offset on, up to `end` at the most; none where they cannot be read, which the check of the
    /// pages reports.
    fn read(&mut self, offset: u64, end: u64) -> &[Page] {
        let wanted = usize::try_from((end - offset) / SIZE_BYTES as u64).unwrap_or(usize::MAX);
        let count = self.pages.len().min(wanted);
        let Some(pages) = self.pages.get_mut(..count).filter(|pages| !pages.is_empty()) else { return &[] };
        let read = read_pages(self.file, offset, pages).unwrap_or_default();
        pages.get(..read).unwrap_or_default()
    }
}
