//! Whether the WAL in a backup leads from the point at which recovery begins to the one where it is consistent.

use std::io;

use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalFileName, WalGeometry, WalPageHeader, WalReader, WalSource};
use crate::pg::{Lsn, TimelineId};
use crate::plan::{BackupSummary, Damage, DamageCode, DamagedFile};
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, RepositoryError, TableEntry};

/// The stretch of WAL that makes a hot backup consistent.
struct Range {
    start: Lsn,
    stop: Lsn,
    timeline: TimelineId,
    segment_size_bytes: u32,
}

/// Checks the segments and the records of a backup's WAL. A backup that is no hot one promises none.
///
/// # Errors
/// When a segment could not be read, which says nothing about what is in it.
pub(super) fn check(reader: &BackupReader) -> Result<Vec<Damage>, RepositoryError> {
    let Some(range) = Range::of(reader.summary()) else { return Ok(Vec::new()) };
    let missing = missing_segments(reader, &range);
    if !missing.is_empty() {
        return Ok(missing);
    }
    let mut failure = None;
    let broken = check_records(reader, &range, &mut failure);
    match failure {
        Some(error @ RepositoryError::Damaged { .. }) => {
            Ok(vec![Damage::new(DamageCode::WalBroken, error.to_string())])
        }
        Some(error) => Err(error),
        None => Ok(broken.err().into_iter().collect()),
    }
}

impl Range {
    fn of(summary: &BackupSummary) -> Option<Self> {
        Some(Self {
            start: summary.start_lsn?,
            stop: summary.stop_lsn?,
            timeline: summary.timeline?,
            segment_size_bytes: summary.wal_segment_size_bytes?,
        })
    }

    fn segment_at(&self, lsn: Lsn) -> Option<WalFileName> {
        WalFileName::containing(lsn, self.timeline, self.segment_size_bytes).ok()
    }

    /// An end on a segment boundary belongs to the segment before it.
    fn segments(&self) -> Vec<WalFileName> {
        let last = self.segment_at(Lsn(self.stop.0.saturating_sub(1)));
        let last = last.map_or(0, |last| last.segment_number);
        let following = std::iter::successors(self.segment_at(self.start), |segment| segment.next());
        following.take_while(|segment| segment.segment_number <= last).collect()
    }
}

fn path_of(segment: WalFileName) -> String {
    format!("pg_wal/{segment}")
}

/// The segments that are not in the backup's table, or not of a segment's size there.
fn missing_segments(reader: &BackupReader, range: &Range) -> Vec<Damage> {
    let problem = |segment: &WalFileName| {
        let path = path_of(*segment);
        let expected = u64::from(segment.segment_size_bytes());
        match reader.entry(&path).map(TableEntry::size_bytes) {
            Some(size_bytes) if size_bytes == expected => None,
            Some(size_bytes) => Some(format!("'{path}' has {size_bytes} bytes instead of {expected}")),
            None => Some(format!("'{path}' is not in the backup, which needs it to become consistent")),
        }
    };
    let problems = range.segments().into_iter().filter_map(|segment| problem(&segment));
    problems.map(|problem| Damage::new(DamageCode::WalSegmentMissing, problem)).collect()
}

/// Reads every record from the beginning of the range to its end.
fn check_records(
    reader: &BackupReader,
    range: &Range,
    failure: &mut Option<RepositoryError>,
) -> Result<(), Damage> {
    let mut source = BackupWal { reader, range, failure };
    let Some(first) = range.segment_at(range.start) else { return Ok(()) };
    let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
    let broken = |lsn: Lsn, what: String| {
        let file = range.segment_at(lsn).map(path_of).unwrap_or_default();
        let offset = lsn.0 % u64::from(range.segment_size_bytes.max(1));
        let damage = Damage::new(
            DamageCode::WalBroken,
            format!("its WAL does not lead from {} to {}: {what}", range.start, range.stop),
        );
        Damage { files: vec![DamagedFile { file, offset, relation: None }], ..damage }
    };
    source
        .read_at(first.segment_number, 0, &mut bytes)
        .map_err(|error| broken(first.start_lsn(), error.to_string()))?;
    let header =
        WalPageHeader::parse(&bytes).map_err(|error| broken(first.start_lsn(), error.to_string()))?;
    let expected = reader.summary().system_identifier.unwrap_or(header.system_identifier);
    if header.page_address != first.start_lsn() || header.system_identifier != expected {
        let what =
            format!("'{first}' holds the WAL of {} at {}", header.system_identifier, header.page_address);
        return Err(broken(first.start_lsn(), what));
    }
    let mut records = WalReader::new(source, WalGeometry::from(&header), range.start);
    while records.end().is_none_or(|end| end < range.stop) {
        if let Err(fault) = records.next_record() {
            return Err(broken(fault.place(), fault.to_string()));
        }
    }
    Ok(())
}

/// The WAL segments in a backup.
struct BackupWal<'a> {
    reader: &'a BackupReader,
    range: &'a Range,
    /// Why a read failed, which the WAL reader would only keep in words.
    failure: &'a mut Option<RepositoryError>,
}

impl WalSource for BackupWal<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let start = Lsn(segment_number.saturating_mul(u64::from(self.range.segment_size_bytes)));
        let path = self.range.segment_at(start).map(path_of).unwrap_or_default();
        let Some(entry) = self.reader.entry(&path) else { return Ok(None) };
        read_from(self.reader, entry, offset, buffer).map(Some).map_err(|error| {
            let told = io::Error::other(error.to_string());
            *self.failure = Some(error);
            told
        })
    }
}

/// Reads a file of the backup from an offset on, and returns how many bytes there were.
fn read_from(
    reader: &BackupReader,
    entry: &TableEntry,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, RepositoryError> {
    let file = reader.open_file(entry)?;
    let (mut piece, mut filled) = (Vec::new(), 0);
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + filled as u64;
        if at >= file.size_bytes() {
            break;
        }
        let number = usize::try_from(at / CHUNK_SIZE_BYTES as u64).unwrap_or(usize::MAX);
        file.read_piece(number, &mut piece)?;
        let skipped = usize::try_from(at % CHUNK_SIZE_BYTES as u64).unwrap_or_default();
        let available = piece.get(skipped..).unwrap_or_default();
        let copied = available.len().min(rest.len());
        if copied == 0 {
            break;
        }
        for (target, byte) in rest.iter_mut().zip(available) {
            *target = *byte;
        }
        filled += copied;
    }
    Ok(filled)
}
