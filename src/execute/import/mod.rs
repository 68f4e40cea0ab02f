//! Takes a base backup that was made elsewhere into the repository: a bundle, or what `pg_basebackup` wrote.
//!
//! It is read once, from front to back, and never unpacked: what is let in goes into the repository as chunks, is
//! read back from there, and checked against its manifest, its page checksums and its WAL. Only then does it become
//! a backup. The refused alternative, to unpack it first, needs the room twice and trusts every name in it.

mod archive;
mod checking;
mod directory;
mod intake;
mod links;
mod wal;

use std::fs::File;

use anyhow::Context;
use chrono::{DateTime, NaiveDateTime, Utc};

use self::intake::{Intake, Taken, refused};
use self::wal::WalFacts;
use crate::error::{Failure, Kind};
use crate::execute::backup::worker_pool;
use crate::pg::backup_label::{BackupLabel, BackupMethod, BackupOrigin};
use crate::pg::backup_manifest::BackupManifest;
use crate::pg::control_file::{CONTROL_FILE, ControlFile, FILE_SIZE_BYTES};
use crate::pg::version;
use crate::pg::wal::{WalFileName, WalRange, is_segment_name};
use crate::plan::{BackupFormat, BackupKind, BackupName, BackupSummary};
use crate::progress::Progress;
use crate::repository::{
    BackupReader, BackupWriter, EntryContent, Repository, RepositoryError, TableEntry, TableHeader,
};
use crate::sys::ReadRoot;

const BACKUP_LABEL: &str = "backup_label";
/// A label has some ten short lines.
const LARGEST_LABEL_BYTES: u64 = 64 * 1024;
/// What every data directory has, and a cut archive may not.
const NEEDED: [&str; 4] = ["base", "global", "pg_wal", "pg_xact"];

/// Where a base backup is read from.
#[derive(Debug)]
pub enum ImportSource {
    /// An archive, compressed or not.
    Archive(File),
    /// A data directory, or the archives that `pg_basebackup --format=tar` wrote.
    Directory(ReadRoot),
}

/// Imports a base backup. When this returns, it is a backup like any other, on disk, whole.
///
/// # Errors
/// [`Kind::Refused`] for what is no complete base backup, or tries to be more. No backup was made then, and no other
/// one was harmed.
pub fn import(
    source: ImportSource,
    repository: &Repository,
    note: Option<String>,
    progress: &dyn Progress,
) -> anyhow::Result<BackupSummary> {
    let name = BackupName::new(BackupKind::Backup, Utc::now());
    let mut writer = repository.begin(name).context("begin a backup")?;
    match read_and_check(source, &mut writer, progress) {
        Ok(Checked { header, entries, summary }) => {
            let summary = BackupSummary { note, ..summary };
            writer.finish(header, entries, summary).context("finish the backup")
        }
        Err(error) => {
            writer.discard();
            Err(error)
        }
    }
}

/// A base backup of which nothing is in doubt any more.
struct Checked {
    header: TableHeader,
    entries: Vec<TableEntry>,
    summary: BackupSummary,
}

fn read_and_check(
    source: ImportSource,
    writer: &mut BackupWriter<'_>,
    progress: &dyn Progress,
) -> anyhow::Result<Checked> {
    let pool = worker_pool(None)?;
    let mut intake = Intake::new(writer, progress);
    progress.begin("reading the base backup", None);
    let read = pool.install(|| match source {
        ImportSource::Archive(file) => archive::read_archive(file, "", &mut intake),
        ImportSource::Directory(root) => directory::read_directory(&root, &mut intake),
    });
    progress.end();
    read?;
    let Taken { entries, manifest, tablespaces } = intake.finish()?;
    let manifest = manifest.map(|bytes| BackupManifest::parse(&bytes)).transpose().map_err(refused)?;
    let header = TableHeader::new(directory_mode(&entries), None);
    let reader = read_back(writer, &header, entries)?;
    let identity = Identity::read(&reader, manifest.as_ref())?;
    ensure_tablespaces(&reader, &tablespaces)?;

    progress.begin("checking what was stored", Some(reader.summary().size_bytes));
    let checked =
        pool.install(|| checking::check_files(&reader, &identity.control, manifest.as_ref(), progress));
    progress.end();
    let facts = wal::follow_wal(&reader, &identity.control, &identity.label, checked?)?;
    let created_at = identity.created_at(&facts).unwrap_or_else(Utc::now);
    let entries = identity.without_other_wal(reader.into_entries(), &facts)?;
    writer.rename(BackupName::new(BackupKind::Backup, created_at))?;
    let summary = BackupSummary { created_at, ..identity.summary(writer.name(), facts) };
    Ok(Checked { header, entries, summary })
}

/// Entries that make no table were never written by a server; anything else is the repository's failure.
fn read_back(
    writer: &BackupWriter<'_>,
    header: &TableHeader,
    entries: Vec<TableEntry>,
) -> anyhow::Result<BackupReader> {
    writer.read_back(header.clone(), entries).map_err(|error| match error {
        RepositoryError::Damaged { what } => refused(what).into(),
        other => anyhow::Error::new(other).context("read back what was stored"),
    })
}

/// The mode that the source's data directory had, as far as the directories in it tell.
fn directory_mode(entries: &[TableEntry]) -> u32 {
    let is_open_to_group = |entry: &TableEntry| entry.path.as_str() == "base" && entry.mode & 0o050 == 0o050;
    if entries.iter().any(is_open_to_group) { 0o750 } else { 0o700 }
}

/// What a base backup says of itself.
struct Identity {
    control: ControlFile,
    label: BackupLabel,
}

impl Identity {
    fn read(reader: &BackupReader, manifest: Option<&BackupManifest>) -> anyhow::Result<Self> {
        let Some(label) = reader.read_file(BACKUP_LABEL, LARGEST_LABEL_BYTES)? else {
            return Err(Failure::new(Kind::Refused, "cannot import it: it has no backup_label at its top")
                .hint(
                    "a bundle, an archive or a directory of pg_basebackup has one; a copy of a data directory is no \
                     backup. Nothing was imported",
                )
                .into());
        };
        let label = BackupLabel::parse(&String::from_utf8_lossy(&label)).map_err(refused)?;
        let control = reader.read_file(CONTROL_FILE, FILE_SIZE_BYTES as u64)?;
        let control = control.ok_or_else(|| refused("it has no 'global/pg_control'"))?;
        let control = ControlFile::parse(&control).map_err(refused)?;
        let identity = Self { control, label };
        identity.ensure_complete(reader, manifest)?;
        Ok(identity)
    }

    fn ensure_complete(
        &self,
        reader: &BackupReader,
        manifest: Option<&BackupManifest>,
    ) -> Result<(), Failure> {
        if self.label.incremental_from.is_some() {
            return Err(
                refused("it is an incremental backup").hint("complete it with pg_combinebackup first")
            );
        }
        if self.label.backup_from == Some(BackupOrigin::Standby) {
            return Err(refused("it was taken from a standby").hint("take one from the primary"));
        }
        if self.label.backup_method == Some(BackupMethod::Exclusive) {
            return Err(refused("it is an exclusive backup, of which no record tells the end"));
        }
        let major = reader.read_file("PG_VERSION", 64).ok().flatten();
        let major = major.and_then(|text| version::parse(&String::from_utf8_lossy(&text)).ok());
        if major != Some(self.control.major_version()) {
            return Err(refused("its PG_VERSION does not name the version of its control file"));
        }
        let of_manifest = manifest.and_then(|manifest| manifest.system_identifier);
        if of_manifest.is_some_and(|identifier| identifier != self.control.system_identifier) {
            return Err(refused("its backup_manifest is of another cluster"));
        }
        if let Some(missing) = NEEDED.iter().find(|path| reader.entry(path).is_none()) {
            return Err(refused(format!("it has no directory '{missing}'")));
        }
        Ok(())
    }

    /// The time in the label where its zone is one that everybody reads alike, else that of the checkpoint.
    fn created_at(&self, facts: &WalFacts) -> Option<DateTime<Utc>> {
        let text = self.label.start_time.as_deref().unwrap_or_default();
        let universal = text.strip_suffix(" UTC").or_else(|| text.strip_suffix(" GMT"));
        let time = universal.and_then(|text| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok());
        let of_checkpoint = || DateTime::from_timestamp(facts.checkpoint_time?, 0);
        time.map(|time| time.and_utc()).or_else(of_checkpoint)
    }

    /// Leaves out segments from before and after the backup: the server may have prepared them, and written nothing.
    fn without_other_wal(
        &self,
        entries: Vec<TableEntry>,
        facts: &WalFacts,
    ) -> anyhow::Result<Vec<TableEntry>> {
        let (timeline, size) = (self.label.start_timeline, self.control.wal_segment_size);
        let range = WalRange::new(self.label.start_wal_location, facts.stop_lsn, timeline, size)?;
        let is_kept = |entry: &TableEntry| match entry.path.as_str().strip_prefix("pg_wal/") {
            Some(name) if is_segment_name(name) => {
                WalFileName::parse(name, size).is_ok_and(|segment| range.has_segment(segment))
            }
            _ => true,
        };
        Ok(entries.into_iter().filter(is_kept).collect())
    }

    fn summary(&self, name: BackupName, facts: WalFacts) -> BackupSummary {
        BackupSummary {
            finished_at: Some(Utc::now()),
            system_identifier: Some(self.control.system_identifier),
            major_version: Some(self.control.major_version()),
            timeline: Some(self.label.start_timeline),
            start_lsn: Some(self.label.start_wal_location),
            stop_lsn: Some(facts.stop_lsn),
            checkpoint_lsn: Some(self.control.checkpoint),
            wal_segment_size_bytes: Some(self.control.wal_segment_size),
            damaged_pages: facts.damaged_pages,
            imported: true,
            ..BackupSummary::unknown(name, BackupFormat::Chunked)
        }
    }
}

/// A tablespace that is named and has nothing in it means that its archive is missing.
fn ensure_tablespaces(reader: &BackupReader, numbers: &[String]) -> Result<(), Failure> {
    let is_link = |entry: &&TableEntry| matches!(entry.content, EntryContent::Tablespace { .. });
    let links = reader.entries().iter().filter(is_link).map(|entry| entry.path.to_string());
    for path in links.chain(numbers.iter().map(|number| format!("pg_tblspc/{number}"))) {
        let below = format!("{path}/");
        if !reader.entries().iter().any(|entry| entry.path.as_str().starts_with(&below)) {
            return Err(refused(format!("the tablespace '{path}' is not in it"))
                .hint("import the directory that has its archive, too; nothing was imported"));
        }
    }
    Ok(())
}
