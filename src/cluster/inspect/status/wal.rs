//! The WAL as the witness of what the status files must hold.

use super::files::{Known, MEMBERS, OFFSETS, StatusFiles, TRANSACTIONS};
use super::{MULTIXACT_WRONG, STATUS_WRONG};
use crate::cluster::inspect::Inspection;
use crate::cluster::inspect::wal::{WalDirectory, WalFiles};
use crate::format::counted;
use crate::pg::Lsn;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::{self, ABORTED, COMMITTED, IN_PROGRESS, MultixactLayout, SlruSegment};
use crate::pg::wal::{MultixactCreated, Outcome, TransactionEnd, WalReader, WalRecord};
use crate::plan::{Finding, Severity};
use std::collections::BTreeMap;

/// The most that is read of the WAL before the redo point, so that a start does not wait long.
const MOST_BYTES: u64 = 256 << 20;

/// A record that a status file must agree with.
#[derive(Debug)]
pub(super) enum StatusRecord {
    End(TransactionEnd),
    Multixact(MultixactCreated),
}

impl StatusRecord {
    /// What a record says of status files; `None` where it says nothing of them.
    pub(super) fn of(record: &WalRecord<'_>) -> Option<Self> {
        let end = record.ended_transactions().map(Self::End);
        end.or_else(|| record.multixact_created().map(Self::Multixact))
    }
}

/// A reader of the WAL that was kept, from the oldest record that is left, but at the most so many bytes before `until`.
pub(super) fn retained(wal: &WalDirectory, until: Lsn, most_bytes: u64) -> Option<WalReader<WalFiles<'_>>> {
    let oldest = wal.oldest_before(until)?;
    let from = Lsn(until.0.saturating_sub(most_bytes));
    let begin = if from > oldest.start_lsn() { wal.segment_of(from)? } else { oldest };
    wal.reader_from(begin).ok()
}

/// Visits the records about status that begin before `until`, as far as the WAL can be read.
pub(super) fn visit_records(
    mut reader: WalReader<WalFiles<'_>>,
    until: Lsn,
    mut visit: impl FnMut(Lsn, StatusRecord),
) {
    while let Ok(record) = reader.next_record() {
        if record.start >= until {
            return;
        }
        if let Some(found) = StatusRecord::of(&record) {
            visit(record.start, found);
        }
    }
}

/// What one file contradicts: the first time, and how often.
#[derive(Debug, Default)]
struct Contradictions {
    by_file: BTreeMap<(&'static str, SlruSegment), (String, usize)>,
}

impl Contradictions {
    fn add(&mut self, file: (&'static str, SlruSegment), evidence: impl FnOnce() -> String) {
        self.by_file.entry(file).or_insert_with(|| (evidence(), 0)).1 += 1;
    }

    fn findings(self) -> impl Iterator<Item = Finding> {
        self.by_file.into_iter().map(|((directory, segment), (first, times))| {
            let code = if directory == TRANSACTIONS { STATUS_WRONG } else { MULTIXACT_WRONG };
            let evidence = format!("{first}; the WAL contradicts it in {}", counted(times, "place"));
            Finding::new(code, Severity::Error, format!("{directory}/{segment}"), evidence)
        })
    }
}

impl Inspection<'_> {
    /// Holds the status files against the WAL before the redo point, which the last checkpoint had written to them.
    pub(super) fn check_status_by_wal(&mut self, wal: &WalDirectory, control: &ControlFile) {
        let Some(reader) = retained(wal, control.redo, MOST_BYTES) else { return };
        let known = Known::of(control);
        let mut files = StatusFiles::new(self.root);
        let mut found = Contradictions::default();
        visit_records(reader, control.redo, |at, record| match record {
            StatusRecord::End(end) => check_end(&mut files, known, (at, &end), &mut found),
            StatusRecord::Multixact(created) if known.has_multixact(created.multixact) => {
                check_multixact(&mut files, known.layout, (at, &created), &mut found);
            }
            StatusRecord::Multixact(_) => {}
        });
        self.findings.extend(found.findings());
    }
}

/// A rollback need not have reached the file: a status of 0 means the same once the server is gone (xact.c,
/// `RecordTransactionCommit()`, on why it does not delay a checkpoint for that).
fn check_end(
    files: &mut StatusFiles<'_>,
    known: Known,
    (at, end): (Lsn, &TransactionEnd),
    found: &mut Contradictions,
) {
    for &xid in end.xids.iter().filter(|xid| known.has_xid(**xid)) {
        let Some(status) = files.status_bits(xid) else { continue };
        let said = match (end.outcome, status) {
            (Outcome::Committed, IN_PROGRESS | ABORTED) => "committed",
            (Outcome::Aborted, COMMITTED) => "was rolled back",
            _ => continue,
        };
        found.add((TRANSACTIONS, slru::transaction_segment(xid)), || {
            let here = match status {
                IN_PROGRESS => "it did not end",
                ABORTED => "it was rolled back",
                _ => "it committed",
            };
            format!("transaction {xid} {said} by the WAL at {at}, and here {here}")
        });
    }
}

fn check_multixact(
    files: &mut StatusFiles<'_>,
    layout: MultixactLayout,
    (at, created): (Lsn, &MultixactCreated),
    found: &mut Contradictions,
) {
    let multixact = created.multixact;
    let segment = layout.offset_segment(multixact);
    let first = files.segment(OFFSETS, segment).and_then(|bytes| layout.first_member(bytes, multixact));
    if first.is_some_and(|first| first != created.first_member) {
        found.add((OFFSETS, segment), || {
            format!(
                "multixact {multixact} has its members at {} by the WAL at {at}, and here at {}",
                created.first_member,
                first.unwrap_or_default()
            )
        });
    }
    for (step, expected) in (0..).zip(&created.members) {
        let member = layout.member_after(created.first_member, step);
        let segment = layout.member_segment(member);
        let there = files.segment(MEMBERS, segment).and_then(|bytes| slru::member_at(bytes, member));
        if there.is_some_and(|there| there != *expected) {
            found.add((MEMBERS, segment), || {
                format!("multixact {multixact} has other members here than by the WAL at {at}")
            });
        }
    }
}
