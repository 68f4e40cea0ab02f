//! Checks data pages on their way into a backup: their checksums, and their headers where they carry none.
//!
//! A page that is wrong is read again: the server may have been writing it. If it changes, it was torn,
//! and the WAL of the backup has it whole (full-page writes are on while a backup goes on). If it stays as it is, it
//! is damaged. The refused alternative, to skip pages by their LSN, takes a damaged LSN for a recent one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::pg::BlockNumber;
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{RelationFile, has_data_pages};
use crate::pg::page::{self, Checksums, Page, SIZE_BYTES};
use crate::plan::DamagedPage;
use crate::repository::TablePath;

/// How often a page is read again, and how long it is waited in between: a write of one page takes far less.
const RETRIES: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How the pages of a cluster are checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRules {
    segment_blocks: u32,
    checksums: Checksums,
}

impl PageRules {
    /// The rules of a cluster; `None` when its pages are of a size that is not read here.
    pub(super) fn of(control: &ControlFile) -> Option<Self> {
        let checksums = if control.has_checksums() { Checksums::Enabled } else { Checksums::Disabled };
        let rules = Self { segment_blocks: control.relation_segment_blocks, checksums };
        (control.block_size as usize == SIZE_BYTES).then_some(rules)
    }

    /// The first block of a file, counted across its relation; `None` for a file that has no pages.
    pub(super) fn first_block(self, path: &TablePath) -> Option<BlockNumber> {
        if !has_data_pages(path.as_str()) {
            return None;
        }
        let file = RelationFile::parse(path.file_name())?;
        file.segment.checked_mul(self.segment_blocks).map(BlockNumber)
    }
}

/// A file of pages that is being copied.
pub(super) struct PageFile<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a TablePath,
    pub(super) first_block: BlockNumber,
    pub(super) rules: PageRules,
}

impl PageFile<'_> {
    /// Checks the whole pages in `bytes`, which were read at `offset`, and returns the damaged ones. A page that
    /// was torn is replaced by what a later read found.
    pub(super) fn check(&self, offset: u64, bytes: &mut [u8]) -> Vec<DamagedPage> {
        let (pages, _) = bytes.as_chunks_mut::<SIZE_BYTES>();
        let Some(first) = self.block_at(offset) else { return Vec::new() };
        let refused = page::verify_run(pages, first, self.rules.checksums);
        let damaged = refused.into_iter().filter_map(|(block, _)| {
            let index = block.0.checked_sub(first.0)?;
            let page = pages.get_mut(usize::try_from(index).ok()?)?;
            self.judge(page, offset + u64::from(index) * SIZE_BYTES as u64, block)
        });
        damaged.collect()
    }

    fn block_at(&self, offset: u64) -> Option<BlockNumber> {
        let number = u32::try_from(offset / SIZE_BYTES as u64).ok()?;
        self.first_block.0.checked_add(number).map(BlockNumber)
    }

    fn judge(&self, page: &mut Page, offset: u64, block: BlockNumber) -> Option<DamagedPage> {
        let mut again = [0; SIZE_BYTES];
        for _ in 0..RETRIES {
            // A page that is gone was cut off by the server: the WAL says so too.
            self.file.read_exact_at(&mut again, offset).ok()?;
            if again != *page {
                *page = again;
                return None;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        let problem = page::verify(page, block, self.rules.checksums).to_string();
        Some(DamagedPage { file: self.path.to_string(), relation: None, block, problem })
    }
}
