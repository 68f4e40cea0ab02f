//! The status files of a backup, held against those of the cluster that the backup is of.
//!
//! What a status file once said stays so for as long as anybody may ask for it: the bits of a transaction only go from
//! "in progress" or "sub-committed" to an end (clog.c, `TransactionIdSetStatusBit()`), the place of a multixact and its
//! members are written once (multixact.c, `RecordNewMultiXact()`). New pages are zeros behind the newest number
//! (`ExtendCLOG()`), and only whole files are removed, whose numbers nobody needs (`TruncateCLOG()`). So a backup is a
//! witness where there is neither a seal nor WAL.
//!
//! A rollback is no more than a status that is not "committed": it need not reach the file before a crash.

use super::files::{Known, MEMBERS, OFFSETS, StatusFiles, TRANSACTIONS};
use super::{MULTIXACT_WRONG, STATUS_WRONG};
use crate::format::counted;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::{self, ABORTED, COMMITTED, PAGE_BYTES, SlruSegment};
use crate::plan::{Finding, Severity};
use crate::sys::ReadRoot;
use std::collections::BTreeSet;

/// The most segments of each directory that are compared, the newest: 128 MiB.
const MOST_SEGMENTS: usize = 512;
/// From one multixact to the next that has its number: so much WAL is written at the least (multixact.h,
/// `xl_multixact_create`, with two members and the header of a record).
const MULTIXACT_RECORD_BYTES: u64 = 52;

/// What is known of a backup whose status files are a witness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FormerState {
    /// The next transaction at its checkpoint, with its epoch.
    pub(crate) next_xid: u64,
    /// The next multixact at that checkpoint.
    pub(crate) next_multi: u32,
    /// How much WAL was written since.
    pub(crate) wal_since_bytes: u64,
}

/// The status files of a backup.
pub(crate) trait FormerFiles {
    /// Whether the backup has exactly these bytes under that path.
    fn is_same(&self, path: &str, bytes: &[u8]) -> bool;

    /// Reads a file of the backup; `None` where it has none, or it cannot be read now.
    fn read(&self, path: &str) -> Option<Vec<u8>>;
}

/// A status file that says something else than a backup of the same history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    directory: &'static str,
    segment: SlruSegment,
    /// The pages of the file, in order.
    pub(crate) pages: BTreeSet<u32>,
    /// What is contradicted first, in words, and how often anything is.
    first: String,
    times: usize,
}

impl Contradiction {
    /// The file, below the data directory.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.directory, self.segment)
    }

    /// What is wrong, by the word of a backup.
    pub(crate) fn evidence(&self, backup: &str) -> String {
        format!("{}; {backup} contradicts it in {}", self.first, counted(self.times, "place"))
    }

    /// The finding that it is.
    pub(crate) fn finding(&self, backup: &str) -> Finding {
        let code = if self.directory == TRANSACTIONS { STATUS_WRONG } else { MULTIXACT_WRONG };
        Finding::new(code, Severity::Error, self.place(), self.evidence(backup))
    }
}

/// Compares the status files of a cluster with those of a backup of its past. The checkpoint that the control file names
/// must be one that followed the backup.
pub(crate) fn contradictions(
    root: &ReadRoot,
    control: &ControlFile,
    former: FormerState,
    files: &dyn FormerFiles,
) -> Vec<Contradiction> {
    let known = Known::of(control);
    let comparison = Comparison { known, former, files };
    let mut present = StatusFiles::new(root);
    let mut found = comparison.transactions(&mut present, control.next_xid);
    if former.wal_since_bytes / MULTIXACT_RECORD_BYTES < u64::from(u32::MAX / 2) {
        found.extend(comparison.offsets(&mut present));
        found.extend(comparison.members(&mut present));
    }
    found
}

struct Comparison<'a> {
    known: Known,
    former: FormerState,
    files: &'a dyn FormerFiles,
}

impl Comparison<'_> {
    /// The transactions whose status must still be known, and was when the backup was made.
    fn transactions(&self, present: &mut StatusFiles<'_>, next_xid: u64) -> Vec<Contradiction> {
        let distance = self.known.next_xid.wrapping_sub(self.known.oldest_xid);
        let (from, to) = (next_xid.saturating_sub(u64::from(distance)), self.former.next_xid.min(next_xid));
        let size = u64::from(slru::last_transaction_of_segment(0)) + 1;
        let segments = (from / size..to.div_ceil(size)).rev().take(MOST_SEGMENTS);
        let compare = |number: u64| {
            let segment = SlruSegment::short(number % slru::TRANSACTION_SEGMENTS);
            let numbers = from.max(number * size)..to.min((number + 1) * size);
            self.file(present, (TRANSACTIONS, segment), |pair| pair.transactions(numbers))
        };
        segments.filter_map(compare).collect()
    }

    /// How many multixacts, from the oldest on, are still known and were known to the backup.
    fn multixacts_in_common(&self) -> u32 {
        let (oldest, next) = self.known.multixacts();
        let in_backup = self.former.next_multi.wrapping_sub(oldest);
        if in_backup > next.wrapping_sub(oldest) { 0 } else { in_backup }
    }

    fn offsets(&self, present: &mut StatusFiles<'_>) -> Vec<Contradiction> {
        let (count, layout) = (self.multixacts_in_common(), self.known.layout);
        let (oldest, _) = self.known.multixacts();
        let Some(last) = count.checked_sub(1).map(|steps| oldest.wrapping_add(steps)) else {
            return Vec::new();
        };
        let first = layout.offset_segment(oldest);
        let segments = slru::segments_between(first, layout.offset_segment(last), layout.offset_segments());
        let is_common = |multixact: u32| multixact.wrapping_sub(oldest) < count;
        let compare = |segment| {
            self.file(present, (OFFSETS, segment), |pair| pair.offsets(self.known, segment, is_common))
        };
        segments.rev().take(MOST_SEGMENTS).filter_map(compare).collect()
    }

    fn members(&self, present: &mut StatusFiles<'_>) -> Vec<Contradiction> {
        let layout = self.known.layout;
        let (oldest, _) = self.known.multixacts();
        let count = self.multixacts_in_common();
        let place_of = |multixact: u32| {
            let file = self.files.read(&format!("{OFFSETS}/{}", layout.offset_segment(multixact)))?;
            layout.first_member(&file, multixact).filter(|member| *member != 0)
        };
        // Where the members of the last one end, only servers since the minor releases of 2025 note.
        let last = || place_of(oldest.wrapping_add(count.checked_sub(1)?));
        let end = place_of(oldest.wrapping_add(count)).or_else(last);
        let Some((first, end)) = place_of(oldest).zip(end) else { return Vec::new() };
        let length = layout.members_between(first, end);
        let Some(steps) = length.checked_sub(1) else { return Vec::new() };
        let last = layout.member_segment(layout.member_after(first, steps));
        let segments = slru::segments_between(layout.member_segment(first), last, layout.member_segments());
        let is_common = |member: u64| layout.members_between(first, member) < length;
        let compare =
            |segment| self.file(present, (MEMBERS, segment), |pair| pair.members(segment, is_common));
        segments.rev().take(MOST_SEGMENTS).filter_map(compare).collect()
    }

    /// Compares one file, where both have it and it is not the same.
    fn file(
        &self,
        present: &mut StatusFiles<'_>,
        (directory, segment): (&'static str, SlruSegment),
        compare: impl FnOnce(&mut Pair<'_>),
    ) -> Option<Contradiction> {
        let path = format!("{directory}/{segment}");
        let ours = present.take_segment(directory, segment)?;
        if self.files.is_same(&path, &ours) {
            return None;
        }
        let theirs = self.files.read(&path)?;
        let mut pair = Pair { ours: &ours, theirs: &theirs, pages: BTreeSet::new(), first: None, times: 0 };
        compare(&mut pair);
        let Pair { pages, first, times, .. } = pair;
        Some(Contradiction { directory, segment, pages, first: first?, times })
    }
}

/// One file of the cluster and of the backup, and what differs.
struct Pair<'a> {
    ours: &'a [u8],
    theirs: &'a [u8],
    pages: BTreeSet<u32>,
    first: Option<String>,
    times: usize,
}

impl Pair<'_> {
    fn add(&mut self, byte: usize, words: impl FnOnce() -> String) {
        self.pages.extend(u32::try_from(byte as u64 / PAGE_BYTES));
        self.first.get_or_insert_with(words);
        self.times += 1;
    }

    fn transactions(&mut self, numbers: std::ops::Range<u64>) {
        let (ours, theirs) = (self.ours, self.theirs);
        for number in numbers {
            let Ok(xid) = u32::try_from(number & u64::from(u32::MAX)) else { continue };
            let then = slru::status_bits(theirs, xid);
            let (said, is_other): (_, fn(u8) -> bool) = match then {
                Some(COMMITTED) => ("committed", |now| now != COMMITTED),
                Some(ABORTED) => ("was rolled back", |now| now == COMMITTED),
                _ => continue,
            };
            let Some(now) = slru::status_bits(ours, xid).filter(|now| is_other(*now)) else { continue };
            let here = match now {
                COMMITTED => "it committed",
                ABORTED => "it was rolled back",
                _ => "it did not end",
            };
            self.add(slru::status_byte(xid), || format!("transaction {xid} {said}, and here {here}"));
        }
    }

    fn offsets(&mut self, known: Known, segment: SlruSegment, is_common: impl Fn(u32) -> bool) {
        let (ours, theirs, layout) = (self.ours, self.theirs, known.layout);
        let per_segment = layout.multixacts_per_segment();
        let Ok(number) = u32::try_from(segment.number) else { return };
        for index in 0..per_segment {
            let multixact = number.wrapping_mul(per_segment).wrapping_add(index);
            let then = layout.first_member(theirs, multixact).filter(|then| *then != 0);
            let now = layout.first_member(ours, multixact);
            let (Some(then), Some(now)) = (then, now) else { continue };
            if then != now && is_common(multixact) {
                self.add(layout.offset_byte(multixact), || {
                    format!("multixact {multixact} had its members at {then}, and here at {now}")
                });
            }
        }
    }

    fn members(&mut self, segment: SlruSegment, is_common: impl Fn(u64) -> bool) {
        let (ours, theirs) = (self.ours, self.theirs);
        for member in slru::members_of(segment) {
            let then = slru::member_at(theirs, member).filter(|(xid, _)| *xid != 0);
            let (Some(then), Some(now)) = (then, slru::member_at(ours, member)) else { continue };
            if then != now && is_common(member) {
                let page = slru::page_of_member(member).saturating_mul(PAGE_BYTES.try_into().unwrap_or(0));
                self.add(page, || {
                    format!("member {member} was transaction {}, and here it is {}", then.0, now.0)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::slru::{IN_PROGRESS, MultixactLayout, put_status_bits};
    use rstest::rstest;
    use std::collections::HashMap;

    impl FormerFiles for HashMap<String, Vec<u8>> {
        fn is_same(&self, path: &str, bytes: &[u8]) -> bool {
            self.get(path).is_some_and(|content| content == bytes)
        }

        fn read(&self, path: &str) -> Option<Vec<u8>> {
            self.get(path).cloned()
        }
    }

    /// A directory with one status file.
    fn cluster(place: &str, content: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(place).parent().unwrap()).unwrap();
        std::fs::write(root.path().join(place), content).unwrap();
        root
    }

    fn control() -> ControlFile {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/postgres/15/pg_control");
        ControlFile::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    /// What is found of a status file by a backup, where the backup knew the numbers up to `next`.
    fn found(
        control: &ControlFile,
        (next_xid, next_multi): (u64, u32),
        place: &str,
        [then, now]: [&[u8]; 2],
    ) -> Vec<String> {
        let root = cluster(place, now);
        let root = ReadRoot::open(root.path()).unwrap();
        let former = FormerState { next_xid, next_multi, wal_since_bytes: 0 };
        let files = HashMap::from([(place.to_owned(), then.to_owned())]);
        let found = contradictions(&root, control, former, &files);
        found.iter().map(|found| format!("{} {}", found.place(), found.evidence("data"))).collect()
    }

    fn status(xid: u32, bits: u8) -> Vec<u8> {
        let mut page = vec![0; 8192];
        put_status_bits(&mut page, xid, bits);
        page
    }

    #[rstest]
    #[case::a_commit_stays(COMMITTED, COMMITTED, false)]
    #[case::a_commit_is_not_lost(COMMITTED, IN_PROGRESS, true)]
    #[case::a_commit_is_not_rolled_back(COMMITTED, ABORTED, true)]
    #[case::a_commit_does_not_become_a_part_again(COMMITTED, 3, true)]
    #[case::a_rollback_does_not_commit(ABORTED, COMMITTED, true)]
    #[case::a_rollback_need_not_reach_the_file(ABORTED, IN_PROGRESS, false)]
    #[case::what_runs_may_commit(IN_PROGRESS, COMMITTED, false)]
    #[case::what_runs_may_be_rolled_back(IN_PROGRESS, ABORTED, false)]
    #[case::a_part_may_commit(3, COMMITTED, false)]
    fn the_end_of_a_transaction_never_changes(#[case] then: u8, #[case] now: u8, #[case] is_told: bool) {
        let control = ControlFile { next_xid: 800, oldest_xid: 3, ..control() };
        let files = [&*status(700, then), &*status(700, now)];
        assert_eq!(found(&control, (701, 1), "pg_xact/0000", files).len(), usize::from(is_told));
        // The backup did not know it yet; or nobody may ask for it any more.
        assert_eq!(found(&control, (700, 1), "pg_xact/0000", files).len(), 0);
        let control = ControlFile { oldest_xid: 701, ..control };
        assert_eq!(found(&control, (701, 1), "pg_xact/0000", files).len(), 0);
    }

    #[test]
    fn a_transaction_of_a_former_round_of_numbers_is_another() {
        // The newest transaction has number 700 in the second round, the oldest one is of the first.
        let round = 1_u64 << 32;
        let control = ControlFile { next_xid: round + 701, oldest_xid: 3_000_000_000, ..control() };
        let files = [&*status(700, COMMITTED), &*status(700, ABORTED)];

        assert_eq!(found(&control, (701, 1), "pg_xact/0000", files).len(), 0);
        let told = found(&control, (round + 701, 1), "pg_xact/0000", files);
        assert_eq!(
            told,
            [
                "pg_xact/0000 transaction 700 committed, and here it was rolled back; data contradicts it in 1 place"
            ]
        );
    }

    #[rstest]
    #[case::it_has_another_place(9, 8, 3, 1)]
    #[case::it_was_not_there_yet(0, 8, 3, 0)]
    #[case::the_backup_did_not_know_it(9, 8, 2, 0)]
    #[case::the_backup_is_ahead(9, 8, 7, 0)]
    fn the_place_of_a_multixact_never_changes(
        #[case] then: u64,
        #[case] now: u64,
        #[case] next_multi: u32,
        #[case] expected: usize,
    ) {
        let control = ControlFile { next_multi: 5, oldest_multi: 1, ..control() };
        let file = |first: u64| {
            let mut page = vec![0; 8192];
            MultixactLayout::Narrow.put_first_member(&mut page, 2, first);
            page
        };
        let files = [&*file(then), &*file(now)];
        assert_eq!(found(&control, (3, next_multi), "pg_multixact/offsets/0000", files).len(), expected);
    }
}
