//! The WAL segments that lie in a backup, for whoever follows its records.

use std::io;

use crate::pg::wal::{WalFileName, WalSource};
use crate::repository::{BackupReader, RepositoryError, TableEntry};

/// Where a backup has a segment.
pub(super) fn path_of(segment: WalFileName) -> String {
    format!("pg_wal/{segment}")
}

/// The segments of one timeline in a backup.
pub(super) struct BackupWal<'a> {
    pub(super) reader: &'a BackupReader,
    /// Any segment of that timeline.
    pub(super) segment: WalFileName,
    /// Why a read failed, which a reader of WAL would only keep in words.
    pub(super) failure: &'a mut Option<RepositoryError>,
}

impl WalSource for BackupWal<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let entry = self.reader.entry(&path_of(self.segment.numbered(segment_number)));
        let Some(entry) = entry.filter(|entry| TableEntry::is_file(entry)) else { return Ok(None) };
        let read = self.reader.open_file(entry).and_then(|file| file.read_at(offset, buffer));
        read.map(Some).map_err(|error| {
            let told = io::Error::other(error.to_string());
            *self.failure = Some(error);
            told
        })
    }
}
