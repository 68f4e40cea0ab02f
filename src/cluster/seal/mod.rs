//! The seal: what a cluster's files were like when its server had stopped cleanly.
//!
//! Nothing changes a file of a stopped cluster, so whatever differs at the next start was lost, cut or exchanged by
//! somebody else, which no checksum tells. The seal counts only for the very stop that it was written after: the
//! control file names it, and a server that was started by other means leaves another one.
//!
//! A time that differs is no proof: a copy of a volume need not keep it. So the seal has the hash of what is small
//! and has no checksum of its own; see `content`.
//!
//! It is written once the server is gone, under the cluster's lock, and removed before a server is started. Whatever
//! ends us in between leaves a cluster without a seal, never one with a wrong seal.

pub(crate) mod content;
mod format;

pub(crate) use content::ContentHash;

use super::tree::{FileTree, TreeDirectory};
use super::unsynced;
use crate::cluster::control_file::{self, ReadControlFileError};
use crate::pg::control_file::{CONTROL_FILE, ClusterState, ControlFile};
use crate::pg::layout::{Fork, RelationFile, is_temporary_relation};
use crate::pg::{Lsn, SystemIdentifier};
use crate::sys::{EntryKind, ReadRoot, Threads, WriteRoot};
use std::io;

/// The seal, below the data directory.
pub(super) const SEAL_FILE: &str = ".pgbox/seal";
/// A seal of ten million files is smaller.
const LIMIT_BYTES: u64 = 512 << 20;

/// The files of a cluster as they were at one clean stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Which stop.
    pub(crate) stop: Stop,
    /// The directories that had files, in the order of a walk.
    pub(crate) directories: Vec<SealedDirectory>,
}

/// What the control file says of one clean stop: no two of them have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) system_identifier: SystemIdentifier,
    pub(crate) checkpoint: Lsn,
    pub(crate) control_crc: u32,
}

impl Stop {
    pub(crate) fn of(control: &ControlFile) -> Self {
        Self {
            system_identifier: control.system_identifier,
            checkpoint: control.checkpoint,
            control_crc: control.crc,
        }
    }
}

/// The files of one directory, in name order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedDirectory {
    pub(crate) path: String,
    pub(crate) files: Vec<SealedFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedFile {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) modified_ns: i64,
    /// What it held; `None` where that was not read.
    pub(crate) content: Option<ContentHash>,
}

/// What the loss of a file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Rows, or whether they count.
    Rows,
    /// The free space map or the visibility map of a relation: the server makes them anew.
    Rebuilt,
    /// Nothing that a start needs.
    Other,
}

/// A directory whose files are sealed, by what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Relations,
    /// Which transactions committed.
    TransactionStatus,
    /// WAL, slots, the times of commits: other checks look after what is needed of it.
    Other,
}

impl Contents {
    /// The contents of a directory by its path; `None` where nothing is sealed.
    ///
    /// What the server empties or makes anew when it starts is left out (`pg_subtrans`, `pg_notify`, statistics), and
    /// so is what people edit: the files directly in the data directory.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let names: Vec<&str> = path.split('/').collect();
        match names.as_slice() {
            ["global"] | ["base", _] | ["pg_tblspc", _, _, _] => Some(Self::Relations),
            ["pg_xact" | "pg_twophase"] | ["pg_multixact", _] => Some(Self::TransactionStatus),
            ["pg_commit_ts" | "pg_logical" | "pg_wal"] | ["pg_logical" | "pg_replslot", _] => {
                Some(Self::Other)
            }
            _ => None,
        }
    }

    /// What the loss of a file of that name would mean; `None` for one that comes and goes by itself.
    pub(crate) fn worth_of(self, name: &str) -> Option<Worth> {
        match self {
            Self::TransactionStatus => Some(Worth::Rows),
            Self::Other => Some(Worth::Other),
            Self::Relations => match RelationFile::parse(name) {
                Some(RelationFile { fork: Fork::Fsm | Fork::Vm, .. }) => Some(Worth::Rebuilt),
                Some(_) => Some(Worth::Rows),
                None if name == "pg_filenode.map" || name == "PG_VERSION" => Some(Worth::Rows),
                // The control file itself says which stop this was.
                None if name == "pg_control" || name.starts_with("pg_internal.init") => None,
                None if is_temporary_relation(name) || name.starts_with("pgsql_tmp") => None,
                None => Some(Worth::Other),
            },
        }
    }
}

/// The files of a directory that are sealed, in name order; `None` for a directory of which nothing is.
pub(crate) fn sealed_files(directory: &TreeDirectory) -> Option<(Contents, Vec<SealedFile>)> {
    let contents = Contents::of(&directory.path)?;
    let files = directory
        .entries
        .iter()
        .filter(|entry| entry.facts.kind == EntryKind::File && contents.worth_of(&entry.name).is_some())
        .map(|entry| SealedFile {
            name: entry.name.clone(),
            size_bytes: entry.facts.size_bytes,
            modified_ns: entry.facts.modified_ns,
            content: None,
        });
    Some((contents, files.collect()))
}

impl Seal {
    /// The seal of a cluster whose files are those.
    pub(crate) fn of_tree(stop: Stop, tree: &FileTree) -> Self {
        let directories = tree.directories.iter().filter_map(|directory| {
            let (_, files) = sealed_files(directory)?;
            Some(SealedDirectory { path: directory.path.clone(), files })
        });
        Self { stop, directories: directories.collect() }
    }

    /// Whether it is the seal of exactly this stop; see [`read`].
    pub(crate) fn is_of(&self, stop: Stop, is_rebuilt: bool) -> bool {
        let same_place = (self.stop.system_identifier, self.stop.checkpoint);
        self.stop == stop || (is_rebuilt && same_place == (stop.system_identifier, stop.checkpoint))
    }

    /// How many files it names.
    pub(crate) fn file_count(&self) -> usize {
        self.directories.iter().map(|directory| directory.files.len()).sum()
    }
}

/// Why no seal was written. The cluster is as good without one.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The server did not stop cleanly, so that its files are not final.
    #[error("the cluster was not shut down cleanly")]
    NotClean,
    /// Part of the cluster could not be listed.
    #[error("'{0}' could not be listed")]
    Unreadable(String),
    /// The control file could not be read.
    #[error(transparent)]
    ControlFile(#[from] ReadControlFileError),
    /// The seal could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Seals a claimed cluster whose server has just stopped: never call it for one that was found stopped, since what
/// was changed meanwhile would be sealed, too. Returns how many files were sealed: none of a standby, whose files may
/// still change by replay before they are consistent.
///
/// # Errors
/// [`SealError::NotClean`] where the control file does not say "shut down"; no seal is there then.
pub fn write(root: &WriteRoot) -> Result<usize, SealError> {
    remove(root)?;
    let (_, control) = control_file::read_at(root, CONTROL_FILE)?;
    if control.state == ClusterState::ShutDownInRecovery {
        return Ok(0);
    }
    if control.state != ClusterState::ShutDown || root.facts("backup_label")?.is_some() {
        return Err(SealError::NotClean);
    }
    // Whatever rests on the seal rests on the files being on disk.
    unsynced::sync_if_needed(root)?;
    let tree = FileTree::read(root, Some(&control), Threads::One);
    if let Some(unreadable) = tree.unreadable.first() {
        return Err(SealError::Unreadable(unreadable.clone()));
    }
    let mut seal = Seal::of_tree(Stop::of(&control), &tree);
    content::add_contents(root, &control, &mut seal);
    root.write_durably(SEAL_FILE, &format::encode(&seal), 0o600)?;
    Ok(seal.file_count())
}

/// Removes the seal, if there is one, before a server is started or the cluster is changed.
pub fn remove(root: &WriteRoot) -> io::Result<()> {
    root.discard(SEAL_FILE)
}

/// Takes a file out of the seal that a repair is about to change; what else the seal says stays true. A control file
/// is one that is written anew for the same stop, with the content that is given.
///
/// The alternative, to remove the whole seal before the first repair, was refused: if the repair is cut short, the next
/// inspection would not know any more that a table was cut.
pub fn pass_over(root: &WriteRoot, place: &str, content: Option<&[u8]>) -> io::Result<()> {
    let Some(mut seal) = read_any(root)? else { return Ok(()) };
    if place == CONTROL_FILE {
        let Some(control) = content.and_then(|content| ControlFile::parse(content).ok()) else {
            return remove(root);
        };
        seal.stop = Stop::of(&control);
    } else {
        let (directory, name) = place.rsplit_once('/').unwrap_or(("", place));
        seal.directories.retain(|sealed| sealed.path != place);
        for sealed in seal.directories.iter_mut().filter(|sealed| sealed.path == directory) {
            sealed.files.retain(|file| file.name != name);
        }
    }
    root.write_durably(SEAL_FILE, &format::encode(&seal), 0o600)
}

/// Reads the seal of exactly this stop. `None`: there is none, or it says nothing about the present files.
///
/// `is_rebuilt`: the control file is one that was worked out anew, which has another CRC than the one that was lost.
pub(crate) fn read(root: &ReadRoot, stop: Stop, is_rebuilt: bool) -> io::Result<Option<Seal>> {
    Ok(read_any(root)?.filter(|seal| seal.is_of(stop, is_rebuilt)))
}

/// The cluster that was sealed here last, whatever became of it since.
pub(crate) fn sealed_identifier(root: &ReadRoot) -> Option<SystemIdentifier> {
    Some(read_any(root).ok()??.stop.system_identifier)
}

/// Reads the seal of whatever stop.
pub(crate) fn read_any(root: &ReadRoot) -> io::Result<Option<Seal>> {
    let bytes = match root.read_bounded(SEAL_FILE, LIMIT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One that cannot be understood, or of another version of pgbox, is as none.
    Ok(format::decode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_edit_and_what_comes_and_goes_is_not_sealed() {
        for path in ["", "log", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_notify", "pg_wal/archive_status"]
        {
            assert_eq!(Contents::of(path), None, "{path}");
        }
        for name in ["pg_control", "pg_internal.init", "pg_internal.init.77", "t3_16386", "pgsql_tmp7.0"] {
            assert_eq!(Contents::Relations.worth_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_holds_rows_is_told_from_what_the_server_makes_anew() {
        for path in ["global", "base/1", "pg_tblspc/16400/PG_15_202209061/5"] {
            assert_eq!(Contents::of(path), Some(Contents::Relations), "{path}");
        }
        let worth = |name| Contents::Relations.worth_of(name);
        for name in ["1259", "1259.1", "16385_init", "pg_filenode.map"] {
            assert_eq!(worth(name), Some(Worth::Rows), "{name}");
        }
        assert_eq!((worth("1259_fsm"), worth("1259_vm.1")), (Some(Worth::Rebuilt), Some(Worth::Rebuilt)));
        assert_eq!(Contents::of("pg_xact").and_then(|found| found.worth_of("0000")), Some(Worth::Rows));
        assert_eq!(Contents::of("pg_wal").and_then(|found| found.worth_of("0")), Some(Worth::Other));
    }
}
