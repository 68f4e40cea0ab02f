//! Which files of a cluster have pages, and by what rules these are checked.

use super::{Checksums, Page, PageVerdict, SIZE_BYTES, verify, verify_run};
use crate::pg::BlockNumber;
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{RelationFile, has_data_pages};

/// How the pages of a cluster are checked.
#[derive(Clone, Copy, Debug)]
pub struct PageRules {
    segment_blocks: u32,
    checksums: Checksums,
}

impl PageRules {
    /// The rules of a cluster; `None` when its pages are of a size that is not read here.
    pub fn of(control: &ControlFile) -> Option<Self> {
        let rules = Self { segment_blocks: control.relation_segment_blocks, checksums: control.checksums() };
        (control.block_size as usize == SIZE_BYTES).then_some(rules)
    }

    /// The pages of the file at a path below the data directory; `None` for a file that has none.
    pub fn pages_of(self, path: &str) -> Option<FilePages> {
        if !has_data_pages(path) {
            return None;
        }
        let file = RelationFile::parse(path.rsplit_once('/')?.1)?;
        let first = file.segment.checked_mul(self.segment_blocks).map(BlockNumber)?;
        Some(FilePages { first, checksums: self.checksums })
    }
}

/// The pages of one file: numbered across the whole relation, of which the file may be one segment of many.
#[derive(Clone, Copy, Debug)]
pub struct FilePages {
    first: BlockNumber,
    checksums: Checksums,
}

impl FilePages {
    /// The block that is at an offset in the file, which is one of a page's beginning.
    pub fn block_at(self, offset: u64) -> Option<BlockNumber> {
        let number = u32::try_from(offset / SIZE_BYTES as u64).ok()?;
        self.first.0.checked_add(number).map(BlockNumber)
    }

    /// Checks pages that follow each other, and returns those that the server would refuse.
    pub fn verify_run(self, pages: &[Page], first: BlockNumber) -> Vec<(BlockNumber, PageVerdict)> {
        verify_run(pages, first, self.checksums)
    }

    /// Checks one page.
    pub fn verify(self, page: &Page, block: BlockNumber) -> PageVerdict {
        verify(page, block, self.checksums)
    }
}
