//! What a restore would have to write, leave and remove in the present files: an estimate, for the choice of the way.
//!
//! Files that are still those of the newest backup are known without being read. Of the others, samples are compared:
//! after a few changed rows a file of a gigabyte has another time, and a few other chunks. Nothing rests on the estimate
//! but the choice; what is written is decided by what was stored.

use std::collections::HashMap;
use std::fs::File;

use anyhow::Context;
use rayon::prelude::*;

use super::present::{self, PresentEntry};
use super::target::{Goal, Target, Wanted};
use crate::cluster::control_file;
use crate::execute::Tools;
use crate::execute::backup::copying::read_up_to;
use crate::execute::backup::former::{Former, newest_comparable};
use crate::execute::backup::worker_pool;
use crate::execute::staging::available_bytes;
use crate::plan::delta::{Amount, Difference, Survey};
use crate::plan::{BackupFormat, BackupSummary};
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, ChunkId, ChunkList, EntryContent};
use crate::sys::{EntryKind, FileFacts, ReadRoot};

/// How many chunks of a file are compared at the most.
const MOST_SAMPLES: usize = 64;

/// Looks at what there is, and at how much room there is. Reads only.
pub(super) fn survey(tools: &Tools, backup: &BackupSummary) -> anyhow::Result<Survey> {
    let path = &tools.settings.data_directory;
    let repository = tools.repository()?.context("find the repository")?;
    Ok(Survey {
        backup_bytes: backup.size_bytes,
        // What cannot be listed or read keeps no cluster from being built beside it.
        difference: difference(tools, backup)
            .unwrap_or_else(|error| Err(format!("they could not be compared with it ({error:#})"))),
        free_bytes: available_bytes(path)?,
        repository_free_bytes: available_bytes(repository.path())?,
    })
}

fn difference(tools: &Tools, backup: &BackupSummary) -> anyhow::Result<Result<Difference, String>> {
    let repository = tools.repository()?.context("find the repository")?;
    if backup.format == BackupFormat::ScriptCopy {
        return Ok(Err("a plain copy does not tell which of its files differ".to_owned()));
    }
    let root = ReadRoot::open(&tools.settings.data_directory).context("open the data directory")?;
    let present = present::list(&root)?;
    if let Some(obstacle) = present::obstacle(&root, &present)? {
        return Ok(Err(obstacle));
    }
    let control = match control_file::read(&root) {
        Ok(control) => control,
        Err(error) => return Ok(Err(format!("the present control file cannot be read: {error}"))),
    };
    if backup.major_version.is_some_and(|version| version != control.major_version()) {
        return Ok(Err("the present cluster is of another version".to_owned()));
    }
    let reader = repository.reader(backup.name).with_context(|| format!("open {}", backup.name))?;
    let newest = newest_comparable(repository, &control)?;
    let former = newest.as_ref().and_then(|newest| Former::of(newest, &control));
    let comparison = Comparison { root: &root, reader: &reader, former: former.as_ref() };
    comparison.compare(&present).map(Ok)
}

/// The present files, held against those of a backup.
struct Comparison<'a> {
    root: &'a ReadRoot,
    reader: &'a BackupReader,
    former: Option<&'a Former<'a>>,
}

/// What one file that is wanted comes to, in bytes.
#[derive(Clone, Copy, Default)]
struct FileDifference {
    wanted: u64,
    present: u64,
    written: u64,
    /// What no backup has of the present file.
    unstored: u64,
}

impl Comparison<'_> {
    fn compare(&self, present: &[PresentEntry]) -> anyhow::Result<Difference> {
        let target = Target { reader: self.reader, goal: Goal::Restored };
        let wanted = target.wanted();
        let facts: HashMap<&str, &FileFacts> = present
            .iter()
            .filter(|entry| entry.facts.kind == EntryKind::File)
            .map(|entry| (entry.path.as_str(), &entry.facts))
            .collect();
        let files: Vec<(&str, u64, &ChunkList)> = wanted
            .iter()
            .filter_map(|(path, wanted)| match wanted {
                Wanted::File { size_bytes, chunks, .. } => Some((*path, *size_bytes, *chunks)),
                _ => None,
            })
            .collect();
        let compare = |(path, size_bytes, chunks): &(&str, u64, &ChunkList)| match facts.get(path) {
            Some(facts) => self.compare_file(path, facts, *size_bytes, &chunks.load()?),
            None => {
                Ok(FileDifference { wanted: *size_bytes, written: *size_bytes, ..FileDifference::default() })
            }
        };
        let pool = worker_pool(None)?;
        let compared: anyhow::Result<Vec<FileDifference>> =
            pool.install(|| files.par_iter().map(compare).collect());
        let is_removed = |path: &str| !matches!(wanted.get(path), Some(Wanted::File { .. }));
        let removed: HashMap<&str, &FileFacts> =
            facts.into_iter().filter(|(path, _)| is_removed(path)).collect();
        let mut difference = totals(&compared?, sum(removed.values().map(|facts| facts.size_bytes)));
        difference.unstored_bytes += self.unstored_bytes(&removed);
        Ok(difference)
    }

    fn compare_file(
        &self,
        path: &str,
        facts: &FileFacts,
        size_bytes: u64,
        chunks: &[ChunkId],
    ) -> anyhow::Result<FileDifference> {
        let difference =
            FileDifference { wanted: size_bytes, present: facts.size_bytes, ..FileDifference::default() };
        let known = self.former.and_then(|former| former.unchanged(path, facts)).map(|entry| &entry.content);
        if let Some(EntryContent::File { chunks: known, .. }) = known {
            let known = known.load()?;
            let differing =
                chunks.iter().enumerate().filter(|(number, chunk)| known.get(*number) != Some(*chunk));
            let written = (differing.count() as u64 * CHUNK_SIZE_BYTES as u64).min(size_bytes);
            return Ok(FileDifference { written, ..difference });
        }
        let written = match self.root.open_file(path) {
            Ok(file) => sampled(self.reader, &file, size_bytes, chunks),
            // Dropped since it was listed, or damaged: it would be written.
            Err(_) => size_bytes,
        };
        let unstored = written + difference.present.saturating_sub(size_bytes);
        Ok(FileDifference { written, unstored: unstored.min(difference.present), ..difference })
    }

    /// What no backup has of the files that are removed. WAL that is archived is not stored once more.
    fn unstored_bytes(&self, removed: &HashMap<&str, &FileFacts>) -> u64 {
        let is_archived = |path: &str| {
            let name = path.strip_prefix("pg_wal/").unwrap_or_default();
            removed.contains_key(format!("pg_wal/archive_status/{name}.done").as_str())
        };
        let is_stored = |path: &str, facts: &FileFacts| {
            self.former.is_some_and(|former| former.unchanged(path, facts).is_some())
        };
        let unstored = removed.iter().filter(|(path, facts)| !is_archived(path) && !is_stored(path, facts));
        unstored.map(|(_, facts)| facts.size_bytes).sum()
    }
}

/// How many bytes of a file differ, going by chunks at even distances, the first and the last among them.
fn sampled(reader: &BackupReader, file: &File, size_bytes: u64, chunks: &[ChunkId]) -> u64 {
    let step = chunks.len().div_ceil(MOST_SAMPLES).max(1);
    let last = chunks.len().saturating_sub(1);
    let (mut looked_at, mut differing) = (0_u64, 0_u64);
    let mut buffer = Vec::new();
    let samples = chunks.iter().enumerate().filter(|(number, _)| number % step == 0 || *number == last);
    for (number, chunk) in samples {
        // What cannot be read differs: it would be written.
        let read = read_up_to(file, number as u64 * CHUNK_SIZE_BYTES as u64, size_bytes, &mut buffer);
        looked_at += 1;
        differing += u64::from(read.is_err() || reader.chunk_id(&buffer) != *chunk);
    }
    let share = u128::from(size_bytes) * u128::from(differing) / u128::from(looked_at.max(1));
    u64::try_from(share).unwrap_or(size_bytes)
}

fn sum(sizes: impl Iterator<Item = u64>) -> Amount {
    let mut amount = Amount::default();
    sizes.for_each(|size_bytes| amount.add(size_bytes));
    amount
}

fn totals(compared: &[FileDifference], removed: Amount) -> Difference {
    let growth = |file: &FileDifference| file.wanted.saturating_sub(file.present);
    let shrinkage = |file: &FileDifference| file.present.saturating_sub(file.wanted);
    let grown_bytes: u64 = compared.iter().map(growth).sum();
    let freed_bytes: u64 = compared.iter().map(shrinkage).sum::<u64>() + removed.size_bytes;
    let is_written = |file: &&FileDifference| file.written > 0;
    let written = sum(compared.iter().filter(is_written).map(|file| file.written));
    let left_files = compared.len() as u64 - written.file_count;
    let whole_bytes: u64 = compared.iter().map(|file| file.wanted).sum();
    Difference {
        written,
        left: Amount { file_count: left_files, size_bytes: whole_bytes.saturating_sub(written.size_bytes) },
        removed,
        growth_bytes: grown_bytes.saturating_sub(freed_bytes),
        unstored_bytes: compared.iter().map(|file| file.unstored).sum(),
    }
}
