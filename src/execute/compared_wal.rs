//! The WAL of backups beside the WAL of the present cluster: whether both are of one history.
//!
//! A backup holds the WAL from its start to its stop, with the record of its checkpoint, which tells the second, and with
//! every commit in between, which tells the microsecond. Two histories that have parted do not write the same again.

use super::Tools;
use super::backup_wal::path_of;
use crate::cluster::inspect::follow;
use crate::pg::wal::{
    LONG_HEADER_SIZE_BYTES, WalFault, WalFileName, WalGeometry, WalPageHeader, WalReader, WalSource,
    is_segment_name, timeline_of_file,
};
use crate::pg::{Lsn, TimelineId};
use crate::plan::ancestry::Comparison;
use crate::plan::{BackupKind, BackupName, BackupSummary, Diagnosis};
use crate::repository::{BackupReader, RepositoryError};
use crate::sys::ReadRoot;
use std::io;
use std::os::unix::fs::FileExt;

/// How much of a copy of a stopped cluster is compared: its last checkpoint record.
const CHECKPOINT_RECORD_BYTES: u64 = 96;

/// Compares the WAL of every backup that may be of the diagnosed cluster with that in its `pg_wal`.
///
/// # Errors
/// When the repository cannot be read. A backup whose WAL is damaged is one of which nothing is known.
pub(super) fn compare_wal(
    tools: &Tools,
    diagnosis: &Diagnosis,
    backups: &[BackupSummary],
) -> anyhow::Result<Vec<(BackupName, Comparison)>> {
    let Ok(Some(repository)) = tools.repository() else { return Ok(Vec::new()) };
    let present = ReadRoot::open(&diagnosis.data_directory).and_then(|root| follow(&root, "pg_wal"));
    let Ok(present) = present else { return Ok(Vec::new()) };
    let may_be_ours = |backup: &&BackupSummary| {
        backup.name.kind() == BackupKind::Backup
            && backup.is_complete()
            && backup.system_identifier == diagnosis.identity.system_identifier
    };
    let mut compared = Vec::new();
    for backup in backups.iter().filter(may_be_ours) {
        let Some(stretch) = Stretch::of(backup) else { continue };
        if !stretch.segments().all(|segment| diagnosis.wal_segments.contains(&segment)) {
            continue;
        }
        let found = repository.reader(backup.name).and_then(|reader| stretch.compare(&reader, &present));
        match found {
            Ok(found) => compared.push((backup.name, found)),
            Err(RepositoryError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(compared)
}

/// The end of a backup's WAL, long enough to be told from any other.
struct Stretch {
    from: Lsn,
    to: Lsn,
    first: WalFileName,
    last: WalFileName,
}

impl Stretch {
    /// From the backup's start, or from the beginning of the segment before that of its stop.
    fn of(backup: &BackupSummary) -> Option<Self> {
        let size = backup.wal_segment_size_bytes?;
        let (start, to) = match (backup.start_lsn, backup.stop_lsn, backup.checkpoint_lsn) {
            (Some(start), Some(stop), _) => (start, stop),
            (_, _, Some(checkpoint)) => (checkpoint, Lsn(checkpoint.0 + CHECKPOINT_RECORD_BYTES)),
            _ => return None,
        };
        let last = WalFileName::containing(Lsn(to.0.checked_sub(1)?), backup.timeline?, size).ok()?;
        let before = last.start_lsn().0.saturating_sub(size.into());
        let from = Lsn(start.0.max(before));
        let first = WalFileName::containing(from, backup.timeline?, size).ok()?;
        (from < to).then_some(Self { from, to, first, last })
    }

    fn segments(&self) -> impl Iterator<Item = WalFileName> {
        let last = self.last.segment_number;
        std::iter::successors(Some(self.first), |segment| segment.next())
            .take_while(move |segment| segment.segment_number <= last)
    }

    fn compare(&self, backup: &BackupReader, present: &ReadRoot) -> Result<Comparison, RepositoryError> {
        let segments: Vec<WalFileName> = self.segments().collect();
        for segment in segments.iter().rev() {
            let entry = backup.entry(&path_of(*segment)).filter(|entry| entry.is_file());
            let (Some(entry), Ok(file)) = (entry, present.open_file(segment.to_string())) else { break };
            let begin = segment.start_lsn().0;
            let from = self.from.0.max(begin);
            let to = self.to.0.min(begin + u64::from(segment.segment_size_bytes()));
            let mut theirs = vec![0; usize::try_from(to - from).unwrap_or_default()];
            let mut ours = theirs.clone();
            let stored_bytes = backup.open_file(entry)?.read_at(from - begin, &mut theirs)?;
            let Some(geometry) = geometry_of(&file) else { break };
            if stored_bytes < theirs.len() || file.read_exact_at(&mut ours, from - begin).is_err() {
                break;
            }
            // Where the end has nothing to compare, what comes before it may.
            if let Some(found) = compare_pages(Lsn(from), &ours, &theirs, &geometry) {
                return Ok(found);
            }
        }
        Ok(Comparison::Unknown)
    }
}

/// Compares two stretches of WAL of one place, from the last page to the first. WAL that is equal somewhere was equal
/// before; what is no WAL at all is damage, and says nothing, and neither does what is empty. `None`: all of it is such.
pub(super) fn compare_pages(
    from: Lsn,
    ours: &[u8],
    theirs: &[u8],
    geometry: &WalGeometry,
) -> Option<Comparison> {
    let page_bytes = u64::from(geometry.block_size_bytes.max(1));
    let first = from.0 / page_bytes * page_bytes;
    let end = from.0 + ours.len().min(theirs.len()) as u64;
    let pages: Vec<u64> = (first..end).step_by(usize::try_from(page_bytes).unwrap_or(usize::MAX)).collect();
    let mut differing = 0;
    for page in pages.into_iter().rev() {
        let offset = |lsn: u64| usize::try_from(lsn.max(from.0) - from.0).unwrap_or(usize::MAX);
        let range = offset(page)..offset(end.min(page + page_bytes));
        let (Some(our), Some(their)) = (ours.get(range.clone()), theirs.get(range)) else { break };
        if our == their {
            if is_empty_page(our) {
                continue;
            }
            return Some(match differing {
                0 => Comparison::Same,
                // One page may be damaged.
                1 => Comparison::Unknown,
                _ => Comparison::Differs,
            });
        }
        // The header of a page whose beginning is not in the stretch cannot be asked.
        if page < from.0 || geometry.is_page_at(Lsn(page), our) {
            differing += 1;
        }
    }
    (differing > 0).then_some(Comparison::Differs)
}

/// Which of two files of one name is the WAL of the present cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// The one in its `pg_wal`.
    Present,
    /// The archived one, of which that in `pg_wal` is a damaged copy.
    Archived,
}

/// Whether the WAL of a timeline leads to the present cluster, whose `pg_wal` this is: it is on the newest there. On a
/// timeline that it left, what it wrote itself ends at the fork, and the archive has what another history wrote on.
pub(super) fn leads_to_present(present: &ReadRoot, timeline: TimelineId) -> bool {
    let names = present.names(".").unwrap_or_default();
    let segments = names.iter().filter(|name| is_segment_name(name));
    segments.filter_map(|name| timeline_of_file(name)).max() == Some(timeline)
}

/// Decides which of two segments of one name the present cluster wrote: its own, as long as that is whole WAL and not
/// the archived one with some damage.
pub(super) fn own_of(segment: WalFileName, present: &[u8], archived: &[u8]) -> Own {
    let header = present.get(..LONG_HEADER_SIZE_BYTES).and_then(|bytes| WalPageHeader::parse(bytes).ok());
    let Some(geometry) = header.map(|header| WalGeometry::from(&header)) else { return Own::Archived };
    match compare_pages(segment.start_lsn(), present, archived, &geometry) {
        Some(Comparison::Same) => Own::Archived,
        _ if is_whole(segment, present, geometry) => Own::Present,
        _ => Own::Archived,
    }
}

/// Whether a segment has valid records up to the next, or to the end of all WAL.
fn is_whole(segment: WalFileName, bytes: &[u8], geometry: WalGeometry) -> bool {
    let source = OneSegment { number: segment.segment_number, bytes };
    let Ok(mut reader) = WalReader::from_page(source, geometry, segment.start_lsn()) else { return false };
    loop {
        match reader.next_record() {
            Ok(_) => {}
            Err(WalFault::SegmentMissing(_)) => return true,
            Err(fault) => return fault.may_be_the_end(),
        }
    }
}

/// A segment in memory.
struct OneSegment<'a> {
    number: u64,
    bytes: &'a [u8],
}

impl WalSource for OneSegment<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if segment_number != self.number {
            return Ok(None);
        }
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(Some(count))
    }
}

/// Whether a page has nothing after its header, as those that follow a switch to the next segment (xlog.c,
/// `CopyXLogRecordToWAL()`).
fn is_empty_page(page: &[u8]) -> bool {
    page.get(LONG_HEADER_SIZE_BYTES..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0))
}

pub(super) fn geometry_of(file: &std::fs::File) -> Option<WalGeometry> {
    let mut header = [0; LONG_HEADER_SIZE_BYTES];
    let read: io::Result<()> = file.read_exact_at(&mut header, 0);
    read.ok()?;
    WalPageHeader::parse(&header).ok().map(|header| WalGeometry::from(&header))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::pg::{MajorVersion, SystemIdentifier};

    const PAGE_BYTES: u64 = 8192;
    /// Behind the first page of a segment, which has a long header.
    const FROM: Lsn = Lsn(0x0500_2000);
    const GEOMETRY: WalGeometry = WalGeometry {
        major: MajorVersion(15),
        system_identifier: SystemIdentifier(7),
        segment_size_bytes: 16 << 20,
        block_size_bytes: 8192,
    };

    /// Pages of WAL, one for each letter: records of the one history or of another, nothing behind the header, damage in
    /// the records, no page at all.
    fn pages(letters: &str) -> Vec<u8> {
        let page = |(number, letter): (usize, char)| {
            let address = FROM.0 + number as u64 * PAGE_BYTES;
            let mut page = vec![0; usize::try_from(PAGE_BYTES).unwrap()];
            page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
            page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            page[8..16].copy_from_slice(&address.to_le_bytes());
            match letter {
                'e' => {}
                'x' => page.fill(0xFF),
                letter => page[100..8000].fill(u8::try_from(letter).unwrap()),
            }
            page
        };
        letters.chars().enumerate().flat_map(page).collect()
    }

    #[rstest]
    #[case::equal("aaaa", "aaaa", Some(Comparison::Same))]
    #[case::equal_up_to_an_empty_end("aaee", "aaee", Some(Comparison::Same))]
    #[case::damage_in_the_middle("abaa", "aaaa", Some(Comparison::Same))]
    #[case::no_page_in_the_middle("axaa", "aaaa", Some(Comparison::Same))]
    #[case::parted_in_the_middle("aabb", "aaaa", Some(Comparison::Differs))]
    #[case::parted_before("bbbb", "aaaa", Some(Comparison::Differs))]
    #[case::parted_and_then_empty("bbee", "aaee", Some(Comparison::Differs))]
    #[case::the_only_page("b", "a", Some(Comparison::Differs))]
    #[case::the_last_page_may_be_damaged("aaab", "aaaa", Some(Comparison::Unknown))]
    #[case::the_end_is_no_wal("aaxx", "aaaa", Some(Comparison::Same))]
    #[case::none_of_it_is_wal("xxxx", "aaaa", None)]
    #[case::nothing_but_empty_pages("eeee", "eeee", None)]
    fn wal_of_another_history_is_told_from_damage(
        #[case] ours: &str,
        #[case] theirs: &str,
        #[case] expected: Option<Comparison>,
    ) {
        assert_eq!(compare_pages(FROM, &pages(ours), &pages(theirs), &GEOMETRY), expected);
    }

    #[test]
    fn what_comes_before_and_after_the_stretch_is_not_compared() {
        let (ours, theirs) = (pages("baaab"), pages("aaaaa"));
        let (from, to) = (8192 + 100, 4 * 8192 - 100);
        let found = compare_pages(Lsn(FROM.0 + 8292), &ours[from..to], &theirs[from..to], &GEOMETRY);
        assert_eq!(found, Some(Comparison::Same));
    }
}
