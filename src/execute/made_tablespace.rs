//! Tablespaces that are made in WAL that is to be replayed.
//!
//! A backup's own tablespaces come inside the data directory that is restored. One that was made after the backup was
//! begun does not: replay links it to the directory that it was made in (PostgreSQL: `tblspc_redo()` in tablespace.c),
//! where the present cluster has its files, of the same names, and then writes into them. So such WAL is never replayed
//! beside a cluster that may be using that directory. The alternative, to let replay find another directory in the place
//! of that, would take a change of the record.
//!
//! Where there is no other cluster, and nothing is left of one, replay makes such a tablespace with all that is in it: a file
//! that is there already would keep what it has beyond the blocks that replay writes. What the backup has of it is
//! left out: replay makes a link, and ends where a directory that is not empty has its name.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use anyhow::Context;

use super::backup_wal::BackupWal;
use super::point_in_time::refused;
use crate::pg::wal::{LONG_HEADER_SIZE_BYTES, WalGeometry, WalPageHeader, WalReader, WalRecord, WalSource};
use crate::pg::{Lsn, MajorVersion, Oid};
use crate::plan::{BackupName, BackupSummary};
use crate::repository::{BackupReader, Repository};

/// A tablespace that a record of WAL makes, outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MadeTablespace {
    tablespace: Oid,
    /// Where the record is.
    lsn: Lsn,
    /// The directory of the tablespace.
    location: PathBuf,
    /// The version of the server that made it, by which it names its own part of the directory.
    major: MajorVersion,
}

impl fmt::Display for MadeTablespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.location.display();
        write!(
            formatter,
            "the tablespace in '{location}' was made while the backup ran, and is made there again"
        )
    }
}

impl MadeTablespace {
    /// What a record makes; `None` for one that makes none, or one inside the data directory, where it harms nobody.
    pub(super) fn by(record: &WalRecord) -> Option<Self> {
        let made = record.made_tablespace().filter(|(_, location)| !location.is_empty());
        let (tablespace, location) = made?;
        Some(Self { tablespace, lsn: record.start, location: location.into(), major: record.major() })
    }

    /// All that the WAL in a backup makes, which is replayed whenever the backup is restored.
    ///
    /// # Errors
    /// When the WAL could not be read. That its records do not lead to its end is for others to tell.
    pub(super) fn in_backup(reader: &BackupReader) -> anyhow::Result<Vec<Self>> {
        let Some(range) = reader.summary().wal_range() else { return Ok(Vec::new()) };
        let name = reader.summary().name;
        let mut failure = None;
        let mut source = BackupWal { reader, segment: range.first_segment(), failure: &mut failure };
        let mut bytes = [0; LONG_HEADER_SIZE_BYTES];
        let read = source.read_at(range.first_segment().segment_number, 0, &mut bytes);
        let mut made = Vec::new();
        if let (Ok(Some(_)), Ok(header)) = (read, WalPageHeader::parse(&bytes)) {
            let mut records = WalReader::new(source, WalGeometry::from(&header), range.start);
            while let Ok(record) = records.next_record() {
                made.extend(Self::by(&record));
            }
        }
        failure.map_or(Ok(made), Err).with_context(|| format!("read the WAL of {name}"))
    }

    /// Whether there is anything where replay would make it: relations of the same names, most likely, and longer ones,
    /// whose last blocks no replay takes away. A directory that cannot be looked at may have anything.
    fn has_files(&self) -> bool {
        let is_there = |path: &Path| match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        let own = format!("PG_{}_", self.major);
        match std::fs::read_dir(&self.location) {
            Ok(entries) => entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
                .any(|entry| is_there(&entry.path())),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether to replay it would harm anything.
    pub(super) fn is_harmful(&self, surroundings: Surroundings) -> bool {
        surroundings == Surroundings::BesideCluster || self.has_files()
    }

    /// Whether a path below the data directory is the tablespace's, or in it.
    pub(super) fn has(&self, path: &str) -> bool {
        let rest = path.strip_prefix("pg_tblspc/").unwrap_or_default();
        rest.split('/').next() == Some(self.tablespace.0.to_string().as_str())
    }

    /// Why a backup is not replayed beside the present cluster.
    pub(super) fn reason(&self, backup: BackupName) -> String {
        format!(
            "a tablespace was made at {}, after {backup} was begun: to replay that would be to write into its directory, \
             '{}', where a cluster may have its files",
            self.lsn,
            self.location.display()
        )
    }

    /// The same as a refusal, with what helps.
    pub(super) fn refusal(&self, backup: BackupName, hint: &str) -> anyhow::Error {
        refused(self.reason(backup), hint)
    }
}

/// What there is besides the cluster that is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// Another cluster, which may use the tablespace.
    BesideCluster,
    /// No other cluster.
    Alone,
}

/// Refuses a backup that, restored as it is, would write into a directory of the present cluster.
///
/// # Errors
/// [`crate::error::Kind::Refused`], and what could not be read. Nothing was changed.
pub(super) fn refuse_in_backup(
    repository: &Repository,
    backup: &BackupSummary,
    surroundings: Surroundings,
) -> anyhow::Result<()> {
    const HINT: &str = "choose another of `backup-postgresql list`: one that was begun later has the tablespace in it; or \
                        restore it with PGDATA set to an empty directory, after moving away what is in that of the \
                        tablespace";
    if backup.wal_range().is_none() {
        return Ok(());
    }
    let made = MadeTablespace::in_backup(&repository.reader(backup.name)?)?;
    let harmful = made.iter().find(|made| made.is_harmful(surroundings));
    harmful.map_or(Ok(()), |made| Err(made.refusal(backup.name, HINT)))
}
