//! Writes a backup as a bundle: one tar archive that `tar` and PostgreSQL alone can restore.
//!
//! It holds the whole data directory as a restore would write it, `backup_label` first, the WAL in `pg_wal`, and a
//! `backup_manifest` last, so that `pg_verifybackup` can check what was unpacked. Tablespaces are directories below
//! `pg_tblspc`, as in our restores: unpacking needs no path of the former machine, and writes nowhere else. The
//! refused alternative, links and a `tablespace_map`, would have recovery write over whatever is at those paths.

mod compression;
mod writing;

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use chrono::Local;
use serde::{Deserialize, Serialize};

pub use compression::BundleFormat;

use self::compression::Compressor;
use self::writing::{Bundle, Measured};
use super::restored_layout::{Layout, RestoredTablespace};
use crate::error::{Failure, Kind};
use crate::format::bytes;
use crate::plan::{BackupFormat, BackupName, BackupSummary, Condition};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::sys::DiskSpace;

/// What a tar archive adds to each entry, at most half of it padding.
const ENTRY_OVERHEAD_BYTES: u64 = 1024;

/// How a bundle is written.
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// Compressed, and how.
    pub format: BundleFormat,
    /// Set by whoever wants it to be given up.
    pub abort: &'a AtomicBool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The backup.
    pub backup: BackupName,
    /// How many files are in the bundle.
    pub file_count: u64,
    /// Their size.
    pub content_bytes: u64,
    /// The size of the bundle.
    pub size_bytes: u64,
    /// The SHA-256 of the bundle, in hexadecimal.
    pub sha256: String,
    /// The tablespaces that were outside the data directory, and are inside it in the bundle.
    pub tablespaces: Vec<RestoredTablespace>,
    /// Symbolic links, whose targets are not in the bundle.
    pub links: Vec<String>,
}

fn is_exportable(backup: &BackupSummary) -> bool {
    backup.is_complete() && backup.format == BackupFormat::Chunked
}

/// The name that a bundle of this backup has by itself, with the backup's local time.
pub fn default_file_name(backup: &BackupSummary, format: BundleFormat) -> String {
    let time = backup.created_at.with_timezone(&Local).format("%Y%m%d-%H%M");
    format!("basebackup-{time}.bundle{}", format.ending())
}

/// Refuses a backup of which no bundle can be made that holds what it promises.
pub fn ensure_exportable(backup: &BackupSummary, repository: &Repository) -> Result<(), Failure> {
    if is_exportable(backup) {
        return Ok(());
    }
    let name = backup.name;
    if let Condition::Unreadable { reason } = &backup.condition {
        let message = format!("could not export {name}: it cannot be read: {reason}");
        return Err(Failure::new(Kind::VerificationFailed, message)
            .hint("`backup-postgresql list` shows the other backups"));
    }
    let message = format!("cannot export {name}: it is a plain copy, of which nothing can be verified");
    let place = repository.path().join(name.to_string());
    let hint = format!("it is a directory already: `tar -czf {name}.tar.gz -C '{}' .`", place.display());
    Err(Failure::new(Kind::Refused, message).hint(hint))
}

/// Fails when a bundle of this backup cannot fit.
pub fn ensure_enough_space(
    backup: &BackupSummary,
    format: BundleFormat,
    space: DiskSpace,
) -> Result<(), Failure> {
    let archive_bytes = backup.size_bytes.saturating_add(backup.file_count * ENTRY_OVERHEAD_BYTES);
    let needed_bytes = archive_bytes / format.best_ratio();
    if space.available_bytes >= needed_bytes {
        return Ok(());
    }
    let message = format!(
        "could not export {}: only {} free, and a {format} of it takes at least {}",
        backup.name,
        bytes(space.available_bytes),
        bytes(needed_bytes)
    );
    Err(Failure::new(Kind::Failed, message).hint("choose a file on another disk; nothing was written"))
}

/// Writes a backup as a bundle. Every piece of it is checked by its hash; what is damaged fails the export.
///
/// What was written is not on disk yet when this returns, and is nothing at all when it fails: both are the caller's.
///
/// # Errors
/// [`crate::repository::RepositoryError::Damaged`] in the chain when the backup is not what was stored.
pub fn export(
    repository: &Repository,
    name: BackupName,
    into: &mut (dyn Write + Send),
    options: ExportOptions<'_>,
    progress: &dyn Progress,
) -> anyhow::Result<Exported> {
    let _reading = repository.lock_shared("exporting").context("lock the repository")?;
    let reader = repository.reader(name)?;
    let compressor = Compressor::new(options.format, Measured::new(into)).context("begin the bundle")?;
    let owner = repository.owner().context("look at the repository")?;
    let mut bundle = Bundle::new(&reader, compressor, owner, options.abort, progress);
    progress.begin("exporting files", Some(reader.summary().size_bytes));
    let written = bundle.write_all();
    progress.end();
    if let Err(error) = written {
        bundle.cut_off();
        return Err(error);
    }
    let contents = bundle.contents();
    let measured = bundle.finish().and_then(Compressor::finish).map_err(|error| could_not_write(&error))?;
    let (size_bytes, sha256) = measured.finish().map_err(|error| could_not_write(&error))?;
    Ok(Exported {
        backup: name,
        file_count: contents.file_count,
        content_bytes: contents.size_bytes,
        size_bytes,
        sha256,
        tablespaces: Layout { reader: &reader }.tablespaces(),
        links: contents.links,
    })
}

/// What a person can do when the bundle could not be written.
fn could_not_write(error: &io::Error) -> anyhow::Error {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let message = format!("could not write the bundle: {error}");
    let hint = if is_full { "choose a file on another disk" } else { "see to where it is written to" };
    Failure::new(Kind::Failed, message).hint(format!("{hint}; nothing was exported")).into()
}
