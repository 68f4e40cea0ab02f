//! Reads files of data pages from end to end, in parallel, and tells which pages are not as they should be.
//!
//! Each thread has one buffer and reads large parts into it, so memory does not grow with the cluster, and a page
//! is judged while it is still in the CPU's caches. What a bad page means is not decided here.

use super::listing::{DataFile, DataFiles};
use crate::pg::control_file::ControlFile;
use crate::pg::layout::Fork;
use crate::pg::page::{self, Checksums, Page, PageVerdict, SIZE_BYTES};
use crate::pg::{BlockNumber, Lsn};
use crate::sys::ReadRoot;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What is read at once: large enough that the system call costs nothing, small enough for the second-level cache.
const READ_BYTES: usize = 256 << 10;
/// What one thread takes of a large file before others may take over.
const PART_BYTES: u64 = 32 << 20;
/// How often a page of a running server is read again, and how long it is waited in between: a write of one page
/// takes far less.
const RETRIES: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What the root of a `GiST` index that was built sorted says until its first change: it is written before its image is
/// logged (14 to 16: gistbuild.c, `gist_indexsortbuild()`; gist.h, `GistBuildLSN`).
const GIST_BUILD_LSN: Lsn = Lsn(1);

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster::inspect) enum Flaw {
    /// Its header or checksum.
    Refused(PageVerdict),
    /// It was changed by a WAL record that is not there.
    BeyondWal {
        /// The page's LSN.
        found: Lsn,
    },
    /// A later change of it, which the WAL has, is missing.
    Stale {
        /// The page's LSN.
        found: Lsn,
        /// The end of the last record that changed it.
        expected: Lsn,
    },
    /// The disk does not give it.
    Unreadable(String),
}

/// A page that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster::inspect) struct BadPage {
    /// Index into [`DataFiles::files`].
    pub(in crate::cluster::inspect) file: usize,
    /// Counted over the relation.
    pub(in crate::cluster::inspect) block: BlockNumber,
    /// What is wrong with it.
    pub(in crate::cluster::inspect) flaw: Flaw,
}

/// For a page of a file, the end of the last WAL record that changed it.
pub(super) type Floor<'a> = dyn Fn(&DataFile, BlockNumber) -> Option<Lsn> + Sync + 'a;

/// What pages are held to.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Whether pages carry a checksum.
    pub(super) checksums: Checksums,
    /// Blocks in a full segment file.
    pub(super) segment_blocks: u32,
    /// No page of a logged relation may have a later LSN.
    pub(super) ceiling: Option<Lsn>,
    /// No page may have an earlier LSN than this says.
    pub(super) floor: Option<&'a Floor<'a>>,
    /// Whether a server may be writing the pages.
    pub(super) is_live: bool,
}

impl Rules<'_> {
    /// The rules of a cluster that nobody uses, without a floor.
    pub(super) fn of(control: &ControlFile, ceiling: Option<Lsn>) -> Self {
        let checksums = if control.has_checksums() { Checksums::Enabled } else { Checksums::Disabled };
        let segment_blocks = control.relation_segment_blocks;
        Self { checksums, segment_blocks, ceiling, floor: None, is_live: false }
    }
}

/// What a scan came to.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// How many pages were read.
    pub(super) pages: u64,
    /// Those that are bad, by file and block.
    pub(super) bad: Vec<BadPage>,
}

/// A stretch of a file.
#[derive(Clone, Copy)]
struct Part {
    file: usize,
    begin: u64,
    end: u64,
}

/// Scans these files, given by their indexes.
pub(super) fn scan(root: &ReadRoot, files: &DataFiles, chosen: &[usize], rules: Rules<'_>) -> Scanned {
    let parts = parts(files, chosen, longest_bytes(rules.segment_blocks));
    let (next, pages) = (AtomicUsize::new(0), AtomicU64::new(0));
    let found = rayon::broadcast(|_| {
        let mut reader = Reader { root, files, rules, buffer: Vec::new(), pages: 0, bad: Vec::new() };
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            reader.read(*part);
        }
        pages.fetch_add(reader.pages, Ordering::Relaxed);
        reader.bad
    });
    let mut bad: Vec<BadPage> = found.into_iter().flatten().collect();
    bad.sort_by_key(|page| (page.file, page.block));
    Scanned { pages: pages.into_inner(), bad }
}

/// How long a segment can be. A file of holes may be longer by far, and a server takes none that is (md.c,
/// `mdnblocks()`).
pub(in crate::cluster::inspect) fn longest_bytes(segment_blocks: u32) -> u64 {
    u64::from(segment_blocks) * SIZE_BYTES as u64
}

fn parts(files: &DataFiles, chosen: &[usize], longest_bytes: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    for &index in chosen {
        let size_bytes = files.files.get(index).map_or(0, |file| file.size_bytes.min(longest_bytes));
        for begin in (0..size_bytes).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX)) {
            parts.push(Part { file: index, begin, end: size_bytes.min(begin + PART_BYTES) });
        }
    }
    parts
}

/// One thread's part of a scan.
struct Reader<'a> {
    root: &'a ReadRoot,
    files: &'a DataFiles,
    rules: Rules<'a>,
    buffer: Vec<Page>,
    pages: u64,
    bad: Vec<BadPage>,
}

impl Reader<'_> {
    fn read(&mut self, part: Part) {
        let Some(data_file) = self.files.files.get(part.file).copied() else { return };
        let Some(segment_start) = data_file.name.segment.checked_mul(self.rules.segment_blocks) else {
            return;
        };
        let file = match self.files.open(self.root, &data_file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.report(
                    part.file,
                    BlockNumber(segment_start),
                    Flaw::Unreadable(error.to_string()),
                );
            }
        };
        self.buffer.resize(READ_BYTES / SIZE_BYTES, [0; SIZE_BYTES]);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut offset = part.begin;
        while offset < part.end {
            let wanted = usize::try_from((part.end - offset) / SIZE_BYTES as u64).unwrap_or(usize::MAX);
            let wanted = wanted.min(buffer.len());
            let Some(pages) = buffer.get_mut(..wanted).filter(|pages| !pages.is_empty()) else { break };
            let Some(first) = block_at(segment_start, offset) else { break };
            let at = Run { file: &file, data_file: &data_file, index: part.file, first, offset };
            let count = match read_pages(&file, offset, pages) {
                Ok(count) => count,
                Err(_) => self.read_singly(&at, pages),
            };
            self.judge(&at, pages.get(..count).unwrap_or_default());
            self.pages += count as u64;
            if count < wanted {
                break;
            }
            offset += (count * SIZE_BYTES) as u64;
        }
        self.buffer = buffer;
    }

    /// Reads one page at a time what could not be read at once; pages that the disk does not give count as new.
    fn read_singly(&mut self, at: &Run<'_>, pages: &mut [Page]) -> usize {
        for (index, page) in pages.iter_mut().enumerate() {
            match read_pages(at.file, at.offset + (index * SIZE_BYTES) as u64, std::slice::from_mut(page)) {
                Ok(1) => {}
                Ok(_) => return index,
                Err(error) => {
                    *page = [0; SIZE_BYTES];
                    if let Some(block) = block_at(at.first.0, (index * SIZE_BYTES) as u64) {
                        self.report(at.index, block, Flaw::Unreadable(error.to_string()));
                    }
                }
            }
        }
        pages.len()
    }

    fn judge(&mut self, at: &Run<'_>, pages: &[Page]) {
        let mut refused = page::verify_run(pages, at.first, self.rules.checksums);
        refused.retain(|(block, _)| !(self.rules.is_live && self.settles(at, *block)));
        self.judge_lsns(at, pages, &refused);
        for (block, verdict) in refused {
            self.report(at.index, block, Flaw::Refused(verdict));
        }
    }

    fn judge_lsns(&mut self, at: &Run<'_>, pages: &[Page], refused: &[(BlockNumber, PageVerdict)]) {
        if self.files.is_unlogged(at.data_file) {
            return;
        }
        // The free space map is not logged, and the visibility map only in part.
        let has_floor = at.data_file.name.fork == Fork::Main;
        let floor = self.rules.floor.filter(|_| has_floor);
        for (page, number) in pages.iter().zip(at.first.0..) {
            let (found, block) = (page::lsn(page), BlockNumber(number));
            let is_beyond = self.rules.ceiling.is_some_and(|ceiling| found > ceiling);
            let expected = floor
                .filter(|_| found != GIST_BUILD_LSN)
                .and_then(|floor| floor(at.data_file, block))
                .filter(|expected| found < *expected);
            let flaw = match (is_beyond, expected) {
                (true, _) => Flaw::BeyondWal { found },
                (false, Some(expected)) => Flaw::Stale { found, expected },
                (false, None) => continue,
            };
            // The LSN of a page that is bad as a whole means nothing.
            if !refused.iter().any(|(bad, _)| *bad == block) {
                self.report(at.index, block, flaw);
            }
        }
    }

    /// Whether a page of a running server, read again, is sound or gone: it was being written.
    fn settles(&self, at: &Run<'_>, block: BlockNumber) -> bool {
        let Some(index) = block.0.checked_sub(at.first.0) else { return false };
        let offset = at.offset + u64::from(index) * SIZE_BYTES as u64;
        let mut again = [[0; SIZE_BYTES]; 1];
        (0..RETRIES).any(|_| {
            std::thread::sleep(RETRY_PAUSE);
            match read_pages(at.file, offset, &mut again) {
                Ok(0) => true,
                Ok(_) => page::verify_run(&again, block, self.rules.checksums).is_empty(),
                Err(_) => false,
            }
        })
    }

    fn report(&mut self, file: usize, block: BlockNumber, flaw: Flaw) {
        self.bad.push(BadPage { file, block, flaw });
    }
}

/// Where pages were read from.
struct Run<'a> {
    file: &'a File,
    data_file: &'a DataFile,
    index: usize,
    first: BlockNumber,
    offset: u64,
}

fn block_at(first: u32, offset: u64) -> Option<BlockNumber> {
    let index = u32::try_from(offset / SIZE_BYTES as u64).ok()?;
    first.checked_add(index).map(BlockNumber)
}

/// Reads whole pages, as many as there are, and returns how many that were.
pub(in crate::cluster::inspect) fn read_pages(
    file: &File,
    offset: u64,
    pages: &mut [Page],
) -> io::Result<usize> {
    let bytes = pages.as_flattened_mut();
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled / SIZE_BYTES)
}
