//! The `pg_wal` of a cluster that is being restored, beside the present one or in its place: files from the archive and
//! from where they survived, and the numbers of timelines that are taken.

use super::Tools;
use crate::pg::{TimelineId, timeline_history, wal};
use crate::plan::BackupSummary;
use crate::repository::{BackupReader, RepositoryError, WalArchive};
use crate::sys::{ReadRoot, WriteRoot};
use anyhow::Context;
use std::io;
use std::path::{Path, PathBuf};

/// Where a file from the archive is until it is proven.
const INCOMING: &str = ".pgbox/incoming-wal";
/// Where the server notes what is archived, below `pg_wal`.
const STATUS: &str = "archive_status";
/// A history file has a line for each timeline.
const MOST_HISTORY_BYTES: u64 = 1 << 20;
/// Stands in for the history file of a timeline that is known to exist and whose own file is gone.
pub(super) const PLACEHOLDER: &[u8] =
    b"# pgbox: this timeline exists in another branch of this cluster's history\n";

/// A `pg_wal` that is being filled. What is written into it is not on disk before the caller has synced it.
pub(super) struct RestoredWal<'a> {
    pub(super) tools: &'a Tools<'a>,
    pub(super) root: &'a WriteRoot,
    /// Where it is, below the root.
    pub(super) directory: PathBuf,
    pub(super) archive: Option<&'a WalArchive<'a>>,
}

/// The `pg_wal` of the cluster that is replaced.
#[derive(Clone, Copy)]
pub(super) enum FormerWal<'a> {
    /// It lies there still.
    Present(&'a ReadRoot),
    /// It was stored with the cluster.
    Stored(&'a BackupReader),
    /// There is none, or it cannot be read any more: only the archive knows its timelines.
    Unknown,
}

impl FormerWal<'_> {
    fn names(self) -> anyhow::Result<Vec<String>> {
        Ok(match self {
            Self::Present(wal) => wal.names(".").context("list the present pg_wal")?,
            Self::Stored(reader) => {
                let names =
                    reader.entries().iter().filter_map(|entry| entry.path.as_str().strip_prefix("pg_wal/"));
                names.map(str::to_owned).collect()
            }
            Self::Unknown => Vec::new(),
        })
    }

    fn history(self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let read = match self {
            Self::Present(wal) => match wal.read_bounded(name, MOST_HISTORY_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some).map_err(anyhow::Error::new),
            },
            Self::Stored(reader) => Ok(reader.read_file(&format!("pg_wal/{name}"), MOST_HISTORY_BYTES)?),
            Self::Unknown => Ok(None),
        };
        read.context("read a timeline's history")
    }
}

impl RestoredWal<'_> {
    /// Copies a file, unless it is there.
    pub(super) fn copy(&self, from: &ReadRoot, name: &str) -> anyhow::Result<()> {
        let target = self.directory.join(name);
        if self.root.facts(&target)?.is_some() {
            return Ok(());
        }
        let mut source = from.open_file(name)?;
        let mut copy = self.root.create_file(&target, 0o600)?;
        io::copy(&mut source, &mut copy).with_context(|| format!("copy '{name}'"))?;
        Ok(())
    }

    /// Takes a file from the archive, and notes for the server that it is archived. `false`: it has to come from
    /// elsewhere.
    pub(super) fn fetch(&self, name: &str) -> anyhow::Result<bool> {
        let Some(archive) = self.archive else { return Ok(false) };
        let root = self.root;
        let target = self.directory.join(name);
        if root.facts(&target)?.is_some() {
            return Ok(true);
        }
        let incoming = Path::new(INCOMING);
        root.discard(incoming).context("make room for archived WAL")?;
        let mut file = root.create_file(incoming, 0o600).context("make room for archived WAL")?;
        let is_whole = match archive.fetch(name, &mut file) {
            Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })) => {
                self.tools.progress.note(&format!("{error}; the one in pg_wal is taken, if there is one"));
                false
            }
            result => result.with_context(|| format!("fetch '{name}' from the archive"))?,
        };
        if !is_whole {
            root.discard(incoming).context("remove what was not needed")?;
            return Ok(false);
        }
        root.rename(incoming, &target).with_context(|| format!("put '{name}' in place"))?;
        let status = self.directory.join(STATUS);
        root.create_directory(&status, 0o700).context("make the directory of what is archived")?;
        match root.create_file(status.join(format!("{name}.done")), 0o600) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).context("note that a segment is archived")
            }
            _ => Ok(true),
        }
    }

    /// Sees to it that the restored cluster takes a timeline number that no branch of its history has used.
    ///
    /// The server takes the first number without a history file (timeline.c, `findNewestTimeLine()`), so every
    /// number up to the highest that is known gets one. Returns all that was put there, below the root.
    pub(super) fn keep_timelines_apart(
        &self,
        former: FormerWal,
        backup: &BackupSummary,
        backups: &[BackupSummary],
    ) -> anyhow::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        for number in 2..=self.highest_timeline(former, backup, backups)? {
            let name = timeline_history::file_name(TimelineId(number));
            let target = self.directory.join(&name);
            if self.root.facts(&target)?.is_some() {
                continue;
            }
            if let Some(text) = former.history(&name)? {
                self.root.write_durably(&target, &text, 0o600).context("restore a timeline's history")?;
            } else if self.fetch(&name)? {
                let status = self.directory.join(STATUS);
                written.extend([status.join(format!("{name}.done")), status]);
            } else {
                self.root.write_durably(&target, PLACEHOLDER, 0o600).context("reserve a timeline")?;
            }
            written.extend([target, self.directory.clone()]);
        }
        Ok(written)
    }

    /// The highest timeline that is known of the cluster.
    fn highest_timeline(
        &self,
        former: FormerWal,
        backup: &BackupSummary,
        backups: &[BackupSummary],
    ) -> anyhow::Result<u32> {
        let same_cluster = |other: &&BackupSummary| other.system_identifier == backup.system_identifier;
        let of_backups = backups.iter().filter(same_cluster).filter_map(|other| other.timeline);
        let archived = self.archive.map(WalArchive::timelines).transpose();
        let of_archive = archived.context("list the archived timelines")?.into_iter().flatten();
        let known = of_backups.chain(of_archive).map(|timeline| timeline.0).fold(1, u32::max);
        let of_former = former.names()?;
        let of_former = of_former.iter().filter_map(|name| wal::timeline_of_file(name));
        Ok(of_former.map(|timeline| timeline.0).fold(known, u32::max))
    }
}
