//! Checks data pages on their way into a backup: their checksums, and their headers where they carry none.
//!
//! A page that is wrong is read again: the server may have been writing it. If it changes, it was torn,
//! and the WAL of the backup has it whole (full-page writes are on while a backup goes on). If it stays as it is, it
//! is damaged. The refused alternative, to skip pages by their LSN, takes a damaged LSN for a recent one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::pg::BlockNumber;
use crate::pg::page::{FilePages, Page, SIZE_BYTES};
use crate::plan::DamagedPage;
use crate::repository::TablePath;

/// How often a page is read again, and how long it is waited in between: a write of one page takes far less.
const RETRIES: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A file of pages that is being copied.
pub(super) struct PageFile<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a TablePath,
    pub(super) pages: FilePages,
}

impl PageFile<'_> {
    /// Checks the whole pages in `bytes`, which were read at `offset`, and returns the damaged ones. A page that
    /// was torn is replaced by what a later read found.
    pub(super) fn check(&self, offset: u64, bytes: &mut [u8]) -> Vec<DamagedPage> {
        let (pages, _) = bytes.as_chunks_mut::<SIZE_BYTES>();
        let Some(first) = self.pages.block_at(offset) else { return Vec::new() };
        let refused = self.pages.verify_run(pages, first);
        let damaged = refused.into_iter().filter_map(|(block, _)| {
            let index = block.0.checked_sub(first.0)?;
            let page = pages.get_mut(usize::try_from(index).ok()?)?;
            self.judge(page, offset + u64::from(index) * SIZE_BYTES as u64, block)
        });
        damaged.collect()
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
        let problem = self.pages.verify(page, block).to_string();
        Some(DamagedPage { file: self.path.to_string(), relation: None, block, problem })
    }
}
