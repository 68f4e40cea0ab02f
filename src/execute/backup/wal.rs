//! The WAL that makes a hot backup whole: every segment from its start to its end, checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use rayon::prelude::*;

use super::copying::read_up_to;
use crate::cluster::inspect::follow;
use crate::error::{Failure, Kind};
use crate::pg::SystemIdentifier;
use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalFileName, WalRange, is_history_file};
use crate::repository::{BackupWriter, CHUNK_SIZE_BYTES, ChunkStream, EntryContent, TableEntry};
use crate::sys::{EntryKind, ReadRoot};

/// A history file has a line for each timeline; one that is larger is something else.
const MAXIMUM_HISTORY_SIZE_BYTES: u64 = 1024 * 1024;

/// The WAL that a backup needs.
pub(super) struct NeededWal {
    pub(super) cluster: SystemIdentifier,
    pub(super) range: WalRange,
}

impl NeededWal {
    /// Copies every segment, and the history files of all timelines, as files of `pg_wal`.
    pub(super) fn copy(&self, data: &ReadRoot, writer: &BackupWriter<'_>) -> anyhow::Result<Vec<TableEntry>> {
        // It may be a link to another disk.
        let directory = follow(data, "pg_wal").context("open pg_wal")?;
        let segments: Vec<WalFileName> = self.range.segments().collect();
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
        let (stream, mut chunks) = (ChunkStream::default(), Vec::new());
        let mut buffer = Vec::new();
        for offset in (0..size_bytes).step_by(CHUNK_SIZE_BYTES) {
            read_up_to(&file, offset, size_bytes, &mut buffer)
                .with_context(|| format!("read WAL segment {name}"))?;
            chunks.push(writer.store_chunk(&stream, &buffer)?);
        }
        let modified_ns = directory.facts(&name)?.map_or(0, |facts| facts.modified_ns);
        let content = EntryContent::File { size_bytes, chunks: writer.keep(chunks) };
        Ok(TableEntry { path: format!("pg_wal/{name}").try_into()?, mode: 0o600, modified_ns, content })
    }

    /// A segment's file may be a renamed old one that the server has not written yet, or another cluster's.
    fn check_segment(&self, file: &File, segment: WalFileName) -> anyhow::Result<()> {
        let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
        file.read_exact_at(&mut bytes, 0).with_context(|| format!("read WAL segment {segment}"))?;
        let checked = segment.check_file(&bytes, file.metadata()?.len(), self.cluster);
        checked.map_err(|problem| {
            Failure::new(
                Kind::Failed,
                format!("could not back up: WAL segment {segment} is not what it should be: {problem}"),
            )
            .hint("no backup was made; the server itself may not survive a crash now: see its log")
            .into()
        })
    }
}

fn missing_segment(name: &str) -> anyhow::Error {
    Failure::new(Kind::Failed, format!("could not back up: WAL segment {name} was removed before it was copied"))
        .hint("no backup was made; set max_replication_slots to 1 or more, so that a slot can keep the WAL, or raise wal_keep_size")
        .into()
}
