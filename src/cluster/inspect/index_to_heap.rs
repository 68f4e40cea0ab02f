//! Follows every entry of every btree index to its table.
//!
//! What has vanished from a table without a trace (a file cut short, a page of zeros, an old copy put back, two
//! servers on one volume) leaves entries in its indexes that lead nowhere. No checksum sees that, nor does amcheck,
//! which goes from the table to the index only. It holds only after a clean stop (`facts/corruption.md` §3).

use super::Inspection;
use super::catalog::{Catalog, CatalogRelation, RelationKind};
use super::pages::{BadPage, DataFile, DataFiles, Known, read_pages};
use crate::format::{count, counted};
use crate::pg::layout::Fork;
use crate::pg::line_pointers::UsedLinePointers;
use crate::pg::page::{Page, SIZE_BYTES};
use crate::pg::{BlockNumber, Oid, btree};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ReadRoot;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;

/// `HEAP_TABLE_AM_OID`: other kinds of table may number their rows otherwise.
const HEAP: Oid = Oid(2);
/// The blocks whose line pointers are held in memory at once: 16 MiB of them, for 3 GiB of table.
const RANGE_BLOCKS: u32 = 400_000;
/// Tables up to this many blocks are looked at side by side, larger ones one by one and in parallel within.
const SMALL_BLOCKS: u32 = 8_192;
/// The pages that are read at once.
const RUN_PAGES: u32 = 64;

/// The bad blocks of main forks, by directory and file number.
type BadBlocks = HashMap<(usize, Oid), HashSet<BlockNumber>>;

/// A table and those of its indexes that can be believed.
struct Table<'a> {
    relation: &'a CatalogRelation,
    heap: Segments<'a>,
    bad: Option<&'a HashSet<BlockNumber>>,
    indexes: Vec<(&'a CatalogRelation, Segments<'a>)>,
}

/// The segment files of a main fork, in order.
#[derive(Clone, Copy)]
struct Segments<'a> {
    files: &'a [DataFile],
    blocks: u32,
}

/// The entries of one index that lead nowhere.
#[derive(Default)]
struct Tally {
    entries: u64,
    astray: u64,
    blocks: BTreeSet<BlockNumber>,
}

impl Tally {
    fn plus(mut self, other: Self) -> Self {
        self.entries += other.entries;
        self.astray += other.astray;
        self.blocks.extend(other.blocks);
        self
    }
}

impl Inspection<'_> {
    /// Checks that every index entry leads to a row. A bad index is not asked, and a bad page of a table is taken
    /// for whole: both are reported already.
    ///
    /// `changed`, where given, are the files to which this is limited: tables of which none was written to, nor any
    /// of their indexes, are passed over.
    pub(super) fn check_index_entries(
        &mut self,
        files: &DataFiles,
        known: Known<'_>,
        bad: &[BadPage],
        changed: Option<&HashSet<String>>,
    ) {
        let Some(control) = &self.control else { return };
        if control.block_size as usize != SIZE_BYTES {
            return;
        }
        let bad = bad_blocks(files, bad);
        let mut tables = tables(files, known.catalog, &bad, control.relation_segment_blocks);
        if let Some(changed) = changed {
            let is_changed = |file: &DataFile| changed.contains(&files.place_of(file));
            tables.retain(|table| {
                let of_indexes = table.indexes.iter().flat_map(|(_, segments)| segments.files);
                table.heap.files.iter().chain(of_indexes).any(is_changed)
            });
        }
        let follower = Follower { root: self.root, files, segment_blocks: control.relation_segment_blocks };
        let (small, large): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|table| table.heap.blocks <= SMALL_BLOCKS);
        let mut results: Vec<_> = small.par_iter().map(|table| (table, follower.follow(table))).collect();
        results.extend(large.iter().map(|table| (table, follower.follow(table))));
        let lost: Vec<Lost<'_>> =
            results.iter().filter_map(|(table, tallies)| Lost::of(table, tallies)).collect();
        let findings = self.judge_lost(files, known, &lost);
        let entries = results.iter().flat_map(|(_, tallies)| tallies).map(|tally| tally.entries);
        self.extent.index_entries += entries.sum::<u64>();
        self.findings.extend(findings);
    }

    fn judge_lost(&self, files: &DataFiles, known: Known<'_>, lost: &[Lost<'_>]) -> Vec<Finding> {
        if lost.is_empty() {
            return Vec::new();
        }
        let references = |lost: &Lost<'_>| {
            let blocks = lost.blocks.iter();
            let mut pages: Vec<_> = blocks.filter_map(|block| files.reference(lost.file, *block)).collect();
            // Past the end of a table that was cut short there may have been pages that no index has rows in.
            if let Some(relation) = pages.first().map(|page| page.relation) {
                pages.extend(known.history.pages_from(relation, lost.table.heap.blocks));
            }
            pages
        };
        let groups: Vec<_> = lost.iter().map(references).collect();
        let replays = self.judge(files, known).checkpoints_before(&groups);
        let judged = lost.iter().zip(replays).map(|(lost, replay)| {
            // The rows of an unlogged table are in no WAL.
            let replay = replay.filter(|_| !lost.table.relation.is_unlogged);
            lost.finding(files, replay.map_or(Remedy::Replace, Remedy::ReplayFrom))
        });
        judged.collect()
    }
}

fn bad_blocks(files: &DataFiles, bad: &[BadPage]) -> BadBlocks {
    let mut blocks = BadBlocks::new();
    for page in bad {
        let Some(file) = files.files.get(page.file).filter(|file| file.name.fork == Fork::Main) else {
            continue;
        };
        blocks.entry((file.directory, file.name.relfilenode)).or_default().insert(page.block);
    }
    blocks
}

/// The tables whose files are there, with their indexes.
fn tables<'a>(
    files: &'a DataFiles,
    catalog: &'a Catalog,
    bad: &'a BadBlocks,
    segment_blocks: u32,
) -> Vec<Table<'a>> {
    let places = files.directories.iter().map(|directory| directory.place.as_str());
    let forks = Forks { files, directories: places.zip(0..).collect(), segment_blocks };
    let mut indexes: HashMap<(Oid, Oid), Vec<(&CatalogRelation, Segments<'_>)>> = HashMap::new();
    let btrees = catalog.relations().filter(|relation| {
        relation.kind == RelationKind::Index
            && relation.is_valid
            && relation.access_method.0 == btree::ACCESS_METHOD
    });
    for index in btrees {
        let (Some(table), Some((directory, segments))) = (index.table, forks.find(index)) else { continue };
        if !bad.contains_key(&(directory, index.relfilenode)) {
            // Most tables have but one, and there may be very many tables.
            let of_table = indexes.entry((index.database, table)).or_insert_with(|| Vec::with_capacity(1));
            of_table.push((index, segments));
        }
    }
    let heaps = catalog.relations().filter(|relation| relation.access_method == HEAP);
    let tables = heaps.filter_map(|relation| {
        let (directory, heap) = forks.find(relation)?;
        let indexes = indexes.remove(&(relation.database, relation.oid))?;
        let bad = bad.get(&(directory, relation.relfilenode));
        Some(Table { relation, heap, bad, indexes })
    });
    tables.collect()
}

/// The main forks of relations.
struct Forks<'a> {
    files: &'a DataFiles,
    /// Indexes of [`DataFiles::directories`].
    directories: HashMap<&'a str, usize>,
    segment_blocks: u32,
}

impl<'a> Forks<'a> {
    /// The directory and the files of a relation, if they are there from the first on.
    fn find(&self, relation: &CatalogRelation) -> Option<(usize, Segments<'a>)> {
        let directory = *self.directories.get(&*relation.directory)?;
        let files = self.files.main_fork(directory, relation.relfilenode);
        let begins = files.first().is_some_and(|file| file.name.segment == 0);
        begins.then(|| (directory, Segments { files, blocks: blocks_of(files, self.segment_blocks) }))
    }
}

/// A relation goes on to the next segment file only when the one before it is full (md.c, `mdnblocks()`).
fn blocks_of(files: &[DataFile], segment_blocks: u32) -> u32 {
    let mut blocks = 0_u32;
    for (number, file) in (0..).zip(files) {
        let size = u32::try_from(file.size_bytes / SIZE_BYTES as u64).unwrap_or(u32::MAX);
        if file.name.segment != number {
            break;
        }
        blocks = blocks.saturating_add(size.min(segment_blocks));
        if size < segment_blocks {
            break;
        }
    }
    blocks
}

/// Reads tables and indexes.
struct Follower<'a> {
    root: &'a ReadRoot,
    files: &'a DataFiles,
    segment_blocks: u32,
}

impl Follower<'_> {
    /// Follows the entries of each index of a table, a range of the table at a time.
    fn follow(&self, table: &Table<'_>) -> Vec<Tally> {
        let mut tallies: Vec<Tally> = table.indexes.iter().map(|_| Tally::default()).collect();
        let mut begin = 0;
        loop {
            let end = table.heap.blocks.min(begin + RANGE_BLOCKS);
            let used = self.used_line_pointers(table, begin..end);
            let is_last = end == table.heap.blocks;
            let look = Look { used: &used, begin, is_last };
            for (tally, (_, index)) in tallies.iter_mut().zip(&table.indexes) {
                let more = self.follow_index(index, &look);
                *tally = std::mem::take(tally).plus(more);
            }
            if is_last {
                return tallies;
            }
            begin = end;
        }
    }

    fn used_line_pointers(&self, table: &Table<'_>, range: Range<u32>) -> Vec<UsedLinePointers> {
        // What cannot be read is not known to be unused.
        let mut used = vec![UsedLinePointers::ALL; range.len()];
        let fill = |reader: &mut RunReader<'_>, (number, part): (usize, &mut [UsedLinePointers])| {
            let first = range.start + u32::try_from(number).unwrap_or_default() * RUN_PAGES;
            let pages = reader.read(&table.heap, first, part.len());
            for ((page, block), used) in pages.iter().zip(first..).zip(part) {
                if !table.bad.is_some_and(|bad| bad.contains(&BlockNumber(block))) {
                    *used = UsedLinePointers::of(page);
                }
            }
        };
        used.par_chunks_mut(RUN_PAGES as usize)
            .enumerate()
            .with_min_len(runs_together(table.heap.blocks))
            .for_each_init(|| RunReader::new(self), fill);
        used
    }

    fn follow_index(&self, index: &Segments<'_>, look: &Look<'_>) -> Tally {
        let runs = index.blocks.div_ceil(RUN_PAGES) as usize;
        (0..runs)
            .into_par_iter()
            .with_min_len(runs_together(index.blocks))
            .map_init(
                || RunReader::new(self),
                |reader, run| {
                    let first = u32::try_from(run).unwrap_or_default() * RUN_PAGES;
                    let mut tally = Tally::default();
                    for page in reader.read(index, first, RUN_PAGES as usize) {
                        btree::for_each_row(page, |row| look.visit(row, &mut tally));
                    }
                    tally
                },
            )
            .reduce(Tally::default, Tally::plus)
    }
}

/// How many runs one thread takes at least: all of them in a small relation, so that threads share out relations.
fn runs_together(blocks: u32) -> usize {
    if blocks <= SMALL_BLOCKS { usize::MAX } else { 1 }
}

/// A range of a table that entries are looked up in.
struct Look<'a> {
    used: &'a [UsedLinePointers],
    begin: u32,
    is_last: bool,
}

impl Look<'_> {
    fn visit(&self, row: btree::TupleId, tally: &mut Tally) {
        // Each pass over the index meets every entry; it counts in the first.
        tally.entries += u64::from(self.begin == 0);
        let Some(index) = row.block.0.checked_sub(self.begin) else { return };
        let used = usize::try_from(index).ok().and_then(|index| self.used.get(index));
        let is_astray = used.map_or(self.is_last, |used| !used.has(row.line_pointer));
        if is_astray {
            tally.astray += 1;
            tally.blocks.insert(row.block);
        }
    }
}

/// Reads runs of pages, keeping buffer and file between them.
struct RunReader<'a> {
    follower: &'a Follower<'a>,
    buffer: Vec<Page>,
    open: Option<((usize, Oid, u32), File)>,
}

impl<'a> RunReader<'a> {
    fn new(follower: &'a Follower<'a>) -> Self {
        Self { follower, buffer: Vec::new(), open: None }
    }

    /// The pages from a block on, no more than `most` and not past the end of a segment; fewer where they cannot
    /// be read, which the check of the pages reports.
    fn read(&mut self, segments: &Segments<'_>, first: u32, most: usize) -> &[Page] {
        let (number, block) = (first / self.follower.segment_blocks, first % self.follower.segment_blocks);
        let Some(file) = segments.files.get(number as usize) else { return &[] };
        let key = (file.directory, file.name.relfilenode, number);
        if self.open.as_ref().is_none_or(|(open, _)| *open != key) {
            self.open = self.follower.files.open(self.follower.root, file).ok().map(|file| (key, file));
        }
        let Some((_, open)) = &self.open else { return &[] };
        let left = usize::try_from(segments.blocks.saturating_sub(first)).unwrap_or(usize::MAX);
        let most = most.min(RUN_PAGES as usize).min(left);
        // Most relations are small, and a whole buffer for each of them takes longer than to read it.
        if self.buffer.len() < most {
            self.buffer.resize(most, [0; SIZE_BYTES]);
        }
        let pages = self.buffer.get_mut(..most).unwrap_or_default();
        let count = read_pages(open, u64::from(block) * SIZE_BYTES as u64, pages).unwrap_or_default();
        pages.get(..count).unwrap_or_default()
    }
}

/// A table that has lost rows.
struct Lost<'a> {
    table: &'a Table<'a>,
    file: &'a DataFile,
    blocks: Vec<BlockNumber>,
    evidence: String,
}

impl<'a> Lost<'a> {
    /// `None` for a table whose index entries all lead to a row.
    fn of(table: &'a Table<'a>, tallies: &[Tally]) -> Option<Self> {
        let astray: Vec<_> =
            table.indexes.iter().zip(tallies).filter(|(_, tally)| tally.astray > 0).collect();
        let told = astray.iter().map(|((index, _), tally)| {
            format!("{} of {} of {}", count(tally.astray), counted_entries(tally.entries), index.own_name)
        });
        let told: Vec<String> = told.collect();
        let blocks: BTreeSet<BlockNumber> =
            astray.iter().flat_map(|(_, tally)| tally.blocks.iter().copied()).collect();
        let beyond = blocks.iter().filter(|block| block.0 >= table.heap.blocks).count();
        let past = (beyond > 0).then(|| {
            let (blocks, size) = (counted(beyond, "block"), counted(table.heap.blocks, "block"));
            format!("; {blocks} would be past the end of the table at {size}")
        });
        let told = told.join(", ");
        let evidence =
            format!("index entries lead to rows that are not there: {told}{}", past.unwrap_or_default());
        let file = table.heap.files.first()?;
        (!blocks.is_empty()).then(|| Self { table, file, blocks: blocks.into_iter().collect(), evidence })
    }

    fn finding(&self, files: &DataFiles, remedy: Remedy) -> Finding {
        let place = files.place_of(self.file);
        Finding::new("index-entry-without-row", Severity::Error, place, self.evidence.clone())
            .of_relation(Some(self.table.relation.name()))
            .at_blocks(self.blocks.clone())
            .with_remedy(remedy)
    }
}

fn counted_entries(number: u64) -> String {
    let word = if number == 1 { "entry" } else { "entries" };
    format!("{} {word}", count(number))
}
