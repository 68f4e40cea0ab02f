//! The segments in `pg_wal`, and a reader of the records in them.
//!
//! Only files that hold WAL of their own name are seen: the server keeps old segments under new names for later
//! use, and their pages tell where they really belong.

use crate::cluster::inspect::follow;
use crate::pg::control_file::ControlFile;
use crate::pg::timeline_history::{self, Ancestor};
use crate::pg::wal::{
    self, LONG_HEADER_SIZE_BYTES, WalFault, WalFileName, WalGeometry, WalPageHeader, WalReader, WalSource,
};
use crate::pg::{Lsn, TimelineId};
use crate::plan::timelines::History;
use crate::sys::ReadRoot;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The WAL of one cluster, on the timelines that lead to one.
#[derive(Debug)]
pub(crate) struct WalDirectory {
    directory: ReadRoot,
    /// What all of its segments have in common.
    pub(crate) geometry: WalGeometry,
    /// Whole segments of this cluster, in the order of their names.
    pub(crate) segments: Vec<WalFileName>,
    /// Segments of this cluster whose files are not of full size; what they still have is read.
    pub(crate) cut: Vec<WalFileName>,
    /// The segment to be read for each number.
    route: BTreeMap<u64, WalFileName>,
}

impl WalDirectory {
    /// Lists the WAL of the cluster that a control file describes, on the timelines that lead to its own. `None`
    /// where `pg_wal` cannot be listed.
    pub(crate) fn of_cluster(root: &ReadRoot, control: &ControlFile) -> Option<Self> {
        let geometry = WalGeometry {
            major: control.major,
            system_identifier: control.system_identifier,
            segment_size_bytes: control.wal_segment_size,
            block_size_bytes: control.wal_block_size,
        };
        let directory = follow(root, "pg_wal").ok()?;
        Some(Self::list(directory, geometry)?.towards(control.timeline))
    }

    /// Lists the WAL of the cluster to which the newest segment belongs, on the timelines that lead to the newest.
    /// `None` where there is none.
    pub(crate) fn without_control_file(root: &ReadRoot) -> Option<Self> {
        let directory = follow(root, "pg_wal").ok()?;
        let entries = directory.entries(".").ok()?;
        let names = entries.iter().rev().map(|entry| &entry.name).filter(|name| wal::is_segment_name(name));
        let newest =
            names.filter_map(|name| read_first_header(&directory, name).map(|header| (name, header)));
        let is_own = |name: &str, header: &WalPageHeader| {
            let name = WalFileName::parse(name, header.segment_size_bytes);
            name.is_ok_and(|name| name.start_lsn() == header.page_address)
        };
        let (_, header) = newest.into_iter().find(|(name, header)| is_own(name, header))?;
        let listed = Self::list(directory, WalGeometry::from(&header))?;
        let newest_timeline = listed.segments.last()?.timeline;
        Some(listed.towards(newest_timeline))
    }

    fn list(directory: ReadRoot, geometry: WalGeometry) -> Option<Self> {
        let size = geometry.segment_size_bytes;
        let (mut segments, mut cut) = (Vec::new(), Vec::new());
        for entry in directory.entries(".").ok()? {
            let Ok(name) = WalFileName::parse(&entry.name, size) else { continue };
            let Some(header) = read_first_header(&directory, &entry.name) else { continue };
            if header.page_address != name.start_lsn() || WalGeometry::from(&header) != geometry {
                continue;
            }
            if entry.facts.size_bytes == u64::from(size) {
                segments.push(name);
            } else {
                cut.push(name);
            }
        }
        Some(Self { directory, geometry, segments, cut, route: BTreeMap::new() })
    }

    /// Chooses the file for each segment number: of the newest timeline that had begun by then. What an ancestor went on
    /// to write after it was left is not read: the server never goes back to an older timeline than the one it reads.
    ///
    /// Source: xlogrecovery.c, `XLogFileReadAnyTLI()`.
    fn towards(mut self, timeline: TimelineId) -> Self {
        let history = History::new(timeline, &self.ancestors(timeline).unwrap_or_default());
        let mut files = [self.segments.as_slice(), &self.cut].concat();
        files.sort_unstable();
        for segment in &files {
            if history.may_read(*segment) {
                // The segments ascend by timeline, so that a newer one replaces an older.
                self.route.insert(segment.segment_number, *segment);
            }
        }
        self
    }

    fn ancestors(&self, timeline: TimelineId) -> Option<Vec<Ancestor>> {
        let text = self.directory.read_text(timeline_history::file_name(timeline), 1 << 20).ok()??;
        timeline_history::parse(&text)
    }

    /// Whether the segment that holds this byte is there.
    pub(crate) fn has(&self, lsn: Lsn) -> bool {
        self.route.contains_key(&(lsn.0 / u64::from(self.geometry.segment_size_bytes)))
    }

    /// The segment that holds this byte, if it is there.
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<WalFileName> {
        self.route.get(&(lsn.0 / u64::from(self.geometry.segment_size_bytes))).copied()
    }

    /// Returns the segments of the route whose files are of full size, in order.
    pub(crate) fn whole_segments(&self) -> Vec<WalFileName> {
        self.route.values().filter(|segment| self.segments.contains(segment)).copied().collect()
    }

    /// The newest segment of the route.
    pub(crate) fn newest(&self) -> Option<WalFileName> {
        self.route.values().next_back().copied()
    }

    /// The oldest segment from which on none is missing up to the one that holds this byte.
    pub(crate) fn oldest_before(&self, lsn: Lsn) -> Option<WalFileName> {
        let mut oldest = self.segment_of(lsn)?;
        while let Some(before) =
            oldest.segment_number.checked_sub(1).and_then(|number| self.route.get(&number))
        {
            oldest = *before;
        }
        Some(oldest)
    }

    /// Whether the WAL directory may have an entry of this name, whatever it is.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        !matches!(self.directory.facts(name), Ok(None))
    }

    /// Whether there is a page of WAL at this address.
    pub(crate) fn has_page(&self, page: Lsn) -> bool {
        let Some(segment) = self.segment_of(page) else { return false };
        let mut header = [0; LONG_HEADER_SIZE_BYTES];
        let file = self.directory.open_file(segment.to_string());
        let read = file.and_then(|file| file.read_exact_at(&mut header, page.0 - segment.start_lsn().0));
        read.is_ok() && self.geometry.is_page_at(page, &header)
    }

    /// The bytes of its segments.
    pub(crate) fn files(&self) -> WalFiles<'_> {
        WalFiles { wal: self, open: None }
    }

    /// Reads from the record that begins at `lsn`.
    pub(crate) fn reader_at(&self, lsn: Lsn) -> WalReader<WalFiles<'_>> {
        WalReader::new(self.files(), self.geometry, lsn)
    }

    /// Reads from the first record that begins in a segment.
    pub(crate) fn reader_from(&self, segment: WalFileName) -> Result<WalReader<WalFiles<'_>>, WalFault> {
        self.reader_from_page(segment.start_lsn())
    }

    /// Reads from the first record that begins on a page or after it.
    pub(crate) fn reader_from_page(&self, page: Lsn) -> Result<WalReader<WalFiles<'_>>, WalFault> {
        WalReader::from_page(self.files(), self.geometry, page)
    }
}

/// The bytes of the segments of a [`WalDirectory`].
#[derive(Debug)]
pub(crate) struct WalFiles<'a> {
    wal: &'a WalDirectory,
    open: Option<(u64, File)>,
}

impl WalSource for WalFiles<'_> {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(name) = self.wal.route.get(&segment_number) else { return Ok(None) };
        let file = match self.open.take() {
            Some((number, file)) if number == segment_number => file,
            _ => self.wal.directory.open_file(name.to_string())?,
        };
        let mut read_bytes = 0;
        while let Some(rest) = buffer.get_mut(read_bytes..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(read_bytes as u64)) {
                Ok(0) => break,
                Ok(count) => read_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.open = Some((segment_number, file));
        Ok(Some(read_bytes))
    }
}

fn read_first_header(directory: &ReadRoot, name: &str) -> Option<WalPageHeader> {
    let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
    directory.open_file(name).ok()?.read_exact_at(&mut bytes, 0).ok()?;
    WalPageHeader::parse(&bytes).ok()
}
