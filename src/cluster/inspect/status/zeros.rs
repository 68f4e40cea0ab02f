//! Pages of zeros in the status files, where there is no seal.
//!
//! A page of `pg_xact` whose transactions are in use is hardly ever blank, and still may be: `pg_resetwal -x` jumps over
//! transactions, which then never were. So it is only a reason to look at the rows: one that says that such a
//! transaction committed is the proof.

use super::files::{Known, MEMBERS, OFFSETS, StatusFiles, TRANSACTIONS};
use super::rows::{RowHints, ToBeReplayed};
use super::wal::{StatusRecord, visit_records};
use super::{MULTIXACT_WRONG, STATUS_WRONG};
use crate::cluster::inspect::catalog::Catalog;
use crate::cluster::inspect::heap_pages::Heaps;
use crate::cluster::inspect::pages::{DataFiles, Known as KnownOfPages};
use crate::cluster::inspect::wal::WalDirectory;
use crate::cluster::inspect::{FileTree, Inspection};
use crate::pg::Lsn;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::{self, MultixactLayout, PAGE_BYTES};

/// The most segments that are looked through, the newest: 64 MiB.
const MOST_SEGMENTS: u64 = 256;
/// More transactions of a page than these must be in use for a page of zeros to be odd.
const FEW: usize = 8;
/// The most that is read of tables, the catalogs first.
const MOST_TABLE_BYTES: u64 = 256 << 20;

impl Inspection<'_> {
    /// Looks for pages of zeros, and where there are some, for rows that contradict them.
    pub(super) fn check_pages_of_zeros(
        &mut self,
        wal: &WalDirectory,
        control: &ControlFile,
        tree: &FileTree,
    ) {
        let is_known = |code: &str| self.findings.iter().any(|finding| finding.code == code);
        if is_known(STATUS_WRONG) || is_known(MULTIXACT_WRONG) || control.block_size != 8192 {
            return;
        }
        let mut files = StatusFiles::new(self.root);
        if !has_blank_status(&mut files, Known::of(control)) && !has_blank_members(&mut files, control) {
            return;
        }
        let hints = RowHints::read(self.root, control, to_be_replayed(wal, control));
        let data_files = DataFiles::of(self.root, tree);
        let (none, history) = (Catalog::default(), self.page_history(control));
        let catalog = self.catalog.as_ref().unwrap_or(&none);
        let known = KnownOfPages { catalog, control, history: &history, ceiling: None };
        let mut heaps = Heaps::of(self.root, &data_files, known);
        heaps.limit_to(MOST_TABLE_BYTES);
        if !self.is_clean() {
            heaps.leave_out_what_replay_changes(&history);
        }
        let findings = heaps.rows(&hints).findings();
        self.findings.extend(findings);
    }
}

/// Whether a page of `pg_xact` with transactions in use is all zeros.
fn has_blank_status(files: &mut StatusFiles<'_>, known: Known) -> bool {
    known.newest_segments(MOST_SEGMENTS).any(|segment| {
        let Some(bytes) = files.take_segment(TRANSACTIONS, segment) else { return false };
        let is_in_use = |page: u32| {
            let mut transactions = slru::transactions_of_page(segment, page);
            transactions.by_ref().filter(|xid| known.has_xid(*xid)).nth(FEW).is_some()
        };
        bytes.chunks(page_bytes()).zip(0..).any(|(page, number)| is_blank(page) && is_in_use(number))
    })
}

/// Whether a page of the newest segment of members is all zeros, or the newest multixact has no place.
fn has_blank_members(files: &mut StatusFiles<'_>, control: &ControlFile) -> bool {
    if control.next_multi == control.oldest_multi || control.next_multi_offset < 2 {
        return false;
    }
    let last = control.next_multi_offset - 1;
    let segment = MultixactLayout::of(control.major).member_segment(last);
    let Some(bytes) = files.take_segment(MEMBERS, segment) else { return false };
    let used = slru::page_of_member(last);
    bytes.chunks(page_bytes()).take(used + 1).any(is_blank) || has_blank_offsets(files, control)
}

fn has_blank_offsets(files: &mut StatusFiles<'_>, control: &ControlFile) -> bool {
    let last = control.next_multi.wrapping_sub(1);
    let layout = MultixactLayout::of(control.major);
    let segment = files.segment(OFFSETS, layout.offset_segment(last));
    segment.and_then(|bytes| layout.first_member(bytes, last)) == Some(0)
}

fn is_blank(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

fn page_bytes() -> usize {
    usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX)
}

/// What the WAL from the redo point on writes into the status files.
fn to_be_replayed(wal: &WalDirectory, control: &ControlFile) -> ToBeReplayed {
    let mut found = ToBeReplayed::default();
    visit_records(wal.reader_at(control.redo), Lsn(u64::MAX), |_, record| match record {
        StatusRecord::End(end) => found.xids.extend(end.xids),
        StatusRecord::Multixact(created) => {
            found.multixacts.insert(created.multixact);
        }
    });
    found
}
