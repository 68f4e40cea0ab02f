//! Whether the WAL in a backup leads from the point at which recovery begins to the one where it is consistent.

use crate::execute::backup_wal::{BackupWal, path_of};
use crate::pg::Lsn;
use crate::pg::wal::{
    LONG_HEADER_SIZE_BYTES, WalFileName, WalGeometry, WalPageHeader, WalRange, WalReader, WalSource,
};
use crate::plan::{Damage, DamageCode, DamagedFile};
use crate::repository::{BackupReader, RepositoryError, TableEntry};

/// Checks the segments and the records of a backup's WAL. A backup that is no hot one promises none.
///
/// # Errors
/// When a segment could not be read, which says nothing about what is in it.
pub(super) fn check(reader: &BackupReader) -> Result<Vec<Damage>, RepositoryError> {
    let Some(range) = reader.summary().wal_range() else { return Ok(Vec::new()) };
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

/// The segments that are not in the backup's table, or not of a segment's size there.
fn missing_segments(reader: &BackupReader, range: &WalRange) -> Vec<Damage> {
    let problem = |segment: &WalFileName| {
        let path = path_of(*segment);
        let expected = u64::from(segment.segment_size_bytes());
        match reader.entry(&path).map(TableEntry::size_bytes) {
            Some(size_bytes) if size_bytes == expected => None,
            Some(size_bytes) => Some(format!("'{path}' has {size_bytes} bytes instead of {expected}")),
            None => Some(format!("'{path}' is not in the backup, which needs it to become consistent")),
        }
    };
    let problems = range.segments().filter_map(|segment| problem(&segment));
    problems.map(|problem| Damage::new(DamageCode::WalSegmentMissing, problem)).collect()
}

/// Reads every record from the beginning of the range to its end.
fn check_records(
    reader: &BackupReader,
    range: &WalRange,
    failure: &mut Option<RepositoryError>,
) -> Result<(), Damage> {
    let first = range.first_segment();
    let mut source = BackupWal { reader, segment: first, failure };
    let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
    let broken = |lsn: Lsn, what: String| {
        let segment = range.segment_at(lsn);
        let (file, offset) = (path_of(segment), lsn.0 - segment.start_lsn().0);
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
    first
        .check_file(&bytes, u64::from(first.segment_size_bytes()), expected)
        .map_err(|problem| broken(first.start_lsn(), format!("'{first}': {problem}")))?;
    let mut records = WalReader::new(source, WalGeometry::from(&header), range.start);
    while records.end().is_none_or(|end| end < range.stop) {
        if let Err(fault) = records.next_record() {
            return Err(broken(fault.place(), fault.to_string()));
        }
    }
    Ok(())
}
