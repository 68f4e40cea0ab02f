//! What a restore takes, replaces and leaves out, for a person to see before it. Plain data.

use std::path::PathBuf;

use serde::Serialize;

use super::backups::BackupSummary;
use super::point_in_time::Way;
use super::recovery_target::{Ended, in_words};
use crate::format::{self, bytes, counted};
use crate::pg::Lsn;
use crate::pg::wal::WalFileName;

/// What a restore comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Outline {
    /// The backup that it begins from.
    pub backup: BackupSummary,
    /// How a moment is reached; `None`: the rows of the backup's own moment.
    pub way: Option<Way>,
    /// The archived or present WAL that is replayed after the backup's own.
    pub wal: Wal,
    /// Where it is restored into, if not in the place of the present cluster.
    pub into: Option<PathBuf>,
    /// The cluster that it takes the place of.
    pub replaces: Option<Replaced>,
    /// What it takes on the disk.
    pub needed_bytes: u64,
    /// What is free there.
    pub available_bytes: u64,
    /// From where on nothing of the cluster that is replaced is in it.
    pub lost_from: Option<LostFrom>,
}

/// The WAL that is replayed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Wal {
    /// How many segments.
    pub count: usize,
    /// Their size.
    pub size_bytes: u64,
    /// The first.
    pub first: Option<WalFileName>,
    /// The last.
    pub last: Option<WalFileName>,
}

/// A cluster that is replaced.
#[derive(Clone, Debug, Serialize)]
pub struct Replaced {
    /// Where it is.
    pub data_directory: PathBuf,
    /// The size of its files.
    pub size_bytes: u64,
    /// Its last transaction, as far as its newest WAL tells.
    pub last_commit: Option<Ended>,
}

/// Where what is not restored begins.
#[derive(Clone, Debug, Serialize)]
pub struct LostFrom {
    /// The place.
    pub lsn: Lsn,
    /// The last transaction before it.
    pub last_commit: Option<Ended>,
    /// Whether it is where the timeline of the present cluster parts from the one that is followed.
    pub is_parting: bool,
}

impl Wal {
    /// The segments of a way.
    pub fn of(way: &Way) -> Self {
        Self {
            count: way.segments.len(),
            size_bytes: way.wal_bytes(),
            first: way.segments.first().copied(),
            last: way.segments.last().copied(),
        }
    }
}

impl Outline {
    /// The outline, a line each.
    pub fn lines(&self) -> Vec<String> {
        let lines = [Some(self.source()), self.wal_line(), self.replaced(), Some(self.room()), self.lost()];
        lines.into_iter().flatten().map(|line| format!("  {line}")).collect()
    }

    fn source(&self) -> String {
        let backup = &self.backup;
        let timeline = backup.timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
        let made = format::time(backup.created_at);
        format!("from {} ({}, made {made}{timeline})", backup.name, bytes(backup.size_bytes))
    }

    fn wal_line(&self) -> Option<String> {
        self.way.as_ref()?;
        let Wal { count, size_bytes, first, last } = &self.wal;
        let Some((first, last)) = first.zip(*last) else {
            return Some("no WAL after that of the backup is needed".to_owned());
        };
        let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
        Some(format!("{} of WAL after it ({}), {range}", counted(*count, "segment"), bytes(*size_bytes)))
    }

    fn replaced(&self) -> Option<String> {
        if let Some(into) = &self.into {
            return Some(format!(
                "into '{}'; the present cluster and its server are left alone",
                into.display()
            ));
        }
        let Replaced { data_directory, size_bytes, last_commit } = self.replaces.as_ref()?;
        let commit = last_commit.map(|last| format!(", last commit {}", in_words(last.time)));
        Some(format!(
            "in the place of the cluster in '{}' ({}{}), which is kept",
            data_directory.display(),
            bytes(*size_bytes),
            commit.unwrap_or_default()
        ))
    }

    fn room(&self) -> String {
        format!("it takes {}, and {} are free", bytes(self.needed_bytes), bytes(self.available_bytes))
    }

    fn lost(&self) -> Option<String> {
        let LostFrom { lsn, last_commit, is_parting } = self.lost_from.as_ref()?;
        let after = match last_commit {
            _ if *is_parting => format!("since its timeline parted from this one, at LSN {lsn},"),
            Some(last) => format!("after {} (LSN {lsn})", in_words(last.time)),
            None => format!("after LSN {lsn}"),
        };
        Some(format!("nothing that the present cluster committed {after} will be in it"))
    }
}
