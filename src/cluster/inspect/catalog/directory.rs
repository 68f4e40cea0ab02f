//! A directory of relation files, listed once: every later question is answered from memory.

use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page::{self, Checksums, Page};
use crate::pg::{BlockNumber, Oid};
use crate::sys::{Entry, EntryKind, ReadRoot, data_ranges};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// More than a catalog of a cluster with ten million relations has.
const CATALOG_LIMIT_BYTES: u64 = 4 << 30;

/// A directory of relation files.
pub(super) struct RelationDirectory {
    /// Below the data directory: `base/5`.
    pub place: String,
    root: ReadRoot,
    /// In order of number, fork and segment.
    files: Vec<FoundFile>,
}

/// A file of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FoundFile {
    /// Its name.
    pub file: RelationFile,
    /// Its size.
    pub size_bytes: u64,
}

/// The pages of a catalog.
pub(super) struct CatalogPages {
    bytes: Vec<u8>,
    /// The blocks that the server would not accept.
    pub damaged: Vec<BlockNumber>,
}

impl RelationDirectory {
    /// Lists a directory that is open.
    pub(super) fn list(place: String, root: ReadRoot) -> io::Result<Self> {
        let entries = root.entries(".")?;
        Ok(Self::of_entries(place, root, &entries))
    }

    /// A directory that is open and was listed before.
    pub(super) fn of_entries(place: String, root: ReadRoot, entries: &[Entry]) -> Self {
        let regular = entries.iter().filter(|entry| entry.facts.kind == EntryKind::File);
        let found = |entry: &Entry| {
            let size_bytes = entry.facts.size_bytes;
            RelationFile::parse(&entry.name).map(|file| FoundFile { file, size_bytes })
        };
        let mut files: Vec<FoundFile> = regular.filter_map(found).collect();
        files.sort_unstable();
        Self { place, root, files }
    }

    /// The segment files of a fork, in order.
    pub(super) fn fork(&self, relfilenode: Oid, fork: Fork) -> &[FoundFile] {
        let key = |found: &FoundFile| (found.file.relfilenode, found.file.fork);
        let begin = self.files.partition_point(|found| key(found) < (relfilenode, fork));
        let from = self.files.get(begin..).unwrap_or_default();
        let count = from.iter().take_while(|found| key(found) == (relfilenode, fork)).count();
        from.get(..count).unwrap_or_default()
    }

    /// Whether the first segment of a main fork is there.
    pub(super) fn has_main(&self, relfilenode: Oid) -> bool {
        begins(self.fork(relfilenode, Fork::Main))
    }

    /// The files whose numbers are not among these, which ascend: how many, and how large.
    pub(super) fn others(&self, known: &[Oid]) -> (usize, u64) {
        let is_other = |found: &&FoundFile| known.binary_search(&found.file.relfilenode).is_err();
        let others = self.files.iter().filter(is_other);
        others.fold((0, 0), |(count, size), found| (count + 1, size + found.size_bytes))
    }

    /// Reads all pages of a catalog that are stored, and judges each. A hole is pages that were never written, without
    /// rows; a segment that is longer than one can be was not written by a server.
    pub(super) fn read_catalog(
        &self,
        relfilenode: Oid,
        segment_blocks: u32,
        checksums: Checksums,
    ) -> io::Result<CatalogPages> {
        let mut pages = CatalogPages { bytes: Vec::new(), damaged: Vec::new() };
        let segments = self.fork(relfilenode, Fork::Main);
        if segments.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let longest_bytes = u64::from(segment_blocks) * page::SIZE_BYTES as u64;
        for found in segments {
            let file = self.root.open_file(found.file.to_string())?;
            let size_bytes = file.metadata()?.len();
            if size_bytes > longest_bytes {
                return Err(too_large(&format!("a segment of {size_bytes} bytes is longer than one can be")));
            }
            let first = found.file.segment.saturating_mul(segment_blocks);
            pages.read(&file, first, checksums)?;
        }
        Ok(pages)
    }

    /// Reads one block of the first segment of a main fork.
    pub(super) fn read_block(&self, relfilenode: Oid, block: u32) -> io::Result<Box<Page>> {
        let mut page = Box::new([0; page::SIZE_BYTES]);
        let file = self.root.open_file(relfilenode.to_string())?;
        file.read_exact_at(page.as_mut_slice(), u64::from(block) * page::SIZE_BYTES as u64)?;
        Ok(page)
    }

    /// Reads a small file.
    pub(super) fn read_small(&self, file: RelationFile) -> io::Result<Vec<u8>> {
        const LIMIT_BYTES: u64 = 64 * 8192;
        self.root.read_bounded(file.to_string(), LIMIT_BYTES)
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// Whether segment files begin with the first.
pub(super) fn begins(segments: &[FoundFile]) -> bool {
    segments.first().is_some_and(|found| found.file.segment == 0)
}

impl CatalogPages {
    /// Reads what is stored of a segment, in whole pages.
    fn read(&mut self, file: &File, first_block: u32, checksums: Checksums) -> io::Result<()> {
        const PAGE_BYTES: u64 = page::SIZE_BYTES as u64;
        let size_bytes = file.metadata()?.len();
        let mut done_bytes = 0;
        for range in data_ranges(file)? {
            let begin = (range.start / PAGE_BYTES * PAGE_BYTES).max(done_bytes);
            let end = range.end.next_multiple_of(PAGE_BYTES).min(size_bytes);
            if begin >= end {
                continue;
            }
            if self.bytes.len() as u64 + (end - begin) > CATALOG_LIMIT_BYTES {
                return Err(too_large(&format!("it has more than {CATALOG_LIMIT_BYTES} bytes")));
            }
            let mut content = vec![0; usize::try_from(end - begin).map_err(io::Error::other)?];
            file.read_exact_at(&mut content, begin)?;
            let block = u32::try_from(begin / PAGE_BYTES).map_err(io::Error::other)?;
            self.append(content, first_block.saturating_add(block), checksums);
            done_bytes = end;
        }
        Ok(())
    }

    /// Takes the content of a segment as it is, without a copy: catalogs are what takes most memory.
    fn append(&mut self, mut content: Vec<u8>, first_block: u32, checksums: Checksums) {
        let (pages, torn) = content.as_chunks::<{ page::SIZE_BYTES }>();
        let whole_bytes = content.len() - torn.len();
        let is_damaged =
            |(block, page): &(BlockNumber, &Page)| !page::verify(page, *block, checksums).is_acceptable();
        let blocks = (first_block..=u32::MAX).map(BlockNumber);
        self.damaged.extend(blocks.zip(pages).filter(is_damaged).map(|(block, _)| block));
        content.truncate(whole_bytes);
        if self.bytes.is_empty() {
            self.bytes = content;
        } else {
            self.bytes.extend_from_slice(&content);
        }
    }

    /// All pages, the damaged ones among them.
    pub(super) fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(page::SIZE_BYTES)
    }
}
