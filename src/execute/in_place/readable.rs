//! Proves, before the first file changes, that what is about to be written, and what is about to be overwritten, can be
//! read from the repository.
//!
//! Of the present data only what differed was stored anew: the rest of it lies in packs of older backups, one of which
//! may have gone bad unnoticed. What stays in place needs none of that. What does not is read here once, chunk by chunk,
//! each checked by its hash; it is what differs, and so is little where this way was taken for its speed.

use std::collections::BTreeMap;

use anyhow::Context;
use rayon::prelude::*;

use super::target::{Target, Wanted};
use crate::error::{Failure, Kind, kind_of};
use crate::execute::backup::worker_pool;
use crate::progress::Progress;
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, ChunkId, EntryContent, TableEntry};

/// A chunk of a file that is to be read.
struct Needed<'a> {
    reader: &'a BackupReader,
    entry: &'a TableEntry,
    number: usize,
}

/// Reads every chunk in which the stored present data and the target differ, from both.
///
/// # Errors
/// [`Kind::VerificationFailed`] when one of them is not what was stored. Nothing was changed.
pub(super) fn prove(former: &BackupReader, target: Target, progress: &dyn Progress) -> anyhow::Result<()> {
    let wanted = target.wanted();
    let is_present =
        |number: usize, path: &str, chunk: &ChunkId| chunks_at(former, path).get(number) == Some(chunk);
    let written = files(target.reader.entries())
        .filter(|(entry, _)| matches!(wanted.get(entry.path.as_str()), Some(Wanted::File { .. })))
        .flat_map(|(entry, chunks)| {
            let differing =
                move |(number, chunk): &(usize, &ChunkId)| !is_present(*number, entry.path.as_str(), chunk);
            chunks.iter().enumerate().filter(differing).map(move |(number, _)| (entry, number))
        });
    let written: Vec<Needed> =
        written.map(|(entry, number)| Needed { reader: target.reader, entry, number }).collect();
    let overwritten: Vec<Needed> = files(former.entries())
        .flat_map(|(entry, chunks)| {
            let kept = wanted_chunks(&wanted, entry);
            let differing = move |(number, chunk): &(usize, &ChunkId)| kept.get(*number) != Some(*chunk);
            chunks.iter().enumerate().filter(differing).map(move |(number, _)| (entry, number))
        })
        .map(|(entry, number)| Needed { reader: former, entry, number })
        .collect();
    let chunk_count = (written.len() + overwritten.len()) as u64;
    progress.begin("checking what differs", Some(chunk_count * CHUNK_SIZE_BYTES as u64));
    let proven = read_all(&written, progress)
        .with_context(|| format!("read {}; nothing was changed", target.reader.summary().name))
        .and_then(|()| read_all(&overwritten, progress).map_err(not_kept));
    progress.end();
    proven
}

fn read_all(needed: &[Needed], progress: &dyn Progress) -> anyhow::Result<()> {
    worker_pool(None)?.install(|| {
        needed.par_iter().try_for_each_init(Vec::new, |piece, needed| {
            needed.reader.open_file(needed.entry)?.read_piece(needed.number, piece)?;
            progress.advance(CHUNK_SIZE_BYTES as u64);
            anyhow::Ok(())
        })
    })
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

fn files(entries: &[TableEntry]) -> impl Iterator<Item = (&TableEntry, &[ChunkId])> {
    entries.iter().filter_map(|entry| match &entry.content {
        EntryContent::File { chunks, .. } => Some((entry, chunks.as_slice())),
        _ => None,
    })
}

fn chunks_at<'a>(reader: &'a BackupReader, path: &str) -> &'a [ChunkId] {
    match reader.entry(path).map(|entry| &entry.content) {
        Some(EntryContent::File { chunks, .. }) => chunks,
        _ => &[],
    }
}

fn wanted_chunks<'a>(wanted: &BTreeMap<&str, Wanted<'a>>, entry: &TableEntry) -> &'a [ChunkId] {
    match wanted.get(entry.path.as_str()) {
        Some(Wanted::File { chunks, .. }) => chunks,
        _ => &[],
    }
}
