//! A look at a few hundred pages of the catalogs, for what only pages can tell when the control file is lost.

use crate::pg::layout::{Fork, RelationFile};
use crate::pg::page::{self, Checksums, PageVerdict};
use crate::pg::{BlockNumber, Lsn};
use crate::sys::{EntryKind, ReadRoot};
use std::io::Read;

/// At most so many files are looked into, and so many pages of each.
const FILE_LIMIT: usize = 400;
const PAGES_PER_FILE: u32 = 8;

/// What the pages have in common.
#[derive(Debug, Default)]
pub(super) struct PageSample {
    /// Pages whose checksum fits.
    pub(super) checksums_fitting: usize,
    /// Pages whose checksum is 0, which is none.
    pub(super) checksums_zero: usize,
    /// Pages whose checksum is that of another content.
    pub(super) checksums_wrong: usize,
    /// Pages whose header names another size than 8 KiB.
    pub(super) of_another_size: usize,
    /// The highest LSN of a page.
    pub(super) newest: Lsn,
    /// A digest of all of them. Passwords are among them, so that nobody outside can guess it.
    pub(super) digest: [u8; 32],
}

/// Looks at the first pages of the files in `global` and `base`.
pub(super) fn sample_pages(root: &ReadRoot) -> PageSample {
    let mut sample = PageSample::default();
    let mut hasher = blake3::Hasher::new();
    let databases = root.entries("base").unwrap_or_default().into_iter();
    let databases = databases.filter(|entry| entry.facts.kind == EntryKind::Directory);
    let directories =
        ["global".to_owned()].into_iter().chain(databases.map(|entry| format!("base/{}", entry.name)));
    let files = directories.flat_map(|directory| main_files(root, &directory));
    for place in files.take(FILE_LIMIT) {
        let Ok(mut file) = root.open_file(&place) else { continue };
        let mut page = [0; page::SIZE_BYTES];
        for block in 0..PAGES_PER_FILE {
            if file.read_exact(&mut page).is_err() {
                break;
            }
            hasher.update(&page);
            sample.add(&page, BlockNumber(block));
        }
    }
    sample.digest = *hasher.finalize().as_bytes();
    sample
}

fn main_files(root: &ReadRoot, directory: &str) -> Vec<String> {
    let entries = root.entries(directory).unwrap_or_default();
    let is_main = |name: &str| {
        RelationFile::parse(name).is_some_and(|file| file.fork == Fork::Main && file.segment == 0)
    };
    entries
        .iter()
        .filter(|entry| is_main(&entry.name))
        .map(|entry| format!("{directory}/{}", entry.name))
        .collect()
}

impl PageSample {
    fn add(&mut self, page: &page::Page, block: BlockNumber) {
        match page::verify(page, block, Checksums::Disabled) {
            PageVerdict::Sound => {}
            // New, or damaged: the one tells nothing, the other is found by whoever looks for it.
            _ => return,
        }
        if page::size_bytes(page) != page::SIZE_BYTES {
            self.of_another_size += 1;
        }
        self.newest = self.newest.max(page::lsn(page));
        match page::stored_checksum(page) {
            0 => self.checksums_zero += 1,
            stored if stored == page::checksum(page, block) => self.checksums_fitting += 1,
            _ => self.checksums_wrong += 1,
        }
    }
}
