//! The WAL in `pg_wal`, and where it is not there any more, the archived one.

use crate::cluster::inspect::wal::{WalDirectory, WalFiles};
use crate::pg::TimelineId;
use crate::pg::wal::{WalFileName, WalSource};
use crate::repository::WalArchive;
use std::io;

/// The segments of one timeline of a cluster, for whoever follows its records.
pub(super) struct JoinedWal<'a> {
    present: WalFiles<'a>,
    wal: &'a WalDirectory,
    archive: &'a WalArchive<'a>,
    timeline: TimelineId,
    /// The segment that was fetched last. Readers go from one to the next, so that one is enough.
    fetched: Option<(u64, Vec<u8>)>,
}

impl<'a> JoinedWal<'a> {
    pub(super) fn new(wal: &'a WalDirectory, archive: &'a WalArchive<'a>, timeline: TimelineId) -> Self {
        Self { present: wal.files(), wal, archive, timeline, fetched: None }
    }

    /// The content of an archived segment; `None` where it is not archived.
    fn archived(&mut self, segment_number: u64) -> io::Result<Option<&[u8]>> {
        if self.fetched.as_ref().is_none_or(|(number, _)| *number != segment_number) {
            let mut bytes = Vec::new();
            let name = self.name(segment_number)?.to_string();
            if !self.archive.fetch(&name, &mut bytes).map_err(io::Error::other)? {
                return Ok(None);
            }
            self.fetched = Some((segment_number, bytes));
        }
        Ok(self.fetched.as_ref().map(|(_, bytes)| bytes.as_slice()))
    }

    fn name(&self, segment_number: u64) -> io::Result<WalFileName> {
        let size = self.wal.geometry.segment_size_bytes;
        let first = WalFileName::containing(crate::pg::Lsn(0), self.timeline, size);
        first.map(|first| first.numbered(segment_number)).map_err(io::Error::other)
    }
}

impl WalSource for JoinedWal<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if let Some(count) = self.present.read_at(segment_number, offset, buffer)? {
            return Ok(Some(count));
        }
        let Some(bytes) = self.archived(segment_number)? else { return Ok(None) };
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let count = from.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(Some(count))
    }
}
