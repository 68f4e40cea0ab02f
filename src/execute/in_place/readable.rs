//! Proves, before the first file changes, that what is about to be written, and what is about to be overwritten, can be
//! read from the repository.
//!
//! Of the present data only what differed was stored anew: the rest of it lies in packs of older backups, one of which
//! may have gone bad unnoticed. What stays in place needs none of that. What does not is read here once, chunk by chunk,
//! each checked by its hash; it is what differs, and so is little where this way was taken for its speed.

use anyhow::Context;
use rayon::prelude::*;

use super::target::{Target, Wanted};
use crate::error::{Failure, Kind, kind_of};
use crate::execute::backup::worker_pool;
use crate::progress::Progress;
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, ChunkId, ChunkList, EntryContent, TableEntry};

/// A file whose chunks are to be read where they differ from those of another state of it.
struct Compared<'a> {
    reader: &'a BackupReader,
    entry: &'a TableEntry,
    chunks: &'a ChunkList,
    other: Option<&'a ChunkList>,
}

impl Compared<'_> {
    /// The numbers of the chunks that differ.
    fn differing(&self) -> anyhow::Result<Vec<usize>> {
        let chunks = self.chunks.load()?;
        let other = self.other.map(ChunkList::load).transpose()?.unwrap_or_default();
        let differs = |(number, chunk): &(usize, &ChunkId)| other.get(*number) != Some(*chunk);
        Ok(chunks.iter().enumerate().filter(differs).map(|(number, _)| number).collect())
    }

    fn read(&self, progress: &dyn Progress) -> anyhow::Result<()> {
        let differing = self.differing()?;
        if differing.is_empty() {
            return Ok(());
        }
        let file = self.reader.open_file(self.entry)?;
        differing.par_iter().try_for_each_init(Vec::new, |piece, number| {
            file.read_piece(*number, piece)?;
            progress.advance(CHUNK_SIZE_BYTES as u64);
            anyhow::Ok(())
        })
    }
}

/// Reads every chunk in which the stored present data and the target differ, from both.
///
/// # Errors
/// [`Kind::VerificationFailed`] when one of them is not what was stored. Nothing was changed.
pub(super) fn prove(former: &BackupReader, target: Target, progress: &dyn Progress) -> anyhow::Result<()> {
    let wanted = target.wanted();
    let written: Vec<Compared> = files(target.reader)
        .filter(|(entry, _)| matches!(wanted.get(entry.path.as_str()), Some(Wanted::File { .. })))
        .map(|(entry, chunks)| {
            let other = former.entry(entry.path.as_str()).and_then(chunks_of);
            Compared { reader: target.reader, entry, chunks, other }
        })
        .collect();
    let overwritten: Vec<Compared> = files(former)
        .map(|(entry, chunks)| {
            let other = match wanted.get(entry.path.as_str()) {
                Some(Wanted::File { chunks, .. }) => Some(*chunks),
                _ => None,
            };
            Compared { reader: former, entry, chunks, other }
        })
        .collect();
    let counted = written.iter().chain(&overwritten).map(|file| Ok(file.differing()?.len() as u64));
    let chunk_count: u64 = counted.sum::<anyhow::Result<u64>>()?;
    progress.begin("checking what differs", Some(chunk_count * CHUNK_SIZE_BYTES as u64));
    let proven = read_all(&written, progress)
        .with_context(|| format!("read {}; nothing was changed", target.reader.summary().name))
        .and_then(|()| read_all(&overwritten, progress).map_err(not_kept));
    progress.end();
    proven
}

fn read_all(files: &[Compared], progress: &dyn Progress) -> anyhow::Result<()> {
    worker_pool(None)?.install(|| files.par_iter().try_for_each(|file| file.read(progress)))
}

fn not_kept(error: anyhow::Error) -> anyhow::Error {
    // What could not be read is no word on what was stored.
    if kind_of(&error) != Kind::VerificationFailed {
        return error.context("read what was stored of the present data; nothing was changed");
    }
    let message = format!(
        "the present data could not be put back, since part of it rests on a damaged backup: {error:#}; nothing was changed"
    );
    let hint = "run `backup-postgresql verify --all`, which marks what is damaged: the next backup stores that anew. With \
                --full the present data is set aside as it is";
    Failure::new(Kind::VerificationFailed, message).hint(hint).into()
}

fn files(reader: &BackupReader) -> impl Iterator<Item = (&TableEntry, &ChunkList)> {
    reader.entries().iter().filter_map(|entry| chunks_of(entry).map(|chunks| (entry, chunks)))
}

fn chunks_of(entry: &TableEntry) -> Option<&ChunkList> {
    match &entry.content {
        EntryContent::File { chunks, .. } => Some(chunks),
        _ => None,
    }
}
