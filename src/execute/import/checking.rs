//! Looks at what was stored, by reading it back: checksums of pages, and the manifest's of files.

use std::collections::HashMap;

use anyhow::Context;
use rayon::prelude::*;

use super::intake::refused;
use crate::pg::BlockNumber;
use crate::pg::backup_manifest::{BackupManifest, Checksum, ChecksumAlgorithm, ManifestFile};
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{BackupRule, backup_rule};
use crate::pg::page::{self, FilePages, PageRules, SIZE_BYTES};
use crate::plan::DamagedPage;
use crate::progress::Progress;
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, TableEntry};
use crate::sys::text_of;

/// What is not held against a manifest: the WAL has its own checksums, and `pg_basebackup --write-recovery-conf`
/// changes the settings after it was written (`pg_verifybackup.c`).
const NOT_IN_MANIFEST: [&str; 1] = ["postgresql.auto.conf"];

/// Checks everything, and returns the pages that are damaged.
///
/// # Errors
/// A file that is not what the manifest says, one that is missing, and one that is too much.
pub(super) fn check_files(
    reader: &BackupReader,
    control: &ControlFile,
    manifest: Option<&BackupManifest>,
    progress: &dyn Progress,
) -> anyhow::Result<Vec<DamagedPage>> {
    let listed: Option<HashMap<String, &ManifestFile>> =
        manifest.map(|manifest| manifest.files.iter().map(|file| (text_of(&file.path), file)).collect());
    if let Some(listed) = &listed {
        check_names(reader, listed)?;
    }
    let files: Vec<&TableEntry> = reader.entries().iter().filter(|entry| entry.is_file()).collect();
    let check = |entry: &&TableEntry| {
        let path = entry.path.as_str();
        let listed = listed.as_ref().and_then(|listed| listed.get(path).copied());
        let listed = listed.filter(|_| !NOT_IN_MANIFEST.contains(&path));
        check_file(reader, entry, control, listed, progress)
    };
    let damaged: Vec<Vec<DamagedPage>> = files.par_iter().map(check).collect::<anyhow::Result<_>>()?;
    Ok(damaged.into_iter().flatten().collect())
}

fn check_names(reader: &BackupReader, listed: &HashMap<String, &ManifestFile>) -> anyhow::Result<()> {
    for path in listed.keys() {
        let is_kept = backup_rule(path) == BackupRule::Copy || path == "backup_label";
        if is_kept && !reader.entry(path).is_some_and(TableEntry::is_file) {
            return Err(refused(format!("'{path}' is in its backup_manifest, and not in it")).into());
        }
    }
    for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
        let path = entry.path.as_str();
        let is_expected = path.starts_with("pg_wal/") || NOT_IN_MANIFEST.contains(&path);
        if !is_expected && !listed.contains_key(path) {
            return Err(refused(format!("'{path}' is not in its backup_manifest")).into());
        }
    }
    Ok(())
}

fn check_file(
    reader: &BackupReader,
    entry: &TableEntry,
    control: &ControlFile,
    listed: Option<&ManifestFile>,
    progress: &dyn Progress,
) -> anyhow::Result<Vec<DamagedPage>> {
    let path = entry.path.as_str();
    let file = reader.open_file(entry)?;
    let mut sum = listed.and_then(|listed| listed.checksum.as_ref()).map(|(kind, _)| Checksum::new(*kind));
    let pages = PageRules::of(control).and_then(|rules| rules.pages_of(path));
    let (mut damaged, mut piece) = (Vec::new(), Vec::new());
    for number in 0..file.piece_count() {
        file.read_piece(number, &mut piece).with_context(|| format!("read back '{path}'"))?;
        if let Some(sum) = &mut sum {
            sum.update(&piece);
        }
        if let Some(pages) = pages {
            damaged.extend(damaged_in(path, pages, &piece, number));
        }
        progress.advance(piece.len() as u64);
    }
    if let Some(listed) = listed {
        compare(path, listed, entry.size_bytes(), sum)?;
    }
    Ok(damaged)
}

fn compare(path: &str, listed: &ManifestFile, size_bytes: u64, sum: Option<Checksum>) -> anyhow::Result<()> {
    if listed.size_bytes != size_bytes {
        let reason =
            format!("'{path}' has {size_bytes} bytes, and its backup_manifest says {}", listed.size_bytes);
        return Err(refused(reason).into());
    }
    let Some(((kind, expected), sum)) = listed.checksum.as_ref().zip(sum) else { return Ok(()) };
    if !sum.finish().eq_ignore_ascii_case(expected) {
        let kind = if *kind == ChecksumAlgorithm::Crc32c { "CRC-32C" } else { "SHA checksum" };
        return Err(refused(format!("the {kind} of '{path}' is not the one in its backup_manifest")).into());
    }
    Ok(())
}

fn damaged_in(path: &str, pages: FilePages, piece: &[u8], number: usize) -> Vec<DamagedPage> {
    let Some(block) = pages.block_at((number * CHUNK_SIZE_BYTES) as u64) else { return Vec::new() };
    let damage = |(block, verdict): (BlockNumber, page::PageVerdict)| DamagedPage {
        file: path.to_owned(),
        relation: None,
        block,
        problem: verdict.to_string(),
    };
    pages.verify_run(piece.as_chunks::<SIZE_BYTES>().0, block).into_iter().map(damage).collect()
}
