//! The WAL that makes a hot backup whole: every segment from its start to its end, checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use rayon::prelude::*;

use super::copying::read_up_to;
use crate::error::{Failure, Kind};
use crate::pg::Lsn;
use crate::pg::control_file::ControlFile;
use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalFileName, WalPageHeader, is_history_file};
use crate::repository::{BackupWriter, CHUNK_SIZE_BYTES, EntryContent, TableEntry};
use crate::sys::{EntryKind, ReadRoot};

/// A history file has a line for each timeline; one that is larger is something else.
const MAXIMUM_HISTORY_SIZE_BYTES: u64 = 1024 * 1024;

/// The stretch of WAL that a backup needs.
pub(super) struct WalRange<'a> {
    pub(super) control: &'a ControlFile,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
}

impl WalRange<'_> {
    /// Copies every segment, and the history files of all timelines, as files of `pg_wal`.
    pub(super) fn copy(&self, data: &ReadRoot, writer: &BackupWriter<'_>) -> anyhow::Result<Vec<TableEntry>> {
        let directory = open_wal_directory(data)?;
        let segments = self.segments()?;
        let copy = |segment: &WalFileName| self.copy_segment(&directory, *segment, writer);
        let mut entries: Vec<TableEntry> = segments.par_iter().map(copy).collect::<anyhow::Result<_>>()?;
        for entry in directory.entries(".").context("list pg_wal")? {
            if entry.facts.kind == EntryKind::File && is_history_file(&entry.name) {
                let bytes = directory.read_bounded(&entry.name, MAXIMUM_HISTORY_SIZE_BYTES)?;
                let path = format!("pg_wal/{}", entry.name).try_into()?;
                entries.push(super::copying::store_bytes(writer, path, &bytes)?);
            }
        }
        Ok(entries)
    }

    fn segments(&self) -> anyhow::Result<Vec<WalFileName>> {
        let (timeline, size) = (self.control.timeline, self.control.wal_segment_size);
        let first = WalFileName::containing(self.start_lsn, timeline, size)?;
        // An end on a segment boundary belongs to the segment before it.
        let last = WalFileName::containing(Lsn(self.stop_lsn.0.saturating_sub(1)), timeline, size)?;
        let following = std::iter::successors(Some(first), |segment| segment.next());
        Ok(following.take_while(|segment| segment.segment_number <= last.segment_number).collect())
    }

    fn copy_segment(
        &self,
        directory: &ReadRoot,
        segment: WalFileName,
        writer: &BackupWriter<'_>,
    ) -> anyhow::Result<TableEntry> {
        let name = segment.to_string();
        let file = match directory.open_file(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing_segment(&name)),
            Err(error) => return Err(error).with_context(|| format!("open WAL segment {name}")),
        };
        self.check_segment(&file, segment)?;
        let size_bytes = u64::from(segment.segment_size_bytes());
        let mut chunks = Vec::new();
        let mut buffer = Vec::new();
        for offset in (0..size_bytes).step_by(CHUNK_SIZE_BYTES) {
            read_up_to(&file, offset, size_bytes, &mut buffer)
                .with_context(|| format!("read WAL segment {name}"))?;
            chunks.push(writer.store_chunk(&buffer)?);
        }
        let modified_ns = directory.facts(&name)?.map_or(0, |facts| facts.modified_ns);
        let content = EntryContent::File { size_bytes, chunks };
        Ok(TableEntry { path: format!("pg_wal/{name}").try_into()?, mode: 0o600, modified_ns, content })
    }

    /// A segment's file may be a renamed old one that the server has not written yet, or another cluster's.
    fn check_segment(&self, file: &File, segment: WalFileName) -> anyhow::Result<()> {
        let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
        file.read_exact_at(&mut bytes, 0).with_context(|| format!("read WAL segment {segment}"))?;
        let header = WalPageHeader::parse(&bytes).with_context(|| format!("check WAL segment {segment}"))?;
        let size_bytes = file.metadata()?.len();
        let problem = if header.system_identifier != self.control.system_identifier {
            format!("it is of the cluster {}", header.system_identifier)
        } else if header.page_address != segment.start_lsn() {
            format!("it holds the WAL at {}", header.page_address)
        } else if size_bytes != u64::from(segment.segment_size_bytes()) {
            format!("it has {size_bytes} bytes instead of {}", segment.segment_size_bytes())
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Kind::Failed,
            format!("could not back up: WAL segment {segment} is not what it should be: {problem}"),
        )
        .hint("no backup was made; the server itself may not survive a crash now: see its log")
        .into())
    }
}

fn missing_segment(name: &str) -> anyhow::Error {
    Failure::new(Kind::Failed, format!("could not back up: WAL segment {name} was removed before it was copied"))
        .hint("no backup was made; set max_replication_slots to 1 or more, so that a slot can keep the WAL, or raise wal_keep_size")
        .into()
}

/// Opens `pg_wal`, which may be a link to another disk.
fn open_wal_directory(data: &ReadRoot) -> anyhow::Result<ReadRoot> {
    let is_link = data.facts("pg_wal")?.is_some_and(|facts| facts.kind == EntryKind::Symlink);
    let opened = if is_link {
        data.read_link("pg_wal").and_then(|target| ReadRoot::open(&data.path().join(target)))
    } else {
        data.subroot("pg_wal")
    };
    opened.context("open pg_wal")
}
