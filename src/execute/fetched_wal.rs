//! Files of `pg_wal` that are fetched from the archive for the cluster in place, be its `pg_wal` on a disk of its own.
//!
//! They come under a name that no server reads, and get their own names only when all of them are on the disk, the first of
//! them last: until then the next inspection finds the same hole, and fetches again. With the first in place, and a later
//! one lost in a crash, a server would take the hole for the end of the WAL, and write over what followed.

use super::Tools;
use super::aside::keep_copy;
use super::branching::branch_in_place;
use super::linked::parent_of;
use super::staging::ensure_room;
use crate::cluster::control_file;
use crate::cluster::inspect::follow;
use crate::format::counted;
use crate::pg::control_file::CONTROL_FILE;
use crate::pg::wal::WalFileName;
use crate::repository::{RepositoryError, WalArchive};
use crate::sys::{ReadRoot, StoreRoot, WriteRoot, step_point};
use anyhow::Context;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// What ends the name of a file until it is whole, and all that follow it are.
const INCOMING: &str = ".pgbox-incoming";
/// Where the server notes what is archived.
const STATUS: &str = "archive_status";

/// A `pg_wal`, and the archive of its cluster.
struct Fetching<'a> {
    tools: &'a Tools<'a>,
    wal: StoreRoot,
    archive: WalArchive<'a>,
}

/// Puts what is archived in the place of a damaged file, which is kept. At no moment is there none: a server that does not
/// find the history of its timeline takes it to have no ancestors. Returns where the damaged one is; `None`: nothing is
/// archived under that name.
///
/// # Errors
/// When the archive cannot be read, or a file cannot be written. The damaged one is in its place then.
pub(super) fn replace_from_archive(
    root: &WriteRoot,
    tools: &Tools,
    place: &str,
) -> anyhow::Result<Option<PathBuf>> {
    let name = place.rsplit('/').next().unwrap_or(place);
    let Some(fetching) = Fetching::begin(root, tools)?.filter(|fetching| fetching.has(name)) else {
        return Ok(None);
    };
    if !fetching.fetch(name)? {
        return Ok(None);
    }
    let kept = keep_copy(root, place)?.context("it is gone")?;
    step_point("a copy kept");
    fetching.put_in_place(&[name.to_owned()])?;
    Ok(Some(kept))
}

/// Takes a segment that a base backup lacks from the archive, and all that follow it there, and makes the next start of the
/// cluster end on a timeline of its own. Says what was done.
///
/// # Errors
/// Without the room for them, and when the archive cannot be read or a file cannot be written.
pub(super) fn fetch_wal_from(root: &WriteRoot, tools: &Tools, place: &str) -> anyhow::Result<String> {
    let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    let name = place.rsplit('/').next().unwrap_or(place);
    let first = WalFileName::parse(name, control.wal_segment_size)?;
    let Some(fetching) = Fetching::begin(root, tools)? else {
        return Ok(format!("took no WAL from the archive: there is none for '{place}'"));
    };
    let wanted = fetching.chain_from(first)?;
    let size_bytes = u64::from(control.wal_segment_size).saturating_mul(wanted.len() as u64);
    ensure_room(fetching.wal.path(), size_bytes, "fetch the WAL that the base backup needs")?;
    let mut fetched = Vec::new();
    let mut lost = String::new();
    for segment in wanted {
        let name = segment.to_string();
        if !fetching.fetch(&name)? {
            lost =
                format!("; WAL segment '{name}' is missing: commits after {} are lost", segment.start_lsn());
            break;
        }
        fetched.push(name);
    }
    // Whose backup it is may be running elsewhere, and archives under the names that this one would use.
    branch_in_place(tools, root)?;
    step_point("asked for a timeline of its own");
    fetching.put_in_place(&fetched)?;
    Ok(format!(
        "took {} from the WAL archive, from '{}/{first}' on, to go on from there on a timeline of its own{lost}",
        counted(fetched.len(), "segment"),
        parent_of(place).display()
    ))
}

impl<'a> Fetching<'a> {
    /// Opens both, and removes what a killed process left. `None` where there is no repository.
    fn begin(root: &WriteRoot, tools: &'a Tools<'a>) -> anyhow::Result<Option<Self>> {
        let Some(repository) = tools.repository()? else { return Ok(None) };
        let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
        let archive = repository.wal_archive(control.system_identifier);
        let wal = open_wal(root).context("open pg_wal")?;
        for name in wal.names(".").context("list pg_wal")?.iter().filter(|name| name.ends_with(INCOMING)) {
            wal.remove_file(name).context("remove WAL that a killed command left half-written")?;
        }
        Ok(Some(Self { tools, wal, archive }))
    }

    /// Whether there may be a file of a name in the archive.
    fn has(&self, name: &str) -> bool {
        !matches!(self.archive.find(name), Ok(None))
    }

    /// The segments to be fetched: from one on, those that the archive has and `pg_wal` has not, up to the first that
    /// neither has.
    fn chain_from(&self, first: WalFileName) -> anyhow::Result<Vec<WalFileName>> {
        let archived: BTreeSet<WalFileName> =
            self.archive.segments_of(first).context("list the archived WAL")?.into_iter().collect();
        let present: BTreeSet<String> = self.wal.names(".").context("list pg_wal")?.into_iter().collect();
        let chain = std::iter::successors(Some(first), |segment| segment.next());
        let is_present = |segment: &WalFileName| present.contains(&segment.to_string());
        let chain = chain.take_while(|segment| archived.contains(segment) || is_present(segment));
        Ok(chain.filter(|segment| !is_present(segment)).collect())
    }

    /// Writes a file of the archive under its incoming name. `false`: it cannot be taken from there.
    fn fetch(&self, name: &str) -> anyhow::Result<bool> {
        let incoming = format!("{name}{INCOMING}");
        let mut file = self.wal.create_file(&incoming).context("make room for archived WAL")?;
        let is_whole = match self.archive.fetch(name, &mut file) {
            Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })) => {
                self.tools.progress.note(&format!("could not take '{name}' from the WAL archive: {error}"));
                false
            }
            result => result.with_context(|| format!("fetch '{name}' from the archive"))?,
        };
        if !is_whole {
            self.wal.remove_file(&incoming).context("remove what was not needed")?;
        }
        Ok(is_whole)
    }

    /// Gives the files that were fetched their names, all at once as far as a server can see, and notes for the server that
    /// they are archived.
    fn put_in_place(&self, names: &[String]) -> anyhow::Result<()> {
        self.wal.sync_file_system().context("write archived WAL to disk")?;
        step_point("archived WAL on disk, without its names");
        self.wal.create_directories(STATUS).context("make the directory of what is archived")?;
        for (index, name) in names.iter().enumerate().rev() {
            if index == 0 {
                self.wal.sync_directory(".").context("sync a directory")?;
            }
            match self.wal.create_file(format!("{STATUS}/{name}.done")) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).context("note that a segment is archived");
                }
                _ => {}
            }
            self.wal
                .rename(format!("{name}{INCOMING}"), name)
                .with_context(|| format!("put '{name}' in place"))?;
            step_point("archived WAL named");
        }
        self.wal
            .sync_directory(STATUS)
            .and_then(|()| self.wal.sync_directory("."))
            .context("sync a directory")
    }
}

/// Opens `pg_wal` for writing, be it a link to another disk.
fn open_wal(root: &ReadRoot) -> io::Result<StoreRoot> {
    StoreRoot::open(follow(root, "pg_wal")?.path())
}
