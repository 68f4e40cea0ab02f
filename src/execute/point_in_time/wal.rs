//! The WAL from a backup on as it can be read now: the backup's own segments, archived ones, and those of the present
//! `pg_wal`.

use std::io;

use crate::execute::compared_wal::{Own, leads_to_present, own_of};
use crate::pg::Lsn;
use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalFileName, WalGeometry, WalPageHeader, WalSource};
use crate::plan::timelines::History;
use crate::repository::{BackupReader, RepositoryError, WalArchive};
use crate::sys::ReadRoot;

/// Segments, each taken from the first place that has it whole.
///
/// One is held in memory as a whole, since what is archived is proven only when it has been read to its end.
pub(super) struct Segments<'a> {
    pub(super) history: &'a History,
    pub(super) segment_size_bytes: u32,
    pub(super) backup: Option<&'a BackupReader>,
    pub(super) archive: &'a WalArchive<'a>,
    pub(super) present: Option<&'a ReadRoot>,
    /// Nothing is read from here on.
    pub(super) until: Option<Lsn>,
    pub(super) loaded: Option<(u64, Vec<u8>)>,
}

impl Segments<'_> {
    /// What the pages of a segment have in common; `None` where there is no such segment.
    pub(super) fn geometry(&mut self, segment_number: u64) -> io::Result<Option<WalGeometry>> {
        let mut header = [0; LONG_HEADER_SIZE_BYTES];
        if self.read_at(segment_number, 0, &mut header)?.is_none() {
            return Ok(None);
        }
        let header = WalPageHeader::parse(&header).map_err(io::Error::other)?;
        Ok(Some(WalGeometry::from(&header)))
    }

    fn load(&self, segment: WalFileName) -> io::Result<Option<Vec<u8>>> {
        let name = segment.to_string();
        let mut bytes = Vec::new();
        let entry = self.backup.and_then(|backup| backup.entry(&format!("pg_wal/{name}")));
        if let (Some(backup), Some(entry)) = (self.backup, entry.filter(|entry| entry.is_file())) {
            backup.copy_file_to(entry, &mut bytes).map_err(io::Error::other)?;
            return Ok(Some(bytes));
        }
        match self.archive.fetch(&name, &mut bytes) {
            Ok(true) => {
                // Where the present cluster wrote another segment of that name, its own is followed.
                let timeline = self.history.timeline();
                let is_own_way = self.present.is_some_and(|present| leads_to_present(present, timeline));
                let present = if is_own_way { self.load_present(&name).ok().flatten() } else { None };
                let present = present.filter(|present| *present != bytes);
                let own = present.filter(|present| own_of(segment, present, &bytes) == Own::Present);
                return Ok(Some(own.unwrap_or(bytes)));
            }
            Ok(false) => {}
            // The one in `pg_wal` is as good.
            Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })) => {
                return self.load_present(&name)?.map(Some).ok_or_else(|| io::Error::other(error));
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        self.load_present(&name)
    }

    fn load_present(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(present) = self.present else { return Ok(None) };
        match present.read_bounded(name, u64::from(self.segment_size_bytes)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl WalSource for Segments<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let begin = Lsn(segment_number.saturating_mul(u64::from(self.segment_size_bytes)));
        if self.until.is_some_and(|until| begin >= until) {
            return Ok(None);
        }
        if self.loaded.as_ref().is_none_or(|(number, _)| *number != segment_number) {
            let segment = WalFileName::containing(begin, self.history.timeline(), self.segment_size_bytes)
                .map_err(io::Error::other)?;
            let Some(bytes) = self.load(segment.on(self.history.timeline_of(segment)))? else {
                return Ok(None);
            };
            self.loaded = Some((segment_number, bytes));
        }
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let loaded = self.loaded.as_ref().and_then(|(_, bytes)| bytes.get(offset..)).unwrap_or_default();
        let count = loaded.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), loaded.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(Some(count))
    }
}
