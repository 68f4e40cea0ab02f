//! Reads WAL record after record, each verified, until there is one that the server would not replay either.
//!
//! The rules are those of `XLogDecodeNextRecord()` in xlogreader.c. Memory is bounded by the longest record, and no more is
//! taken for a record than the segments really hold of it.

use std::io;

use super::page_header::{PageStart, WalGeometry};
use super::record::{RECORD_HEADER_SIZE_BYTES, RecordHeader, WalRecord, record_crc};
use crate::pg::bytes::u32_at;
use crate::pg::{Lsn, TimelineId};

/// The longest record that the server writes (PostgreSQL: `XLogRecordMaxSize`).
const RECORD_LIMIT_BYTES: u32 = 1020 << 20;
/// How much is asked of the source at once.
const CHUNK_BYTES: u32 = 128 << 10;
/// `RM_XLOG_ID` and `XLOG_SWITCH`: the rest of the segment is left empty.
const SWITCH: (u8, u8) = (0, 0x40);

/// Where the bytes of WAL segments come from.
pub trait WalSource {
    /// Reads the bytes of a segment from an offset on, and says how many there are: fewer than asked for only at
    /// the end of the file. `None` where there is no such segment.
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>>;
}

/// Why there is no further record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalFault {
    /// No file has the segment.
    #[error("there is no segment for {0}")]
    SegmentMissing(Lsn),
    /// The segment's file ends too soon.
    #[error("the segment's file ends before {0}")]
    SegmentCut(Lsn),
    /// The segment could not be read.
    #[error("the page at {0} could not be read: {1}")]
    Unreadable(Lsn, String),
    /// The page is not one of this place.
    #[error("the page at {0} has no valid header: {1}")]
    PageHeader(Lsn, String),
    /// No record was ever written there.
    #[error("the record at {0} has length 0")]
    ZeroLength(Lsn),
    /// The length is none that a record can have.
    #[error("the record at {0} has an impossible length of {1} bytes")]
    Length(Lsn, u32),
    /// The record follows another one than the one before it.
    #[error("the record at {at} names {found} as the one before it")]
    Previous {
        /// Where the record begins.
        at: Lsn,
        /// The LSN that it names.
        found: Lsn,
    },
    /// The rest of the record is not on the next page.
    #[error("the record at {0} is not continued on the page at {1}")]
    Continuation(Lsn, Lsn),
    /// The record is damaged, somewhere between its two ends.
    #[error("the record from {0} to {1} is damaged: wrong CRC")]
    Crc(Lsn, Lsn),
}

impl WalFault {
    /// The last place that was looked at: nothing is known of what lies behind it.
    pub fn place(&self) -> Lsn {
        match self {
            Self::SegmentMissing(lsn)
            | Self::SegmentCut(lsn)
            | Self::Unreadable(lsn, _)
            | Self::PageHeader(lsn, _)
            | Self::ZeroLength(lsn)
            | Self::Length(lsn, _)
            | Self::Previous { at: lsn, .. }
            | Self::Continuation(_, lsn)
            | Self::Crc(_, lsn) => *lsn,
        }
    }

    /// Whether the WAL may simply end there. A server that begins to write at the end of its WAL fills the page with zeros,
    /// and leaves whole records of an earlier past behind it.
    pub fn may_be_the_end(&self) -> bool {
        matches!(self, Self::ZeroLength(_) | Self::Previous { .. })
    }
}

/// Reads the records of one cluster's WAL in order.
#[derive(Debug)]
pub struct WalReader<S> {
    source: S,
    geometry: WalGeometry,
    /// Where the next record begins, or the page on which it does.
    position: u64,
    /// Where the last good record begins and ends.
    last: Option<(Lsn, Lsn)>,
    page: Option<(u64, PageStart)>,
    chunk: Vec<u8>,
    chunk_start: u64,
    record: Vec<u8>,
}

/// What became of the record at the present position.
enum Assembled {
    /// It is whole, and this is where it ends.
    Whole { start: u64, end: u64, timeline: TimelineId },
    /// It was given up, and the next one begins on this page.
    GivenUp(u64),
}

impl<S: WalSource> WalReader<S> {
    /// A reader that begins with the record at `start`.
    pub fn new(source: S, geometry: WalGeometry, start: Lsn) -> Self {
        let (chunk, record) = (Vec::new(), Vec::new());
        Self { source, geometry, position: start.0, last: None, page: None, chunk, chunk_start: 0, record }
    }

    /// A reader that begins with the first record that begins at or after `page`, the address of a page.
    ///
    /// # Errors
    /// [`WalFault`], if a page cannot be read before that record is found.
    pub fn from_page(source: S, geometry: WalGeometry, page: Lsn) -> Result<Self, WalFault> {
        let mut reader = Self::new(source, geometry, page);
        let block = u64::from(geometry.block_size_bytes);
        loop {
            let header = reader.load_page(reader.position)?;
            let Some(continued) = header.continued_bytes else { return Ok(reader) };
            let header_bytes = header.size_bytes as u64;
            let rest = u64::from(continued).next_multiple_of(8);
            if rest < block.saturating_sub(header_bytes) {
                reader.position = reader.position.saturating_add(header_bytes + rest);
                return Ok(reader);
            }
            reader.position = reader.next_page(reader.position)?;
        }
    }

    /// Where the last good record ends; `None` before the first.
    pub fn end(&self) -> Option<Lsn> {
        self.last.map(|(_, end)| end)
    }

    /// Where the next record is looked for.
    pub fn position(&self) -> Lsn {
        Lsn(self.position)
    }

    /// Returns the next record.
    ///
    /// # Errors
    /// [`WalFault`], of any kind. The end of the WAL is no different from damage: only what follows tells them apart.
    pub fn next_record(&mut self) -> Result<WalRecord<'_>, WalFault> {
        let (start, end, timeline) = loop {
            match self.assemble()? {
                Assembled::Whole { start, end, timeline } => break (start, end, timeline),
                Assembled::GivenUp(page) => self.position = page,
            }
        };
        let damaged = || WalFault::Crc(Lsn(start), Lsn(end));
        let header = RecordHeader::parse(&self.record).ok_or_else(damaged)?;
        if record_crc(&self.record) != header.crc {
            return Err(damaged());
        }
        self.check_previous(start, header)?;
        self.position = self.after(header, end);
        self.last = Some((Lsn(start), Lsn(self.position)));
        let (start, end) = (Lsn(start), Lsn(self.position));
        Ok(WalRecord { start, end, timeline, header, bytes: &self.record, major: self.geometry.major })
    }

    /// Where the record ends that has its last byte before `end`: a switch fills its segment.
    fn after(&self, header: RecordHeader, end: u64) -> u64 {
        if (header.resource_manager, header.kind()) == SWITCH {
            return end.next_multiple_of(u64::from(self.geometry.segment_size_bytes));
        }
        end
    }

    /// Gathers the bytes of the record at the present position from all of its pages.
    fn assemble(&mut self) -> Result<Assembled, WalFault> {
        let block = u64::from(self.geometry.block_size_bytes);
        let first_page = self.position - self.position % block;
        let first = self.load_page(first_page)?;
        let begins = first_page.saturating_add(first.size_bytes as u64);
        let start = if self.position == first_page { begins } else { self.position };
        if start < begins || (start == begins && first.continued_bytes.is_some()) {
            return Err(WalFault::Continuation(Lsn(start), Lsn(first_page)));
        }
        let total_bytes = self.record_length(start)?;
        self.record.clear();
        let mut at = start;
        loop {
            at = self.append_from_page(at, total_bytes)?;
            if self.record.len() >= total_bytes as usize {
                let end = at.checked_next_multiple_of(8).ok_or(WalFault::Length(Lsn(start), total_bytes))?;
                return Ok(Assembled::Whole { start, end, timeline: first.timeline });
            }
            let page = self.load_page(at)?;
            if page.gives_up_record {
                return Ok(Assembled::GivenUp(at));
            }
            let missing = u64::from(total_bytes) - self.record.len() as u64;
            if page.continued_bytes.map(u64::from) != Some(missing) {
                return Err(WalFault::Continuation(Lsn(start), Lsn(at)));
            }
            at = at.saturating_add(page.size_bytes as u64);
        }
    }

    fn record_length(&self, start: u64) -> Result<u32, WalFault> {
        let bytes = self.bytes_at(start).unwrap_or_default();
        match u32_at(bytes, 0) {
            None | Some(0) => Err(WalFault::ZeroLength(Lsn(start))),
            Some(length)
                if (RECORD_HEADER_SIZE_BYTES as u64..=u64::from(RECORD_LIMIT_BYTES))
                    .contains(&u64::from(length)) =>
            {
                Ok(length)
            }
            Some(length) => Err(WalFault::Length(Lsn(start), length)),
        }
    }

    /// Takes what the loaded page has of the record from `at` on, and returns where that ends.
    fn append_from_page(&mut self, at: u64, total_bytes: u32) -> Result<u64, WalFault> {
        let block = u64::from(self.geometry.block_size_bytes);
        let missing = u64::from(total_bytes) - self.record.len() as u64;
        let taken = missing.min(block - at % block);
        let offset = usize::try_from(at - self.chunk_start).ok();
        let range = offset.and_then(|offset| Some(offset..offset.checked_add(usize::try_from(taken).ok()?)?));
        let part = range.and_then(|range| self.chunk.get(range)).ok_or(WalFault::SegmentCut(Lsn(at)))?;
        self.record.extend_from_slice(part);
        Ok(at.saturating_add(taken))
    }

    /// Checks that the record follows the one before it. It comes after the check of the CRC, so that a whole record of
    /// another past of the cluster is told from a damaged one.
    fn check_previous(&self, start: u64, header: RecordHeader) -> Result<(), WalFault> {
        let is_right = match self.last {
            Some((last, _)) => header.previous == last,
            None => header.previous.0 < start,
        };
        if is_right { Ok(()) } else { Err(WalFault::Previous { at: Lsn(start), found: header.previous }) }
    }

    /// The bytes from an LSN to the end of what was read at once.
    fn bytes_at(&self, at: u64) -> Option<&[u8]> {
        self.chunk.get(usize::try_from(at.checked_sub(self.chunk_start)?).ok()?..)
    }

    fn next_page(&self, page: u64) -> Result<u64, WalFault> {
        page.checked_add(u64::from(self.geometry.block_size_bytes)).ok_or(WalFault::SegmentMissing(Lsn(page)))
    }

    /// Makes a page available and returns its header.
    fn load_page(&mut self, address: u64) -> Result<PageStart, WalFault> {
        if let Some((loaded, header)) = self.page
            && loaded == address
        {
            return Ok(header);
        }
        self.read_chunk(address)?;
        let page = self.bytes_at(address).unwrap_or_default();
        let invalid = |reason| WalFault::PageHeader(Lsn(address), reason);
        let header = PageStart::parse(page, Lsn(address), &self.geometry).map_err(invalid)?;
        // A timeline begins where an earlier one ends, so that its number only ever grows.
        if let Some((_, before)) = self.page
            && header.timeline < before.timeline
        {
            return Err(invalid(format!(
                "timeline {} follows timeline {}",
                header.timeline, before.timeline
            )));
        }
        self.page = Some((address, header));
        Ok(header)
    }

    /// Sees to it that the whole page is among the bytes that were read.
    fn read_chunk(&mut self, address: u64) -> Result<(), WalFault> {
        let block = self.geometry.block_size_bytes as usize;
        if self.bytes_at(address).is_some_and(|bytes| bytes.len() >= block) {
            return Ok(());
        }
        let segment = u64::from(self.geometry.segment_size_bytes);
        let (segment_number, offset) = (address / segment, address % segment);
        let wanted = u64::from(CHUNK_BYTES).min(segment - offset);
        self.chunk.resize(usize::try_from(wanted).unwrap_or(block), 0);
        self.chunk_start = address;
        let read = self.source.read_at(segment_number, offset, &mut self.chunk);
        let read_bytes = read.as_ref().map_or(0, |read_bytes| read_bytes.unwrap_or_default());
        self.chunk.truncate(read_bytes);
        match read {
            Ok(None) => Err(WalFault::SegmentMissing(Lsn(address))),
            Err(error) => Err(WalFault::Unreadable(Lsn(address), error.to_string())),
            Ok(Some(_)) if read_bytes < block => Err(WalFault::SegmentCut(Lsn(address))),
            Ok(Some(_)) => Ok(()),
        }
    }
}
